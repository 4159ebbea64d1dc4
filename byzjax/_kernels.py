"""Kernels: sums over one matrix `[n, c]`, a row for each worker and a column for each coordinate.

`stacked` makes such matrices of trees. On CPU the shape of a loop decides its speed, hence the
constants and the two forms below; other platforms get the plain reductions.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# CPU: columns that one step of a loop over blocks takes. XLA reduces a row by one chain of
# dependent additions; a loop that adds blocks to an accumulator of this width is vectorised, and
# runs at the speed of the memory (n = 25, d = 1e6: 3.9 ms against 13 ms). A step adds its columns
# to an accumulator of fewer lanes, which the cache holds: with as many lanes as columns 64 rows of
# 65,536 take 0.35 ms instead of 0.24, and 256 rows 1.9 instead of 1.45.
BLOCK, LANES = 8192, 2048
# CPU: the same for products of rows; n = 25 and 64, d = 524,288: 17 and 44 ms, with 4096 18 and 46,
# with 16,384 16 and 46.
GRAM_BLOCK = 8192
# Columns from which that is worth it: at 20,000 the plain reduction takes 0.21 ms, the loop 0.45;
# at 100,000 it is 1.18 and 0.62 (n = 25).
BLOCKED = 2**16
# Columns from which pairs of rows are worth three kernels (0.4 s to compile), not one (0.1 s).
SLABS = 2**18
# (Rows, columns) from which squared distances come from a product of matrices, if they can. The
# whole of Krum with d = 524,288, in ms, by differences and by products: n = 11: 10.9 and 5.9,
# 16: 21 and 9.6, 25: 24 and 18, 32: 36 and 20. With d = 65,536 they are alike below 40 rows.
PRODUCTS = ((40, 2**11), (8, 2**17))
# The share of the two squared lengths below which a squared distance has lost too many digits.
CANCELLED = 0.1
# Rows that are added up in one fused kernel; beyond, a loop over groups of so many.
UNROLLED_ROWS = 64


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


def wall(tree: Any) -> Any:
    """The same arrays, behind a wall that XLA's fusion does not cross.

    A fusion repeats what it reads wherever that is cheap, and minima are: cutting a shared vector
    into its leaves would compile the function that made it, a sorting network say, once for every
    leaf (4.6 s instead of 0.9 s for the median of 65 leaves at n = 25); subtracting it from n rows
    would run it n times (the Gram matrix about the median of 64 rows of 10,000: 67 ms instead of
    2.4); and each of an optimizer's sums over it runs it again (a step of 51 workers with 79,510
    coordinates each and a trimmed mean: 13.8 ms instead of 7.2).

    On CPU `optimization_barrier` is gone before fusion begins; a conditional stays, if XLA cannot
    know its branch. A barrier hides that, and hides it under `vmap` too: a condition on the arrays
    themselves would become a select, which is no wall. Nothing is copied.
    """
    if all(jnp.size(leaf) == 0 for leaf in jax.tree.leaves(tree)):
        return tree
    return _walled(tree)


@functools.partial(jax.jit, inline=True)  # outside a jit of the user's: 1 ms instead of 76
def _walled(tree: Any) -> Any:
    return lax.platform_dependent(tree, cpu=_conditional, default=lax.optimization_barrier)


def _conditional(tree: Any) -> Any:
    never = lax.optimization_barrier(jnp.int32(0)) == 1
    return lax.cond(never, lambda t: jax.tree.map(jnp.negative, t), lambda t: t, tree)


def varying_as(like: jax.Array, tree: Any) -> Any:
    """The same values, taken to vary over the mesh axes over which `like` varies.

    Inside `jax.shard_map` the carry of a loop has to, from its start on.
    """
    if like.size == 0:
        return tree
    first = like[(0,) * like.ndim]
    return jax.tree.map(lambda value: jnp.where(first == first, value, value), tree)


def _zeros(shape: tuple[int, ...], like: jax.Array) -> jax.Array:
    zero = jnp.zeros((), sum_dtype(like.dtype))
    return jnp.broadcast_to(varying_as(like, zero), shape)


def _fold_blocks(add: Callable, carry: Any, x: jax.Array, block: int) -> tuple[Any, tuple]:
    """`carry = add(carry, start, block)` over the whole blocks of columns of x.

    Returns the carry, and (start, width) of the columns that are left.
    """
    whole = x.shape[1] // block
    if whole > 1:
        carry = lax.fori_loop(0, whole, lambda b, c: add(c, b * block, block), carry)
    elif whole == 1:
        carry = add(carry, 0, block)
    rest = x.shape[1] - whole * block
    return carry, (whole * block, rest)


def _blocked_row_sums(term: Callable, x: jax.Array, *vectors: jax.Array) -> jax.Array:
    """`sum_c term(x_ic, v_c, ...)` as [n], in blocks of columns."""
    n = x.shape[0]

    def add(total, start, _):
        for first in range(0, BLOCK, LANES):
            columns = start + first
            part = lax.dynamic_slice(x, (0, columns), (n, LANES))
            beside = [lax.dynamic_slice(v, (columns,), (LANES,)) for v in vectors]
            total = total + term(wide(part), *[wide(v)[None] for v in beside])
        return total

    total, (start, _) = _fold_blocks(add, _zeros((n, LANES), x), x, BLOCK)
    rest = term(wide(x[:, start:]), *[wide(v[start:])[None] for v in vectors])
    return jnp.sum(total, axis=1) + jnp.sum(rest, axis=1)


def _plain_row_sums(term: Callable, x: jax.Array, *vectors: jax.Array) -> jax.Array:
    return jnp.sum(term(wide(x), *[wide(v)[None] for v in vectors]), axis=1)


def _row_sums(term: Callable, x: jax.Array, *vectors: jax.Array) -> jax.Array:
    """`sum_c term(x_ic, v_c, ...)` as [n]."""
    plain = functools.partial(_plain_row_sums, term)
    if x.shape[1] < BLOCKED:
        return plain(x, *vectors)
    blocked = functools.partial(_blocked_row_sums, term)
    return lax.platform_dependent(x, *vectors, cpu=blocked, default=plain)


def _square_of_difference(x: jax.Array, p: jax.Array) -> jax.Array:
    return jnp.square(x - p)


@jax.custom_jvp
def row_squares(x: jax.Array, p: jax.Array) -> jax.Array:
    """`sum_c (x_ic - p_c)^2` for `x: [n, c]` and `p: [c]`, as [n]."""
    return _row_sums(_square_of_difference, x, p)


@row_squares.defjvp
def _row_squares_jvp(primals, tangents):
    (x, p), (dx, dp) = primals, tangents
    total = row_squares(x, p)
    # A row whose sum is not finite has no slope: both factors are cleared, since 0 * inf is NaN.
    keep = jnp.isfinite(total)[:, None]
    difference = _centered(x, p)
    slope = _centered(dx, dp)
    product = jnp.where(keep, difference, 0) * jnp.where(keep, slope, 0)
    return total, 2 * jnp.sum(product, axis=1)


def _blocked_pair_squares(x: jax.Array) -> jax.Array:
    """Differences of all pairs, added to accumulators of `lanes` columns, `unroll` at a time.

    A large matrix goes in three slabs of rows against those that follow, which leaves out most of
    the lower triangle, with accumulators as wide as the cache allows: n = 25, d = 1e6, 2 CPU cores:
    27 ms, without slabs 42 ms; PyTorch's `T @ T.T` 14 ms, its `cdist` 417 ms. A small one is often
    one of many under `vmap`, whose accumulators have to share the cache: 9 times n = 25, d = 7,510
    takes 2.5 ms with 32 lanes and 14 ms with 512.
    """
    n, c = x.shape
    lanes, unroll, slab = (32, 8, n) if n < 64 else (8, 16, n)  # n^2 lanes, beside n c
    if c >= SLABS:
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

    totals = [_zeros((min(slab, n - i), n - i, lanes), x) for i in starts]
    totals, (start, rest) = _fold_blocks(add_at, totals, x, lanes * unroll)
    if rest:
        totals = add(totals, jnp.pad(wide(x[:, start:]), ((0, 0), (0, -rest % lanes))))
    rows = [jnp.pad(jnp.sum(t, axis=2), ((0, 0), (i, 0))) for t, i in zip(totals, starts)]
    upper = jnp.triu(jnp.concatenate(rows), 1)
    return upper + upper.T


def _plain_pair_squares(x: jax.Array) -> jax.Array:
    return lax.map(lambda row: _plain_row_sums(_square_of_difference, x, row), x)


def _exact_pair_squares(x: jax.Array) -> jax.Array:
    return lax.platform_dependent(x, cpu=_blocked_pair_squares, default=_plain_pair_squares)


@jax.custom_batching.custom_vmap
def _product_pair_squares(x: jax.Array) -> jax.Array:
    """From inner products where they tell the squares, else from differences.

    The products are taken about a centre, the median of five rows, so that most squares are as
    large as the products that they come from. Where one is not, because two rows are near to each
    other and far from the centre, what rounding left of it may be nothing; where lengths overflow,
    nothing is known. Then all are taken anew from differences, unless the rows are equal or one of
    them is not finite. So liars to whom the centre belongs cost time, and no digits.
    """
    n = x.shape[0]
    few = [wide(x[i * (n - 1) // 4]) for i in range(5)]
    for i, j in ((0, 1), (3, 4), (2, 4), (2, 3), (0, 3), (0, 2), (1, 4), (1, 3), (1, 2)):
        few[i], few[j] = jnp.minimum(few[i], few[j]), jnp.maximum(few[i], few[j])
    products = gram(x, jnp.where(jnp.isfinite(few[2]), few[2], 0))
    lengths = jnp.diagonal(products)
    sizes = lengths[:, None] + lengths[None]
    squares = sizes - 2 * jnp.where(jnp.isinf(products), 0, products)
    off_diagonal = ~jnp.eye(n, dtype=bool)
    lost = off_diagonal & ~(squares >= CANCELLED * sizes)
    unknown = off_diagonal & jnp.isinf(sizes)

    def found_again(x: jax.Array) -> jax.Array:
        none = varying_as(x, jnp.zeros(n, bool))
        alike = lax.cond(
            jnp.any(lost), lambda x: _alike(x, lost), lambda _: none[:, None] & none[None], x
        )
        finite = lax.cond(jnp.any(unknown), _finite_rows, lambda _: none, x)
        again = (lost & ~alike) | (unknown & finite[:, None] & finite[None])
        zeroed = jnp.where(alike, 0, squares)
        return lax.cond(jnp.any(again), _exact_pair_squares, lambda _: zeroed, x)

    exact = lax.cond(jnp.any(lost | unknown), found_again, lambda _: squares, x)
    upper = jnp.triu(exact, 1)
    return upper + upper.T


def _finite_rows(x: jax.Array) -> jax.Array:
    return _row_sums(lambda x: 0 * x, x) == 0


@_product_pair_squares.def_vmap
def _exact_pair_squares_of_many(size: int, batched: list, x: jax.Array) -> tuple[jax.Array, bool]:
    """From differences: `vmap` makes a select of the conditional, and would compute both forms.

    8 times n = 64, d = 8,192: 9 ms instead of 18, and a tenth of the temporaries; one after another
    6 to 18, as the liars like (2 CPU cores).
    """
    del size, batched
    return jax.vmap(_exact_pair_squares)(x), True


def _alike(x: jax.Array, lost: jax.Array) -> jax.Array:
    """Which pairs are equal rows, as [n, n]; only lost pairs are looked at, and their first rows.

    Liars that all send the same would otherwise cost the differences of all pairs.
    """
    first = jnp.argmax(lost | jnp.eye(len(lost), dtype=bool), axis=1)

    def apart(i: jax.Array) -> jax.Array:
        row = lax.dynamic_slice_in_dim(x, i, 1)
        return row_squares(row, lax.dynamic_index_in_dim(x, first[i], keepdims=False))[0]

    same = lax.map(apart, jnp.arange(len(lost))) == 0
    return same[:, None] & same[None] & (first[:, None] == first[None])


@jax.custom_jvp
def pair_squares(x: jax.Array) -> jax.Array:
    """`sum_c (x_ic - x_jc)^2` for `x: [n, c]`, as [n, n]."""
    if any(x.shape[0] >= rows and x.shape[1] >= columns for rows, columns in PRODUCTS):
        return _product_pair_squares(x)
    return _exact_pair_squares(x)


@pair_squares.defjvp
def _pair_squares_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    total = pair_squares(x)
    # d||x_i - x_j||^2 = 2 <x_i - x_j, dx_i> + 2 <x_j - x_i, dx_j>, as products of matrices: JAX 0.7
    # cannot transpose a loop here. They are exact enough around a row that most rows are near to.
    # Rows without a finite distance to another are cleared, in both factors: 0 * inf is NaN.
    finite = jnp.isfinite(total) & ~jnp.eye(x.shape[0], dtype=bool)
    reach = jnp.sort(jnp.where(jnp.isfinite(total), total, jnp.inf), axis=1)[:, x.shape[0] // 2]
    used = jnp.any(finite, axis=1)[:, None]
    rows = jnp.where(used, wide(x) - wide(x[jnp.argmin(reach)])[None], 0)
    slopes = jnp.where(used, wide(dx), 0)
    across = jnp.matmul(slopes, rows.T, precision=lax.Precision.HIGHEST)
    half = jnp.where(finite, jnp.sum(rows * slopes, axis=1)[:, None] - across, 0)
    return total, 2 * (half + half.T)


def sum_rows(x: jax.Array, weights: jax.Array | None) -> jax.Array:
    """`sum_i w_i x_i` over the rows of `x: [n, c]`; a row of weight 0 is not looked at.

    Rows that are as wide as their sums are multiplied as a matrix, which takes a quarter of the
    time of the loop for 64 rows of 65,536; others would be copied.
    """
    if weights is None or not _multiplied(x):
        return _sum_by_loop(x, weights)
    product = functools.partial(_product_or, _sum_by_loop)
    return lax.platform_dependent(x, weights.astype(x.dtype), cpu=product, default=_sum_by_loop)


def mean_rows(x: jax.Array, weights: jax.Array | None) -> jax.Array:
    """`sum_i w_i x_i / sum_i w_i`, which does not overflow where rows are finite."""
    if weights is None or not _multiplied(x):
        return _mean_by_loop(x, weights)
    product = functools.partial(_product_or, _mean_by_loop, divide=True)
    return lax.platform_dependent(x, weights.astype(x.dtype), cpu=product, default=_mean_by_loop)


def _multiplied(x: jax.Array) -> bool:
    return x.dtype == sum_dtype(x.dtype) and x.shape[1] >= BLOCKED


def _sum_by_loop(x: jax.Array, weights: jax.Array | None) -> jax.Array:
    return loop_over_rows(x, weights, _row)[0]


def _mean_by_loop(x: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Sums that overflow are taken of small shares of the rows instead, in the same loop.

    The share is no power of two, which XLA would take out of the sum again.
    """
    dtype = sum_dtype(x.dtype)
    if weights is None:
        total = jnp.asarray(x.shape[0], dtype)
        share = 0.7 / total
    else:
        weights = weights.astype(dtype)
        total = jnp.sum(weights)
        size = jnp.sum(jnp.abs(weights))
        share = 0.7 / jnp.where(size > 0, size, 1)
    share = lax.stop_gradient(share)
    out, small = loop_over_rows(x, weights, _row, lambda row: row * share)
    return jnp.where(jnp.abs(out) < jnp.inf, out / total, small / (total * share))


def sum_squares(x: jax.Array, p: jax.Array, counted: jax.Array) -> jax.Array:
    """`sum_i (x_i - p)^2` in every column, over the rows of `x: [n, c]` that are counted."""
    return loop_over_rows(x, counted.astype(sum_dtype(x.dtype)), lambda row: (row - p) ** 2)[0]


def _row(row: jax.Array) -> jax.Array:
    return row


def loop_over_rows(
    x: jax.Array, weights: jax.Array | None, *terms: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, ...]:
    """The sums of terms of the rows as one fused, vectorised loop.

    `jnp.sum(x, axis=0)` took 40 times as long on CPU.
    """

    def add(total, row, weight, term):
        row = term(wide(row))
        if weight is not None:  # the row is cleared first: so the slope in its weight is 0, not NaN
            row = jnp.where(weight != 0, row, 0) * weight.astype(row.dtype)
        return total + row

    def add_row(totals, row, weight):
        return tuple(add(total, row, weight, term) for total, term in zip(totals, terms))

    def add_group(totals, start, length):
        for i in range(length):
            row = lax.dynamic_index_in_dim(x, start + i, 0, keepdims=False)
            weight = None
            if weights is not None:
                weight = lax.dynamic_index_in_dim(weights, start + i, 0, keepdims=False)
            totals = add_row(totals, row, weight)
        return totals

    n, totals = x.shape[0], tuple(_zeros(x.shape[1:], x) for _ in terms)
    groups = n // UNROLLED_ROWS if n > UNROLLED_ROWS else 0
    if groups:
        totals = lax.fori_loop(
            0, groups, lambda g, t: add_group(t, g * UNROLLED_ROWS, UNROLLED_ROWS), totals
        )
    for i in range(groups * UNROLLED_ROWS, n):
        totals = add_row(totals, x[i], None if weights is None else weights[i])
    return totals


def _centered(x: jax.Array, p: jax.Array) -> jax.Array:
    return wide(x) - wide(p)[None]


def _products(y: jax.Array) -> jax.Array:
    return jnp.matmul(y, y.T, precision=lax.Precision.HIGHEST)


def _blocked_gram(x: jax.Array, p: jax.Array) -> jax.Array:
    n = x.shape[0]

    def add(total, start, width):
        part = lax.dynamic_slice(x, (0, start), (n, width))
        return total + _products(_centered(part, lax.dynamic_slice(p, (start,), (width,))))

    total, (start, rest) = _fold_blocks(add, _zeros((n, n), x), x, GRAM_BLOCK)
    return total + _products(_centered(x[:, start:], p[start:])) if rest else total


def _plain_gram(x: jax.Array, p: jax.Array) -> jax.Array:
    return _products(_centered(x, p))


def _gram(x: jax.Array, p: jax.Array) -> jax.Array:
    if x.shape[1] < BLOCKED:
        return _plain_gram(x, p)
    return lax.platform_dependent(x, p, cpu=_blocked_gram, default=_plain_gram)


@jax.custom_jvp
def gram(x: jax.Array, p: jax.Array) -> jax.Array:
    """`sum_c (x_ic - p_c) (x_jc - p_c)` as [n, n]; +inf on the diagonal of rows without a norm."""
    total = _gram(x, wall(p))
    # What is not finite stays in its row and column; so the diagonal tells, without another pass.
    bad = ~jnp.isfinite(jnp.diagonal(total))
    total = jnp.where(bad[:, None] | bad[None], 0, total)
    return total + jnp.where(jnp.eye(x.shape[0], dtype=bool) & bad[:, None], jnp.inf, 0)


@gram.defjvp
def _gram_jvp(primals, tangents):
    (x, p), (dx, dp) = primals, tangents
    total = gram(x, p)
    keep = jnp.isfinite(jnp.diagonal(total))[:, None]
    rows = jnp.where(keep, _centered(x, p), 0)
    slopes = jnp.where(keep, _centered(dx, dp), 0)
    half = jnp.matmul(rows, slopes.T, precision=lax.Precision.HIGHEST)
    return total, half + half.T


@jax.custom_jvp
def inner_products(x: jax.Array, p: jax.Array, center: jax.Array) -> jax.Array:
    """`sum_c (x_ic - center_c) p_c` as [n]; without a slope for rows where it is not finite."""
    dtype = sum_dtype(x.dtype)
    return _row_sums(lambda x, p, c: (x - c) * p, x, p.astype(dtype), center.astype(dtype))


@inner_products.defjvp
def _inner_products_jvp(primals, tangents):
    (x, p, center), (dx, dp, dcenter) = primals, tangents
    total = inner_products(x, p, center)
    keep = jnp.isfinite(total)[:, None]
    rows = wide(x)
    dtype = rows.dtype
    difference = jnp.where(keep, rows - center.astype(dtype)[None], 0)
    slope = jnp.where(keep, wide(dx) - dcenter.astype(dtype)[None], 0)
    products = slope * p.astype(dtype)[None] + difference * dp.astype(dtype)[None]
    return total, jnp.sum(products, axis=1)


def combine(x: jax.Array, weights: jax.Array) -> jax.Array:
    """`sum_i w_ki x_ic` as [k, c]; a row of weight 0 is not looked at."""
    weights = _without_slope_at_0(weights.astype(sum_dtype(x.dtype)))
    if x.size == 0:
        return jnp.zeros((len(weights), 0), weights.dtype)

    def with_cleared_rows(x: jax.Array, weights: jax.Array) -> jax.Array:
        bad = jnp.any(~jnp.isfinite(x), axis=1)
        out = _product(jnp.where(bad[:, None], 0, x), weights)
        return jnp.where(jnp.any((weights != 0) & bad[None], axis=1)[:, None], jnp.inf, out)

    return lax.cond(jnp.all(jnp.isfinite(x)), _product, with_cleared_rows, x, weights)


def _product_or(
    loop: Callable, x: jax.Array, weights: jax.Array, divide: bool = False
) -> jax.Array:
    """`w x` as one product; where that is not finite, by the loop, which leaves out 0 times inf."""
    weights = _without_slope_at_0(weights)
    out = _product(x, weights)
    return lax.cond(
        jnp.all(jnp.isfinite(out)),
        lambda x, w, out: out / jnp.sum(w) if divide else out,
        lambda x, w, out: loop(x, w),
        *(x, weights, out),
    )


def _product(x: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.matmul(weights, wide(x), precision=lax.Precision.HIGHEST)


def _without_slope_at_0(weights: jax.Array) -> jax.Array:
    """A weight of 0 has no slope, as where its row is cleared."""
    return jnp.where(weights != 0, weights, lax.stop_gradient(weights))
