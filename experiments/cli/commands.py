"""The command line: `python -m experiments [run | study | report | choose | ...]`."""

import dataclasses
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from experiments import studies
from experiments.cli import folders, imports, listing, material, options, overview
from experiments.data import cache, datasets, histograms, partitions
from experiments.execution import claims, cost, export, hosts, store, sweep
from experiments.execution.profile import DATA, REPORT, Profile
from experiments.execution.tracking import Tracker
from experiments.grid import config as configs
from experiments.grid import naming, planning, sampling
from experiments.grid.config import Config
from experiments.text import arguments as command_line
from experiments.text import columns
from experiments.text.names import counted

# Errors that a user can cause; any other is a bug and shows its traceback.
USER_ERRORS = (ValueError, TypeError, OSError, ImportError)
# Committed results, each study in a folder of its name and edition.
STUDIES = pathlib.Path(__file__).parents[2] / "docs" / "studies"


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns the exit status."""
    arguments = list(arguments)
    if arguments in (["-h"], ["--help"], ["help"]):
        print(overview.text({name: first_line(command) for name, command in COMMANDS.items()}))
        arguments = ["--help"]
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "run"
    _keep_compiled_programs()
    try:
        if name not in COMMANDS:
            raise ValueError(overview.unknown_command(name, COMMANDS))
        status = COMMANDS[name](arguments)
        if name not in ("list", "cache") and hosts.leads():
            print(cache.line())
        return status
    except command_line.HelpShown:
        return 0
    except cache.MissingDataError as error:
        print(f"error: {error.text(_command(name, arguments))}", file=sys.stderr)
        return 2
    except (*USER_ERRORS, hosts.StoppedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Finished blocks are on disk; the same command continues.")
        return 130


def _command(name: str, arguments: Sequence[str]) -> str:
    shown = [name] if name != "run" or _names_a_file(arguments) else []
    words = [word for word in (*shown, *arguments) if word != "--dry-run"]
    return f"python -m experiments {shlex.join(words)}".rstrip()


def run(arguments: Sequence[str]) -> int:
    """Trains the grid that the options describe (the default command)."""
    if _names_a_file(arguments):
        return run_file(arguments)
    begin = time.perf_counter()
    command = command_line.parse(options.RunCommand, arguments, prog="python -m experiments run")
    command.machines.join()
    config, profile = command.grid, _profile(command.watch.profile, begin)
    tracker = Tracker(command.watch.log)
    if not naming.is_given("study", arguments):
        config = dataclasses.replace(config, study=naming.folder_name("main", config))
    data = material.Material([config])
    over = command.machines.mesh([config])
    folder = pathlib.Path(config.results) / config.study
    if hosts.leads():
        claims.check(folder, [config], "add --study {} for another folder")
    with profile.timed(DATA):
        tasks = data.tasks(folder)
    runs = sum(len(task.block.runs) for task in tasks)
    dataset = data.describe(config)
    train, test = dataset.sizes
    print(
        f"{config.dataset} ({train} + {test} samples), "
        f"{config.model}, n = {config.n}, f = {config.f}: {counted(len(tasks), 'block')}, "
        f"{counted(runs, 'run')} of {counted(config.steps, 'step')}, into {folder}."
    )
    _print_drawn([config])
    return _run_and_report([config], tasks, folder, data.load, over, profile, tracker)


def _names_a_file(arguments: Sequence[str]) -> bool:
    """Whether `run` is given a grid file, not options; a `ValueError` for any other word."""
    if not arguments or arguments[0].startswith("-"):
        return False
    if not arguments[0].endswith((".json", *imports.YAML)):
        raise ValueError(overview.run_takes_options(arguments[0]))
    return True


def run_file(arguments: Sequence[str]) -> int:
    """Trains the grids of a file, such as one that `import` has written."""
    begin = time.perf_counter()
    command = command_line.parse(options.FileCommand, arguments, prog="python -m experiments run")
    command.machines.join()
    path = pathlib.Path(command.file)
    grids = [command.places.of(grid, study=path.stem) for grid in imports.grids(path)]
    data, profile = material.Material(grids), _profile(command.watch.profile, begin)
    tracker = Tracker(command.watch.log)
    over = command.machines.mesh(grids)
    folder = pathlib.Path(command.places.results) / path.stem
    if hosts.leads():
        claims.check(folder, grids, "rename the file, or add --results with another folder")
    with profile.timed(DATA):
        tasks = data.tasks(folder)
    runs = sum(len(task.block.runs) for task in tasks)
    counts = (
        f"{counted(len(grids), 'grid')}, {counted(len(tasks), 'block')}, {counted(runs, 'run')}"
    )
    print(f"{path}: {counts}, into {folder}.")
    _print_drawn(grids)
    return _run_and_report(grids, tasks, folder, data.load, over, profile, tracker)


def study(arguments: Sequence[str]) -> int:
    """Trains a predefined study: a published claim and its grids."""
    begin = time.perf_counter()
    command = command_line.parse(
        options.StudyCommand, arguments, prog="python -m experiments study"
    )
    command.machines.join()
    shard, shards = options.shard(command.shard)
    grids = [command.places.of(grid) for grid in studies.grids(command.name, command.edition)]
    folder = pathlib.Path(command.places.results) / f"{command.name}-{command.edition}"
    more = {"study": command.name, "edition": command.edition}
    data, profile = material.Material(grids), _profile(command.watch.profile, begin)
    tracker = Tracker(command.watch.log)
    over = command.machines.mesh(grids)
    shipped = folders.as_seen_from_here(STUDIES / folder.name)
    if hosts.leads():
        claims.check(folder, grids, "move it away, or add --results with another folder", **more)
    brings_in = hosts.leads() and not command.fresh and not command.dry_run
    if brings_in and (new := export.bring_in(shipped, folder)):
        print(f"From {shipped}: {store.blocks(new)}; --fresh recomputes them.")
    with profile.timed(DATA):
        tasks = sweep.tasks(grids, folder, data.describe) if command.dry_run else data.tasks(folder)
    runs = sum(len(task.block.runs) for task in tasks)
    programs = len({planning.program(task.config, task.block) for task in tasks})
    print(
        f"{command.name}, {command.edition} edition: {counted(len(grids), 'grid')}, "
        f"{counted(len(tasks), 'block')}, {counted(runs, 'run')}, {counted(programs, 'program')}."
    )
    _print_drawn(grids)
    tasks = sweep.stretch(sweep.of_first_seeds(tasks, command.seeds), shard, shards)
    if command.dry_run:
        there = set() if command.fresh else export.names(shipped)
        missing = [
            task
            for task in tasks
            if task.path.name not in there and not store.read_block(task.path)
        ]
        places = f"{folder} or {shipped}" if there else str(folder)
        print(f"{len(tasks) - len(missing)} of {len(tasks)} blocks are in {places} already.")
        print(cost.estimate(missing, data.describe) if missing else "Nothing is missing.")
        if absent := data.absent(missing, _command("study", arguments)):
            print(f"Before they can be trained: {absent}")
        return 0
    if shards == 1:
        return _run_and_report(grids, tasks, folder, data.load, over, profile, tracker, **more)
    finished = _run(grids, tasks, folder, data.load, over, profile, tracker, **more)
    if finished is None:
        return 0
    print(profile.report(), end="\n" if profile.wanted else "")
    of = f"{len(finished)} of {counted(len(tasks), 'block')}"
    print(f"Shard {shard} of {shards}: {of} finished.")
    print(f"Results: {folder}; python -m experiments report {folder} writes index.html.")
    return 0 if len(finished) == len(tasks) else 1


def _print_drawn(grids: Sequence[Config]) -> None:
    """One line for each way in which workers are drawn."""
    for line in dict.fromkeys(filter(None, map(sampling.line, grids))):
        print(line)


def _profile(folder: str | None, begin: float) -> Profile:
    """The profile of a command, of the first process only."""
    return Profile(folder if hosts.leads() else None, begin)


def _run(
    grids,
    tasks,
    folder: pathlib.Path,
    load,
    over: Mesh | None,
    profile: Profile,
    tracker: Tracker,
    **more: str,
) -> list | None:
    """The finished blocks; None on processes other than the first."""
    if hosts.leads():
        store.write_config(grids, folder, over, **more)
    with hosts.together():
        finished = sweep.run(tasks, folder, load, over, profile, tracker)
    return finished if hosts.leads() else None


def _run_and_report(
    grids,
    tasks,
    folder: pathlib.Path,
    load,
    over: Mesh | None,
    profile: Profile,
    tracker: Tracker,
    **more: str,
) -> int:
    finished = _run(grids, tasks, folder, load, over, profile, tracker, **more)
    if finished is None:
        return 0
    if not finished:
        return 1
    with profile.timed(REPORT):
        tables = _write_report(folder, finished, grids, **more)
    print(f"\n{tables}\n")
    print(profile.report(), end="\n" if profile.wanted else "")
    print(f"{counted(round(time.perf_counter() - profile.begin), 'second')}.")
    print(folders.results_line(folder))
    return 0 if len(finished) == len(tasks) else 1


def _write_report(
    folder: pathlib.Path, finished: list, grids: Sequence[Config], **more: str
) -> str:
    """Writes the report, and returns the tables as text."""
    from experiments.report import summary, tables  # imported here: matplotlib takes a second

    command = "python -m experiments"
    title, about = summary.title(grids), summary.introduction(grids)
    if "study" in more:
        loaded = studies.load(more["study"])
        title, about = loaded.title, loaded.about
        command += f" study {loaded.name} --edition {more['edition']}"
    else:
        several = len(grids) > 1  # from a grid file, named as the folder is
        command += f" run {folder.name}.json" if several else f" {configs.options(grids[0])}"
        command = command.rstrip()
    described = tables.About(title=title, claim=about, command=command)
    failures = [*store.failures(folder), *store.damaged(folder)]
    results = tables.write(folder, finished, grids, described, failures)
    return tables.text(results, columns.terminal_width(), finished)


def report(arguments: Sequence[str]) -> int:
    """Writes tables, figures and index.html from a folder of results."""
    command = command_line.parse(
        options.ReportCommand, arguments, prog="python -m experiments report"
    )
    folder = folders.with_blocks(pathlib.Path(command.folder))
    described, grids, finished = folders.finished(folder)
    more = {name: described[name] for name in ("study", "edition") if name in described}
    print(_write_report(folder, finished, grids, **more))
    print()
    folders.print_what_is_missing(folder, grids, finished)
    print(folders.results_line(folder))
    if command.export is not None:
        target = pathlib.Path(command.export) / folder.name
        export.write(folder, finished, target)
        print(f"{target}: blocks.csv, tables and figures.")
    return 0


def choose(arguments: Sequence[str]) -> int:
    """Prints each rule's best setting, by its worst held-out accuracy."""
    command = command_line.parse(
        options.ChooseCommand, arguments, prog="python -m experiments choose"
    )
    from experiments.analysis import choose  # imported here: pandas takes a second

    folder = folders.with_blocks(pathlib.Path(command.folder))
    _, grids, finished = folders.finished(folder)
    table = choose.best_settings(finished)
    folders.print_what_is_missing(folder, grids, finished)
    print(columns.of_frame(table, "%.3f"))
    return 0


def worst_case(arguments: Sequence[str]) -> int:
    """Measures how far every attack moves every rule, without training."""
    from experiments.analysis import damage  # imported here: matplotlib takes a second

    return damage.main(list(arguments))


def theory(arguments: Sequence[str]) -> int:
    """Compares proved constants of rules with measured errors."""
    from experiments.analysis.theory import run  # imported here: matplotlib takes a second

    return run.main(arguments)


def gradients(arguments: Sequence[str]) -> int:
    """Measures how Gaussian the gradients of models are across workers."""
    from experiments.analysis.gradients import run  # imported here: matplotlib takes a second

    return run.main(arguments)


def leaderboard(arguments: Sequence[str]) -> int:
    """Ranks every rule by its worst accuracy over all attacks."""
    from experiments.cli import leaderboard as board  # imported here: pandas takes a second

    return board.leaderboard(arguments)


def names(arguments: Sequence[str]) -> int:
    """Lists rules, mixings, attacks, protocols, data, models, studies."""
    command = command_line.parse(options.ListCommand, arguments, prog="python -m experiments list")
    print(listing.text(command.kind))
    return 0


def show_data(arguments: Sequence[str]) -> int:
    """Shows how a data set's labels are shared among the workers."""
    command = command_line.parse(options.DataCommand, arguments, prog="python -m experiments data")
    dataset = datasets.load(command.dataset, data_dir=command.data_dir, download=command.download)
    parts = partitions.partition(dataset.train_y, command.n, command.partition, seed=command.seed)
    print(histograms.describe(dataset, parts))
    if command.figure is not None:
        histogram = histograms.label_histogram(dataset.train_y, parts, dataset.num_classes)
        figure = histograms.histogram_figure(histogram, f"{command.dataset}, {command.partition}")
        figure.savefig(command.figure, dpi=130, bbox_inches="tight")
        print(command.figure)
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": run,
    "study": study,
    "report": report,
    "choose": choose,
    "worst-case": worst_case,
    "theory": theory,
    "gradients": gradients,
    "leaderboard": leaderboard,
    "list": names,
    "data": show_data,
    "import": imports.main,
    "cache": folders.show_cache,
}


def first_line(command: Callable) -> str:
    """The first line of a command's docstring."""
    return (command.__doc__ or "").partition("\n")[0]


def _keep_compiled_programs() -> None:
    """Enables JAX's persistent compilation cache, with a folder per host (and so per CPU type)."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = cache.folder() / "xla" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(folder))
