"""Accumulation dtypes, copies, and loop carries."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def sum_dtype(dtype: Any) -> jnp.dtype:
    """The accumulation dtype for values of `dtype`, `promote_types(dtype, float32)`.

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
        return jax.dtypes.canonicalize_dtype(jnp.promote_types(dtype, jnp.float32))


def copied(tree: Any) -> Any:
    """Copies of arrays and keys in new buffers, as required for states that may be donated."""
    return jax.tree.map(jnp.copy, tree)


def wide(x: jax.Array) -> jax.Array:
    """The values in their accumulation dtype."""
    return x.astype(sum_dtype(x.dtype))


def root(square: jax.Array) -> jax.Array:
    """A square root with zero gradient at 0; 0 for negative values and NaN."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def varying_as(like: Any, tree: Any) -> Any:
    """The same values, marked as varying over the mesh axes over which leaves of `like` vary.

    Inside `jax.shard_map` the initial carry of a loop must vary as later ones do.
    """
    firsts = [x[(0,) * x.ndim] if x.size else jnp.sum(x) for x in jax.tree.leaves(like)]

    def marked(value: jax.Array) -> jax.Array:
        # Not jnp.where, which returns a value without elements as it is.
        for first in firsts:
            value = lax.select(jnp.broadcast_to(first == first, value.shape), value, value)
        return value

    return jax.tree.map(marked, tree)


def zeros(shape: tuple[int, ...], like: jax.Array) -> jax.Array:
    """Zeros in the accumulation dtype of `like`, as the initial carry of a loop of sums."""
    zero = jnp.zeros((), sum_dtype(like.dtype))
    return jnp.broadcast_to(varying_as(like, zero), shape)


def exact_share(count: int, x: jax.Array) -> jax.Array:
    """A power of two by which `count` finite values of x are multiplied to sum without overflow.

    Powers of two scale without rounding, down to the least normal number: of 25 values, those below
    4e-37 are lost in float32. A second sum, of shares, for the columns whose first one overflows
    kept them, and took 1.2 to 2.5 times as long. Which of two powers it is depends on the data,
    since XLA would move a constant out of the sum.
    """
    share = 0.5 ** (math.floor(math.log2(count)) + 1)
    if x.size == 0:
        return jnp.asarray(share, sum_dtype(x.dtype))
    data = x[(0,) * x.ndim]
    return jnp.where(data >= 0, share, 0.5 * share).astype(sum_dtype(x.dtype))
