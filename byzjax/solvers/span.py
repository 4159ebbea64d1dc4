"""Working in the span of the rows: points `c + sum_i a_i (x_i - c)` by their weights a.

With the Gram matrix about a centre among the good rows, distances to such a point do not cancel,
however far away the other rows are: the weight that a rule gives a far row offsets its length.
An iteration thus costs O(n^2) instead of O(nd).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._numerics import order
from byzjax._numerics.linalg import matmul
from byzjax.stacked import PyTree


class Span(NamedTuple):
    """The rows about a centre, by their inner products.

    Attributes:
      gram: `[n, n]`, finite; rows and columns of bad rows are 0.
      bad: `bool[n]`, rows without a finite distance to the centre.
    """

    gram: jax.Array
    bad: jax.Array

    def squared_distances(self, weights: jax.Array) -> jax.Array:
        """`||x_i - v||^2` of all rows to the point v with these weights; +inf for bad rows."""
        products = matmul(self.gram, weights)
        squares = jnp.diagonal(self.gram) - 2 * products + jnp.sum(weights * products)
        return jnp.where(self.bad, jnp.inf, squares)

    def moved_to(self, weights: jax.Array) -> "Span":
        """The span about the point with these weights."""
        products = matmul(self.gram, weights)
        gram = self.gram - products[:, None] - products[None] + jnp.sum(weights * products)
        return Span(jnp.where(self.bad[:, None] | self.bad[None], 0, gram), self.bad)


def span_about(updates: PyTree, center: PyTree, axis_name: str | None) -> Span:
    """The span of the rows about a centre.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      center: one update, which should lie among the good rows.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      A `Span`. Cost: O(n^2 d).

    Example:
      >>> import jax.numpy as jnp
      >>> span_about(jnp.array([[1.0], [jnp.nan]]), jnp.zeros(1), None).bad
      Array([False,  True], dtype=bool)
    """
    gram = stacked.gram(updates, center, axis_name=axis_name)
    bad = jnp.isinf(jnp.diagonal(gram))
    return Span(jnp.where(jnp.isinf(gram), 0, gram), bad)


def median_of(updates: PyTree, weights: jax.Array | None = None) -> PyTree:
    """The coordinate-wise median, which lies among the good rows, without a derivative.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      weights: `[n]`, if the rows have weights.

    Returns:
      One update. Cost: O(nd).

    Example:
      >>> import jax.numpy as jnp
      >>> median_of(jnp.array([[1.0], [2.0], [jnp.inf]]))
      Array([2.], dtype=float32)
    """
    detached = lax.stop_gradient(updates)
    if weights is None:
        return stacked.coordinatewise(order.median, detached)
    constant = lax.stop_gradient(weights)
    return stacked.coordinatewise(lambda x: order.weighted_median(x, constant), detached)
