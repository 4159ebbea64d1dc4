"""What a study found: tables as CSV and on the terminal, curves, and figures."""

import pathlib
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from experiments.config import Config

mpl.use("Agg")


def curves(blocks: list[dict[str, Any]]) -> pd.DataFrame:
    """One line for each evaluation of each run."""
    rows = []
    for block in blocks:
        for run in block["runs"]:
            columns = zip(run["step"], run["accuracy"], run["loss"], run["finite"])
            for step, accuracy, loss, finite in columns:
                rows.append(
                    {
                        "rule": block["rule"],
                        "attack": block["attack"],
                        "s": run["s"],
                        "seed": run["seed"],
                        "step": step,
                        "accuracy": accuracy,
                        "loss": loss,
                        "finite": finite,
                    }
                )
    return pd.DataFrame(rows)


def table(data: pd.DataFrame) -> pd.DataFrame:
    """Final test accuracy: mean, standard deviation, least and most over the seeds."""
    last = data[data["step"] == data["step"].max()]
    groups = last.groupby(["rule", "attack", "s"], sort=False)
    out = groups["accuracy"].agg(["mean", "std", "min", "max"]).reset_index()
    out["seeds"] = groups["seed"].nunique().to_numpy()
    out["diverged"] = groups["finite"].agg(lambda finite: int((~finite).sum())).to_numpy()
    return out


def _cell(row: pd.Series) -> str:
    text = f"{100 * row['mean']:.1f}"
    if row["seeds"] > 1:
        text += f" ± {100 * row['std']:.1f}"
    return text + (" (NaN)" if row["diverged"] else "")


def wide_table(results: pd.DataFrame, s: int) -> pd.DataFrame:
    """Rules against attacks for one number of liars, as text in per cent."""
    chosen = results[(results["s"] == s) | (results["attack"] == "none")].copy()
    chosen["text"] = chosen.apply(_cell, axis=1)
    out = chosen.pivot(index="rule", columns="attack", values="text")
    out = out.reindex(index=chosen["rule"].unique(), columns=chosen["attack"].unique())
    return out.fillna("")


def text(results: pd.DataFrame) -> str:
    """The tables as they are printed: one for each number of liars."""
    some = sorted(s for s in results["s"].unique() if s > 0)
    parts = []
    for s in some or [0]:
        parts.append(f"Final test accuracy in per cent, mean ± standard deviation, s = {s} liars:")
        parts.append(wide_table(results, s).to_markdown())
    if results["diverged"].any():
        parts.append("(NaN): the model of at least one seed is not finite.")
    return "\n\n".join(parts)


def write(config: Config, blocks: list[dict[str, Any]]) -> pd.DataFrame:
    """Writes table.csv, curves.csv, table.md and the figures; returns the table."""
    folder = pathlib.Path(config.results) / config.study
    data = curves(blocks)
    results = table(data)
    results.round(6).to_csv(folder / "table.csv", index=False)
    data.to_csv(folder / "curves.csv", index=False)
    (folder / "table.md").write_text(text(results) + "\n")
    for name, figure in figures(config, data).items():
        for ending in ("png", "svg"):
            figure.savefig(folder / f"{name}.{ending}", dpi=130, bbox_inches="tight")
    return results


def figures(config: Config, data: pd.DataFrame) -> dict[str, Figure]:
    """The figures by name: accuracy against s, and accuracy against step, for each attack."""
    sns.set_theme(style="whitegrid", context="notebook")
    rules = list(dict.fromkeys(data["rule"]))
    palette = [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 4, 9, 3, 7, 8, 5, 6)]
    colors = {rule: palette[i % len(palette)] for i, rule in enumerate(rules)}
    last = data[data["step"] == data["step"].max()]
    attacks = [a for a in dict.fromkeys(data["attack"]) if a != "none"]
    out = {}
    if attacks:
        out["accuracy_against_s"] = _against_s(config, last, attacks, rules, colors)
    out["accuracy_against_step"] = _against_step(config, data, attacks, rules, colors)
    return out


def _title(config: Config) -> str:
    return f"{config.dataset}, {config.model}, n = {config.n}, f = {config.f}"


def _legend(figure: Figure, ax: Any) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=len(labels))


def _against_s(config: Config, last: pd.DataFrame, attacks, rules, colors) -> Figure:
    figure = Figure(figsize=(4.0 * len(attacks), 3.6), layout="constrained")
    axes = figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    for ax, attack in zip(axes, attacks):
        for i, rule in enumerate(rules):
            chosen = last[(last["rule"] == rule) & ((last["attack"] == attack) | (last["s"] == 0))]
            groups = chosen.groupby("s")["accuracy"]
            middle, low, high = groups.mean(), groups.min(), groups.max()
            shift = 0.06 * (i - (len(rules) - 1) / 2)  # so that bars of equal rules stay visible
            ax.errorbar(
                middle.index + shift,
                100 * middle,
                yerr=[100 * (middle - low).clip(0), 100 * (high - middle).clip(0)],
                label=rule,
                color=colors[rule],
                marker="osD^vP*X"[i % 8],
                markersize=5,
                capsize=2,
                linewidth=1.5,
            )
        ax.set(title=attack, xlabel="liars s", ylim=(0, 102))
        ax.set_xticks(sorted(last["s"].unique()))
    axes[0].set_ylabel("final test accuracy (%)")
    figure.suptitle(f"{_title(config)}: bars span {config.seeds} seeds")
    _legend(figure, axes[0])
    return figure


def _against_step(config: Config, data: pd.DataFrame, attacks, rules, colors) -> Figure:
    some = sorted(s for s in data["s"].unique() if s > 0) if attacks else []
    panels = [(a, s) for s in some for a in attacks] or [("none", 0)]
    columns = max(1, len(attacks))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.6, 2.8 * lines + 0.8), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax, (attack, s) in zip(axes.flat, panels):
        for rule in rules:
            chosen = data[(data["rule"] == rule) & (data["attack"] == attack) & (data["s"] == s)]
            groups = chosen.groupby("step")["accuracy"]
            ax.plot(100 * groups.mean(), label=rule, color=colors[rule], linewidth=1.5)
            low, high = 100 * groups.min(), 100 * groups.max()
            ax.fill_between(low.index, low, high, color=colors[rule], alpha=0.15, linewidth=0)
        ax.set_title(f"{attack}, s = {s}", fontsize=10)
        ax.set_ylim(0, 102)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy (%)")
    figure.suptitle(f"{_title(config)}: lines are means, bands span {config.seeds} seeds")
    _legend(figure, axes[0, 0])
    return figure
