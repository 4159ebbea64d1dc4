"""The figure of docs/kappa.md: kappa of every rule against f/n."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from byzjax import theory
from experiments.report import panels

N = 101
EXACT: dict[str, dict[str, Any]] = {
    "trimmed_mean": {},
    "median": {},
    "geometric_median": {},
    "phocas": {},
    "mean_around_median": {},
    "aksel": {},
    "aksel, n-f": {"mode": "n-f"},
    "minimum_diameter": {},
    "nearest_to_pivot": {},
}
OPEN = ("medoid", "krum")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))


def figure(table: pd.DataFrame) -> Figure:
    """Exact kappas against f/n, and the range of two that are open."""
    del table  # it has the small n that can be searched
    drawn = Figure(figsize=(8.5, 5.6), layout="constrained")
    ax = drawn.subplots()
    f = np.arange(1, (N - 1) // 2 + 1)
    for place, (name, options) in enumerate(EXACT.items()):
        rule = name.partition(",")[0]
        values = np.array([theory.proved("kappa", rule, N, int(k), **options) for k in f])
        aksel = rule == "aksel"
        ax.plot(
            *(f / N, values),
            color="black" if aksel else panels.look(place).color,
            linestyle=DASHES[bool(options)] if aksel else DASHES[place % 3],
            linewidth=2.4 if aksel else 1.8,
            label=name,
        )
    for place, rule in enumerate(OPEN):
        held = [int(k) for k in f if 2 * k + 3 <= N]
        known = [theory.constants("kappa", rule, N, k) for k in held]
        most = [min(c.value(N, k) for c in constants) for k, constants in zip(held, known)]
        least = [
            max(c.least(N, k) for c in constants if c.least) for k, constants in zip(held, known)
        ]
        color, label = panels.look(place + 9).color, f"{rule}: at least to at most"
        ax.fill_between(np.array(held) / N, least, most, color=color, alpha=0.3, label=label)
    ax.set(xlabel="f / n", ylabel="κ", yscale="log", xlim=(0, 0.5), ylim=(0.008, 9000))
    ax.legend(fontsize=9, ncols=2, loc="upper left")
    panels.head(drawn, f"κ of rules for n = {N}: lines are exact, no smaller one holds")
    return drawn
