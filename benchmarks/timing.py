"""Timing that can be compared: everything in one process, taking turns."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Compiled(NamedTuple):
    """A compiled call, and what compiling told."""

    call: Callable[[], Any]
    compile_seconds: float
    temporary_bytes: int


def compile_call(function: Callable, *args: Any) -> Compiled:
    """Traces, lowers and compiles without the persistent cache; the arguments are bound."""
    jax.clear_caches()  # what was traced before must not make the compile time look short
    begin = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    seconds = time.perf_counter() - begin
    analysis = compiled.memory_analysis()
    temporary = int(analysis.temp_size_in_bytes) if analysis is not None else -1
    return Compiled(lambda: jax.block_until_ready(compiled(*args)), seconds, temporary)


def take_turns(calls: Mapping[str, Callable[[], Any]], rounds: int = 9) -> dict[str, float]:
    """Median seconds of each call; in every round each call runs once, after a warm-up.

    Taking turns, slow phases of a shared machine fall on all of them alike.
    """
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The exponent p of the fit seconds = c * size^p, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
