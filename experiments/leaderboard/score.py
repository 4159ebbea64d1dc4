"""Scores of the leaderboard: the worst accuracy over attacks, its gap, and ranks by intervals."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

import byzjax
from byzjax import theory
from experiments.grid import calls, planning
from experiments.grid.config import Config
from experiments.leaderboard import editions
from experiments.report import scenes, summary

SCENE = editions.SCENE
COLUMNS = (
    *("rule", "mixing", "attack", "s", "seed", *SCENE),
    *("steps", "stage", "audited", "kept", "accuracy"),
)
# Columns that older tables lack: the version of the rule, the damage of one attacked step, the
# proved kappa, milliseconds of one aggregation, and the attack success rate under a backdoor.
MORE = ("version", "damage", "kappa", "ms", "attack_success")
RESAMPLES = 2000
LEVEL = 0.95


def key(line: Any) -> tuple:
    """The row of the leaderboard that a finished block or a line of a table belongs to."""
    return line["rule"], line["mixing"], *(line[name] for name in SCENE)


def under_attack(block: dict[str, Any]) -> float | None:
    """The mean final accuracy of the runs with attackers; None without any."""
    values = [run["accuracy"][-1] for run in block["runs"] if run["s"] > 0]
    return sum(values) / len(values) if values else None


def lines(
    grids: Sequence[Config],
    blocks: Sequence[dict[str, Any]],
    kept: Mapping[tuple, Sequence[str]],
    stage: str,
    audit: int = 10,
) -> pd.DataFrame:
    """One line per run of one stage.

    Args:
      grids: the grids, one for each row.
      blocks: their finished blocks.
      kept: the attacks of each row that the thinning keeps.
      stage: `"first"`, while attacks are thinned, or `"last"`, at full length.
      audit: one row in so many is audited.

    Raises:
      ValueError: a run is missing.
    """
    audited = {editions.key_of(grid): editions.audited(grid, audit) for grid in grids}
    out = []
    for block in blocks:
        row = key(block)
        for run in block["runs"]:
            of_run = {name: block[name] for name in ("rule", "mixing", "attack")}
            of_run |= {"s": run["s"], "seed": run["seed"], **dict(zip(SCENE, row[2:]))}
            of_run |= {"steps": block["steps"], "stage": stage, "audited": audited[row]}
            of_run |= {"kept": block["attack"] in (*kept[row], "none")}
            of_run |= {"accuracy": run["accuracy"][-1], "version": version(block)}
            of_run |= {"kappa": kappa(block["rule"], block["mixing"], block["n"], block["f"])}
            success = run.get("attack_success") or [None]
            out.append(of_run | {"attack_success": success[-1]})
    planned = sum(len(block.runs) for grid in grids for block in planning.recorded(grid))
    if len(out) != planned:
        raise ValueError(f"{planned - len(out)} of {planned} runs are missing; repeat `run` first.")
    return pd.DataFrame(out, columns=[*COLUMNS, *MORE])


def version(block: dict[str, Any]) -> str:
    """The version of a row: that of byzjax, for a rule of your own the hash of its source."""
    return block.get("code") or f"byzjax {block.get('environment', {}).get('byzjax', '')}"


class Resampled(NamedTuple):
    """The worst accuracy of a row, of the seeds and of each resampling of them.

    Attributes:
      worst: the lowest mean over the seeds.
      attack: where it occurs.
      drawn: the same of `RESAMPLES` resamplings, `[RESAMPLES]`, the same for all rows.
    """

    worst: float
    attack: str
    drawn: np.ndarray


def resampled(part: pd.DataFrame) -> Resampled:
    """The worst accuracy of one row over its attacks, with s = f.

    Raises:
      ValueError: the seeds of two attacks differ.
    """
    wide = part.pivot(index="attack", columns="seed", values="accuracy")
    if wide.isna().to_numpy().any():
        raise ValueError("seeds are missing for some attacks; expected the same for all.")
    values = wide.to_numpy()

    def statistic(seeds: np.ndarray, axis: int) -> np.ndarray:
        return values[:, seeds].mean(axis=axis).min(axis=0)

    means = wide.mean(axis=1)
    count = values.shape[1]
    drawn = np.full(RESAMPLES, np.nan)
    if count > 1:
        drawn = stats.bootstrap(
            (np.arange(count),),
            statistic,
            vectorized=True,
            method="percentile",
            n_resamples=RESAMPLES,
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
    return Resampled(float(means.min()), str(means.idxmin()), drawn)


def ends(drawn: np.ndarray) -> tuple[float, float]:
    """The ends of the percentile interval; NaN for a single seed."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """The leaderboard: one line per row and scene.

    Of every row: the worst accuracy over the attacks with s = f, mean over the seeds, and its 95 %
    interval by the paired bootstrap over seeds; `gap`, the accuracy of the mean without attackers
    less that, with its interval; the attack; the accuracy without attackers; the proved kappa.
    `rank` is 1 plus the number of rows whose worst accuracy less that of this row has an interval
    above zero, so rows that the seeds do not separate share a rank.

    Args:
      runs: those of `lines`.
    """
    out, runs = [], runs[runs["stage"] == "last"]
    for scene, part in runs.groupby(list(SCENE), sort=False):
        where = dict(zip(SCENE, scene))
        quiet = part[part["s"] == 0]
        mean = resampled(quiet[(quiet["rule"] == "mean") & (quiet["mixing"] == "none")])
        under = part[part["s"] > 0]
        scored = {key: resampled(of) for key, of in under.groupby(["rule", "mixing"], sort=False)}
        for (rule, mixing), score in scored.items():
            gap = mean.drawn - score.drawn
            above = sum(ends(other.drawn - score.drawn)[0] > 0 for other in scored.values())
            alone = quiet[(quiet["rule"] == rule) & (quiet["mixing"] == mixing)]
            low, high = ends(score.drawn)
            gap_low, gap_high = ends(gap)
            out.append(
                {
                    **where,
                    "rank": 1 + above,
                    "rule": rule,
                    "mixing": mixing,
                    "defence": scenes.defence(rule, mixing),
                    "worst": score.worst,
                    "low": low,
                    "high": high,
                    "attack": score.attack,
                    "gap": mean.worst - score.worst,
                    "gap_low": gap_low,
                    "gap_high": gap_high,
                    "without": float(alone["accuracy"].mean()),
                    "kappa": kappa(rule, mixing, where["n"], where["f"]),
                    "seeds": part["seed"].nunique(),
                    **_more(under[(under["rule"] == rule) & (under["mixing"] == mixing)]),
                }
            )
    board = pd.DataFrame(out)
    keys = [board[name].map(dict(zip(board[name].unique(), range(len(board))))) for name in SCENE]
    order = np.lexsort((-board["worst"], board["rank"], *reversed(keys)))
    return board.iloc[order].reset_index(drop=True)


def _more(row: pd.DataFrame) -> dict[str, float]:
    """The largest damage and success rate, and the milliseconds of a row; those that are known."""
    by_seed = (
        {"attack_success": row.groupby("attack")["attack_success"].mean()}
        if ("attack_success" in row)
        else {}
    )
    return {
        name: by_seed.get(name, row[name]).max()
        for name in ("damage", "ms", "attack_success")
        if name in row and row[name].notna().any()
    }


def kappa(rule: str, mixing: str, n: int, f: int) -> float | None:
    """The proved kappa of a rule without a mixing; None if there is none."""
    name, given = calls.parse_call(rule)
    if mixing != "none" or name not in byzjax.rules.__all__:
        return None
    return theory.proved("kappa", name, n, f, **given)


class Audit(NamedTuple):
    """What the thinning of attacks lost in the audited rows.

    Attributes:
      rows: their number.
      lost: those whose worst attack would not have been kept.
      most: the most by which the worst accuracy would have been too high.
    """

    rows: int
    lost: int
    most: float


def audit(runs: pd.DataFrame) -> Audit:
    """Compares the worst of all attacks with the worst of those that the thinning keeps."""
    audited = runs[runs["audited"] & (runs["s"] > 0) & (runs["stage"] == "last")]
    excess = []
    for _, part in audited.groupby(["rule", "mixing", *SCENE]):
        means = part.groupby(["attack", "kept"])["accuracy"].mean().reset_index()
        excess.append(means.loc[means["kept"], "accuracy"].min() - means["accuracy"].min())
    return Audit(len(excess), sum(e > 0 for e in excess), float(max(excess, default=0.0)))


class Broken(NamedTuple):
    """What an attack does that no other attack of a table does, as defences with their scenes.

    Attributes:
      rows: their number.
      alone: those that it breaks and no other attack breaks: they keep less than `summary.BROKEN`
        of their accuracy without attackers.
      worst: those whose accuracy is lower than under every other attack, with a paired interval of
        each difference below zero.
    """

    rows: int
    alone: list[str]
    worst: list[str]


def broken(runs: pd.DataFrame, attack: str) -> Broken:
    """Compares an attack with all others, row by row.

    Args:
      runs: runs at full length, as `engine.under_others` returns them.
      attack: the attack.
    """
    alone, worst, rows = [], [], 0
    for (rule, mixing, *scene), part in runs.groupby(["rule", "mixing", *SCENE], sort=False):
        under = part[part["s"] > 0]
        if attack not in set(under["attack"]) or under["attack"].nunique() < 2:
            continue
        rows += 1
        where = ", ".join(f"{name} {value}" for name, value in zip(SCENE, scene))
        text = f"{scenes.defence(rule, mixing)} ({where})"
        level = summary.BROKEN * part.loc[part["s"] == 0, "accuracy"].mean()
        of = {name: resampled(p) for name, p in under.groupby("attack", sort=False)}
        mine = of.pop(attack)
        if mine.worst < level <= min(other.worst for other in of.values()):
            alone.append(text)
        if all(ends(mine.drawn - other.drawn)[1] < 0 for other in of.values()):
            worst.append(text)
    return Broken(rows, alone, worst)
