"""Order statistics along the worker axis, exact and in a total order.

Everything here acts on one array `x: [n, ...]` and reduces its leading axis. Each statistic is the
mean of a *window* of the sorted column: with `y_0 <= ... <= y_{n-1}`,

    mean(y_start, ..., y_{start + width - 1}),

where the median is the window of the one or two middle ranks, the trimmed mean that of the ranks
f .. n-f-1, and the k nearest values to a centre are a window as well.

Values are compared by integer keys that order floats totally: NaN with its sign bit set sorts below
-inf, every other NaN above +inf. So one worker that sends NaN takes an end of the column, as a
worker that sends infinity does, and cannot poison it.

Up to `NETWORK_MAX` workers the columns go through a pruned sorting network (Batcher's merge
exchange; Knuth, The Art of Computer Programming 3, 5.2.2, Algorithm M): minima and maxima of whole
rows, which XLA fuses into one vectorised loop. Beyond it, ranks are found by bisection over the
bits of the keys. Milliseconds on 2 CPU cores, d = 131,072, f32, median, with the seconds that it
takes to compile:

    n      network       bisection     torch.median
    64     2.5 (0.4)
    96     6.5 (0.8)
    128    8.9 (1.5)                   109
    160    13 (4.7)
    512                  124 (0.9)     409

The trimmed mean's network takes 3.4 s to compile at n = 128 and 16 s at n = 160: hence the limit.

For a mean around a centre all rows are held in order, up to 96 of them. With more the loop
may not be vectorised; two networks, for the centre and for the distance of the k-th nearest, and
a pass over the values take their place (the mean around the median, k = n/2 and 3n/4, ms):

    n      96          104          112          128
           5.1, 5.2    90, 6.4      287, 185               in order
                                    24, 24       31, 31    by distance
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._kernels import BLOCKED, LANES, row_squares, sum_dtype, varying_as, wall

NETWORK_MAX = 128
NEAREST_NETWORK_MAX = 96
_BISECTION_NUMBERS = 1 << 17  # in a block of columns, which stays in a core's cache
_UNROLLED = 32  # rows

_KEY_DTYPE = {"bfloat16": "int16", "float16": "int16", "float32": "int32", "float64": "int64"}


def median(x: jax.Array) -> jax.Array:
    """Median per coordinate; for even n the mean of the two middle values."""
    n = x.shape[0]
    start = (n - 1) // 2
    return _window_mean(x, start, n - 2 * start)


def trimmed_mean(x: jax.Array, f: int) -> jax.Array:
    """Mean per coordinate of what remains without the f smallest and the f largest values."""
    return _window_mean(x, f, x.shape[0] - 2 * f)


def kth(x: jax.Array, k: int) -> jax.Array:
    """The k-th lowest value per coordinate, from 1."""
    return _window_mean(x, k - 1, 1)


def mean_of_nearest(x: jax.Array, center: jax.Array, k: int) -> jax.Array:
    """Mean per coordinate of the k values nearest to `center: [...]`, the lower one on a tie.

    After sorting, the k nearest values are a window: it moves up from rank j as long as y_j is
    farther from the centre than y_{j+k}. NaN where the centre is not finite.
    """
    return _nearest_mean(x, lax.stop_gradient(center), k)


def mean_around_median(x: jax.Array, k: int) -> jax.Array:
    """Mean per coordinate of the k values nearest to their median, after one sort for both."""
    n = x.shape[0]
    start = (n - 1) // 2
    return _mean_around(x, k, start, n - 2 * start)


def mean_around_trimmed_mean(x: jax.Array, k: int, f: int) -> jax.Array:
    """Mean per coordinate of the k values nearest to their trimmed mean, after one sort."""
    return _mean_around(x, k, f, x.shape[0] - 2 * f)


def squares_to_median(x: jax.Array) -> jax.Array:
    """`sum_c (x_ic - M_c)^2` of the rows of `x: [n, c]` about their median M, as [n]."""
    if x.shape[0] > NETWORK_MAX or x.shape[1] < BLOCKED:
        return _plain_squares_to_median(x)
    return lax.platform_dependent(
        x, cpu=_blocked_squares_to_median, default=_plain_squares_to_median
    )


def _plain_squares_to_median(x: jax.Array) -> jax.Array:
    return row_squares(x, median(x))


def _blocked_squares_to_median(x: jax.Array) -> jax.Array:
    """Block by block, so that the second reading of a block is from the cache.

    n = 25, d = 1e6, 2 CPU cores: 4.5 ms instead of 6.9, where `w @ x` takes 1.8; n = 64: 15 and 24.
    The columns that are left are sorted: a network of their own would be compiled for them, and a
    last block that overlaps, behind a mask, cost half a millisecond.
    """
    (n, c), dtype = x.shape, sum_dtype(x.dtype)
    start, width = (n - 1) // 2, 2 - n % 2
    parts = min(8, 2**18 // LANES // n + 1)  # whose rows a core's cache holds
    blocks, lanes = _even_blocks(c, parts)
    size = parts * lanes

    def add(b: jax.Array, total: jax.Array) -> jax.Array:
        begin = b * size
        rows = [lax.dynamic_slice(x, (i, begin), (1, size))[0] for i in range(n)]
        center = wall(mean_by_network(rows, start, width)).astype(dtype)
        for first in range(0, size, lanes):
            part = lax.dynamic_slice(x, (0, begin + first), (n, lanes)).astype(dtype)
            total = total + jnp.square(part - center[None, first : first + lanes])
        return total

    zero = varying_as(x, jnp.zeros((n, lanes), dtype))
    total = jnp.sum(lax.fori_loop(0, blocks, add, zero), axis=1)
    rest = x[:, blocks * size :]
    if rest.shape[1]:
        middle = jnp.sort(_to_key(rest), axis=0)[start : start + width]
        center = _mean(list(_from_key(middle, x.dtype)), x.dtype).astype(dtype)
        total = total + jnp.sum(jnp.square(rest.astype(dtype) - center[None]), axis=1)
    return total


@functools.cache
def _even_blocks(c: int, parts: int) -> tuple[int, int]:
    """(blocks, lanes) of blocks of `parts * lanes` columns such that few of c are left.

    Somewhat more than `LANES`, a multiple of 8: n = 64 took 21 ms with 1,344 lanes, 15 with 2,048.
    """
    most = c // (parts * LANES)
    ways = [(b, c // (parts * b) // 8 * 8) for b in range(max(1, most * 7 // 10), most + 1)]
    return min(ways, key=lambda way: c - parts * way[0] * way[1])


# --- keys: integers in the order of the floats -----------------------------------------------


def _flip(key: jax.Array) -> jax.Array:
    """Turns the bits of a float into a key and back: it is its own inverse."""
    bits = jnp.iinfo(key.dtype).bits
    low_bits = key.dtype.type(jnp.iinfo(key.dtype).max)
    return key ^ ((key >> key.dtype.type(bits - 1)) & low_bits)


def _to_key(x: jax.Array) -> jax.Array:
    if x.dtype.name not in _KEY_DTYPE:
        raise TypeError(
            f"order statistics need leaves of {', '.join(_KEY_DTYPE)}; got {x.dtype.name}."
        )
    return _flip(lax.bitcast_convert_type(x, jnp.dtype(_KEY_DTYPE[x.dtype.name])))


def _from_key(key: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return lax.bitcast_convert_type(_flip(key), dtype)


# --- sorting networks ------------------------------------------------------------------------


@functools.cache
def _merge_exchange(n: int) -> tuple[tuple[int, int], ...]:
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
    """The comparators needed to bring the ranks of the window, in any order, to its places.

    Walking back from the outputs, a comparator whose two wires both lead only into the window, or
    both only out of it, changes nothing that is looked at.
    """
    inside, outside, exact = "inside", "outside", "exact"
    wire = [inside if start <= i < start + width else outside for i in range(n)]
    kept = []
    for i, j in reversed(_merge_exchange(n)):
        if wire[i] == wire[j] != exact:
            continue
        kept.append((i, j))
        wire[i] = wire[j] = exact
    return tuple(reversed(kept))


def _apply_network(network: Sequence[tuple[int, int]], rows: list[jax.Array]) -> list[jax.Array]:
    for i, j in network:
        rows[i], rows[j] = jnp.minimum(rows[i], rows[j]), jnp.maximum(rows[i], rows[j])
    return rows


# --- bisection -------------------------------------------------------------------------------


def _fold(step: Callable, start: Any, key: jax.Array, *others: jax.Array) -> Any:
    """`carry = step(carry, *row)` over the rows of `key: [n, c]` and of arrays like it.

    In chunks of unrolled rows, since XLA's own reduction over a leading axis is many times slower
    on CPU. The last chunk is filled with rows of the greatest key, of zeros in the others.
    """
    fill = [_greatest(key.dtype), *(jnp.zeros((), x.dtype) for x in others)]
    rest = ((0, -key.shape[0] % _UNROLLED), (0, 0))
    padded = [jnp.pad(x, rest, constant_values=value) for x, value in zip((key, *others), fill)]
    chunks = [x.reshape(-1, _UNROLLED, x.shape[1]) for x in padded]

    def add_chunk(i: jax.Array, carry: Any) -> Any:
        for row in zip(*(lax.dynamic_index_in_dim(x, i, 0, keepdims=False) for x in chunks)):
            carry = step(carry, *row)
        return carry

    return lax.fori_loop(0, chunks[0].shape[0], add_chunk, varying_as(key, start))


def _count(rows: jax.Array, threshold: jax.Array) -> jax.Array:
    """How many of `rows: [n, c]` lie below `threshold: [c]`, as [c].

    The counts are as short as the rows, so that as many fit into a register.
    """
    short = rows.shape[0] <= jnp.iinfo(rows.dtype).max
    dtype = rows.dtype if short else jnp.dtype("int32")
    none = jnp.zeros(threshold.shape, dtype)
    return _fold(lambda count, row: count + (row < threshold).astype(dtype), none, rows)


def _greatest(dtype: jnp.dtype) -> jax.Array:
    return jnp.array(jnp.iinfo(dtype).max, dtype)


def _least(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jnp.full(shape, jnp.iinfo(dtype).min, dtype)


def _digits(key: jax.Array) -> list[jax.Array]:
    """Integers of 16 bits, the most significant first, that order as the key does."""
    bits = jnp.iinfo(key.dtype).bits
    shifts = range(bits - 16, -1, -16)
    digits = [(key >> key.dtype.type(shift)).astype(jnp.int16) for shift in shifts]
    return [digits[0], *(digit ^ jnp.int16(-(1 << 15)) for digit in digits[1:])]


def _from_digits(digits: Sequence[jax.Array], dtype: jnp.dtype) -> jax.Array:
    key = digits[0].astype(dtype)
    for digit in digits[1:]:
        key = (key << dtype.type(16)) | (digit.astype(dtype) + dtype.type(1 << 15))
    return key


def _kth_key(key: jax.Array, rank: int) -> jax.Array:
    """The key `[c]` of this rank in the columns of `key: [n, c]`.

    Digit by digit, since 16 numbers of 16 bits fit where 8 of 32 do: of the rows that share the
    digits found so far, the rank among them, by bisection.
    """
    found: list[jax.Array] = []
    digits = _digits(key)
    alive, rows, left = None, digits[0], rank
    for digit, following in itertools.zip_longest(digits, digits[1:]):
        count = functools.partial(_count, rows)
        here = _bisected(count, left, varying_as(key, _least((key.shape[1],), digit.dtype)))
        found.append(here)
        if following is not None:
            left = left - count(here).astype(jnp.int32)
            same = digit == here[None]
            alive = same if alive is None else alive & same
            rows = jnp.where(alive, following, _greatest(digit.dtype))
    return _from_digits(found, key.dtype)


def _next_key(key: jax.Array, low: jax.Array, rank: int) -> jax.Array:
    """The key of the rank above, where `low: [c]` is that of this one."""
    greatest = _greatest(key.dtype)

    def step(carry, row):
        least, count = carry
        above = row > low
        least = jnp.minimum(least, jnp.where(above, row, greatest))
        return least, count + (~above).astype(jnp.int32)

    start = jnp.full(low.shape, greatest), jnp.zeros(low.shape, jnp.int32)
    least, count = _fold(step, start, key)
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
    """The k-th lowest, from 1, in each row of `values: [..., n]`, as `[..., 1]`; without a slope.

    By bisection on CPU: for 196 rows of 196, 0.2 ms instead of 2.9 by a sort.
    """
    return lax.platform_dependent(
        lax.stop_gradient(values),
        cpu=lambda values: _kth_by_bisection(values, k),
        default=lambda values: _kth_by_sort(values, k),
    )


def _kth_by_sort(values: jax.Array, k: int) -> jax.Array:
    return jnp.sort(values, axis=-1)[..., k - 1 : k]


def _kth_by_bisection(values: jax.Array, k: int) -> jax.Array:
    key = _to_key(values)

    def count_below(trial: jax.Array) -> jax.Array:
        return jnp.sum(key < trial, axis=-1, keepdims=True, dtype=jnp.int32)

    least = _least((*values.shape[:-1], 1), key.dtype)
    found = _bisected(count_below, k - 1, varying_as(key, least))
    return _from_key(found, values.dtype)


def _select(x: jax.Array, start: int, width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(mean, first, last) of the window, for the columns of `x: [n, c]`, by bisection."""
    key = _to_key(x)
    low = _kth_key(key, start)
    if width == 1:
        high = low
    elif width == 2:
        high = _next_key(key, low, start)
    else:
        high = _kth_key(key, start + width - 1)
    wide = sum_dtype(x.dtype)
    first, last = _from_key(low, x.dtype), _from_key(high, x.dtype)
    if width <= 2:
        return _mean([first, last][:width], x.dtype), first, last

    def step(carry, k, row):
        total, below, not_above = carry
        total = total + jnp.where((low < k) & (k < high), row.astype(wide), 0)
        return total, below + (k < high).astype(jnp.int32), not_above + (k <= low).astype(jnp.int32)

    none = jnp.zeros(low.shape, jnp.int32)
    total, below, not_above = _fold(step, (jnp.zeros(low.shape, wide), none, none), key, x)
    at_low = jnp.minimum(not_above, start + width) - start
    at_high = jnp.where(low < high, start + width - jnp.maximum(below, start), 0)
    total = total + at_low.astype(wide) * first.astype(wide)
    total = total + jnp.where(at_high > 0, at_high.astype(wide) * last.astype(wide), 0)
    return (total / width).astype(x.dtype), first, last


class _Near(NamedTuple):
    """What is known of the values that lie within a radius of a centre."""

    total: jax.Array  # of those nearer than the radius
    least: jax.Array  # of those
    most: jax.Array
    lowest: jax.Array  # just as far as the radius, and below the centre
    highest: jax.Array  # just as far, and above
    inner: jax.Array  # how many are nearer
    lower: jax.Array  # how many are just as far, and below
    under: jax.Array  # how many are farther, and below

    @staticmethod
    def of_none(center: jax.Array) -> "_Near":
        zero, none = jnp.zeros_like(center), jnp.zeros(center.shape, jnp.int32)
        ends = (zero + jnp.inf, zero - jnp.inf, zero - jnp.inf, zero + jnp.inf)
        return _Near(zero, *ends, none, none, none)

    def and_row(self, radius, apart, value, below) -> "_Near":
        near, tie = apart < radius, apart == radius
        lower_tie, upper_tie = tie & below, tie & ~below
        return _Near(
            self.total + jnp.where(near, value, 0),
            jnp.minimum(self.least, jnp.where(near, value, jnp.inf)),
            jnp.maximum(self.most, jnp.where(near, value, -jnp.inf)),
            jnp.maximum(self.lowest, jnp.where(lower_tie, value, -jnp.inf)),
            jnp.minimum(self.highest, jnp.where(upper_tie, value, jnp.inf)),
            self.inner + near.astype(jnp.int32),
            self.lower + lower_tie.astype(jnp.int32),
            self.under + (below & (apart > radius)).astype(jnp.int32),
        )

    def window(self, center: jax.Array, k: int, dtype: jnp.dtype):
        """(start, mean, first, last) of the k nearest, of those just as far the lower ones."""
        from_lower = jnp.minimum(self.lower, k - self.inner)
        from_upper = k - self.inner - from_lower
        total = self.total
        for count, value in ((from_lower, self.lowest), (from_upper, self.highest)):
            total = total + jnp.where(count > 0, count.astype(total.dtype) * value, 0)
        some = self.inner > 0
        first = jnp.where(from_lower > 0, self.lowest, jnp.where(some, self.least, self.highest))
        last = jnp.where(from_upper > 0, self.highest, jnp.where(some, self.most, self.lowest))
        mean = jnp.where(jnp.isfinite(center), total / k, jnp.nan)
        rank = self.under + self.lower - from_lower
        return rank, mean.astype(dtype), first.astype(dtype), last.astype(dtype)


def _apart(x: jax.Array, center: jax.Array) -> jax.Array:
    """Keys of the distances to the centre; NaN is as far as infinity."""
    difference = x.astype(center.dtype) - center
    return _to_key(jnp.where(jnp.isnan(difference), jnp.inf, jnp.abs(difference)))


def _infinite(x: jax.Array) -> jax.Array:
    """The values, NaN as the infinity beside which it sorts."""
    return jnp.where(jnp.isnan(x), jnp.where(jnp.signbit(x), -jnp.inf, jnp.inf).astype(x.dtype), x)


def _select_nearest(x: jax.Array, center: jax.Array, k: int):
    """(start, mean, first, last) of the k values nearest to `center: [c]`, for `x: [n, c]`.

    The k-th smallest distance decides, found by bisection.
    """
    center = center.astype(sum_dtype(x.dtype))
    apart, values = _apart(x, center[None]), _infinite(x).astype(center.dtype)
    radius = _kth_key(apart, k - 1)
    near = _fold(
        lambda near, *row: near.and_row(radius, *row),
        _Near.of_none(center),
        *(apart, values, values < center[None]),
    )
    return near.window(center, k, x.dtype)


def _nearest_by_network(x: jax.Array, center: jax.Array, k: int):
    """The same for `x: [n, ...]` and `center: [...]`, the k-th smallest distance by a network.

    Row by row, and the distances anew after a wall: XLA would keep all of them between the loops,
    which takes four times as long.
    """
    center = center.astype(sum_dtype(x.dtype))
    keys = [_apart(row, center) for row in x]
    radius, center = wall((_apply_network(comparators(len(keys), k - 1, 1), keys)[k - 1], center))
    near = _Near.of_none(center)
    for row in x:
        value = _infinite(row).astype(center.dtype)
        near = near.and_row(radius, _apart(row, center), value, value < center)
    return near.window(center, k, x.dtype)


def _select_blocks(fn: Callable, x: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
    """`fn` on blocks of the columns of `x: [n, ...]` and of `others: [...]`, as `[...]` each.

    A block stays in a core's cache. Only one core works: two loops side by side, or blocks that are
    large enough to be shared, took as long.
    """
    n, shape = x.shape[0], x.shape[1:]
    flat, columns = x.reshape(n, -1), [other.reshape(1, -1) for other in others]
    c = flat.shape[1]
    if c == 0:
        one = [jnp.zeros((*a.shape[:-1], 1), a.dtype) for a in (flat, *(v[0] for v in columns))]
        return jax.tree.map(lambda a: jnp.zeros(shape, a.dtype), jax.eval_shape(fn, *one))
    block = min(c, max(64, _BISECTION_NUMBERS // n // 64 * 64))
    padded = [jnp.pad(a, ((0, 0), (0, -c % block))) for a in (flat, *columns)]

    def one(_, b):
        cut = [lax.dynamic_slice(a, (0, b * block), (a.shape[0], block)) for a in padded]
        return None, fn(cut[0], *(a[0] for a in cut[1:]))

    _, out = lax.scan(one, None, jnp.arange(padded[0].shape[1] // block))
    return jax.tree.map(lambda a: a.reshape(-1)[:c].reshape(shape), out)


# --- windows ---------------------------------------------------------------------------------


def _mean(values: list[jax.Array], dtype: jnp.dtype) -> jax.Array:
    wide = [v.astype(sum_dtype(dtype)) for v in values]
    if len(wide) == 1:
        return values[0].astype(dtype)
    if len(wide) == 2:
        # The middle of two large values does not overflow. Halves first would do, but XLA makes
        # one product of two.
        low, high = wide
        total, apart = low + high, high - low
        too_large = jnp.isinf(total) & (jnp.abs(apart) < jnp.inf)  # is_finite: not in Triton of 0.7
        return jnp.where(too_large, low + 0.5 * apart, 0.5 * total).astype(dtype)
    return (functools.reduce(jnp.add, wide) / len(wide)).astype(dtype)


def _window(x: jax.Array, start: int, width: int) -> jax.Array:
    if x.shape[0] > NETWORK_MAX:
        return _select_blocks(lambda block: _select(block, start, width), x)[0]
    return mean_by_network(list(x), start, width)


def mean_by_network(rows: list[jax.Array], start: int, width: int) -> jax.Array:
    """The mean of the window, of columns that are given as n rows of any shape."""
    dtype = rows[0].dtype
    keys = _apply_network(comparators(len(rows), start, width), [_to_key(row) for row in rows])
    return _mean([_from_key(key, dtype) for key in keys[start : start + width]], dtype)


def _window_ends(x: jax.Array, start: int, width: int) -> tuple[jax.Array, jax.Array]:
    return wall((_window(x, start, 1), _window(x, start + width - 1, 1)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _window_mean(x: jax.Array, start: int, width: int) -> jax.Array:
    return _window(x, start, width)


@_window_mean.defjvp
def _window_mean_jvp(start, width, primals, tangents):
    (x,), (dx,) = primals, tangents
    first, last = _window_ends(x, start, width)
    return _window_mean(x, start, width), _share(x, dx, first, last, start, width)


def _sorted(x: jax.Array) -> list[jax.Array]:
    """The columns of x in order, NaN as the infinity beside which it sorts."""
    keys = _apply_network(_merge_exchange(x.shape[0]), [_to_key(row) for row in x])
    return [_infinite(_from_key(key, x.dtype)) for key in keys]


def _nearest_window(x: jax.Array, center: jax.Array, k: int):
    """(start, mean, first, last) of the window of the k values nearest to the centre."""
    if x.shape[0] <= NEAREST_NETWORK_MAX:
        return _window_in_order(_sorted(x), center, k)
    if x.shape[0] <= NETWORK_MAX:
        return _nearest_by_network(x, wall(center), k)
    return _select_blocks(lambda block, c: _select_nearest(block, c, k), x, center)


def _window_around(x: jax.Array, k: int, start: int, width: int):
    """The same, about the mean of the window of `width` values from rank `start`."""
    wide = sum_dtype(x.dtype)
    if x.shape[0] <= NEAREST_NETWORK_MAX:
        y = _sorted(x)
        center = _mean([v.astype(wide) for v in y[start : start + width]], wide)
        return _window_in_order(y, center, k)
    if x.shape[0] <= NETWORK_MAX:
        center = wall(mean_by_network([row.astype(wide) for row in x], start, width))
        return _nearest_by_network(x, center, k)

    def around(block):
        # Behind a wall: where the division is fused into a difference from the centre, that is
        # rounded once instead of twice, and the k-th distance may be one that no row has.
        center = wall(_select(block.astype(wide), start, width)[0])
        return _select_nearest(block, center, k)

    return _select_blocks(around, x)


def _window_in_order(ordered: list[jax.Array], center: jax.Array, k: int):
    n, dtype = len(ordered), ordered[0].dtype
    wide = sum_dtype(dtype)
    y, c = [v.astype(wide) for v in ordered], center.astype(wide)
    start = jnp.zeros(c.shape, jnp.int32)
    for j in range(n - k):
        start = start + (c - y[j] > y[j + k] - c).astype(jnp.int32)
    zero = jnp.zeros(c.shape, wide)
    total, first, last = zero, zero, zero
    for i, v in enumerate(y):
        total = total + jnp.where((start <= i) & (i < start + k), v, zero)
        first = jnp.where(start == i, v, first)
        last = jnp.where(start + k - 1 == i, v, last)
    mean = jnp.where(jnp.isfinite(c), total / k, jnp.nan)
    return start, mean.astype(dtype), first.astype(dtype), last.astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _nearest_mean(x: jax.Array, center: jax.Array, k: int) -> jax.Array:
    return _nearest_window(x, center, k)[1]


@_nearest_mean.defjvp
def _nearest_mean_jvp(k, primals, tangents):
    (x, center), (dx, _) = primals, tangents
    start, mean, first, last = wall(_nearest_window(x, center, k))
    return mean, _share(x, dx, first, last, start, k)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _mean_around(x: jax.Array, k: int, start: int, width: int) -> jax.Array:
    return _window_around(x, k, start, width)[1]


@_mean_around.defjvp
def _mean_around_jvp(k, start, width, primals, tangents):
    (x,), (dx,) = primals, tangents
    first_rank, mean, first, last = wall(_window_around(x, k, start, width))
    return mean, _share(x, dx, first, last, first_rank, k)


def _share(x, dx, first, last, start, width) -> jax.Array:
    """Tangent of a window's mean: rows that tie at an end share its places equally."""
    wide = sum_dtype(x.dtype)

    def count(mask):
        return jnp.sum(mask, axis=0, dtype=jnp.int32)

    def below(value):  # NaN with its sign bit set is the least of all
        return (x < value[None]) | (jnp.isnan(x) & jnp.signbit(x))

    at_first, at_last = x == first[None], x == last[None]
    stop = start + width
    places_first = jnp.minimum(count(below(first)) + count(at_first), stop) - start
    places_last = stop - jnp.maximum(count(below(last)), start)

    def share(places, rows):
        return (places.astype(wide) / jnp.maximum(count(rows), 1).astype(wide))[None]

    within = (first[None] < x) & (x < last[None])
    weight = jnp.where(within, jnp.ones((), wide), jnp.zeros((), wide))
    weight = jnp.where(at_last, share(places_last, at_last), weight)
    weight = jnp.where(at_first, share(places_first, at_first), weight)
    weight = jnp.where(jnp.isfinite(x), weight, jnp.zeros((), wide))
    kept = jnp.where(weight > 0, weight * dx.astype(wide), jnp.zeros((), wide))
    return (jnp.sum(kept, axis=0) / width).astype(x.dtype)
