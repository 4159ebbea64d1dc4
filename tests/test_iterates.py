"""Polyak averaging against means of the models in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import protocols
from tests.helpers import close, regression_batch, regression_loss

STEPS, DIM = 12, 3


def trained(start=0, dtype=jnp.float32, steps=STEPS):
    """The models after each step of a random walk, and the average after each."""
    tx = optax.chain(optax.sgd(0.1), byzjax.polyak_averaging(start=start))
    params = {"w": jnp.ones(DIM, dtype), "b": jnp.zeros((), dtype)}
    rng = np.random.default_rng(0)
    gradients = {"w": rng.normal(size=(steps, DIM)), "b": rng.normal(size=steps)}
    gradients = jax.tree.map(lambda g: jnp.asarray(g, dtype), gradients)

    def step(carry, gradient):
        params, state = carry
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, optax.tree_utils.tree_get(state, "average"))

    return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), gradients)[1])()


@pytest.mark.smoke
@pytest.mark.parametrize("start", [0, 1, 5, STEPS + 3])
def test_the_average_is_the_mean_of_the_models_from_the_start_on(start):
    models, averages = trained(start)
    for name, values in models.items():
        values = np.asarray(values, np.float64)
        for t in range(STEPS):
            counted = values[min(start, t) : t + 1]
            np.testing.assert_allclose(
                averages[name][t], counted.mean(axis=0), rtol=2e-6, atol=1e-7
            )
            if t <= start:
                np.testing.assert_array_equal(averages[name][t], np.float32(values[t]))


def test_sums_are_wide():
    """An average in bfloat16 would stop after 256 models."""
    models, averages = trained(dtype=jnp.bfloat16, steps=600)
    values = np.asarray(models["w"], np.float64)
    assert averages["w"].dtype == jnp.float32
    np.testing.assert_allclose(averages["w"][-1], values.mean(axis=0), rtol=1e-5, atol=1e-5)


def test_updates_pass_unchanged_and_the_state_owns_its_buffers():
    tx, params = byzjax.polyak_averaging(), {"w": jnp.ones(DIM)}
    updates = {"w": jnp.array([0.1, jnp.nan, -0.0])}

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        out, state = tx.update(updates, state, params)
        return optax.apply_updates(params, out), state, out

    state = tx.init(params)
    types = jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape), state)
    for _ in range(2):
        params, state, out = step(params, state)
        assert np.asarray(out["w"]).tobytes() == np.asarray(updates["w"]).tobytes()
        assert jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape), state) == types


def test_parts_of_a_model_and_many_runs():
    params = {"w": jnp.ones(DIM), "b": jnp.zeros(())}
    only_w = {"w": True, "b": False}
    tx = optax.masked(byzjax.polyak_averaging(), only_w)
    _, state = tx.update(params, tx.init(params), params)
    assert len(jax.tree.leaves(state)) == 2  # the count, and w
    plain = byzjax.polyak_averaging()
    runs = jax.tree.map(lambda leaf: jnp.stack([leaf, 3 * leaf]), params)
    state = jax.vmap(plain.init)(runs)
    _, state = jax.vmap(plain.update)(runs, state, runs)
    close(state.average["w"], np.array([[2.0] * DIM, [6.0] * DIM]))


def test_as_the_server_of_a_protocol():
    server = protocols.parameter_server(
        regression_loss,
        rule=byzjax.aggregate(byzjax.median),
        server=optax.chain(optax.sgd(0.1), byzjax.polyak_averaging()),
    )
    key, params = jax.random.key(0), {"w": jnp.zeros(DIM), "b": jnp.zeros(())}
    state, models = server.init(params, key), []
    step = jax.jit(server.step)
    for k in range(4):
        state, _ = step(state, regression_batch(k, 5), jax.random.fold_in(key, k))
        models.append(np.asarray(state.params["w"], np.float64))
    average = optax.tree_utils.tree_get(state, "average")
    np.testing.assert_allclose(average["w"], np.mean(models, axis=0), rtol=1e-5)


def test_averaging_beats_the_last_model_on_a_noisy_quadratic():
    """Polyak and Juditsky: the variance of the mean of the noise, 1/t, at any step size."""
    tx = optax.chain(optax.sgd(0.3), byzjax.polyak_averaging(start=100))

    def run(key):
        def step(carry, k):
            params, state = carry
            gradient = params + jax.random.normal(k)
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        begun = jnp.zeros(()), tx.init(jnp.zeros(()))
        (last, state), _ = jax.lax.scan(step, begun, jax.random.split(key, 1100))
        return last, optax.tree_utils.tree_get(state, "average")

    last, average = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 400))
    assert np.var(last) == pytest.approx(0.3 / 1.7, rel=0.3)  # gamma / (2 - gamma)
    assert np.var(average) == pytest.approx(1 / 1000, rel=0.3)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda tx, p: tx.update(p, tx.init(p)), ValueError, "write tx.update.updates, state, par"),
        (
            lambda tx, p: tx.update({"w": jnp.zeros((5, DIM))}, tx.init(p), p),
            ValueError,
            r"shape of params, \(3,\); got \(5, 3\): put it after byzjax.aggregate",
        ),
        (lambda tx, p: byzjax.polyak_averaging(start=-1), ValueError, "start must be at least 0"),
        (lambda tx, p: byzjax.polyak_averaging(start=2.0), TypeError, "start must be a Python int"),
    ],
)
def test_errors(call, error, said):
    with pytest.raises(error, match=said):
        call(byzjax.polyak_averaging(), {"w": jnp.zeros(DIM)})
