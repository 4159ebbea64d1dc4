"""Working in the span of the rows: points `c + sum_i a_i (x_i - c)` by their weights a.

With the Gram matrix about a centre that lies among the good rows, distances to such a point do not
cancel, however far away the other rows are: a rule gives a far row a weight that makes up for its
length. So an iteration costs O(n^2) instead of O(nd).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import _order, stacked
from byzjax._lapack import times
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
        """`||x_i - v||^2` of all rows to the point v of these weights; +inf for bad rows."""
        products = times(self.gram, weights)
        squares = jnp.diagonal(self.gram) - 2 * products + jnp.sum(weights * products)
        return jnp.where(self.bad, jnp.inf, squares)

    def moved_to(self, weights: jax.Array) -> "Span":
        """The span about the point of these weights."""
        products = times(self.gram, weights)
        gram = self.gram - products[:, None] - products[None] + jnp.sum(weights * products)
        return Span(jnp.where(self.bad[:, None] | self.bad[None], 0, gram), self.bad)


def span_about(updates: PyTree, center: PyTree, axis_name: str | None) -> Span:
    """The span of the rows about a centre."""
    gram = stacked.gram(updates, center, axis_name=axis_name)
    bad = jnp.isinf(jnp.diagonal(gram))
    return Span(jnp.where(jnp.isinf(gram), 0, gram), bad)


def median_of(updates: PyTree) -> PyTree:
    """The centre that lies among the good rows, without a slope."""
    return stacked.coordinatewise(_order.median, lax.stop_gradient(updates))
