"""Sorting networks on keys: integers that order as the floats do."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics.arrays import sum_dtype

_KEY_DTYPE = {"bfloat16": "int16", "float16": "int16", "float32": "int32", "float64": "int64"}


def _flip(key: jax.Array) -> jax.Array:
    """Turns the bits of a float into a key and back: it is its own inverse."""
    bits = jnp.iinfo(key.dtype).bits
    low_bits = key.dtype.type(jnp.iinfo(key.dtype).max)
    return key ^ ((key >> key.dtype.type(bits - 1)) & low_bits)


def to_key(x: jax.Array) -> jax.Array:
    """Integers in the order of the floats."""
    if x.dtype.name not in _KEY_DTYPE:
        raise TypeError(
            f"order statistics need leaves of {', '.join(_KEY_DTYPE)}; got {x.dtype.name}."
        )
    return _flip(lax.bitcast_convert_type(x, jnp.dtype(_KEY_DTYPE[x.dtype.name])))


def from_key(key: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The floats of these keys."""
    return lax.bitcast_convert_type(_flip(key), dtype)


def middle(n: int) -> tuple[int, int]:
    """(start, width) of the window of the one or two middle ranks."""
    start = (n - 1) // 2
    return start, n - 2 * start


@functools.cache
def merge_exchange(n: int) -> tuple[tuple[int, int], ...]:
    """The comparators (i, j), i < j, of Batcher's merge exchange for any n."""
    comparators = []
    top = 1 << max(0, (n - 1).bit_length() - 1)
    p = top if n > 1 else 0
    while p > 0:
        q, r, d = top, 0, p
        while d > 0:
            comparators += [(i, i + d) for i in range(n - d) if i & p == r]
            d, q, r = q - p, q // 2, p
        p //= 2
    return tuple(comparators)


@functools.cache
def comparators(n: int, start: int, width: int) -> tuple[tuple[int, int], ...]:
    """The comparators that bring the ranks of the window, in any order, to its positions.

    Walking back from the outputs, a comparator whose two wires both lead only into the window, or
    both only out of it, has no effect on the window.
    """
    inside, outside, exact = "inside", "outside", "exact"
    wire = [inside if start <= i < start + width else outside for i in range(n)]
    kept = []
    for i, j in reversed(merge_exchange(n)):
        if wire[i] == wire[j] != exact:
            continue
        kept.append((i, j))
        wire[i] = wire[j] = exact
    return tuple(reversed(kept))


def apply_network(network: Sequence[tuple[int, int]], rows: list[jax.Array]) -> list[jax.Array]:
    """The rows after the comparators, which act on each column independently."""
    for i, j in network:
        rows[i], rows[j] = jnp.minimum(rows[i], rows[j]), jnp.maximum(rows[i], rows[j])
    return rows


def window_mean(
    values: list[jax.Array], dtype: jnp.dtype, share: jax.Array | None = None
) -> jax.Array:
    """The mean of the values of a window, without overflow for finite values.

    More than two values need a share, see `exact_share`.
    """
    wide = [v.astype(sum_dtype(dtype)) for v in values]
    if len(wide) == 1:
        return values[0].astype(dtype)
    if len(wide) == 2:
        # The mean of two large values does not overflow. Halving first would do as well, but XLA
        # merges the two products into one.
        low, high = wide
        total, apart = low + high, high - low
        too_large = jnp.isinf(total) & (jnp.abs(apart) < jnp.inf)
        return jnp.where(too_large, low + 0.5 * apart, 0.5 * total).astype(dtype)
    if share is None:
        raise ValueError("the mean of more than two values needs a share.")
    return (_sum_in_pairs([share * v for v in wide]) / (len(wide) * share)).astype(dtype)


def _sum_in_pairs(values: list[jax.Array]) -> jax.Array:
    """The sum as a balanced tree; one after the other took 1.3 times as long for 15 of 25 rows."""
    while len(values) > 1:
        rest = values[-1:] if len(values) % 2 else []
        values = [a + b for a, b in zip(values[::2], values[1::2])] + rest
    return values[0]


def mean_by_network(
    rows: list[jax.Array], start: int, width: int, share: jax.Array | None = None
) -> jax.Array:
    """The mean of the window, for columns given as n rows of any shape."""
    dtype = rows[0].dtype
    keys = apply_network(comparators(len(rows), start, width), [to_key(row) for row in rows])
    return window_mean([from_key(key, dtype) for key in keys[start : start + width]], dtype, share)
