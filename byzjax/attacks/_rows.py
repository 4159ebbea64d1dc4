"""Helpers of attacks: statistics of the honest rows, and replacement of Byzantine rows."""

import functools

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._checks import mask_of_workers
from byzjax._numerics.arrays import root, wide
from byzjax._numerics.barrier import fusion_barrier
from byzjax._numerics.rows import sum_squares
from byzjax.stacked import PyTree


def mask(updates: PyTree, byzantine: jax.Array) -> jax.Array:
    """`byzantine` as `bool[n]`, checked against the updates."""
    n = stacked.num_workers(updates)
    stacked.check(updates)
    mask_of_workers(byzantine, n)
    return jnp.asarray(byzantine)


def senders(updates: PyTree, byzantine: jax.Array, extra_args: dict) -> tuple:
    """The worker of each row, `int32[k]`, and which rows are Byzantine."""
    given = extra_args.get("senders")
    if given is None:
        rows = mask(updates, byzantine)
        return jnp.arange(len(rows)), rows
    return given, mask(updates, jnp.asarray(byzantine)[given])


def column(byzantine: jax.Array, leaf: jax.Array) -> jax.Array:
    return byzantine.reshape((-1,) + (1,) * (leaf.ndim - 1))


def replace(updates: PyTree, byzantine: jax.Array, lies: PyTree) -> PyTree:
    """The updates with Byzantine rows taken from `lies`: `[n, ...]`, or `[1, ...]` for all."""

    def put(x: jax.Array, lie: jax.Array) -> jax.Array:
        # Under vmap XLA would recompute a shared malicious row for every worker: n = 51, 79,510
        # coordinates, three runs, little_is_enough: 423 ms instead of 48.
        lie = fusion_barrier(lie) if lie.shape[0] == 1 and x.shape[0] > 1 else lie
        return jnp.where(column(byzantine, x), lie.astype(x.dtype), x)

    return jax.tree.map(put, updates, lies)


def honest_mean(updates: PyTree, byzantine: jax.Array) -> PyTree:
    """Mean of the honest rows, `[1, ...]` in every leaf, at least float32; 0 if there are none."""
    mean, some = stacked.mean_selected(jax.tree.map(wide, updates), ~byzantine), jnp.any(~byzantine)
    return jax.tree.map(lambda leaf: jnp.where(some, leaf, 0)[None], mean)


def honest_std(updates: PyTree, byzantine: jax.Array, mean: PyTree, ddof: int) -> PyTree:
    """Standard deviation of the honest rows per coordinate, `[1, ...]` in every leaf.

    The root of the sum of squares over `count - ddof`; 0 where that is not positive.
    """
    count = jnp.sum(~byzantine)

    def std(x: jax.Array, center: jax.Array) -> jax.Array:
        n = x.shape[0]
        squares = sum_squares(x.reshape(n, -1), center.reshape(-1), ~byzantine)
        squares = jnp.where(count > ddof, squares, 0)
        variance = squares / jnp.maximum(count - ddof, 1).astype(squares.dtype)
        # Where the honest rows coincide the root has no derivative; take the root of 1.
        spread = variance != 0
        out = jnp.where(spread, jnp.sqrt(jnp.where(spread, variance, 1)), 0)
        # Without it XLA recomputes this for every Byzantine row: 3.4 honest means, not 2.6.
        return fusion_barrier(out).reshape(center.shape)

    return jax.tree.map(std, updates, mean)


def honest_sum(updates: PyTree, byzantine: jax.Array) -> PyTree:
    """Sum of the honest rows, `[1, ...]` in every leaf, at least float32."""
    weights = (~byzantine).astype(jnp.float32)
    total = stacked.weighted_sum(jax.tree.map(wide, updates), weights)
    return jax.tree.map(lambda leaf: leaf[None], total)


def scale(factor: jax.Array | float, row: PyTree) -> PyTree:
    """A row, `[1, ...]` in every leaf, times a number."""
    return jax.tree.map(lambda leaf: jnp.asarray(factor, leaf.dtype) * leaf, row)


def plus(row: PyTree, factor: jax.Array | float, other: PyTree) -> PyTree:
    """`row + factor * other`, `[1, ...]` in every leaf."""
    return jax.tree.map(jnp.add, row, scale(factor, other))


def only(row: PyTree) -> PyTree:
    """The row `[1, ...]` as an update: every leaf as `[...]`."""
    return jax.tree.map(lambda leaf: leaf[0], row)


def norm(row: PyTree) -> jax.Array:
    """The norm of a row `[1, ...]`, with zero gradient at 0."""
    return root(stacked.squared_norms(row)[0])


def ratio(a: jax.Array | float, b: jax.Array) -> jax.Array:
    """`a / b`, and 0 where b is 0."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def largest(rows: PyTree) -> jax.Array:
    """The largest absolute value in all leaves; NaN if any value is NaN."""
    maxima = [
        jnp.max(jnp.abs(wide(leaf)), initial=0).astype(jnp.float32)
        for leaf in jax.tree.leaves(rows)
    ]
    return functools.reduce(jnp.maximum, maxima)


def unit(row: PyTree) -> PyTree:
    """The row `[1, ...]` scaled to norm 1; 0 stays 0."""
    return scale(ratio(1, norm(row)), row)


def coordinates(updates: PyTree) -> PyTree:
    """The index of each coordinate, counted across all leaves, `[1, ...]` in every leaf."""
    leaves, structure = jax.tree.flatten(updates)
    out, start = [], 0
    for leaf in leaves:
        stop = start + leaf.size // leaf.shape[0]
        out.append(jnp.arange(start, stop).reshape(1, *leaf.shape[1:]))
        start = stop
    return jax.tree.unflatten(structure, out)


def keys(key: jax.Array, updates: PyTree) -> PyTree:
    """A key for each leaf."""
    leaves, structure = jax.tree.flatten(updates)
    return jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))


def normal(key: jax.Array, like: PyTree) -> PyTree:
    """Standard normal samples with the shapes and dtypes of a tree."""
    return jax.tree.map(lambda x, k: jax.random.normal(k, x.shape, x.dtype), like, keys(key, like))
