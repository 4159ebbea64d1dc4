"""Dtypes, copies, and values that a loop carries."""

from typing import Any

import jax
import jax.numpy as jnp


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


def copied(tree: Any) -> Any:
    """The same arrays and keys in buffers of their own, as states must be that may be donated."""
    return jax.tree.map(jnp.copy, tree)


def wide(x: jax.Array) -> jax.Array:
    """The values in the dtype in which they are summed."""
    return x.astype(sum_dtype(x.dtype))


def root(square: jax.Array) -> jax.Array:
    """A square root with a slope of 0 at 0; 0 for what is negative or NaN."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def varying_as(like: jax.Array, tree: Any) -> Any:
    """The same values, taken to vary over the mesh axes over which `like` varies.

    Inside `jax.shard_map` the carry of a loop has to, from its start on.
    """
    if like.size == 0:
        return tree
    first = like[(0,) * like.ndim]
    return jax.tree.map(lambda value: jnp.where(first == first, value, value), tree)


def zeros(shape: tuple[int, ...], like: jax.Array) -> jax.Array:
    """Zeros to add up what is like the given array, as the start of a loop."""
    zero = jnp.zeros((), sum_dtype(like.dtype))
    return jnp.broadcast_to(varying_as(like, zero), shape)
