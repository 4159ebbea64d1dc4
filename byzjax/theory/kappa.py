"""The worst input of a rule, found by a search: how large its kappa is at least."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._checks import static_int
from byzjax.theory._float64 import float64

# Subsets of n - f rows that are looked at in every step; of more, only the last n - f rows, which
# loses nothing where the order of the rows does not matter, since all rows are moved.
_MOST_SUBSETS = 1000
# A variance below this share of the largest squared distance is rounding, not variance.
_FLAT = 1e-12
_SHORTEST, _LONGEST = 1e-9, 1e3


class Worst(NamedTuple):
    """What `kappa_search` found.

    Attributes:
      kappa: the largest ratio.
      updates: `[n, d]`, the rows that have it.
      subset: `bool[n]`, the n - f rows S among them.
      found: `[restarts]`, what each restart ended with.
    """

    kappa: float
    updates: Any
    subset: Any
    found: Any


def kappa_search(
    rule: Callable,
    *,
    n: int,
    f: int,
    d: int = 2,
    restarts: int = 100,
    steps: int = 600,
    key: jax.Array | None = None,
) -> Worst:
    r"""The largest squared error of a rule that a search finds, in units of the variance.

    $$ \max_{x \in \mathbb R^{n \times d}} \; \max_{|S| = n - f} \;
       \frac{\|F(x) - \bar x_S\|^2}{V_S}, \qquad
       V_S = \frac{1}{n - f} \sum_{i \in S} \|x_i - \bar x_S\|^2 $$

    A lower bound on the kappa for which the rule is (f, kappa)-robust. All rows are moved, by turns
    uphill along the gradient, along random directions, one row alone, and one row onto another; a
    move is kept if it is better, and then the next of its kind is twice as long, else half as long.
    In float64. Restarts are climbed side by side.

    Args:
      rule: `rule(updates) -> update`, differentiable, such as `functools.partial(krum, f=f)`.
      n: number of rows, a Python int.
      f: how many of them may be bad, a Python int.
      d: number of coordinates, a Python int; two show more than one where whole rows are selected.
      restarts: number of starts, a Python int.
      steps: number of moves from each, a Python int.
      key: draws starts and moves; `jax.random.key(0)` by default.

    Returns:
      A `Worst`. Cost: `restarts * steps` calls of the rule and its gradient.

    Raises:
      ValueError: n < 2f + 1.
      TypeError: one of the numbers is not a Python int.

    Example:
      >>> import byzjax
      >>> worst = kappa_search(byzjax.median, n=5, f=1, restarts=8, steps=200)
      >>> 0.95 < worst.kappa <= 1.0 + 1e-9  # the median's constant at (5, 1) is 1
      True

    Reference: ours; (f, kappa)-robustness is that of Allouah, Farhadkhani, Guerraoui, Gupta, Pinot
    and Stephan, Fixing by Mixing, AISTATS 2023 (arXiv:2302.01772).
    """
    n, f = static_int("n", n, at_least=1), static_int("f", f)
    d, steps = static_int("d", d, at_least=1), static_int("steps", steps, at_least=1)
    restarts = static_int("restarts", restarts, at_least=1)
    if n < 2 * f + 1:
        raise ValueError(f"kappa_search needs n >= 2f + 1; got n={n}, f={f}.")
    with float64():
        start_key, climb_key = jax.random.split(jax.random.key(0) if key is None else key)
        subsets = _subsets(n, f)
        ratio = functools.partial(_largest_ratio, rule, subsets / (n - f))
        starts = jax.vmap(lambda k: _start(k, n, d))(jax.random.split(start_key, restarts))
        climb = jax.jit(jax.vmap(functools.partial(_climb, ratio, steps)))
        rows, found = climb(starts, jax.random.split(climb_key, restarts))
        best = rows[jnp.argmax(found)]
        ratios = _ratios(rule(best), subsets / (n - f), best)
        subset = subsets[jnp.argmax(ratios)] > 0
        return Worst(float(jnp.max(found)), *jax.device_get((best, subset, found)))


def _subsets(n: int, f: int) -> jax.Array:
    """`[subsets, n]`, 1 for the rows of each."""
    chosen = itertools.combinations(range(n), n - f)
    if math.comb(n, f) > _MOST_SUBSETS:
        chosen = iter([tuple(range(f, n))])
    return jnp.array([[float(i in rows) for i in range(n)] for rows in map(set, chosen)])


def _ratios(aggregate: jax.Array, weights: jax.Array, x: jax.Array) -> jax.Array:
    """Squared errors over variances, for each subset; 0 where there is no variance."""
    means = weights @ x
    away = x - means[:, None]
    variances = jnp.sum(weights[..., None] * away**2, axis=(1, 2))
    errors = jnp.sum((aggregate - means) ** 2, axis=1)
    there = variances > _FLAT * jnp.max(jnp.sum(away**2, axis=2), axis=1)
    return jnp.where(there, errors / jnp.where(there, variances, 1), 0)


def _largest_ratio(rule: Callable, weights: jax.Array, x: jax.Array) -> jax.Array:
    value = jnp.max(_ratios(rule(x), weights, x))
    return jnp.where(jnp.isfinite(value), value, 0)


def _start(key: jax.Array, n: int, d: int) -> jax.Array:
    """Rows in one to four clusters, more or less tight."""
    centers, which, count, tight, noise = jax.random.split(key, 5)
    places = jax.random.normal(centers, (4, d))
    most = jax.random.randint(count, (), 1, 5)
    chosen = places[jax.random.randint(which, (n,), 0, most)]
    return chosen + 10.0 ** jax.random.uniform(tight, minval=-2, maxval=0.5) * jax.random.normal(
        noise, (n, d)
    )


def _climb(
    ratio: Callable, steps: int, x: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The rows of the largest ratio seen on the way up from these, and that ratio."""
    gradient = jax.grad(ratio)

    def step(state, inputs):
        x, value, slope, lengths = state
        index, k = inputs
        kind = index % 4
        there = x + lengths[kind] * lax.switch(
            kind, (_uphill, _anywhere, _one_row, _onto_another), x, slope, k, lengths[kind]
        )
        reached = ratio(there)
        better = reached > value
        x, value = jnp.where(better, there, x), jnp.where(better, reached, value)
        slope = jnp.where(better, gradient(x), slope)
        lengths = lengths.at[kind].multiply(jnp.where(better, 2.0, 0.5))
        # Now and then long again: the way on may lie behind an edge.
        lengths = jnp.where(index % 97 == 0, 1.0, jnp.clip(lengths, _SHORTEST, _LONGEST))
        return (x, value, slope, lengths), None

    state = (x, ratio(x), gradient(x), jnp.ones(4))
    (x, value, _, _), _ = lax.scan(step, state, (jnp.arange(steps), jax.random.split(key, steps)))
    return x, value


def _uphill(x: jax.Array, slope: jax.Array, key: jax.Array, length: jax.Array) -> jax.Array:
    del key, length
    slope = jnp.where(jnp.isfinite(slope), slope, 0)
    return slope * jnp.linalg.norm(x - jnp.mean(x, axis=0)) / (jnp.linalg.norm(slope) + 1e-300)


def _anywhere(x: jax.Array, slope: jax.Array, key: jax.Array, length: jax.Array) -> jax.Array:
    del slope, length
    return jax.random.normal(key, x.shape)


def _one_row(x: jax.Array, slope: jax.Array, key: jax.Array, length: jax.Array) -> jax.Array:
    del slope, length
    which, how = jax.random.split(key)
    chosen = jnp.arange(len(x)) == jax.random.randint(which, (), 0, len(x))
    return chosen[:, None] * jax.random.normal(how, x.shape)


def _onto_another(x: jax.Array, slope: jax.Array, key: jax.Array, length: jax.Array) -> jax.Array:
    """One row exactly onto another, whatever the length of the step."""
    del slope
    i, j = jax.random.randint(key, (2,), 0, len(x))
    return (jnp.arange(len(x)) == i)[:, None] * (x[j] - x[i]) / length
