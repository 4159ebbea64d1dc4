"""The algebra of stacked trees: all that a rule needs to know of a model.

A *stacked* tree holds what n workers sent: every leaf has shape `[n, *param_shape]`, and row i of
all leaves together is the update of worker i. Norms, distances and means below treat such a row as
one flat vector without ever making one: large leaves are read where they lie, and only leaves of
less than `OWN_LEAF` coordinates share a buffer.

* Sums are taken in `promote_types(dtype, float32)`.
* Distances come from differences, never from the Gram matrix alone, whose cancellation turned a
  true squared distance of 0.2 into -16384 (common mean 1e3, spread 1e-3). A distance that is not
  finite, because of NaN, infinity or overflow, is +inf: that worker is simply far away.
* `axis_name` says that the leaves are this device's slice of the coordinates, as inside
  `jax.shard_map`: inner products are then summed over that axis.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any

# A leaf of at least so many coordinates has kernels of its own; the others of one dtype share one
# buffer, since each kernel costs compile time (0.2 s for aksel at n = 25 on 2 CPU cores) ...
OWN_LEAF = 2**15
# ... and at most so many leaves, the largest, have kernels of their own: aksel compiles in 2.8 s
# for 65 leaves of 69,000 coordinates. What shares a buffer is copied there, which costs several
# times as much as the median itself.
MAX_OWN_LEAVES = 8
# CPU: columns that one step of a loop over blocks takes. XLA reduces a row by one chain of
# dependent additions; a loop that adds blocks to an accumulator of this width is vectorised, and
# runs at the speed of the memory (n = 25, d = 1e6: 3.9 ms against 13 ms).
_BLOCK = 8192
# Columns from which that is worth it: at 20,000 the plain reduction takes 0.21 ms, the loop 0.45;
# at 100,000 it is 1.18 and 0.62 (n = 25).
_BLOCKED = 2**16
# Columns from which pairs of rows are worth three kernels (0.4 s to compile), not one (0.1 s).
_SLABS = 2**18
# Rows that are added up in one fused kernel; beyond, a loop over groups of so many.
_UNROLLED_ROWS = 64


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
                f"(shape {shape}), {name} has {other[0]} (shape {other}); {expected}."
            )
    if shape[0] == 0:
        raise ValueError(f"no worker: {first} has shape {shape}; {expected} with n >= 1.")
    return shape[0]


# --- columns: the leaves as few matrices [n, c] ------------------------------------------------


def _layout(updates: PyTree) -> list[list[int]]:
    """Which leaves, by their places, stand side by side in one matrix: one dtype in each."""
    n = num_workers(updates)
    leaves = jax.tree.leaves(updates)
    largest = sorted(range(len(leaves)), key=lambda i: -leaves[i].size)[:MAX_OWN_LEAVES]
    groups: dict[Any, list[int]] = {}
    for i, leaf in enumerate(leaves):
        own = i in largest and leaf.size // n >= OWN_LEAF
        groups.setdefault(i if own else jnp.dtype(leaf.dtype).name, []).append(i)
    return list(groups.values())


def _columns(updates: PyTree) -> list[jax.Array]:
    """The leaves as matrices `[n, c]`."""
    n, leaves = num_workers(updates), jax.tree.leaves(updates)
    flat = [leaf.reshape(n, -1) for leaf in leaves]
    return [_join([flat[i] for i in group]) for group in _layout(updates)]


def _join(parts: list[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


def _from_columns(vectors: list[jax.Array], updates: PyTree) -> PyTree:
    """One update from vectors `[c]`, one for each matrix of `updates`."""
    leaves, structure = jax.tree.flatten(updates)
    out: list[Any] = [None] * len(leaves)
    for group, vector in zip(_layout(updates), vectors):
        start = 0
        for i in group:
            shape = leaves[i].shape[1:]
            out[i] = lax.slice(vector, (start,), (start + math.prod(shape),)).reshape(shape)
            start += math.prod(shape)
    return jax.tree.unflatten(structure, out)


def coordinatewise(fn: Callable[[jax.Array], jax.Array], updates: PyTree) -> PyTree:
    """Applies a function of one coordinate's n values to every coordinate.

    Args:
      fn: maps a matrix `[n, c]` to a vector `[c]`, each column by itself.
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      One update; every leaf has shape `[...]`.

    Example:
      >>> import jax.numpy as jnp
      >>> coordinatewise(lambda x: x.max(axis=0), {"w": jnp.array([[1.0, 5.0], [3.0, 2.0]])})
      {'w': Array([3., 5.], dtype=float32)}
    """
    vectors = [fn(matrix) for matrix in _columns(updates)]
    vectors = [_wall(v) if len(g) > 8 else v for v, g in zip(vectors, _layout(updates))]
    return _from_columns(vectors, updates)


def _wall(vector: jax.Array) -> jax.Array:
    """The same vector, behind a wall that XLA's fusion does not cross.

    Cutting a shared vector into its leaves would otherwise compile the function that made it, a
    sorting network say, once for every leaf: 4.6 s instead of 0.9 s for the median of 65 leaves at
    n = 25. On CPU `optimization_barrier` is gone before fusion begins; a conditional stays.
    """
    if vector.size == 0:
        return vector
    return lax.cond(jnp.isnan(vector[0]), jnp.copy, lambda v: v, vector)


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
    flat = [_wide(jnp.asarray(p)).reshape(-1) for p in points]
    return [_join([flat[i] for i in group]) for group in _layout(updates)]


# --- sums of squares ---------------------------------------------------------------------------


def sum_dtype(dtype: Any) -> jnp.dtype:
    """The dtype in which values of `dtype` are summed, `promote_types(dtype, float32)`.

    Args:
      dtype: the dtype of a leaf.

    Returns:
      A dtype; the same under strict promotion, which has no path from bfloat16 to float32.

    Example:
      >>> import jax.numpy as jnp
      >>> sum_dtype(jnp.bfloat16)
      dtype('float32')
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(dtype, jnp.float32)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(sum_dtype(x.dtype))


def _zeros(shape: tuple[int, ...], like: jax.Array) -> jax.Array:
    """Zeros that vary over the mesh axes over which `like` varies, as a loop's carry has to."""
    zero = jnp.zeros((), sum_dtype(like.dtype))
    if like.size == 0:
        return jnp.broadcast_to(zero, shape)
    first = like[(0,) * like.ndim]
    return jnp.broadcast_to(jnp.where(jnp.isnan(first), zero, zero), shape)


def _fold_blocks(add, carry, x: jax.Array, block: int):
    """`carry = add(carry, start, width)` over the columns of x, the last block being narrower."""
    whole = x.shape[1] // block
    if whole > 1:
        carry = lax.fori_loop(0, whole, lambda b, c: add(c, b * block, block), carry)
    elif whole == 1:
        carry = add(carry, 0, block)
    rest = x.shape[1] - whole * block
    return carry, (whole * block, rest)


def _blocked_row_squares(x: jax.Array, p: jax.Array) -> jax.Array:
    n = x.shape[0]

    def add(total, start, width):
        part = lax.dynamic_slice(x, (0, start), (n, width))
        center = lax.dynamic_slice(p, (start,), (width,))
        return total + jnp.square(_wide(part) - _wide(center)[None])

    total, (start, _) = _fold_blocks(add, _zeros((n, _BLOCK), x), x, _BLOCK)
    rest = jnp.square(_wide(x[:, start:]) - _wide(p[start:])[None])
    return jnp.sum(total, axis=1) + jnp.sum(rest, axis=1)


def _plain_row_squares(x: jax.Array, p: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(_wide(x) - _wide(p)[None]), axis=1)


@jax.custom_jvp
def _row_squares(x: jax.Array, p: jax.Array) -> jax.Array:
    """`sum_c (x_ic - p_c)^2` for `x: [n, c]` and `p: [c]`, as [n]."""
    if x.shape[1] < _BLOCKED:
        return _plain_row_squares(x, p)
    return lax.platform_dependent(x, p, cpu=_blocked_row_squares, default=_plain_row_squares)


@_row_squares.defjvp
def _row_squares_jvp(primals, tangents):
    (x, p), (dx, dp) = primals, tangents
    total = _row_squares(x, p)
    # A row whose sum is not finite has no slope: both factors are cleared, since 0 * inf is NaN.
    keep = jnp.isfinite(total)[:, None]
    difference = _wide(x) - _wide(p)[None]
    slope = _wide(dx) - _wide(dp)[None]
    product = jnp.where(keep, difference, 0) * jnp.where(keep, slope, 0)
    return total, 2 * jnp.sum(product, axis=1)


def _blocked_pair_squares(x: jax.Array) -> jax.Array:
    """Differences of all pairs, added to accumulators of `lanes` columns, `unroll` at a time.

    A large matrix goes in three slabs of rows against those that follow, which leaves out most of
    the lower triangle, with accumulators as wide as the cache allows: n = 25, d = 1e6, 2 CPU cores:
    27 ms, without slabs 42 ms; PyTorch's `T @ T.T` 14 ms, its `cdist` 417 ms. A small one is often
    one of many under `vmap`, whose accumulators have to share the cache: 9 times n = 25, d = 7,510
    takes 2.5 ms with 32 lanes and 14 ms with 512.
    """
    n, c = x.shape
    lanes, unroll, slab = 32, 8, n
    if c >= _SLABS:
        lanes, unroll, slab = 16, 16, -(-n // 3)
        while lanes < 1024 and 2 * lanes * n * n <= 2**19:
            lanes *= 2
    starts = range(0, n, slab)

    def add(totals, block):
        groups = [block[:, k : k + lanes] for k in range(0, block.shape[1], lanes)]
        out = []
        for total, i in zip(totals, starts):
            for group in groups:
                total = total + jnp.square(group[i : i + slab, None] - group[None, i:])
            out.append(total)
        return out

    def add_at(totals, start, width):
        return add(totals, _wide(lax.dynamic_slice(x, (0, start), (n, width))))

    totals = [_zeros((min(slab, n - i), n - i, lanes), x) for i in starts]
    totals, (start, rest) = _fold_blocks(add_at, totals, x, lanes * unroll)
    if rest:
        totals = add(totals, jnp.pad(_wide(x[:, start:]), ((0, 0), (0, -rest % lanes))))
    rows = [jnp.pad(jnp.sum(t, axis=2), ((0, 0), (i, 0))) for t, i in zip(totals, starts)]
    upper = jnp.triu(jnp.concatenate(rows), 1)
    return upper + upper.T


def _plain_pair_squares(x: jax.Array) -> jax.Array:
    return lax.map(lambda row: _plain_row_squares(x, row), x)


@jax.custom_jvp
def _pair_squares(x: jax.Array) -> jax.Array:
    """`sum_c (x_ic - x_jc)^2` for `x: [n, c]`, as [n, n]."""
    return lax.platform_dependent(x, cpu=_blocked_pair_squares, default=_plain_pair_squares)


@_pair_squares.defjvp
def _pair_squares_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    total = _pair_squares(x)
    # d||x_i - x_j||^2 = 2 <x_i - x_j, dx_i> + 2 <x_j - x_i, dx_j>, as products of matrices: JAX 0.7
    # cannot transpose a loop here. They are exact enough around a row that most rows are near to.
    # Rows without a finite distance to another are cleared, in both factors: 0 * inf is NaN.
    finite = jnp.isfinite(total) & ~jnp.eye(x.shape[0], dtype=bool)
    reach = jnp.sort(jnp.where(jnp.isfinite(total), total, jnp.inf), axis=1)[:, x.shape[0] // 2]
    wide, used = _wide(x), jnp.any(finite, axis=1)[:, None]
    rows = jnp.where(used, wide - wide[jnp.argmin(reach)][None], 0)
    slopes = jnp.where(used, _wide(dx), 0)
    across = jnp.matmul(slopes, rows.T, precision=lax.Precision.HIGHEST)
    half = jnp.where(finite, jnp.sum(rows * slopes, axis=1)[:, None] - across, 0)
    return total, 2 * (half + half.T)


def _finish(parts: list[jax.Array], axis_name: str | None) -> jax.Array:
    """Adds what the matrices and devices found; what is not finite becomes +inf."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = functools.reduce(jnp.promote_types, [part.dtype for part in parts])
    total = functools.reduce(jnp.add, [part.astype(dtype) for part in parts])
    if axis_name is not None:
        total = lax.psum(total, axis_name)
    return jnp.where(jnp.isnan(total), jnp.inf, total)


def squared_norms(updates: PyTree, *, axis_name: str | None = None) -> jax.Array:
    """Squared Euclidean norm of each worker's update, `||x_i||^2`.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      `[n]`, at least float32; +inf where it is not finite. Cost: O(nd).

    Example:
      >>> import jax.numpy as jnp
      >>> squared_norms({"a": jnp.array([[3.0], [1.0]]), "b": jnp.array([[4.0], [jnp.nan]])})
      Array([25., inf], dtype=float32)
    """
    matrices = _columns(updates)
    return _finish([_row_squares(x, jnp.zeros_like(_wide(x[0]))) for x in matrices], axis_name)


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
        [_row_squares(x, p) for x, p in zip(_columns(updates), _beside(point, updates))], axis_name
    )


def pairwise_squared_distances(updates: PyTree, *, axis_name: str | None = None) -> jax.Array:
    """Squared Euclidean distances of all pairs of workers, `||x_i - x_j||^2`.

    They are sums of squared differences, so that a common offset cancels exactly.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      `[n, n]`, symmetric, at least float32; 0 on the diagonal, +inf elsewhere where it is not
      finite. Cost: O(n^2 d).

    Example:
      >>> import jax.numpy as jnp
      >>> pairwise_squared_distances(jnp.array([[0.0, 0.0], [3.0, 4.0], [jnp.nan, 0.0]]))
      Array([[ 0., 25., inf],
             [25.,  0., inf],
             [inf, inf,  0.]], dtype=float32)
    """
    matrices = _columns(updates)
    total = _finish([_pair_squares(x) for x in matrices], axis_name)
    return jnp.where(jnp.eye(total.shape[0], dtype=bool), 0, total)


# --- means ---------------------------------------------------------------------------------------


def _sum_rows(x: jax.Array, weights: jax.Array | None) -> jax.Array:
    """`sum_i w_i x_i` over the rows of `x: [n, c]`; a row of weight 0 is not looked at.

    A sum of rows is one fused, vectorised loop; `jnp.sum(x, axis=0)` took 40 times as long on CPU.
    """

    def add(total, row, weight):
        row = _wide(row)
        if weight is not None:  # the row is cleared first: so the slope in its weight is 0, not NaN
            row = jnp.where(weight != 0, row, 0) * weight.astype(row.dtype)
        return total + row

    def add_group(total, start, length):
        for i in range(length):
            row = lax.dynamic_index_in_dim(x, start + i, 0, keepdims=False)
            weight = None
            if weights is not None:
                weight = lax.dynamic_index_in_dim(weights, start + i, 0, keepdims=False)
            total = add(total, row, weight)
        return total

    n, total = x.shape[0], _zeros(x.shape[1:], x)
    groups = n // _UNROLLED_ROWS if n > _UNROLLED_ROWS else 0
    if groups:
        total = lax.fori_loop(
            0, groups, lambda g, t: add_group(t, g * _UNROLLED_ROWS, _UNROLLED_ROWS), total
        )
    for i in range(groups * _UNROLLED_ROWS, n):
        total = add(total, x[i], None if weights is None else weights[i])
    return total


def mean(updates: PyTree) -> PyTree:
    """Average of all workers' updates, `(1/n) sum_i x_i`.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype. Cost: O(nd).

    Example:
      >>> import jax.numpy as jnp
      >>> mean(jnp.array([[1.0, 2.0], [3.0, 6.0]]))
      Array([2., 4.], dtype=float32)
    """
    n = num_workers(updates)
    return coordinatewise(lambda x: (_sum_rows(x, None) / n).astype(x.dtype), updates)


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
    weights = _wide(jnp.asarray(weights))
    total = jnp.sum(weights)

    def average(x: jax.Array) -> jax.Array:
        out = _sum_rows(x, weights)
        return (out / total.astype(out.dtype)).astype(x.dtype)

    return coordinatewise(average, updates)


def mean_of(updates: PyTree, selected: jax.Array) -> PyTree:
    """Average of the selected workers' updates.

    What the others sent is not looked at. NaN where nobody is selected.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      selected: `bool[n]`, may be traced.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype. Cost: O(nd).

    Example:
      >>> import jax.numpy as jnp
      >>> mean_of(jnp.array([[1.0], [jnp.inf], [4.0]]), jnp.array([True, False, True]))
      Array([2.5], dtype=float32)
    """
    return weighted_mean(updates, jnp.asarray(selected).astype(jnp.float32))


def take(updates: PyTree, indices: Any) -> PyTree:
    """The updates of some workers, `x[indices]` in every leaf.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      indices: an int gives one update, `int[k]` gives k stacked updates; may be traced.

    Returns:
      The tree with `[n, ...]` replaced by `[...]` or `[k, ...]`.

    Example:
      >>> import jax.numpy as jnp
      >>> take({"w": jnp.array([[1.0], [2.0], [3.0]])}, jnp.array([2, 0]))
      {'w': Array([[3.],
             [1.]], dtype=float32)}
    """
    num_workers(updates)
    indices = jnp.asarray(indices)
    return jax.tree.map(lambda leaf: jnp.take(leaf, indices, axis=0), updates)


def ranks(values: jax.Array) -> jax.Array:
    """The rank of each of n values, 0 for the least; ties go to the lower index.

    Args:
      values: `[n]` without NaN, such as distances.

    Returns:
      `int[n]`, a permutation of 0 .. n-1. Cost: O(n^2), without a sort.

    Example:
      >>> import jax.numpy as jnp
      >>> ranks(jnp.array([3.0, 1.0, 3.0, 2.0]))
      Array([2, 0, 3, 1], dtype=int32)
    """
    n = values.shape[0]
    index = jnp.arange(n)
    before = (values[None, :] < values[:, None]) | (
        (values[None, :] == values[:, None]) & (index[None, :] < index[:, None])
    )
    return jnp.sum(before, axis=1, dtype=jnp.int32)
