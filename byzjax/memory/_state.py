"""Helpers of stateful aggregations."""

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.stacked import PyTree


def nothing(params: PyTree, *workers: int) -> PyTree:
    """Zeros like the parameters, in the accumulation dtype; stacked if `workers` is given."""

    def zeros(leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return jnp.zeros((*workers, *leaf.shape), stacked.sum_dtype(leaf.dtype))

    return jax.tree.map(zeros, params)


def dtype_of_sums(sums: PyTree) -> jnp.dtype:
    """The dtype of norms and inner products of these sums, also for a tree without leaves."""
    leaves = jax.tree.leaves(sums)
    return stacked.squared_norms(leaves).dtype if leaves else jnp.dtype(jnp.float32)


def like(before: PyTree, after: PyTree) -> PyTree:
    """The new state in the dtypes of the old one."""
    return jax.tree.map(lambda old, new: new.astype(old.dtype), before, after)


def finite_rows(updates: PyTree, axis_name: str | None) -> jax.Array:
    """`bool[k]`: the rows with a finite norm."""
    return jnp.isfinite(stacked.squared_norms(updates, axis_name=axis_name))


def only(updates: PyTree, rows: jax.Array) -> PyTree:
    """The updates of these rows in the accumulation dtype, and 0 for all others."""
    return stacked.scale(stacked.widened(updates), rows.astype(jnp.float32))


def added(sums: PyTree, updates: PyTree, count: jax.Array | None = None) -> PyTree:
    """The sums plus the updates, which are divided by the count if given."""

    def add(total: jax.Array, leaf: jax.Array) -> jax.Array:
        leaf = leaf.astype(total.dtype)
        return total + (leaf if count is None else leaf / count.astype(total.dtype))

    return jax.tree.map(add, sums, updates)


def to_vector_median(
    squared_distances: jax.Array, members: jax.Array, radius: jax.Array | float
) -> jax.Array:
    """Squared distances to the first member with more than n / 2 members within the radius.

    If there is none, to the member with the most.
    """
    n = len(members)
    near = (squared_distances <= radius**2) & members[None]
    count = jnp.where(members, jnp.sum(near, axis=1, dtype=jnp.int32), -1)
    middle = jnp.argmax(jnp.where(2 * count > n, n + 1, count))
    return squared_distances[middle]


def with_noise(update: PyTree, noise: float, key: jax.Array, axis_name: str | None) -> PyTree:
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    leaves, structure = jax.tree.flatten(update)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        leaf + jnp.asarray(noise, leaf.dtype) * jax.random.normal(k, leaf.shape, leaf.dtype)
        for leaf, k in zip(leaves, keys)
    ]
    return jax.tree.unflatten(structure, noisy)
