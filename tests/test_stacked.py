"""The algebra of stacked trees: values, exactness, block sizes, gradients and errors."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from byzjax import stacked
from byzjax._numerics import pairs, thresholds
from byzjax.stacked import layout
from tests.helpers import compiled, flat, mesh_of

SLOW = pytest.mark.slow


def cut(x, shapes):
    """Cuts `[n, d]` into leaves `[n, *shape]`, as a list."""
    ends = np.cumsum([math.prod(s) for s in shapes])
    assert ends[-1] == x.shape[1]
    parts = np.split(x, ends[:-1], axis=1)
    return [p.reshape(len(x), *s) for p, s in zip(parts, shapes)]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def exact_pairs(x):
    """In float64, pair by pair."""
    x = np.asarray(x, np.float64)
    return np.array([[np.sum((a - b) ** 2) for b in x] for a in x])


def near(actual, expected, rtol=2e-6, atol=0.0):
    """Equal up to rounding, by default relative to each number."""
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=rtol, atol=atol)


# --- n -------------------------------------------------------------------------------------------


def test_num_workers():
    assert stacked.num_workers(jnp.zeros(3)) == 3
    assert stacked.num_workers({"w": np.zeros((5, 3, 2)), "b": np.zeros((5,)), "none": None}) == 5
    assert stacked.num_workers([np.zeros((4, 0))]) == 4


ERRORS = {
    "updates have no leaves; got a dict: stacked updates have leaves of shape [n, ...].": {
        "w": None
    },
    "no worker axis: the array is a scalar; stacked updates have leaves of shape [n, ...]": 1.0,
    "no worker axis: ['b'] is a scalar; stacked updates have leaves of shape [n, ...]": {
        "a": np.zeros((2, 3)),
        "b": np.zeros(()),
    },
    "leaves disagree on n: ['a'] has shape (2, 3), ['b'] (3,); stacked updates have leaves of "
    "shape [n, ...], as from jax.vmap(jax.grad(loss), in_axes=(None, 0)).": {
        "a": np.zeros((2, 3)),
        "b": np.zeros(3),
    },
    "no workers: the array has shape (0, 3); stacked updates have leaves of shape [n, ...] "
    "with n >= 1.": np.zeros((0, 3)),
}
FUNCTIONS = {
    "num_workers": stacked.num_workers,
    "squared_norms": stacked.squared_norms,
    "squared_distances": lambda updates: stacked.squared_distances(updates, updates),
    "pairwise": stacked.pairwise_squared_distances,
    "mean": stacked.mean,
    "weighted_mean": lambda updates: stacked.weighted_mean(updates, jnp.ones(2)),
    "mean_of": lambda updates: stacked.mean_selected(updates, jnp.ones(2, bool)),
    "take": lambda updates: stacked.take(updates, 0),
    "coordinatewise": lambda updates: stacked.coordinatewise(lambda x: x[0], updates),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("text", ERRORS)
def test_errors(function, text):
    with pytest.raises(ValueError, match=r".") as error:
        FUNCTIONS[function](ERRORS[text])
    assert str(error.value).startswith(text)


def test_errors_of_the_second_argument():
    updates = {"w": jnp.zeros((4, 3))}
    with pytest.raises(
        ValueError, match=r"^weights have shape \(3,\); 4 workers need shape \(4,\)\.$"
    ):
        stacked.weighted_mean(updates, jnp.ones(3))
    with pytest.raises(
        ValueError,
        match=r"^point\['w'\] has shape \(4, 3\); the updates have \(4, 3\), "
        r"so \(3,\) was expected\.$",
    ):
        stacked.squared_distances(updates, updates)
    with pytest.raises(ValueError, match=r"^point has the structure .*, but one update has "):
        stacked.squared_distances(updates, jnp.zeros(3))


# --- values, over the sizes of blocks ------------------------------------------------------------

BLOCK = thresholds.BLOCK


def all_of_it(updates, point, weights):
    return {
        "norms": stacked.squared_norms(updates),
        "distances": stacked.squared_distances(updates, point),
        "pairs": stacked.pairwise_squared_distances(updates),
        "mean": stacked.mean(updates),
        "weighted": stacked.weighted_mean(updates, weights),
        "mean_of": stacked.mean_selected(updates, weights > 0),
        "max": stacked.coordinatewise(lambda x: jnp.max(x, axis=0), updates),
    }


def assert_right(updates, x, n):
    """All functions of `updates`, whose rows are those of `x: [n, d]`."""
    exact = np.asarray(x, np.float64)
    point = jax.tree.map(lambda leaf: leaf[0] + 1, updates)
    weights = np.arange(n, dtype=np.float32) * (np.arange(n) != n - 1)
    weights[0] += n == 2 or n == 1
    # A new function each time: a compiled one would not see limits that a test monkeypatches.
    out = jax.jit(lambda *given: all_of_it(*given))(updates, point, weights)
    near(out["norms"], np.sum(exact**2, axis=1))
    near(out["distances"], np.sum((exact - flat(point)) ** 2, axis=1))
    pairs = np.asarray(out["pairs"])
    assert (pairs == pairs.T).all()
    assert (np.diag(pairs) == 0).all()
    near(pairs, exact_pairs(exact), rtol=5e-6)
    atol = 2e-6 * np.abs(exact).max()
    near(flat(out["mean"]), exact.mean(axis=0), atol=atol)
    near(flat(out["weighted"]), weights @ exact / weights.sum(), atol=atol)
    near(flat(out["mean_of"]), exact[weights > 0].mean(axis=0), atol=atol)
    near(flat(out["max"]), exact.max(axis=0), rtol=0)


@pytest.mark.parametrize(
    "d",
    [
        1,
        pytest.param(100, marks=pytest.mark.smoke),
        BLOCK + 1,
        thresholds.BLOCKED - 1,
        thresholds.BLOCKED,
        *(pytest.param(d, marks=SLOW) for d in (7, BLOCK - 1, 40_000)),
    ],
)
def test_values_at_every_size(d):
    x = normal(d, 5, d)
    assert_right(x, x, 5)


@pytest.mark.parametrize(
    "d", [7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3, pytest.param(40_000, marks=SLOW)]
)
def test_distances_to_a_point_go_in_blocks(d, monkeypatch):
    monkeypatch.setattr(thresholds, "BLOCKED", 1)
    x = normal(d, 5, d)
    point = x[0] + 1
    distances, norms = jax.jit(
        lambda x, p: (stacked.squared_distances(x, p), stacked.squared_norms(x))
    )(x, point)
    near(distances, np.sum((x.astype(np.float64) - point) ** 2, axis=1))
    near(norms, np.sum(x.astype(np.float64) ** 2, axis=1))


@pytest.mark.parametrize(
    "n", [1, 2, 11, 63, 64, 65, 130, *(pytest.param(n, marks=SLOW) for n in (3, 4, 25))]
)
def test_values_for_every_number_of_workers(n):
    x = normal(n, n, 37)
    assert_right({"a": x[:, :30], "b": x[:, 30:]}, x, n)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 64, *(pytest.param(n, marks=SLOW) for n in (3, 11))])
def test_pairs_of_a_large_matrix_go_in_slabs(n, monkeypatch):
    monkeypatch.setattr(thresholds, "SLABS", 1)
    x = normal(n, n, 2 * BLOCK + 3)
    out = jax.jit(lambda x: stacked.pairwise_squared_distances(x))(x)
    near(out, exact_pairs(x), rtol=5e-6)


def test_pairs_of_a_matrix_that_is_large():
    x = normal(12, 5, thresholds.SLABS + 1)
    near(compiled(stacked.pairwise_squared_distances)(x), exact_pairs(x), rtol=5e-6)


@pytest.mark.parametrize("n", [2, thresholds.GRAM_ROWS - 1, thresholds.GRAM_ROWS])
def test_inner_products_of_a_wide_matrix(n):
    """Blocks in two products or sixteen, and the columns that are left over."""
    x = normal(n, n, thresholds.BLOCKED + 21)
    out = compiled(pairs.gram)(x, x[0])
    exact = x.astype(np.float64) - x[0]
    near(out, exact @ exact.T, rtol=1e-5, atol=0.1)


@pytest.mark.parametrize("around", [-1, 0, pytest.param(1, marks=SLOW)])
def test_leaves_with_their_own_kernels_and_shared_ones(around):
    """Leaves on either side of OWN_LEAF, with small ones between them that share a buffer."""
    size = thresholds.OWN_LEAF
    shapes = [(3,), (size + around,), (2, 2), (), (size // 2, 2), (5,)]
    x = normal(3, 4, sum(math.prod(s) for s in shapes))
    updates = cut(x, shapes)
    groups = layout._layout(updates)
    assert sorted(i for group in groups for i in group) == list(range(6))
    assert ([1] in groups) == (around >= 0)
    assert [4] in groups
    assert [0, 2, 3, 5] in groups or [0, 1, 2, 3, 5] in groups
    assert_right(updates, x, 4)


def test_more_large_leaves_than_kernels(monkeypatch):
    monkeypatch.setattr(thresholds, "OWN_LEAF", 10)
    monkeypatch.setattr(thresholds, "MAX_OWN_LEAVES", 3)
    shapes = [(11,), (13,), (12,), (9,), (14,), (10,)]
    x = normal(4, 3, sum(math.prod(s) for s in shapes))
    updates = cut(x, shapes)
    assert sorted(layout._layout(updates)) == [[0, 3, 5], [1], [2], [4]]
    assert_right(updates, x, 3)


def test_many_leaves():
    shapes = [((i % 5,) if i % 3 else (2, i % 4)) if i % 7 else () for i in range(65)]
    x = normal(5, 6, sum(math.prod(s) for s in shapes))
    assert_right(cut(x, shapes), x, 6)


def test_leaves_without_a_coordinate():
    x = normal(6, 3, 4)
    empty = np.zeros((3, 0), np.float32)
    assert_right([empty, x, np.zeros((3, 2, 0), np.float32)], x, 3)
    assert compiled(stacked.squared_norms)(empty).tolist() == [0, 0, 0]


def test_scalars_for_each_worker():
    x = normal(7, 5, 1)
    assert_right(x[:, 0], x, 5)


def test_take():
    tree = {"w": np.arange(12, dtype=np.float32).reshape(4, 3), "b": np.arange(4, dtype=np.int32)}
    one = compiled(stacked.take)(tree, np.int32(2))
    np.testing.assert_array_equal(one["w"], [6, 7, 8])
    assert one["b"] == 2
    assert one["b"].dtype == tree["b"].dtype
    several = compiled(stacked.take)(tree, np.array([3, 0, 3], np.int32))
    np.testing.assert_array_equal(several["w"], tree["w"][[3, 0, 3]])
    assert several["b"].tolist() == [3, 0, 3]


def test_sum_dtype():
    wide = {"bfloat16": "float32", "float16": "float32", "float32": "float32", "int32": "float32"}
    for mode in ("standard", "strict"):
        with jax.numpy_dtype_promotion(mode):
            assert {d: stacked.sum_dtype(jnp.dtype(d)).name for d in wide} == wide


# --- exactness -----------------------------------------------------------------------------------


def distances_and_pairs(updates, point):
    return (
        stacked.squared_distances(updates, point),
        stacked.pairwise_squared_distances(updates),
    )


COLUMNS = [100, 40_000, thresholds.BLOCKED + 1, thresholds.PRODUCTS[1][1] + 1]


@pytest.mark.parametrize(
    ("n", "d"),
    [
        *((11, d) for d in COLUMNS),
        (3, COLUMNS[0]),
        (3, COLUMNS[3]),
        *(pytest.param(3, d, marks=SLOW) for d in COLUMNS[1:3]),
        *(pytest.param(25, d, marks=SLOW) for d in COLUMNS),
    ],
)
def test_distances_do_not_cancel(n, d):
    """A common offset of 1e3, a spread of 1e-3: the Gram matrix alone gave -16384 for 0.2."""
    x = (1e3 + 1e-3 * np.random.default_rng(n).normal(size=(n, d))).astype(np.float32)
    point = x.mean(axis=0)
    distances, pairs = compiled(distances_and_pairs)(x, point)
    exact = exact_pairs(x)
    different = exact > 0
    assert (different == ~np.eye(n, dtype=bool)).all()
    assert np.max(np.abs(np.asarray(pairs) - exact)[different] / exact[different]) < 1e-3
    exact = np.sum((x.astype(np.float64) - point.astype(np.float64)) ** 2, axis=1)
    assert np.max(np.abs(np.asarray(distances) - exact) / exact) < 1e-3


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize(("n", "d"), [(48, 3000), (9, thresholds.PRODUCTS[1][1])])
def test_liars_close_together_far_away(n, d, near):
    """Equal rows are at distance 0 and near ones exact, also where products would cancel."""
    x = np.random.default_rng(n).normal(size=(n, d)).astype(np.float32)
    x[[2, 3, 7]] = 1e3 * x[2]
    x[5] = 0.5 * x[2]
    if near:
        x[5] = x[2] * np.float32(1 + 1e-5)
    pairs = np.asarray(compiled(stacked.pairwise_squared_distances)(x))
    exact = exact_pairs(x)
    np.testing.assert_array_equal(pairs == 0, exact == 0)
    assert (exact == 0).sum() == n + 6
    np.testing.assert_allclose(pairs, exact, rtol=1e-4)


def test_several_matrices_at_once_go_by_differences():
    """Under `vmap` a conditional would compute both products and differences."""
    x = np.random.default_rng(0).normal(size=(2, 48, 3000)).astype(np.float32)
    x[0, [2, 3, 7]] = 1e3 * x[0, 2]

    def weighted(x):
        pairs = stacked.pairwise_squared_distances(x)
        return jnp.sum(pairs[0] / (1 + pairs[1])), pairs

    gradient_and_pairs = jax.grad(weighted, has_aux=True)
    gradients, pairs = jax.jit(jax.vmap(gradient_and_pairs))(x)
    for one, gradient, squares in zip(x, gradients, pairs):
        near(squares, exact_pairs(one), rtol=5e-6)
        near(gradient, jax.jit(gradient_and_pairs)(one)[0], rtol=1e-4, atol=1e-6)

    def products(function, x):
        return jax.jit(function).lower(x).as_text().count("dot_general")

    assert products(jax.vmap(stacked.pairwise_squared_distances), x) == 0
    assert products(stacked.pairwise_squared_distances, x[0]) > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_are_summed_in_float32(dtype):
    """3000 ones: sums would stop at 256 in bfloat16, 2048 in float16; squares of 300 overflow."""

    @jax.jit
    def sums(x, large, many):
        all_rows = jnp.ones(len(many), bool)
        return {
            "norms": stacked.squared_norms(x),
            "distances": stacked.squared_distances(x, x[1]),
            "pairs": stacked.pairwise_squared_distances(x),
            "large norms": stacked.squared_norms(large),
            "mean": stacked.mean(many),
            "mean of large": stacked.mean_selected(60_000 * many, all_rows),
        }

    short = jnp.dtype(dtype)
    x, large = np.ones((2, 3000), short), np.full((2, 10), 300, short)
    x[1] = large[1] = 0
    out = sums(x, large, np.ones((600, 2), short))
    values = {name: value.tolist() for name, value in out.items()}
    assert values["norms"] == [3000, 0]
    assert out["norms"].dtype == jnp.float32
    assert values["distances"] == [3000, 0]
    assert values["pairs"][0] == [0, 3000]
    assert values["large norms"] == [900_000, 0]
    assert values["mean"] == [1, 1]
    assert out["mean"].dtype == short
    assert values["mean of large"] == np.full(2, 60_000, short).tolist()


@jax.jit
def norms_distances_pairs(updates, point):
    return stacked.squared_norms(updates), *distances_and_pairs(updates, point)


def test_a_distance_that_is_not_finite_is_infinite():
    largest = float(np.finfo(np.float32).max)
    rows = [[0.0, 1.0], [math.nan, 1.0], [math.inf, 1.0], [-math.inf, 1.0], [largest, 1.0], [2, 1]]
    x = np.array(rows, np.float32)
    inf = math.inf
    norms, distances, pairs = norms_distances_pairs(x, x[0])
    assert norms.tolist() == [1, inf, inf, inf, inf, 5]
    assert distances.tolist() == [0, inf, inf, inf, inf, 4]
    expected = np.full((6, 6), inf)
    expected[np.ix_([0, 5], [0, 5])] = [[0, 4], [4, 0]]
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(pairs, expected)
    # In the last, partial block of a long row, and in one leaf of several.
    long = np.zeros((3, 2 * BLOCK + 5), np.float32)
    long[1, -1] = np.nan
    for tree in (long, {"a": np.ones((3, 2), np.float32), "b": long}):
        norms, _, pairs = norms_distances_pairs(tree, jax.tree.map(lambda leaf: leaf[0], tree))
        assert np.isinf(norms).tolist() == [False, True, False]
        assert np.isinf(pairs).sum() == 4


def test_a_row_of_weight_zero_is_ignored():
    mean_of = compiled(stacked.mean_selected)
    for bad in (math.nan, math.inf, -math.inf):
        x = np.array([[1.0], [bad], [4.0]], np.float32)
        weighted = compiled(stacked.weighted_mean)(x, np.array([2.0, 0.0, 1.0], np.float32))
        assert weighted.tolist() == [2.0], bad
        assert mean_of(x, np.array([True, False, True])).tolist() == [2.5], bad
    x = np.zeros((70, 2), np.float32)  # more rows than one kernel adds up
    x[65] = np.nan
    assert mean_of(x, np.arange(70) != 65).tolist() == [0, 0]
    assert np.isnan(mean_of(x, np.zeros(70, bool))).all()
    assert np.isnan(compiled(stacked.mean)(x)).all()


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [6, BLOCK + 3])
def test_gradients_of_distances(d):
    x, point = normal(8, 5, d), normal(9, d)
    w, v = np.arange(1.0, 6.0), np.arange(25.0).reshape(5, 5)

    def loss(x, p):
        distances = stacked.squared_distances({"w": x}, {"w": p})
        pairs = stacked.pairwise_squared_distances({"w": x})
        return w @ distances + jnp.sum(v * pairs) + w @ stacked.squared_norms(x)

    dx, dp = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, point)
    wide, p = x.astype(np.float64), point.astype(np.float64)
    symmetric = 2 * (v + v.T)
    from_pairs = symmetric.sum(axis=1)[:, None] * wide - symmetric @ wide
    from_norms = 2 * w[:, None] * wide
    from_point = 2 * w[:, None] * (wide - p)
    near(dx, from_pairs + from_norms + from_point, rtol=1e-4, atol=1e-3)
    near(dp, -from_point.sum(axis=0), rtol=1e-4, atol=1e-3)


def test_gradients_of_distances_do_not_cancel():
    """A common offset of 1e3, a spread of 1e-3, and a far outlier that moves every mean."""
    x = (1e3 + 1e-3 * np.random.default_rng(0).normal(size=(7, 50))).astype(np.float32)
    x[2] = 1e12
    gradient = jax.jit(jax.grad(lambda x: stacked.pairwise_squared_distances(x)[4, 5]))(x)
    expected = np.zeros((7, 50))
    expected[4] = 2 * (x[4].astype(np.float64) - x[5])
    expected[5] = -expected[4]
    near(gradient, expected, rtol=1e-5, atol=1e-9)


def sum_of_finite_distances(x, p):
    parts = [
        stacked.squared_distances(x, p),
        stacked.squared_norms(x),
        stacked.pairwise_squared_distances(x).reshape(-1),
    ]
    parts = jnp.concatenate(parts)
    finite = jnp.isfinite(parts)
    return jnp.sum(jnp.where(finite, parts, 0)) + jnp.sum(jnp.sqrt(1 + jnp.where(finite, parts, 0)))


@jax.jit
def backward_and_forward(x, p):
    back = jax.grad(sum_of_finite_distances, argnums=(0, 1))(x, p)
    return *back, jax.jvp(stacked.pairwise_squared_distances, (x,), (jnp.ones_like(x),))[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e38, None])
def test_gradients_with_coinciding_and_bad_rows(bad):
    x = normal(10, 4, 3)
    x[1] = x[0]
    if bad is not None:
        x[3, 1] = bad
    dx, dp, forward = backward_and_forward(x, x[0])
    assert np.isfinite(dx).all()
    assert np.isfinite(dp).all()
    assert (bad is None) or (np.asarray(dx[3]) == 0).all()
    assert np.isfinite(forward).all()


def test_gradients_of_means():
    x = np.array([[1.0, 2.0], [np.nan, 3.0], [5.0, np.inf], [4.0, 4.0]], np.float32)
    weights = np.array([1.0, 0.0, 0.0, 3.0], np.float32)
    gradient = jax.grad(lambda x, w: stacked.weighted_mean(x, w).sum(), argnums=(0, 1))
    dx, dw = jax.jit(gradient)(x, weights)
    np.testing.assert_allclose(dx, weights[:, None] / 4 * np.ones((1, 2)))
    # A row of weight 0 is ignored, also by the derivative in its weight, which used to be NaN.
    assert np.isfinite(dw).all()
    out = (1 * 3 + 3 * 8) / 4  # sums of the rows: 3 and 8
    near(dw, [(3 - out) / 4, -out / 4, -out / 4, (8 - out) / 4], rtol=1e-5)


# --- coordinates over devices --------------------------------------------------------------------


@pytest.mark.parametrize("per_device", [3, BLOCK + 1])
def test_coordinates_sliced_over_devices(per_device):
    n, count = 5, 8
    x = normal(11, n, count * per_device)
    x[4, 2] = np.nan

    def everything(x, point, axis_name=None):
        return (
            stacked.squared_norms(x, axis_name=axis_name),
            stacked.squared_distances(x, point, axis_name=axis_name),
            stacked.pairwise_squared_distances(x, axis_name=axis_name),
        )

    sliced = jax.shard_map(
        functools.partial(everything, axis_name="shard"),
        mesh=mesh_of(shard=count),
        in_specs=(P(None, "shard"), P("shard")),
        out_specs=P(),
    )
    norms, distances, pairs = jax.jit(sliced)(x, x[0])
    whole_norms, whole_distances, whole_pairs = jax.jit(everything)(x, x[0])
    near(norms, whole_norms, rtol=1e-5)
    near(distances, whole_distances, rtol=1e-5)
    near(pairs, whole_pairs, rtol=1e-5)
    assert np.isinf(norms).tolist() == [False] * 4 + [True]
