"""What the study `claims` says of AKSEL's abstract, claim by claim, from its finished blocks.

Every number, and every word that depends on one, is computed; `experiments.analysis.findings`
writes the result into docs/studies/README.md.
"""

import pathlib

import pandas as pd

from experiments import studies
from experiments.analysis import paired
from experiments.execution import export, store
from experiments.report import scenes, tables

# The loss of accuracy, against the attack-free mean of the same seed, that counts as top accuracy.
TOP = -0.01
AKSEL = ("aksel", "aksel(mode='n-f')", "aksel(mode='radius')")
COORDINATE_WISE = ("median", "trimmed_mean", "mean_around_median", "phocas")

Folder = pathlib.Path


def progress(name: str, blocks: list[dict]) -> str:
    """How many runs of the CPU edition are finished, `12 of 840 runs so far.`, as a sentence."""
    missing, planned = store.unfinished(studies.grids(name, "cpu"), blocks)
    return f"{planned - missing:,} of {planned:,} runs so far."


def finished(name: str, folder: Folder) -> list[dict]:
    """The exported blocks that belong to the CPU edition of a study."""
    return store.belonging(studies.grids(name, "cpu"), export.read(folder))


def claims(folder: Folder) -> str:
    """The answers of the study's CPU edition; none before all of its runs are finished."""
    blocks = finished("claims", folder)
    said = progress("claims", blocks)
    missing, _ = store.unfinished(studies.grids("claims", "cpu"), blocks)
    if missing:
        return f"{said} The answers are generated when all are finished."
    return "\n\n".join([said, *answers(tables.curves(blocks))])


def answers(curves: pd.DataFrame) -> list[str]:
    """One part for each claim."""
    settings = scenes.settings(curves)
    runs = paired.final(curves)
    return [
        _top(runs, settings),
        _defence(runs, settings),
        _whole_gradients(runs, settings),
        _modes(runs, settings),
    ]


def shortfalls(runs: pd.DataFrame, settings: list[str]) -> pd.DataFrame:
    """Each run's accuracy less that of the mean without attackers, of the same setting and seed."""
    keys = [*settings, "seed"]
    top = runs[(runs["defence"] == "mean") & (runs["s"] == 0)]
    both = runs.merge(top[[*keys, "accuracy"]], on=keys, suffixes=("", " of the mean"))
    return both.assign(shortfall=both["accuracy"] - both["accuracy of the mean"])


def _grouped(runs: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """The interval of a column over the seeds of each group."""
    lines = []
    for key, part in runs.groupby(keys, sort=False, dropna=False):
        lines.append(dict(zip(keys, key)) | paired.interval(part[column].to_numpy())._asdict())
    return pd.DataFrame(lines)


def _top(runs: pd.DataFrame, settings: list[str]) -> str:
    """Top accuracy for none or few liars."""
    few = shortfalls(runs, settings)
    few = few[few["s"] <= runs["s"].max() / 4]
    cells = _grouped(few, ["defence", "s", "attack", *settings], "shortfall")
    lines, reached = [], {}
    for defence, part in cells.groupby("defence", sort=False):
        line: dict[str, str] = {"rule": str(defence)}
        for s, of_s in part.groupby("s"):
            top, lower, unclear = paired.counts(of_s, TOP)
            line[f"s = {s}: top, lower, open"] = f"{top}, {lower}, {unclear}"
        reached[defence] = paired.counts(part, TOP)[0]
        line["largest loss"] = paired.shown(part.sort_values("mean", kind="stable").iloc[0])
        lines.append(line)
    sizes = cells.groupby("defence").size()
    per_rule = " to ".join(str(size) for size in sorted({sizes.min(), sizes.max()}))
    own = {name: reached[name] for name in AKSEL if name in reached}
    best = max(own.values(), default=0)
    rivals = [
        name for name, n in reached.items() if n >= best and name not in AKSEL and name != "mean"
    ]
    verdict = f"as many as {_listed(rivals)}, or fewer" if rivals else "more than any other rule"
    modes = ", ".join(f"`{name}` in {n}" for name, n in own.items())
    return "\n\n".join(
        [
            "**The only rule that reaches top accuracy when there are none or few Byzantine "
            f"workers.** Top accuracy: at most {-100 * TOP:.0f} point below the mean without "
            f"attackers, of the same seed. Of {per_rule} cells for each rule, the interval of the "
            f"difference lies above that: {modes}. The best mode: {verdict}.",
            _markdown(lines),
        ]
    )


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _markdown(lines: list[dict[str, str]]) -> str:
    return pd.DataFrame(lines).fillna("").to_markdown(index=False, disable_numparse=True)


def _beside(runs: pd.DataFrame, cells: list[str], others: list[str]) -> tuple[str, dict]:
    """Aksel's modes beside other rules: in how many cells ahead, behind and open, and the mean."""
    lines, totals = [], {}
    modes = [mode for mode in AKSEL if (runs["defence"] == mode).any()]
    of_mode = {
        mode: paired.against(runs[runs["defence"].isin([mode, *others])], "defence", mode, cells)
        for mode in modes
    }
    for other in others:
        line = {"rule": other}
        for mode, differences in of_mode.items():
            part = differences[differences["defence"] == other]
            behind, ahead, unclear = paired.counts(part)  # of the other rule
            old = totals.get(mode, (0, 0, 0))
            totals[mode] = tuple(a + b for a, b in zip(old, (ahead, behind, unclear)))
            points = -100 * part["mean"].mean()
            line[mode] = f"{ahead}, {behind}, {unclear}; {points:+.1f}"
        lines.append(line)
    return _markdown(lines), totals


def _in_words(totals: dict) -> str:
    return "; ".join(
        f"`{mode}` is ahead in {ahead}, behind in {behind}, neither in {unclear}"
        for mode, (ahead, behind, unclear) in totals.items()
    )


_CELLS = (
    "Numbers of cells in which the interval of Aksel's paired difference lies above zero, below "
    "zero, or contains it; then the mean difference in points."
)


def _defence(runs: pd.DataFrame, settings: list[str]) -> str:
    """A good defence for s = f."""
    attacked = runs[runs["s"] == runs["s"].max()]
    hardest = paired.worst(attacked, "attack", ["defence", *settings], "accuracy")
    others = [d for d in dict.fromkeys(runs["defence"]) if d not in AKSEL]
    table, totals = _beside(hardest, settings, others)
    return "\n\n".join(
        [
            "**While it maintains a good defence at s = f.** Of each seed, the accuracy under the "
            f"attack that leaves least: {_in_words(totals)}. {_CELLS}",
            table,
        ]
    )


def _whole_gradients(runs: pd.DataFrame, settings: list[str]) -> str:
    """Rules of whole gradients beside coordinate-wise ones, for few liars and for more."""
    others = [d for d in COORDINATE_WISE if (runs["defence"] == d).any()]
    few = runs["s"] <= runs["s"].max() / 4
    parts = [
        "**Coordinate-wise rules lose accuracy when s is much smaller than f.** Aksel, which "
        f"averages whole gradients, beside them. {_CELLS}"
    ]
    for where, some in (("s at most f / 4", runs[few]), ("more liars", runs[~few])):
        table, totals = _beside(some, ["s", "attack", *settings], others)
        parts += [f"With {where}: {_in_words(totals)}.", table]
    return "\n\n".join(parts)


def _modes(runs: pd.DataFrame, settings: list[str]) -> str:
    """Where the n - f nearest are better, and where those up to the middle one."""
    two = runs[runs["defence"].isin(AKSEL[:2])]
    cells = paired.against(two, "defence", AKSEL[0], ["s", "attack", *settings])
    wide, narrow, unclear = paired.counts(cells)
    lines = []
    for attack, part in cells.groupby("attack", sort=False):
        line: dict[str, str] = {"attack": str(attack)}
        for s, of_s in part.groupby("s"):
            above, below, both = paired.counts(of_s)
            line[f"s = {s}"] = f"{above}, {below}, {both}; {100 * of_s['mean'].mean():+.1f}"
        lines.append(line)
    order = cells.sort_values("mean", kind="stable")
    ends = [
        f"{_where(line, settings)}: {paired.shown(line)}"
        for _, line in pd.concat([order.head(3), order.tail(3)]).drop_duplicates().iterrows()
    ]
    return "\n\n".join(
        [
            f"**Where `n-f` and where `mid`.** Of {len(cells)} cells `n-f` is better in {wide}, "
            f"`mid` in {narrow}, and {unclear} are open. By attack and s: the numbers of cells "
            "with `n-f` better, `mid` better and open, then the mean of `n-f` less `mid` in "
            "points.",
            _markdown(lines),
            "The cells with the largest differences:",
            "\n".join(f"* {end}" for end in ends),
        ]
    )


def _where(line: pd.Series, settings: list[str]) -> str:
    named = scenes.say({name: line[name] for name in settings})
    return f"`{line['attack']}`, s = {line['s']}" + (f", {named}" if named else "")
