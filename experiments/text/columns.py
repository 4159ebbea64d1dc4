"""Tables that fit a terminal: titles are wrapped, then columns are moved to further tables."""

import re
import shutil
from collections.abc import Sequence
from typing import Any

WIDEST = 100


def terminal_width() -> int:
    """The columns of the terminal, at most 100; 100 if the output goes elsewhere."""
    return min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)


def fitted(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """A table with bars between its columns, no line of it longer than `width` if possible.

    Args:
      titles: of the columns.
      rows: the cells as text; the first of each row names it, and is repeated in further tables.
      width: columns of the terminal.
    """
    heads = [[title] for title in titles]
    widths = _widths(heads, rows)
    if _total(widths) > width:
        heads = [_pieces(title, max(_longest(rows, i), 8)) for i, title in enumerate(titles)]
        widths = _widths(heads, rows)
    parts = [_drawn(heads, rows, widths, part) for part in _parts(widths, width)]
    return "\n\n".join(parts)


def of_frame(frame: Any, number: str) -> str:
    """A data frame as a table that fits the terminal; numbers by a format such as `%.3f`."""
    rows = [
        [number % cell if isinstance(cell, float) else str(cell) for cell in row]
        for row in frame.itertuples(index=False)
    ]
    return fitted([str(title) for title in frame.columns], rows, terminal_width())


def _longest(rows: Sequence[Sequence[str]], column: int) -> int:
    return max((len(row[column]) for row in rows), default=0)


def _widths(heads: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(*map(len, head), _longest(rows, i)) for i, head in enumerate(heads)]


def _total(widths: Sequence[int]) -> int:
    return sum(width + 3 for width in widths) + 1


def _pieces(title: str, room: int) -> list[str]:
    """A title in lines of at most `room`, broken after `_`, `(`, commas and spaces if possible."""
    lines = [""]
    for word in re.findall(r"[^_(, ]*(?:[_(]|, ?| )?", title):
        if lines[-1] and len(lines[-1] + word.rstrip()) > room:
            lines.append("")
        lines[-1] += word
    return [line.strip() for line in lines if line.strip()] or [""]


def _parts(widths: Sequence[int], width: int) -> list[list[int]]:
    """Which columns go together: the first one, and as many others as fit."""
    parts, part = [], [0]
    for column in range(1, len(widths)):
        if len(part) > 1 and _total([widths[i] for i in (*part, column)]) > width:
            parts.append(part)
            part = [0]
        part.append(column)
    return [*parts, part]


def _drawn(heads, rows, widths: Sequence[int], part: Sequence[int]) -> str:
    height = max(len(heads[i]) for i in part)
    top = [[(heads[i] + [""] * height)[line] for i in part] for line in range(height)]
    body = [[row[i] for i in part] for row in rows]
    rule = "|" + "|".join("-" * (widths[i] + 2) for i in part) + "|"

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(widths[i]) for i, cell in zip(part, cells)]
        return "| " + " | ".join(padded) + " |"

    return "\n".join([*map(line, top), rule, *map(line, body)])
