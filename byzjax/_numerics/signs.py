"""Counts of signs, along the rows and over them."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics import thresholds
from byzjax._numerics.rows import loop_over_rows


def signs_between(x: jax.Array, low: jax.Array, high: jax.Array, most: int) -> jax.Array:
    """`[3, n]`: how many of x[:, low:high] are positive, zero, negative; high - low <= most.

    In blocks on CPU, where XLA's reduction allocates as much memory as its input.
    """
    if most == 0:
        return jnp.zeros((3, x.shape[0]), jnp.int32)
    by_blocks = functools.partial(
        _signs_by_blocks, most=most, block=min(most, thresholds.SIGNS_BLOCK)
    )
    at_once = functools.partial(_signs_by_blocks, most=most, block=most)
    return lax.platform_dependent(x, low, high, cpu=by_blocks, default=at_once)


def _signs_by_blocks(
    x: jax.Array, low: jax.Array, high: jax.Array, *, most: int, block: int
) -> jax.Array:
    def signs(b: jax.Array | int) -> tuple[jax.Array, ...]:
        first = low + b * block
        begin = jnp.minimum(first, x.shape[1] - block)
        part = lax.dynamic_slice(x, (0, begin), (x.shape[0], block))
        place = begin + jnp.arange(block)
        inside = ((place >= first) & (place < high))[None]
        return tuple((s & inside).astype(jnp.int32) for s in (part > 0, part == 0, part < 0))

    def add(b: jax.Array, counts: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return jax.tree.map(jnp.add, counts, signs(b))

    counts = lax.fori_loop(1, -(-most // block), add, signs(0))
    return jnp.stack([jnp.sum(count, axis=1, dtype=jnp.int32) for count in counts])


def votes(x: jax.Array) -> jax.Array:
    """`[c]`: positive minus negative values of each column of `x: [n, c]`; NaN does not vote."""

    def vote(row: jax.Array) -> jax.Array:
        return (row > 0).astype(row.dtype) - (row < 0).astype(row.dtype)

    return loop_over_rows(x, None, vote)[0]
