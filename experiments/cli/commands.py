"""The command line: `python -m experiments [run | study | report | choose | ...]`."""

import dataclasses
import functools
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Sequence

import jax
import tyro
from jax.sharding import Mesh

from experiments import studies
from experiments.cli import options
from experiments.data import batches, datasets, histograms, partitions
from experiments.execution import cost, export, hosts, store, sweep
from experiments.grid import catalogue, planning
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
        return COMMANDS[name](arguments)
    except (*USER_ERRORS, hosts.StoppedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Finished blocks are on disk; the same command continues.")
        return 130


def run(arguments: Sequence[str]) -> int:
    """Runs a grid given on the command line."""
    begin = time.perf_counter()
    command = tyro.cli(options.RunCommand, prog="python -m experiments", args=arguments)
    command.machines.join()
    config = command.grid
    dataset = _checked([config])(config)
    over = command.machines.mesh([config])
    folder = pathlib.Path(config.results) / config.study
    load = functools.cache(lambda _: dataset)
    tasks = sweep.tasks([config], folder, load)
    runs = sum(len(task.block.runs) for task in tasks)
    print(
        f"{config.dataset} ({len(dataset.train_y)} + {len(dataset.test_y)} samples), "
        f"{config.model}, n = {config.n}, f = {config.f}: {len(tasks)} blocks, {runs} runs of "
        f"{config.steps} steps."
    )
    return _run_and_report([config], tasks, folder, load, over, begin)


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
    load = _checked(grids)
    over = command.machines.mesh(grids)
    shipped = not command.fresh and hosts.leads()
    if shipped and (new := export.bring_in(STUDIES / folder.name, folder)):
        print(f"{new} blocks come from {STUDIES / folder.name}; --fresh recomputes them.")
    tasks = sweep.tasks(grids, folder, load)
    runs = sum(len(task.block.runs) for task in tasks)
    programs = len({planning.program(task.config, task.block) for task in tasks})
    print(
        f"{command.name}, {command.edition} edition: {len(grids)} grids, {len(tasks)} blocks, "
        f"{runs} runs, {programs} programs."
    )
    tasks = sweep.stretch(tasks, shard, shards)
    if command.dry_run:
        missing = [task for task in tasks if store.read_block(task.path) is None]
        print(cost.estimate(missing, load) if missing else "Nothing is missing.")
        return 0
    more = {"study": command.name, "edition": command.edition}
    if shards == 1:
        return _run_and_report(grids, tasks, folder, load, over, begin, **more)
    finished = _run(grids, tasks, folder, load, over, **more)
    if finished is None:
        return 0
    print(f"Shard {shard} of {shards}: {len(finished)} of {len(tasks)} blocks are finished.")
    return 0 if len(finished) == len(tasks) else 1


def _run(grids, tasks, folder: pathlib.Path, load, over: Mesh | None, **more: str) -> list | None:
    """The finished blocks; None on processes other than the first."""
    if hosts.leads():
        store.write_config(grids, folder, over, **more)
    with hosts.together():
        finished = sweep.run(tasks, folder, load, over)
    return finished if hosts.leads() else None


def _run_and_report(
    grids, tasks, folder: pathlib.Path, load, over: Mesh | None, begin: float, **more: str
) -> int:
    finished = _run(grids, tasks, folder, load, over, **more)
    if finished is None:
        return 0
    if not finished:
        return 1
    print(f"\n{_write_report(folder, finished, grids, **more)}\n")
    print(f"{folder}: index.html, tables as CSV, Markdown and LaTeX, figures as PNG and SVG.")
    print(f"{time.perf_counter() - begin:.0f} seconds.")
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
        command += f" {configs.options(grids[0])}".rstrip()
    described = tables.About(title=title, claim=about, command=command)
    failures = list(store.failures(folder))
    results = tables.write(folder, finished, grids, described, failures)
    return tables.text(results)


def report(arguments: Sequence[str]) -> int:
    """Writes tables, figures and the page of a study."""
    command = tyro.cli(options.ReportCommand, prog="python -m experiments report", args=arguments)
    folder = pathlib.Path(command.folder)
    described, grids, finished = _finished(folder)
    more = {name: described[name] for name in ("study", "edition") if name in described}
    print(_write_report(folder, finished, grids, **more))
    print(f"\n{folder / 'index.html'}")
    if command.export is not None:
        target = pathlib.Path(command.export) / folder.name
        export.write(folder, finished, target)
        print(f"{target}: blocks.csv, tables and figures.")
    return 0


def choose(arguments: Sequence[str]) -> int:
    """Prints the best setting of each rule, by the worst case on held-out samples."""
    command = tyro.cli(options.ChooseCommand, prog="python -m experiments choose", args=arguments)
    from experiments.analysis import choose  # imported here: pandas takes a second

    table = choose.best_settings(_finished(pathlib.Path(command.folder))[-1])
    print(table.to_string(index=False, float_format="%.3f"))
    return 0


def _finished(folder: pathlib.Path) -> tuple[dict, list[Config], list[dict]]:
    """The content of config.json, its grids, and their finished blocks."""
    described = store.read_block(folder / "config.json")
    if described is None or "grids" not in described:
        raise FileNotFoundError(f"{folder} has no config.json; expected the folder of a study.")
    grids = [Config(**_as_tuples(grid)) for grid in described["grids"]]
    finished = store.finished(grids, folder)
    if not finished:
        raise FileNotFoundError(f"{folder / 'blocks'} has no finished block of these grids.")
    store.warn_of_other_versions(finished)
    return described, grids, finished


def _as_tuples(grid: dict) -> dict:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in grid.items()}


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
}


def _checked(grids: Sequence[Config]) -> Callable[[Config], datasets.Dataset]:
    """Checks all grids without running anything; returns a cached loader of their data."""

    @functools.cache
    def load(name: str, folder: str | None, download: bool) -> datasets.Dataset:
        return datasets.load(name, data_dir=folder, download=download)

    def load_for(grid: Config) -> datasets.Dataset:
        return load(grid.dataset, grid.data_dir, grid.download)

    for grid in grids:
        assemble.plan(grid)
    for grid in grids:
        dataset, _, _ = batches.hold_out(load_for(grid), grid.validation)
        zoo.build(grid.model, dataset.train_x.shape[1:], dataset.num_classes)
        partitions.partition(dataset.train_y, grid.n, grid.partition, seed=0)
    return load_for


def _shard(text: str) -> tuple[int, int]:
    i, _, count = text.partition("/")
    if not (i.isdigit() and count.isdigit() and 1 <= int(i) <= int(count)):
        raise ValueError(f"shard must be i/N with 1 <= i <= N; got {text!r}.")
    return int(i), int(count)


def _keep_compiled_programs() -> None:
    """Enables JAX's persistent compilation cache, with a folder per host (and so per CPU type)."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = cache / "byzjax" / "xla" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(folder))
