"""What the readers of other projects' files share: settings by key, and errors that name them."""

import itertools
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from experiments.execution import claims, store
from experiments.grid import planning
from experiments.grid.config import Config

_CHOICES = ("rule", "mixing", "attack")


class Imported(NamedTuple):
    """The grids of a file.

    Attributes:
      grids: the grids, in the order of the file.
      notes: one line for each definition that differs.
    """

    grids: list[Config]
    notes: list[str]


def refused(key: str, value: Any, accepted: str) -> ValueError:
    """The error for a setting without a counterpart."""
    shown = json.dumps(value, default=str)
    shown = shown if len(shown) <= 60 else f"{shown[:56]}..."
    return ValueError(f"{key} = {shown} has no counterpart here; accepted: {accepted}.")


def known_keys(key: str, content: Any, known: Iterable[str]) -> dict[str, Any]:
    """An object whose keys are all known; missing ones are left out.

    Raises:
      ValueError: it is no object, or has another key.
    """
    known = list(known)
    if not isinstance(content, dict):
        raise refused(key, content, "an object")
    for name, value in content.items():
        if name not in known:
            place = f"{key}.{name}" if key else str(name)
            raise refused(place, value, f"the keys {', '.join(known)}" if known else "no key")
    return content


def number(key: str, value: Any, kind: type, least: float, below: float | None = None) -> Any:
    """A number in a range.

    Args:
      key: where it is, for the error.
      value: the number.
      kind: `int` or `float`, which includes integers.
      least: the smallest value.
      below: the first value that is too large; None for no limit.

    Raises:
      ValueError: it is no such number.
    """
    kinds = int if kind is int else (int, float)
    right = isinstance(value, kinds) and not isinstance(value, bool)
    if not right or not least <= value or (below is not None and not value < below):
        noun = "an integer" if kind is int else "a number"
        most = "" if below is None else f" and below {below}"
        raise refused(key, value, f"{noun} of at least {least}{most}")
    return kind(value)


def one_of(key: str, value: Any, known: Iterable[Any]) -> Any:
    """A value that is one of these.

    Raises:
      ValueError: it is another one.
    """
    known = list(known)
    if not any(value == each and type(value) is type(each) for each in known):
        raise refused(key, value, ", ".join(json.dumps(each) for each in known))
    return value


def merged(runs: Sequence[dict[str, Any]]) -> list[Config]:
    """Grids of runs: those that differ only in rule, mixing or attack are one grid.

    Args:
      runs: the settings of each run, with one rule, one mixing and one attack.
    """
    by_settings: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        rest = {name: value for name, value in run.items() if name not in _CHOICES}
        by_settings.setdefault(json.dumps(rest), []).append(run)
    grids = []
    for alike in by_settings.values():
        axes = {name: tuple(dict.fromkeys(run[name] for run in alike)) for name in _CHOICES}
        whole = {tuple(run[name] for name in _CHOICES) for run in alike}
        if whole == set(itertools.product(*axes.values())):
            settings: dict[str, Any] = {**alike[0], **axes}
            grids.append(Config(**settings))
        else:
            for run in alike:
                one: dict[str, Any] = {**run, **{name: (run[name],) for name in _CHOICES}}
                grids.append(Config(**one))
    return grids


def write(path: pathlib.Path, imported: Imported, source: str) -> None:
    """Writes a grid file, which `python -m experiments run FILE` trains.

    Every grid is planned first, so that a rule that does not tolerate its f is named here.

    Raises:
      ValueError: a grid cannot run.
    """
    for grid in imported.grids:
        planning.plan(grid)
    grids = [
        {name: getattr(grid, name) for name in grid.defaults if _is_given(grid, name)}
        for grid in imported.grids
    ]
    store.write_json(path, {"source": source, "notes": imported.notes, "grids": grids})


def _is_given(grid: Config, name: str) -> bool:
    return getattr(grid, name) != grid.defaults[name] or name in (*_CHOICES, "f", "s")


def grids(path: pathlib.Path) -> list[Config]:
    """The grids of a grid file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it holds no grids.
    """
    described = claims.read_file(path)
    if described is None:
        raise FileNotFoundError(f"{path} does not exist; expected a grid file.")
    if not described.grids:
        raise ValueError(f"{path} has no grids; python -m experiments import writes grid files.")
    return described.grids
