"""Distances and inner products of all pairs of rows of one matrix `[n, c]`."""

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics import thresholds
from byzjax._numerics.arrays import varying_as, wide, zeros
from byzjax._numerics.barrier import fusion_barrier
from byzjax._numerics.rows import (
    centered,
    fold_blocks,
    plain_row_sums,
    row_squares,
    row_sums,
    square_of_difference,
)


def _blocked_pair_squares(x: jax.Array) -> jax.Array:
    """Differences of all pairs, added to accumulators of `lanes` columns, `unroll` at a time.

    A large matrix is split into three slabs of rows, each against the rows from its first on, which
    skips most of the lower triangle, with accumulators as wide as the cache allows: n = 25, d = 1e6
    takes 27 ms on 2 CPU cores, 42 ms without slabs; PyTorch's `T @ T.T` 14 ms, its `cdist` 417 ms.
    A small one is often one of many under `vmap`, whose accumulators share the cache: 9 times
    n = 25, d = 7,510 takes 2.5 ms with 32 lanes and 14 ms with 512.
    """
    n, c = x.shape
    lanes, unroll, slab = (32, 8, n) if n < 64 else (8, 16, n)  # n^2 lanes besides n c
    if c >= thresholds.SLABS:
        lanes, unroll, slab = 16, 16, -(-n // 3)
        while lanes < 1024 and 2 * lanes * n * n <= 2**19:
            lanes *= 2
    starts = range(0, n, slab)

    def add(totals, block):
        groups = [block[:, k : k + lanes] for k in range(0, block.shape[1], lanes)]
        out = []
        for total, i in zip(totals, starts):
            for group in groups:
                total = total + jnp.square(group[i : i + slab, None] - group[None, i:])
            out.append(total)
        return out

    def add_at(totals, start, width):
        return add(totals, wide(lax.dynamic_slice(x, (0, start), (n, width))))

    totals = [zeros((min(slab, n - i), n - i, lanes), x) for i in starts]
    totals, (start, rest) = fold_blocks(add_at, totals, x, lanes * unroll)
    if rest:
        totals = add(totals, jnp.pad(wide(x[:, start:]), ((0, 0), (0, -rest % lanes))))
    rows = [jnp.pad(jnp.sum(t, axis=2), ((0, 0), (i, 0))) for t, i in zip(totals, starts)]
    upper = jnp.triu(jnp.concatenate(rows), 1)
    return upper + upper.T


def _plain_pair_squares(x: jax.Array) -> jax.Array:
    return lax.map(lambda row: plain_row_sums(square_of_difference, x, row), x)


def _exact_pair_squares(x: jax.Array) -> jax.Array:
    return lax.platform_dependent(x, cpu=_blocked_pair_squares, default=_plain_pair_squares)


@jax.custom_batching.custom_vmap
def _product_pair_squares(x: jax.Array) -> jax.Array:
    """From inner products where these are accurate, else from differences.

    The products are taken about a centre, the median of five rows, so that most squares are as
    large as the products that they come from. If one is not, because two rows are close to each
    other and far from the centre, rounding may leave no correct digit of it; if lengths overflow,
    nothing is known. Then all are recomputed from differences, unless the rows are equal or one of
    them is not finite. So attackers who control the centre cost time, not accuracy.
    """
    n = x.shape[0]
    five = [wide(x[i * (n - 1) // 4]) for i in range(5)]
    for i, j in ((0, 1), (3, 4), (2, 4), (2, 3), (0, 3), (0, 2), (1, 4), (1, 3), (1, 2)):
        five[i], five[j] = jnp.minimum(five[i], five[j]), jnp.maximum(five[i], five[j])
    products = gram(x, jnp.where(jnp.isfinite(five[2]), five[2], 0))
    lengths = jnp.diagonal(products)
    sizes = lengths[:, None] + lengths[None]
    squares = sizes - 2 * jnp.where(jnp.isinf(products), 0, products)
    off_diagonal = ~jnp.eye(n, dtype=bool)
    cancelled = off_diagonal & ~(squares >= thresholds.CANCELLED * sizes)
    overflowed = off_diagonal & jnp.isinf(sizes)

    def recomputed(x: jax.Array) -> jax.Array:
        none = varying_as(x, jnp.zeros(n, bool))
        equal = lax.cond(
            jnp.any(cancelled),
            lambda x: _equal_rows(x, cancelled),
            lambda _: none[:, None] & none[None],
            x,
        )
        finite = lax.cond(jnp.any(overflowed), _finite_rows, lambda _: none, x)
        again = (cancelled & ~equal) | (overflowed & finite[:, None] & finite[None])
        zeroed = jnp.where(equal, 0, squares)
        return lax.cond(jnp.any(again), _exact_pair_squares, lambda _: zeroed, x)

    exact = lax.cond(jnp.any(cancelled | overflowed), recomputed, lambda _: squares, x)
    upper = jnp.triu(exact, 1)
    return upper + upper.T


def _finite_rows(x: jax.Array) -> jax.Array:
    return row_sums(lambda x: 0 * x, x) == 0


@_product_pair_squares.def_vmap
def _exact_pair_squares_of_many(size: int, batched: list, x: jax.Array) -> tuple[jax.Array, bool]:
    """From differences: `vmap` turns the conditional into a select, which computes both branches.

    8 times n = 64, d = 8,192: 9 ms instead of 18, and a tenth of the temporaries; one at a time
    6 to 18, depending on the attack (2 CPU cores).
    """
    del size, batched
    return jax.vmap(_exact_pair_squares)(x), True


def _equal_rows(x: jax.Array, cancelled: jax.Array) -> jax.Array:
    """Which rows are equal, as [n, n]; each is compared only with the first that cancels with it.

    Attackers that all send the same would otherwise cost the differences of all pairs.
    """
    first = jnp.argmax(cancelled | jnp.eye(len(cancelled), dtype=bool), axis=1)

    def apart(i: jax.Array) -> jax.Array:
        row = lax.dynamic_slice_in_dim(x, i, 1)
        return row_squares(row, lax.dynamic_index_in_dim(x, first[i], keepdims=False))[0] == 0

    def same_as_first(i: jax.Array) -> jax.Array:
        return lax.cond(first[i] == i, lambda i: first[i] == i, apart, i)

    same = lax.map(same_as_first, jnp.arange(len(cancelled)))
    return same[:, None] & same[None] & (first[:, None] == first[None])


@jax.custom_jvp
def pair_squares(x: jax.Array) -> jax.Array:
    """`sum_c (x_ic - x_jc)^2` for `x: [n, c]`, as [n, n]."""
    if any(x.shape[0] >= rows and x.shape[1] >= columns for rows, columns in thresholds.PRODUCTS):
        return _product_pair_squares(x)
    return _exact_pair_squares(x)


@pair_squares.defjvp
def _pair_squares_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    total = pair_squares(x)
    # d||x_i - x_j||^2 = 2 <x_i - x_j, dx_i> + 2 <x_j - x_i, dx_j>, as matrix products: JAX 0.7
    # cannot transpose a loop here. They are accurate enough about a row that most rows are near to.
    # Rows without a finite distance to another are cleared in both factors, since 0 * inf is NaN.
    finite = jnp.isfinite(total) & ~jnp.eye(x.shape[0], dtype=bool)
    reach = jnp.sort(jnp.where(jnp.isfinite(total), total, jnp.inf), axis=1)[:, x.shape[0] // 2]
    used = jnp.any(finite, axis=1)[:, None]
    rows = jnp.where(used, wide(x) - wide(x[jnp.argmin(reach)])[None], 0)
    tangents = jnp.where(used, wide(dx), 0)
    across = jnp.matmul(tangents, rows.T, precision=lax.Precision.HIGHEST)
    half = jnp.where(finite, jnp.sum(rows * tangents, axis=1)[:, None] - across, 0)
    return total, 2 * (half + half.T)


def _products(y: jax.Array) -> jax.Array:
    return jnp.matmul(y, y.T, precision=lax.Precision.HIGHEST)


def _blocked_gram(x: jax.Array, p: jax.Array) -> jax.Array:
    """Block by block, each in several products, so that XLA uses all cores.

    Few rows: one product of the two transposed halves of a block. n = 25, d = 1e6: 10 ms, 17 for
    the block as it is, on 1.2 of two cores, 75 without blocks; PyTorch's `T @ T.T` takes 16. Many:
    sixteen products, of which XLA runs several at once, as it does not with ten. n = 64: 30 ms, 50
    one by one, 60 by transposed halves; PyTorch 50.
    """
    n, c = x.shape
    count = 2 if n < thresholds.GRAM_ROWS else 16
    steps = max(1, c // thresholds.GRAM_BLOCK)
    block = c // (count * steps)

    def centered_part(start, width):
        part = lax.dynamic_slice(x, (0, start), (n, width))
        return centered(part, lax.dynamic_slice(p, (start,), (width,)))

    def add(total, start, width):
        if count == 2:
            halves = centered_part(start, width).reshape(n, 2, block).transpose(1, 2, 0)
            both = lax.dot_general(
                *(halves, halves, (((1,), (1,)), ((0,), (0,)))), precision=lax.Precision.HIGHEST
            )
            return total + both[0] + both[1]
        firsts = range(0, width, block)
        return total + sum(_products(centered_part(start + i, block)) for i in firsts)

    total, (start, rest) = fold_blocks(add, zeros((n, n), x), x, count * block)
    return total + _products(centered(x[:, start:], p[start:])) if rest else total


def _plain_gram(x: jax.Array, p: jax.Array) -> jax.Array:
    return _products(centered(x, p))


def _gram(x: jax.Array, p: jax.Array) -> jax.Array:
    if x.shape[1] < thresholds.BLOCKED:
        return _plain_gram(x, p)
    return lax.platform_dependent(x, p, cpu=_blocked_gram, default=_plain_gram)


@jax.custom_jvp
def gram(x: jax.Array, p: jax.Array) -> jax.Array:
    """`sum_c (x_ic - p_c) (x_jc - p_c)` as [n, n]; +inf on the diagonal if not finite."""
    total = _gram(x, fusion_barrier(p))
    # A row that is not finite affects only its row and column, so the diagonal alone shows it.
    bad = ~jnp.isfinite(jnp.diagonal(total))
    total = jnp.where(bad[:, None] | bad[None], 0, total)
    return total + jnp.where(jnp.eye(x.shape[0], dtype=bool) & bad[:, None], jnp.inf, 0)


@gram.defjvp
def _gram_jvp(primals, tangents):
    (x, p), (dx, dp) = primals, tangents
    total = gram(x, p)
    keep = jnp.isfinite(jnp.diagonal(total))[:, None]
    rows = jnp.where(keep, centered(x, p), 0)
    tangents = jnp.where(keep, centered(dx, dp), 0)
    half = jnp.matmul(rows, tangents.T, precision=lax.Precision.HIGHEST)
    return total, half + half.T
