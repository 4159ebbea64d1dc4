"""Compiling several programs at once, and timing them in turns, whatever some of them raise."""

import concurrent.futures
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from benchmarks import timing
from benchmarks.accelerator.budget import Clock, reason

COPIES = 4  # of the input that must fit into memory: it, its copy, and what a rule needs
LONG = 0.5  # seconds; longer calls are timed once
GROUP = 6  # calls that take turns


class Program(NamedTuple):
    """A compiled function of one array, and how long compilation took beside others."""

    call: Callable[[jax.Array], Any]
    seconds: float


def random(n: int, d: int) -> jax.Array:
    """Updates without ties."""
    return jax.block_until_ready(jax.random.normal(jax.random.key(0), (n, d)))


def largest(n: int, wanted: int) -> int:
    """The largest of `wanted`, its half, its quarter, ... that fits into memory."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    limit = limit or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    while COPIES * 4 * n * wanted > limit and wanted > 1:
        wanted //= 2
    return wanted


def each(tasks: Mapping[str, Callable[[], Any]], clock: Clock) -> dict[str, Any]:
    """The results of the tasks, run in several threads; an exception if one raised.

    They have half of the time left. Those that take longer are given up, with a TimeoutError; their
    threads run on.
    """
    end = time.monotonic() + clock.left() / 2
    pool = concurrent.futures.ThreadPoolExecutor(max(2, os.cpu_count() or 1))
    futures = {name: pool.submit(task) for name, task in tasks.items()}
    results = {}
    for name, future in futures.items():
        try:
            results[name] = future.result(max(0.0, end - time.monotonic()))
        except TimeoutError:
            results[name] = TimeoutError("not compiled in half of the time left")
        except Exception as error:  # one program that cannot be compiled does not end the others
            results[name] = error
    pool.shutdown(wait=False, cancel_futures=True)
    return results


def compiled(functions: Mapping[str, Callable], x: jax.Array, clock: Clock) -> dict[str, Any]:
    """A `Program` for each function of x, or an exception."""

    def compile_one(function: Callable) -> Program:
        begin = time.perf_counter()
        program = jax.jit(function).lower(x).compile()
        return Program(program, time.perf_counter() - begin)

    return each({k: lambda f=f: compile_one(f) for k, f in functions.items()}, clock)


def queued(call: Callable[[], Any], depth: int) -> Callable[[], Any]:
    """`depth` calls, then one wait for the last of them."""

    def run() -> None:
        for _ in range(depth - 1):
            call()
        jax.block_until_ready(call())

    return run


def depth(d: int, platform: str) -> int:
    """Calls queued together: the time of a small one is otherwise that of waiting for it."""
    return 10 if platform != "cpu" and d <= 10**7 else 1


def timed(calls: Mapping[str, Callable[[], Any]], rounds: int, depth: int = 1) -> dict[str, Any]:
    """Seconds of each call, taking turns, or what it raised; a call is `depth` of them, queued."""
    results: dict[str, Any] = {}
    working, long = {}, False
    for name, call in calls.items():
        try:
            call()
            long = long or timing.once(call) > LONG
        except Exception as error:  # mostly out of memory
            results[name] = error
        else:
            working[name] = call
    seconds = timing.take_turns(working, 1 if long else rounds)
    return results | {name: taken / depth for name, taken in seconds.items()}


def groups(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """The names in groups that take turns."""
    for first in range(0, len(names), GROUP):
        yield names[first : first + GROUP]


def reason_of(result: Any) -> str | None:
    """Why there is no result; None if there is one."""
    return reason(result) if isinstance(result, Exception) else None
