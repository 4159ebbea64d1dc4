"""Aggregations with memory, over sequences of steps, against the papers' loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import byzjax
from byzjax.facts import FACTS
from tests import oracles

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


def sequence(rng, lie=None, liars=2, n=N, steps=STEPS):
    """Honest rows about a common mean that drifts; the last ones lie from the third step on."""
    x = rng.normal(size=(steps, n, D)) + np.linspace(0, 1, steps)[:, None, None]
    if lie is not None:
        x[2:, n - liars :] = lie
    return np.asarray(x, np.float32)


@functools.partial(jax.jit, static_argnums=0)
def run(tx, x, params):
    """All outputs, from one scan, which is compiled once for each shape."""

    def step(state, inputs):
        updates, w = inputs
        out, state = tx.update(updates, state, w)
        return state, out

    state = tx.init(jax.tree.map(lambda w: w[0], params))
    return jax.lax.scan(step, state, (x, params))


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


@pytest.mark.parametrize("lie", LIES)
@over_cases
def test_equals_the_papers_loop(case, lie):
    tx, oracle = CASES[case]
    rng = np.random.default_rng(1)
    x = sequence(rng, LIES[lie])
    params = np.asarray(np.cumsum(rng.normal(size=(STEPS, D)), axis=0) / 5, np.float32)
    with_params = {"params": params} if "concentration" in case else {}
    expected = np.array(oracle(x, **with_params))
    _, out = run(tx, jnp.asarray(x), jnp.asarray(params))
    # Safeguard's mean is taken before anybody is dropped: a first lie of 1e12 is in it.
    scale = max(8, np.abs(expected[np.isfinite(expected)]).max())
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=4e-6 * scale)
    assert np.isfinite(out).all()


@over_cases
def test_a_tree_gives_what_its_vector_gives(case):
    tx, _ = CASES[case]
    x = sequence(np.random.default_rng(2), 50.0)
    params = np.asarray(np.random.default_rng(3).normal(size=(STEPS, D)), np.float32)
    _, flat = run(tx, jnp.asarray(x), jnp.asarray(params))

    def tree(a):
        return {
            "w": a[..., :4].reshape(*a.shape[:-1], 2, 2),
            "b": a[..., 4:5],
            "c": a[..., 5].astype(jnp.float32),
        }

    state, out = run(
        tx, jax.tree.map(jnp.asarray, tree(x)), jax.tree.map(jnp.asarray, tree(params))
    )
    joined = np.concatenate(
        [np.reshape(out[name], (STEPS, -1)) for name in ("w", "b", "c")], axis=1
    )
    np.testing.assert_allclose(joined, flat, rtol=1e-5, atol=1e-5)
    fresh = tx.init(jax.tree.map(lambda a: jnp.asarray(a[0]), tree(params)))
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(fresh)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


@over_cases
def test_runs_in_a_chain_and_over_seeds(case):
    tx, _ = CASES[case]
    chain = optax.chain(
        byzjax.per_worker(optax.ema(0.5, debias=False), N), tx, optax.sgd(0.1, momentum=0.9)
    )
    x = jnp.asarray(np.stack([sequence(np.random.default_rng(s), 50.0) for s in (4, 5)]))

    def train(x):
        params = jnp.zeros(D)
        state = chain.init(params)
        for updates in x:
            step, state = chain.update(updates, state, params)
            params = optax.apply_updates(params, step)
        return params

    both = jax.jit(jax.vmap(train))(x)
    assert np.isfinite(both).all()
    np.testing.assert_allclose(both[0], train(x[0]), rtol=1e-4, atol=1e-5)


@over_cases
def test_coordinates_sliced_over_devices(case):
    name = case.split("-")[0]
    options = {
        "centered_clipping": {"radius": 1.5},
        "foolsgold": {},
        "concentration_filter": LIMITS,
        "safeguard": WINDOWS,
    }[name]
    make = getattr(byzjax, name)
    sized = (lambda **k: make(**k)) if name == "centered_clipping" else functools.partial(make, N)
    x = sequence(np.random.default_rng(6), 50.0)
    x[3, 0, 5] = np.nan  # seen by one device only
    x, params = jnp.asarray(x), jnp.zeros((STEPS, D))
    _, whole = run(sized(**options), x, params)
    mesh = jax.make_mesh((2,), ("s",), devices=jax.devices("cpu")[:2], axis_types=(AxisType.Auto,))
    tx = sized(**options, axis_name="s")

    def last(x, params):
        state = tx.init(params[0])
        for updates, w in zip(x, params):
            out, state = tx.update(updates, state, w)
        return out

    sliced = jax.jit(
        jax.shard_map(
            last, mesh=mesh, in_specs=(P(None, None, "s"), P(None, "s")), out_specs=P("s")
        )
    )
    np.testing.assert_allclose(sliced(x, params), whole[-1], rtol=1e-5, atol=1e-5)


def test_every_memory_has_a_case():
    names = {name for name, facts in FACTS.items() if facts.kind == "memory"}
    assert names == {case.split("-")[0] for case in CASES}


def test_memory_is_kept_in_the_dtype_of_sums():
    state = byzjax.foolsgold(N).init(jnp.zeros(D, jnp.bfloat16))
    assert state.history.dtype == jnp.float32
    tx = byzjax.centered_clipping(radius=1.0)
    params = jnp.zeros(D, jnp.bfloat16)
    out, state = tx.update(jnp.ones((N, D), jnp.bfloat16), tx.init(params))
    assert (out.dtype, state.center.dtype) == (jnp.bfloat16, jnp.bfloat16)


def test_safeguard_forgives_with_the_next_window():
    """Dropped in step 2 of a window of 4, back when the next one begins, unless told otherwise."""
    x = np.zeros((6, N, D), np.float32)
    x[1, 0] = 50.0
    for reset, back in ((True, True), (False, False)):
        tx = byzjax.safeguard(N, windows=(2, 4), thresholds=(1.0, 1.0), reset=reset)
        state, good = tx.init(jnp.zeros(D)), []
        for updates in x:
            _, state = tx.update(jnp.asarray(updates), state)
            good.append(bool(state.good[0]))
        assert good == [True, False, False, False, back, back]


def test_noise_of_safeguard():
    tx = byzjax.safeguard(
        2, windows=(1, 1), thresholds=(1.0, 1.0), noise=0.1, key=jax.random.key(0)
    )
    state = tx.init(jnp.zeros(10_000))
    first, state = tx.update(jnp.zeros((2, 10_000)), state)
    second, _ = tx.update(jnp.zeros((2, 10_000)), state)
    assert 0.095 < np.std(first) < 0.105
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_foolsgold_gives_sybils_no_weight():
    rng = np.random.default_rng(7)
    tx = byzjax.foolsgold(N)
    state, lie = tx.init(jnp.zeros(200)), rng.normal(size=200)
    for _ in range(3):
        x = rng.normal(size=(N, 200))
        x[4:] = lie
        out, state = tx.update(jnp.asarray(x, jnp.float32), state)
        np.testing.assert_allclose(out, x[:4].mean(axis=0), atol=0.2)
        assert abs(out @ lie) / np.linalg.norm(lie) ** 2 < 0.1


def test_concentration_filter_never_takes_a_liar_back():
    tx = byzjax.concentration_filter(3, deviation=1.0, diameter=1.0, steps=9, divide_by="good")
    params = jnp.zeros(1)
    state = tx.init(params)
    _, state = tx.update(jnp.array([[0.0], [0.0], [9.0]]), state, params)
    for _ in range(3):
        out, state = tx.update(jnp.array([[0.0], [2.0], [1.0]]), state, params)
        np.testing.assert_allclose(out, [1.0])
    assert state.good.tolist() == [True, True, False]


def test_errors():
    params, three = jnp.zeros(D), jnp.ones((3, D))
    for name in ("foolsgold", "concentration_filter", "safeguard"):
        tx = CASES[name][0]
        with pytest.raises(
            ValueError, match=rf"^{name} was made for 7 workers; got updates of 3\.$"
        ):
            tx.update(three, tx.init(params), params)
    tx = CASES["concentration_filter"][0]
    with pytest.raises(ValueError, match=r"^concentration_filter needs params; write tx\.update\("):
        tx.update(jnp.ones((N, D)), tx.init(params))
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
    with pytest.raises(TypeError, match=r"^num_workers must be a Python int; got float\.$"):
        byzjax.foolsgold(7.0)
