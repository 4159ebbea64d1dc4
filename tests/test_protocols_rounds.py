"""The parameter server with local steps, and with a subset of the workers in each round."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks, protocols
from tests import oracles
from tests.test_protocols import BYZANTINE, KEY, PARAMS, N, batch_of, loss_fn, noisy_loss_fn


def server_of(loss=loss_fn, **more):
    options = {"rule": byzjax.aggregate(byzjax.mean), "server": optax.sgd(0.1)} | more
    return protocols.parameter_server(loss, num_workers=N, **options)


def gradient(params, x, y):
    """The gradient of the squared error, by hand."""
    error = x @ params["w"] + params["b"] - y
    return {"w": 2 * x.T @ error / len(y), "b": 2 * error.mean()}


@pytest.mark.smoke
def test_local_steps_are_federated_averaging():
    """A step of size gamma k along the average update ends at the mean of the workers' models."""
    rate, k = 0.05, 4
    batch = batch_of(0)
    models = []
    for x, y in zip(np.float64(batch["workers"]["x"]), np.float64(batch["workers"]["y"])):
        model = {"w": np.zeros(3), "b": 0.0}
        for j in range(k):
            grads = gradient(model, x[j : j + 1], y[j : j + 1])
            model = {name: model[name] - rate * grads[name] for name in model}
        models.append(model)
    server = server_of(local_steps=k, local_rate=rate, server=optax.sgd(rate * k))
    state, info = jax.jit(server.step)(server.init(PARAMS, KEY), batch, KEY)
    for name in PARAMS:
        expected = np.mean([model[name] for model in models], axis=0)
        np.testing.assert_allclose(state.params[name], expected, rtol=1e-4, atol=1e-6)
        sent = np.stack([-model[name] / (rate * k) for model in models])
        np.testing.assert_allclose(info.honest[name], sent, rtol=1e-4, atol=1e-5)


def local_minimisers(batch):
    """The least-squares solution of each worker, [N, 4]: w and b."""
    rows = zip(np.float64(batch["workers"]["x"]), np.float64(batch["workers"]["y"]))
    return np.array([np.linalg.lstsq(np.c_[x, np.ones(len(x))], y)[0] for x, y in rows])


def samples(seed, size=24):
    """Batches on which a few hundred local steps converge."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, size, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5]) + 0.7 + rng.normal(size=(N, size))
    return {"workers": {"x": x, "y": y.astype(np.float32)}}


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_one_round_is_the_rule_of_the_local_minimisers(name):
    """Yin et al., Algorithm 2: also with Byzantine workers, who send any model."""
    rule, f, rate, k = getattr(byzjax, name), 2, 0.2, 300
    options = {} if name == "median" else {"f": f}
    server = server_of(
        local_steps=k,
        local_rate=rate,
        whole_batch=True,
        rule=byzjax.aggregate(rule, **options),
        server=optax.sgd(rate * k),
        attack=byzjax.attack(attacks.sign_flip, BYZANTINE),
    )
    start = {"w": np.full(3, 0.3, np.float32), "b": np.float32(-1.0)}
    state, _ = jax.jit(server.step)(server.init(start, KEY), samples(0), KEY)
    models, begun = local_minimisers(samples(0)), np.array([0.3, 0.3, 0.3, -1.0])
    sent = np.where(np.asarray(BYZANTINE)[:, None], 2 * begun - models, models)
    expected = getattr(oracles, name)(sent, f)
    result = np.append(state.params["w"], state.params["b"])
    np.testing.assert_allclose(result, expected, atol=2e-4)
    truth = np.array([1.0, -2.0, 0.5, 0.7])
    assert np.linalg.norm(result - truth) < 0.5 < np.linalg.norm(sent.mean(axis=0) - truth)


def test_local_steps_draw_other_keys():
    server = server_of(noisy_loss_fn, local_steps=2, local_rate=0.5)
    _, info = jax.jit(server.step)(server.init(PARAMS, KEY), batch_of(0), KEY)
    keys = [jax.random.fold_in(jax.random.fold_in(KEY, j), 3) for j in range(2)]
    noise = [np.asarray(jax.random.normal(key, (3,))) for key in keys]
    grads = np.mean(noise, axis=0) / 3  # the loss is a mean of three products
    np.testing.assert_allclose(np.asarray(info.sent["w"])[3], grads, rtol=1e-5)


@pytest.mark.parametrize("at_once", [None, 2])
def test_some_workers_in_each_round(at_once):
    send = byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=N)
    server = server_of(send=send, per_round=3, workers_at_once=at_once)
    state, step = server.init(PARAMS, KEY), jax.jit(server.step)
    chosen = jax.jit(lambda key: jax.random.permutation(jax.random.fold_in(key, N + 1), N))
    momenta, seen = np.zeros((N, 3)), set()
    for k in range(8):
        batch, key = batch_of(k), jax.random.fold_in(KEY, k)
        params = jax.tree.map(np.float64, state.params)
        rows = zip(np.float64(batch["workers"]["x"]), np.float64(batch["workers"]["y"]))
        gradients = np.array([gradient(params, x, y)["w"] for x, y in rows])
        state, info = step(state, batch, key)
        who = np.asarray(info.senders)
        assert len(set(who)) == 3
        assert (np.diff(who) > 0).all()
        # Not with the key of a trusted loss, which has index N.
        assert who.tolist() == sorted(np.asarray(chosen(key))[:3].tolist())
        seen.add(tuple(who.tolist()))
        momenta[who] = 0.9 * momenta[who] + 0.1 * gradients[who]
        np.testing.assert_allclose(info.sent["w"], momenta[who], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(info.aggregate["w"], momenta[who].mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.stages[0].ema["w"], momenta, rtol=1e-4, atol=1e-5)
    assert len(seen) > 4


def test_liars_are_those_who_take_part():
    attack = byzjax.attack(attacks.sign_flip, BYZANTINE)
    server = server_of(attack=attack, per_round=4)
    step = jax.jit(server.step)
    lied = 0
    for k in range(6):
        _, info = step(server.init(PARAMS, KEY), batch_of(k), jax.random.fold_in(KEY, k))
        signs = np.where(BYZANTINE[np.asarray(info.senders)], -1, 1)[:, None]
        np.testing.assert_array_equal(info.sent["w"], signs * np.asarray(info.honest["w"]))
        lied += (signs < 0).sum()
    assert lied


def test_who_does_not_take_part_keeps_its_key():
    """States of all kinds: a typed key, a counter, a momentum."""
    noise = optax.add_noise(0.1, 0.55, jax.random.key(3))
    send = byzjax.per_worker(optax.chain(noise, optax.trace(0.9)), num_workers=N)
    server = server_of(send=send, per_round=2)
    before = server.init(PARAMS, KEY)
    after, info = jax.jit(server.step)(before, batch_of(0), KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    took_part = np.isin(np.arange(N), info.senders)
    old, new = (s.stages[0][0] for s in (before, after))
    changed = np.asarray(jax.random.key_data(old.rng_key) != jax.random.key_data(new.rng_key))
    np.testing.assert_array_equal(changed.any(axis=1), took_part)
    np.testing.assert_array_equal(np.asarray(new.count), took_part.astype(int))


def test_rounds_over_masks_and_keys():
    @jax.jit
    @jax.vmap
    def run(byzantine, key):
        server = server_of(
            attack=byzjax.attack(attacks.gaussian, byzantine, sigma=50.0, key=key),
            rule=byzjax.aggregate(byzjax.median),
            server=optax.sgd(0.05),
            per_round=5,
            local_steps=2,
            local_rate=0.05,
        )

        def step(state, k):
            state, _ = server.step(state, batch, jax.random.fold_in(key, k))
            return state, None

        return jax.lax.scan(step, server.init(PARAMS, key), jnp.arange(100))[0].params

    batch = batch_of(0)
    masks = np.arange(N) < np.array([0, 2])[:, None]
    models = run(masks, jax.random.split(KEY, 2))
    np.testing.assert_allclose(models["w"], np.tile([1.0, 2, 3], (2, 1)), atol=0.5)


def test_traffic():
    assert server_of().traffic(PARAMS) == (2 * N, 2 * N * 4)
    assert server_of(per_round=3).traffic(PARAMS) == (6, 24)
    unknown = protocols.parameter_server(
        loss_fn, rule=byzjax.aggregate(byzjax.mean), server=optax.sgd(0.1)
    )
    with pytest.raises(ValueError, match=r"^traffic needs num_workers, which parameter_server was"):
        unknown.traffic(PARAMS)


def test_errors():
    for more, message in (
        ({"per_round": 8}, r"^per_round needs per_round <= num_workers; got per_round=8, num_wo"),
        (
            {"local_steps": 2},
            r"^local_steps > 1 needs local_rate or local; got local_steps=2 alone",
        ),
        ({"local_rate": 0.1}, r"^local_rate needs local_steps > 1; got local_steps=1, local_rate="),
        ({"whole_batch": True}, r"^whole_batch needs local_steps > 1; got local_steps=1\."),
        ({"local_steps": 2, "local_rate": 0}, r"^local_rate must be positive; got local_rate=0\."),
    ):
        with pytest.raises(ValueError, match=message):
            server_of(**more)
    server = server_of(local_steps=3, local_rate=0.1)
    with pytest.raises(ValueError, match=r"^local_steps must divide the batch; got local_steps=3"):
        server.step(server.init(PARAMS, KEY), batch_of(0), KEY)
    with pytest.raises(ValueError, match=r"^expected batches of 7 workers; got 5\.$"):
        server.step(server.init(PARAMS, KEY), batch_of(0, n=5), KEY)
