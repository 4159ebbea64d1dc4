"""Rules that judge workers by groups of coordinates, by clusters of directions, or by layers."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import byzjax
from tests import oracles
from tests.helpers import close, compiled, mesh_of

KEY = jax.random.key(3)
NAN = np.nan


def drawn(n, d, seed=0):
    return np.random.default_rng([n, d, seed]).normal(size=(n, d)).astype(np.float32)


def order_of(d, key=KEY):
    return np.argsort(jax.random.bits(key, (d,)))


# --- GAS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [3, 4, 11, 1000])
def test_the_coordinates_are_divided_at_random(groups):
    """11 coordinates: groups of 4, 4, 3; of 3, 3, 3, 2; and of one each."""
    x, f = drawn(9, 11), 2
    x[4, 5] = NAN
    rule = compiled(byzjax.gradient_splitting, f=f, groups=groups)
    expected = oracles.gradient_splitting(x, f, groups, order=order_of(11))
    close(rule(x, key=KEY), expected, 8)
    close(byzjax.gradient_splitting(x, f=f, key=KEY, groups=groups), expected, 8)
    close(np.concatenate(rule([x[:, :4], x[:, 4:]], key=KEY)), expected, 8)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "bulyan", "geometric_median"])
def test_any_rule_may_judge_the_groups(name):
    x, f = 3 * drawn(12, 10), 2
    x[:f] += 4

    def rule(updates, f):
        options = {"f": f} if byzjax.facts.FACTS[name].takes_f else {}
        return getattr(byzjax, name)(updates, **options)

    out = compiled(byzjax.gradient_splitting, f=f, groups=4, rule=rule)(x, key=KEY)
    loop = getattr(oracles, name)
    close(out, oracles.gradient_splitting(x, f, 4, loop, order_of(10)), 8, eps=1e-5)


def test_a_group_has_coordinates_of_every_device():
    """Two devices hold 6 coordinates each, and divide them by their own keys."""
    x, f, groups = drawn(9, 12), 2, 3
    x[0] *= 30

    def rule(x):
        return byzjax.gradient_splitting(x, f=f, key=KEY, groups=groups, axis_name="shard")

    specs = {"in_specs": P(None, "shard"), "out_specs": P("shard")}
    out = jax.jit(jax.shard_map(rule, mesh=mesh_of(shard=2), **specs))(x)
    own = [6 * i + order_of(6, jax.random.fold_in(KEY, i)) for i in range(2)]
    order = np.concatenate([part[2 * q : 2 * q + 2] for q in range(groups) for part in own])
    close(out, oracles.gradient_splitting(x, f, groups, order=order), 8)


def test_more_than_f_bad_rows_make_gas_nan():
    x = drawn(7, 5)
    x[:3, 1] = NAN
    assert np.isnan(byzjax.gradient_splitting(x, f=2, key=KEY, groups=2)).all()
    assert np.isfinite(byzjax.gradient_splitting(x, f=3, key=KEY, groups=2)).all()


# --- FLAME ---------------------------------------------------------------------------------------


def quiet(x):
    return compiled(byzjax.flame, noise=0.0)(x, key=KEY)


def test_the_noise_of_flame_has_the_unit_of_the_median_norm():
    x = drawn(8, 6)
    normal = np.asarray(jax.random.normal(KEY, (6,)))
    for noise in (0.0, 0.5):
        out = compiled(byzjax.flame, noise=noise)([x[:, :2], x[:, 2:]], key=KEY)
        close(np.concatenate(out), oracles.flame(x, noise=noise, normal=normal), 8)
    with pytest.raises(ValueError, match=r"^noise must be at least 0; got noise=-1\.0\.$"):
        byzjax.flame(x, key=KEY, noise=-1.0)


def test_every_device_draws_its_own_noise():
    x = np.ones((5, 8), np.float32)
    mesh = mesh_of(shard=2)

    def rule(x):
        return byzjax.flame(x, key=KEY, noise=1.0, axis_name="shard")

    specs = {"in_specs": P(None, "shard"), "out_specs": P("shard")}
    out = np.asarray(jax.jit(jax.shard_map(rule, mesh=mesh, **specs))(x))
    assert np.abs(out[:4] - out[4:]).min() > 1e-3


def test_rows_of_zeros_are_at_distance_1_from_all_others():
    """Three rows within 60 degrees are a majority of five, zeros are not among them."""
    x = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.5], [0.5, 1.0], [0.0, 0.0]], np.float32)
    close(quiet(x), oracles.flame(x))
    apart = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.1], [0.0, 0.0]], np.float32)
    close(quiet(apart), oracles.flame(apart))  # at r = 1 all four


def test_without_a_majority_of_good_rows_flame_is_nan():
    x = drawn(6, 3)
    x[:3] = NAN
    assert np.isnan(byzjax.flame(x, key=KEY)).all()
    x[0] = 1.0
    assert np.isfinite(byzjax.flame(x, key=KEY)).all()


def test_nearly_parallel_rows_keep_their_distances():
    """1 - cos is 1e-8 and less, where products of rows of length 1 are equal in float32."""
    x = np.ones((5, 4), np.float32)
    x += 1e-4 * np.array([[1, 0, 3, 0, -3]]).T * np.array([1, 2, -1, -2], np.float32)
    expected = oracles.flame(x)
    close(quiet(x), expected, eps=1e-7)
    assert np.abs(expected - x.mean(axis=0)).max() > 2e-5  # the middle three are selected
    units = x / np.linalg.norm(x, axis=1)[:, None]
    assert np.abs(1 - units @ units.T).max() < 2e-6


def majority(apart):
    module = importlib.import_module("byzjax.rules.flame")
    return np.asarray(jax.jit(module._majority)(jnp.asarray(apart, jnp.float32)))


@pytest.mark.parametrize("seed", range(6))
def test_the_first_majority_of_single_linkage(seed):
    """Also with ties."""
    rng, n = np.random.default_rng(seed), (4, 7, 12)[seed % 3]
    for _ in range(10):
        apart = rng.integers(1, 7 if seed < 3 else 1000, size=(n, n)).astype(float)
        apart = np.minimum(apart, apart.T)
        np.fill_diagonal(apart, 0)
        assert np.flatnonzero(majority(apart)).tolist() == oracles.majority_cluster(apart)


# --- LASA ----------------------------------------------------------------------------------------

SIZES = (6, 1, 10)


def layers_of(x):
    """Three leaves, one of them with two dimensions."""
    first, second, third = np.split(x, np.cumsum(SIZES)[:-1], axis=1)
    return {"a": first, "b": second[:, 0], "c": third.reshape(len(x), 5, 2)}


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("radii", [(1.0, 1.0), (2.0, 0.5)])
def test_every_layer_has_a_selection_of_its_own(sparsity, radii):
    x = drawn(10, sum(SIZES))
    x[0, :6] *= 20  # in the first layer alone
    x[1, 7:] = np.abs(x[1, 7:])
    x[2, 3] = NAN
    hyper = dict(zip(("norm_radius", "sign_radius"), radii), sparsity=sparsity)
    out = compiled(byzjax.lasa, **hyper)(layers_of(x))
    expected = oracles.lasa(x, layers=SIZES, **hyper)
    close(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(out)]), expected, 8)
    one = oracles.lasa(x, **hyper)
    assert np.abs(one - expected).max() > 1e-3
    close(compiled(byzjax.lasa, **hyper)(x), one, 8)


def test_equal_magnitudes_at_the_limit_are_kept_and_columns_of_zeros_do_not_count():
    x = np.array([[3.0, -2.0, 2.0, 1.0, 0.0, 0.0]] * 4, np.float32)
    x[1:] += 0.01 * drawn(3, 6) * (x[1:] != 0)
    expected = oracles.lasa(x, sparsity=0.5)  # two of four
    close(byzjax.lasa(x, sparsity=0.5), expected)
    assert expected[3] == 0
    close(byzjax.lasa(x[:1], sparsity=0.5), [3, -2, 2, 0, 0, 0])  # alone, it is not typical


def test_rows_that_are_all_typical_or_none_are_averaged():
    x = np.repeat(drawn(1, 5), 4, axis=0)
    close(byzjax.lasa(x, sparsity=0.0), x[0])
    bad = np.full((3, 2), NAN, np.float32)
    np.testing.assert_array_equal(byzjax.lasa(bad), [0, 0])
    np.testing.assert_array_equal(byzjax.lasa(np.zeros((3, 2), np.float32)), [0, 0])


def test_hyperparameters_of_lasa():
    x = drawn(5, 3)
    for wrong in (1.0, -0.1):
        with pytest.raises(
            ValueError, match=rf"^sparsity must be in \[0, 1\); got sparsity={wrong}"
        ):
            byzjax.lasa(x, sparsity=wrong)
    with pytest.raises(ValueError, match=r"^sign_radius must be positive; got sign_radius=0\.0\.$"):
        byzjax.lasa(x, sign_radius=0.0)
