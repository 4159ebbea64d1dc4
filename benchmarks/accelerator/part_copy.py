"""The device, and the bandwidth of a copy."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from benchmarks.accelerator import measure
from benchmarks.accelerator.budget import NO_TIME, Clock, Record, guarded, missing, row
from benchmarks.accelerator.parts import Sizes
from benchmarks.pages import environment


def records(clock: Clock, sizes: Sizes, platform: str) -> Iterator[Record]:
    """The environment, then a row for each size."""
    yield {"about": {"environment": environment(), "platform": platform}}
    for numbers in sizes.copies:
        what = f"a copy of {numbers:,} numbers"
        if not clock.allows():
            yield missing(what, NO_TIME)
        elif measure.largest(1, numbers) < numbers:
            yield missing(what, "it does not fit into memory")
        else:
            yield from guarded(what, copied(numbers, sizes.rounds, platform))


def copied(numbers: int, rounds: int, platform: str) -> Iterator[Record]:
    """One row."""
    x = measure.random(1, numbers)
    copy, depth = jax.jit(jnp.negative), measure.depth(numbers, platform)
    copy(x).block_until_ready()  # raises if it cannot run
    call = measure.queued(lambda: copy(x), depth)
    seconds = measure.timed({"copy": call}, rounds, depth)["copy"]
    yield row("copy", numbers=numbers, ms=1e3 * seconds, **{"GB/s": 2 * x.nbytes / seconds / 1e9})
