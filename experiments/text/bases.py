"""Base models by name, from which fine-tuning starts, and what their `base.json` says."""

import json
import pathlib
from typing import Any

FOLDER = pathlib.Path(__file__).parents[1] / "bases"
"""Those of this repository."""
FACTS = "base.json"
WEIGHTS = "weights"
_NEEDED = {"context", "model", "sha256", "vocabulary"}


def folder(name: str) -> pathlib.Path:
    """The folder of a base model: a name in `FOLDER`, or a path with a slash."""
    return pathlib.Path(name).expanduser() if "/" in name else FOLDER / name


def read(place: pathlib.Path) -> dict[str, Any]:
    """The content of `base.json` in the folder of a base model.

    Raises:
      FileNotFoundError: there is no base model.
      ValueError: the file is damaged, or a field is missing.
    """
    path = place / FACTS
    if not path.is_file():
        known = ", ".join(sorted(each.parent.name for each in FOLDER.glob(f"*/{FACTS}"))) or "none"
        raise FileNotFoundError(
            f"no base model in {place}: expected {FACTS} and {WEIGHTS}/ there; known: {known}, or "
            "./FOLDER for your own."
        )
    try:
        facts = json.loads(path.read_text())
        missing = sorted(_NEEDED - facts.keys())
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not an object in JSON; fetch it again.") from error
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; fetch it again.")
    return facts


def digest(name: str) -> str:
    """The hash of a base model's weights, as its `base.json` states it; raises as `read` does."""
    return str(read(folder(name))["sha256"])
