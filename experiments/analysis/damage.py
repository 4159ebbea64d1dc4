"""The table of damage: `python -m experiments worst-case`."""

import math
import pathlib
from typing import Any

import jax
import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from tqdm import tqdm

import byzjax
from experiments.analysis.worst_case import Setting, WorstCase, measure, settings
from experiments.execution import claims, locks, store
from experiments.grid import calls, naming
from experiments.text import arguments as command_line
from experiments.text import columns

mpl.use("Agg")


def folder_of(config: WorstCase) -> pathlib.Path:
    """The folder of the results: `worst-case`, and another name for other options."""
    return pathlib.Path(config.results) / naming.folder_name("worst-case", config, "worst-case-")


def run(config: WorstCase) -> pd.DataFrame:
    """Measures what is missing, and returns one line per setting and attack.

    Raises:
      ValueError: an option is wrong, or the folder belongs to something else.
    """
    folder, lines = folder_of(config), []
    planned = settings(config)
    claims.write_command(folder, "worst-case", naming.decisive(config))
    for setting in tqdm(planned, unit="rule", ncols=columns.terminal_width() - 1):
        described: dict[str, Any] = {
            "rule": setting.rule,
            "data": setting.data,
            "n": setting.n,
            "f": setting.f,
            "d": setting.d,
            "steps": config.steps,
            "byzjax": byzjax.__version__,
            **({"code": code} if (code := calls.code([setting.rule])) else {}),
        }
        path = store.block_path(folder, described)
        if (content := store.read_block(path, ("damage", "bound"))) is None:
            content = _measured(setting, config, described, path)
        for attack, damage in content["damage"].items():
            lines.append(
                {
                    "data": setting.data,
                    "n": setting.n,
                    "d": setting.d,
                    "f": setting.f,
                    "at": setting.limit,
                    "rule": setting.label,
                    "attack": attack,
                    "damage": math.inf if damage is None else damage,
                    "bound": content["bound"],
                }
            )
    return pd.DataFrame(lines)


def _measured(
    setting: Setting, config: WorstCase, described: dict[str, Any], path: pathlib.Path
) -> dict[str, Any]:
    """The block of a setting, unless another process has measured it in the meantime."""
    words = f"{setting.rule} on {setting.data}"
    with locks.alone(path.parents[1] / "locks" / path.stem, words):
        if path.is_file() and (content := store.read_block(path, ("damage", "bound"))):
            return content
        content = described | measure(setting, config)
        content["environment"] = store.environment()
        store.write_json(path, content)
    jax.clear_caches()  # every rule is a separate program
    return content


def write(config: WorstCase, table: pd.DataFrame) -> list[pathlib.Path]:
    """Writes the table as CSV and one heatmap per set of updates; returns the paths."""
    folder = folder_of(config)
    paths = [folder / "damage.csv", folder / "summary.md"]
    table.to_csv(paths[0], index=False, float_format="%.5g")
    paths[1].write_text(summary(pd.read_csv(paths[0])))  # from the rounded numbers
    for (kind, n, d, at), part in table.groupby(["data", "n", "d", "at"], sort=False):
        path = folder / f"{kind}-{n}x{d}-{at}.png"
        half = "" if at == "limit" else "half "
        heatmap(part, f"{kind}, n = {n}, d = {d}, f at {half}the limit").savefig(path, dpi=130)
        paths.append(path)
    return paths


def summary(table: pd.DataFrame) -> str:
    """For each rule, the worst of the listed attacks, and the white-box attack, as Markdown."""
    parts = []
    for (kind, n, d), part in table.groupby(["data", "n", "d"], sort=False):
        lines = []
        for (rule, at), cells in part.groupby(["rule", "at"], sort=False):
            cells = cells.set_index("attack")["damage"]
            white_box, listed = cells["gradient_attack"], cells.drop("gradient_attack")
            bound = part[(part["rule"] == rule) & (part["at"] == at)].iloc[0]
            lines.append(
                {
                    "rule": rule,
                    "f": bound["f"],
                    "worst listed attack": "unbounded"
                    if math.isinf(listed.max())
                    else listed.idxmax(),
                    "its damage": _label(listed.max()),
                    "white box": _label(white_box),
                    "proved bound": "" if pd.isna(bound["bound"]) else _label(bound["bound"]),
                }
            )
        parts += [f"### {kind}, n = {n}, d = {d}", pd.DataFrame(lines).to_markdown(index=False)]
    return "\n\n".join(parts) + "\n"


def heatmap(part: pd.DataFrame, title: str) -> Figure:
    """Attacks against rules; colours by the logarithm, numbers in the cells, grey for missing."""
    wide = part.pivot(index="attack", columns="rule", values="damage")
    wide = wide.loc[part["attack"].unique(), part["rule"].unique()]
    figure = Figure(figsize=(0.34 * wide.shape[1] + 2.5, 0.24 * wide.shape[0] + 2), layout="tight")
    axes = figure.subplots()
    sns.heatmap(
        np.log10(wide.clip(0.1, 1000)),  # unbounded damage has the darkest colour
        ax=axes,
        annot=wide.map(_label),
        fmt="",
        cmap="rocket_r",
        vmin=-1,
        vmax=3,
        annot_kws={"size": 6.5},
        cbar_kws={"label": "log10 of the damage", "pad": 0.01, "fraction": 0.03},
    )
    axes.set_facecolor("0.9")
    axes.set(title=f"Damage in errors of the honest mean: {title}", xlabel="rule", ylabel="attack")
    axes.tick_params(axis="y", rotation=0, labelsize=8)
    axes.set_xticks(axes.get_xticks(), wide.columns, rotation=50, ha="right", fontsize=8)
    return figure


def _label(value: float) -> str:
    if math.isinf(value):
        return "∞"
    if value < 1e-3:
        return "0"
    if value >= 1000:
        return f"{value:.0e}".replace("e+", "e").replace("e0", "e")
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def main(arguments: list[str]) -> int:
    """Runs the table; returns the exit status."""
    config = command_line.parse(WorstCase, arguments, prog="python -m experiments worst-case")
    table = run(config)
    paths = write(config, table)
    worst = table[table["attack"] == "gradient_attack"]
    print(columns.of_frame(worst.drop(columns=["attack"]), "%.3g"))
    print("\n".join(str(path) for path in paths))
    print(f"Results: {folder_of(config)}")
    return 0
