"""How far from the centre attackers are still selected, by simulation; `laws` computes it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import byzjax
from byzjax import attacks, scores, theory
from experiments.report import panels

CASES = ((25, 5), (25, 12))  # n, f
COORDINATES = (10, 100, 1000)
# Squared distances less the mean of honest rows, in standard deviations of one honest row.
PLACES = tuple(map(float, np.arange(-4, 2.01, 0.5)))


def name(place: float) -> str:
    """The column of a place."""
    return f"at {place:.1f}"


def squared(place: float, d: int, shift: float) -> float:
    """The squared distance of a place, for a noncentral chi square of d degrees of freedom."""
    return d + shift + place * np.sqrt(2 * d + 4 * shift)


def simulate(n: int, f: int, d: int, trials: int) -> dict[str, Any]:
    """How often Aksel `"mid"` selects all f attackers at several distances from the median.

    Honest updates are standard normal, and all attackers send the median plus a positive vector.

    Returns:
      `shift`, the mean squared distance of honest rows to the median, less d, and for each place
      the share of the draws in which all attackers are selected; NaN at negative distances.
    """
    byzantine, selected, rank = jnp.arange(n) >= n - f, (n + 1) // 2, n // 2 + 1

    def drawn(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = jax.random.normal(key, (n, d))
        return rows, attacks.order_statistic(rows, byzantine, rank=rank)[-1]

    def honest(key: jax.Array) -> jax.Array:
        rows, center = drawn(key)
        return jnp.sum((rows[: n - f] - center) ** 2, axis=1).mean()

    def all_selected(key: jax.Array, squares: jax.Array) -> jax.Array:
        rows, center = drawn(key)

        def one(square: jax.Array) -> jax.Array:
            sent = jnp.where(byzantine[:, None], center + jnp.sqrt(square / d), rows)
            away = jnp.sum((sent - byzjax.median(sent)) ** 2, axis=1)
            return scores.lowest(away, selected)[n - f :].all()

        return jax.lax.map(one, squares)

    keys = jax.random.split(jax.random.key(d), trials)
    shift = float(jax.jit(lambda keys: jax.lax.map(honest, keys))(keys).mean()) - d
    squares = np.array([squared(place, d, shift) for place in PLACES])
    hits = jax.jit(lambda keys, squares: jax.lax.map(lambda key: all_selected(key, squares), keys))
    shares = np.asarray(hits(keys, np.maximum(squares, 0))).mean(axis=0)
    shares = np.where(squares > 0, shares, np.nan)
    return {"shift": shift, **{name(place): float(s) for place, s in zip(PLACES, shares)}}


def law(place: float, n: int, f: int, d: int, shift: float) -> float:
    """`theory.acceptance_probability` at a place, for Aksel `"mid"`."""
    size = {"n": n, "f": f, "d": d, "selected": (n + 1) // 2}
    return theory.acceptance_probability(squared(place, d, shift), **size, shift=shift)


def figure(table: pd.DataFrame) -> Figure:
    """The probability that all attackers are selected against their distance, and its law."""
    cells = sorted({(int(n), int(f)) for n, f in zip(table["n"], table["f"])})
    label = "(squared distance - mean of honest rows) / std"
    drawn, axes = panels.grid(cells, 2, (5.0, 3.6), xlabel=label, ylabel="all liars selected")
    places, sizes = PLACES, sorted(table["d"].unique())
    for ax, (n, f) in zip(axes, cells):
        ax.set_title(f"n = {n}, f = {f}", fontsize=11)
        for _, line in table[(table["n"] == n) & (table["f"] == f)].iterrows():
            look, d = panels.look(sizes.index(line["d"])), int(line["d"])
            shares = [line[name(place)] for place in places]
            ax.plot(places, shares, look.marker, color=look.color, markersize=5)
            fine = np.linspace(places[0], places[-1], 121)
            fine = [p for p in fine if squared(p, d, line["shift"]) > 0]
            computed = [law(p, n, f, d, line["shift"]) for p in fine]
            ax.plot(fine, computed, color=look.color, linewidth=1.2)
    panels.head(
        drawn, "Liars at a distance from the median: simulated, and by noncentral chi square"
    )
    panels.below(drawn, [panels.handle(f"d = {d}", panels.look(i)) for i, d in enumerate(sizes)])
    return drawn
