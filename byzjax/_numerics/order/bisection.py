"""The k-th lowest of each row, by bisection over the bits of the keys."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics.arrays import varying_as
from byzjax._numerics.order.networks import from_key, to_key


def _bisected(count_below: Callable, rank: int | jax.Array, least: jax.Array) -> jax.Array:
    """The largest keys with at most `rank` keys below them, bit by bit from the top."""
    dtype, bits = least.dtype, jnp.iinfo(least.dtype).bits

    def set_bit(b: jax.Array, low: jax.Array) -> jax.Array:
        # The sign bit comes first; adding it to the least integer wraps round to zero.
        trial = low + (dtype.type(1) << jnp.asarray(bits - 1 - b).astype(dtype))
        return jnp.where(count_below(trial).astype(jnp.int32) <= rank, trial, low)

    return lax.fori_loop(0, bits, set_bit, least)


def kth_of_rows(values: jax.Array, k: int) -> jax.Array:
    """The k-th lowest, from 1, in each row of `values: [..., n]`, as `[..., 1]`; no derivative.

    By bisection on CPU: for 196 rows of 196, 0.2 ms instead of 2.9 by a sort.
    """
    return lax.platform_dependent(
        lax.stop_gradient(values),
        cpu=lambda values: kth_by_bisection(values, k),
        default=lambda values: kth_by_sort(values, k),
    )


def kth_by_sort(values: jax.Array, k: int) -> jax.Array:
    """`kth_of_rows` by a sort."""
    return jnp.sort(values, axis=-1)[..., k - 1 : k]


def kth_by_bisection(values: jax.Array, k: int) -> jax.Array:
    """`kth_of_rows` by bisection over the bits of the keys."""
    key = to_key(values)

    def count_below(trial: jax.Array) -> jax.Array:
        return jnp.sum(key < trial, axis=-1, keepdims=True, dtype=jnp.int32)

    least = jnp.full((*values.shape[:-1], 1), jnp.iinfo(key.dtype).min, key.dtype)
    kth = _bisected(count_below, k - 1, varying_as(key, least))
    return from_key(kth, values.dtype)
