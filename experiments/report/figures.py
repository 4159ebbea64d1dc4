"""Figures of a study: one function per kind."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.grid.config import Config
from experiments.report import panels, scenes
from experiments.report.scenes import Drawing, Scene
from experiments.text.names import counted


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The style of all figures, which are to be drawn and rendered inside this context."""
    look = {**sns.plotting_context("notebook"), **sns.axes_style("whitegrid")}
    # A fixed salt for identifiers, so that the same figure has the same bytes.
    with mpl.rc_context({**look, "svg.hashsalt": "byzjax", "svg.fonttype": "path"}):
        yield


def render(figure: Figure) -> tuple[str, bytes]:
    """A figure as SVG and as PNG, with reproducible bytes."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is computed once for both
    vector, raster = io.StringIO(), io.BytesIO()
    figure.savefig(vector, format="svg", metadata={"Date": None})
    figure.savefig(raster, format="png", dpi=130)
    lines = (line.rstrip() for line in vector.getvalue().splitlines())
    return "\n".join(lines) + "\n", raster.getvalue()


def make(data: pd.DataFrame, grids: Sequence[Config]) -> dict[str, Drawing]:
    """All figures of a study by name; empty ones are omitted.

    Args:
      data: the curves.
      grids: their grids, which give the settings that do not vary.
    """
    out: dict[str, Drawing] = {}
    if data.empty:
        return out
    kinds = {
        "accuracy_against_s": _against_s,
        "accuracy_against_step": _against_step,
        "accuracy_heatmap": _heatmap,
        "distance_to_optimum": _to_optimum,
        "influence": _influence,
        "variance_to_norm": _variance_to_norm,
    }
    out |= _setting_heatmaps(data, grids)
    for scene in scenes.scenes(data, grids):
        for name, draw in kinds.items():
            drawing = draw(scene)
            if drawing is not None:
                out[_file_name(name, scene.setting)] = drawing
    return out


def _file_name(kind: str, setting: dict[str, Any]) -> str:
    parts = [kind, *(f"{name}_{value}" for name, value in setting.items())]
    return re.sub(r"[^A-Za-z0-9.\-]+", "_", "_".join(parts)).strip("_")


# --- kinds of figures ----------------------------------------------------------------------------


def _against_s(scene: Scene) -> Drawing | None:
    ranges = panels.seed_range(scene.last, "accuracy", "s", ["defence", "attack"])
    every = np.unique(scene.last["s"])
    names = [attack for attack in scene.attacks if any(attack == key[1] for key in ranges)]
    if not names or len(every) < 2:
        return None
    columns, width = panels.fitted(len(names))
    figure, axes = panels.grid(
        names, columns, (width, 3.2), xlabel="liars s", ylabel="final test accuracy (%)"
    )
    # Bars of rules with equal results are shifted so that all stay visible.
    room = min(0.03 * np.ptp(every), 0.5 * np.diff(every).min())
    shifts = room * np.linspace(-0.5, 0.5, len(scene.defences))
    shown = {}
    for ax, attack in zip(axes, names):
        for (name, look), shift in zip(scene.defences.items(), shifts):
            parts = [ranges[key] for key in ((name, "none"), (name, attack)) if key in ranges]
            if not parts:
                continue
            line = 100 * pd.concat(parts)
            middle = line["mean"]
            ax.errorbar(
                line.index + (shift if len(scene.defences) > 1 else 0),
                middle,
                yerr=[(middle - line["min"]).clip(0), (line["max"] - middle).clip(0)],
                color=look.color,
                linestyle=look.linestyle,
                marker=look.marker,
                markersize=5,
                capsize=2,
                linewidth=1.5,
            )
            shown[name] = panels.handle(name, look, markers=True)
        panels.name(ax, attack, width)
        ax.set_ylim(0, 102)
        ax.set_xticks(every)
    panels.head(figure, f"{scene.title}: {scene.seeds('bars span')}")
    panels.below(figure, [shown[name] for name in scene.defences if name in shown])
    caption = (
        "Final test accuracy against the number s of Byzantine workers. Points are means over the "
        "seeds, bars range from the lowest to the highest seed."
    )
    return Drawing(figure, caption, scene.setting)


def _against_step(scene: Scene) -> Drawing | None:
    ranges = panels.seed_range(scene.data, "accuracy", "step", ["attack", "s", "defence"])
    if not ranges or scene.data["step"].nunique() < 2:
        return None
    some = sorted({key[1] for key in ranges if key[1] > 0})
    lines = [
        [(a, s) for a in scene.attacks if any(key[:2] == (a, s) for key in ranges)] for s in some
    ]
    lines = lines or [[("none", 0)]]
    columns, width = panels.fitted(max(map(len, lines)))
    places = panels.padded(lines, columns)
    figure, axes = panels.grid(
        places, columns, (width, 2.7), xlabel="step", ylabel="test accuracy (%)"
    )
    panels.along(axes, ranges, 0, 102)
    for ax, (attack, s) in zip(axes, (place for place in places if place)):
        for name, look in scene.defences.items():
            if (attack, s, name) in ranges:
                panels.line(ax, ranges[attack, s, name], look, scale=100)
        panels.name(ax, attack, width, f"s = {s}")
    panels.head(figure, f"{scene.title}: {scene.seeds('lines are means, bands span')}")
    panels.below(figure, [panels.handle(name, look) for name, look in scene.defences.items()])
    caption = (
        "Test accuracy against the step, for each attack and number s of Byzantine workers. Lines "
        "are means over the seeds, bands range from the lowest to the highest seed."
    )
    return Drawing(figure, caption, scene.setting)


def _to_optimum(scene: Scene) -> Drawing | None:
    if "to_optimum" not in scene.data:
        return None
    ranges = panels.seed_range(scene.data, "to_optimum", "step", ["attack", "s", "defence"])
    names = [("none", 0)] if any(key[:2] == ("none", 0) for key in ranges) else []
    most = max((key[1] for key in ranges), default=0)
    names += [(a, most) for a in scene.attacks if any(key[:2] == (a, most) for key in ranges)]
    if not names or scene.data["step"].nunique() < 2:
        return None
    columns, width = panels.fitted(len(names))
    label = "distance to the optimum"
    figure, axes = panels.grid(names, columns, (width, 2.7), xlabel="step", ylabel=label)
    axes[0].set_yscale("log")
    every = pd.concat(ranges.values())
    panels.along(axes, ranges, every["min"].min() / 1.4, every["max"].max() * 1.4)
    for ax, (attack, s) in zip(axes, names):
        for name, look in scene.defences.items():
            if (attack, s, name) in ranges:
                panels.line(ax, ranges[attack, s, name], look)
        panels.name(ax, attack, width, f"s = {s}")
    panels.head(figure, f"{scene.title}: {scene.seeds('lines are means, bands span')}")
    panels.below(figure, [panels.handle(name, look) for name, look in scene.defences.items()])
    caption = (
        "Distance from the model to the minimiser of the honest workers' mean loss against the "
        "step, without attack and for each attack at the largest s. Lines are means over the "
        "seeds, bands range from the lowest to the highest seed."
    )
    return Drawing(figure, caption, scene.setting)


def _heatmap(scene: Scene) -> Drawing | None:
    means = scene.last.groupby(["defence", "attack", "s"])["accuracy"].mean()
    some = sorted(s for s in scene.last["s"].unique() if s > 0)
    if not some or means.isna().all():
        return None
    by_s = {s: means[means.index.isin([0, s], level="s")].droplevel("s").unstack() for s in some}
    attacks = [a for a in ("none", *scene.attacks) if any(a in by_s[s].columns for s in some)]
    tables = {
        f"s = {counted(s, 'liar')}": by_s[s]
        .reindex(index=list(scene.defences), columns=attacks)
        .rename(columns={"none": "none (s = 0)"})
        for s in some
    }
    figure = panels.tables(tables, fmt=".1f")
    panels.head(figure, f"{scene.title}: final test accuracy (%), {scene.seeds('mean of')}")
    caption = (
        "Final test accuracy in per cent, mean over the seeds, for each number s of Byzantine "
        "workers."
    )
    return Drawing(figure, caption, scene.setting)


def _setting_heatmaps(data: pd.DataFrame, grids: Sequence[Config]) -> dict[str, Drawing]:
    """Tables of f against partition, if both vary; one figure per combination of other settings."""
    if not {"f", "partition"} <= set(scenes.settings(data)):
        return {}
    others = [name for name in scenes.settings(data) if name not in ("f", "partition")]
    last = scenes.final(data)
    keys = [*others, "f", "partition", "rule", "mixing", "attack", "s"]
    means = last.groupby(keys, sort=False, dropna=False)["accuracy"].mean()
    # The accuracy under the most damaging attack and s.
    least = means.groupby(level=keys[:-2], sort=False, dropna=False).min().reset_index()
    groups = least.groupby(others, sort=False, dropna=False) if others else [((), least)]
    out = {}
    for values, part in groups:
        setting = dict(zip(others, values))
        if part["f"].nunique() < 2 or part["partition"].nunique() < 2:
            continue
        if part["accuracy"].isna().all():
            continue
        partitions, faults = list(dict.fromkeys(part["partition"])), sorted(part["f"].unique())
        tables = {
            scenes.defence(rule, mixing): chosen.pivot(
                index="f", columns="partition", values="accuracy"
            ).reindex(index=faults, columns=partitions)
            for (rule, mixing), chosen in part.groupby(["rule", "mixing"], sort=False)
        }
        mixings = part["mixing"].nunique()  # one column per mixing, one row per rule
        most = mixings if 1 < mixings < len(tables) else None
        figure = panels.tables(tables, fmt=".1f", most=most, ylabel="f", xlabel="partition")
        title = scenes.title(setting, grids, without=("f",))
        panels.head(figure, f"{title}: final test accuracy (%) under the worst attack and s")
        caption = (
            "Final test accuracy in per cent, mean over the seeds, under the most damaging attack "
            "and number of Byzantine workers: declared faults f against the partition."
        )
        out[_file_name("worst_accuracy_f_partition", setting)] = Drawing(figure, caption, setting)
    return out


def _influence(scene: Scene) -> Drawing | None:
    attacked = scene.data[scene.data["s"] > 0]
    if attacked.empty or scene.data["step"].nunique() < 2:
        return None
    s = int(attacked["s"].max())
    ranges = panels.seed_range(
        attacked[attacked["s"] == s], "liars_influence", "step", ["attack", "defence"]
    )
    names = [attack for attack in scene.attacks if any(key[0] == attack for key in ranges)]
    if not names:
        return None
    columns, width = panels.fitted(len(names))
    figure, axes = panels.grid(
        names, columns, (width, 2.7), xlabel="step", ylabel="influence of the liars"
    )
    # Shares may be arbitrarily large where they cancel; the axis stays in a readable range.
    means = pd.concat(ranges.values())["mean"]
    low, high = min(0.0, means.min()), max(1.0, means.max())
    panels.along(axes, ranges, max(low, -1) - 0.05, min(high, 2) + 0.05)
    for ax, attack in zip(axes, names):
        ax.axhline(s / scene.n, color="0.35", linewidth=1.2, linestyle=(0, (2, 2)))
        for name, look in scene.defences.items():
            if (attack, name) in ranges:
                panels.line(ax, ranges[attack, name], look)
        panels.name(ax, attack, width)
    panels.head(
        figure,
        f"{scene.title}, s = {counted(s, 'liar')}: {scene.seeds('lines are means, bands span')}",
    )
    shown = [name for name in scene.defences if any(key[1] == name for key in ranges)]
    even = Line2D([], [], color="0.35", linewidth=1.2, linestyle=(0, (2, 2)), label="s / n")
    panels.below(figure, [*(panels.handle(name, scene.defences[name]) for name in shown), even])
    caption = (
        f"The share of the aggregate that comes from the s = {s} Byzantine workers, against the "
        "step, for each attack; the dotted line is s / n, their share of a mean. Lines are means "
        "over the seeds, bands range from the lowest to the highest seed."
    )
    return Drawing(figure, caption, scene.setting)


def _variance_to_norm(scene: Scene) -> Drawing | None:
    s = int(scene.data["s"].max())
    chosen = scene.data[scene.data["s"].isin([0, s]) & (scene.data["variance_to_norm"] > 0)]
    ranges = panels.seed_range(chosen, "variance_to_norm", "step", ["defence", "attack"])
    names = [name for name in scene.defences if any(key[0] == name for key in ranges)]
    if not names or scene.data["step"].nunique() < 2:
        return None
    columns, width = panels.fitted(len(names))
    figure, axes = panels.grid(
        names, columns, (width, 2.7), xlabel="step", ylabel="deviation / norm"
    )
    looks = {"none": panels.Look("0.25", "-", "o"), **scene.attacks}
    bounds = {
        scenes.defence(rule, mixing): scenes.threshold(rule, scene.n, scene.f)
        if mixing == "none"
        else None
        for rule, mixing in set(zip(scene.data["rule"], scene.data["mixing"]))
    }
    every = pd.concat(ranges.values())
    proved = [bound for name in names if (bound := bounds[name]) is not None]
    axes[0].set_yscale("log")
    low = min([every["min"].min(), *proved])
    high = max([every["max"].max(), *proved])
    panels.along(axes, ranges, low / 1.4, high * 1.4)
    for ax, name in zip(axes, names):
        for attack, look in looks.items():
            if (name, attack) in ranges:
                panels.line(ax, ranges[name, attack], look)
        bound = bounds[name]
        if bound is not None:
            ax.axhline(bound, color="black", linewidth=1.4, linestyle=(0, (2, 2)))
        panels.name(ax, name, width)
    panels.head(
        figure,
        f"{scene.title}, s = {counted(s, 'liar')}: {scene.seeds('lines are means, bands span')}",
    )
    shown = [attack for attack in looks if any(key[1] == attack for key in ranges)]
    handles = [panels.handle(attack, looks[attack]) for attack in shown]
    caption = (
        "Standard deviation of the honest updates divided by the norm of their mean, against the "
        "step, for each rule. "
    )
    if proved:
        label = "proved up to here"
        handles.append(
            Line2D([], [], color="black", linewidth=1.4, linestyle=(0, (2, 2)), label=label)
        )
        caption += (
            "The dotted line is the largest ratio for which the rule's resilience is proved, where "
            "one is published: above it there is no guarantee. "
        )
    panels.below(figure, handles)
    caption += "Lines are means over the seeds, bands range from the lowest to the highest seed."
    return Drawing(figure, caption, scene.setting)
