"""Direct calls compared with `jax.jit` of the same: the overhead of the compiling decorator.

    python -m benchmarks.direct --write docs

A direct call looks up its program by the types of its arguments; apart from that it should take as
long as a call of a function that the user compiled.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import byzjax
from benchmarks import timing
from benchmarks.every_rule import NAMES, SUBSETS, WRITTEN
from benchmarks.pages import environment, markdown, write_csv, written
from byzjax import attacks, stacked
from byzjax._program import Parser
from byzjax.facts import FACTS
from experiments.grid import specs

N = 25
SHAPES = (1000, 10**6)  # d
# Largest allowed ratio, and additional milliseconds.
GOALS = {1000: (1.5, 0.2), 10**6: (1.2, 0.0)}


def rules(d: int) -> Iterator[tuple[str, Callable]]:
    """Each rule with the f of `benchmarks.every_rule`, bound as a user would."""
    for name in NAMES:
        facts = FACTS.get(name)
        a, b = facts.needs if facts else (0, 1)
        f = 1 if name in SUBSETS else N // 5 if a == 0 else min(N // 5, (N - b) // a)
        spec = specs.parse(
            "rule",
            WRITTEN.get(name, name).format(groups=2 * f + 1, scale=d**0.5, majority=f + 1),
            f=f,
        )
        given: dict[str, Any] = dict(spec.hyperparameters)
        if "key" in specs.parameters_of(spec):
            given["key"] = jax.random.key(0)
        yield name, functools.partial(spec.function, **given)


def others(x: jax.Array) -> Iterator[tuple[str, Callable]]:
    """Mixings, attacks, influence and the algebra."""
    byzantine, one, key = jnp.arange(N) < 5, x[0], jax.random.key(0)
    yield "nearest_neighbors", functools.partial(byzjax.nearest_neighbors, f=5)
    yield "bucketing", functools.partial(byzjax.bucketing, s=2, key=key)
    yield "clip_norms", functools.partial(byzjax.clip_norms, max_norm=1.0)
    yield "adaptive_clipping", functools.partial(byzjax.adaptive_clipping, f=5)
    yield "influence", lambda x: byzjax.influence(byzjax.krum, x, f=5)
    for attack in (attacks.little_is_enough, attacks.min_max, attacks.inner_product_manipulation):
        yield attack.__name__, functools.partial(attack, byzantine=byzantine)
    yield "squared_norms", stacked.squared_norms
    yield "pairwise_squared_distances", stacked.pairwise_squared_distances
    yield "gram", functools.partial(stacked.gram, center=one)
    yield "mean_of", functools.partial(stacked.mean_selected, selected=~byzantine)


def functions(x: jax.Array) -> Iterator[tuple[str, Callable]]:
    """All functions of `x: [N, d]` that are measured."""
    yield from rules(x.shape[1])
    yield from others(x)


def measured() -> Iterator[tuple[str, int, float, float]]:
    """(name, d, seconds of a direct call, seconds of `jax.jit` of it)."""
    for d in SHAPES:
        x = jax.random.normal(jax.random.key(0), (N, d))
        for name, function in functions(x):
            compiled = jax.jit(function)
            seconds = timing.take_turns(
                {
                    "direct": lambda f=function, x=x: jax.block_until_ready(f(x)),
                    "compiled": lambda f=compiled, x=x: jax.block_until_ready(f(x)),
                },
                rounds=5,
            )
            yield name, d, seconds["direct"], seconds["compiled"]


def line(name: str, d: int, direct: float, compiled: float) -> dict[str, Any]:
    """The row of a function: milliseconds, their ratio, and whether it reaches its goal."""
    factor, more = GOALS[d]
    reached = direct <= factor * compiled + more / 1e3
    return {
        "function": name,
        "d": d,
        "direct (ms)": 1e3 * direct,
        "jit (ms)": 1e3 * compiled,
        "ratio": direct / compiled,
        "reached": "yes" if reached else "no",
    }


def rows() -> Iterator[dict[str, Any]]:
    """One line for each function and shape, printed as it is measured."""
    for measurement in measured():
        row = line(*measurement)
        print(*row.values(), sep=", ", flush=True)
        yield row


def main() -> None:
    """Measures, prints, and writes if asked to."""
    parser = Parser(description=__doc__)
    parser.add_argument("--write", type=pathlib.Path, help="folder of direct.md, for its table")
    options = parser.parse_args()
    table = list(rows())
    text = f"{environment()}\n\n{markdown(table)}"
    print(text)
    if options.write:
        write_csv(options.write / "benchmarks", {"direct": table})
        page = options.write / "direct.md"
        page.write_text(written(page.read_text(), "direct", text))


if __name__ == "__main__":
    main()
