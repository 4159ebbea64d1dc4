"""What the curves of a study look like: one function for each kind of figure."""

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


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look of all figures, to be made and rendered inside of it."""
    look = {**sns.plotting_context("notebook"), **sns.axes_style("whitegrid")}
    # The same figure has the same bytes: identifiers are hashed with this, not with a random salt.
    with mpl.rc_context({**look, "svg.hashsalt": "byzjax", "svg.fonttype": "path"}):
        yield


def render(figure: Figure) -> tuple[str, bytes]:
    """A figure as SVG and as PNG; the same one has the same bytes each time."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # as it lies now: once is enough for both
    vector, raster = io.StringIO(), io.BytesIO()
    figure.savefig(vector, format="svg", metadata={"Date": None})
    figure.savefig(raster, format="png", dpi=130)
    lines = (line.rstrip() for line in vector.getvalue().splitlines())
    return "\n".join(lines) + "\n", raster.getvalue()


def make(data: pd.DataFrame, grids: Sequence[Config]) -> dict[str, Drawing]:
    """All figures of a study by name; one that has nothing to show is not there.

    Args:
      data: the curves.
      grids: the grids that they are of; they say what does not vary.
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
    found = panels.seed_range(scene.last, "accuracy", "s", ["defence", "attack"])
    every = np.unique(scene.last["s"])
    names = [attack for attack in scene.attacks if any(attack == key[1] for key in found)]
    if not names or len(every) < 2:
        return None
    columns, width = panels.fitted(len(names))
    figure, axes = panels.grid(
        names, columns, (width, 3.2), xlabel="liars s", ylabel="final test accuracy (%)"
    )
    # Bars of equal rules stand beside each other and stay visible.
    room = min(0.03 * np.ptp(every), 0.5 * np.diff(every).min())
    shifts = room * np.linspace(-0.5, 0.5, len(scene.defences))
    shown = {}
    for ax, attack in zip(axes, names):
        for (name, look), shift in zip(scene.defences.items(), shifts):
            parts = [found[key] for key in ((name, "none"), (name, attack)) if key in found]
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
        "Final test accuracy against the number of liars s. Points are means over the seeds, "
        "bars go from the lowest to the highest seed."
    )
    return Drawing(figure, caption, scene.setting)


def _against_step(scene: Scene) -> Drawing | None:
    found = panels.seed_range(scene.data, "accuracy", "step", ["attack", "s", "defence"])
    if not found or scene.data["step"].nunique() < 2:
        return None
    some = sorted({key[1] for key in found if key[1] > 0})
    lines = [
        [(a, s) for a in scene.attacks if any(key[:2] == (a, s) for key in found)] for s in some
    ]
    lines = lines or [[("none", 0)]]
    columns, width = panels.fitted(max(map(len, lines)))
    places = panels.padded(lines, columns)
    figure, axes = panels.grid(
        places, columns, (width, 2.7), xlabel="step", ylabel="test accuracy (%)"
    )
    panels.along(axes, found, 0, 102)
    for ax, (attack, s) in zip(axes, (place for place in places if place)):
        for name, look in scene.defences.items():
            if (attack, s, name) in found:
                panels.line(ax, found[attack, s, name], look, scale=100)
        panels.name(ax, attack, width, f"s = {s}")
    panels.head(figure, f"{scene.title}: {scene.seeds('lines are means, bands span')}")
    panels.below(figure, [panels.handle(name, look) for name, look in scene.defences.items()])
    caption = (
        "Test accuracy against the step, for each attack and number of liars s. Lines are means "
        "over the seeds, bands go from the lowest to the highest seed."
    )
    return Drawing(figure, caption, scene.setting)


def _to_optimum(scene: Scene) -> Drawing | None:
    if "to_optimum" not in scene.data:
        return None
    found = panels.seed_range(scene.data, "to_optimum", "step", ["attack", "s", "defence"])
    names = [("none", 0)] if any(key[:2] == ("none", 0) for key in found) else []
    most = max((key[1] for key in found), default=0)
    names += [(a, most) for a in scene.attacks if any(key[:2] == (a, most) for key in found)]
    if not names or scene.data["step"].nunique() < 2:
        return None
    columns, width = panels.fitted(len(names))
    label = "distance to the optimum"
    figure, axes = panels.grid(names, columns, (width, 2.7), xlabel="step", ylabel=label)
    axes[0].set_yscale("log")
    every = pd.concat(found.values())
    panels.along(axes, found, every["min"].min() / 1.4, every["max"].max() * 1.4)
    for ax, (attack, s) in zip(axes, names):
        for name, look in scene.defences.items():
            if (attack, s, name) in found:
                panels.line(ax, found[attack, s, name], look)
        panels.name(ax, attack, width, f"s = {s}")
    panels.head(figure, f"{scene.title}: {scene.seeds('lines are means, bands span')}")
    panels.below(figure, [panels.handle(name, look) for name, look in scene.defences.items()])
    caption = (
        "Distance of the model to the minimiser of the honest workers' mean loss against the step, "
        "without liars and for each attack of most of them. Lines are means over the seeds, bands "
        "go from the lowest to the highest seed."
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
        f"s = {s} liars": by_s[s]
        .reindex(index=list(scene.defences), columns=attacks)
        .rename(columns={"none": "none (s = 0)"})
        for s in some
    }
    figure = panels.tables(tables, fmt=".1f")
    panels.head(figure, f"{scene.title}: final test accuracy (%), {scene.seeds('mean of')}")
    caption = "Final test accuracy in per cent, mean over the seeds, for each number of liars s."
    return Drawing(figure, caption, scene.setting)


def _setting_heatmaps(data: pd.DataFrame, grids: Sequence[Config]) -> dict[str, Drawing]:
    """Tables of f against partition, where both vary; one figure for each other setting."""
    if not {"f", "partition"} <= set(scenes.settings(data)):
        return {}
    others = [name for name in scenes.settings(data) if name not in ("f", "partition")]
    last = scenes.final(data)
    keys = [*others, "f", "partition", "rule", "mixing", "attack", "s"]
    means = last.groupby(keys, sort=False, dropna=False)["accuracy"].mean()
    # What is left under the attack and the number of liars that hurt most.
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
        mixings = part["mixing"].nunique()  # side by side, a rule's below each other's
        most = mixings if 1 < mixings < len(tables) else None
        figure = panels.tables(tables, fmt=".1f", most=most, ylabel="f", xlabel="partition")
        title = scenes.title(setting, grids, without=("f",))
        panels.head(figure, f"{title}: final test accuracy (%) under the worst attack and s")
        caption = (
            "Final test accuracy in per cent, mean over the seeds, under the attack and the number "
            "of liars that leave least of it: declared faults f against how samples are dealt out."
        )
        out[_file_name("worst_accuracy_f_partition", setting)] = Drawing(figure, caption, setting)
    return out


def _influence(scene: Scene) -> Drawing | None:
    attacked = scene.data[scene.data["s"] > 0]
    if attacked.empty or scene.data["step"].nunique() < 2:
        return None
    s = int(attacked["s"].max())
    found = panels.seed_range(
        attacked[attacked["s"] == s], "liars_influence", "step", ["attack", "defence"]
    )
    names = [attack for attack in scene.attacks if any(key[0] == attack for key in found)]
    if not names:
        return None
    columns, width = panels.fitted(len(names))
    figure, axes = panels.grid(
        names, columns, (width, 2.7), xlabel="step", ylabel="influence of the liars"
    )
    # Shares may be any number where they cancel; the axis keeps to what can be read.
    means = pd.concat(found.values())["mean"]
    low, high = min(0.0, means.min()), max(1.0, means.max())
    panels.along(axes, found, max(low, -1) - 0.05, min(high, 2) + 0.05)
    for ax, attack in zip(axes, names):
        ax.axhline(s / scene.n, color="0.35", linewidth=1.2, linestyle=(0, (2, 2)))
        for name, look in scene.defences.items():
            if (attack, name) in found:
                panels.line(ax, found[attack, name], look)
        panels.name(ax, attack, width)
    panels.head(
        figure,
        f"{scene.title}, s = {s} liars: {scene.seeds('lines are means, bands span')}",
    )
    shown = [name for name in scene.defences if any(key[1] == name for key in found)]
    even = Line2D([], [], color="0.35", linewidth=1.2, linestyle=(0, (2, 2)), label="s / n")
    panels.below(figure, [*(panels.handle(name, scene.defences[name]) for name in shown), even])
    caption = (
        f"The share of the aggregate that comes from the s = {s} liars, against the step, for each "
        "attack; dotted is s / n, what they have in a mean. Lines are means over the seeds, bands "
        "go from the lowest to the highest seed."
    )
    return Drawing(figure, caption, scene.setting)


def _variance_to_norm(scene: Scene) -> Drawing | None:
    s = int(scene.data["s"].max())
    chosen = scene.data[scene.data["s"].isin([0, s]) & (scene.data["variance_to_norm"] > 0)]
    found = panels.seed_range(chosen, "variance_to_norm", "step", ["defence", "attack"])
    names = [name for name in scene.defences if any(key[0] == name for key in found)]
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
    every = pd.concat(found.values())
    proved = [bound for name in names if (bound := bounds[name]) is not None]
    axes[0].set_yscale("log")
    low = min([every["min"].min(), *proved])
    high = max([every["max"].max(), *proved])
    panels.along(axes, found, low / 1.4, high * 1.4)
    for ax, name in zip(axes, names):
        for attack, look in looks.items():
            if (name, attack) in found:
                panels.line(ax, found[name, attack], look)
        bound = bounds[name]
        if bound is not None:
            ax.axhline(bound, color="black", linewidth=1.4, linestyle=(0, (2, 2)))
        panels.name(ax, name, width)
    panels.head(
        figure,
        f"{scene.title}, s = {s} liars: {scene.seeds('lines are means, bands span')}",
    )
    shown = [attack for attack in looks if any(key[1] == attack for key in found)]
    handles = [panels.handle(attack, looks[attack]) for attack in shown]
    caption = (
        "Standard deviation of the honest updates over the norm of their mean, against the step, "
        "for each rule. "
    )
    if proved:
        label = "proved up to here"
        handles.append(
            Line2D([], [], color="black", linewidth=1.4, linestyle=(0, (2, 2)), label=label)
        )
        caption += (
            "Dotted is the largest ratio up to which the rule's resilience is proved, where one is "
            "published: above it there is no promise. "
        )
    panels.below(figure, handles)
    caption += "Lines are means over the seeds, bands go from the lowest to the highest seed."
    return Drawing(figure, caption, scene.setting)
