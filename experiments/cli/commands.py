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
import tyro
from jax.sharding import Mesh

from experiments import studies
from experiments.cli import folders, material, options
from experiments.data import cache, datasets, histograms, partitions
from experiments.execution import claims, cost, export, hosts, store, sweep
from experiments.execution.profile import DATA, REPORT, Profile
from experiments.grid import catalogue, naming, planning
from experiments.grid import config as configs
from experiments.grid.config import Config
from experiments.models import zoo
from experiments.training import assemble

# Errors that a user can cause; any other is a bug and shows its traceback.
USER_ERRORS = (ValueError, TypeError, OSError, ImportError)
# Committed results, each study in a folder of its name and edition.
STUDIES = pathlib.Path(__file__).parents[2] / "docs" / "studies"


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns the exit status."""
    arguments = list(arguments)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "run"
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: unknown command {name!r}; known: {known}.", file=sys.stderr)
        return 2
    _keep_compiled_programs()
    try:
        status = COMMANDS[name](arguments)
        if name not in ("list", "cache") and hosts.leads():
            print(cache.line())
        return status
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
    words = [word for word in (name, *arguments) if word not in ("run", "--dry-run")]
    return f"python -m experiments {shlex.join(words)}".rstrip()


def run(arguments: Sequence[str]) -> int:
    """Runs a grid given on the command line."""
    begin = time.perf_counter()
    command = tyro.cli(options.RunCommand, prog="python -m experiments", args=arguments)
    command.machines.join()
    config, profile = command.grid, _profile(command.profile, begin)
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
        f"{config.model}, n = {config.n}, f = {config.f}: {len(tasks)} blocks, {runs} runs of "
        f"{config.steps} steps, into {folder}."
    )
    return _run_and_report([config], tasks, folder, data.load, over, profile)


def study(arguments: Sequence[str]) -> int:
    """Runs a study of `experiments/studies`."""
    begin = time.perf_counter()
    command = tyro.cli(options.StudyCommand, prog="python -m experiments study", args=arguments)
    command.machines.join()
    shard, shards = _shard(command.shard)
    given = {"data_dir": command.data_dir, "download": command.download}
    grids = [
        dataclasses.replace(grid, results=command.results, **given)
        for grid in studies.grids(command.name, command.edition)
    ]
    folder = pathlib.Path(command.results) / f"{command.name}-{command.edition}"
    more = {"study": command.name, "edition": command.edition}
    data, profile = material.Material(grids), _profile(command.profile, begin)
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
        f"{command.name}, {command.edition} edition: {len(grids)} grids, {len(tasks)} blocks, "
        f"{runs} runs, {programs} programs."
    )
    tasks = sweep.stretch(tasks, shard, shards)
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
        return _run_and_report(grids, tasks, folder, data.load, over, profile, **more)
    finished = _run(grids, tasks, folder, data.load, over, profile, **more)
    if finished is None:
        return 0
    print(profile.report(), end="\n" if profile.wanted else "")
    print(f"Shard {shard} of {shards}: {len(finished)} of {len(tasks)} blocks are finished.")
    print(f"Results: {folder}; python -m experiments report {folder} writes index.html.")
    return 0 if len(finished) == len(tasks) else 1


def _profile(folder: str | None, begin: float) -> Profile:
    """The profile of a command, of the first process only."""
    return Profile(folder if hosts.leads() else None, begin)


def _run(
    grids, tasks, folder: pathlib.Path, load, over: Mesh | None, profile: Profile, **more: str
) -> list | None:
    """The finished blocks; None on processes other than the first."""
    if hosts.leads():
        store.write_config(grids, folder, over, **more)
    with hosts.together():
        finished = sweep.run(tasks, folder, load, over, profile)
    return finished if hosts.leads() else None


def _run_and_report(
    grids, tasks, folder: pathlib.Path, load, over: Mesh | None, profile: Profile, **more: str
) -> int:
    finished = _run(grids, tasks, folder, load, over, profile, **more)
    if finished is None:
        return 0
    if not finished:
        return 1
    with profile.timed(REPORT):
        tables = _write_report(folder, finished, grids, **more)
    print(f"\n{tables}\n")
    print(profile.report(), end="\n" if profile.wanted else "")
    print(f"{time.perf_counter() - profile.begin:.0f} seconds.")
    print(folders.results_line(folder))
    return 0 if len(finished) == len(tasks) else 1


def _write_report(
    folder: pathlib.Path, finished: list, grids: Sequence[Config], **more: str
) -> str:
    """Writes the report, and returns the tables as text."""
    from experiments.report import tables  # imported here: matplotlib takes a second

    command, title = "python -m experiments", str(folder.name)
    about = Config.__doc__ or ""
    if "study" in more:
        loaded = studies.load(more["study"])
        title, about = loaded.title, loaded.about
        command += f" study {loaded.name} --edition {more['edition']}"
    else:
        command += f" {configs.options(grids[0])}".rstrip()
    described = tables.About(title=title, claim=about, command=command)
    failures = [*store.failures(folder), *store.damaged(folder)]
    results = tables.write(folder, finished, grids, described, failures)
    return tables.text(results)


def report(arguments: Sequence[str]) -> int:
    """Writes tables, figures and the page of a study."""
    command = tyro.cli(options.ReportCommand, prog="python -m experiments report", args=arguments)
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
    """Prints the best setting of each rule, by the worst case on held-out samples."""
    command = tyro.cli(options.ChooseCommand, prog="python -m experiments choose", args=arguments)
    from experiments.analysis import choose  # imported here: pandas takes a second

    folder = folders.with_blocks(pathlib.Path(command.folder))
    _, grids, finished = folders.finished(folder)
    table = choose.best_settings(finished)
    folders.print_what_is_missing(folder, grids, finished)
    print(table.to_string(index=False, float_format="%.3f"))
    return 0


def worst_case(arguments: Sequence[str]) -> int:
    """Measures every attack against every rule."""
    from experiments.analysis import damage  # imported here: matplotlib takes a second

    return damage.main(list(arguments))


def theory(arguments: Sequence[str]) -> int:
    """Compares proved constants with measured errors and the worst inputs of a search."""
    from experiments.analysis.theory import run  # imported here: matplotlib takes a second

    return run.main(arguments)


def names(arguments: Sequence[str]) -> int:
    """Lists rules, mixings, attacks, protocols, data sets, models and studies, one per line."""
    if arguments:
        raise ValueError(f"list takes no options; got {' '.join(arguments)}.")

    def first_line(function: Callable) -> str:
        return (function.__doc__ or "").strip().partition("\n")[0]

    tables = {
        f"{kind}s": {name: first_line(function) for name, function in table.items()}
        for kind, table in catalogue.TABLES.items()
    }
    tables["protocols"] = {name: first_line(f) for name, f in assemble.PROTOCOLS.items()}
    tables["data sets"] = datasets.DESCRIPTIONS
    tables["models"] = zoo.DESCRIPTIONS
    tables["studies"] = {name: studies.load(name).title for name in studies.names()}
    for title, table in tables.items():
        print(f"{title}:")
        width = max(map(len, table))
        for name, line in table.items():
            print(f"  {name:<{width}}  {line}")
        print()
    return 0


def show_data(arguments: Sequence[str]) -> int:
    """Shows the labels that each worker holds."""
    command = tyro.cli(options.DataCommand, prog="python -m experiments data", args=arguments)
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
    "list": names,
    "data": show_data,
    "cache": folders.show_cache,
}


def _shard(text: str) -> tuple[int, int]:
    i, _, count = text.partition("/")
    if not (i.isdigit() and count.isdigit() and 1 <= int(i) <= int(count)):
        raise ValueError(f"shard must be i/N with 1 <= i <= N; got {text!r}.")
    return int(i), int(count)


def _keep_compiled_programs() -> None:
    """Enables JAX's persistent compilation cache, with a folder per host (and so per CPU type)."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = cache.folder() / "xla" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(folder))
