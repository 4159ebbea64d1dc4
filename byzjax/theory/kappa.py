"""A search for the worst input of a rule: a lower bound on its kappa."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._checks import static_int
from byzjax._compiled import compiled
from byzjax._numerics.float64 import float64
from byzjax.theory.constants import constants

# Limit on the subsets of n - f rows that are evaluated in every step; beyond it, only the last such
# subset, which loses nothing if the order of the rows does not matter, since all rows are moved.
_MOST_SUBSETS = 1000
# A variance below this fraction of the largest squared row is rounding error, and is ignored.
_FLAT = 1e-12
_SHORTEST, _LONGEST = 1e-9, 1e3
# Rows whose squared distance is at most this share of the largest one move together.
_SAME = 1e-4


class Worst(NamedTuple):
    """The result of `kappa_search`.

    Attributes:
      kappa: the largest ratio.
      updates: `[n, d]`, the rows that attain it.
      subset: `bool[n]`, the n - f rows S among them.
      found: `[restarts]`, the final ratio of each restart.
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
    steps: int = 2000,
    trusted: int | None = None,
    key: jax.Array | None = None,
) -> Worst:
    r"""The largest squared error of a rule that a search finds, in units of the variance.

    $$ \max_{x \in \mathbb R^{n \times d}} \; \max_{|S| = n - f} \;
       \frac{\|F(x) - \bar x_S\|^2}{V_S}, \qquad
       V_S = \frac{1}{n - f} \sum_{i \in S} \|x_i - \bar x_S\|^2 $$

    A lower bound on the kappa for which the rule is (f, kappa)-robust. Moves alternate: all rows
    along the gradient, all rows along a random direction, one row alone, one row onto another, and
    all rows at the place of one. A move that raises the ratio is kept, and the step length of its
    kind doubles; otherwise it halves. Every other start is on a line. In float64. Restarts run in
    parallel.

    Args:
      rule: `rule(updates) -> update`, differentiable, such as `functools.partial(krum, f=f)`.
      n: number of rows, a Python int.
      f: number of rows that may be Byzantine, a Python int.
      d: number of coordinates, a Python int; 2 may give more than 1 if whole rows are selected.
      restarts: number of starts, a Python int.
      steps: number of moves from each start, a Python int.
      trusted: a row that is in every S, such as the pivot of `nearest_to_pivot`, a Python int; None
        for any S.
      key: PRNG key for starts and moves; `jax.random.key(0)` by default.

    Returns:
      A `Worst`. Cost: `restarts * steps` calls of the rule and its gradient.

    Raises:
      ValueError: n < 2f + 1, or there is no row `trusted`.
      TypeError: one of the numbers is not a Python int.

    Example:
      >>> import byzjax
      >>> worst = kappa_search(byzjax.median, n=5, f=1, restarts=4, steps=300)
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
    if trusted is not None and not 0 <= static_int("trusted", trusted) < n:
        raise ValueError(f"kappa_search needs 0 <= trusted < n; got trusted={trusted}, n={n}.")
    with float64():
        key = jax.random.key(0) if key is None else key
        subsets = _subsets(n, f, trusted)
        rows, final = _climbed(rule, subsets / (n - f), *_drawn(key, restarts, steps, n, d))
        best = rows[jnp.argmax(final)]
        ratios = _ratios(rule(best), subsets / (n - f), best)
        subset = subsets[jnp.argmax(ratios)] > 0
        return Worst(float(jnp.max(final)), *jax.device_get((best, subset, final)))


def worst_input(rule: str, n: int, f: int, /, **options: Any) -> Worst:
    """The input for which a rule is as far off as its kappa allows, from the proof.

    Args:
      rule: the rule's name.
      n: number of rows.
      f: number of Byzantine rows, which come first.
      **options: hyperparameters that differ from the rule's defaults.

    Returns:
      A `Worst` with the rows in float64 and the kappa that they attain; no restarts. The
      `nearest_to_pivot` of these rows has pivot f.

    Raises:
      ValueError: no attaining input is known; or as `constants`.
      TypeError: as `constants`.

    Example:
      >>> worst = worst_input("trimmed_mean", 5, 1)
      >>> worst.updates.ravel().tolist(), round(worst.kappa, 4)
      ([1.0, 0.0, 1.0, 1.0, 1.0], 0.3333)

    Reference: docs/bounds.md.
    """
    for constant in constants("kappa", rule, n, f, **options):
        if constant.input and (constant.least or (constant.attained and constant.attained(n, f))):
            with float64():
                rows = jax.device_get(jnp.asarray(constant.input(n, f)))
            value = (constant.least or constant.value)(n, f)
            return Worst(value, rows, jax.device_get(jnp.arange(n) >= f), ())
    raise ValueError(f"no input is known that attains the kappa of {rule} at n={n}, f={f}.")


def _subsets(n: int, f: int, trusted: int | None = None) -> jax.Array:
    """`[subsets, n]`, 1 for the rows of each."""
    chosen = itertools.combinations(range(n), n - f)
    if math.comb(n, f) > _MOST_SUBSETS:
        chosen = [range(n - f) if trusted is not None and trusted < f else range(f, n)]
    chosen = [rows for rows in chosen if trusted in (None, *rows)]
    return jnp.array([[float(i in rows) for i in range(n)] for rows in map(set, chosen)])


def _ratios(aggregate: jax.Array, weights: jax.Array, x: jax.Array) -> jax.Array:
    """Squared errors over variances, for each subset; 0 where there is no variance."""
    means = weights @ x
    away = x - means[:, None]
    variances = jnp.sum(weights[..., None] * away**2, axis=(1, 2))
    errors = jnp.sum((aggregate - means) ** 2, axis=1)
    there = variances > _FLAT * jnp.max(jnp.sum(x**2, axis=1))
    return jnp.where(there, errors / jnp.where(there, variances, 1), 0)


def _largest_ratio(rule: Callable, weights: jax.Array, x: jax.Array) -> jax.Array:
    value = jnp.max(_ratios(rule(x), weights, x))
    return jnp.where(jnp.isfinite(value), value, 0)


@compiled
def _drawn(
    key: jax.Array, restarts: int, steps: int, n: int, d: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Starts `[restarts, n, d]`, directions `[restarts, steps, n, d]`, rows `[restarts, steps, 2]`.

    Starts form one to four clusters of varying tightness, every other one on a line, as the rows of
    worst cases do. Drawing is a program of its own, since it takes longer to compile than most
    rules.
    """
    centers, which, count, tight, noise, pairs = jax.random.split(key, 6)
    places = jax.random.normal(centers, (restarts, 4, d))
    most = jax.random.randint(count, (restarts, 1), 1, 5)
    chosen = jax.random.randint(which, (restarts, n), 0, most)
    scale = 10.0 ** jax.random.uniform(tight, (restarts, 1, 1), minval=-2, maxval=0.5)
    directions = jax.random.normal(noise, (restarts, steps + 1, n, d))
    starts = jnp.take_along_axis(places, chosen[..., None], axis=1) + scale * directions[:, 0]
    on_a_line = jnp.arange(restarts)[:, None, None] % 2 == 1
    starts = jnp.where(on_a_line & (jnp.arange(d) > 0), 0, starts)
    return starts, directions[:, 1:], jax.random.randint(pairs, (restarts, steps, 2), 0, n)


@compiled
def _climbed(
    rule: Callable, weights: jax.Array, starts: jax.Array, directions: jax.Array, pairs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`_climb` from all starts in parallel."""
    ratio = functools.partial(_largest_ratio, rule, weights)
    return jax.vmap(functools.partial(_climb, ratio))(starts, directions, pairs)


def _climb(
    ratio: Callable, x: jax.Array, directions: jax.Array, pairs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The rows of the largest ratio seen in one ascent from these, and that ratio."""
    ratio_and_gradient = jax.value_and_grad(ratio)  # of every move: the rule is compiled once

    def step(state, inputs):
        x, value, tangent, lengths = state
        index, noise, (i, j) = inputs
        kind, length = index % 5, lengths[index % 5]
        alone = (jnp.arange(len(x)) == i)[:, None]
        away = jnp.sum((x - x[i]) ** 2, axis=1)
        together = (away <= _SAME * jnp.max(away))[:, None]
        uphill = tangent * jnp.linalg.norm(x - jnp.mean(x, axis=0)) / jnp.linalg.norm(tangent)
        moves = (
            length * jnp.where(jnp.isfinite(uphill), uphill, 0),
            length * noise,
            length * noise * alone,
            (x[j] - x[i]) * alone,  # one row exactly onto another
            length * noise[i] * together,
        )
        there = x + jnp.where(index > 0, lax.select_n(kind, *moves), 0)
        reached, gradient = ratio_and_gradient(there)
        better = reached > value
        x, value = jnp.where(better, there, x), jnp.where(better, reached, value)
        tangent = jnp.where(better, gradient, tangent)
        lengths = lengths.at[kind].multiply(jnp.where(better, 2.0, 0.5))
        # Reset now and then: a larger ratio may be beyond a change of selection.
        lengths = jnp.where(index % 97 == 0, 1.0, jnp.clip(lengths, _SHORTEST, _LONGEST))
        return (x, value, tangent, lengths), None

    state = (x, jnp.array(-1.0), jnp.zeros_like(x), jnp.ones(5))
    (x, value, _, _), _ = lax.scan(step, state, (jnp.arange(len(pairs)), directions, pairs))
    return x, value
