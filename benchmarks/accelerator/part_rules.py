"""All rules: the share of the bandwidth of a copy, and beside PyTorch on the same device."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import every_rule
from benchmarks.accelerator import measure, peers
from benchmarks.accelerator.budget import LEAST, NO_TIME, Clock, Record, guarded, missing, row
from benchmarks.accelerator.parts import Sizes


def records(clock: Clock, sizes: Sizes, platform: str) -> Iterator[Record]:
    """The rows of each shape in turn."""
    if why := peers.absent(platform):
        yield missing("PyTorch", why)
    for n, wanted in sizes.shapes:
        what = f"all rules at n = {n}, d = {wanted:,}"
        if clock.left() < LEAST:
            yield missing(what, NO_TIME)
            continue
        d = measure.largest(n, wanted)
        if d < wanted:
            yield missing(what, f"memory allows d = {d:,}, which is in the table")
        yield from guarded(what, Shape(n, d, sizes.rounds, clock, platform).records())


class Shape:
    """All rules at one shape."""

    def __init__(self, n: int, d: int, rounds: int, clock: Clock, platform: str):
        self.n, self.d, self.rounds, self.clock, self.platform = n, d, rounds, clock, platform
        self.where = f"n = {n}, d = {d:,}"
        self.depth = measure.depth(d, platform)

    def records(self) -> Iterator[Record]:
        """Compiles all rules at once, then times them in groups."""
        n, d = self.n, self.d
        x = measure.random(n, d)
        rules = {name: every_rule.with_faults(name, n, d) for name in every_rule.NAMES}
        functions = {name: rule for name, rule in rules.items() if rule is not None}
        for name in rules.keys() - functions.keys():
            yield missing(f"{name} at n = {n}", "it tolerates no fault there")
        programs = measure.compiled({"copy": jnp.negative} | functions, x, self.clock)
        for name, program in programs.items():
            if why := measure.reason_of(program):
                yield missing(f"{name} at {self.where}", why)
        names = [name for name in functions if isinstance(programs[name], measure.Program)]
        if isinstance(programs["copy"], Exception):
            return
        longest = 0.0  # of the groups of this shape
        for group in measure.groups(names):
            left = self.clock.left()
            if left <= longest:
                yield missing(f"{', '.join(group)} at {self.where}", NO_TIME)
            else:
                yield from self.group(group, programs, x)
                longest = max(longest, left - self.clock.left())

    def group(self, names: Sequence[str], programs: dict[str, Any], x: jax.Array):
        """The rows of some rules, timed in turns with a copy and with PyTorch."""
        calls = {
            name: measure.queued(lambda p=programs[name]: p.call(x), self.depth)
            for name in (*names, "copy")
        }
        theirs, failed = peers.fastest(names, x, self.platform, self.depth)
        for name, why in failed.items():
            yield missing(f"{name} in PyTorch at {self.where}", why)
        calls |= {f"torch {name}": call for name, (_, call) in theirs.items()}
        seconds = measure.timed(calls, self.rounds, self.depth)
        for name, result in seconds.items():
            if why := measure.reason_of(result):
                yield missing(f"{name} at {self.where}", why)
        for name in names:
            if not isinstance(seconds[name], Exception):
                label = theirs[name][0] if name in theirs else None
                yield self.line(name, seconds, label, programs[name].seconds)

    def line(
        self, name: str, seconds: dict[str, Any], label: str | None, compile_seconds: float
    ) -> Record:
        """One row."""
        n, taken, copy = self.n, seconds[name], seconds["copy"]
        theirs = seconds.get(f"torch {name}")
        theirs = None if isinstance(theirs, Exception) else theirs
        shared = None if isinstance(copy, Exception) else (n + 1) / taken / (2 * n / copy)
        return row(
            "rules",
            n=n,
            d=self.d,
            rule=name,
            ms=1e3 * taken,
            **{
                "share of a copy's bandwidth": shared,
                "PyTorch ms": theirs and 1e3 * theirs,
                "times PyTorch": theirs and theirs / taken,
                "PyTorch's form": label if theirs else None,
                "compile s": compile_seconds,
            },
        )
