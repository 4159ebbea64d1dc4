"""The bits that workers send, and figures of the accuracy against them."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.data import datasets
from experiments.grid import compressors
from experiments.grid import config as configs
from experiments.grid.config import Config
from experiments.models import zoo
from experiments.report import panels, scenes
from experiments.report.scenes import Drawing
from experiments.training import assemble

_SETTING = "compressor"


def per_step(block: dict[str, Any]) -> int:
    """The bits that all workers of a run send in a step."""
    known = {field.name for field in dataclasses.fields(Config)} & set(configs.IDENTITY)
    given = {name: configs.setting(block, name) for name in known}
    config = Config(**{name: value for name, value in given.items() if value is not None})
    model = assemble.network(config, datasets.OUTLINES[config.dataset])
    return compressors.step_bits(config, zoo.size(model))


def of_block(block: dict[str, Any]) -> np.ndarray:
    """The bits that all workers of a run have sent up to each evaluation, of all runs in turn."""
    each = per_step(block)
    return np.concatenate([each * np.asarray(run["step"], np.int64) for run in block["runs"]])


def figures(data: pd.DataFrame, grids: Sequence[Config]) -> Iterator[Drawing]:
    """One figure per combination of the other settings, if the compressor varies.

    Args:
      data: the curves.
      grids: their grids, which give the settings that do not vary.
    """
    if scenes.SENT not in data or _SETTING not in scenes.settings(data):
        return
    tried = list(dict.fromkeys(data[_SETTING]))
    looks = {name: panels.look(place) for place, name in enumerate(tried)}
    for setting, part in scenes.split(data.rename(columns={_SETTING: "defence"}), ("defence",)):
        if part["defence"].nunique() > 1 and part["step"].nunique() > 1:
            yield _figure(part, setting, grids, looks)


def _figure(
    part: pd.DataFrame,
    setting: dict[str, Any],
    grids: Sequence[Config],
    looks: dict[str, panels.Look],
) -> Drawing:
    """One row of panels per rule, one column per attack at the largest s, a line per compressor."""
    most = part["s"].max()
    part = part[(part["s"] == most) | (part["attack"] == "none")]
    rules = [scenes.defence(*pair) for pair in zip(part["rule"], part["mixing"])]
    part = part.assign(rule=rules)
    ranges = panels.seed_range(part, "accuracy", scenes.SENT, ["rule", "attack", "defence"])
    rules = [name for name in dict.fromkeys(rules) if any(key[0] == name for key in ranges)]
    attacks = [name for name in dict.fromkeys(part["attack"]) if any(k[1] == name for k in ranges)]
    places = [(rule, attack) for rule in rules for attack in attacks]
    width = min(3.6, panels.WIDTH / len(attacks))
    label = {"xlabel": "bits sent by all workers", "ylabel": "test accuracy (%)"}
    figure, axes = panels.grid(places, len(attacks), (width, 2.3), **label)
    sent = np.concatenate([one.index.to_numpy(float) for one in ranges.values()])
    low = 20 * int(5 * min(one["min"].min() for one in ranges.values()))
    axes[0].set_xscale("log")
    axes[0].set(xlim=(sent.min() / 1.3, sent.max() * 1.3), ylim=(low, 102))
    for ax, (rule, attack) in zip(axes, places):
        here = {
            name: ranges[rule, attack, name] for name in looks if (rule, attack, name) in ranges
        }
        panels.lines(ax, here, looks, scale=100)
        panels.name(ax, f"{rule}, {attack}", width)
    seeds = part["seed"].nunique()
    spans = f"; bands span {seeds} seeds" if seeds > 1 else ""
    panels.head(
        figure,
        f"Test accuracy against the bits sent: {scenes.title(setting, grids)}, s = {most}{spans}",
    )
    shown = [name for name in looks if any(key[2] == name for key in ranges)]
    panels.below(figure, [panels.handle(name, looks[name]) for name in shown])
    caption = (
        "Test accuracy against the bits that all workers have sent, for each rule and, at the "
        f"largest s, each attack. A coordinate that is not compressed has 32 bits. {panels.LINES}"
    )
    return Drawing(figure, caption, setting)
