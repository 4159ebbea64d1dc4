"""The command `import`: files of other projects."""

import functools
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from experiments.bridges import byzfl, byzfl_results, flpoison, reading
from experiments.cli import folders, options
from experiments.grid import planning
from experiments.grid.config import Config
from experiments.text import arguments as command_line
from experiments.text import columns, names
from experiments.text.names import counted


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {' '.join(str(error).split())}.") from None


def _yaml(path: pathlib.Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None


Parser, Reader = Callable[[pathlib.Path], Any], Callable[[Any], reading.Imported]
SOURCES: dict[str, tuple[Parser, Reader]] = {
    "byzfl": (_json, byzfl.read),
    "flpoison": (_yaml, flpoison.read),
}
RESULTS = "byzfl-results"
YAML = (".yaml", ".yml")
"""Endings of files that `run` reads as FLPoison's."""


def main(arguments: Sequence[str]) -> int:
    """Reads another project's files: settings for run, or results."""
    command = command_line.parse(
        options.ImportCommand, arguments, prog="python -m experiments import"
    )
    if command.source not in (*SOURCES, RESULTS):
        raise ValueError(names.unknown("source", command.source, (*SOURCES, RESULTS)))
    if command.benchmark and command.source != "flpoison":
        raise ValueError(f"--benchmark is for flpoison; got {command.source}.")
    if command.source == RESULTS:
        return _report(pathlib.Path(command.file), command.to)
    parse, read = SOURCES[command.source]
    if command.benchmark:
        read = functools.partial(flpoison.read, benchmark=True)
    path = pathlib.Path(command.file)
    imported = read(parse(path))
    target = pathlib.Path(command.to or f"{path.stem}-grid.json")
    if target.suffix != ".json":
        raise ValueError(f"a grid file ends in .json; got --to {target}.")
    reading.write(target, imported, f"{command.source} {path.name}")
    _print_notes(imported)
    count = counted(len(imported.grids), "grid")
    print(f"{count} in {target}; python -m experiments run {target} trains.")
    return 0


def _report(folder: pathlib.Path, to: str | None) -> int:
    """Writes the tables and figures of ByzFL's results."""
    from experiments.report import tables  # imported here: matplotlib takes a second

    imported = byzfl_results.read(folder)
    target = pathlib.Path(to or f"{folder.resolve().name}-report")
    if (target / "config.json").exists():
        raise ValueError(f"{target} holds results already; add --to with another folder.")
    about = tables.About(
        title=f"{counted(len(imported.blocks), 'combination')} of ByzFL's benchmark",
        claim="Trained by ByzFL, whose names these are. The loss on test samples is not recorded.",
        command=f"python -m experiments import {RESULTS} {folder}",
    )
    results = tables.write(target, imported.blocks, imported.grids, about)
    print(tables.text(results, columns.terminal_width()))
    if imported.unfinished:
        early = f"note: {counted(imported.unfinished, 'run')} ended early and left out."
        print(early, file=sys.stderr)
    print(folders.results_line(target))
    return 0


def grids(path: pathlib.Path) -> list[Config]:
    """The grids of a grid file, or of a configuration of FLPoison.

    Raises:
      ValueError: a setting of it has no counterpart, or a grid cannot run.
    """
    if path.suffix not in YAML:
        return reading.grids(path)
    imported = flpoison.read(_yaml(path))
    for grid in imported.grids:
        planning.plan(grid)
    _print_notes(imported)
    return imported.grids


def _print_notes(imported: reading.Imported) -> None:
    for note in imported.notes:
        print(f"note: {note}.", file=sys.stderr)
