"""Each Pallas kernel beside the library's form, which XLA compiles."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import byzjax
from benchmarks.accelerator import kernels, measure
from benchmarks.accelerator.budget import LEAST, NO_TIME, Clock, Record, guarded, missing, row
from benchmarks.accelerator.parts import Sizes
from byzjax.rules import _select

PASSES = {"aksel": 2}  # over the input, of which each writes a row; 1 for other rules
GOALS = {"median": 0.8, "trimmed_mean": 0.8, "aksel": 0.7}


def aksel(x: jax.Array, *, interpret: str | None = None) -> jax.Array:
    """`byzjax.aksel` of `x: [n, c]`, with the kernel computing median and distances."""
    _, squares = kernels.median_and_squares(x, interpret=interpret)
    distances = jnp.where(jnp.isnan(squares), jnp.inf, squares)
    return _select.mean_of_lowest(x, distances, (x.shape[0] + 1) // 2)


def forms(n: int, interpret: str | None) -> dict[str, tuple[Callable, Callable]]:
    """The library's form and the kernel of each rule."""
    f = n // 5
    pairs: dict[str, tuple[Callable, Callable]] = {
        "median": (byzjax.median, kernels.median),
        "trimmed_mean": (
            functools.partial(byzjax.trimmed_mean, f=f),
            functools.partial(kernels.trimmed_mean, f=f),
        ),
        "aksel": (functools.partial(byzjax.aksel, f=(n - 1) // 2), aksel),
    }
    return {
        name: (xla, functools.partial(kernel, interpret=interpret))
        for name, (xla, kernel) in pairs.items()
    }


def share(name: str, n: int, seconds: float, copy: float) -> float:
    """Share of the bandwidth of a copy: it moves 2 n d numbers, a rule (n + 1) d in each pass."""
    return PASSES.get(name, 1) * (n + 1) / seconds / (2 * n / copy)


def records(clock: Clock, sizes: Sizes, platform: str) -> Iterator[Record]:
    """A row for each kernel and shape."""
    if platform == "cpu":
        yield missing("times of the kernels", "they are interpreted here, for their values only")
    for n, wanted in sizes.kernels:
        what, d = f"kernels at n = {n}, d = {wanted:,}", measure.largest(n, wanted)
        if clock.left() < LEAST:
            yield missing(what, NO_TIME)
            continue
        if d < wanted:
            yield missing(what, f"memory allows d = {d:,}, which is in the table")
        yield from guarded(what, at(n, d, sizes.rounds, clock, platform))


def at(n: int, d: int, rounds: int, clock: Clock, platform: str) -> Iterator[Record]:
    """The rows of one shape."""
    x = measure.random(n, d)
    pairs = forms(n, "cuda" if platform == "cpu" else None)
    functions: dict[str, Callable] = {"copy": jnp.negative}
    for name, (xla, kernel) in pairs.items():
        functions |= {f"{name} XLA": xla, f"{name} Pallas": kernel}
    programs = measure.compiled(functions, x, clock)
    depth, calls, failed = measure.depth(d, platform), {}, {}
    for name, program in programs.items():
        if isinstance(program, Exception):
            failed[name] = program
        elif platform != "cpu" or "Pallas" not in name:
            calls[name] = measure.queued(lambda p=program: p.call(x), depth)
    results = measure.timed(calls, rounds, depth) | failed
    for name in pairs:
        for form in ("XLA", "Pallas"):
            if why := measure.reason_of(results.get(f"{name} {form}")):
                yield missing(f"{name}, {form}, n = {n}, d = {d:,}", why)
        if any(isinstance(results.get(f"{name} {form}"), float) for form in ("XLA", "Pallas")):
            yield compared(name, n, d, results, programs, x, platform)


def compared(
    name: str,
    n: int,
    d: int,
    results: dict[str, Any],
    programs: dict[str, Any],
    x: jax.Array,
    platform: str,
) -> Record:
    """One row: the times that there are, and how far the results are apart."""

    def seconds(form: str) -> float | None:
        taken = results.get(form)
        return taken if isinstance(taken, float) else None

    xla, pallas, copy = (seconds(key) for key in (f"{name} XLA", f"{name} Pallas", "copy"))
    reached = share(name, n, pallas, copy) if pallas and copy else None
    goal = GOALS[name] if platform != "cpu" else None
    return row(
        "kernels",
        n=n,
        d=d,
        rule=name,
        **{
            "XLA ms": xla and 1e3 * xla,
            "Pallas ms": pallas and 1e3 * pallas,
            "XLA over Pallas": xla / pallas if xla and pallas else None,
            "share, XLA": share(name, n, xla, copy) if xla and copy else None,
            "share, Pallas": reached,
            "goal": goal and f">= {goal}",
            "reached": ("yes" if reached >= goal else "no") if reached and goal else None,
            "difference": difference(programs, name, x),
        },
    )


def difference(programs: dict[str, Any], name: str, x: jax.Array) -> str | None:
    """The largest difference between kernel and library; None if one of them is not there."""
    pair = [programs[f"{name} {form}"] for form in ("XLA", "Pallas")]
    if any(isinstance(program, Exception) for program in pair):
        return None
    try:
        xla, kernel = (program.call(x) for program in pair)
        return f"{float(jnp.max(jnp.abs(xla - kernel))):.0e}"
    except Exception as error:  # the row of times stays
        return measure.reason_of(error)
