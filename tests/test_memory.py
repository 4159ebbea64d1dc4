"""Aggregations with memory, over sequences of steps, against the papers' loops."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import byzjax
from byzjax.facts import FACTS
from tests import oracles
from tests.helpers import mesh_of

N, D, STEPS = 7, 6, 6
WINDOWS = {"windows": (2, 4), "thresholds": (4.0, 6.0)}
LIMITS = {"deviation": 4.0, "diameter": 1.0, "steps": STEPS}


def safeguard(**options):
    return byzjax.safeguard(N, **WINDOWS, **options), functools.partial(
        oracles.safeguard, **WINDOWS, **options
    )


def concentration(**options):
    def oracle(steps, params):
        limits = {k: v for k, v in LIMITS.items() if k != "steps"}
        return oracles.concentration_filter(steps, params, **limits, **options)

    return byzjax.concentration_filter(N, **LIMITS, **options), oracle


CASES = {
    "centered_clipping": (
        byzjax.centered_clipping(radius=1.5),
        functools.partial(oracles.centered_clipping, radius=1.5),
    ),
    "centered_clipping-3": (
        byzjax.centered_clipping(radius=1.5, iterations=3),
        functools.partial(oracles.centered_clipping, radius=1.5, iterations=3),
    ),
    "foolsgold": (byzjax.foolsgold(N), oracles.foolsgold),
    "foolsgold-sum": (
        byzjax.foolsgold(N, confidence=2.0, divide=False),
        functools.partial(oracles.foolsgold, confidence=2.0, divide=False),
    ),
    "concentration_filter": concentration(),
    "concentration_filter-good": concentration(divide_by="good", delta=0.5),
    "safeguard": safeguard(),
    "safeguard-first": safeguard(filter_first=True, slack=2.0, reset=False),
}
over_cases = pytest.mark.parametrize("case", CASES)
# By default one form of each memory; the loops cover the options.
over_one_of_each = pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * ("-" in c)) for c in CASES]
)


def sequence(rng, lie=None, liars=2, n=N, steps=STEPS):
    """Honest rows around a drifting mean; the last ones are Byzantine from the third step on."""
    x = rng.normal(size=(steps, n, D)) + np.linspace(0, 1, steps)[:, None, None]
    if lie is not None:
        x[2:, n - liars :] = lie
    return np.asarray(x, np.float32)


@functools.partial(jax.jit, static_argnums=0)
def run(tx, x, params):
    """All states and outputs, from one scan that is compiled once per shape."""

    def step(state, inputs):
        updates, w = inputs
        out, state = tx.update(updates, state, w)
        return state, (state, out)

    state = tx.init(jax.tree.map(lambda w: w[0], params))
    return jax.lax.scan(step, state, (x, params))[1]


LIES = {
    "none": None,
    "far": 50.0,
    "sybils": np.linspace(-2, 2, D),
    "nan": np.nan,
    "-inf": -np.inf,
    "one nan": np.where(np.arange(D) == 2, np.nan, 0.5),
    "overflow": 1e30,
    "large": 1e12,
}


@pytest.mark.parametrize(
    "lie", [pytest.param(lie, marks=[pytest.mark.smoke] * (lie == "far")) for lie in LIES]
)
@over_cases
def test_equals_the_papers_loop(case, lie):
    tx, oracle = CASES[case]
    rng = np.random.default_rng(1)
    x = sequence(rng, LIES[lie])
    params = np.asarray(np.cumsum(rng.normal(size=(STEPS, D)), axis=0) / 5, np.float32)
    with_params = {"params": params} if "concentration" in case else {}
    expected = np.array(oracle(x, **with_params))
    _, out = run(tx, x, params)
    # Safeguard's mean is taken before any row is dropped, so it includes the first 1e12.
    scale = max(8, np.abs(expected[np.isfinite(expected)]).max())
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=4e-6 * scale)
    assert np.isfinite(out).all()


@over_one_of_each
def test_a_tree_gives_what_its_vector_gives(case):
    tx, _ = CASES[case]
    x = sequence(np.random.default_rng(2), 50.0)
    params = np.asarray(np.random.default_rng(3).normal(size=(STEPS, D)), np.float32)
    _, whole = run(tx, x, params)

    def tree(a):
        return {
            "w": a[..., :4].reshape(*a.shape[:-1], 2, 2),
            "b": a[..., 4:5],
            "c": a[..., 5],
        }

    states, out = run(tx, tree(x), tree(params))
    joined = np.concatenate(
        [np.reshape(out[name], (STEPS, -1)) for name in ("w", "b", "c")], axis=1
    )
    np.testing.assert_allclose(joined, whole, rtol=1e-5, atol=1e-5)
    fresh = jax.eval_shape(tx.init, tree(params[0]))
    assert jax.tree.structure(states) == jax.tree.structure(fresh)
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(fresh)):
        assert (a.shape, a.dtype) == ((STEPS, *b.shape), b.dtype)


@over_one_of_each
def test_runs_in_a_chain_and_over_seeds(case):
    tx, _ = CASES[case]
    chain = optax.chain(
        byzjax.per_worker(optax.ema(0.5, debias=False), N), tx, optax.sgd(0.1, momentum=0.9)
    )
    x = np.stack([sequence(np.random.default_rng(s), 50.0) for s in (4, 5)])

    def train(x):
        def step(carry, updates):
            params, state = carry
            change, state = chain.update(updates, state, params)
            return (optax.apply_updates(params, change), state), None

        params = jnp.zeros(D)
        return jax.lax.scan(step, (params, chain.init(params)), x)[0][0]

    both = np.asarray(jax.jit(jax.vmap(train))(x))
    assert np.isfinite(both).all()
    np.testing.assert_allclose(both[0], jax.jit(train)(x[0]), rtol=1e-4, atol=1e-5)


OPTIONS = {
    "centered_clipping": {"radius": 1.5},
    "foolsgold": {"num_workers": N},
    "concentration_filter": LIMITS | {"num_workers": N},
    "safeguard": WINDOWS | {"num_workers": N},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_coordinates_sliced_over_devices(name):
    make = functools.partial(getattr(byzjax, name), **OPTIONS[name])
    x, params = sequence(np.random.default_rng(6), 50.0), np.zeros((STEPS, D), np.float32)
    x[3, 0, 5] = np.nan  # only one device sees it
    _, whole = run(CASES[name][0], x, params)
    tx = make(axis_name="s")

    def last(x, params):
        state = tx.init(params[0])
        for updates, w in zip(x, params):
            out, state = tx.update(updates, state, w)
        return out

    specs = {"in_specs": (P(None, None, "s"), P(None, "s")), "out_specs": P("s")}
    sliced = jax.jit(jax.shard_map(last, mesh=mesh_of(s=2), **specs))
    np.testing.assert_allclose(sliced(x, params), whole[-1], rtol=1e-5, atol=1e-5)


def test_every_memory_has_a_case():
    names = {name for name, facts in FACTS.items() if facts.kind == "memory"}
    assert names == {case.split("-")[0] for case in CASES}


def test_memory_is_kept_in_the_dtype_of_sums():
    state = byzjax.foolsgold(N).init(np.zeros(D, jnp.bfloat16))
    assert state.history.dtype == jnp.float32
    tx = byzjax.centered_clipping(radius=1.0)
    params, ones = np.zeros(D, jnp.bfloat16), np.ones((N, D), jnp.bfloat16)
    out, state = jax.eval_shape(lambda x, w: tx.update(x, tx.init(w)), ones, params)
    assert (out.dtype, state.center.dtype) == (jnp.bfloat16, jnp.float32)


def test_safeguard_forgives_with_the_next_window():
    """Dropped in step 2 of a window of 4, back in the next window, unless configured otherwise."""
    x, params = np.zeros((6, N, D), np.float32), np.zeros((6, D), np.float32)
    x[1, 0] = 50.0
    for reset, back in ((True, True), (False, False)):
        tx = byzjax.safeguard(N, windows=(2, 4), thresholds=(1.0, 1.0), reset=reset)
        states, _ = run(tx, x, params)
        assert states.good[:, 0].tolist() == [True, False, False, False, back, back]
        assert states.good[:, 1:].all()


@pytest.mark.parametrize(("windows", "thresholds"), [((2, 8), (1.0, 9.0)), ((1, 2), (9.0, 1.0))])
def test_safeguard_sums_within_its_windows(windows, thresholds):
    """A row of 0.7 n adds 0.7 to the sums of n good workers. Windows: steps 0 and 1, 2 and 3."""
    x, params = np.zeros((4, N, 1), np.float32), np.zeros((4, 1), np.float32)
    x[1:, 0] = 0.7 * N
    tx = byzjax.safeguard(N, windows=windows, thresholds=thresholds, reset=False)
    states, _ = run(tx, x, params)
    assert states.good[:, 0].tolist() == [True, True, True, False]
    assert states.good[:, 1:].all()


def test_noise_of_safeguard():
    tx = functools.partial(
        *(byzjax.safeguard, 2),
        **{"windows": (1, 1), "thresholds": (1.0, 1.0), "noise": 0.1, "key": jax.random.key(0)},
    )
    zeros = np.zeros((2, 10_000), np.float32)

    def two_steps(zeros, axis_name=None):
        noisy = tx(axis_name=axis_name)
        first, state = noisy.update(zeros, noisy.init(zeros[0]))
        return first, noisy.update(zeros, state)[0]

    noise = np.array(jax.jit(two_steps)(zeros))
    assert (np.abs(noise.std(axis=1) - 0.1) < 0.005).all()
    assert abs(np.corrcoef(noise)[0, 1]) < 0.05
    sliced = jax.shard_map(
        functools.partial(two_steps, axis_name="s"),
        **{"mesh": mesh_of(s=2), "in_specs": P(None, "s"), "out_specs": P("s")},
    )
    halves = np.array(jax.jit(sliced)(zeros)).reshape(4, 5000)  # by step and device
    assert (np.abs(halves.std(axis=1) - 0.1) < 0.005).all()
    assert np.abs(np.corrcoef(halves) - np.eye(4)).max() < 0.06


def test_foolsgold_gives_sybils_no_weight():
    rng = np.random.default_rng(7)
    lie, x = rng.normal(size=200), rng.normal(size=(3, N, 200)).astype(np.float32)
    x[:, 4:] = lie
    _, out = run(byzjax.foolsgold(N), x, np.zeros((3, 200), np.float32))
    np.testing.assert_allclose(out, x[:, :4].mean(axis=1), atol=0.2)
    assert (np.abs(np.asarray(out) @ lie) / np.linalg.norm(lie) ** 2 < 0.1).all()


def test_concentration_filter_never_takes_a_liar_back():
    tx = byzjax.concentration_filter(3, deviation=1.0, diameter=1.0, steps=9, divide_by="good")
    x = np.float32([[0, 0, 9], [0, 2, 1], [0, 2, 1], [0, 2, 1]])[..., None]
    states, out = run(tx, x, np.zeros((4, 1), np.float32))
    np.testing.assert_allclose(out[1:], [[1.0]] * 3)
    assert states.good.tolist() == [[True, True, False]] * 4


def test_concentration_filter_drops_by_distance_and_by_products():
    """V = 1: a row at distance 3 from the median is close enough, one at 4.5 is not.

    With D = 0.1, T_A is 3.576. The parameters are at distance 1 in steps 2 and 3, so A of the row
    at 3 is 0, 3, 6.
    """
    tx = byzjax.concentration_filter(5, deviation=1.0, diameter=0.1, steps=9, divide_by="good")
    x = np.tile(np.float32([0, 0, 0, 3, 4.5])[:, None], (3, 1, 1))
    states, out = run(tx, x, np.float32([[0], [1], [1]]))
    assert 0.1 * 4 * math.sqrt(9 * math.log(16 * 5 * 9 / 0.1)) == pytest.approx(3.576, abs=1e-3)
    np.testing.assert_array_equal(states.products[:, 3], [0, 3, 6])
    assert states.good[:, 3].tolist() == [True, True, False]
    assert states.good[:, 4].tolist() == [False] * 3
    np.testing.assert_allclose(out[:, 0], [0.75, 0.75, 0])


def test_errors():
    params, three = np.zeros(D, np.float32), np.ones((3, D), np.float32)
    for name in ("foolsgold", "concentration_filter", "safeguard"):
        tx = CASES[name][0]
        with pytest.raises(
            ValueError, match=rf"^{name} was made for 7 workers; got updates of 3: name them, "
        ):
            tx.update(three, tx.init(params), params)
    tx = CASES["concentration_filter"][0]
    with pytest.raises(ValueError, match=r"^concentration_filter needs params; write tx\.update\("):
        tx.update(np.ones((N, D), np.float32), tx.init(params))
    with pytest.raises(ValueError, match=r"^windows must be \(short, long\), .* got \(4, 2\)\.$"):
        byzjax.safeguard(N, windows=(4, 2), thresholds=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"^safeguard needs key=\.\.\. where noise is above 0\.$"):
        byzjax.safeguard(N, **WINDOWS, noise=0.1)
    with pytest.raises(ValueError, match=r"^divide_by must be one of workers, good; got 'n'\.$"):
        byzjax.concentration_filter(N, **LIMITS, divide_by="n")
    with pytest.raises(ValueError, match=r"^delta must be between 0 and 1; got delta=1\.$"):
        byzjax.concentration_filter(N, **LIMITS, delta=1)
    with pytest.raises(ValueError, match=r"^radius must be positive; got radius=0\.$"):
        byzjax.centered_clipping(radius=0)
    with pytest.raises(ValueError, match=r"^confidence must be positive; got confidence=-1\.$"):
        byzjax.foolsgold(N, confidence=-1)
    with pytest.raises(TypeError, match=r"^num_workers must be a Python int; got float"):
        byzjax.foolsgold(7.0)
