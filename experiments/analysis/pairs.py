"""Paired intervals of the studies that were run before `claims`, as tables for their page."""

import pathlib
from collections.abc import Sequence

import pandas as pd

from experiments.analysis import paired
from experiments.execution import export
from experiments.report import tables

Folder = pathlib.Path


def _runs(folder: Folder) -> pd.DataFrame:
    return paired.final(tables.curves(export.read(folder)))


def _table(
    differences: pd.DataFrame,
    rows: Sequence[str],
    columns: str,
    scale: float = 100,
    digits: int = 1,
) -> str:
    """Differences with intervals: rows by some columns, columns by the values of another."""
    cells: dict[tuple, dict[str, str]] = {}
    for _, line in differences.iterrows():
        cell = cells.setdefault(tuple(line[name] for name in rows), {})
        cell[str(line[columns])] = paired.shown(line, scale, digits)
    lines = [dict(zip(rows, key)) | cell for key, cell in cells.items()]
    return pd.DataFrame(lines).fillna("").to_markdown(index=False, disable_numparse=True)


def _said(differences: pd.DataFrame, what: str) -> str:
    above, below, unclear = paired.counts(differences)
    return (
        f"{what}, paired by seed, in points with the 95 % interval: above zero in {above} of "
        f"{len(differences)} cells, below in {below}; it contains zero in {unclear}."
    )


def momentum_differences(folder: Folder) -> pd.DataFrame:
    """Momentum at the workers less momentum of the update, for s > 0."""
    runs = _runs(folder)
    cells = ["f", "s", "rule", "attack"]
    return paired.against(runs[runs["s"] > 0], "momentum_at", "update", cells)


def momentum(folder: Folder) -> str:
    """`momentum_differences` as a table."""
    differences = momentum_differences(folder)
    what = _said(differences, "Momentum at the workers less momentum of the update")
    return f"{what}\n\n{_table(differences, ['f', 'rule'], 'attack')}"


def aksel_differences(folder: Folder) -> pd.DataFrame:
    """Aksel less each other rule, for s = 0 and s = f."""
    runs = _runs(folder)
    runs = runs[(runs["s"] == 0) | (runs["s"] == runs["f"])]
    differences = paired.against(runs, "rule", "aksel", ["f", "s", "attack"])
    low, high = -differences["high"], -differences["low"]
    turned = differences.drop(columns="better")  # counts seeds of the other sign
    return turned.assign(mean=-differences["mean"], low=low, high=high)


def aksel(folder: Folder) -> str:
    """`aksel_differences` as tables."""
    differences = aksel_differences(folder)
    parts = [_said(differences, "Aksel (`mid`) less each other rule, s = 0 and s = f")]
    for f, part in differences.groupby("f", sort=False):
        parts.append(f"f = {f}:\n\n{_table(part, ['rule'], 'attack')}")
    return "\n\n".join(parts)


def ranking_differences(folder: Folder) -> pd.DataFrame:
    """For each rule: its second worst attack less its worst one, by mean accuracy."""
    runs = _runs(folder)
    runs = runs[runs["attack"] != "none"]
    parts = []
    for _, part in runs.groupby("rule", sort=False):
        means = part.groupby("attack", sort=False)["accuracy"].mean().sort_values(kind="stable")
        first, second = means.index[:2]
        two = part[part["attack"].isin([first, second])]
        differences = paired.against(two, "attack", first, ["rule"])
        parts.append(differences.assign(worst=first, next=second))
    return pd.concat(parts, ignore_index=True)


def ranking(folder: Folder) -> str:
    """`ranking_differences` as a table."""
    lines = []
    differences = ranking_differences(folder)
    for _, line in differences.iterrows():
        lines.append(
            {
                "rule": line["rule"],
                "worst attack": f"`{line['worst']}`",
                "the next": f"`{line['next']}`",
                "accuracy under the next less that under the worst": paired.shown(line),
            }
        )
    what = _said(differences, "How far the worst attack of each rule is from the next")
    table = pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)
    return f"{what}\n\n{table}"


def convex_differences(folder: Folder) -> pd.DataFrame:
    """Distance to the optimum without attackers: each rule less the mean."""
    runs = _runs(folder)
    quiet = runs[runs["s"] == 0]
    return paired.against(quiet, "rule", "mean", ["dataset", "f"], metric="to_optimum")


def convex(folder: Folder) -> str:
    """`convex_differences` as a table."""
    differences = convex_differences(folder)
    above, below, unclear = paired.counts(differences)
    differences = differences.assign(
        of=[f"{d}, f = {f}" for d, f in zip(differences["dataset"], differences["f"])]
    )
    return (
        "Distance to the optimum less that of the mean, s = 0, paired by seed, with the 95 % "
        f"interval: above zero in {above} of {len(differences)} cells, below in {below}; it "
        f"contains zero in {unclear}.\n\n{_table(differences, ['rule'], 'of', scale=1, digits=2)}"
    )


def heterogeneity_differences(folder: Folder) -> pd.DataFrame:
    """Each mixing less none, of each seed under the attack that leaves least."""
    runs = _runs(folder)
    cells = ["rule", "mixing", "f", "partition"]
    hardest = paired.worst(runs[runs["s"] > 0], "attack", cells, "accuracy")
    return paired.against(hardest, "mixing", "none", ["rule", "f", "partition"])


def heterogeneity(folder: Folder) -> str:
    """`heterogeneity_differences` as a table."""
    differences = heterogeneity_differences(folder)
    what = _said(differences, "Accuracy under the worse attack with a mixing less that without one")
    return f"{what}\n\n{_table(differences, ['f', 'rule', 'mixing'], 'partition')}"


def protocol_differences(folder: Folder) -> pd.DataFrame:
    """Each protocol that aggregates with Aksel less one server, for each attack."""
    runs = _runs(folder)
    of_aksel = runs[runs["rule"].str.startswith("aksel")]
    return paired.against(of_aksel, "protocol", "parameter_server", ["s", "attack"])


def protocols(folder: Folder) -> str:
    """`protocol_differences` as a table."""
    differences = protocol_differences(folder)
    what = _said(differences, "Each protocol with Aksel less one server")
    return f"{what}\n\n{_table(differences, ['protocol'], 'attack')}"
