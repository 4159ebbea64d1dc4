"""The contract of protocols: what one server does is what the chain does."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks, protocols

N, F, BATCH, DIM = 7, 2, 4, 3
BYZANTINE = jnp.arange(N) < F
KEY = jax.random.key(0)
PARAMS = {"w": jnp.zeros(DIM), "b": jnp.zeros(())}


def loss_fn(params, batch, key=None):
    del key
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


def noisy_loss_fn(params, batch, key=None):
    return jnp.mean(params["w"] * jax.random.normal(key, (DIM,))) + 0 * params["b"]


def batch_of(seed, n=N):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, BATCH, DIM)).astype(np.float32)
    noise = rng.normal(size=(n, BATCH)).astype(np.float32)
    return {
        "workers": {
            "x": jnp.asarray(x),
            "y": jnp.asarray(x @ np.arange(1.0, 4.0, dtype=np.float32) + 0.1 * noise),
        }
    }


def stages(byzantine=BYZANTINE, key=KEY):
    return {
        "send": byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=N),
        "attack": byzjax.attack(attacks.gaussian, byzantine, sigma=3.0, key=key),
        "rule": byzjax.aggregate(byzjax.aksel, f=F),
        "server": optax.sgd(0.1, momentum=0.5),
    }


def test_equals_the_chain():
    chosen = stages()
    server = protocols.parameter_server(loss_fn, **chosen)
    tx = optax.chain(*[chosen[name] for name in ("send", "attack", "rule", "server")])
    step = jax.jit(server.step)

    @jax.jit
    def step_of_chain(params, state, batch):
        grads = jax.vmap(jax.grad(loss_fn), in_axes=(None, 0))(params, batch["workers"])
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, params, tx_state = server.init(PARAMS, KEY), PARAMS, tx.init(PARAMS)
    for k in range(6):
        state, _ = step(state, batch_of(k), jax.random.fold_in(KEY, k))
        params, tx_state = step_of_chain(params, tx_state, batch_of(k))
        chex.assert_trees_all_close(state.params, params, rtol=1e-6, atol=1e-6)
    assert not np.allclose(state.params["w"], 0, atol=0.1)


def test_no_liar_and_the_mean_is_sgd_on_all_data():
    server = protocols.parameter_server(
        loss_fn, rule=byzjax.aggregate(byzjax.mean), server=optax.sgd(0.1)
    )
    sgd, params = optax.sgd(0.1), PARAMS
    state, sgd_state = server.init(PARAMS, KEY), sgd.init(PARAMS)
    for k in range(5):
        batch = batch_of(k)
        state, _ = jax.jit(server.step)(state, batch, KEY)
        union = jax.tree.map(lambda x: x.reshape(N * BATCH, *x.shape[2:]), batch["workers"])
        updates, sgd_state = sgd.update(jax.grad(loss_fn)(params, union), sgd_state, params)
        params = optax.apply_updates(params, updates)
        chex.assert_trees_all_close(state.params, params, rtol=1e-5, atol=1e-6)


def test_info():
    chosen = stages()
    server = protocols.parameter_server(loss_fn, **chosen)
    state, info = jax.jit(server.step)(server.init(PARAMS, KEY), batch_of(0), KEY)
    grads = jax.vmap(jax.grad(loss_fn), in_axes=(None, 0))(PARAMS, batch_of(0)["workers"])
    assert info._fields == ("honest", "sent", "aggregate", "senders")
    assert info.senders.tolist() == list(range(N))
    chex.assert_trees_all_close(info.honest, jax.tree.map(lambda g: 0.1 * g, grads), rtol=1e-5)
    for honest, sent in zip(jax.tree.leaves(info.honest), jax.tree.leaves(info.sent)):
        np.testing.assert_array_equal(sent[F:], honest[F:])
        assert (sent[:F] != honest[:F]).all()
    chex.assert_trees_all_close(info.aggregate, byzjax.aksel(info.sent, f=F), rtol=1e-5)
    chex.assert_trees_all_close(
        state.params, jax.tree.map(lambda a: -0.1 * a, info.aggregate), rtol=1e-5
    )
    (model,) = server.models(state)["w"]
    np.testing.assert_array_equal(model, state.params["w"])


def test_info_with_a_mixing_that_changes_n():
    def halves(updates):
        return jax.tree.map(lambda x: x[::2], updates)

    server = protocols.parameter_server(
        loss_fn,
        mix=byzjax.mix(halves),
        rule=byzjax.aggregate(byzjax.median),
        server=optax.sgd(0.1),
    )
    _, info = server.step(server.init(PARAMS, KEY), batch_of(0), KEY)
    assert info.sent["w"].shape == (N, DIM)
    chex.assert_trees_all_close(info.aggregate, byzjax.median(halves(info.sent)), rtol=1e-6)


def test_a_trusted_batch_becomes_the_extra_argument_trusted():
    def distance_to(updates, trusted, *, f):
        del f
        distances = byzjax.stacked.squared_distances(updates, trusted)
        return byzjax.stacked.take(updates, jnp.argmin(distances))

    server = protocols.parameter_server(
        loss_fn, rule=byzjax.aggregate(distance_to, f=F), server=optax.sgd(0.1)
    )
    batch = batch_of(0)
    batch["trusted"] = jax.tree.map(lambda x: x[4], batch["workers"])
    _, info = jax.jit(server.step)(server.init(PARAMS, KEY), batch, KEY)
    chex.assert_trees_all_close(
        info.aggregate, jax.tree.map(lambda g: g[4], info.sent), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(TypeError, match=r"^aggregate: distance_to needs trusted; "):
        server.step(server.init(PARAMS, KEY), batch_of(0), KEY)


def test_workers_draw_different_keys():
    server = protocols.parameter_server(
        noisy_loss_fn, rule=byzjax.aggregate(byzjax.mean), server=optax.sgd(0.1)
    )
    state = server.init(PARAMS, KEY)
    _, info = server.step(state, batch_of(0), jax.random.fold_in(KEY, 0))
    _, other = server.step(state, batch_of(0), jax.random.fold_in(KEY, 1))
    assert len(np.unique(np.concatenate([info.sent["w"], other.sent["w"]]))) == 2 * N * DIM
    expected = jax.grad(noisy_loss_fn)(
        PARAMS, None, key=jax.random.fold_in(jax.random.fold_in(KEY, 0), 3)
    )
    np.testing.assert_allclose(info.sent["w"][3], expected["w"], rtol=1e-6)


@pytest.mark.parametrize("at_once", [1, 3])
def test_fewer_workers_at_once_are_the_same(at_once):
    all_at_once = protocols.parameter_server(noisy_loss_fn, **stages())
    few = protocols.parameter_server(noisy_loss_fn, **stages(), workers_at_once=at_once)
    state, _ = jax.jit(all_at_once.step)(all_at_once.init(PARAMS, KEY), batch_of(0), KEY)
    found, _ = jax.jit(few.step)(few.init(PARAMS, KEY), batch_of(0), KEY)
    chex.assert_trees_all_close(found.params, state.params, rtol=1e-6, atol=1e-6)


def test_workers_at_once_is_a_number():
    with pytest.raises(
        ValueError, match=r"^workers_at_once must be at least 1; got workers_at_onc"
    ):
        protocols.parameter_server(loss_fn, **stages(), workers_at_once=0)


def test_a_sweep_over_masks_and_keys_in_one_scan():
    """No liar, one, and as many as are tolerated: one program, mapped over masks."""
    steps = 120
    batches = jax.tree.map(lambda *xs: jnp.stack(xs), *[batch_of(k) for k in range(steps)])

    @jax.jit
    @jax.vmap
    def run(byzantine, key):
        server = protocols.parameter_server(loss_fn, **stages(byzantine, key))

        def step(state, batch):
            state, _ = server.step(state, batch, key)
            return state, loss_fn(state.params, jax.tree.map(lambda x: x[0], batch["workers"]))

        state, losses = jax.lax.scan(step, server.init(PARAMS, key), batches)
        return server.models(state), losses

    masks = jnp.arange(N) < jnp.array([0, 1, F])[:, None]
    models, losses = run(masks, jax.random.split(KEY, 3))
    assert models["w"].shape == (3, 1, DIM)
    assert losses.shape == (3, steps)
    np.testing.assert_allclose(models["w"][:, 0], np.tile([1.0, 2, 3], (3, 1)), atol=0.3)
    server = protocols.parameter_server(loss_fn, **stages(masks[2], jax.random.split(KEY, 3)[2]))
    state = server.init(PARAMS, KEY)
    for k in range(3):
        state, _ = server.step(state, batch_of(k), KEY)
        loss = loss_fn(state.params, jax.tree.map(lambda x: x[0], batch_of(k)["workers"]))
        np.testing.assert_allclose(loss, losses[2, k], rtol=1e-4)


def test_the_mean_falls_where_aksel_stands():
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
        return float(loss_fn(state.params, jax.tree.map(lambda x: x[0], batch_of(99)["workers"])))

    start = float(loss_fn(PARAMS, jax.tree.map(lambda x: x[0], batch_of(99)["workers"])))
    assert final_loss(byzjax.aggregate(byzjax.aksel, f=F)) < 0.1 * start
    assert not final_loss(byzjax.aggregate(byzjax.mean)) < start
