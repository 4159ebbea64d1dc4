"""Every rule: run time, compile time, and memory besides its input.

Part of `python -m benchmarks`. A rule runs with the largest f that it allows, at most n // 5; the
two that search subsets of workers use f = 1, and are left out if there are too many subsets.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from benchmarks import timing
from benchmarks.rules import RESNET, gaussian
from byzjax.facts import FACTS
from experiments.grid import catalogue, specs

SUBSETS = ("minimum_diameter", "minimum_eigenvalue")
# Arguments without a default; distances of Gaussian updates are about sqrt(d).
WRITTEN = {
    "geometric_median_of_means": "geometric_median_of_means(k={groups})",
    "huber": "huber(threshold={scale})",
    "robust_learning_rate": "robust_learning_rate(threshold={majority})",
}
NAMES = [name for name in catalogue.RULES if name not in catalogue.REMEMBERING]
# (n, d) at which all rules are timed.
SHAPES = ((8, 10**4), (25, 10**4), (8, 10**6), (25, 10**6), (64, 10**6), (256, 10**5), (25, 10**7))
# Rules that are plotted over n and d, and the reference lines of the plots.
FOLLOWED = ("mean", "median", "trimmed_mean", "krum", "aksel", "geometric_median")
BESIDE = {"w @ G": ":", "copy": "--"}
LONG = 5.0  # seconds; slower calls are timed only once
COMPILE_GOALS = {25: 4.0, 64: 8.0}


def faults(name: str, n: int) -> int:
    """The f of this rule for n workers; below 1 if it does not tolerate one fault."""
    facts = FACTS.get(name)
    a, b = facts.needs if facts else (0, 1)
    most = n // 5 if a == 0 else min(n // 5, (n - b) // a)
    return min(most, 1) if name in SUBSETS else most


def with_faults(name: str, n: int, d: int) -> Callable | None:
    """The rule for n workers; None if it does not tolerate one fault."""
    f = faults(name, n)
    if f < 1:
        return None
    text = WRITTEN.get(name, name).format(groups=2 * f + 1, scale=d**0.5, majority=f + 1)
    return specs.deployed(specs.parse("rule", text, f=f))


def possible(names: Sequence[str], n: int, x: Any) -> Iterator[tuple[str, timing.Compiled]]:
    """The rules that can be compiled for these updates."""
    for name in names:
        d = sum(leaf.size for leaf in jax.tree.leaves(x)) // n
        rule = with_faults(name, n, d)
        if rule is None:
            continue
        try:
            yield name, timing.compile_call(rule, x)
        except ValueError as error:  # too many subsets
            if name not in SUBSETS:
                raise
            print(f"{name} at n = {n} is left out: {error}")


def latency(shapes: Sequence[tuple[int, int]], rounds: int) -> list[dict[str, Any]]:
    """All rules at all shapes, taking turns with a single pass over the input."""
    rows = []
    for n, d in shapes:
        x = gaussian(n, d)
        read = timing.compile_call(lambda w, g: w @ g, jnp.full((n,), 1 / n), x).call
        for name, compiled in possible(NAMES, n, x):
            calls = {"rule": compiled.call, "read": read}
            once = timing.once(compiled.call)
            seconds = timing.take_turns(calls, rounds if once < LONG else 1)
            rows.append(
                {
                    "n": n,
                    "d": d,
                    "rule": name,
                    "ms": 1e3 * seconds["rule"],
                    "times w @ G": seconds["rule"] / seconds["read"],
                    "compile s": compiled.compile_seconds,
                    "temporaries / input": compiled.temporary_bytes / x.nbytes,
                }
            )
        print(f"n = {n}, d = {d}: {len(rows)} lines", flush=True)
    return rows


def compile_times() -> list[dict[str, Any]]:
    """Compile time of every rule for a model of 65 leaves."""
    rows = []
    for n, goal in COMPILE_GOALS.items():
        tree = {f"{i:02d}": jnp.zeros((n, *shape)) for i, shape in enumerate(RESNET)}
        for name, compiled in possible(NAMES, n, tree):
            seconds = compiled.compile_seconds
            line = {"n": n, "rule": name, "compile s": seconds, "goal": f"<= {goal:g}"}
            rows.append(line | {"reached": "yes" if seconds <= goal else "no"})
    return rows


def followed(largest: int, rounds: int) -> list[dict[str, Any]]:
    """Some rules over n at d = 1e5 and over d at n = 25, compared with one pass and one copy."""
    over_n = [(n, 10**5) for n in (8, 16, 32, 64, 128, 256)]
    over_d = [(25, d) for d in (10**4, 10**5, 10**6, 10**7)] + [(8, 10**8)]
    rows = []
    shapes = that_fit(list(dict.fromkeys([*over_n, *over_d])), largest)
    for n, d in shapes:
        x = gaussian(n, d)
        calls = {name: c.call for name, c in possible(FOLLOWED, n, x)}
        weights = jnp.full((n,), 1 / n)
        calls["w @ G"] = timing.compile_call(lambda w, g: w @ g, weights, x).call
        calls["copy"] = timing.compile_call(functools.partial(jnp.multiply, 2.0), x).call
        for name, seconds in timing.take_turns(calls, rounds).items():
            rows.append({"n": n, "d": d, "what": name, "ms": 1e3 * seconds})
    return rows


def plots(rows: list[dict[str, Any]]) -> dict[str, Figure]:
    """Time against n and d on logarithmic axes, with reference lines for a pass and a copy."""
    figures = {}
    for axis, fixed, value in (("n", "d", 10**5), ("d", "n", 25)):
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        axes = figure.subplots()
        for name in (*FOLLOWED, *BESIDE):
            line = [r for r in rows if r["what"] == name and r[fixed] == value]
            line.sort(key=lambda r: r[axis])
            (drawn,) = axes.plot([r[axis] for r in line], [r["ms"] for r in line], label=name)
            if name in BESIDE:
                drawn.set(color="0.5", linestyle=BESIDE[name])
            else:
                drawn.set(marker="o", markersize=4)
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="milliseconds")
        axes.set_title(f"{fixed} = {value:,}", loc="left")
        axes.grid(alpha=0.3, which="both", linewidth=0.4)
        figure.legend(loc="outside lower center", frameon=False, fontsize="small", ncols=4)
        figures[f"time_against_{axis}"] = figure
    return figures


def that_fit(shapes: Sequence[tuple[int, int]], largest: int) -> list[tuple[int, int]]:
    """Shapes with d <= largest whose input takes at most a sixth of the free memory.

    A copy takes twice the input, and some rules as much again.
    """
    stats = jax.devices()[0].memory_stats() or {}
    free = stats.get("bytes_limit") or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [(n, d) for n, d in shapes if d <= largest and 4 * n * d <= free / 6]
