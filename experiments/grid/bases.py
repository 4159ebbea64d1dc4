"""Names of base models, from which fine-tuning starts."""

import json
import pathlib

FOLDER = pathlib.Path(__file__).parents[1] / "bases"
"""Those of this repository."""


def folder(name: str) -> pathlib.Path:
    """The folder of a base model: a name in `FOLDER`, or a path with a slash."""
    return pathlib.Path(name).expanduser() if "/" in name else FOLDER / name


def digest(name: str) -> str:
    """The hash of its weights, as its `base.json` states it.

    Raises:
      FileNotFoundError: there is no such base model.
      ValueError: its `base.json` is damaged.
    """
    path = folder(name) / "base.json"
    if not path.is_file():
        known = ", ".join(sorted(each.parent.name for each in FOLDER.glob("*/base.json"))) or "none"
        raise FileNotFoundError(
            f"no base model {name!r}: {path} is missing; known: {known}, or ./FOLDER for your own."
        )
    try:
        return str(json.loads(path.read_text())["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} states no sha256 of the weights; fetch it again.") from error
