"""Order statistics: networks, selection, their total order, and shared tangents."""

import functools
import itertools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import byzjax
from byzjax._numerics import order, thresholds
from byzjax._numerics.order import networks, selection
from tests import oracles
from tests.helpers import compiled

SLOW = pytest.mark.slow
SPECIAL = [math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1.0, -1.0, 2.0, 50.0, -50.0]


def untied(rng, n, c):
    """Normal values in float32."""
    return rng.normal(size=(n, c)).astype(np.float32)


def tied(rng, n, c):
    """Few distinct values, most of them repeated."""
    return rng.integers(-2, 3, size=(n, c)).astype(np.float32)


def special(rng, n, c):
    """Anything: NaN of both signs, infinities, zeros of both signs, repetitions."""
    return rng.choice(np.array(SPECIAL, np.float32), size=(n, c))


def mostly_good(rng, n, c):
    """Fewer than half of each column is special."""
    x = untied(rng, n, c)
    for column in x.T:
        bad = rng.choice(n, (n - 1) // 2, replace=False)
        column[bad] = rng.choice(np.array(SPECIAL, np.float32), size=len(bad))
    return x


KINDS = [untied, tied, special, mostly_good]


def matrix(n, c=12, seed=0):
    rng = np.random.default_rng([n, seed])
    return np.concatenate([kind(rng, n, c) for kind in KINDS], axis=1)


def same(actual, expected, eps=1e-6):
    """Equal up to rounding, with NaN and infinities at the same places."""
    actual = np.asarray(actual, np.float64)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(actual, expected, rtol=eps, atol=eps)


def faults(n):
    """Values of f to try: none, one, about a quarter, as many as possible."""
    return sorted({0, min(1, (n - 1) // 2), n // 4, (n - 1) // 2})


# --- values --------------------------------------------------------------------------------------


def statistics(x, fs):
    """The median, and the trimmed mean for each f."""
    return order.median(x), [order.trimmed_mean(x, f) for f in fs]


def marks_of_a_small_number(n):
    """The networks of other sizes are compared with a sort in NumPy, below."""
    if n == 5:
        return pytest.mark.smoke
    return () if n < 10 or n in (12, 17, 40) else SLOW


@pytest.mark.parametrize(
    "n", [pytest.param(n, marks=marks_of_a_small_number(n)) for n in range(1, 41)]
)
def test_every_small_number_of_workers(n):
    x, fs = matrix(n), tuple(faults(n))
    median, trimmed = compiled(statistics, fs=fs)(x)
    same(median, oracles.median(x))
    for f, out in zip(fs, trimmed, strict=True):
        same(out, oracles.trimmed_mean(x, f))


@pytest.mark.parametrize(
    "n",
    [
        64,
        pytest.param(127, marks=SLOW),
        128,
        pytest.param(129, marks=pytest.mark.smoke),
        200,
    ],
)
def test_networks_and_selection(n):
    """Networks up to 128 workers, selection beyond."""
    assert thresholds.NETWORK_MAX == 128
    x = matrix(n)
    same(compiled(order.median)(x), oracles.median(x))
    rows = n if n > thresholds.NETWORK_MAX else 64  # 128 compiles for 3.4 s and tests the same code
    f = rows // 4
    same(compiled(order.trimmed_mean, f=f)(x[:rows]), oracles.trimmed_mean(x[:rows], f))


@pytest.mark.parametrize("n", [5, 12, pytest.param(40, marks=SLOW), 129])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats(n, dtype):
    x = matrix(n).astype(jnp.dtype(dtype))
    f, exact = n // 4, x.astype(np.float64)
    eps = float(jnp.finfo(dtype).eps)
    median, (trimmed,) = compiled(statistics, fs=(f,))(x)
    assert median.dtype == trimmed.dtype == x.dtype
    same(median, oracles.median(exact), eps)
    same(trimmed, oracles.trimmed_mean(exact, f), eps)


@pytest.mark.parametrize("c", [1, 4095, 4096, pytest.param(5000, marks=SLOW)])
def test_selection_with_and_without_a_copy_of_the_last_columns(c):
    assert thresholds.COPIED_FROM == 4096
    x = untied(np.random.default_rng(c), 130, c)
    x[:, :7] = x[:1, :7]  # equal values
    same(compiled(order.median)(x), np.median(x.astype(np.float64), axis=0))


def any_bits(n, dtype, seed=0):
    """Columns that are hard to interpolate in, or that have keys in common."""
    rng, kind = np.random.default_rng([n, seed]), jnp.dtype(dtype)
    unsigned = {2: np.uint16, 4: np.uint32}[kind.itemsize]
    most = np.iinfo(unsigned).max

    def powers(*shape):
        return 10.0 ** rng.uniform(-38, 38, size=shape)

    sparse = np.where(rng.random((n, 8)) < np.linspace(0, 1, 8), 0, rng.normal(size=(n, 8)))
    zeros = np.where(rng.random((n, 8)) < 0.5, -0.0, 0.0)
    attacked = rng.normal(size=(n, 8))
    attacked[: (n - 1) // 2] = powers((n - 1) // 2, 8)
    values = [
        2.0 ** -rng.integers(0, 149, size=(n, 8)) * rng.choice([-1, 1], size=(n, 8)),
        2.0 ** np.linspace(-126, 127, n)[:, None],
        powers(n, 8),
        attacked,
        sparse,
        zeros,
        np.where(rng.random((n, 8)) < 0.5, zeros, 1e-40 * rng.normal(size=(n, 8))),
        1 + 1e-6 * rng.random((n, 8)),
        rng.choice(SPECIAL, size=(n, 8)),
    ]
    bits = [
        rng.integers(0, most, size=(n, 8), dtype=unsigned, endpoint=True),
        np.arange(n, dtype=unsigned)[:, None],  # subnormal numbers
        np.full((n, 1), most, unsigned),
    ]
    with np.errstate(over="ignore"):
        columns = [column.astype(kind) for column in values] + [b.view(kind) for b in bits]
    return np.concatenate(columns, axis=1)


@pytest.fixture
def passes(monkeypatch):
    """The number of passes of every selection."""
    passes = []

    def counted(*loop):
        out = jax.lax.while_loop(*loop)
        jax.debug.callback(lambda step: passes.append(int(step)), out[0])
        return out

    lax = types.SimpleNamespace(**vars(jax.lax) | {"while_loop": counted})
    monkeypatch.setattr(selection, "lax", lax)
    return passes


@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -3e38, math.inf, math.nan])
def test_columns_of_equal_values_end_at_once(value, passes):
    x = np.full((130, 4), value, np.float32)
    out = jax.jit(lambda x: order.trimmed_mean(x, 30))(x)
    same(out, np.full(4, value, np.float32), 1e-6)
    jax.effects_barrier()
    assert passes == [1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", pytest.param("float16", marks=SLOW)])
@pytest.mark.parametrize(
    "n", [129, pytest.param(200, marks=SLOW), pytest.param(512, marks=SLOW), 1000]
)
def test_selection_of_any_bits(n, dtype, passes):
    """Exact for any keys, within as many passes as they have bits and a few."""
    x = any_bits(n, dtype)
    keys = np.asarray(networks.to_key(jnp.asarray(x)))
    ordered = np.sort(keys, axis=0)
    middle = (n - 1) // 2

    @jax.jit
    def selected(x):
        rows = selection.Rows(x)
        one = [selection.window(rows, rank, 1) for rank in (1, middle, n - 1)]
        exact = [networks.to_key(value) for value in (*one, *selection.pair(rows, n // 4))]
        return exact, selection.window(rows, n // 4, n // 2)

    outs, mean = selected(x)
    jax.effects_barrier()
    assert thresholds.SAFE_PASS < max(passes) <= thresholds.SAFE_PASS + 8 * x.dtype.itemsize + 2
    with np.errstate(all="ignore"):
        inside = np.asarray(networks.from_key(jnp.asarray(ordered), x.dtype), np.float64)
        inside = inside[n // 4 : n // 4 + n // 2]
        finite = np.isfinite(inside).all(axis=0)
        assert finite.sum() > 40
        largest = np.abs(inside).max(axis=0)[finite]
        apart = np.abs(np.asarray(mean, np.float64)[finite] - inside.mean(axis=0)[finite])
    # Sums of subnormal numbers are flushed to zero; a subnormal mean has fewer digits.
    finfo = jnp.finfo(x.dtype)
    least = max(1e-35, float(finfo.smallest_subnormal))
    assert (apart <= least + 4 * float(finfo.eps) * largest).all()

    for rank, out in zip((1, middle, n - 1, n // 4, n // 4 + 1), outs, strict=True):
        # A NaN may lose its payload, but not its sign.
        exact = networks.from_key(jnp.asarray(ordered[rank]), x.dtype)
        nan = np.isnan(np.asarray(exact, np.float32))
        np.testing.assert_array_equal(np.asarray(out)[~nan], ordered[rank][~nan])
        assert (np.sign(out)[nan] == np.sign(ordered[rank])[nan]).all()


@pytest.mark.parametrize("n", [2, 12, 130, 131])
def test_the_middle_of_large_values_does_not_overflow(n):
    largest = np.finfo(np.float32).max
    x = np.full((n, 2), largest)
    assert compiled(order.median)(x).tolist() == [largest] * 2


@pytest.fixture(params=["in order", "by distance"])
def nearest(request, monkeypatch):
    """Small columns are sorted; for 97 to 128 workers, their distances are."""
    if request.param == "by distance":
        monkeypatch.setattr(thresholds, "NEAREST_NETWORK_MAX", 0)


@pytest.mark.usefixtures("nearest")
@pytest.mark.parametrize(
    ("n", "dtype"),
    [(n, "float32") for n in (1, 2, 3, 7, 12)]
    + [(3, "bfloat16"), (3, "float16")]
    + [
        pytest.param(n, dtype, marks=SLOW)
        for n, dtype in ((12, "bfloat16"), (12, "float16"), (25, "float32"))
    ],
)
def test_mean_of_nearest(n, dtype):
    check_mean_of_nearest(n, dtype, sorted({1, max(1, n // 2), n - n // 4, n}))


@pytest.mark.parametrize("k", [1, pytest.param(64, marks=SLOW), 97, pytest.param(129, marks=SLOW)])
def test_mean_of_nearest_of_many(k):
    check_mean_of_nearest(thresholds.NETWORK_MAX + 1, "float32", [k])


def check_mean_of_nearest(n, dtype, counts):
    rng = np.random.default_rng(n)
    x = matrix(n, seed=1).astype(jnp.dtype(dtype))
    center = np.clip(rng.normal(size=x.shape[1]), -2, 2).astype(x.dtype)
    center[:2] = np.nan, np.inf
    exact, c = x.astype(np.float64), center.astype(np.float64)
    eps = max(1e-6, float(jnp.finfo(dtype).eps))
    # A new function each time: a compiled one would not see what `nearest` monkeypatches.
    outs = jax.jit(lambda x: [order.mean_of_nearest(x, center, k) for k in counts])(x)
    for k, out in zip(counts, outs, strict=True):
        assert out.dtype == x.dtype
        with np.errstate(all="ignore"):
            expected = [oracles.mean_of_nearest_of(v, m, k) for v, m in zip(exact.T, c)]
        same(out, expected, eps)


SIZES = [(113, 3000), (136, 42)]


def nearest_to(center, x, k):
    """The mean of the k values of each column nearest to its centre, by sorting distances."""
    order = np.argsort(np.abs(x - center), axis=0, kind="stable")
    return np.take_along_axis(x, order[:k], axis=0).mean(axis=0)


@pytest.mark.parametrize(
    ("n", "c"), [(512, 63), *(pytest.param(*s, marks=[pytest.mark.slow]) for s in SIZES)]
)
def test_the_nearest_of_many_workers(n, c):
    """For 512 and 136 the distances to a centre were once rounded in two ways."""
    f, k = n // 5, n - n // 5
    dtype = "float64" if jax.config.jax_enable_x64 else "float32"
    x = (np.random.default_rng(5).normal(size=(n, c)) + 1).astype(dtype)
    out = jax.jit(
        lambda x: (order.mean_around_median(x, k), order.mean_around_trimmed_mean(x, k, f))
    )(x)
    wide = np.sort(x.astype(np.float64), axis=0)
    centers = np.median(wide, axis=0), wide[f : n - f].mean(axis=0)
    for one, center in zip(out, centers, strict=True):
        # Of two values equally near up to rounding, either may be the last.
        expected = nearest_to(center, wide, k)
        apart = np.abs(np.asarray(one, np.float64) - expected)
        assert np.median(apart) < 1e-6
        assert apart.max() < 5 / k
        assert (apart > 3e-6).sum() < 6


def every_statistic(x):
    k = 100
    return (
        order.median(x),
        order.trimmed_mean(x, 30),
        order.mean_of_nearest(x, x[0], k),
        order.mean_around_median(x, k),
        order.mean_around_trimmed_mean(x, k, 30),
    )


@pytest.mark.parametrize(
    "dtype",
    [
        "bfloat16",
        pytest.param("float32", marks=SLOW),
        *["float64"] * jax.config.jax_enable_x64,
    ],
)
def test_many_workers_under_strict_promotion(dtype):
    with jax.numpy_dtype_promotion("strict"):
        outs = jax.eval_shape(every_statistic, jax.ShapeDtypeStruct((130, 3), dtype))
    for out in outs:
        assert (out.shape, out.dtype) == ((3,), dtype)


def test_many_workers_without_coordinates():
    with jax.numpy_dtype_promotion("strict"):
        outs = jax.jit(every_statistic)(np.zeros((130, 0), np.float32))
    for out in outs:
        assert (out.shape, out.dtype) == ((0,), "float32")


@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=9),
    f=st.integers(0, 4),
)
def test_any_floats(values, f):
    """Subnormal numbers, zeros, and any NaN that hypothesis generates."""
    n = len(values)
    f = min(f, (n - 1) // 2)
    x = np.array(values, np.float32)[:, None]
    with np.errstate(all="ignore"):
        expected = np.stack([oracles.median(x), oracles.trimmed_mean(x, f)]).astype(np.float32)
    median, (trimmed,) = compiled(statistics, fs=(f,))(np.tile(x, (1, 2)))
    out = np.asarray([median, trimmed])[:, 0]
    # XLA may flush subnormal numbers, and the sum behind a mean may overflow.
    largest = np.abs(x[np.isfinite(x)]).max(initial=0)
    sure = [True, largest * n < np.finfo(np.float32).max]
    for one, exact, compared in zip(out, expected[:, 0], sure):
        if not compared:
            continue
        np.testing.assert_array_equal(np.isnan(one), np.isnan(exact))
        if not np.isfinite(exact):
            np.testing.assert_array_equal(one, exact)
        elif abs(exact) > 1e-37:
            np.testing.assert_allclose(one, exact, rtol=1e-6, atol=1e-6 * largest)


def test_order_of_keys():
    values = [-math.nan, -math.inf, -1e30, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, math.inf, math.nan]
    for dtype in ("float32", "bfloat16"):
        x = np.array(values, np.float32).astype(jnp.dtype(dtype))
        keys = compiled(networks.to_key)(x)
        assert (np.diff(np.asarray(keys).astype(np.int64)) > 0).all(), dtype
        back = compiled(networks.from_key, dtype=x.dtype)(keys)
        assert np.asarray(back).tobytes() == x.tobytes(), dtype


# --- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 13))
def test_networks_for_every_window(n):
    """The 0-1 principle: a network that is correct on all 2^n columns of bits is correct on all."""
    bits = np.array(list(itertools.product([0, 1], repeat=n)), np.int8).T
    ones = bits.sum(axis=0)
    in_order = np.arange(n)[:, None] >= n - ones
    for start in range(n):
        for width in range(1, n - start + 1):
            network = networks.comparators(n, start, width)
            assert all(i < j for i, j in network)
            rows = through(network, bits)
            window = slice(start, start + width)
            # The window holds its ranks in any order, and only smaller values come before it.
            np.testing.assert_array_equal(
                sum(rows[window]), in_order[window].sum(axis=0, dtype=np.int8)
            )
            before = sum(rows[:start]) if start else np.zeros_like(ones)
            np.testing.assert_array_equal(before, in_order[:start].sum(axis=0))


def through(network, rows):
    """The rows of integers after a network."""
    rows = list(rows)
    for i, j in network:
        rows[i], rows[j] = np.minimum(rows[i], rows[j]), np.maximum(rows[i], rows[j])
    return rows


def test_networks_of_every_small_number_against_a_sort():
    """The networks of the median and of trimmed means bring the same values to their windows."""
    for n in range(1, 41):
        x = np.random.default_rng(n).integers(-n, n, size=(n, 20))
        ordered = np.sort(x, axis=0)
        for start, width in {oracles.middle(n), *((f, n - 2 * f) for f in faults(n))}:
            rows = through(networks.comparators(n, start, width), x)
            np.testing.assert_array_equal(
                np.sort(rows[start : start + width], axis=0),
                ordered[start : start + width],
                err_msg=f"n={n}, start={start}, width={width}",
            )


@pytest.mark.parametrize("n", [16, 25, 64, 128])
def test_pruning_leaves_out_comparators(n):
    whole = networks.merge_exchange(n)
    middle = networks.comparators(n, *oracles.middle(n))
    assert len(middle) < len(whole)
    assert networks.comparators(n, 0, n) == ()  # the mean of all needs no order
    rows = through(whole, np.random.default_rng(n).permutation(n)[:, None])
    assert np.concatenate(rows).tolist() == list(range(n))


# --- derivatives ---------------------------------------------------------------------------------


def shares(column, start, width):
    """The weight of each row: rows with equal values share the ranks of this value."""
    ordered = oracles.in_order(column)
    window = ordered[start : start + width]
    equal = (column[:, None] == ordered).sum(axis=1)
    places = (column[:, None] == window).sum(axis=1)
    # NaN equals nothing, and like an infinity it has no weight.
    return np.where(np.isfinite(column), places / np.maximum(equal, 1) / width, 0)


@functools.cache
def gradient(fn):
    return jax.jit(jax.grad(lambda x: fn(x).sum()))


def gradients(fn, x):
    """The weight of each row in each column."""
    return np.asarray(gradient(fn)(x), np.float64)


# Beyond 128, a window of one value and one of many; a window of two is slow.
@pytest.mark.parametrize(
    ("n", "statistic"),
    [
        *itertools.product([1, 2, 3, 4, 5, 11, 12], ["median", "trimmed mean"]),
        (129, "median"),
        (130, "trimmed mean"),
        pytest.param(129, "trimmed mean", marks=SLOW),
        pytest.param(130, "median", marks=SLOW),
    ],
)
def test_ties_share_the_tangent(n, statistic):
    x = matrix(n, seed=2)
    f = n // 4
    if statistic == "median":
        (start, width), fn = oracles.middle(n), order.median
    else:
        (start, width), fn = (f, n - 2 * f), functools.partial(order.trimmed_mean, f=f)
    for column, weight in zip(x.T.astype(np.float64), gradients(fn, x).T):
        assert np.isfinite(weight).all()
        if np.isfinite(oracles.mean_of_window(column, start, width)):
            np.testing.assert_allclose(weight, shares(column, start, width), atol=1e-6)


def test_ties_by_hand():
    def weights(fn, values):
        return gradients(fn, np.array(values, np.float32)[:, None])[:, 0].tolist()

    assert weights(order.median, [3.0, 1.0, 2.0]) == [0, 0, 1]
    assert weights(order.median, [2.0, 1.0, 2.0, 2.0, 9.0]) == pytest.approx(
        [1 / 3, 0, 1 / 3, 1 / 3, 0]
    )
    assert weights(order.median, [1.0, 1.0, 5.0, 9.0]) == [0.25, 0.25, 0.5, 0]
    # An attacker's NaN of either sign takes an end of the column; it used to shift the weights.
    assert weights(order.median, [-math.nan, 1.0, 2.0]) == [0, 1, 0]
    assert weights(order.median, [math.nan, 1.0, 2.0]) == [0, 0, 1]
    trimmed = functools.partial(order.trimmed_mean, f=1)
    assert weights(trimmed, [-math.nan, 1.0, 2.0, 3.0]) == [0, 0.5, 0.5, 0]
    nearest = functools.partial(order.mean_of_nearest, center=np.array([2.4], np.float32), k=2)
    assert weights(nearest, [1.0, 2.0, 3.0, 9.0]) == [0, 0.5, 0.5, 0]
    assert weights(nearest, [2.0, 2.0, 2.0, 9.0]) == pytest.approx([1 / 3] * 3 + [0])
    assert weights(nearest, [-math.nan, 1.0, 2.0, 3.0]) == [0, 0, 0.5, 0.5]


@pytest.mark.usefixtures("nearest")
@pytest.mark.parametrize("n", [5, 12])
def test_gradient_of_mean_of_nearest(n):
    check_gradient_of_mean_of_nearest(n)


def test_gradient_of_mean_of_nearest_of_many():
    check_gradient_of_mean_of_nearest(thresholds.NETWORK_MAX + 1)


def check_gradient_of_mean_of_nearest(n):
    """A window like the others; the centre has no gradient."""
    x = matrix(n, seed=3)
    center = np.random.default_rng(3).normal(size=x.shape[1]).astype(np.float32)
    k = n - n // 4
    gradient = jax.grad(lambda x, c: order.mean_of_nearest(x, c, k).sum(), argnums=(0, 1))
    weights, of_center = jax.jit(gradient)(x, center)
    assert (np.asarray(of_center) == 0).all()
    assert np.isfinite(weights).all()
    for j, column in enumerate(x.T.astype(np.float64)):
        infinity = {-1: -np.inf, 1: np.inf}
        clean = [infinity.get(oracles.total_order(v)[0], v) for v in column]
        ordered = sorted(clean)
        start = min(
            range(n - k + 1),
            key=lambda s: (sum(abs(v - center[j]) for v in ordered[s : s + k]), s),
        )
        if not np.isfinite(ordered[start : start + k]).all():
            continue  # the mean is not finite: more than n - k bad values
        np.testing.assert_allclose(weights[:, j], shares(np.array(clean), start, k), atol=1e-6)


def test_second_derivative_is_zero():
    x = np.array([1.0, 4.0, 2.0], np.float32)[:, None]
    assert not np.any(jax.jit(jax.hessian(lambda x: order.median(x).sum()))(x))


@pytest.mark.parametrize(
    "values", [[3e38, 3.4e38], [-3.4e38, -3e38], [-3.4e38, 3.4e38], [1, np.inf]]
)
def test_the_middle_of_two_does_not_overflow(values):
    x = np.array([-np.inf, *values, np.inf], np.float32)[:, None]
    expected = np.mean(np.array(values, np.float64))
    for median in (byzjax.median, jax.jit(byzjax.median)):
        np.testing.assert_allclose(median(x), [expected], rtol=1e-6)


@pytest.mark.parametrize(
    ("n", "c", "dtype"),
    [(5, 2**16 + 3, "float32"), (12, 70_001, "float32"), (5, 2**16, "bfloat16")],
)
def test_squares_to_the_median_of_wide_matrices(n, c, dtype):
    """In blocks and a remainder; in both, a row that is not finite is infinitely far."""
    rng = np.random.default_rng(n)
    x = (rng.normal(size=(n, c)) + 3).astype(jnp.dtype(dtype))
    x[1, 7], x[2, c - 1] = np.nan, -np.inf
    out = np.asarray(jax.jit(order.squares_to_median)(x), np.float64)
    exact = x.astype(np.float64)
    exact[1, 7] = np.inf  # NaN sorts last
    median = np.asarray(compiled(order.median)(x), np.float64)
    squares = ((exact - median) ** 2).sum(axis=1)
    finite = np.isfinite(squares)
    assert finite.sum() == n - 2
    np.testing.assert_allclose(out[finite], squares[finite], rtol=1e-5)
    assert not np.isfinite(out[~finite]).any()


# --- the public functions, called directly --------------------------------------------------------


def loops(x, center, k, f):
    """Each function of `byzjax.order`, by sorting in float64."""
    wide = np.sort(x.astype(np.float64), axis=0)
    middle, trimmed = np.median(wide, axis=0), wide[f : len(x) - f].mean(axis=0)
    return {
        "median": middle,
        "trimmed_mean": trimmed,
        "kth": wide[k - 1],
        "mean_of_nearest": nearest_to(center, wide, k),
        "mean_around_median": nearest_to(middle, wide, k),
        "mean_around_trimmed_mean": nearest_to(trimmed, wide, k),
    }


def called(x, center, k, f):
    return {
        "median": byzjax.order.median(x),
        "trimmed_mean": byzjax.order.trimmed_mean(x, f),
        "kth": byzjax.order.kth(x, k),
        "mean_of_nearest": byzjax.order.mean_of_nearest(x, center, k),
        "mean_around_median": byzjax.order.mean_around_median(x, k),
        "mean_around_trimmed_mean": byzjax.order.mean_around_trimmed_mean(x, k, f),
    }


@pytest.mark.parametrize(
    ("n", "shape"),
    [
        (9, (5,)),
        (9, (2, 3)),
        (9, (0,)),
        *(pytest.param(*size, marks=SLOW) for size in [(97, (5,)), (129, (5,)), (9, (2**17,))]),
    ],
)
def test_public_order_statistics(n, shape):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, *shape)).astype(np.float32)
    # No column has two values that are equally near to a centre up to rounding.
    center, k, f = rng.normal(size=shape).astype(np.float32), n - n // 3, n // 4
    results = called(jnp.asarray(x), jnp.asarray(center), k, f)
    for name, expected in loops(x, center, k, f).items():
        assert results[name].dtype == jnp.float32
        assert results[name].shape == shape
        apart = np.abs(np.asarray(results[name], np.float64) - expected)
        assert np.count_nonzero(apart > 1e-5) <= 1e-4 * apart.size, name


def test_public_order_statistics_of_short_floats():
    x = jnp.asarray([[1.0], [2.0], [3.0], [4.0], [90.0]], jnp.bfloat16)
    for name, result in called(x, jnp.asarray([3.0], jnp.bfloat16), 3, 1).items():
        assert result.dtype == jnp.bfloat16, name
        np.testing.assert_array_equal(result.astype(jnp.float32), [3.0], name)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: byzjax.order.trimmed_mean(x, 2),
            ValueError,
            r"^trimmed_mean needs n >= 2f \+ 1",
        ),
        (lambda x: byzjax.order.trimmed_mean(x, -1), ValueError, "^f must be at least 0; got f=-1"),
        (lambda x: byzjax.order.trimmed_mean(x, 1.0), TypeError, "^f must be a Python int; got"),
        (lambda x: byzjax.order.kth(x, 5), ValueError, "^kth needs k <= n; got k=5, n=4"),
        (lambda x: byzjax.order.kth(x, 0), ValueError, "^k must be at least 1; got k=0"),
        (
            lambda x: byzjax.order.mean_around_trimmed_mean(x, 2, 2),
            ValueError,
            r"^mean_around_trimmed_mean needs n >= 2f \+ 1; got n=4, f=2",
        ),
    ],
)
def test_errors_of_public_order_statistics(call, error, message):
    with pytest.raises(error, match=message):
        call(jnp.zeros((4, 2)))
