"""Inputs: updates as a list of workers, of other dtypes, without a worker axis."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks, protocols, stacked
from tests.helpers import close, regression_batch, regression_loss
from tests.rule_cases import CASES

N = 5
PARAMS = {"w": np.ones((3, 2), np.float32), "b": np.zeros(2, np.float32)}


def each_worker():
    rng = np.random.default_rng(0)
    one = functools.partial(jax.tree.map, lambda p: rng.normal(size=p.shape).astype(np.float32))
    return [one(PARAMS) for _ in range(N)]


# --- lists of updates ----------------------------------------------------------------------------


def test_stack_is_the_stacked_form():
    trees = each_worker()
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    out = byzjax.stack(iter(trees))
    assert jax.tree.structure(out) == jax.tree.structure(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, out, expected)
    assert byzjax.median(byzjax.stack([1.0, 2.0, 9.0])) == 2.0


def test_what_stack_refuses():
    with pytest.raises(ValueError, match=r"^stack needs one update for each worker; got none\.$"):
        byzjax.stack([])
    with pytest.raises(
        ValueError,
        match=r"^updates disagree in shape: \['b'\] of worker 0 has \(2,\), that of worker 1 has "
        r"\(3,\)\.$",
    ):
        byzjax.stack([{"b": np.zeros(2)}, {"b": np.zeros(3)}])
    with pytest.raises(ValueError, match=r"^updates disagree in structure: that of worker 0 is"):
        byzjax.stack([{"b": np.zeros(2)}, {"a": np.zeros(2)}])


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_a_list_of_vectors_is_refused(case, kind):
    vectors = kind(jnp.ones(12) for _ in range(N))
    with pytest.raises(TypeError, match=r"of 5 vectors reads as 5 .* byzjax\.stack\(\[\.\.\.\]\)"):
        case(vectors, 1)


def test_lists_that_are_no_mistake():
    layers = [jnp.ones((N, 2, 2)), jnp.ones((N, 2, 2)), jnp.ones((N, 2, 2))]
    assert [leaf.shape for leaf in byzjax.krum(layers, f=1)] == [(2, 2)] * 3
    slope_and_offset = (jnp.ones(N), jnp.ones(N))  # two scalar parameters
    assert [leaf.shape for leaf in byzjax.krum(slope_and_offset, f=1)] == [(), ()]
    with pytest.raises(ValueError, match=r"a list of 5 trees, .* write byzjax\.stack\(updates\)"):
        byzjax.krum(each_worker(), f=1)


# --- dtypes --------------------------------------------------------------------------------------

REAL = r"^\w+: updates must be real floats; the array is "


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_rules_refuse_what_is_no_real_float(case):
    with pytest.raises(TypeError, match=REAL + r"int32: write updates\.astype\("):
        case(jnp.ones((12, 2), jnp.int32), 1)
    with pytest.raises(TypeError, match=REAL + r"complex64: put optax\.contrib\.split_real_and_im"):
        case(jnp.ones((12, 2), jnp.complex64), 1)


@pytest.mark.parametrize(
    "function",
    [
        *[functools.partial(byzjax.nearest_neighbors, f=1), stacked.squared_norms, stacked.mean],
        *[functools.partial(byzjax.bucketing, s=2, key=jax.random.key(0)), stacked.widened],
        *[functools.partial(byzjax.clip_norms, max_norm=1.0), stacked.pairwise_squared_distances],
        *[functools.partial(byzjax.adaptive_clipping, f=1)],
        *[functools.partial(f, byzantine=jnp.arange(12) < 3) for f in (attacks.min_max,)],
        *[functools.partial(f, byzantine=jnp.arange(12) < 3) for f in (attacks.sign_flip,)],
    ],
)
def test_mixings_attacks_and_the_algebra_reject_complex_numbers(function):
    if function is stacked.widened:
        assert function(jnp.ones(2, jnp.complex64)).dtype == jnp.complex64  # of any tree
        return
    with pytest.raises(TypeError, match=REAL + "complex64"):
        function(jnp.ones((12, 2), jnp.complex64))


def test_complex_updates_as_two_real_ones():
    """The workaround in the error message, for a rule whose norms are those of complex numbers."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(2, 12, 3)).astype(np.float32)
    rows[:, 0] = 50.0
    tx = optax.contrib.split_real_and_imaginary(byzjax.aggregate(byzjax.krum, f=3))
    state = tx.init(jnp.zeros(3, jnp.complex64))
    out, _ = tx.update(jnp.asarray(rows[0] + 1j * rows[1]), state)
    expected = byzjax.krum(np.concatenate([rows[0], rows[1]], axis=1), f=3)
    np.testing.assert_array_equal(out, expected[:3] + 1j * expected[3:])


@pytest.mark.parametrize("leaf", ["a word", object()])
def test_what_is_no_array_at_all(leaf):
    with pytest.raises(
        TypeError, match=r"^updates\['b'\] is an? (str|object).*; expected an array"
    ):
        byzjax.median({"w": jnp.ones((3, 2)), "b": leaf})


# --- with params ---------------------------------------------------------------------------------


def verbs():
    yield "aggregate", byzjax.aggregate(byzjax.median)
    yield "mix", byzjax.mix(byzjax.nearest_neighbors, f=1)
    yield "per_worker", byzjax.per_worker(optax.ema(0.9), 3)
    yield "centered_clipping", byzjax.centered_clipping(radius=1.0)
    yield "foolsgold", byzjax.foolsgold(3)
    yield "safeguard", byzjax.safeguard(3, windows=(1, 2), thresholds=(1.0, 1.0))
    limits = {"deviation": 1.0, "diameter": 1.0, "steps": 2}
    yield "concentration_filter", byzjax.concentration_filter(3, **limits)


@pytest.mark.parametrize(("name", "tx"), [pytest.param(*verb, id=verb[0]) for verb in verbs()])
def test_a_worker_axis_that_was_forgotten(name, tx):
    """The gradient of one worker, or of the mean loss: `[3, 3]` looks like three workers."""
    params = {"w": jnp.ones((3, 3))}
    with pytest.raises(
        ValueError,
        match=rf"^{name}: updates\['w'\] has shape \(3, 3\), params\['w'\] \(3, 3\); expected "
        r"\(n, 3, 3\), one row per worker(: | from )(jax\.vmap\(jax\.grad|in a chain)",
    ):
        tx.update(params, tx.init(params), params)


def test_parameters_that_are_frozen_around_the_chain():
    """Then frozen parameters keep a worker axis; after `aggregate` this is fine."""
    labels = {"w": "learns", "b": "rests"}

    def server(tx):
        made = optax.partition({"learns": tx, "rests": optax.set_to_zero()}, labels)
        return made

    rule, batch = byzjax.aggregate(byzjax.median), regression_batch(0, N)
    params = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    around = protocols.parameter_server(
        regression_loss, rule=server(rule), server=optax.sgd(0.1), num_workers=N
    )
    with pytest.raises(
        ValueError,
        match=r"^the step\['b'\] has shape \(5,\), but params\['b'\] \(\); freeze parameters "
        r"behind byzjax\.aggregate, not around it",
    ):
        around.step(around.init(params, jax.random.key(0)), batch, jax.random.key(0))
    behind = protocols.parameter_server(
        regression_loss, rule=rule, server=server(optax.sgd(0.1)), num_workers=N
    )
    state, _ = behind.step(behind.init(params, jax.random.key(0)), batch, jax.random.key(0))
    assert state.params["b"] == 0
    assert (state.params["w"] != 0).all()


# --- values at the ends of the range -------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(5, 3), (70, 3), (100, 3), (130, 3), (5, 2**16)])
def test_means_do_not_overflow(n, d):
    x = jnp.full((n, d), 3e38).at[0].set(2.9e38)
    for rule in (
        byzjax.mean,
        functools.partial(byzjax.trimmed_mean, f=1),
        functools.partial(byzjax.mean_around_median, f=1),
        functools.partial(byzjax.phocas, f=1),
        functools.partial(byzjax.geometric_median_of_means, k=3, smoothing=1.0),
        functools.partial(stacked.mean_selected, selected=jnp.arange(n) > 0),
        functools.partial(stacked.weighted_mean, weights=jnp.arange(n) + 1.0),
        functools.partial(stacked.group_means, group=jnp.arange(n) % 2, count=2),
    ):
        out = np.asarray(rule(x), np.float64)
        assert np.isfinite(out).all(), rule
        assert (out >= 2.89e38).all(), rule
        assert (out <= 3.01e38).all(), rule


@pytest.mark.parametrize("n", [5, 70, 100, 130])
def test_means_of_small_numbers_keep_their_digits(n):
    x = 1e-35 * (1 + jnp.arange(n, dtype=jnp.float32)[:, None] / n)
    exact = np.asarray(x, np.float64)
    close(byzjax.mean(x) / 1e-35, exact.mean(axis=0) / 1e-35, eps=1e-5)
    trimmed = exact[1:-1].mean(axis=0)
    close(byzjax.trimmed_mean(x, f=1) / 1e-35, trimmed / 1e-35, eps=1e-5)
