"""The figures of docs/theory.md, each drawn from the table of its part."""

import math
import pathlib
from collections.abc import Callable, Collection

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from byzjax import theory
from byzjax.theory.breakdown import UNBOUNDED
from experiments.analysis.theory import exact
from experiments.analysis.theory import growth as predicted
from experiments.analysis.theory import reach as simulated
from experiments.analysis.theory.rules import LISTED, SEARCHED, proved_kappa
from experiments.report import figures, panels

FAMILIES = {
    "coordinate by coordinate": (
        *("mean", "median", "trimmed_mean", "mean_around_median", "phocas", "bulyan"),
        "sign_guard",
    ),
    "selected rows": (
        *("krum", "multi_krum", "medoid", "minimum_diameter", "minimum_eigenvalue"),
        *("comparative_elimination", "nearest_to_pivot"),
    ),
    "weights": ("covariance_filter", "spectral_filter", "geometric_median", "huber"),
}
AKSEL = {
    "aksel": panels.Look("black", "-", "o"),
    "aksel, n-f": panels.Look("black", (0, (5, 1.5)), "s"),
}
_ERROR = r"$E\,\|F-g\|\,/\,(\sqrt{d}\,\sigma)$"
_DASHED = (0, (4, 2))


def _looks(names: tuple[str, ...]) -> dict[str, panels.Look]:
    """Aksel in black, and a colour for each rule, which no rule of another family has."""
    every = [name for family in FAMILIES.values() for name in family]
    return AKSEL | {name: panels.look(every.index(name)) for name in names}


def _beside(names: Collection[str]) -> dict[str, float]:
    """A shift for each name, from -1 to 1, so that lines that coincide are side by side."""
    return dict(zip(names, np.linspace(-1, 1, len(names))))


def _legend(figure: Figure, shown: Collection[str]) -> None:
    """All rules that are shown, by family, below the panels."""
    looks = {name: look for names in FAMILIES.values() for name, look in _looks(names).items()}
    panels.below(figure, [panels.handle(n, look) for n, look in looks.items() if n in shown])


def acceptance(table: pd.DataFrame) -> Figure:
    """Errors against n for three shares of Byzantine workers: pushed solid, the others open."""
    settings = list(dict.fromkeys(table["setting"]))
    looks = _looks(("median",))
    figure, axes = panels.grid(settings, 3, (4.2, 3.6), xlabel="workers n", ylabel=_ERROR)
    for ax, setting in zip(axes, settings):
        ax.set_title(setting, fontsize=11)
        part = table[table["setting"] == setting]
        for (name, attack), line in part.groupby(["rule", "attack"], sort=False):
            if attack == "white box":
                ax.plot(line["n"], line["error"], "x", color="tab:red", markersize=8, zorder=5)
            else:
                look = looks[str(name)]
                look = look if attack == "pushed" else look._replace(color="tab:blue")
                _line(ax, line, "n", "error", looks["median"] if name == "median" else look)
        if setting == settings[0]:
            n = np.geomspace(5, 401, 60)
            style = {"color": "0.45", "linewidth": 1.2}
            ax.plot(n, [predicted.of_aksel(m) for m in n], linestyle=":", **style)
            ax.plot(n, [predicted.of_pushed(m) for m in n], linestyle=":", **style)
            ax.plot(n, 2 * np.sqrt(2 * np.log((n + 1) / 2)), linestyle=_DASHED, **style)
            ax.plot(n, [_gumbel(m) for m in n], color="tab:green", linestyle="-.", linewidth=1.2)
    axes[0].set(xscale="log", ylim=(0, None))
    _plain_ticks(axes, (5, 10, 25, 50, 100, 200, 400))
    said = "Liars pushed beyond the median, or at an order statistic (blue, and the median)"
    panels.head(figure, f"{said}; Gaussian, d = {table['d'].iloc[0]}")
    panels.below(
        figure,
        [
            *(panels.handle(name, look) for name, look in looks.items()),
            Line2D([], [], color="tab:red", marker="x", linestyle="", label="white box"),
            Line2D([], [], color="0.45", linestyle=":", label="computed as d grows"),
            Line2D([], [], color="0.45", linestyle=_DASHED, label="2√(2 ln m), m = (n+1)/2"),
            Line2D([], [], color="tab:green", linestyle="-.", label="median by the Gumbel law"),
        ],
    )
    return figure


def _gumbel(n: float) -> float:
    """The error of the median by the limit law of the largest of m = (n + 1) / 2 values."""
    law = theory.largest_of(round((n + 1) / 2))
    return math.sqrt(law.mean**2 + law.variance)


def growth(table: pd.DataFrame) -> Figure:
    """Aksel's error against d and against n."""
    figure = Figure(figsize=(11.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    gaussian = table[table["distribution"] == "gaussian"]
    several = gaussian.groupby("n").filter(lambda line: len(line) > 2)
    for place, (n, line) in enumerate(several.groupby("n")):
        line = line.sort_values("d")
        error = np.sqrt(line["d"]) * line["error"]
        look = panels.look(place)
        label = f"n = {n}: exponent {predicted.exponent(line['d'], error).exponent:.3f}"
        left.plot(line["d"], error, color=look.color, marker=look.marker, label=label)
    d = np.array([gaussian["d"].min(), gaussian["d"].max()], float)
    left.plot(d, np.sqrt(d), color="0.45", linestyle=_DASHED, label="√d")
    left.set(xscale="log", yscale="log", xlabel="coordinates d", ylabel=r"$E\,\|F-g\|\,/\,\sigma$")
    left.legend(fontsize=9)
    for place, (kind, line) in enumerate(table.groupby("distribution", sort=False)):
        if kind == "gaussian":  # for each n, the value at the largest d
            line = line.sort_values("d").drop_duplicates("n", keep="last")
        _line(right, line, "n", "error", panels.look(place + 6), label=str(kind))
    n = np.geomspace(5, 401, 60)
    curves = {
        "gaussian, computed": [predicted.of_aksel(m) for m in n],
        "√(log n), scaled to meet it at 401": predicted.of_aksel(401)
        * np.sqrt(np.log(n) / np.log(401)),
        "√n, scaled": 0.4 * np.sqrt(n),
    }
    for (label, values), dashes in zip(curves.items(), (":", _DASHED, (0, (1, 3)))):
        right.plot(n, values, color="0.45", linestyle=dashes, linewidth=1.2, label=label)
    right.set(xscale="log", yscale="log", xlabel="workers n", ylabel=_ERROR)
    _plain_ticks([right], (5, 10, 25, 50, 100, 200, 400))
    right.legend(fontsize=9)
    panels.head(figure, "Aksel with n = 2f + 1; f liars send the largest honest values")
    return figure


def rules(table: pd.DataFrame) -> Figure:
    """Errors of all rules but the mean against n."""
    return _of_families(table[table["against"] == "n"], "n", "workers n", (11, 25, 50, 100))


def rules_d(table: pd.DataFrame) -> Figure:
    """Errors of all rules but the mean against d, divided by the root of d."""
    return _of_families(table[table["against"] == "d"], "d", "coordinates d", None)


def _of_families(
    table: pd.DataFrame, along: str, xlabel: str, ticks: tuple[int, ...] | None
) -> Figure:
    table = table[table["rule"] != "mean"]  # its error is unbounded
    cells = [(at, family) for at in dict.fromkeys(table["at"]) for family in FAMILIES]
    figure, axes = panels.grid(cells, 3, (4.4, 3.4), xlabel=xlabel, ylabel=_ERROR)
    most = 10.0  # larger errors are drawn at the upper end
    width = (table[along].max() / table[along].min()) ** 0.02
    for ax, (at, family) in zip(axes, cells):
        said = "f at the rule's limit" if at == "limit" else "f = n/5"
        ax.set_title(f"{family}, {said}", fontsize=11)
        looks = _looks(FAMILIES[family])
        shifts = _beside(looks)
        for name, look in looks.items():
            line = table[(table["at"] == at) & (table["rule"] == name)].sort_values(along)
            line = line.assign(error=line["error"].clip(upper=most))
            ax.plot(
                *(line[along] * width ** shifts[name], line["error"]),
                color=look.color,
                linestyle=look.linestyle,
                marker=look.marker,
                markersize=5,
            )
    least = table["error"].min()
    axes[0].set(xscale="log", yscale="log", ylim=(0.8 * least, 1.25 * most))
    if ticks:
        _plain_ticks(axes, ticks)
    one = table.iloc[0]
    other = f"d = {one['d']}" if along == "n" else f"n = {one['n']}, f = {one['f']}"
    panels.head(
        figure,
        f"Every rule under the most damaging of {len(LISTED)} attacks, Gaussian updates, {other}",
    )
    _legend(figure, set(table["rule"]))
    return figure


def efficiency(table: pd.DataFrame) -> Figure:
    """Squared errors without Byzantine workers, relative to that of the mean."""
    table = table[table["n"] == 25]
    kinds = list(dict.fromkeys(table["distribution"]))
    names = list(dict.fromkeys(table["rule"]))
    figure, axes = panels.grid(
        kinds, len(kinds), (3.4, 0.3 * len(names) + 1.4), xlabel="times the mean's", ylabel=""
    )
    for ax, kind in zip(axes, kinds):
        ax.set_title(kind, fontsize=11)
        for f, look in ((11, panels.look(16)), (5, panels.look(17))):
            part = table[(table["distribution"] == kind) & (table["f"] == f)]
            places = [names.index(name) for name in part["rule"]]
            ax.plot(
                *(part["ratio"], places), look.marker, color=look.color, markersize=6, linestyle=""
            )
        ax.axvline(1, color="0.45", linewidth=1)
        ax.set_yticks(range(len(names)), names, fontsize=9)
    axes[0].set(xscale="log", ylim=(len(names) - 0.5, -0.5))
    _plain_ticks(axes, (1, 2, 5, 10, 20))
    panels.head(figure, "Squared error where nobody lies, relative to the mean's (n = 25, d = 500)")
    labels = {11: "f = 11, or whatever f", 5: "f = 5"}
    panels.below(
        figure,
        [
            Line2D([], [], color=look.color, marker=look.marker, linestyle="", label=labels[f])
            for f, look in ((11, panels.look(16)), (5, panels.look(17)))
        ],
    )
    return figure


def kappa(table: pd.DataFrame) -> Figure:
    """Proved and found kappas, and the lower bound for all rules, for every (n, f)."""
    names = [name for name in SEARCHED if name in set(table["rule"])]
    pairs = sorted(
        set(zip(table["n"], table["f"])), key=lambda p: (theory.lower_bound("kappa", *p), p)
    )
    figure, axes = panels.grid(names, 6, (2.5, 2.2), xlabel="(n, f)", ylabel="κ / (f/(n-2f))")
    x = {pair: i for i, pair in enumerate(pairs)}
    for ax, name in zip(axes, names):
        panels.name(ax, name, 2.5)
        part = table[table["rule"] == name]
        at = list(zip(part["n"], part["f"], part["found"]))
        lower = {pair: theory.lower_bound("kappa", *pair) for pair in pairs}
        known = [(x[n, f], k / lower[n, f]) for n, f, _ in at if (k := proved_kappa(name, n, f))]
        ax.axhline(1, color="0.6", linestyle=":", linewidth=1.2)
        if known:
            ax.plot(*zip(*known), "_", color="black", markersize=9, markeredgewidth=2)
        ratios = [(x[n, f], value / lower[n, f]) for n, f, value in at]
        ax.plot(*zip(*ratios), "o", color=panels.look(16).color, markersize=4)
        ax.set_xticks(range(len(pairs)), [f"{n}, {f}" for n, f in pairs], rotation=90, fontsize=7)
    axes[0].set(yscale="log", ylim=(0.6, 300))
    for ax in axes:
        ax.set_yticks((1, 4, 10, 100), ["1", "4", "10", "100"], fontsize=9)
        ax.minorticks_off()
    panels.head(
        figure,
        "The largest ‖F - x̄‖² / V that a search finds, and what is proved, over f/(n-2f)",
    )
    panels.below(
        figure,
        [
            Line2D([], [], color="black", marker="_", markersize=11, linestyle="", label="proved"),
            Line2D([], [], color=panels.look(16).color, marker="o", linestyle="", label="found"),
            Line2D([], [], color="0.6", linestyle=":", label="no rule has less"),
        ],
    )
    return figure


def breakdown(table: pd.DataFrame) -> Figure:
    """Damage against the number of Byzantine workers."""
    cells = [(at, family) for at in dict.fromkeys(table["at"]) for family in FAMILIES]
    figure, axes = panels.grid(
        cells, 3, (4.4, 3.2), xlabel="liars s", ylabel="damage / honest spread"
    )
    damage = [name for name in map(str, table) if name.startswith("s = ")]
    for ax, (at, family) in zip(axes, cells):
        said = "f at the rule's limit" if at == "limit" else at
        ax.set_title(f"{family}, {said}", fontsize=11, pad=9)
        looks = _looks(FAMILIES[family])
        shifts = _beside(looks)
        for name, look in looks.items():
            line = table[(table["at"] == at) & (table["rule"] == name)]
            if len(line):
                values = line[damage].iloc[0].astype(float).clip(1e-2, UNBOUNDED)
                ax.plot(
                    *(np.arange(len(damage)) + 0.3 * shifts[name], values),
                    color=look.color,
                    linestyle=look.linestyle,
                    marker=look.marker,
                    markersize=4,
                    clip_on=False,
                )
        ax.set_xticks(range(len(damage)))
    axes[0].set(yscale="log", ylim=(1e-2, UNBOUNDED))
    n = int(table["n"].iloc[0])
    panels.head(figure, f"Damage of s liars, n = {n}; the upper end means: as far as they like")
    _legend(figure, set(table["rule"]))
    return figure


def _line(
    ax, line: pd.DataFrame, along: str, value: str, look: panels.Look, label: str | None = None
) -> None:
    """Draws a line with its confidence intervals."""
    line = line.sort_values(along)
    ax.plot(
        *(line[along], line[value]),
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=5,
        label=label,
    )
    ax.fill_between(line[along], line["low"], line["high"], color=look.color, alpha=0.2, lw=0)


def _plain_ticks(axes, ticks: tuple[int, ...]) -> None:
    for ax in axes:
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()


FIGURES: dict[str, dict[str, Callable[[pd.DataFrame], Figure]]] = {
    "acceptance": {"acceptance": acceptance},
    "reach": {"reach": simulated.figure},
    "efficiency": {"efficiency": efficiency},
    "growth": {"growth": growth},
    "rules": {"rules_n": rules, "rules_d": rules_d},
    "kappa": {"kappa": kappa, "kappa_of_f": exact.figure},
    "breakdown": {"breakdown": breakdown},
}


def write(part: str, table: pd.DataFrame, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws the figures of a part, as PNG; returns their paths."""
    paths = []
    for name, draw in FIGURES.get(part, {}).items():
        with figures.style():
            _, raster = figures.render(draw(table))
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(raster)
    return paths
