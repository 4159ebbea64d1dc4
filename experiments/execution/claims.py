"""A results folder belongs to the settings in its config.json: others do not replace what it holds.

The same settings continue it. A grid with more rules, mixings, attacks, s or seeds extends it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.execution import locks, store, strict
from experiments.grid import naming, specs
from experiments.grid.config import Config
from experiments.text.names import LONGEST

# Settings to which a later command may add values.
_GROWING = ("rule", "mixing", "attack", "s")
_KINDS = ("rule", "mixing", "attack")


class Described(NamedTuple):
    """The content of a config.json.

    Attributes:
      grids: the grids of a study; empty for another command.
      more: all other entries: versions, and the name and edition of a predefined study, or the
        `command` that is not a study.
    """

    grids: list[Config]
    more: dict[str, Any]


def read(folder: pathlib.Path) -> Described | None:
    """What a folder belongs to; None without a config.json.

    Raises:
      ValueError: config.json is damaged, or has a setting that this version does not know.
    """
    return read_file(folder / "config.json")


def read_file(path: pathlib.Path) -> Described | None:
    """The content of a config.json, or of a grid file; None without the file.

    Raises:
      ValueError: the file is damaged, or has a setting that this version does not know.
    """
    try:
        content = strict.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "not JSON"
        raise _damaged(path, where) from None
    if not isinstance(content, dict):
        raise _damaged(path, "no object")
    grids = content.pop("grids", [])
    if not isinstance(grids, list):
        raise _damaged(path, "grids is no list")
    return Described([_grid(path, grid) for grid in grids], content)


def _damaged(path: pathlib.Path, what: str) -> ValueError:
    return ValueError(
        f"{path} is damaged ({what}); remove it and repeat the command that trained: finished "
        "blocks are kept."
    )


def _grid(path: pathlib.Path, grid: Any) -> Config:
    if not isinstance(grid, dict):
        raise _damaged(path, "a grid is no object")
    defaults = Config().defaults
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in grid.items()
    }
    for name, value in values.items():
        if name not in defaults:
            raise ValueError(
                f"{path} has a setting {name!r:.40} that this version of byzjax does not know; "
                "expected those of python -m experiments --help."
            )
        if not _like(value, defaults[name]):
            raise _damaged(path, f"{name} is {value!r:.40}")
    return Config(**values)


def _like(value: Any, default: Any) -> bool:
    """Whether a value has the type of its default."""
    if isinstance(default, tuple):
        kind = type(default[0])
        return isinstance(value, tuple) and all(type(each) is kind for each in value)
    if isinstance(default, float):
        return type(value) in (float, int)
    return type(value) is type(default) or (default is None and isinstance(value, str))


def check(folder: pathlib.Path, grids: Sequence[Config], advice: str, **more: Any) -> None:
    """Checks that a folder is new, without results, or belongs to these grids or fewer.

    Args:
      folder: the folder of a study.
      grids: its grids.
      advice: what to type for another folder; `{}` stands for the name of another study.
      **more: name and edition of a predefined study, or the `command`, as in config.json.

    Raises:
      ValueError: it belongs to something else; the message says what differs.
    """
    described = read(folder)
    if described is None:
        return
    owner, here = _owner(described.more), _owner(more)
    if owner != here:
        other = advice.format(f"{folder.name}-2")
        raise ValueError(f"{folder} belongs to {owner}, not to {here}; {other}.")
    lacking = [old for old in described.grids if not any(_covers(new, old) for new in grids)]
    if not lacking:
        return
    if not _has_results(folder):
        if not locks.in_use(folder):
            return
        advice = f"another process is training there; {advice}"
    pairs = [(_differences(old, new), new) for old in lacking for new in grids]
    differing, nearest = min(pairs, key=lambda pair: len(pair[0]))
    changed = {name: getattr(nearest, name) for name in differing}
    if set(changed) <= set(_GROWING):
        advice = f"add them to extend it, or {advice}"
    advice = advice.format(naming.named(f"{folder.name}_", changed))
    raise ValueError(_message(f"{folder} was made with", list(differing.values()), advice))


def _owner(more: dict[str, Any]) -> str:
    if "command" in more:
        return f"python -m experiments {more['command']}"
    if "study" in more:
        return f"the study {more['study']}, edition {more.get('edition', 'cpu')}"
    return "python -m experiments"


def _has_results(folder: pathlib.Path) -> bool:
    places = ("blocks/*.json", "failed/*.json", "checkpoints/*", "table.csv")
    return any(any(folder.glob(place)) for place in places)


def _values(grid: Config, name: str) -> list:
    """The values of a growing setting, as texts of one form: `krum()` is `krum`."""
    values = getattr(grid, name)
    return [str(specs.read(name, text)) for text in values] if name in _KINDS else list(values)


def _covers(new: Config, old: Config) -> bool:
    return not _differences(old, new)


def _differences(old: Config, new: Config) -> dict[str, str]:
    """Each setting of the old grid that the new one lacks, in words: `--f 2 (here 3)`."""
    out = {}
    for field in dataclasses.fields(Config):
        name, option = field.name, f"--{field.name.replace('_', '-')}"
        before, now = getattr(old, name), getattr(new, name)
        if name in naming.PLACES or before == now:
            continue
        if name in _GROWING:
            present = _values(new, name)
            absent = [str(value) for value in _values(old, name) if value not in present]
            if absent:
                out[name] = f"{option} {_say(absent):.60} (missing here)"
        elif name != "seeds" or now < before:
            out[name] = f"{option} {_say(before):.40} (here {_say(now):.40})"
    return out


def _say(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _message(start: str, differences: list[str], advice: str) -> str:
    """As many differences as fit one line."""
    for count in range(len(differences), 0, -1):
        hidden = len(differences) - count
        named = ", ".join(differences[:count]) + (f" and {hidden} more" if hidden else "")
        if len(text := f"{start} {named}; {advice}.") <= LONGEST or count == 1:
            return text
    return f"{start} other settings; {advice}."


def write_command(folder: pathlib.Path, command: str, settings: dict[str, Any]) -> None:
    """Writes the config.json of a command that is not a study, if the folder is its own.

    Args:
      folder: its results.
      command: its name.
      settings: the options that its results depend on.

    Raises:
      ValueError: the folder belongs to another command, or to other options of this one.
    """
    shown, advice = strict.plain(settings), "add --results with another folder"
    if (described := read(folder)) is not None:
        check(folder, [], advice, command=command)
        before = described.more.get("settings", {})
        differing = [
            f"--{name.replace('_', '-')} {_say(value):.40} (here {_say(shown.get(name)):.40})"
            for name, value in before.items()
            if value != shown.get(name)
        ]
        if differing:
            raise ValueError(_message(f"{folder} was made with", differing, advice))
        if before:
            return
    store.write_json(
        folder / "config.json", {"command": command, "settings": shown, **store.environment()}
    )
