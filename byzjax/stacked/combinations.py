"""Means and other weighted sums of the workers' updates."""

import jax
import jax.numpy as jnp

from byzjax._compiled import compiled
from byzjax._numerics import arrays, rows
from byzjax._numerics.arrays import sum_dtype
from byzjax.stacked.layout import coordinatewise
from byzjax.stacked.workers import PyTree, check, num_workers, widest


@compiled
def mean(updates: PyTree) -> PyTree:
    """Average of all workers' updates, `(1/n) sum_i x_i`.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype. Cost: O(nd).

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> mean(jnp.array([[1.0, 2.0], [3.0, 6.0]]))
      Array([2., 4.], dtype=float32)
    """
    return coordinatewise(lambda x: rows.mean_rows(x, None).astype(x.dtype), updates)


@compiled
def weighted_mean(updates: PyTree, weights: jax.Array) -> PyTree:
    """Weighted average `sum_i w_i x_i / sum_i w_i`.

    A worker of weight 0 is ignored, whatever it sent: 0 times NaN adds 0.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      weights: `[n]`; if they sum to 0, the result is NaN.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype. Cost: O(nd).

    Raises:
      ValueError: `weights` does not have one entry per worker.

    Example:
      >>> import jax.numpy as jnp
      >>> weighted_mean(jnp.array([[1.0], [4.0], [jnp.nan]]), jnp.array([2.0, 1.0, 0.0]))
      Array([2.], dtype=float32)
    """
    _check_one_each("weights", weights, num_workers(updates))
    weights = arrays.wide(jnp.asarray(weights))
    return coordinatewise(lambda x: rows.mean_rows(x, weights).astype(x.dtype), updates)


@compiled
def mean_selected(updates: PyTree, selected: jax.Array) -> PyTree:
    """Average of the selected workers' updates.

    The other rows are ignored. NaN if no worker is selected.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      selected: `bool[n]`, may be traced.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype. Cost: O(nd).

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> mean_selected(jnp.array([[1.0], [jnp.inf], [4.0]]), jnp.array([True, False, True]))
      Array([2.5], dtype=float32)
    """
    return weighted_mean(updates, jnp.asarray(selected).astype(jnp.float32))


@compiled
def weighted_sum(updates: PyTree, weights: jax.Array) -> PyTree:
    """Weighted sum `sum_i w_i x_i`.

    A worker of weight 0 is ignored, whatever it sent: 0 times NaN adds 0.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      weights: `[n]`, of any sign.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype. Cost: O(nd).

    Raises:
      ValueError: `weights` does not have one entry per worker.

    Example:
      >>> import jax.numpy as jnp
      >>> weighted_sum(jnp.array([[1.0], [4.0], [jnp.nan]]), jnp.array([2.0, -1.0, 0.0]))
      Array([-2.], dtype=float32)
    """
    _check_one_each("weights", weights, num_workers(updates))
    weights = arrays.wide(jnp.asarray(weights))
    return coordinatewise(lambda x: rows.sum_rows(x, weights).astype(x.dtype), updates)


@compiled
def combine(updates: PyTree, weights: jax.Array) -> PyTree:
    """Several weighted sums at once, `y_k = sum_i w_ki x_i`.

    A worker of weight 0 is ignored, whatever it sent. A sum in which a row that is not finite has
    nonzero weight is +inf in the leaves where that row is not finite.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      weights: `[k, n]`.

    Returns:
      Stacked updates of k rows; every leaf has shape `[k, ...]` and keeps its dtype.
      Cost: O(k n d).

    Raises:
      ValueError: `weights` does not have one column per worker.

    Example:
      >>> import jax.numpy as jnp
      >>> combine(jnp.array([[1.0], [3.0], [7.0]]), jnp.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))
      Array([[2.],
             [7.]], dtype=float32)
    """
    n = num_workers(updates)
    check(updates)
    if isinstance(weights, list | tuple):
        raise TypeError("weights must be an array; got a list: write jnp.asarray(weights).")
    if jnp.ndim(weights) != 2 or jnp.shape(weights)[1] != n:
        raise ValueError(
            f"weights have shape {jnp.shape(weights)}; {n} workers need shape (k, {n})."
        )

    def leaf_combined(leaf: jax.Array) -> jax.Array:
        out = rows.combine(leaf.reshape(n, -1), weights)
        return out.astype(leaf.dtype).reshape(out.shape[0], *leaf.shape[1:])

    return jax.tree.map(leaf_combined, updates)


@compiled
def group_means(updates: PyTree, group: jax.Array, count: int) -> PyTree:
    """The mean of each group of workers.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      group: `int[n]`, the group of each worker, from 0 to count - 1; may be traced.
      count: number of groups, a Python int.

    Returns:
      Stacked updates of `count` rows; every leaf keeps its dtype. Cost: O(count n d).

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> group_means(jnp.array([[1.0], [3.0], [7.0]]), jnp.array([0, 0, 1]), 2)
      Array([[2.],
             [7.]], dtype=float32)
    """
    members = jnp.asarray(group)[None] == jnp.arange(count)[:, None]
    sizes = jnp.sum(members, axis=1, keepdims=True, dtype=jnp.int32)
    dtype = widest(updates)
    return combine(updates, members.astype(dtype) / sizes.astype(dtype))


@compiled
def scale(updates: PyTree, factors: jax.Array) -> PyTree:
    """Multiplies each worker's update by its own factor, `c_i x_i`.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      factors: `[n]`; where it is 0 the result is 0, whatever the worker sent.

    Returns:
      Stacked updates of the same shapes and dtypes. Cost: O(nd).

    Raises:
      ValueError: `factors` does not have one entry per worker.

    Example:
      >>> import jax.numpy as jnp
      >>> scale(jnp.array([[1.0, 2.0], [jnp.inf, 0.0]]), jnp.array([3.0, 0.0]))
      Array([[3., 6.],
             [0., 0.]], dtype=float32)
    """
    n = num_workers(updates)
    check(updates)
    _check_one_each("factors", factors, n)

    def scaled(leaf: jax.Array) -> jax.Array:
        c = jnp.asarray(factors).astype(sum_dtype(leaf.dtype))
        c = c.reshape(n, *[1] * (leaf.ndim - 1))
        return (jnp.where(c != 0, arrays.wide(leaf), 0) * c).astype(leaf.dtype)

    return jax.tree.map(scaled, updates)


@compiled
def widened(updates: PyTree) -> PyTree:
    """The same values in their accumulation dtype, at least float32.

    Args:
      updates: any tree of arrays.

    Returns:
      The tree with bfloat16 and float16 leaves as float32.

    Example:
      >>> import jax.numpy as jnp
      >>> widened({"w": jnp.ones(2, jnp.bfloat16)})
      {'w': Array([1., 1.], dtype=float32)}
    """
    return jax.tree.map(lambda leaf: arrays.wide(jnp.asarray(leaf)), updates)


def _check_one_each(name: str, values: jax.Array, n: int) -> None:
    if isinstance(values, list | tuple):
        raise TypeError(f"{name} must be an array; got a list: write jnp.asarray({name}).")
    if jnp.shape(values) != (n,):
        raise ValueError(f"{name} have shape {jnp.shape(values)}; {n} workers need shape ({n},).")
