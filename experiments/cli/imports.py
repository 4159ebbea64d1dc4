"""The command `import`: files of other projects."""

import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from experiments.bridges import byzfl, reading
from experiments.cli import options
from experiments.text import arguments as command_line
from experiments.text import names
from experiments.text.names import counted


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {' '.join(str(error).split())}.") from None


SOURCES: dict[str, tuple[Callable[[pathlib.Path], Any], Callable[[Any], reading.Imported]]] = {
    "byzfl": (_json, byzfl.read),
}


def main(arguments: Sequence[str]) -> int:
    """Reads another project's file into a grid file for run."""
    command = command_line.parse(
        options.ImportCommand, arguments, prog="python -m experiments import"
    )
    if command.source not in SOURCES:
        raise ValueError(names.unknown("source", command.source, SOURCES))
    parse, read = SOURCES[command.source]
    path = pathlib.Path(command.file)
    imported = read(parse(path))
    target = pathlib.Path(command.to or f"{path.stem}-grid.json")
    if target.suffix != ".json":
        raise ValueError(f"a grid file ends in .json; got --to {target}.")
    reading.write(target, imported, f"{command.source} {path.name}")
    for note in imported.notes:
        print(f"note: {note}.", file=sys.stderr)
    count = counted(len(imported.grids), "grid")
    print(f"{count} in {target}; python -m experiments run {target} trains.")
    return 0
