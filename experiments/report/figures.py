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

from experiments.grid.config import Config
from experiments.report import backdoors, bits, heat, measured, panels, scenes
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


def above(figure: Figure) -> tuple[str, float]:
    """The title of a rendered figure as one line, and its height in points."""
    title = next((text for text in figure.texts if text.get_gid() == "title"), None)
    if title is None:
        return "", 0.0
    box = title.get_window_extent()
    return " ".join(title.get_text().split()), 72 * (figure.bbox.y1 - box.y0) / figure.dpi


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
        "accuracy_heatmap": _accuracies,
        "attack_success_heatmap": _successes,
        "bits_per_character": measured.bits,
        "distance_to_optimum": measured.to_optimum,
        "influence": measured.influence,
        "variance_to_norm": measured.variance_to_norm,
    }
    out |= _setting_heatmaps(data, grids)
    for drawing in bits.figures(data, grids):
        out[_file_name("accuracy_against_bits", drawing.setting)] = drawing
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
    # The values of s are evenly spaced, and each rule has a place of its own beside them, so that
    # rules with equal results are all visible.
    place = {s: i for i, s in enumerate(every)}
    beside = 0.44 * (np.arange(len(scene.defences)) + 0.5 - len(scene.defences) / 2)
    shifts = beside / max(1, len(scene.defences) - 1)
    shown = {}
    for ax, attack in zip(axes, names):
        for (name, look), shift in zip(scene.defences.items(), shifts):
            parts = [ranges[key] for key in ((name, "none"), (name, attack)) if key in ranges]
            if not parts:
                continue
            line = 100 * pd.concat(parts)
            middle = line["mean"]
            ax.errorbar(
                [place[s] + shift for s in line.index],
                middle,
                yerr=[(middle - line["min"]).clip(0), (line["max"] - middle).clip(0)],
                color=look.color,
                linestyle=look.linestyle,
                marker=look.marker,
                markersize=6,
                capsize=2,
                linewidth=1.2,
            )
            shown[name] = panels.handle(name, look)
        panels.name(ax, attack, width)
        ax.set(xlim=(-0.4, len(every) - 0.6), ylim=(0, 102))
        ax.set_xticks(range(len(every)), every)
    panels.head(figure, f"Final test accuracy against s: {scene.title}; {scene.seeds('bars span')}")
    panels.below(figure, [shown[name] for name in scene.defences if name in shown])
    caption = (
        "Final test accuracy against the number s of Byzantine workers, whose values are evenly "
        "spaced. Points are means over the seeds, bars range from the lowest to the highest seed; "
        "the rules are drawn side by side."
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
    # The axis begins a little below the lowest value, so that lines near the top stay apart.
    low = 20 * int(5 * min(part["min"].min() for part in ranges.values()))
    panels.along(axes, ranges, low, 102)
    same = []
    for ax, (attack, s) in zip(axes, (place for place in places if place)):
        here = {
            name: ranges[attack, s, name] for name in scene.defences if (attack, s, name) in ranges
        }
        panels.lines(ax, here, scene.defences, scale=100)
        panels.name(ax, attack, width, f"s = {s}")
        same += [(f"{attack}, s = {s}", g) for g in panels.coinciding(here, (102 - low) / 100)]
    panels.head(
        figure, f"Test accuracy against the step: {scene.title}; {scene.seeds('bands span')}"
    )
    panels.below(figure, [panels.handle(name, look) for name, look in scene.defences.items()])
    caption = (
        "Test accuracy against the step, for each attack and number s of Byzantine workers. "
        f"{panels.LINES}{panels.note(same)}"
    )
    return Drawing(figure, caption, scene.setting)


def _accuracies(scene: Scene) -> Drawing | None:
    return _heatmap(scene, "accuracy", "accuracy", "Final test accuracy")


def _successes(scene: Scene) -> Drawing | None:
    if backdoors.SUCCESS not in scene.last:
        return None
    words = "attack success", "Attack success rate", "not run, or not finite"
    return _heatmap(scene, backdoors.SUCCESS, *words)


def _heatmap(
    scene: Scene, column: str, measured: str, title: str, grey: str = "not run"
) -> Drawing | None:
    means = scene.last.groupby(["defence", "attack", "s"])[column].mean()
    some = sorted(s for s in scene.last["s"].unique() if s > 0)
    if not some or means.isna().all():
        return None
    tables = {}
    for s in some:
        of_s = means[means.index.isin([0, s], level="s")].droplevel("s").unstack()
        of_s = of_s.reindex(
            index=list(scene.defences), columns=[a for a in ("none", *scene.attacks) if a in of_s]
        )
        tried = of_s.drop(columns="none", errors="ignore").notna().any(axis=1)
        if tried.any():  # a rule that is not run with this s has no line
            tables[f"s = {counted(int(s), 'liar')}"] = of_s[tried].rename(
                columns={"none": "none (s = 0)"}
            )
    if not tables:
        return None
    figure = heat.tables(tables, ".1f", measured=measured, xlabel="attack", ylabel="rule")
    panels.head(figure, f"{title} (%): {scene.title}; {scene.seeds('mean of')}")
    caption = (
        f"{title} in per cent, mean over the seeds, for each number s of Byzantine "
        "workers and the rules that are run with it. "
        f"Grey: {grey}."
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
        figure = heat.tables(tables, fmt=".1f", most=most, ylabel="f", xlabel="partition")
        title = scenes.title(setting, grids, without=("f",))
        panels.head(figure, f"Final test accuracy (%) under the worst attack and s: {title}")
        caption = (
            "Final test accuracy in per cent, mean over the seeds, under the most damaging attack "
            "and number of Byzantine workers: declared faults f against the partition."
        )
        out[_file_name("worst_accuracy_f_partition", setting)] = Drawing(figure, caption, setting)
    return out
