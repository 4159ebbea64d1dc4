"""Attacks bounded by the distances between the honest updates."""

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._checks import one_of
from byzjax._compiled import compiled
from byzjax._numerics.arrays import wide
from byzjax.attacks import _rows
from byzjax.stacked import PyTree

DIRECTIONS = ("unit", "sign", "std")


@compiled
def min_max(updates: PyTree, byzantine: jax.Array, *, direction: str = "std") -> PyTree:
    r"""All attackers send the farthest point along a direction within the honest diameter.

    $$ b = \mu + \gamma p, \qquad \gamma = \max \{ \gamma :
       \max_i \|b - x_i\| \le \max_{i, j} \|x_i - x_j\| \} $$

    over the honest updates, with their mean $\mu$ and p one of $-\mu / \|\mu\|$ (`"unit"`),
    $-\operatorname{sign} \mu$ (`"sign"`) and $-\sigma$ (`"std"`, the sample standard deviation per
    coordinate). Each condition is quadratic in gamma, so the largest gamma is a minimum of roots:
    exact, where public code halves steps. Without honest workers, b = 0. Cost: O(n^2 d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      direction: `"unit"`, `"sign"` or `"std"`.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or the direction is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0], [2.0], [3.0], [9.0]])
      >>> byzantine = jnp.array([False, False, False, True])
      >>> attacks.min_max(updates, byzantine)[3]
      Array([1.], dtype=float32)

    Reference: Shejwalkar and Houmansadr, Manipulating the Byzantine: Optimizing Model Poisoning
    Attacks and Defenses for Federated Learning, NDSS 2021, section IV.
    """
    byzantine = _rows.mask(updates, byzantine)
    mean, p = _mean_and_direction(updates, byzantine, direction)
    distances = _honest_distances(updates, byzantine)
    away = stacked.squared_distances(updates, _rows.only(mean))
    # <p, mu - x_i>, with the difference taken first.
    products = -stacked.inner_products(updates, _rows.only(p), center=_rows.only(mean))
    square = stacked.squared_norms(p)[0]
    room = jnp.max(distances) - jnp.where(byzantine, 0, away)
    products = jnp.where(byzantine, 0, products)
    # gamma^2 |p|^2 + 2 gamma <p, mu - x_i> <= room; in the form without cancellation.
    root = jnp.sqrt(jnp.maximum(products**2 + square * room, 0))
    gamma = jnp.where(
        products > 0, _rows.ratio(room, products + root), _rows.ratio(root - products, square)
    )
    gamma = jnp.maximum(jnp.min(jnp.where(byzantine, jnp.inf, gamma)), 0)
    return _rows.replace(updates, byzantine, _rows.plus(mean, _finite(gamma), p))


@compiled
def min_sum(
    updates: PyTree, byzantine: jax.Array, *, direction: str = "std", bound: str = "max"
) -> PyTree:
    r"""Like `min_max`, with sums of squared distances in place of the largest distance.

    $$ b = \mu + \gamma p, \qquad \gamma = \max \{ \gamma :
       \sum_i \|b - x_i\|^2 \le \max_i \sum_j \|x_i - x_j\|^2 \} $$

    Since the honest deviations from $\mu$ add up to 0, gamma is the root of
    $h \gamma^2 \|p\|^2 = \max_i \sum_j \|x_i - x_j\|^2 - \sum_i \|x_i - \mu\|^2$ for h honest
    workers; without any, b = 0. Cost: O(n^2 d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      direction: `"unit"`, `"sign"` or `"std"`, as in `min_max`.
      bound: `"max"` over i as in the paper, or `"min"` as in its code, which is weaker.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or the direction or the bound is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0], [2.0], [3.0], [9.0]])
      >>> byzantine = jnp.array([False, False, False, True])
      >>> attacks.min_sum(updates, byzantine)[3]
      Array([1.], dtype=float32)
      >>> attacks.min_sum(updates, byzantine, bound="min")[3]
      Array([2.], dtype=float32)

    Reference: Shejwalkar and Houmansadr, NDSS 2021, section IV.
    """
    byzantine = _rows.mask(updates, byzantine)
    one_of("bound", bound, ("max", "min"))
    mean, p = _mean_and_direction(updates, byzantine, direction)
    sums = jnp.sum(_honest_distances(updates, byzantine), axis=1)
    if bound == "max":
        limit = jnp.max(jnp.where(byzantine, 0, sums))
    else:
        limit = jnp.min(jnp.where(byzantine, jnp.inf, sums))
    away = stacked.squared_distances(updates, _rows.only(mean))
    room = jnp.maximum(limit - jnp.sum(jnp.where(byzantine, 0, away)), 0)
    honest = jnp.sum(~byzantine, dtype=jnp.int32).astype(room.dtype)
    gamma = jnp.sqrt(_rows.ratio(room, honest * stacked.squared_norms(p)[0]))
    return _rows.replace(updates, byzantine, _rows.plus(mean, _finite(gamma), p))


def _mean_and_direction(
    updates: PyTree, byzantine: jax.Array, direction: str
) -> tuple[PyTree, PyTree]:
    one_of("direction", direction, DIRECTIONS)
    mean = _rows.honest_mean(updates, byzantine)
    if direction == "unit":
        p = _rows.unit(mean)
    elif direction == "sign":
        p = jax.tree.map(jnp.sign, mean)
    else:
        p = _rows.honest_std(updates, byzantine, mean, ddof=1)
    return mean, _rows.scale(-1, p)


def _honest_distances(updates: PyTree, byzantine: jax.Array) -> jax.Array:
    """Squared distances of honest pairs, `[n, n]`; 0 for all others."""
    distances = stacked.pairwise_squared_distances(jax.tree.map(wide, updates))
    return jnp.where(byzantine[:, None] | byzantine[None], 0, distances)


def _finite(gamma: jax.Array) -> jax.Array:
    """Gamma, or 0 where it is infinite: without honest workers, or after overflow."""
    return jnp.where(jnp.isfinite(gamma), gamma, 0)
