"""Mixings: the papers' loops, laws, bad rows, derivatives, any mixing before any rule."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import byzjax
from byzjax._numerics.float64 import float64
from tests import oracles
from tests.helpers import compiled, mesh_of
from tests.rule_cases import CASES

SLOW = pytest.mark.slow
KEY = jax.random.key(5)


@functools.cache
def order_of(n):
    """The order in which `bucketing` takes the workers with KEY."""
    return np.asarray(jax.random.permutation(KEY, n))


@functools.cache
def noise_of(d):
    """The noise of `weak_dp` with KEY and a sigma of 0.5."""
    return 0.5 * np.asarray(jax.random.normal(KEY, (d,)), np.float64)


# name -> (mixing, oracle of a matrix in float64)
MIXINGS = {
    "nearest_neighbors": (
        functools.partial(byzjax.nearest_neighbors, f=3),
        lambda x: oracles.nearest_neighbors(x, 3),
    ),
    "bucketing": (
        functools.partial(byzjax.bucketing, s=2, key=KEY),
        lambda x: oracles.bucketing(x, 2, order_of(len(x))),
    ),
    "clip_norms": (
        functools.partial(byzjax.clip_norms, max_norm=4.0),
        lambda x: oracles.clip_norms(x, 4.0),
    ),
    "adaptive_clipping": (
        functools.partial(byzjax.adaptive_clipping, f=3),
        lambda x: oracles.adaptive_clipping(x, 3),
    ),
    "weak_dp": (
        functools.partial(byzjax.weak_dp, max_norm=4.0, sigma=0.5, key=KEY),
        lambda x: oracles.weak_dp(x, 4.0, noise_of(x.shape[1])),
    ),
}
over_mixings = pytest.mark.parametrize("name", MIXINGS)


def mixed(name, x):
    """The mixing of this name, compiled once per shape."""
    return jax.tree.map(np.asarray, jax.jit(MIXINGS[name][0])(x))


def rows(n=11, d=12, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32) * 2


@over_mixings
@pytest.mark.parametrize(
    "n", [7, 8, pytest.param(11, marks=pytest.mark.smoke), pytest.param(25, marks=SLOW)]
)
def test_equals_the_papers_loop(name, n):
    _, oracle = MIXINGS[name]
    for seed in range(4):
        x = rows(n, seed=seed)
        np.testing.assert_allclose(
            mixed(name, x), oracle(x), rtol=2e-6, atol=2e-6, err_msg=f"seed={seed}"
        )


@over_mixings
@pytest.mark.parametrize("value", [math.nan, math.inf, -3.4e38, 1e30])
def test_bad_rows_stay_where_they_are(name, value):
    """A bad row affects only the rows that are made of it."""
    _, oracle = MIXINGS[name]
    for places in ([0, 1, 2], [8, 9, 10], [1, 5, 7]):
        x = rows()
        x[places] = value
        out = mixed(name, x)
        if name == "bucketing":
            touched = {int(np.flatnonzero(order_of(11) == p)[0]) // 2 for p in places}
        elif name == "nearest_neighbors":
            touched = set(places)
        else:
            touched = set()
            alone = noise_of(12) if name == "weak_dp" else 0
            np.testing.assert_allclose(out[places] - alone, np.zeros((3, 12)), atol=1e-6)
        clean = [k for k in range(len(out)) if k not in touched]
        assert np.isfinite(out[clean]).all()
        np.testing.assert_allclose(out[clean], oracle(x)[clean], rtol=2e-6, atol=2e-6)


@over_mixings
def test_trees_dtypes_and_sliced_coordinates(name):
    mixing, _ = MIXINGS[name]
    x = rows(11, 24)
    tree = {"a": x[:, :8], "b": x[:, 8:].reshape(11, 8, 2)}
    short = {dtype: x.astype(jnp.dtype(dtype)) for dtype in ("bfloat16", "float16")}

    @jax.jit
    def in_every_form(x, tree, short):
        widened = {dtype: rows.astype(jnp.float32) for dtype, rows in short.items()}
        return (
            mixing(x),
            mixing(tree),
            *(
                {dtype: mixing(rows) for dtype, rows in of_each.items()}
                for of_each in (short, widened)
            ),
        )

    flat, whole, of_short, of_widened = in_every_form(x, tree, short)
    joined = np.concatenate([whole["a"], np.reshape(whole["b"], (len(flat), 16))], axis=1)
    np.testing.assert_allclose(joined, flat, rtol=2e-6, atol=2e-6)
    sliced = jax.shard_map(
        functools.partial(mixing, axis_name="shard"),
        mesh=mesh_of(shard=8),
        in_specs=P(None, "shard"),
        out_specs=P(None, "shard"),
    )
    if name != "weak_dp":  # each device draws its own noise: see below
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6),
            jax.jit(sliced)(tree),
            whole,
        )
    for dtype, out in of_short.items():
        assert out.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(out, np.float32),
            of_widened[dtype],
            rtol=2e-2,
            atol=2e-2,
            err_msg=dtype,
        )
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(mixing, tree)


@over_mixings
def test_derivatives(name):
    """Equal to finite differences; finite where rows coincide or are bad."""
    mixing, oracle = MIXINGS[name]
    x, rng, step = rows(), np.random.default_rng(1), 1e-6
    dx = rng.normal(size=x.shape)

    @jax.jit
    def forward_and_backward(x, dx):
        _, forward = jax.jvp(mixing, (x,), (dx,))
        out, vjp = jax.vjp(mixing, x)
        # Outputs made of a bad row are not compared.
        return forward, vjp(jnp.where(jnp.isfinite(out), 1.0, 0.0))[0]

    short = dx.astype(np.float32)
    forward, _ = forward_and_backward(x, short)
    wide = x.astype(np.float64)
    differences = (oracle(wide + step * dx) - oracle(wide - step * dx)) / (2 * step)
    np.testing.assert_allclose(forward, differences, rtol=2e-5, atol=2e-5)
    bad = x.copy()
    bad[:3] = [[np.nan], [np.inf], [3e38]]
    for words, matrix in {
        "zeros": np.zeros_like(x),
        "ones": np.ones_like(x),
        "bad rows": bad,
    }.items():
        _, back = forward_and_backward(matrix, short)
        assert np.isfinite(back).all(), words


def test_known_values():
    x = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
    np.testing.assert_allclose(
        compiled(byzjax.nearest_neighbors, f=1)(x),
        [[2.5, 3.5, 4.5], [2.5, 3.5, 4.5], [5.5, 6.5, 7.5]],
    )
    clipped = np.asarray(compiled(byzjax.clip_norms, max_norm=2.0)(x))
    np.testing.assert_allclose(clipped[0], [0.53452248, 1.06904497, 1.60356745], rtol=1e-6)
    clipped = np.asarray(compiled(byzjax.adaptive_clipping, f=1)(x))
    np.testing.assert_allclose(clipped[2], [4.41004009, 5.04004582, 5.67005155], rtol=1e-6)


def test_buckets():
    x = np.arange(5, dtype=np.float32)[:, None]

    @jax.jit
    def buckets(x, key, other_key):
        one_each, two_each, all_in_one = (byzjax.bucketing(x, s=s, key=key) for s in (1, 2, 5))
        return one_each, two_each, all_in_one, byzjax.bucketing(x, s=2, key=other_key)

    outs = buckets(x, KEY, jax.random.key(1))
    one_each, out, all_in_one, other = (np.asarray(part) for part in outs)
    assert out.shape == (3, 1)
    order = order_of(5)
    np.testing.assert_allclose(out[:, 0], [order[:2].mean(), order[2:4].mean(), order[4]])
    np.testing.assert_array_equal(all_in_one, [[2.0]])
    assert sorted(np.ravel(one_each)) == [0, 1, 2, 3, 4]
    assert (other != out).any()


def test_weak_dp_is_noise_at_the_server():
    """Through a rule that shifts, the aggregate is that of the clipped rows plus the noise."""
    x = rows()

    @jax.jit
    def both(x):
        noisy = byzjax.weak_dp(x, max_norm=2.0, sigma=0.5, key=KEY)
        clipped = byzjax.clip_norms(x, max_norm=2.0)
        rules = (byzjax.mean, byzjax.median, functools.partial(byzjax.krum, f=3))
        return [(rule(noisy), rule(clipped)) for rule in rules]

    for noisy, clipped in both(x):
        np.testing.assert_allclose(noisy - clipped, noise_of(12), rtol=2e-5, atol=2e-5)
    without_noise = byzjax.weak_dp(x, max_norm=2.0, sigma=0.0, key=KEY)
    np.testing.assert_array_equal(without_noise, byzjax.clip_norms(x, max_norm=2.0))


def test_weak_dp_of_sliced_coordinates():
    """Norms are those of whole rows, and no two slices have the same noise."""
    x = rows(11, 4000)
    sliced = jax.shard_map(
        functools.partial(byzjax.weak_dp, max_norm=4.0, sigma=0.5, key=KEY, axis_name="shard"),
        mesh=mesh_of(shard=8),
        in_specs=P(None, "shard"),
        out_specs=P(None, "shard"),
    )
    noise = np.asarray(jax.jit(sliced)(x)) - oracles.clip_norms(x, 4.0)
    np.testing.assert_allclose(noise, np.broadcast_to(noise[0], noise.shape), atol=1e-5)
    assert noise[0].std() == pytest.approx(0.5, rel=0.1)
    between = np.corrcoef(noise[0].reshape(8, 500))
    assert np.abs(between - np.eye(8)).max() < 5 / np.sqrt(500)


def test_a_rule_behind_bucketing_counts_the_buckets():
    x = mixed("bucketing", np.ones((12, 3), np.float32))
    with pytest.raises(ValueError, match=r"^krum needs n >= 2f \+ 3; got n=6, f=2\.$"):
        byzjax.krum(x, f=2)


@pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in CASES])
def test_buckets_in_front_of_any_rule(case):
    """Only shapes here, values below; all other mixings preserve the shape."""
    mixing, _ = MIXINGS["bucketing"]
    out = jax.eval_shape(
        lambda x: case(mixing(x), 1), jax.ShapeDtypeStruct((25, 6), jnp.zeros(()).dtype)
    )
    assert out.shape == (6,)


@pytest.mark.parametrize("name", [name for name in MIXINGS if name != "bucketing"])
def test_other_mixings_preserve_structure_shapes_and_dtypes(name):
    """So that a rule behind one of them sees nothing that it does not see alone."""
    mixing, _ = MIXINGS[name]
    rows = {"w": jnp.zeros((25, 2, 3)), "b": jnp.zeros((25,), jnp.bfloat16)}
    out = jax.eval_shape(mixing, rows)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), out) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), rows
    )


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *itertools.product(MIXINGS, [byzjax.krum, byzjax.trimmed_mean]),
        *(
            pytest.param(name, byzjax.covariance_filter, marks=() if name == "clip_norms" else SLOW)
            for name in MIXINGS
        ),
    ],
)
def test_a_chain_is_a_composition(name, rule):
    mixing, _ = MIXINGS[name]
    keywords = {k: v for k, v in mixing.keywords.items() if k != "key"}
    takes_key = "key" in mixing.keywords
    tx = optax.chain(
        byzjax.mix(mixing.func, **keywords, **({"key": KEY} if takes_key else {})),
        byzjax.aggregate(rule, f=3),
    )

    @jax.jit
    def both(x):
        out, _ = tx.update(x, tx.init(jnp.zeros(12)))
        key = {"key": jax.random.split(KEY)[1]} if takes_key else {}
        return out, rule(mixing.func(x, **keywords, **key), f=3)

    out, composed = both(rows(25))
    np.testing.assert_allclose(out, composed, rtol=1e-6, atol=1e-6)


def test_errors():
    x = jnp.ones((6, 2))
    with pytest.raises(ValueError, match=r"^nearest_neighbors needs n >= 2f \+ 1; got n=6, f=3\.$"):
        byzjax.nearest_neighbors(x, f=3)
    with pytest.raises(ValueError, match=r"^adaptive_clipping needs n >= 2f \+ 1; got n=6, f=3\.$"):
        byzjax.adaptive_clipping(x, f=3)
    with pytest.raises(ValueError, match=r"^bucketing needs s <= n; got s=7, n=6\.$"):
        byzjax.bucketing(x, s=7, key=KEY)
    with pytest.raises(ValueError, match=r"^s must be at least 1; got s=0\.$"):
        byzjax.bucketing(x, s=0, key=KEY)
    with pytest.raises(ValueError, match=r"^max_norm must be positive; got max_norm=0\.0\.$"):
        byzjax.clip_norms(x, max_norm=0.0)
    with pytest.raises(ValueError, match=r"^max_norm must be positive; got max_norm=-1\.0\.$"):
        byzjax.weak_dp(x, max_norm=-1.0, sigma=1.0, key=KEY)
    with pytest.raises(ValueError, match=r"^sigma must be at least 0; got sigma=-0\.5\.$"):
        byzjax.weak_dp(x, max_norm=1.0, sigma=-0.5, key=KEY)
    with pytest.raises(TypeError, match=r"^s must be a Python int; got float"):
        byzjax.bucketing(x, s=2.0, key=KEY)


def test_means_of_groups_in_float64():
    with float64():
        rows = jnp.arange(9.0).reshape(9, 1) / 7
        means = byzjax.stacked.group_means(rows, jnp.arange(9) // 3, 3)
        assert means.dtype == jnp.float64
        expected = np.arange(9.0).reshape(3, 3, 1).mean(axis=1) / 7
        np.testing.assert_allclose(means, expected, rtol=1e-14)
        buckets = byzjax.bucketing(rows, s=3, key=KEY)
        np.testing.assert_allclose(buckets.mean(), np.arange(9.0).mean() / 7, rtol=1e-14)
