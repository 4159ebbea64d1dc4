"""The rows that a solver reads: as they are, or the means of groups, computed block by block."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._numerics.arrays import varying_as
from byzjax._numerics.rows import fold_blocks
from byzjax.solvers.span import Span, median_of, span_about
from byzjax.stacked import PyTree

# Columns whose means are held at a time.
HELD_COLUMNS = 2**18


class Rows:
    """Matrices `[k, c]` of rows.

    Args:
      matrices: the rows.
      axis_name: mesh axis over which the coordinates are sliced, if they are.
      weights: `[k]`, if the rows have weights.
    """

    def __init__(self, matrices: list[jax.Array], axis_name: Any, weights: jax.Array | None = None):
        self.matrices, self.axis_name, self.weights = matrices, axis_name, weights

    def detached(self) -> "Rows":
        """The same rows as constants."""
        return Rows(lax.stop_gradient(self.matrices), self.axis_name, self.weights)

    def times(self, factors: jax.Array) -> jax.Array:
        """The factors of the rows `[..., k]`, times the weights."""
        if self.weights is None:
            return factors
        return factors * jnp.broadcast_to(self.weights, factors.shape)

    def median(self) -> PyTree:
        """The coordinate-wise median, without a derivative."""
        return median_of(self.matrices, self.weights)

    def span_about(self, center: PyTree) -> Span:
        """The span of the rows about a centre."""
        return span_about(self.matrices, center, self.axis_name)

    def squared_distances(self, point: PyTree) -> jax.Array:
        """`||x_i - p||^2`."""
        return stacked.squared_distances(self.matrices, point, axis_name=self.axis_name)

    def weighted_mean(self, weights: jax.Array) -> PyTree:
        """`sum_i w_i x_i / sum_i w_i`."""
        return stacked.weighted_mean(self.matrices, weights)

    def weighted_sum(self, weights: jax.Array) -> PyTree:
        """`sum_i w_i x_i`."""
        return stacked.weighted_sum(self.matrices, weights)

    def inner_products(self, point: PyTree, center: PyTree) -> jax.Array:
        """`<x_i - c, p>`."""
        return stacked.inner_products(self.matrices, point, center=center, axis_name=self.axis_name)


class Means(Rows):
    """Rows `[k, c]` that are functions of the columns of others, such as the means of groups.

    Each pass computes them again, block by block, so that they are never held as a whole.

    Args:
      matrices: `[n, c]`.
      axis_name: mesh axis over which the coordinates are sliced.
      means: maps `[n, c]` to `[k, c]`, each column independently.
    """

    def __init__(self, matrices: list[jax.Array], axis_name: Any, means: Callable):
        super().__init__(matrices, axis_name)
        self.means = means

    def detached(self) -> "Means":
        """See `Rows`."""
        return Means(lax.stop_gradient(self.matrices), self.axis_name, self.means)

    def median(self) -> PyTree:
        """See `Rows`."""
        return self._mapped(lambda rows: median_of([rows])[0])

    def span_about(self, center: PyTree) -> Span:
        """See `Rows`."""
        gram = self._summed(lambda rows, c: stacked.gram([rows], [c]), center)
        bad = ~jnp.isfinite(jnp.diagonal(gram))
        return Span(jnp.where(bad[:, None] | bad[None], 0, gram), bad)

    def squared_distances(self, point: PyTree) -> jax.Array:
        """See `Rows`."""
        return self._summed(lambda rows, p: stacked.squared_distances([rows], [p]), point)

    def weighted_mean(self, weights: jax.Array) -> PyTree:
        """See `Rows`."""
        return self._mapped(lambda rows: stacked.weighted_mean([rows], weights)[0])

    def weighted_sum(self, weights: jax.Array) -> PyTree:
        """See `Rows`."""
        return self._mapped(lambda rows: stacked.weighted_sum([rows], weights)[0])

    def inner_products(self, point: PyTree, center: PyTree) -> jax.Array:
        """See `Rows`."""

        def term(rows: jax.Array, p: jax.Array, c: jax.Array) -> jax.Array:
            return stacked.inner_products([rows], [p], center=[c])

        return self._summed(term, point, center)

    def _mapped(self, term: Callable) -> PyTree:
        """`term(rows) -> [c]` of all columns."""

        def of_matrix(x: jax.Array) -> jax.Array:
            blocks = x.shape[1] // HELD_COLUMNS
            parts = []
            if blocks:
                cut = functools.partial(lax.dynamic_slice_in_dim, x, axis=1)
                starts = HELD_COLUMNS * jnp.arange(blocks)
                each = lax.map(lambda start: term(self.means(cut(start, HELD_COLUMNS))), starts)
                parts.append(each.reshape(-1))
            if x.shape[1] > blocks * HELD_COLUMNS or not parts:
                parts.append(term(self.means(x[:, blocks * HELD_COLUMNS :])))
            return jnp.concatenate(parts)

        return [of_matrix(x) for x in self.matrices]

    def _summed(self, term: Callable, *vectors: PyTree) -> jax.Array:
        """The sum of `term(rows, *vectors)` over blocks of columns and devices."""
        parts = []
        for x, *beside in zip(self.matrices, *vectors):

            def of_block(start: Any, width: int, x=x, beside=beside) -> jax.Array:
                own = (lax.dynamic_slice_in_dim(v, start, width) for v in beside)
                return term(self.means(lax.dynamic_slice_in_dim(x, start, width, axis=1)), *own)

            left = x.shape[1] % HELD_COLUMNS
            last = of_block(x.shape[1] - left, left)
            total, _ = fold_blocks(
                lambda total, *block, of_block=of_block: total + of_block(*block),
                varying_as(x, jnp.zeros_like(last)),
                *(x, HELD_COLUMNS),
            )
            parts.append(total + last)
        return lax.psum(sum(parts[1:], parts[0]), self.axis_name)
