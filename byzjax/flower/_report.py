"""What is reported of a round: JSON lines, metrics of Flower, lines of the log."""

import json
import math
import os
import pathlib
from typing import Any, NamedTuple


class Node(NamedTuple):
    """One node in one round.

    Attributes:
      status: "used", "unused" (in a round that failed), "malformed" or "absent".
      reason: why it has no row, or None.
      influence: its share in the aggregate, or None.
      distance: of its update to the aggregate, or None.
      notes: implausible statements of the client.
    """

    status: str
    reason: str | None = None
    influence: float | None = None
    distance: float | None = None
    notes: tuple[str, ...] = ()


def metrics(nodes: dict[int, Node], updated: bool) -> dict[str, int | float]:
    """The numbers of a round by name, such as `influence/17`."""
    counts = [node.status for node in nodes.values()]
    flat: dict[str, int | float] = {
        "updated": int(updated),
        "rows": counts.count("used") + counts.count("unused"),
        "malformed": counts.count("malformed"),
        "absent": counts.count("absent"),
    }
    for name, node in nodes.items():
        flat[f"malformed/{name}"] = int(node.status == "malformed")
        for key in ("influence", "distance"):
            if (value := getattr(node, key)) is not None:
                flat[f"{key}/{name}"] = value
    return flat


def line(server_round: int, nodes: dict[int, Node], **more: Any) -> dict[str, Any]:
    """One line of the report; ids are strings, since readers of JSON round large integers."""
    return {
        "round": server_round,
        **more,
        "nodes": [{"node": str(name), **node._asdict()} for name, node in nodes.items()],
    }


def append(path: pathlib.Path, entry: dict[str, Any]) -> None:
    """Adds a line and waits until it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(_strict(entry), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def cut(path: pathlib.Path, last_round: int) -> None:
    """Removes the lines of later rounds, and half a line, left by a server that was killed."""
    if not path.exists():
        return
    kept = [text for text in path.read_text().splitlines() if _round_of(text) <= last_round]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(f"{text}\n" for text in kept))
    os.replace(temporary, path)


def _round_of(text: str) -> float:
    try:
        return json.loads(text)["round"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def _strict(value: Any) -> Any:
    """NaN as null and infinity as a string, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
