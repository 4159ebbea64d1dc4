"""Submissions: the accuracies of one rule or attack of your own, as a file with a hash."""

import hashlib
import json
import pathlib
from importlib import metadata
from typing import Any, NamedTuple

import pandas as pd

from experiments.execution import store, strict
from experiments.grid import calls
from experiments.leaderboard import editions, engine, score
from experiments.leaderboard.editions import Edition
from experiments.text import names

FORMAT = 1
KINDS = ("rule", "attack")
PACKAGES = ("byzjax", "jax", "numpy")
LARGEST = 20_000_000  # bytes of a file
# What the runs of one cell share; its accuracies are those of seeds 0, 1, ...
CELL = ("rule", "mixing", "attack", "s", *score.SCENE, "steps", "stage")
# The text and number fields of a file, and of a cell.
_FIELDS: dict[str, type] = {
    **{name: str for name in ("kind", "name", "edition", "source", "sha256")},
    **{"format": int, "seeds": int, "versions": dict, "cells": list},
}
_CELL_FIELDS: dict[str, type | tuple[type, ...]] = {
    **{name: str for name in ("rule", "mixing", "attack", "dataset", "partition", "stage")},
    **{name: int for name in ("s", "n", "f", "steps")},
    **{"momentum": (float, int), "accuracies": list},
}


class Submission(NamedTuple):
    """A file.

    Attributes:
      kind: `"rule"` or `"attack"`.
      name: its name, `my_rules:nearest`.
      edition: name of the edition that it was run in.
      source: hash of its module, as `calls.code` writes it.
      versions: of the packages that computed it.
      seeds: number of seeds at full length.
      cells: the settings `CELL` and `accuracies`, one for each seed.
    """

    kind: str
    name: str
    edition: str
    source: str
    versions: dict[str, str]
    seeds: int
    cells: list[dict[str, Any]]

    @property
    def content(self) -> dict[str, Any]:
        """What is hashed."""
        return {"format": FORMAT, **self._asdict()}

    @property
    def sha256(self) -> str:
        """The hash of the canonical content: JSON with sorted keys, without spaces."""
        text = strict.dumps(self.content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def version(self) -> str:
        """The permanent version of an entry: the start of its hash."""
        return self.sha256[:12]

    def write(self, path: pathlib.Path) -> None:
        """Writes the file."""
        store.write_json(path, self.content | {"sha256": self.sha256})


def here() -> dict[str, str]:
    """The versions of the packages on this machine."""
    return {name: metadata.version(name) for name in PACKAGES}


def made(runs: pd.DataFrame, kind: str, name: str, edition: str) -> Submission:
    """The submission of one rule or attack, from the runs that `engine.read` returns.

    Args:
      runs: the runs; those of other rules, or under other attacks, are left out.
      kind: `"rule"` or `"attack"`.
      name: as on the command line, `my_rules:nearest`.
      edition: the name of the edition.
    """
    if ":" not in calls.parse_call(name, kind)[0]:
        raise ValueError(
            f"{name} is of the library, and listed already; expected {kind} my_{kind}s:NAME."
        )
    cells = []
    for settings, part in runs[runs[kind] == name].groupby(list(CELL), sort=False):
        accuracies = part.sort_values("seed")["accuracy"].round(6).tolist()
        values = [getattr(value, "item", lambda value=value: value)() for value in settings]
        cells.append({**dict(zip(CELL, values)), "accuracies": accuracies})
    seeds = max(len(cell["accuracies"]) for cell in cells)
    return Submission(kind, name, edition, calls.code([name]), here(), seeds, cells)


def read(path: pathlib.Path) -> Submission:
    """Reads a file that anyone may have written; nothing is imported.

    Raises:
      ValueError: it is no submission, or its hash is that of another content.
    """
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; expected at most {LARGEST:,}.")
    try:
        content = strict.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {' '.join(str(error).split())[:80]}.") from None
    _check_fields(path, content, _FIELDS)
    if content["format"] != FORMAT:
        raise ValueError(f"{path} has format {content['format']}; expected {FORMAT}.")
    for i, cell in enumerate(content["cells"]):
        _check_fields(f"{path}, cell {i}", cell, _CELL_FIELDS)
        if not cell["accuracies"] or not all(map(_is_share, cell["accuracies"])):
            raise ValueError(f"{path}, cell {i}: accuracies must be numbers from 0 to 1.")
    told = content["sha256"]
    submission = Submission(**{name: content[name] for name in Submission._fields})
    if submission.kind not in KINDS:
        raise ValueError(names.one_of("kind", submission.kind, KINDS))
    if submission.edition not in editions.EDITIONS:
        raise ValueError(names.one_of("edition", submission.edition, editions.EDITIONS))
    if submission.sha256 != told:
        raise ValueError(
            f"{path} was changed after it was written: its content has SHA-256 "
            f"{submission.sha256[:12]}..., the file says {told[:12]}...."
        )
    return submission


def _check_fields(where: Any, content: Any, fields: dict[str, Any]) -> None:
    if not isinstance(content, dict) or content.keys() != fields.keys():
        keys = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{where} has {keys}; expected an object with {sorted(fields)}.")
    for name, kind in fields.items():
        if not isinstance(content[name], kind) or isinstance(content[name], bool):
            raise ValueError(f"{where}: {name} is {json.dumps(content[name])[:40]}.")


def _is_share(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= 1


def entered(edition: Edition, kind: str, name: str) -> Edition:
    """The edition with only this rule, or only this attack, against everything else."""
    if kind == "rule":
        return edition._replace(rules=(name,))
    return edition._replace(attacks=(name,), **editions.alone(edition))


def check_complete(submission: Submission) -> None:
    """Checks that every cell of the edition is there once, with all seeds, and no other.

    The attacks at full length must be those that the reported first stage leaves, so that the worst
    attack cannot be left out.

    Raises:
      ValueError: a cell is missing, or is not of the edition.
    """
    edition = entered(editions.EDITIONS[submission.edition], submission.kind, submission.name)
    grids = [g for g in editions.first(edition) if submission.name in (*g.rule, *g.attack)]
    reported = {_key(cell): cell["accuracies"] for cell in submission.cells}
    quiet = ("none",) if submission.kind == "rule" else ()
    wanted: dict[tuple, int] = {}
    guides = editions.guides(edition, grids)
    planned = [("first", grid) for grid in engine.first(edition, grids)]
    for grid in grids:
        guide = guides.get(editions.key_of(grid), grid)
        short = {a: reported.get(_of(guide, a, guide.f, "first"), [1.0]) for a in guide.attack}
        under = {attack: sum(values) / len(values) for attack, values in short.items()}
        planned.append(("last", editions.last(edition, grid, under)))
    for stage, grid in planned:
        for attack in (*grid.attack, *quiet):
            s = 0 if attack == "none" else grid.f
            wanted[_of(grid, attack, s, stage)] = grid.seeds
    counts = {_key(cell): len(cell["accuracies"]) for cell in submission.cells}
    if len(counts) < len(submission.cells):
        raise ValueError(f"{len(submission.cells) - len(counts)} cells are given twice.")
    if counts != wanted:
        absent, more = wanted.keys() - counts.keys(), counts.keys() - wanted.keys()
        few = sum(counts[key] != wanted[key] for key in wanted.keys() & counts.keys())
        raise ValueError(
            f"of {len(wanted)} cells {len(absent)} are missing and {few} have another number of "
            f"seeds, and {len(more)} are not of the edition {submission.edition}."
        )


def _key(cell: dict[str, Any]) -> tuple:
    return tuple(cell[name] for name in CELL)


def _of(grid: Any, attack: str, s: int, stage: str) -> tuple:
    settings = {name: getattr(grid, name) for name in (*score.SCENE, "steps")}
    settings |= {"rule": grid.rule[0], "mixing": grid.mixing[0], "attack": attack, "s": s}
    return _key(settings | {"stage": stage})
