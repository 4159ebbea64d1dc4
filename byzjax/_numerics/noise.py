"""Noise in the shape of an update."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics.arrays import wide


def standard_normal(key: jax.Array, update, axis_name: str | None):
    """A tree in the shapes of `update`, in accumulation dtypes; each device draws its own slice.

    One vector for the whole update, so that it does not depend on how a model is cut into leaves.
    """
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
    leaves, structure = jax.tree.flatten(update)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    dtypes = [wide(leaf).dtype for leaf in leaves]
    noise = jax.random.normal(key, (sum(sizes),), jnp.result_type(*dtypes))
    out, start = [], 0
    for leaf, size, dtype in zip(leaves, sizes, dtypes):
        out.append(noise[start : start + size].reshape(leaf.shape).astype(dtype))
        start += size
    return jax.tree.unflatten(structure, out)
