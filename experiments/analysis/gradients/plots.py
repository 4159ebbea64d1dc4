"""The figures of docs/gradients.md."""

import pathlib
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.analysis.gradients.measure import HALF
from experiments.analysis.theory import growth
from experiments.report import figures, panels

TRAINED = [("mnist", "softmax"), ("mnist", "mlp"), ("cifar10", "cnn")]
_SHOWN = {
    "normal": "coordinates accepted as normal",
    "kurtosis": "median excess kurtosis",
    "rank": "effective rank / d",
}


def statistics(table: pd.DataFrame) -> Figure:
    """Three statistics against the batch, for each model and stage."""
    table = table.assign(
        **{name: table[name] / table["d"] for name in ("rank", "rank low", "rank high")}
    )
    trained = [pair for pair in TRAINED if pair in set(zip(table["data"], table["model"]))]
    figure = Figure(figsize=(3.6 * len(trained) + 0.6, 8.4), layout="constrained")
    axes = figure.subplots(len(_SHOWN), len(trained), sharex=True, sharey="row", squeeze=False)
    control = table[table["data"] == "gaussian"].iloc[0]
    steps = sorted(table["step"].unique())
    for row, (name, said) in zip(axes, _SHOWN.items()):
        for ax, pair in zip(row, trained):
            part = table[(table["data"] == pair[0]) & (table["model"] == pair[1])]
            for place, step in enumerate(steps):
                line, look = part[part["step"] == step].sort_values("batch"), panels.look(place)
                ax.plot(line["batch"], line[name], color=look.color, marker=look.marker)
                ax.fill_between(
                    *(line["batch"], line[f"{name} low"], line[f"{name} high"]),
                    **{"color": look.color, "alpha": 0.2, "lw": 0},
                )
            ax.axhline(control[name], color="0.45", linestyle=":")
            ax.set(xscale="log")
        row[0].set_ylabel(said)
    for ax, pair in zip(axes[0], trained):
        ax.set_title(", ".join(pair), fontsize=11)
    axes[1, 0].set(yscale="symlog")
    axes[2, 0].set(yscale="log")
    for ax in axes[-1]:
        ax.set_xlabel("samples of a worker's batch")
    panels.head(figure, "Real gradients across workers at the same parameters")
    looks = [panels.handle(f"step {step}", panels.look(i)) for i, step in enumerate(steps)]
    dotted = Line2D([], [], color="0.45", linestyle=":", label="independent normal values")
    panels.below(figure, [*looks, dotted])
    return figure


WORST = {"aksel": "pushed", "median": "order_statistic"}
_COMPUTED = {"aksel": growth.of_pushed, "median": growth.of_median}


def workers(table: pd.DataFrame) -> Figure:
    """Errors of Aksel and the median against n under their worst attacks, beside theory."""
    last = table[(table["step"] == table["step"].max()) & (table["liars"] == HALF)]
    cells = [
        (*pair, batch)
        for batch in sorted(last["batch"].unique())
        for pair in TRAINED
        if pair in set(zip(last["data"], last["model"]))
    ]
    count = len({cell[:2] for cell in cells})
    figure, axes = panels.grid(
        cells, count, (3.6, 3.2), xlabel="workers n", ylabel="E |F - g| / sqrt(tr S)"
    )
    colors = {"aksel": "black", "median": panels.look(0).color}
    for ax, (data, model, batch) in zip(axes, cells):
        ax.set_title(f"{data}, {model}, batch {batch}", fontsize=11)
        at = (last["data"] == data) & (last["model"] == model) & (last["batch"] == batch)
        for rule, attack in WORST.items():
            part = last[at & (last["rule"] == rule) & (last["attack"] == attack)]
            style = {"color": colors[rule], "markersize": 5}
            for kind, dashes, marker in (("drawn", "-", "o"), ("gaussian", (0, (5, 2)), "s")):
                line = part[part["updates"] == kind].sort_values("n")
                ax.plot(line["n"], line["error"], linestyle=dashes, marker=marker, **style)
                ax.fill_between(
                    *(line["n"], line["error low"], line["error high"]),
                    **{"color": colors[rule], "alpha": 0.2, "lw": 0},
                )
            n = np.geomspace(part["n"].min(), part["n"].max(), 40)
            ax.plot(n, [_COMPUTED[rule](m) for m in n], color=colors[rule], linestyle=":", lw=1.2)
    ticks = sorted(table["n"].unique())
    axes[0].set(xscale="log", yscale="log")
    for ax in axes:
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
    panels.head(figure, f"n = 2f + 1, the worst attack on each rule, step {table['step'].max()}")
    panels.below(
        figure,
        [
            *(Line2D([], [], color=color, label=rule) for rule, color in colors.items()),
            Line2D([], [], color="0.45", marker="o", label="gradients of the model"),
            Line2D(
                *([], []),
                **{"color": "0.45", "marker": "s", "linestyle": (0, (5, 2))},
                label="Gaussian, same covariance",
            ),
            Line2D(
                [], [], color="0.45", linestyle=":", label="computed: independent, d to infinity"
            ),
        ],
    )
    return figure


FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "statistics": statistics,
    "workers": workers,
}


def write(folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws the figures from the tables of a folder, as PNG; returns their paths."""
    paths = []
    for name, draw in FIGURES.items():
        with figures.style():
            _, raster = figures.render(draw(pd.read_csv(folder / f"{name}.csv")))
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(raster)
    return paths
