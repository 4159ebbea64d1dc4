"""The tables of docs/studies/README.md, generated from the blocks next to it.

    python -m experiments.analysis.findings docs/studies

Rewrites the text between `<!-- name -->` and `<!-- end of name -->`; a test checks that it agrees
with the files.
"""

import pathlib
import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments import studies
from experiments.analysis import abstract, losses, pairs
from experiments.execution import export, store
from experiments.report import bits, scenes, tables
from experiments.text.arguments import rewrite

Folder = pathlib.Path


def interval(line: pd.Series) -> str:
    """A mean in per cent with its 95 % confidence interval, `93.5 [93.1, 93.8]`."""
    low, high = max(0.0, line["low"]), min(1.0, line["high"])
    return f"{100 * line['mean']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _intervals(results: pd.DataFrame, index: list[str], columns: list[str]) -> pd.DataFrame:
    """Intervals with rows by `index` and columns by `columns`, in order of appearance."""
    cells = results.assign(cell=results.apply(interval, axis=1))
    rows = pd.MultiIndex.from_frame(cells[index].drop_duplicates())
    names = pd.MultiIndex.from_frame(cells[columns].drop_duplicates())
    out = cells.pivot(index=index, columns=columns, values="cell")
    out = out.reindex(
        index=rows if len(index) > 1 else rows.get_level_values(0),
        columns=names if len(columns) > 1 else names.get_level_values(0),
    )
    out.columns = [", ".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in out.columns]
    return out.fillna("").reset_index()


def momentum(folder: Folder) -> str:
    """Accuracy by where momentum is kept, for the largest number of Byzantine workers."""
    results = pd.read_csv(folder / "table.csv")
    attacked = results[results["s"] > 0]
    table = _intervals(attacked, ["f", "rule"], ["attack", "momentum_at"])
    return table.to_markdown(index=False)


def aksel(folder: Folder) -> str:
    """Accuracy of each rule with s = 0 and s = f."""
    results = pd.read_csv(folder / "table.csv")
    chosen = results[(results["s"] == 0) | (results["s"] == results["f"])]
    parts = []
    for f, part in chosen.groupby("f", sort=False):
        table = _intervals(part, ["rule"], ["attack"])
        parts.append(f"n = 51, f = {f}, s = 0 and s = {f}:\n\n{table.to_markdown(index=False)}")
    return "\n\n".join(parts)


def few_liars(folder: Folder) -> str:
    """Accuracy for 0 < s < f, in grids that have such s."""
    results = pd.read_csv(folder / "table.csv")
    some = results[(results["s"] > 0) & (results["s"] < results["f"])]
    tables = []
    for f, part in some.groupby("f", sort=False):
        table = _intervals(part, ["s", "rule"], ["attack"]).sort_values("s", kind="stable")
        tables.append(f"n = 51, f = {f}:\n\n{table.to_markdown(index=False)}")
    return "\n\n".join(tables)


def convex(folder: Folder) -> str:
    """Final distance to the optimum, and the rule's error on heterogeneous honest updates."""
    data = tables.curves(export.read(folder))
    last = scenes.final(data)
    variance = (last["variance_to_norm"] * last["honest_norm"]) ** 2
    honest = last["s"].rsub(25)
    last = last.assign(ratio=last["distance"] ** 2 / (variance * (honest - 1) / honest))
    lines = []
    for (dataset, f, rule), part in last.groupby(["dataset", "f", "rule"], sort=False):
        quiet, attacked = part[part["s"] == 0], part[part["s"] > 0]
        means = attacked.groupby("attack", sort=False)["to_optimum"].mean()
        lines.append(
            {
                "data": dataset,
                "f": f,
                "rule": rule,
                "distance to the optimum, s = 0": _spread(quiet["to_optimum"]),
                "farthest, s = f": f"{means.max():.2f}",
                "under": means.idxmax(),
                "squared error over variance, s = 0": _spread(quiet["ratio"]),
                "f / (n - f)": f"{f / (25 - f):.2f}",
            }
        )
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def _spread(values: pd.Series, digits: int = 2) -> str:
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"


def heterogeneity(folder: Folder) -> str:
    """Accuracy under the worst attack and s, by f and partition."""
    results = pd.read_csv(folder / "table.csv")
    results["defence"] = [scenes.defence(*p) for p in zip(results["rule"], results["mixing"])]
    keys = ["defence", "f", "partition"]
    worst = results.loc[results.groupby(keys, sort=False)["mean"].idxmin()]
    return _intervals(worst, ["f", "defence"], ["partition"]).to_markdown(index=False)


# Results of Karimireddy, He and Jaggi (ICLR 2022) for n = 25, f = 5, beta = 0.9, no bucketing.
PUBLISHED = {
    ("centered_clipping", "little_is_enough"): 98.0,
    ("centered_clipping", "inner_product_manipulation"): 97.6,
    ("geometric_median", "little_is_enough"): 11.4,
    ("geometric_median", "inner_product_manipulation"): 13.5,
}


def bucketing(folder: Folder) -> str:
    """Measured and published accuracies, both the mean of the last five evaluations."""
    lines = []
    data = tables.curves(export.read(folder))
    for (rule, attack), part in data.groupby(["rule", "attack"], sort=False):
        names = rule.partition("(")[0], attack.partition("(")[0]
        last = part.sort_values("step").groupby("seed")["accuracy"].tail(5)
        measured, published = 100 * last.mean(), PUBLISHED[names]
        lines.append(
            {
                "rule": rule,
                "attack": attack,
                "measured": f"{measured:.1f}",
                "published": f"{published:.1f}",
                "difference": f"{measured - published:+.1f}",
            }
        )
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def mimic(folder: Folder) -> str:
    """Accuracy under mimic so far, as the published one is computed: the last five evaluations."""
    blocks = abstract.finished("mimic", folder)
    said = _not_finished("mimic", folder)
    if not blocks:
        return said
    data = tables.curves(blocks).assign(partition=[p for b in blocks for p in _partitions(b)])
    run = ["partition", "rule", "mixing", "seed"]
    last = data.sort_values("step", kind="stable").groupby(run, sort=False).tail(5)
    means = 100 * last.groupby(run, sort=False)["accuracy"].mean()
    cells: dict[str, dict[str, str]] = {}
    for (partition, rule, mixing), seeds in means.groupby(run[:3], sort=False):
        text = f"{seeds.mean():.1f}" + (f" ± {seeds.std():.1f}" if len(seeds) > 1 else "")
        column = f"{partition}, " + ("no buckets" if mixing == "none" else mixing)
        cells.setdefault(rule, {})[column] = f"{text} ({len(seeds)})"
    lines = [{"rule": rule} | cell for rule, cell in cells.items()]
    table = pd.DataFrame(lines).fillna("").to_markdown(index=False, disable_numparse=True)
    return f"{said}\n\n{table}"


def _partitions(block: dict) -> list[str]:
    """The partition of a block, once for each line of its curves."""
    return [block["partition"]] * sum(len(run["step"]) for run in block["runs"])


def steps_to(data: pd.DataFrame, level: float) -> pd.Series:
    """Steps until the mean accuracy of each protocol reaches a level without Byzantine workers.

    Interpolates linearly between evaluations; NaN if the level is never reached, or already at the
    first evaluation.
    """
    quiet = data[data["s"] == 0]
    means = quiet.groupby(["protocol", "step"], sort=False)["accuracy"].mean()
    reached = {}
    for protocol, curve in means.groupby("protocol", sort=False):
        steps, accuracy = curve.index.get_level_values("step"), curve.to_numpy()
        above = np.flatnonzero(accuracy >= level)
        reached[protocol] = np.nan
        if len(above) and above[0]:
            ends = slice(above[0] - 1, above[0] + 1)
            reached[protocol] = np.interp(level, accuracy[ends], steps[ends])
    return pd.Series(reached)


def protocols(folder: Folder) -> str:
    """Accuracy under each attack, and the messages and time of a step."""
    data = tables.curves(export.read(folder))
    costs = pd.read_csv(folder.parents[1] / "benchmarks" / "protocols.csv").set_index("protocol")
    needed = steps_to(data, 0.92)
    lines = []
    for (protocol, rule), part in scenes.final(data).groupby(["protocol", "rule"], sort=False):
        cost = costs.loc[protocol if rule == "mean" else f"{protocol}, {rule}"]
        accuracy = (100 * part["accuracy"]).groupby(part["attack"], sort=False)
        lines.append(
            {"protocol": protocol, "rule": rule}
            | {attack: _spread(values, 1) for attack, values in accuracy}
            | {
                "steps to 92 %": f"{needed[protocol]:.0f}",
                "messages": f"{cost['messages']:.0f}",
                "million floats": f"{cost['million floats']:.1f}",
                "ms": f"{cost['ms a step']:.2f}",
            }
        )
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def compression(folder: Folder) -> str:
    """Accuracy of each rule and compressor, and the bits sent as a share of all."""
    if not (folder / "table.csv").exists():
        return _not_finished("compression", folder)
    results = pd.read_csv(folder / "table.csv")
    whole, lines = results["bits"].max(), []
    for (rule, compressor), part in results.groupby(["rule", "compressor"], sort=False):
        bits = {"bits": f"{100 * part['bits'].iloc[0] / whole:.1f} %"}
        cells = {row["attack"]: tables.cell(row) for _, row in part.iterrows()}
        lines.append({"rule": rule, "compressor": compressor} | bits | cells)
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def privacy(folder: Folder) -> str:
    """Accuracy of each rule and noise multiplier, without attackers and with s = f."""
    if not (folder / "table.csv").exists():
        return _not_finished("privacy", folder)
    results = pd.read_csv(folder / "table.csv")
    chosen = results[results["s"].isin((0, results["s"].max()))]
    lines = []
    keys = ["noise_multiplier", "mixing", "rule"]
    for (noise, mixing, rule), part in chosen.groupby(keys, sort=False):
        defence = rule if mixing == "none" else f"{mixing} + {rule}"
        cells = {row["attack"]: tables.cell(row) for _, row in part.iterrows()}
        lines.append({"noise multiplier": f"{noise:g}", "rule": defence} | cells)
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def diloco(folder: Folder) -> str:
    """The losses of each rule, attack and number of local steps, when all runs are finished."""
    blocks = abstract.finished("diloco", folder)
    if store.unfinished(studies.grids("diloco", "cpu"), blocks)[0]:
        return _not_finished("diloco", folder)
    return losses.written(tables.curves(blocks), bits.per_step(blocks[0]))


def _not_finished(name: str, folder: Folder) -> str:
    """How many runs of a study are finished."""
    return f"{abstract.progress(name, abstract.finished(name, folder))} Not compared with anything."


# Each part of the page: the folder of its data, and the function that generates it.
PARTS: dict[str, tuple[str, Callable[[Folder], str]]] = {
    "momentum": ("momentum-cpu", momentum),
    "aksel": ("aksel-cpu", aksel),
    "few liars": ("aksel-cpu", few_liars),
    "convex": ("convex-cpu", convex),
    "heterogeneity": ("heterogeneity-cpu", heterogeneity),
    "bucketing": ("bucketing-cpu", bucketing),
    "protocols": ("protocols-cpu", protocols),
    "mimic": ("mimic-cpu", mimic),
    "claims": ("claims-cpu", abstract.claims),
    "compression": ("compression-cpu", compression),
    "privacy": ("privacy-cpu", privacy),
    "diloco": ("diloco-cpu", diloco),
    "ranking, paired": ("attacks-cpu", pairs.ranking),
    "momentum, paired": ("momentum-cpu", pairs.momentum),
    "aksel, paired": ("aksel-cpu", pairs.aksel),
    "convex, paired": ("convex-cpu", pairs.convex),
    "heterogeneity, paired": ("heterogeneity-cpu", pairs.heterogeneity),
    "protocols, paired": ("protocols-cpu", pairs.protocols),
}


def written(
    page: str, folder: Folder, parts: dict[str, tuple[str, Callable[[Folder], str]]] = PARTS
) -> str:
    """The page with its tables regenerated from the folder; parts not on the page are skipped.

    Raises:
      FileNotFoundError: the page has a part whose study is missing.
    """
    for name, (study, table) in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if pattern.search(page):
            content = f"{begin}\n\n{table(folder / study)}\n\n{end}"
            page = pattern.sub(lambda _, content=content: content, page)
    return page


if __name__ == "__main__":
    rewrite("README.md", written, __doc__)
