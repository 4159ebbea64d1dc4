"""The contract of protocols: one server computes what the chain computes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks, protocols
from tests.helpers import compiled, first, regression_batch
from tests.helpers import regression_loss as loss_fn

N, F, BATCH, DIM = 7, 2, 4, 3
BYZANTINE = np.arange(N) < F
KEY = jax.random.key(0)
PARAMS = {"w": np.zeros(DIM, np.float32), "b": np.zeros((), np.float32)}
batch_of = functools.partial(regression_batch, n=N)


def noisy_loss_fn(params, batch, key=None):
    return jnp.mean(params["w"] * jax.random.normal(key, (DIM,))) + 0 * params["b"]


def stages(byzantine=BYZANTINE, key=KEY):
    return {
        "send": byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=N),
        "attack": byzjax.attack(attacks.gaussian, byzantine, sigma=3.0, key=key),
        "rule": byzjax.aggregate(byzjax.aksel, f=F),
        "server": optax.sgd(0.1, momentum=0.5),
    }


@functools.cache
def step_of(loss):
    """A step of one server, compiled for all masks and keys of its attack."""

    @jax.jit
    def step(state, batch, key, byzantine, key_of_attack):
        server = protocols.parameter_server(loss, **stages(byzantine, key_of_attack))
        return server.step(state, batch, key)

    return step


@jax.jit
def gradients_of(params, batch):
    return jax.vmap(jax.grad(loss_fn), in_axes=(None, 0))(params, batch["workers"])


def test_equals_the_chain():
    chosen = stages()
    server, step = protocols.parameter_server(loss_fn, **chosen), step_of(loss_fn)
    tx = optax.chain(*[chosen[name] for name in ("send", "attack", "rule", "server")])

    @jax.jit
    def step_of_chain(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, params, tx_state = server.init(PARAMS, KEY), PARAMS, tx.init(PARAMS)
    for k in range(6):
        state, _ = step(state, batch_of(k), jax.random.fold_in(KEY, k), BYZANTINE, KEY)
        params, tx_state = step_of_chain(params, tx_state, gradients_of(params, batch_of(k)))
        chex.assert_trees_all_close(state.params, params, rtol=1e-6, atol=1e-6)
    assert not np.allclose(state.params["w"], 0, atol=0.1)


@pytest.mark.smoke
def test_no_liar_and_the_mean_is_sgd_on_all_data():
    server = protocols.parameter_server(
        loss_fn, rule=byzjax.aggregate(byzjax.mean), server=optax.sgd(0.1)
    )
    state, step = server.init(PARAMS, KEY), jax.jit(server.step)
    w, b = np.zeros(DIM), 0.0
    for k in range(5):
        batch = batch_of(k)
        state, _ = step(state, batch, KEY)
        x, y = (np.float64(batch["workers"][name]).reshape(N * BATCH, -1) for name in "xy")
        error = 2 * (x @ w + b - y[:, 0]) / len(x)
        w, b = w - 0.1 * x.T @ error, b - 0.1 * error.sum()
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.params["b"], b, rtol=1e-5, atol=1e-6)


def test_info():
    server = protocols.parameter_server(loss_fn, **stages())
    before = server.init(PARAMS, KEY)
    state, info = jax.device_get(step_of(loss_fn)(before, batch_of(0), KEY, BYZANTINE, KEY))
    grads = jax.device_get(gradients_of(PARAMS, batch_of(0)))
    assert info._fields == ("honest", "sent", "aggregate", "senders")
    assert info.senders.tolist() == list(range(N))
    chex.assert_trees_all_close(
        info.honest, jax.tree.map(lambda g: np.float32(0.1) * g, grads), rtol=1e-5
    )
    for honest, sent in zip(jax.tree.leaves(info.honest), jax.tree.leaves(info.sent)):
        np.testing.assert_array_equal(sent[F:], honest[F:])
        assert (sent[:F] != honest[:F]).all()
    chex.assert_trees_all_close(info.aggregate, compiled(byzjax.aksel, f=F)(info.sent), rtol=1e-5)
    chex.assert_trees_all_close(
        state.params, jax.tree.map(lambda a: np.float32(-0.1) * a, info.aggregate), rtol=1e-5
    )
    (model,) = server.models(state)["w"]
    np.testing.assert_array_equal(model, state.params["w"])


def test_what_is_sent_is_made_once():
    """Although both the rule and `Info` read it; the cosines are the attackers'."""
    n, dim = 15, 300

    def lie(updates, byzantine):
        return jnp.where(byzantine[:, None], jnp.cos(updates), updates)

    server = protocols.parameter_server(
        lambda params, batch, key=None: jnp.mean((batch["x"] @ params - batch["y"]) ** 2),
        attack=byzjax.attack(lie, np.arange(n) < 3),
        rule=byzjax.aggregate(byzjax.comparative_elimination, f=3),
        server=optax.sgd(0.1),
    )

    def step(state, batch):
        state, info = server.step(state, batch, KEY)
        return state, [jnp.linalg.norm(rows) for rows in (info.sent, info.honest, info.aggregate)]

    batch = {"workers": {"x": np.ones((n, 4, dim), "f4"), "y": np.ones((n, 4), "f4")}}
    state = server.init(np.zeros(dim, np.float32), KEY)
    text = jax.jit(step).lower(state, batch).compile().as_text()
    assert text.count(" cosine(") == 1


def test_info_with_a_mixing_that_changes_n():
    def halves(updates):
        return jax.tree.map(lambda x: x[::2], updates)

    server = protocols.parameter_server(
        loss_fn,
        mix=byzjax.mix(halves),
        rule=byzjax.aggregate(byzjax.median),
        server=optax.sgd(0.1),
    )
    step = jax.jit(server.step)
    _, info = jax.device_get(step(server.init(PARAMS, KEY), batch_of(0), KEY))
    assert info.sent["w"].shape == (N, DIM)
    expected = jax.tree.map(lambda rows: np.median(rows, axis=0), halves(info.sent))
    chex.assert_trees_all_close(info.aggregate, expected, rtol=1e-6)


def test_a_trusted_batch_becomes_the_extra_argument_trusted():
    def distance_to(updates, trusted, *, f):
        del f
        distances = byzjax.stacked.squared_distances(updates, trusted)
        return byzjax.stacked.take(updates, jnp.argmin(distances))

    server = protocols.parameter_server(
        loss_fn, rule=byzjax.aggregate(distance_to, f=F), server=optax.sgd(0.1)
    )
    batch = batch_of(0)
    batch["trusted"] = jax.tree.map(lambda x: np.asarray(x)[4], batch["workers"])
    step = jax.jit(server.step)
    _, info = jax.device_get(step(server.init(PARAMS, KEY), batch, KEY))
    chex.assert_trees_all_close(
        info.aggregate, jax.tree.map(lambda g: g[4], info.sent), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(TypeError, match=r"^aggregate: distance_to needs trusted; "):
        step(server.init(PARAMS, KEY), batch_of(0), KEY)


def test_workers_draw_different_keys():
    server = protocols.parameter_server(
        noisy_loss_fn, rule=byzjax.aggregate(byzjax.mean), server=optax.sgd(0.1)
    )
    state, step = server.init(PARAMS, KEY), jax.jit(server.step)
    _, info = step(state, batch_of(0), jax.random.fold_in(KEY, 0))
    _, other = step(state, batch_of(0), jax.random.fold_in(KEY, 1))
    assert len(np.unique(np.concatenate([info.sent["w"], other.sent["w"]]))) == 2 * N * DIM
    key = jax.random.fold_in(jax.random.fold_in(KEY, 0), 3)
    noise = np.asarray(jax.random.normal(key, (DIM,)))  # the loss is a third of it
    np.testing.assert_allclose(np.asarray(info.sent["w"])[3], noise / DIM, rtol=1e-6)


@pytest.mark.parametrize("at_once", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_fewer_workers_at_once_are_the_same(at_once):
    chunked = protocols.parameter_server(noisy_loss_fn, **stages(), workers_at_once=at_once)
    before = chunked.init(PARAMS, KEY)
    state, _ = step_of(noisy_loss_fn)(before, batch_of(0), KEY, BYZANTINE, KEY)
    after, _ = jax.jit(chunked.step)(before, batch_of(0), KEY)
    chex.assert_trees_all_close(after.params, state.params, rtol=1e-6, atol=1e-6)


def test_workers_at_once_is_a_number():
    with pytest.raises(
        ValueError, match=r"^workers_at_once must be at least 1; got workers_at_onc"
    ):
        protocols.parameter_server(loss_fn, **stages(), workers_at_once=0)


def test_a_sweep_over_masks_and_keys_in_one_scan():
    """No attacker, one, and as many as are tolerated: one program, mapped over masks."""
    steps = 120
    batches = jax.tree.map(lambda *xs: np.stack(xs), *[batch_of(k) for k in range(steps)])

    @jax.jit
    @jax.vmap
    def run(byzantine, key):
        server = protocols.parameter_server(loss_fn, **stages(byzantine, key))

        def step(state, batch):
            state, _ = server.step(state, batch, key)
            return state, loss_fn(state.params, first(batch["workers"]))

        state, losses = jax.lax.scan(step, server.init(PARAMS, key), batches)
        return server.models(state), losses

    masks, keys = np.arange(N) < np.array([0, 1, F])[:, None], jax.random.split(KEY, 3)
    models, losses = jax.device_get(run(masks, keys))
    assert models["w"].shape == (3, 1, DIM)
    assert losses.shape == (3, steps)
    np.testing.assert_allclose(models["w"][:, 0], np.tile([1.0, 2, 3], (3, 1)), atol=0.3)
    state = protocols.parameter_server(loss_fn, **stages(masks[2], keys[2])).init(PARAMS, KEY)
    for k in range(3):
        state, _ = step_of(loss_fn)(state, batch_of(k), KEY, masks[2], keys[2])
        loss = loss_of_first(state.params, batch_of(k))
        np.testing.assert_allclose(loss, losses[2, k], rtol=1e-4)


@jax.jit
def loss_of_first(params, batch):
    return loss_fn(params, first(batch["workers"]))


def test_aksel_converges_where_the_mean_fails():
    def final_loss(rule):
        server = protocols.parameter_server(
            loss_fn,
            attack=byzjax.attack(attacks.inner_product_manipulation, BYZANTINE, epsilon=20.0),
            rule=rule,
            server=optax.sgd(0.05),
        )
        state = server.init(PARAMS, KEY)
        step = jax.jit(server.step)
        for k in range(30):
            state, _ = step(state, batch_of(k), KEY)
        return loss_of_first(state.params, batch_of(99))

    start = loss_of_first(PARAMS, batch_of(99))
    assert final_loss(byzjax.aggregate(byzjax.aksel, f=F)) < 0.1 * start
    assert not final_loss(byzjax.aggregate(byzjax.mean)) < start
