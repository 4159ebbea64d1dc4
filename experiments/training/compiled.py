"""Compiled programs: timed, shared between rules, and called for several runs at once."""

import concurrent.futures
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# The profiler's name for calls of compiled programs.
CALL = "byzjax program"

# Runs that carry more bytes are trained one after another. MLP, steps a second on 2 CPU cores:
# n = 11, 3.5 MB, eight runs, 1.5 times as many two at a time; n = 51, 16 MB, as many.
AT_ONCE = 2**23


class Compiled(NamedTuple):
    """One compilation.

    Attributes:
      seconds: how long it took, or reading the program from the compilation cache.
      executable: the compiled program.
    """

    seconds: float
    executable: jax.stages.Compiled


class Timed:
    """A compiled function, which records the compilation for each new set of shapes.

    Args:
      function: the function.
      compiled: the compilations of its program, to which its own are appended.
      shared: executables by trees and text, which equal functions of other programs use, too.
      **options: those of `jax.jit`.
    """

    def __init__(
        self,
        function: Callable,
        compiled: list[Compiled],
        shared: dict[str, jax.stages.Compiled] | None = None,
        **options: Any,
    ):
        self.jitted, self.compiled, self.shared = jax.jit(function, **options), compiled, shared
        self.programs: dict[str, int] = {}

    def index(self, *args: Any) -> int:
        """The place among the compilations of the program for these arguments."""
        shapes = str(jax.tree.map(jnp.shape, args))
        if shapes not in self.programs:
            begin = time.perf_counter()
            lowered = self.jitted.lower(*args)
            if self.shared is None:
                executable = lowered.compile()
            else:
                # Equal texts may take and return their arrays in different trees.
                key = f"{lowered.args_info} {lowered.out_tree} {lowered.as_text()}"
                if key not in self.shared:
                    self.shared[key] = lowered.compile()
                executable = self.shared[key]
            self.programs[shapes] = len(self.compiled)
            self.compiled.append(Compiled(time.perf_counter() - begin, executable))
        return self.programs[shapes]

    def __call__(self, *args: Any) -> Any:
        """The function's result."""
        index = self.index(*args)
        with jax.profiler.TraceAnnotation(CALL, program=index):
            return self.compiled[index].executable(*args)


class OneByOne:
    """`advance(states, first, attack, runs, ...)`, whose program trains one run.

    On CPU one run keeps all cores busy, its conditionals stay conditionals, and its rows stay in
    the cache. Per step and run, vmapped against sequential: MNIST, n = 51, little_is_enough, three
    runs, 47 ms against 16 ms for aksel, 64 against 33 for the median; digits, nine runs, 1.6
    against 0.7 ms. A program of one run rather than a loop over runs compiles in 4.1 s instead of
    5.5, for any number of runs, and small ones may train at the same time.

    Args:
      advance: the function of one run.
      compiled: the compilations of its program.
      shared: see `Timed`.
    """

    def __init__(
        self, advance: Callable, compiled: list[Compiled], shared: dict[str, jax.stages.Compiled]
    ):
        self.one = Timed(_of_single(advance), compiled, donate_argnums=0)
        self.split = Timed(_split, compiled, shared)
        self.join = Timed(_join, compiled, shared)
        self.alone: dict[int, bool] = {}

    def __call__(self, states: Any, first: Any, attack: Any, runs: Any, *data: Any) -> Any:
        """The states and diagnostics of all runs, stacked."""
        if len(jax.tree.leaves(states)[0]) == 1:
            return self.one(states, first, attack, runs, *data)
        parts = self.split(states, runs)
        del states
        args = [(state, first, attack, run, *data) for state, run in parts]
        count = 1 if self._apart(args[0]) else min(len(args), len(os.sched_getaffinity(0)))
        if count == 1:
            return self.join([self.one(*each) for each in args])
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            return self.join(list(pool.map(lambda each: _waited(self.one, each), args)))

    def _apart(self, args: Sequence[Any]) -> bool:
        """Whether runs train one after another: large ones, and those that decompose matrices.

        As many decompositions of several matrices at once as there are threads would wait for each
        other for ever (`byzjax._numerics.linalg`).
        """
        index = self.one.index(*args)
        if index not in self.alone:
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(args[0]))
            text = self.one.compiled[index].executable.as_text()
            self.alone[index] = size > AT_ONCE or text is None or "lapack" in text
        return self.alone[index]


def _waited(function: Callable, args: Sequence[Any]) -> Any:
    return jax.block_until_ready(function(*args))


def _of_single(advance: Callable) -> Callable:
    """The function on states and runs with an axis of length 1."""

    def of_one(states: Any, first: Any, attack: Any, runs: Any, *data: Any) -> Any:
        state, run = jax.tree.map(lambda leaf: leaf[0], (states, runs))
        after = advance(state, first, attack, run, *data)
        return jax.tree.map(lambda leaf: leaf[None], after)

    return of_one


def _split(*trees: Any) -> list[tuple]:
    """Stacked trees as one of length 1 for each run."""
    count = len(jax.tree.leaves(trees)[0])
    return [jax.tree.map(lambda leaf: leaf[i : i + 1], trees) for i in range(count)]  # noqa: B023


def _join(parts: list) -> Any:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
