"""The algebra of stacked trees: all that a rule needs to know of a model.

A *stacked* tree holds what n workers sent: every leaf has shape `[n, *param_shape]`, and row i of
all leaves together is the update of worker i. Norms, distances and means below treat such a row as
one flat vector without making one: the largest leaves are read where they lie, and the others, in
most models a small part, share a buffer.

* Sums are taken in `promote_types(dtype, float32)`.
* Distances come from differences, never from the Gram matrix alone, whose cancellation turned a
  true squared distance of 0.2 into -16384 (common mean 1e3, spread 1e-3). A distance that is not
  finite, because of NaN, infinity or overflow, is +inf: that worker is simply far away.
* `axis_name` says that the leaves are this device's slice of the coordinates, as inside
  `jax.shard_map`: inner products are then summed over that axis.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import _kernels
from byzjax._compiled import compiled
from byzjax._kernels import sum_dtype as sum_dtype

PyTree = Any

# A leaf of at least so many coordinates has kernels of its own; the others of one dtype share one
# buffer, since each kernel costs compile time (0.2 s for aksel at n = 25 on 2 CPU cores) ...
OWN_LEAF = 2**15
# ... and at most so many leaves, the largest, have kernels of their own: aksel compiles in 2.8 s
# for 65 leaves of 69,000 coordinates. What shares a buffer is copied there, which costs several
# times as much as the median itself.
MAX_OWN_LEAVES = 8
# Copying a leaf of so many coordinates costs more, within 50 steps, than compiling its kernels (n =
# 25, 2 CPU cores), and a large model has no memory for a copy.
ALWAYS_OWN_LEAF = 2**17


def num_workers(updates: PyTree) -> int:
    """The number n of workers: the common length of the leading axis of every leaf.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      n, a Python int.

    Raises:
      ValueError: there is no leaf, a leaf is a scalar, or two leaves disagree.

    Example:
      >>> import jax.numpy as jnp
      >>> num_workers({"w": jnp.zeros((5, 3, 2)), "b": jnp.zeros((5, 2))})
      5
    """
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    expected = "stacked updates have leaves of shape [n, ...]"
    if not leaves:
        raise ValueError(f"updates without a leaf; {expected}.")
    named = [(jax.tree_util.keystr(path) or "the array", jnp.shape(leaf)) for path, leaf in leaves]
    for name, shape in named:
        if not shape:
            raise ValueError(f"no worker axis: {name} is a scalar; {expected}.")
    first, shape = named[0]
    for name, other in named[1:]:
        if other[0] != shape[0]:
            raise ValueError(
                f"leaves disagree on the number of workers: {first} has {shape[0]} "
                f"(shape {shape}), {name} has {other[0]} (shape {other}); {expected}, as "
                "byzjax.stack makes them of one update for each worker."
            )
    if shape[0] == 0:
        raise ValueError(f"no worker: {first} has shape {shape}; {expected} with n >= 1.")
    return shape[0]


def check(updates: PyTree) -> None:
    """Raises where a tree cannot be stacked updates: what every rule and attack looks at first.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      None.

    Raises:
      TypeError: a leaf is not of a real float type, or the tree is a list of vectors.

    Example:
      >>> import jax.numpy as jnp
      >>> check({"w": jnp.zeros((3, 2), int)})
      Traceback (most recent call last):
      TypeError: updates must be real floats; ['w'] is int32.
    """
    if type(updates) in (list, tuple) and len(updates) > 2:
        shapes = {getattr(part, "shape", None) for part in updates}
        if len(shapes) == 1 and len(shape := shapes.pop() or ()) == 1:
            raise TypeError(
                f"a {type(updates).__name__} of {len(updates)} vectors reads as {len(updates)} "
                f"scalar parameters of {shape[0]} workers; for the updates of {len(updates)} "
                "workers write byzjax.stack([...])."
            )
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        dtype = jnp.asarray(leaf).dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            name = jax.tree_util.keystr(path) or "the array"
            split = ""
            if jnp.issubdtype(dtype, jnp.complexfloating):
                split = "; put optax.contrib.split_real_and_imaginary around the transformation"
            raise TypeError(f"updates must be real floats; {name} is {dtype}{split}.")


def stack(updates: Sequence[PyTree]) -> PyTree:
    """Stacks updates that come one by one, each worker's a tree of the same structure.

    Args:
      updates: one update for each worker; leaves are arrays of JAX, of NumPy, or what
        `jnp.asarray` takes, such as tensors of PyTorch on CPU.

    Returns:
      Stacked updates; every leaf has shape `[n, ...]`. Cost: one copy.

    Raises:
      ValueError: there is no update, or two of them disagree in structure or shape.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> gradients = [jnp.array([0.0, 1.0]), jnp.array([2.0, 3.0]), jnp.array([99.0, -9.0])]
      >>> byzjax.median(byzjax.stack(gradients))
      Array([2., 1.], dtype=float32)
    """
    updates = list(updates)
    if not updates:
        raise ValueError("stack needs one update for each worker; got none.")
    first, structure = jax.tree_util.tree_flatten_with_path(updates[0])
    whole = [jax.tree.leaves(updates[0])]
    for i, update in enumerate(updates[1:], 1):
        leaves, other = jax.tree.flatten(update)
        if other != structure:
            raise ValueError(
                f"updates disagree in structure: that of worker 0 is {structure}, that of worker "
                f"{i} is {other}."
            )
        for (path, leaf), theirs in zip(first, leaves):
            if jnp.shape(leaf) != jnp.shape(theirs):
                name = jax.tree_util.keystr(path) or "the array"
                raise ValueError(
                    f"updates disagree in shape: {name} of worker 0 has {jnp.shape(leaf)}, that of "
                    f"worker {i} has {jnp.shape(theirs)}."
                )
        whole.append(leaves)
    rows = [jnp.stack([jnp.asarray(leaf) for leaf in leaves]) for leaves in zip(*whole)]
    return jax.tree.unflatten(structure, rows)


# --- columns: the leaves as few matrices [n, c] ------------------------------------------------


def _layout(updates: PyTree) -> list[list[int]]:
    """Which leaves, by their places, stand side by side in one matrix: one dtype in each."""
    n = num_workers(updates)
    leaves = jax.tree.leaves(updates)
    largest = sorted(range(len(leaves)), key=lambda i: -leaves[i].size)[:MAX_OWN_LEAVES]
    groups: dict[Any, list[int]] = {}
    for i, leaf in enumerate(leaves):
        size = leaf.size // n
        own = size >= OWN_LEAF and (i in largest or size >= ALWAYS_OWN_LEAF)
        groups.setdefault(i if own else jnp.dtype(leaf.dtype).name, []).append(i)
    return list(groups.values())


@compiled
def columns(updates: PyTree) -> list[jax.Array]:
    """The coordinates of all workers as few matrices, in an order that only the shapes decide.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      Matrices `[n, c]`, each of one dtype; the c add up to d. Cost: a copy of the leaves that
      share one.

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
      updates: stacked updates; only shapes and dtypes are looked at.

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
        vector, start = _kernels.wall(vector) if len(group) > 1 else vector, 0
        for i in group:
            shape = leaves[i].shape[1:]
            out[i] = lax.slice(vector, (start,), (start + math.prod(shape),)).reshape(shape)
            start += math.prod(shape)
    return jax.tree.unflatten(structure, out)


@compiled
def coordinatewise(fn: Callable[[jax.Array], jax.Array], updates: PyTree) -> PyTree:
    """Applies a function of one coordinate's n values to every coordinate.

    Args:
      fn: maps a matrix `[n, c]` to a vector `[c]`, each column by itself.
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
    return from_columns([fn(matrix) for matrix in columns(updates)], updates)


def _beside(point: PyTree, updates: PyTree) -> list[jax.Array]:
    """One update as vectors `[c]`, one for each matrix of `updates`."""
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


# --- sums of squares ---------------------------------------------------------------------------


def _add(parts: list[jax.Array], axis_name: str | None) -> jax.Array:
    """Adds what the matrices and devices found."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = functools.reduce(jnp.promote_types, [part.dtype for part in parts])
    total = functools.reduce(jnp.add, [part.astype(dtype) for part in parts])
    return total if axis_name is None else lax.psum(total, axis_name)


def _finish(parts: list[jax.Array], axis_name: str | None) -> jax.Array:
    """Adds what the matrices and devices found; what is not finite becomes +inf."""
    total = _add(parts, axis_name)
    return jnp.where(jnp.isnan(total), jnp.inf, total)


@compiled
def rowwise(
    fn: Callable[[jax.Array], jax.Array], updates: PyTree, *, axis_name: str | None = None
) -> jax.Array:
    """Adds up over all coordinates what a function finds of each worker's row.

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
        return _kernels.row_squares(x, jnp.zeros_like(_kernels.wide(x[0])))

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
      ValueError: `point` has not the shape of one update.

    Example:
      >>> import jax.numpy as jnp
      >>> squared_distances(jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.zeros(2))
      Array([ 0., 25.], dtype=float32)
    """
    return _finish(
        [_kernels.row_squares(x, p) for x, p in zip(columns(updates), _beside(point, updates))],
        axis_name,
    )


@compiled
def pairwise_squared_distances(updates: PyTree, *, axis_name: str | None = None) -> jax.Array:
    """Squared Euclidean distances of all pairs of workers, `||x_i - x_j||^2`.

    Sums of squared differences or, for many or large rows, of products about a centre, wherever
    those neither cancel nor overflow: neither a common offset nor rows that are far away do harm to
    the distances between others. Squares below the least number of the dtype are 0: in float32,
    distances below 1e-22 or so. A row that is not finite is infinitely far from all others.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      `[n, n]`, symmetric, at least float32; 0 on the diagonal, +inf elsewhere where it is not
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
    total = _finish([_kernels.pair_squares(x) for x in matrices], axis_name)
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
      center: c, one update, which is subtracted coordinate by coordinate; 0 by default.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      `[n]`, at least float32; not finite for a row that is not. Cost: O(nd).

    Raises:
      ValueError: `point` or `center` has not the shape of one update.

    Example:
      >>> import jax.numpy as jnp
      >>> inner_products(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1.0, 10.0]))
      Array([21., 43.], dtype=float32)
    """
    matrices, points = columns(updates), _beside(point, updates)
    centers = [jnp.zeros_like(p) for p in points] if center is None else _beside(center, updates)
    parts = [_kernels.inner_products(x, p, c) for x, p, c in zip(matrices, points, centers)]
    return _add(parts, axis_name)


@compiled
def gram(updates: PyTree, center: PyTree, *, axis_name: str | None = None) -> jax.Array:
    """Inner products of all pairs of workers about a centre, `<x_i - c, x_j - c>`.

    The centre should lie among the good rows, as the coordinate-wise median does: then what is
    computed from the products does not cancel, however far away the bad rows are.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      center: one update; every leaf has shape `[...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      `[n, n]`, symmetric, at least float32. A row whose distance to the centre is not finite has
      +inf on the diagonal and 0 elsewhere. Cost: O(n^2 d).

    Raises:
      ValueError: `center` has not the shape of one update.

    Example:
      >>> import jax.numpy as jnp
      >>> gram(jnp.array([[1.0, 2.0], [3.0, 0.0], [jnp.nan, 0.0]]), jnp.zeros(2))
      Array([[ 5.,  3.,  0.],
             [ 3.,  9.,  0.],
             [ 0.,  0., inf]], dtype=float32)
    """
    matrices, points = columns(updates), _beside(center, updates)
    total = _add([_kernels.gram(x, p) for x, p in zip(matrices, points)], axis_name)
    bad = ~jnp.isfinite(jnp.diagonal(total))
    diagonal = jnp.eye(total.shape[0], dtype=bool)
    cleared = jnp.where(bad[:, None] | bad[None], 0, total)
    return jnp.where(diagonal & bad[:, None], jnp.inf, cleared)


# --- means ---------------------------------------------------------------------------------------


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
    return coordinatewise(lambda x: _kernels.mean_rows(x, None).astype(x.dtype), updates)


@compiled
def weighted_mean(updates: PyTree, weights: jax.Array) -> PyTree:
    """Weighted average `sum_i w_i x_i / sum_i w_i`.

    A worker of weight 0 is left out whatever it sent: 0 times NaN does not count.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      weights: `[n]`; its sum must not be 0, or the result is NaN.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype. Cost: O(nd).

    Raises:
      ValueError: `weights` has not one entry for each worker.

    Example:
      >>> import jax.numpy as jnp
      >>> weighted_mean(jnp.array([[1.0], [4.0], [jnp.nan]]), jnp.array([2.0, 1.0, 0.0]))
      Array([2.], dtype=float32)
    """
    n = num_workers(updates)
    if jnp.shape(weights) != (n,):
        raise ValueError(f"weights have shape {jnp.shape(weights)}; {n} workers need shape ({n},).")
    weights = _kernels.wide(jnp.asarray(weights))
    return coordinatewise(lambda x: _kernels.mean_rows(x, weights).astype(x.dtype), updates)


@compiled
def mean_of(updates: PyTree, selected: jax.Array) -> PyTree:
    """Average of the selected workers' updates.

    What the others sent is not looked at. NaN where nobody is selected.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      selected: `bool[n]`, may be traced.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype. Cost: O(nd).

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> mean_of(jnp.array([[1.0], [jnp.inf], [4.0]]), jnp.array([True, False, True]))
      Array([2.5], dtype=float32)
    """
    return weighted_mean(updates, jnp.asarray(selected).astype(jnp.float32))


@compiled
def weighted_sum(updates: PyTree, weights: jax.Array) -> PyTree:
    """Weighted sum `sum_i w_i x_i`.

    A worker of weight 0 is left out whatever it sent: 0 times NaN does not count.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      weights: `[n]`, of any sign.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype. Cost: O(nd).

    Raises:
      ValueError: `weights` has not one entry for each worker.

    Example:
      >>> import jax.numpy as jnp
      >>> weighted_sum(jnp.array([[1.0], [4.0], [jnp.nan]]), jnp.array([2.0, -1.0, 0.0]))
      Array([-2.], dtype=float32)
    """
    n = num_workers(updates)
    if jnp.shape(weights) != (n,):
        raise ValueError(f"weights have shape {jnp.shape(weights)}; {n} workers need shape ({n},).")
    weights = _kernels.wide(jnp.asarray(weights))
    return coordinatewise(lambda x: _kernels.sum_rows(x, weights).astype(x.dtype), updates)


@compiled
def combine(updates: PyTree, weights: jax.Array) -> PyTree:
    """Several weighted sums at once, `y_k = sum_i w_ki x_i`.

    A worker of weight 0 is left out whatever it sent. A sum in which a row that is not finite has
    another weight is +inf in the leaves where that row is not finite.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      weights: `[k, n]`.

    Returns:
      Stacked updates of k rows; every leaf has shape `[k, ...]` and keeps its dtype.
      Cost: O(k n d).

    Raises:
      ValueError: `weights` has not one column for each worker.

    Example:
      >>> import jax.numpy as jnp
      >>> combine(jnp.array([[1.0], [3.0], [7.0]]), jnp.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))
      Array([[2.],
             [7.]], dtype=float32)
    """
    n = num_workers(updates)
    check(updates)
    if jnp.ndim(weights) != 2 or jnp.shape(weights)[1] != n:
        raise ValueError(
            f"weights have shape {jnp.shape(weights)}; {n} workers need shape (k, {n})."
        )

    def leaf_combined(leaf: jax.Array) -> jax.Array:
        out = _kernels.combine(leaf.reshape(n, -1), weights)
        return out.astype(leaf.dtype).reshape(out.shape[0], *leaf.shape[1:])

    return jax.tree.map(leaf_combined, updates)


@compiled
def group_means(updates: PyTree, group: jax.Array, count: int) -> PyTree:
    """The mean of each group of workers.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      group: `int[n]`, the group of each worker, from 0 to count - 1; may be traced.
      count: how many groups there are, a Python int.

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
    dtype = _widest(updates)
    return combine(updates, members.astype(dtype) / sizes.astype(dtype))


@compiled
def scale(updates: PyTree, factors: jax.Array) -> PyTree:
    """Each worker's update times a factor of its own, `c_i x_i`.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      factors: `[n]`; where it is 0 the result is 0, whatever the worker sent.

    Returns:
      Stacked updates of the same shapes and dtypes. Cost: O(nd).

    Raises:
      ValueError: `factors` has not one entry for each worker.

    Example:
      >>> import jax.numpy as jnp
      >>> scale(jnp.array([[1.0, 2.0], [jnp.inf, 0.0]]), jnp.array([3.0, 0.0]))
      Array([[3., 6.],
             [0., 0.]], dtype=float32)
    """
    n = num_workers(updates)
    check(updates)
    if jnp.shape(factors) != (n,):
        raise ValueError(f"factors have shape {jnp.shape(factors)}; {n} workers need shape ({n},).")

    def scaled(leaf: jax.Array) -> jax.Array:
        c = jnp.asarray(factors).astype(sum_dtype(leaf.dtype))
        c = c.reshape(n, *[1] * (leaf.ndim - 1))
        return (jnp.where(c != 0, _kernels.wide(leaf), 0) * c).astype(leaf.dtype)

    return jax.tree.map(scaled, updates)


@compiled
def widened(updates: PyTree) -> PyTree:
    """The same values in the dtype in which they are summed, at least float32.

    Args:
      updates: any tree of arrays.

    Returns:
      The tree with bfloat16 and float16 leaves as float32.

    Example:
      >>> import jax.numpy as jnp
      >>> widened({"w": jnp.ones(2, jnp.bfloat16)})
      {'w': Array([1., 1.], dtype=float32)}
    """
    return jax.tree.map(lambda leaf: _kernels.wide(jnp.asarray(leaf)), updates)


# --- workers and coordinates -------------------------------------------------------------------


@compiled
def take(updates: PyTree, indices: Any) -> PyTree:
    """The updates of some workers, `x[indices]` in every leaf.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      indices: an int gives one update, `int[k]` gives k stacked updates; may be traced.

    Returns:
      The tree with `[n, ...]` replaced by `[...]` or `[k, ...]`. Cost: O(kd).

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> take({"w": jnp.array([[1.0], [2.0], [3.0]])}, jnp.array([2, 0]))
      {'w': Array([[3.],
             [1.]], dtype=float32)}
    """
    num_workers(updates)
    indices = jnp.asarray(indices)
    return jax.tree.map(lambda leaf: jnp.take(leaf, indices, axis=0), updates)


def num_coordinates(updates: PyTree, *, axis_name: str | None = None) -> int:
    """The number d of coordinates of one update.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      d, a Python int.

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> num_coordinates({"w": jnp.zeros((5, 3, 2)), "b": jnp.zeros((5, 2))})
      8
    """
    n = num_workers(updates)
    here = sum(leaf.size // n for leaf in jax.tree.leaves(updates))
    return here * (1 if axis_name is None else num_devices(axis_name))


def num_devices(axis_name: Any) -> int:
    """The number P of devices along a mesh axis, or along several.

    Args:
      axis_name: the axis, or a tuple of axes, of `jax.shard_map`, `jax.pmap` or `jax.vmap`.

    Returns:
      P, a Python int.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> jax.vmap(lambda x: x / num_devices("workers"), axis_name="workers")(jnp.ones(4))
      Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    return lax.psum(1, axis_name)


@compiled
def sample(
    updates: PyTree, count: int, key: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
    """Some coordinates of all updates, drawn without replacement.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      count: how many, a Python int, at most d.
      key: draws them.
      axis_name: mesh axis over which the coordinates are sliced, if they are. Each device then
        draws its share of the count, rounded up, among its own.

    Returns:
      `[n, count]`, at least float32. Cost: O(n count) for each leaf.

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> sample(jnp.arange(12.0).reshape(2, 6), 3, jax.random.key(0)).shape
      (2, 3)
    """
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
        count = -(-count // num_devices(axis_name))
    n, d = num_workers(updates), num_coordinates(updates)
    places = _distinct(key, min(count, d), d)
    dtype = _widest(updates)
    drawn, start = jnp.zeros((n, places.shape[0]), dtype), 0
    for leaf in jax.tree.leaves(updates):
        size = leaf.size // n
        if size:
            here = (places >= start) & (places < start + size)
            found = jnp.take(leaf.reshape(n, size), jnp.clip(places - start, 0, size - 1), axis=1)
            drawn = jnp.where(here[None], found.astype(dtype), drawn)
        start += size
    return drawn


def _widest(updates: PyTree) -> jnp.dtype:
    """The dtype in which sums over all leaves are taken."""
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(
            jnp.promote_types, [sum_dtype(leaf.dtype) for leaf in jax.tree.leaves(updates)]
        )


def _distinct(key: jax.Array, count: int, d: int) -> jax.Array:
    """`count` different places among d, all sets alike.

    Of few among many, the first different ones in twice as many independent draws; it would take
    count collisions among them to run short. A permutation of all takes 70 times as long for
    10,000 among 1e6.
    """
    if d < 4 * count or count < 1000:
        return jax.random.permutation(key, d)[:count]
    draws = jax.random.randint(key, (2 * count,), 0, d)
    order = jnp.argsort(draws, stable=True)
    repeated = jnp.concatenate([jnp.zeros(1, bool), jnp.diff(draws[order]) == 0])
    again = jnp.zeros(2 * count, bool).at[order].set(repeated)
    return draws[jnp.argsort(again, stable=True)[:count]]
