"""Norms, distances and inner products of the workers' updates."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._compiled import compiled
from byzjax._numerics import arrays, pairs, rows
from byzjax.stacked.layout import beside, columns
from byzjax.stacked.workers import PyTree


def _add(parts: list[jax.Array], axis_name: str | None) -> jax.Array:
    """Sums the parts over matrices and devices."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = functools.reduce(jnp.promote_types, [part.dtype for part in parts])
    total = functools.reduce(jnp.add, [part.astype(dtype) for part in parts])
    return total if axis_name is None else lax.psum(total, axis_name)


def _finish(parts: list[jax.Array], axis_name: str | None) -> jax.Array:
    """Sums the parts over matrices and devices; NaN becomes +inf."""
    total = _add(parts, axis_name)
    return jnp.where(jnp.isnan(total), jnp.inf, total)


@compiled
def rowwise(
    fn: Callable[[jax.Array], jax.Array], updates: PyTree, *, axis_name: str | None = None
) -> jax.Array:
    """Sums a function of each worker's row over all coordinates.

    Args:
      fn: maps a matrix `[n, c]` to `[n]`, a sum over its columns.
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      `[n]`, at least float32; +inf where it is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> updates = {"a": jnp.array([[1.0], [2.0]]), "b": jnp.array([[3.0, 4.0], [5.0, 6.0]])}
      >>> rowwise(lambda x: jnp.sum(x, axis=1), updates)
      Array([ 8., 13.], dtype=float32)
    """
    return _finish([fn(matrix) for matrix in columns(updates)], axis_name)


@compiled
def squared_norms(updates: PyTree, *, axis_name: str | None = None) -> jax.Array:
    """Squared Euclidean norm of each worker's update, `||x_i||^2`.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      `[n]`, at least float32; +inf where it is not finite. Cost: O(nd).

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> squared_norms({"a": jnp.array([[3.0], [1.0]]), "b": jnp.array([[4.0], [jnp.nan]])})
      Array([25., inf], dtype=float32)
    """

    def squares(x: jax.Array) -> jax.Array:
        return rows.row_squares(x, jnp.zeros_like(arrays.wide(x[0])))

    return rowwise(squares, updates, axis_name=axis_name)


@compiled
def squared_distances(updates: PyTree, point: PyTree, *, axis_name: str | None = None) -> jax.Array:
    """Squared Euclidean distance of each worker's update to one point, `||x_i - p||^2`.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      point: one update; every leaf has shape `[...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      `[n]`, at least float32; +inf where it is not finite. Cost: O(nd).

    Raises:
      ValueError: `point` does not have the shape of one update.

    Example:
      >>> import jax.numpy as jnp
      >>> squared_distances(jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.zeros(2))
      Array([ 0., 25.], dtype=float32)
    """
    return _finish(
        [rows.row_squares(x, p) for x, p in zip(columns(updates), beside(point, updates))],
        axis_name,
    )


@compiled
def pairwise_squared_distances(updates: PyTree, *, axis_name: str | None = None) -> jax.Array:
    """Squared Euclidean distances of all pairs of workers, `||x_i - x_j||^2`.

    Sums of squared differences or, for many or large rows, of products about a centre where those
    neither cancel nor overflow: neither a common offset nor rows that are far away affect the
    accuracy of other distances. Squares below the smallest number of the dtype are 0: in float32,
    distances below about 1e-22. A row that is not finite is infinitely far from all others.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      `[n, n]`, symmetric, at least float32; 0 on the diagonal; elsewhere +inf where it is not
      finite. Cost: O(n^2 d).

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> pairwise_squared_distances(jnp.array([[0.0, 0.0], [3.0, 4.0], [jnp.nan, 0.0]]))
      Array([[ 0., 25., inf],
             [25.,  0., inf],
             [inf, inf,  0.]], dtype=float32)
    """
    matrices = columns(updates)
    total = _finish([pairs.pair_squares(x) for x in matrices], axis_name)
    return jnp.where(jnp.eye(total.shape[0], dtype=bool), 0, total)


@compiled
def inner_products(
    updates: PyTree,
    point: PyTree,
    *,
    center: PyTree | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Inner product of each worker's update with one point, `<x_i, p>` or `<x_i - c, p>`.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      point: one update; every leaf has shape `[...]`.
      center: c, one update, which is subtracted from each row; 0 by default.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      `[n]`, at least float32; not finite for a row that is not. Cost: O(nd).

    Raises:
      ValueError: `point` or `center` does not have the shape of one update.

    Example:
      >>> import jax.numpy as jnp
      >>> inner_products(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1.0, 10.0]))
      Array([21., 43.], dtype=float32)
    """
    matrices, points = columns(updates), beside(point, updates)
    centers = [jnp.zeros_like(p) for p in points] if center is None else beside(center, updates)
    parts = [rows.inner_products(x, p, c) for x, p, c in zip(matrices, points, centers)]
    return _add(parts, axis_name)


@compiled
def gram(updates: PyTree, center: PyTree, *, axis_name: str | None = None) -> jax.Array:
    """Inner products of all pairs of workers about a centre, `<x_i - c, x_j - c>`.

    The centre should lie among the good rows, as the coordinate-wise median does: then results
    computed from the products do not cancel, however far away the bad rows are.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      center: one update; every leaf has shape `[...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      `[n, n]`, symmetric, at least float32. A row whose distance to the centre is not finite has
      +inf on the diagonal and 0 elsewhere. Cost: O(n^2 d).

    Raises:
      ValueError: `center` does not have the shape of one update.

    Example:
      >>> import jax.numpy as jnp
      >>> gram(jnp.array([[1.0, 2.0], [3.0, 0.0], [jnp.nan, 0.0]]), jnp.zeros(2))
      Array([[ 5.,  3.,  0.],
             [ 3.,  9.,  0.],
             [ 0.,  0., inf]], dtype=float32)
    """
    matrices, points = columns(updates), beside(center, updates)
    total = _add([pairs.gram(x, p) for x, p in zip(matrices, points)], axis_name)
    bad = ~jnp.isfinite(jnp.diagonal(total))
    diagonal = jnp.eye(total.shape[0], dtype=bool)
    cleared = jnp.where(bad[:, None] | bad[None], 0, total)
    return jnp.where(diagonal & bad[:, None], jnp.inf, cleared)
