"""The leaderboard as one self-contained page, from the exported table of runs."""

import base64
import json
import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from byzjax import attacks
from experiments.grid import calls, catalogue
from experiments.leaderboard import score
from experiments.report import page as pages
from experiments.report import summary

OWN = "your own"
# Columns of the downloaded table that the page shows as numbers.
MEASURED = ("damage", "kappa", "ms", "attack_success")


class Point(NamedTuple):
    """A row under one attack.

    Attributes:
      attack: the attack.
      family: of the attack.
      mean: of the accuracies.
      low: end of the interval; None for one seed.
      high: the other end.
      short: whether it was run while attacks were thinned only: few steps, one seed.
    """

    attack: str
    family: str
    mean: float
    low: float | str | None
    high: float | str | None
    short: bool


def family(attack: str) -> str:
    """What an attack uses, by the module that it is in: `statistical`, `faults`, `adaptive`, ..."""
    name, _ = calls.parse_call(attack, "attack")
    if name not in catalogue.ATTACKS:
        return OWN
    if name.startswith("strongest_"):
        return "adaptive"
    return getattr(attacks, name).__module__.rpartition(".")[2].replace("_", " ")


def html(runs: pd.DataFrame) -> str:
    """The page.

    Args:
      runs: an exported table, as `engine.read` returns it.

    Raises:
      ValueError: the table has another form.
    """
    missing = [name for name in score.COLUMNS if name not in runs]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}; expected a runs.csv.")
    board = score.table(runs)
    rows = _rows(runs, board)
    shown = [{name: row[name] for name in row if name != "points"} for row in rows]
    csv = pd.DataFrame(shown).drop(columns=["id", "scene"]).to_csv(index=False)
    return pages.rendered(
        "leaderboard.html",
        rows=rows,
        data=json.dumps(rows, allow_nan=False).replace("<", "\\u003c"),
        csv=base64.b64encode(csv.encode()).decode(),
        choices=_choices(rows),
        several=len({row["scene"] for row in rows}) > 1,
        measured=[name for name in MEASURED if any(row[name] is not None for row in rows)],
        kept=round(100 * summary.BROKEN),
        level=round(100 * score.LEVEL),
    )


def _choices(rows: list[dict[str, Any]]) -> list[tuple[str, str, list[str]]]:
    """The filters: field of a row, label, values."""
    fields = {"scene": "Scene", "f": "f", "momentum": "Momentum", "mixing": "Mixing"}
    fields["family"] = "Family of the worst attack"
    return [
        (name, label, list(dict.fromkeys(str(row[name]) for row in rows)))
        for name, label in fields.items()
    ]


def _rows(runs: pd.DataFrame, board: pd.DataFrame) -> list[dict[str, Any]]:
    keys = ["rule", "mixing", *score.SCENE]
    parts = {key: part for key, part in runs.groupby(keys, sort=False)}
    ranks = board.groupby([*score.SCENE, "rank"], sort=False)["rank"].transform("size")
    out = []
    for place, line in enumerate(board.to_dict("records")):
        part = parts[tuple(line[name] for name in keys)]
        row = {name: line[name] for name in (*keys, "rank", "defence", "seeds", "attack")}
        row["scene"] = f"{line['dataset']}, {line['partition']}"
        row["tied"] = bool(ranks.iloc[place] > 1)
        for name in ("worst", "low", "high", "gap", "gap_low", "gap_high", "without"):
            row[name] = _number(line[name])
        for name in MEASURED:
            row[name] = _number(line.get(name))
        row["steps"] = int(part["steps"].max())
        row["version"] = str(part["version"].iloc[0]) if "version" in part else ""
        row["family"] = family(line["attack"])
        words = (line["defence"], *(line[name] for name in score.SCENE))
        row["id"] = "-".join(re.sub(r"[^\w.]+", "-", str(word)).strip("-") for word in words)
        row["points"] = [point._asdict() for point in _points(part)]
        out.append(row)
    # Rows that share a rank are in the order of their names, which says nothing about them.
    order = {scene: i for i, scene in enumerate(dict.fromkeys(map(_scene, out)))}
    return sorted(out, key=lambda row: (order[_scene(row)], row["rank"], row["defence"]))


def _scene(row: dict[str, Any]) -> tuple:
    return tuple(row[name] for name in score.SCENE)


def _points(part: pd.DataFrame) -> list[Point]:
    """A row under each attack, the worst first; the short runs of the other attacks after them."""
    under, points = part[part["s"] > 0], {}
    for stage in ("last", "first"):
        for attack, of in under[under["stage"] == stage].groupby("attack", sort=False):
            attack = str(attack)
            if attack in points:
                continue
            mine = score.resampled(of)
            low, high = map(_number, score.ends(mine.drawn))
            short = stage == "first"
            points[attack] = Point(attack, family(attack), round(mine.worst, 6), low, high, short)
    return sorted(points.values(), key=lambda point: (point.short, point.mean))


def _number(value: Any) -> float | str | None:
    """A number with six digits; None for NaN, and `"inf"` for infinity, which JSON lacks."""
    if value is None or pd.isna(value):
        return None
    return "inf" if np.isinf(value) else round(float(value), 6)
