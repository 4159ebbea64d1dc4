"""Direct calls beside `jax.jit` of the same."""

from collections.abc import Callable, Iterator

import jax

from benchmarks import direct
from benchmarks.accelerator import measure
from benchmarks.accelerator.budget import LEAST, NO_TIME, Clock, Record, guarded, missing, row
from benchmarks.accelerator.parts import Sizes


def records(clock: Clock, sizes: Sizes, platform: str) -> Iterator[Record]:
    """A row for each function and d."""
    del platform
    for d in sizes.direct:
        x = measure.random(direct.N, d)
        functions = dict(direct.functions(x))
        for group in measure.groups(list(functions)):
            what = f"direct calls of {', '.join(group)}, d = {d:,}"
            if clock.left() < LEAST:
                yield missing(what, NO_TIME)
            else:
                some = {name: functions[name] for name in group}
                yield from guarded(what, compared(some, x, clock))


def compared(functions: dict[str, Callable], x: jax.Array, clock: Clock) -> Iterator[Record]:
    """The rows of these functions; each is compiled twice, by its decorator and by `jax.jit`."""
    d = x.shape[1]
    jitted = {name: jax.jit(function) for name, function in functions.items()}

    def first(name: str) -> None:
        jax.block_until_ready((functions[name](x), jitted[name](x)))

    ready = measure.each({name: lambda name=name: first(name) for name in functions}, clock)
    for name, function in functions.items():
        what = f"a direct call of {name}, d = {d:,}"
        why = measure.reason_of(ready[name])
        if why or clock.left() == 0:
            yield missing(what, why or NO_TIME)
            continue
        calls = {
            "direct": lambda f=function: jax.block_until_ready(f(x)),
            "jit": lambda f=jitted[name]: jax.block_until_ready(f(x)),
        }
        seconds = measure.timed(calls, rounds=5)
        if why := measure.reason_of(seconds["direct"]) or measure.reason_of(seconds["jit"]):
            yield missing(what, why)
        else:
            yield row("direct", **direct.line(name, d, seconds["direct"], seconds["jit"]))
