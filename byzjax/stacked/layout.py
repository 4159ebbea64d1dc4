"""The leaves of a tree as a few matrices `[n, c]`, one row per worker."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._compiled import compiled
from byzjax._numerics import thresholds
from byzjax._numerics.arrays import sum_dtype
from byzjax._numerics.barrier import fusion_barrier
from byzjax.stacked.workers import PyTree, check, num_workers


def _layout(updates: PyTree) -> list[list[int]]:
    """The indices of the leaves that share each matrix; all of one dtype."""
    n = num_workers(updates)
    leaves = jax.tree.leaves(updates)
    largest = sorted(range(len(leaves)), key=lambda i: -leaves[i].size)[: thresholds.MAX_OWN_LEAVES]
    groups: dict[Any, list[int]] = {}
    for i, leaf in enumerate(leaves):
        size = leaf.size // n
        alone = size >= thresholds.OWN_LEAF and (i in largest or size >= thresholds.ALWAYS_OWN_LEAF)
        groups.setdefault(i if alone else jnp.dtype(leaf.dtype).name, []).append(i)
    return list(groups.values())


@compiled
def columns(updates: PyTree) -> list[jax.Array]:
    """The coordinates of all workers as a few matrices, in an order that depends only on shapes.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      Matrices `[n, c]`, each of one dtype; the c add up to d. Cost: a copy of the leaves that
      share a matrix.

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> columns({"a": jnp.array([[1.0], [2.0]]), "b": jnp.array([[3.0, 4.0], [5.0, 6.0]])})
      [Array([[1., 3., 4.],
             [2., 5., 6.]], dtype=float32)]
    """
    n, leaves = num_workers(updates), jax.tree.leaves(updates)
    check(updates)
    flat = [leaf.reshape(n, -1) for leaf in leaves]
    return [_join([flat[i] for i in group]) for group in _layout(updates)]


def _join(parts: list[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


@compiled
def from_columns(vectors: list[jax.Array], updates: PyTree) -> PyTree:
    """One update from vectors `[c]`, one for each matrix of `columns(updates)`.

    Args:
      vectors: as `columns(updates)` without the workers' axis.
      updates: stacked updates; only shapes and dtypes are used.

    Returns:
      One update; every leaf has shape `[...]`, with the dtype of its vector.

    Example:
      >>> import jax.numpy as jnp
      >>> updates = {"a": jnp.array([[1.0], [2.0]]), "b": jnp.array([[3.0, 4.0], [5.0, 6.0]])}
      >>> from_columns([jnp.array([7.0, 8.0, 9.0])], updates)
      {'a': Array([7.], dtype=float32), 'b': Array([8., 9.], dtype=float32)}
    """
    leaves, structure = jax.tree.flatten(updates)
    out: list[Any] = [None] * len(leaves)
    for group, vector in zip(_layout(updates), vectors):
        # XLA would compute a vector in the shape of its leaf: along rows of 100 coordinates, a
        # sorting network of 51 rows takes three times as long.
        reshaped = len(group) > 1 or leaves[group[0]].ndim > 2
        vector, start = fusion_barrier(vector) if reshaped else vector, 0
        for i in group:
            shape = leaves[i].shape[1:]
            out[i] = lax.slice(vector, (start,), (start + math.prod(shape),)).reshape(shape)
            start += math.prod(shape)
    return jax.tree.unflatten(structure, out)


@compiled
def coordinatewise(fn: Callable[[jax.Array], jax.Array], updates: PyTree) -> PyTree:
    """Applies a function of one coordinate's n values to every coordinate.

    Args:
      fn: maps a matrix `[n, c]` to a vector `[c]`, each column independently.
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      One update; every leaf has shape `[...]`.

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> coordinatewise(lambda x: x.max(axis=0), {"w": jnp.array([[1.0, 5.0], [3.0, 2.0]])})
      {'w': Array([3., 5.], dtype=float32)}
    """
    matrices = columns(updates)
    vectors = [fn(matrix) if matrix.size else matrix[0] for matrix in matrices]
    for matrix, vector in zip(matrices, vectors):
        if jnp.shape(vector) != matrix.shape[1:]:
            raise ValueError(
                "coordinatewise needs a function [n, c] -> [c], one value per column; got "
                f"{list(matrix.shape)} -> {list(jnp.shape(vector))}."
            )
    return from_columns(vectors, updates)


def beside(point: PyTree, updates: PyTree) -> list[jax.Array]:
    """One update as vectors `[c]`, one for each matrix of `columns(updates)`.

    Args:
      point: one update; every leaf has shape `[...]`.
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      Vectors, in the accumulation dtypes of their matrices.

    Raises:
      ValueError: `point` does not have the shape of one update.

    Example:
      >>> import jax.numpy as jnp
      >>> updates = {"a": jnp.zeros((3, 1)), "b": jnp.zeros((3, 1))}
      >>> beside({"a": jnp.zeros(1), "b": jnp.ones(1)}, updates)
      [Array([0., 1.], dtype=float32)]
    """
    theirs, ours = jax.tree.structure(point), jax.tree.structure(updates)
    if theirs != ours:
        raise ValueError(f"point has the structure {theirs}, but one update has {ours}.")
    points = jax.tree.leaves(point)
    for (path, leaf), p in zip(jax.tree_util.tree_leaves_with_path(updates), points):
        if jnp.shape(p) != leaf.shape[1:]:
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"point{name} has shape {jnp.shape(p)}; the updates have {leaf.shape}, "
                f"so {leaf.shape[1:]} was expected."
            )
    leaves = jax.tree.leaves(updates)
    flat = [jnp.asarray(p).astype(sum_dtype(x.dtype)).reshape(-1) for p, x in zip(points, leaves)]
    return [_join([flat[i] for i in group]) for group in _layout(updates)]
