"""Selection by bisection over the bits of the keys, for more rows than networks handle."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics import thresholds
from byzjax._numerics.arrays import exact_share, sum_dtype, varying_as
from byzjax._numerics.order.networks import from_key, to_key, window_mean


def fold(step: Callable, start: Any, key: jax.Array, *others: jax.Array) -> Any:
    """`carry = step(carry, *row)` over the rows of `key: [n, c]` and of arrays of its shape.

    In chunks of unrolled rows, since XLA's own reduction over a leading axis is many times slower
    on CPU. The last chunk is padded with the greatest key, and with zeros in the others.
    """
    fill = [_greatest(key.dtype), *(jnp.zeros((), x.dtype) for x in others)]
    rest = ((0, -key.shape[0] % thresholds.UNROLLED_KEYS), (0, 0))
    padded = [jnp.pad(x, rest, constant_values=value) for x, value in zip((key, *others), fill)]
    chunks = [x.reshape(-1, thresholds.UNROLLED_KEYS, x.shape[1]) for x in padded]

    def add_chunk(i: jax.Array, carry: Any) -> Any:
        for row in zip(*(lax.dynamic_index_in_dim(x, i, 0, keepdims=False) for x in chunks)):
            carry = step(carry, *row)
        return carry

    return lax.fori_loop(0, chunks[0].shape[0], add_chunk, varying_as(key, start))


def _count(rows: jax.Array, threshold: jax.Array) -> jax.Array:
    """How many of `rows: [n, c]` lie below `threshold: [c]`, as [c].

    Counts have the width of the rows, so that as many fit into a register.
    """
    short = rows.shape[0] <= jnp.iinfo(rows.dtype).max
    dtype = rows.dtype if short else jnp.dtype("int32")
    none = jnp.zeros(threshold.shape, dtype)
    return fold(lambda count, row: count + (row < threshold).astype(dtype), none, rows)


def _greatest(dtype: jnp.dtype) -> jax.Array:
    return jnp.array(jnp.iinfo(dtype).max, dtype)


def _least(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jnp.full(shape, jnp.iinfo(dtype).min, dtype)


def _digits(key: jax.Array) -> list[jax.Array]:
    """16-bit integers, most significant first, in the order of the keys."""
    bits = jnp.iinfo(key.dtype).bits
    shifts = range(bits - 16, -1, -16)
    digits = [(key >> key.dtype.type(shift)).astype(jnp.int16) for shift in shifts]
    return [digits[0], *(digit ^ jnp.int16(-(1 << 15)) for digit in digits[1:])]


def _from_digits(digits: Sequence[jax.Array], dtype: jnp.dtype) -> jax.Array:
    key = digits[0].astype(dtype)
    for digit in digits[1:]:
        key = (key << dtype.type(16)) | (digit.astype(dtype) + dtype.type(1 << 15))
    return key


def kth_key(key: jax.Array, rank: int) -> jax.Array:
    """The key `[c]` of this rank in the columns of `key: [n, c]`.

    Digit by digit, since 16 numbers of 16 bits fit where 8 of 32 do: by bisection for the rank
    among the rows that share the digits so far.
    """
    chosen: list[jax.Array] = []
    digits = _digits(key)
    alive, rows, left = None, digits[0], rank
    for digit, following in itertools.zip_longest(digits, digits[1:]):
        count = functools.partial(_count, rows)
        here = _bisected(count, left, varying_as(key, _least((key.shape[1],), digit.dtype)))
        chosen.append(here)
        if following is not None:
            left = left - count(here).astype(jnp.int32)
            same = digit == here[None]
            alive = same if alive is None else alive & same
            rows = jnp.where(alive, following, _greatest(digit.dtype))
    return _from_digits(chosen, key.dtype)


def _next_key(key: jax.Array, low: jax.Array, rank: int) -> jax.Array:
    """The key of the rank above, where `low: [c]` is that of this one."""
    greatest = _greatest(key.dtype)

    def step(carry, row):
        least, count = carry
        above = row > low
        least = jnp.minimum(least, jnp.where(above, row, greatest))
        return least, count + (~above).astype(jnp.int32)

    start = jnp.full(low.shape, greatest), jnp.zeros(low.shape, jnp.int32)
    least, count = fold(step, start, key)
    return jnp.where(count > rank + 1, low, least)


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

    least = _least((*values.shape[:-1], 1), key.dtype)
    kth = _bisected(count_below, k - 1, varying_as(key, least))
    return from_key(kth, values.dtype)


def select(x: jax.Array, start: int, width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(mean, first, last) of the window, for the columns of `x: [n, c]`, by bisection."""
    key = to_key(x)
    low = kth_key(key, start)
    if width == 1:
        high = low
    elif width == 2:
        high = _next_key(key, low, start)
    else:
        high = kth_key(key, start + width - 1)
    wide = sum_dtype(x.dtype)
    first, last = from_key(low, x.dtype), from_key(high, x.dtype)
    if width <= 2:
        return window_mean([first, last][:width], x.dtype), first, last

    low_end, high_end = first.astype(wide), last.astype(wide)
    share = exact_share(width, x)

    def step(carry, k, row):
        total, below, not_above = carry
        total = total + share * jnp.where((low < k) & (k < high), row.astype(wide), 0)
        return total, below + (k < high).astype(jnp.int32), not_above + (k <= low).astype(jnp.int32)

    none = jnp.zeros(low.shape, jnp.int32)
    total, below, not_above = fold(step, (jnp.zeros(low.shape, wide), none, none), key, x)
    at_low = jnp.minimum(not_above, start + width) - start
    at_high = jnp.where(low < high, start + width - jnp.maximum(below, start), 0)
    total = total + at_low.astype(wide) * (share * low_end)
    total = total + jnp.where(at_high > 0, at_high.astype(wide) * (share * high_end), 0)
    return (total / (width * share)).astype(x.dtype), first, last


def select_blocks(fn: Callable, x: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
    """`fn` on blocks of the columns of `x: [n, ...]` and of `others: [...]`, as `[...]` each.

    A block stays in a core's cache. Only one core is used: two parallel loops, or blocks large
    enough to be shared, took as long.
    """
    n, shape = x.shape[0], x.shape[1:]
    flat, columns = x.reshape(n, -1), [other.reshape(1, -1) for other in others]
    c = flat.shape[1]
    if c == 0:
        one = [jnp.zeros((*a.shape[:-1], 1), a.dtype) for a in (flat, *(v[0] for v in columns))]
        return jax.tree.map(lambda a: jnp.zeros(shape, a.dtype), jax.eval_shape(fn, *one))
    block = min(c, max(64, thresholds.NUMBERS_OF_A_BLOCK // n // 64 * 64))
    padded = [jnp.pad(a, ((0, 0), (0, -c % block))) for a in (flat, *columns)]

    def one(_, b):
        cut = [lax.dynamic_slice(a, (0, b * block), (a.shape[0], block)) for a in padded]
        return None, fn(cut[0], *(a[0] for a in cut[1:]))

    _, out = lax.scan(one, None, jnp.arange(padded[0].shape[1] // block))
    return jax.tree.map(lambda a: a.reshape(-1)[:c].reshape(shape), out)
