"""How far apart one round of agreement leaves receivers, relative to the spread of the values.

A round is measured on random inputs and after gradient ascent from some of them, in float64.
`python -m benchmarks.agreement` writes the table; tests compare it with the proved factors.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import byzjax
from byzjax import protocols

RECEIVERS = 3  # each sent different malicious values; the proofs hold for any two
PHASE, NOISE = 50, 0.7  # of an ascent: steps per phase, size of the noise
SHAPES = ("normal", "clusters", "a line", "almost a line", "heavy tails", "few values")


class Round(NamedTuple):
    """One round, its proved factor, and the shape of its inputs.

    Attributes:
      name: of the function.
      n: rows that a receiver holds.
      d: coordinates.
      f: Byzantine rows; 0 where the proof assumes none.
      proved: the largest factor, as proved.
      rule: `rule(rows, own) -> value`.
    """

    name: str
    n: int
    d: int
    f: int
    proved: float
    rule: Callable


def non_split(name: str, n: int, d: int) -> Round:
    rules = {
        "mid_extremes": (7 / 8, lambda x, own: protocols.mid_extremes(x)),
        "approach_extreme": (31 / 32, protocols.approach_extreme),
    }
    square, rule = rules[name]
    return Round(name, n, d, 0, math.sqrt(square), rule)


def with_lies(name: str, n: int, d: int, f: int) -> Round:
    rules = {
        "trimmed_agreement": (1 / 2, protocols.trimmed_agreement),
        "trimmed_mean": (f / (n - 2 * f), byzjax.trimmed_mean),
        "safe_area_average": (1 - 1 / math.comb(n, f), protocols.safe_area_average),
    }
    proved, rule = rules[name]
    return Round(name, n, d, f, proved, lambda x, own: rule(x, f=f))


ROUNDS = [
    *[non_split("mid_extremes", n, d) for n, d in ((3, 2), (5, 3), (10, 2), (10, 20))],
    *[non_split("approach_extreme", n, d) for n, d in ((3, 2), (5, 3), (10, 2), (10, 20))],
    *[with_lies("trimmed_agreement", n, 2, f) for n, f in ((4, 1), (9, 2), (12, 2), (31, 10))],
    *[with_lies("trimmed_mean", n, 2, f) for n, f in ((4, 1), (9, 2), (12, 2), (31, 10))],
    *[with_lies("safe_area_average", n, 1, f) for n, f in ((4, 1), (7, 2))],
    *[with_lies("safe_area_average", n, 2, f) for n, f in ((5, 1), (6, 1))],
]


def wide():
    """A context in which JAX uses float64."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()


# --- inputs --------------------------------------------------------------------------------------


def values(rng: np.random.Generator, shape: str, n: int, d: int) -> np.ndarray:
    x = rng.normal(size=(n, d))
    if shape == "clusters":
        return 0.1 * x + 5 * rng.normal(size=(3, d))[rng.integers(3, size=n)]
    if shape.endswith("a line"):
        x = rng.normal(size=(n, 1)) * rng.normal(size=d) + 1e-7 * x * shape.startswith("almost")
    if shape == "heavy tails":
        x = rng.standard_cauchy(size=(n, d))
    return np.round(x) if shape == "few values" else x


def heard(rng: np.random.Generator, n: int) -> np.ndarray:
    """Who hears whom, `bool[n, n]`: each hears itself, and any two hear a common sender."""
    out = np.eye(n, dtype=bool) | (rng.random((n, n)) < rng.choice([0, 0.2, 0.5]))
    for i, j in rng.permutation([*itertools.combinations(range(n), 2)]):
        if not (out[i] & out[j]).any():
            out[[i, j], rng.integers(n)] = True
    return out


def lies(rng: np.random.Generator, honest: np.ndarray, f: int) -> np.ndarray:
    """`[RECEIVERS, f, d]`: near the values, at their extremes, far away, or not finite."""
    d = honest.shape[1]
    kind = rng.choice(["near", "ends", "far", "broken"])
    out = honest.mean(axis=0) + honest.std(axis=0) * rng.normal(size=(RECEIVERS, f, d))
    if kind == "ends":
        ends = np.stack([honest.min(axis=0), honest.max(axis=0)])
        out = np.take_along_axis(ends, rng.integers(2, size=(RECEIVERS, d)), axis=0)
        out = np.repeat(out[:, None], f, axis=1)
    if kind == "far":
        out = 10.0 ** rng.integers(2, 12) * rng.normal(size=(RECEIVERS, f, d))
    if kind == "broken":
        bad = rng.random(out.shape) < 0.5
        out[bad] = rng.choice([np.nan, -np.nan, np.inf, -np.inf], size=bad.sum())
    return out


def inputs(round_: Round, count: int, seed: int = 0) -> tuple:
    """(inputs that ascent may move, inputs that are fixed), `count` of each."""
    rng = np.random.default_rng([seed, round_.n, round_.d, round_.f])
    free, fixed = [], []
    for k in range(count):
        x = values(rng, SHAPES[k % len(SHAPES)], round_.n - round_.f, round_.d)
        x[0] += np.ptp(x, axis=0) == 0  # a range of 0 defines no factor
        x = x + rng.choice([0, 10.0]) * rng.normal(size=round_.d)
        free.append((x, lies(rng, x, round_.f)))
        fixed.append(heard(rng, round_.n) if round_.f == 0 else np.zeros(()))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *free), np.stack(fixed)


# --- the factor ----------------------------------------------------------------------------------


def diameter(x: jax.Array) -> jax.Array:
    i, j = np.triu_indices(len(x), 1)
    square = jnp.max(jnp.sum((x[i] - x[j]) ** 2, axis=1))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def factor(round_: Round, free: tuple, fixed: jax.Array) -> jax.Array:
    """The diameter after the round over that before; with Byzantine rows, the worst range ratio."""
    honest, lies = free
    if round_.f == 0:
        rows = jnp.where(fixed[:, :, None], honest[None], jnp.nan)
        after = jax.vmap(round_.rule)(rows, honest)
        return diameter(after) / diameter(honest)
    rows = jax.vmap(lambda lie: jnp.concatenate([honest, lie]))(lies)
    after = jax.vmap(lambda x: round_.rule(x, x[0]))(rows)
    by_range = jnp.max(jnp.ptp(after, axis=0) / jnp.ptp(honest, axis=0))
    if round_.name != "safe_area_average":
        return by_range
    return jnp.maximum(by_range, diameter(after) / diameter(honest))


def ascend(round_: Round, steps: int, free: tuple, fixed: jax.Array, key: jax.Array) -> jax.Array:
    """The largest factor seen in `steps` noisy gradient steps.

    Steps shrink; every `PHASE` steps they restart large, from the worst input so far.
    """
    value_and_gradient = jax.value_and_grad(functools.partial(factor, round_))

    def unit(free: tuple) -> tuple:
        honest, lies = free
        middle, half = jnp.mean(honest, axis=0), diameter(honest) / 2
        return (honest - middle) / half, (lies - middle) / half

    def step(carry, k):
        here, worst, most = carry
        value, gradient = value_and_gradient(here, fixed)
        worst = jax.tree.map(lambda x, y: jnp.where(value > most, x, y), here, worst)
        here = jax.tree.map(lambda x, y: jnp.where(k % PHASE == 0, y, x), here, worst)
        flat, as_input = ravel_pytree(gradient)
        flat = jnp.where(jnp.isfinite(flat), flat, 0)
        flat = flat / jnp.maximum(jnp.linalg.norm(flat), 1e-12)
        noise = jax.random.normal(jax.random.fold_in(key, k), flat.shape)
        way = as_input(0.2 * (1 - (k % PHASE) / PHASE) * (flat + NOISE * noise / flat.size**0.5))
        return (unit(jax.tree.map(jnp.add, here, way)), worst, jnp.maximum(most, value)), None

    honest, lies = free
    start = unit((honest, jnp.clip(jnp.nan_to_num(lies), -1e3, 1e3)))
    (last, _, most), _ = jax.lax.scan(step, (start, start, -1.0), jnp.arange(steps))
    return jnp.maximum(most, factor(round_, last, fixed))


def measure(round_: Round, count: int, starts: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(factors of random inputs, the largest factor of each ascent from some of them)."""
    with wide():
        free, fixed = inputs(round_, count)
        at_random = np.asarray(jax.jit(jax.vmap(functools.partial(factor, round_)))(free, fixed))
        if not starts:
            return at_random, at_random[:0]
        # Half start from the worst inputs, which may be stuck at a kink, half from all others.
        order = np.argsort(-at_random)
        others = np.linspace(starts // 2, count - 1, starts - starts // 2).astype(int)
        chosen = np.append(order[: starts // 2], order[others])
        free, fixed = jax.tree.map(lambda x: x[chosen], (free, fixed))
        climb = jax.jit(jax.vmap(functools.partial(ascend, round_, steps)))
        return at_random, np.asarray(
            climb(free, fixed, jax.random.split(jax.random.key(0), starts))
        )
