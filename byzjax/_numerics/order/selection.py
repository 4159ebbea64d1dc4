"""Selection by counting, for more rows than networks handle.

In every column a threshold that separates the k least values from the others is narrowed down by
counting how many values lie below a few trials, in one pass over the rows. The first trials are
order statistics of a sample of rows, later ones are interpolated. The middle of what is left is
among them from pass `SAFE_PASS` on, so that there are never many more passes than bits: values
chosen by attackers cost time, but not exactness. The last columns are finished in a small copy.

Nothing else of the size of the rows is stored: keys and distances are computed where they are read.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics import thresholds
from byzjax._numerics.arrays import exact_share, sum_dtype, varying_as
from byzjax._numerics.order.networks import (
    apply_network,
    from_key,
    merge_exchange,
    to_key,
    window_mean,
)

# Places of two or three trials, in standard deviations from the expected one.
BESIDE = {2: (-1.2, 1.2), 3: (-1.5, 0.0, 1.5)}
FEW = 6  # the trials among so few keys are evenly spaced


class Rows(NamedTuple):
    """n rows of values, each computed where it is read.

    Attributes:
      x: a matrix `[n, c]`.
      vectors: `[c]` each.
      of: the values of a row of x and the vectors; None for the row itself.
    """

    x: jax.Array
    vectors: tuple[jax.Array, ...] = ()
    of: Callable | None = None

    @property
    def n(self) -> int:
        """The number of rows."""
        return self.x.shape[0]

    def row(self, i: Any) -> jax.Array:
        """The values of row i, which may be traced."""
        row = lax.dynamic_index_in_dim(self.x, i, 0, keepdims=False)
        return row if self.of is None else self.of(row, *self.vectors)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the values."""
        return self.row(0).dtype

    def columns(self, places: jax.Array) -> "Rows":
        """A copy of the columns at these places."""
        return Rows(self.x[:, places], tuple(v[places] for v in self.vectors), self.of)

    def fold(self, step: Callable, start: Any) -> Any:
        """`carry = step(carry, i)` over the rows, several of them per kernel.

        XLA's own reduction over a leading axis is many times slower on CPU.
        """
        length = min(thresholds.COUNTED_ROWS, key=lambda rows: self.n % rows)
        groups = self.n // length

        def add_group(g: jax.Array, carry: Any) -> Any:
            for i in range(length):
                carry = step(carry, g * length + i)
            return carry

        carry = lax.fori_loop(0, groups, add_group, varying_as((self.x, self.vectors), start))
        for i in range(groups * length, self.n):
            carry = step(carry, i)
        return carry


class Split(NamedTuple):
    """What is known of the threshold in each column, below which k keys lie.

    `count(key < low) = below <= k <= up_to = count(key <= high)`. The threshold is `low` if
    `below == k`; if `low == high`, rows of this key are on both sides.
    """

    low: jax.Array
    high: jax.Array
    below: jax.Array
    up_to: jax.Array

    def narrowed(self, k: int, trial: jax.Array, count: jax.Array) -> "Split":
        """With `count` keys below `trial`."""
        up = (count <= k) & (trial > self.low)
        down = (count > k) & (trial <= self.high)
        return Split(
            jnp.where(up, trial, self.low),
            jnp.where(down, trial - 1, self.high),
            jnp.where(up, count, self.below),
            jnp.where(down, count, self.up_to),
        )

    def settled(self, k: int) -> jax.Array:
        """Whether nothing is left to find, per column."""
        return (self.below == k) | (self.low == self.high)

    def tied(self, k: int) -> jax.Array:
        """Whether rows of the key `low` are on both sides, once the threshold is settled."""
        return self.below != k

    def middle(self) -> jax.Array:
        """The middle of the keys that are left; first zeros, which many rows may have in common."""
        middle = (self.low & self.high) + ((self.low ^ self.high) >> 1)
        across = (self.low < 0) & (self.high >= 0)
        middle = jnp.where(across | (self.high == -1), jnp.minimum(self.high, 0), middle)
        return jnp.where(self.low == 0, 1, middle)


class Sample(NamedTuple):
    """Some of the rows.

    Attributes:
      keys: their keys in order.
      least: a value far below all of them.
      most: a value far above all of them.
    """

    keys: list[jax.Array]
    least: jax.Array
    most: jax.Array

    @staticmethod
    def of(rows: Rows) -> "Sample":
        """A sample of `SAMPLED_ROWS` rows."""
        m = thresholds.SAMPLED_ROWS
        values = [rows.row(i * rows.n // m) for i in range(m)]
        dtype = values[0].dtype
        keys = apply_network(merge_exchange(m), [to_key(value) for value in values])
        least, most = (from_key(key, dtype).astype(sum_dtype(dtype)) for key in (keys[0], keys[-1]))
        return Sample(keys, least - (most - least), most + (most - least))

    def trials(self, k: int, n: int, count: int) -> list[jax.Array]:
        """Keys of the sample about the one of rank k of n; of equal ones, also the next keys."""
        m, part = len(self.keys), (k + 0.5) / n
        deviation = (part * (1 - part) / m) ** 0.5
        out: list[jax.Array] = []
        for beside in BESIDE[count]:
            place = round((part + beside * deviation) * m - 0.5)
            trial = self.keys[min(max(place, 0), m - 1)]
            out.append(jnp.maximum(trial, out[-1] + 1) if out else trial)
        return out

    def interpolated(
        self, split: Split, k: int, count: int, step: jax.Array, dtype: Any
    ) -> list[jax.Array]:
        """Trials between the ends of what is left.

        They are about where the key of rank k should be if the keys that are left were evenly
        spaced.
        """
        wide = sum_dtype(dtype)
        low, high = (from_key(end, dtype).astype(wide) for end in (split.low, split.high))
        low = jnp.where(jnp.isfinite(low), low, self.least)
        high = jnp.where(jnp.isfinite(high), high, self.most)
        left = (split.up_to - split.below).astype(wide)
        part = (k - split.below).astype(wide) / left + 0.5 / left
        deviation = jnp.sqrt(jnp.maximum(part * (1 - part), 0) / left)
        out = []
        for i, beside in enumerate(BESIDE[count], start=1):
            place = jnp.where(left <= FEW, i / (count + 1), part + beside * deviation)
            place = jnp.clip(place, 0.25 / left, 1 - 0.25 / left)
            trial = to_key((low + (high - low) * place).astype(dtype))
            if i == 2:
                trial = jnp.where(step < thresholds.SAFE_PASS, trial, split.middle())
            out.append(jnp.clip(trial, split.low + 1, split.high))
        return out


def _counts(rows: Rows, trials: Sequence[jax.Array]) -> list[jax.Array]:
    """How many keys lie below each trial; several counts share an integer, and so a kernel."""
    bits = rows.n.bit_length()
    mask = jnp.uint32((1 << bits) - 1)
    out: list[jax.Array] = []
    for first in range(0, len(trials), 32 // bits):
        shared = trials[first : first + 32 // bits]
        ones = [jnp.uint32(1 << bits * place) for place in range(len(shared))]

        def add(total: jax.Array, i: jax.Array, shared: Any = shared, ones: Any = ones):
            key = to_key(rows.row(i))
            for trial, one in zip(shared, ones):
                total = total + jnp.where(key < trial, one, jnp.uint32(0))
            return total

        total = rows.fold(add, jnp.zeros(shared[0].shape, jnp.uint32))
        out += [(total >> jnp.uint32(bits * p) & mask).astype(jnp.int32) for p in range(len(ones))]
    return out


def _narrowed(rows: Rows, known: list[Split], ks: Sequence[int], trials: list) -> list[Split]:
    counts = iter(_counts(rows, [trial for of_one in trials for trial in of_one]))
    out = []
    for split, k, of_one in zip(known, ks, trials):
        for trial in of_one:
            split = split.narrowed(k, trial, next(counts))
        out.append(split)
    return out


def splits(rows: Rows, ks: Sequence[int], either: bool = False) -> list[Split]:
    """The threshold for each k, 0 <= k < n.

    With `either`, one below which k + 1 keys lie is as good, for the key of rank k is next to both:
    then `up_to == k + 1`.
    """

    def missing(known: list[Split]) -> jax.Array:
        done = [split.settled(k) | (either & (split.up_to == k + 1)) for split, k in zip(known, ks)]
        return ~functools.reduce(jnp.logical_and, done)

    def narrow_in(rows: Rows, sample: Sample) -> Callable:
        def narrow(carry: tuple) -> tuple:
            step, known = carry
            trials = [sample.interpolated(s, k, count, step, dtype) for s, k in zip(known, ks)]
            return step + 1, _narrowed(rows, known, ks, trials)

        return narrow

    # Four counts of at most 255 rows share an integer, so that two thresholds need one kernel.
    count = 2 if len(ks) == 2 and rows.n < 256 else 3
    sample, dtype, c = Sample.of(rows), rows.dtype, rows.x.shape[1]
    key = sample.keys[0]
    ends = [jnp.full_like(key, getattr(jnp.iinfo(key.dtype), end)) for end in ("min", "max")]
    whole = Split(*ends, *(jnp.full(key.shape, end, jnp.int32) for end in (0, rows.n)))
    known = _narrowed(rows, [whole] * len(ks), ks, [sample.trials(k, rows.n, count) for k in ks])
    few = c // thresholds.COPIED_COLUMNS if c >= thresholds.COPIED_FROM else 0
    step, known = lax.while_loop(
        lambda carry: jnp.sum(missing(carry[1]), dtype=jnp.int32) > few,
        narrow_in(rows, sample),
        (jnp.int32(1), known),
    )
    if not few:
        return known
    places = lax.top_k(missing(known).astype(jnp.float32), few)[1]
    copied = rows.columns(places), Sample([], sample.least[places], sample.most[places])
    _, rest = lax.while_loop(
        lambda carry: jnp.any(missing(carry[1])),
        narrow_in(*copied),
        (step, [Split(*(part[places] for part in split)) for split in known]),
    )
    return jax.tree.map(lambda all_columns, last: all_columns.at[places].set(last), known, rest)


def _least(rows: Rows, wanted: Callable[[jax.Array], jax.Array], mirror: Any) -> jax.Array:
    """The least of the wanted keys `key ^ mirror`; a mirror of -1 turns their order round."""

    def step(least: jax.Array, i: jax.Array) -> jax.Array:
        key = to_key(rows.row(i)) ^ mirror
        return jnp.where(wanted(key) & (key < least), key, least)

    first = to_key(rows.row(0))
    return rows.fold(step, jnp.full_like(first, jnp.iinfo(first.dtype).max)) ^ mirror


def _kth(rows: Rows, rank: int) -> jax.Array:
    """The values `[c]` of this rank, from 0."""
    (split,) = splits(rows, [rank], either=True)
    upward = split.settled(rank)
    mirror = jnp.where(upward, 0, -1).astype(split.low.dtype)
    bound = jnp.where(upward, split.low, ~split.high)
    return from_key(_least(rows, lambda key: key >= bound, mirror), rows.dtype)


def pair(rows: Rows, rank: int) -> list[jax.Array]:
    """The values of this rank and the next."""
    (split,) = splits(rows, [rank + 1])
    down = jnp.asarray(-1, split.low.dtype)
    bound = ~jnp.where(split.tied(rank + 1), split.low, split.low - 1)
    keys = (
        _least(rows, lambda key: key >= bound, down),
        _least(rows, lambda key: key >= split.low, jnp.zeros_like(down)),
    )
    return [from_key(key, rows.dtype) for key in keys]


def window(rows: Rows, start: int, width: int) -> jax.Array:
    """The mean of the values of ranks start, ..., start + width - 1 per column, from 0.

    They end before n, or are all of them.
    """
    if width == 1:
        return _kth(rows, start)
    if width == 2:
        return window_mean(pair(rows, start), rows.dtype)
    wide, share = sum_dtype(rows.dtype), exact_share(width, rows.x)
    zero = jnp.zeros(rows.x.shape[1:], wide)
    if width == rows.n:
        total = rows.fold(lambda total, i: total + share * rows.row(i).astype(wide), zero)
        return (total / (width * share)).astype(rows.dtype)
    stop = start + width
    low, high = splits(rows, [start, stop])
    # The values between the ends and, of ends that are tied, some copies.
    first = jnp.where(low.tied(start), low.low + 1, low.low)

    def add(total: jax.Array, i: jax.Array) -> jax.Array:
        row = rows.row(i)
        key = to_key(row)
        inside = (key >= first) & (key < high.low)
        return jnp.where(inside, total + share * row.astype(wide), total)

    total = rows.fold(add, zero)
    of_low = jnp.where(low.tied(start), jnp.minimum(low.up_to, stop) - start, 0)
    one_value = low.tied(start) & (low.low == high.low)
    of_high = jnp.where(high.tied(stop) & ~one_value, stop - high.below, 0)
    for key, count in ((low.low, of_low), (high.low, of_high)):
        value = from_key(key, rows.dtype).astype(wide)
        total = total + jnp.where(count > 0, count.astype(wide) * (share * value), 0)
    return (total / (width * share)).astype(rows.dtype)
