"""Comparable timing: all calls in one process, taking turns."""

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Compiled(NamedTuple):
    """A compiled call, with its compile time and temporary memory."""

    call: Callable[[], Any]
    compile_seconds: float
    temporary_bytes: int


def compile_call(function: Callable, *args: Any) -> Compiled:
    """Traces, lowers and compiles without the persistent cache; the arguments are bound."""
    jax.clear_caches()  # cached traces would shorten the compile time
    begin = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    seconds = time.perf_counter() - begin
    analysis = compiled.memory_analysis()
    temporary = int(analysis.temp_size_in_bytes) if analysis is not None else -1
    return Compiled(lambda: jax.block_until_ready(compiled(*args)), seconds, temporary)


def with_huge_pages(module: str) -> None:
    """Restarts the module with huge pages for all libraries, if the C library supports them.

    A result of 64 MB is new memory at every call; mapping it in pages of 4 kB takes longer than
    computing it. NumPy requests huge pages itself; JAX and PyTorch need this variable.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


def take_turns(calls: Mapping[str, Callable[[], Any]], rounds: int = 9) -> dict[str, float]:
    """Median seconds of each call over rounds in which each has its turn.

    Turns spread slow phases of a shared machine equally over the calls. A turn is one warm-up call,
    since PyTorch's threads spin for a while after their last work, and then as many calls as take
    20 ms together.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, math.ceil(0.02 / _seconds(call, 1)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            seconds[name].append(_seconds(call, repeats[name]))
    return {name: statistics.median(values) for name, values in seconds.items()}


def once(call: Callable[[], Any]) -> float:
    """Seconds of a single call."""
    return _seconds(call, 1)


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The exponent p of the fit seconds = c * size^p, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
