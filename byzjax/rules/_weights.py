"""Rules whose rows have weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import one_weight_each
from byzjax.stacked import PyTree
from byzjax.stacked.workers import widest


def by_weight(
    plain: Callable, weighted: Callable, weights: jax.Array, updates: PyTree, *data: PyTree
) -> PyTree:
    """`plain(updates, *data)` if all weights are equal, else `weighted(weights, updates, *data)`.

    Derivatives with respect to the weights are those of `weighted`, also where they are equal. NaN
    if a weight is negative or not finite, or all are 0. The functions close over no traced value.

    Args:
      plain: the rule without weights.
      weighted: the rule with weights, at least float32, of sum at most 4n.
      weights: `[n]`.
      updates: stacked updates; every leaf has shape `[n, ...]`.
      *data: further arguments of both functions, trees of floats.

    Returns:
      One update.
    """
    n = stacked.num_workers(updates)
    stacked.check(updates)
    one_weight_each("weights", weights, n)
    weights = jnp.asarray(weights).astype(widest(updates))
    valid = jnp.all((weights >= 0) & jnp.isfinite(weights)) & jnp.any(weights > 0)
    out = _either(plain, weighted)(_scaled(jnp.where(valid, weights, 1)), updates, *data)
    return jax.tree.map(lambda leaf: jnp.where(valid, leaf, jnp.nan), out)


def weights_of_lowest(values: jax.Array, weights: jax.Array, share: float) -> jax.Array:
    """The weights that remain within this share of all: those of the rows with the lowest values.

    Ties go to the lower index; the last row may count in part.

    Args:
      values: `[n]` without NaN, such as distances.
      weights: `[n]`.
      share: of the sum of the weights.

    Returns:
      `[n]`; NaN for a row of value +inf that counts: more weight is bad than the rule tolerates.
    """
    values = lax.stop_gradient(values)
    n, index = len(values), jnp.arange(len(values))
    earlier = (values[None] == values[:, None]) & (index[None] < index[:, None])
    before = jnp.sum(
        jnp.where((values[None] < values[:, None]) | earlier, weights[None], 0), axis=1
    )
    size = share * jnp.sum(weights)
    rounding = n * float(jnp.finfo(weights.dtype).eps) * size
    kept = jnp.where(size - before > rounding, jnp.minimum(size - before, weights), 0)
    return jnp.where((kept > 0) & jnp.isinf(values), jnp.nan, kept)


def _scaled(weights: jax.Array) -> jax.Array:
    """The weights times a power of two, without rounding, such that the largest is about 2."""
    largest = lax.stop_gradient(jnp.max(weights)) / 2
    return weights / lax.reduce_precision(largest, jnp.finfo(weights.dtype).nexp, 0)


def _either(plain: Callable, weighted: Callable) -> Callable:
    def of_equal(weights: jax.Array, *operands: PyTree) -> PyTree:
        constant = lax.stop_gradient(operands)
        return _with_tangent(plain(*operands), weighted(weights, *constant))

    def either(weights: jax.Array, *operands: PyTree) -> PyTree:
        equal = jnp.all(weights == weights[0])
        return lax.cond(equal, of_equal, weighted, weights, *operands)

    return either


@jax.custom_jvp
def _with_tangent(value: PyTree, like: PyTree) -> PyTree:
    """The value; its tangent is the sum of both. What computes `like` alone is then dead code."""
    del like
    return value


@_with_tangent.defjvp
def _with_tangent_jvp(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    return primals[0], jax.tree.map(jnp.add, *tangents)
