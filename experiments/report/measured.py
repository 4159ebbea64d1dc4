"""Figures of what runs measure besides the accuracy."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from experiments.report import panels, scenes
from experiments.report.scenes import Drawing, Scene
from experiments.text.names import counted
from experiments.training import texts

_DOTTED = (0, (2, 2))
_MOST_BITS = 8.0  # guessing among 256 characters


def to_optimum(scene: Scene) -> Drawing | None:
    """Distance to the optimum against the step, one panel per attack."""

    def limits(every: pd.DataFrame) -> tuple[float, float, float]:
        low, high = every["min"].min(), every["max"].max()
        return low / 1.4, high * 1.4, np.log(high / low)

    caption = (
        "Distance from the model to the minimiser of the honest workers' mean loss against the "
        "step, without attack and for each attack at the largest s."
    )
    return _against_step(
        scene, "to_optimum", "distance to the optimum", caption, limits=limits, log=True
    )


def bits(scene: Scene) -> Drawing | None:
    """Bits per character against the step, one panel per attack; only for text."""

    def limits(every: pd.DataFrame) -> tuple[float, float, float]:
        # A model that diverges would flatten all other lines.
        low, high = every["min"].min() - 0.1, min(every["max"].max() + 0.1, _MOST_BITS)
        return min(low, high - 1), high, high - low

    caption = (
        "Mean cross entropy on the text that no worker holds, in bits per character, against the "
        f"step, without attack and for each attack at the largest s; the axis ends at {_MOST_BITS} "
        "bits."
    )
    return _against_step(scene, texts.BITS, "bits per character", caption, limits=limits)


def _against_step(
    scene: Scene,
    column: str,
    label: str,
    caption: str,
    *,
    limits: Callable[[pd.DataFrame], tuple[float, float, float]],
    log: bool = False,
) -> Drawing | None:
    """A column against the step, without attack and for each attack at the largest s.

    Args:
      scene: the setting.
      column: what is measured; nothing is drawn without it.
      label: of the axis, and the title.
      caption: what the values are.
      limits: from mean, minimum and maximum, the ends of the axis, and its height for
        `panels.coinciding`.
      log: whether the axis is logarithmic.
    """
    if column not in scene.data:
        return None
    ranges = panels.seed_range(scene.data, column, "step", ["attack", "s", "defence"])
    names = _panels_at_most(scene, ranges)
    if not names or scene.data["step"].nunique() < 2:
        return None
    columns, width = panels.fitted(len(names))
    figure, axes = panels.grid(names, columns, (width, 2.7), xlabel="step", ylabel=label)
    if log:
        axes[0].set_yscale("log")
    low, high, height = limits(pd.concat(ranges.values()))
    panels.along(axes, ranges, low, high)
    same = []
    for ax, (attack, s) in zip(axes, names):
        here = {
            name: ranges[attack, s, name] for name in scene.defences if (attack, s, name) in ranges
        }
        panels.lines(ax, here, scene.defences)
        panels.name(ax, attack, width, f"s = {s}")
        same += [(f"{attack}, s = {s}", g) for g in panels.coinciding(here, height, log=log)]
    title = label[0].upper() + label[1:]
    panels.head(figure, f"{title}: {scene.title}; {scene.seeds('bands span')}")
    panels.below(figure, [panels.handle(name, look) for name, look in scene.defences.items()])
    return Drawing(figure, f"{caption} {panels.LINES}{panels.note(same)}", scene.setting)


def _panels_at_most(scene: Scene, ranges: dict) -> list[tuple[str, int]]:
    """The attacks at the largest s for which there are ranges, after s = 0 without attack."""
    names = [("none", 0)] if any(key[:2] == ("none", 0) for key in ranges) else []
    most = max((key[1] for key in ranges), default=0)
    return names + [(a, most) for a in scene.attacks if any(key[:2] == (a, most) for key in ranges)]


def influence(scene: Scene) -> Drawing | None:
    """The attackers' share of the aggregate against the step, one panel per attack."""
    attacked = scene.data[scene.data["s"] > 0]
    if attacked.empty or scene.data["step"].nunique() < 2:
        return None
    s = int(attacked["s"].max())
    attacked = attacked[attacked["s"] == s]
    ranges = panels.seed_range(attacked, "liars_influence", "step", ["attack", "defence"])
    names = [attack for attack in scene.attacks if any(key[0] == attack for key in ranges)]
    if not names:
        return None
    columns, width = panels.fitted(len(names))
    figure, axes = panels.grid(
        names, columns, (width, 2.7), xlabel="step", ylabel="influence of the liars"
    )
    # Shares may be arbitrarily large where they cancel; the axis stays in a readable range.
    means = pd.concat(ranges.values())["mean"]
    low, high = max(min(0.0, means.min()), -1) - 0.05, min(max(1.0, means.max()), 2) + 0.05
    panels.along(axes, ranges, low, high)
    same = []
    for ax, attack in zip(axes, names):
        ax.axhline(s / scene.n, color="0.15", linewidth=1.2, linestyle=_DOTTED)
        here = {name: ranges[attack, name] for name in scene.defences if (attack, name) in ranges}
        panels.lines(ax, here, scene.defences)
        panels.name(ax, attack, width)
        same += [(attack, group) for group in panels.coinciding(here, high - low)]
    liars = counted(s, "liar")
    seeds = scene.seeds("bands span")
    panels.head(figure, f"Influence of s = {liars}: {scene.title}; {seeds}")
    shown = [name for name in scene.defences if any(key[1] == name for key in ranges)]
    even = Line2D([], [], color="0.15", linewidth=1.2, linestyle=_DOTTED, label="s / n")
    panels.below(figure, [*(panels.handle(name, scene.defences[name]) for name in shown), even])
    caption = (
        f"The share of the aggregate that comes from the s = {s} Byzantine workers, against the "
        f"step, for each attack; the dotted line is s / n, their share of a mean. {panels.LINES}"
        f"{panels.note(same)}{_missing(attacked, list(scene.defences), list(scene.attacks))}"
    )
    return Drawing(figure, caption, scene.setting)


def _missing(attacked: pd.DataFrame, defences: list[str], attacks: list[str]) -> str:
    """The sentence that says which lines are missing, and why; empty if none is."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for defence in defences:
        of_rule = attacked[attacked["defence"] == defence]
        for attack in attacks:
            reason = _reason(of_rule[of_rule["attack"] == attack])
            if reason:
                reasons.setdefault(reason, {}).setdefault(defence, []).append(attack)
    parts = []
    for reason, rules in reasons.items():
        where = [
            name if len(under) == len(attacks) else f"{name} under {_few(under)}"
            for name, under in rules.items()
        ]
        parts.append(f"{panels.joined(where)} ({reason})")
    return f" Not drawn: {'; '.join(parts)}." if parts else ""


def _few(names: list[str]) -> str:
    return panels.joined(names) if len(names) <= 3 else f"{len(names)} attacks"


def _reason(runs: pd.DataFrame) -> str:
    """Why a rule under an attack has no influence at all; empty if it has."""
    if runs.empty:
        return "not run with this s"
    if np.isfinite(runs["liars_influence"].to_numpy(float)).any():
        return ""
    if not runs["finite"].any():
        return "the model is not finite, and shares of NaN are undefined"
    distance, norm = (runs[name].to_numpy(float) for name in ("distance", "honest_norm"))
    if not np.isfinite(distance).any():
        return "the aggregate is not finite or not recorded"
    if np.allclose(distance, norm, rtol=1e-5) and runs["angle"].isna().all():
        return "the aggregate is zero, and shares of zero are undefined"
    return "it remembers or has no single server, so its output is no function of the updates"


def variance_to_norm(scene: Scene) -> Drawing | None:
    """Deviation of the honest updates over their mean's norm, one panel per attack."""
    s = int(scene.data["s"].max())
    chosen = scene.data[scene.data["s"].isin([0, s]) & (scene.data["variance_to_norm"] > 0)]
    ranges = panels.seed_range(chosen, "variance_to_norm", "step", ["attack", "defence"])
    tried = ("none", *scene.attacks)
    names = [attack for attack in tried if any(key[0] == attack for key in ranges)]
    if not names or scene.data["step"].nunique() < 2:
        return None
    columns, width = panels.fitted(len(names))
    figure, axes = panels.grid(
        names, columns, (width, 2.7), xlabel="step", ylabel="deviation / norm"
    )
    bounds = {
        scenes.defence(rule, mixing): bound
        for rule, mixing in dict.fromkeys(zip(scene.data["rule"], scene.data["mixing"]))
        if mixing == "none" and (bound := scenes.threshold(rule, scene.n, scene.f)) is not None
    }
    every = pd.concat(ranges.values())
    axes[0].set_yscale("log")
    low = min([every["min"].min(), *bounds.values()]) / 1.4
    high = max([every["max"].max(), *bounds.values()]) * 1.4
    panels.along(axes, ranges, low, high)
    same = []
    for ax, attack in zip(axes, names):
        here = {name: ranges[attack, name] for name in scene.defences if (attack, name) in ranges}
        panels.lines(ax, here, scene.defences)
        for name, bound in bounds.items():
            ax.axhline(bound, color=scene.defences[name].color, linewidth=1.4, linestyle=_DOTTED)
        panels.name(ax, attack, width, f"s = {0 if attack == 'none' else s}")
        groups = panels.coinciding(here, np.log(high / low), log=True)
        same += [(attack, group) for group in groups]
    what = "Deviation of the honest updates over the norm of their mean"
    panels.head(figure, f"{what}: {scene.title}; {scene.seeds('bands span')}")
    shown = [name for name in scene.defences if any(key[1] == name for key in ranges)]
    handles = [panels.handle(name, scene.defences[name]) for name in shown]
    caption = (
        "Standard deviation of the honest updates divided by the norm of their mean, against the "
        f"step, for each attack. {panels.LINES}{panels.note(same)}"
    )
    if bounds:
        label = "a rule's proof ends here"
        handles.append(Line2D([], [], color="0.15", linewidth=1.4, linestyle=_DOTTED, label=label))
        values = [f"{name} {bound:.2g}" for name, bound in bounds.items()]
        caption += (
            " A dotted line of a rule's colour is the largest ratio for which its resilience is "
            f"proved: above it there is no guarantee ({', '.join(values)})."
        )
    panels.below(figure, handles)
    return Drawing(figure, caption, scene.setting)
