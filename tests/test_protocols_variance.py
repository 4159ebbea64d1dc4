"""Estimators of variance-reduced gradients against their papers' loops, and what they are for."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks, compress, protocols
from tests.test_protocols import BYZANTINE, KEY, PARAMS, F, N, loss_fn
from tests.test_protocols_rounds import gradient

M, B, RATE, STEPS = 6, 2, 0.05, 12
NAMES = sorted(PARAMS)


def samples(seed=0, n=N, m=M, alike=False):
    """Linear data, different at each worker, or the same."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1 if alike else n, m, 3))
    y = x @ np.array([1.0, -2.0, 0.5]) + 0.3 + rng.normal(size=x.shape[:2])
    x, y = (np.broadcast_to(a, (n, *a.shape[1:])).astype(np.float32) for a in (x, y))
    return {"workers": {"x": x, "y": y}}


def key_of(k):
    return jax.random.fold_in(KEY, k)


def server_of(estimator, **more):
    options = {"rule": byzjax.aggregate(byzjax.median), "server": optax.sgd(RATE)} | more
    return protocols.variance_reduced(loss_fn, estimator=estimator, num_workers=N, **options)


# --- the papers' loops ---------------------------------------------------------------------------


class Worker:
    """One worker's data and gradients, in float64."""

    def __init__(self, i):
        self.i, data = i, samples()["workers"]
        self.x, self.y = np.float64(data["x"][i]), np.float64(data["y"][i])

    def gradient(self, model, places=slice(None)):
        grads = gradient(model, self.x[places], self.y[places])
        return np.array([*grads["w"], grads["b"]])

    def batch(self, key):
        return np.asarray(jax.random.randint(jax.random.fold_in(key, self.i), (B,), 0, M))


def parts(vector):
    return {"w": vector[:3], "b": vector[3]}


def top_two(vector):
    # In the order of the leaves of a tree, b before w.
    order = np.argsort(-np.abs(vector[[3, 0, 1, 2]]), kind="stable")[:2]
    kept = np.array([3, 0, 1, 2])[order]
    return np.where(np.isin(np.arange(4), kept), vector, 0.0)


def loop(send):
    """Models after each step; `send(worker, key, k, x, previous, g)` is what a worker sends."""
    x = previous = g = np.zeros(4)
    workers, models = [Worker(i) for i in range(N)], []
    for k in range(STEPS):
        key = jax.random.fold_in(key_of(k), N + 1)
        args = (key, k, parts(x), parts(previous), g)
        sent = np.stack([send(worker, *args) for worker in workers])
        sent[BYZANTINE] *= -1
        g = np.median(sent, axis=0)
        x, previous = x - RATE * g, x
        models.append(x)
    return models


def marina_loop(compressor=lambda change: change):
    def send(worker, key, k, x, previous, g):
        if k == 0 or jax.random.bernoulli(jax.random.fold_in(key, N), 0.3):
            return worker.gradient(x)
        batch = worker.batch(key)
        return g + compressor(worker.gradient(x, batch) - worker.gradient(previous, batch))

    return loop(send)


def saga_loop():
    tables = {}

    def send(worker, key, k, x, previous, g):
        if k == 0:
            tables[worker.i] = [worker.gradient(x, [j]) for j in range(M)]
        table = tables[worker.i]
        j = int(jax.random.randint(jax.random.fold_in(key, 0), (N,), 0, M)[worker.i])
        new = worker.gradient(x, [j])
        sent = new - table[j] + np.mean(table, axis=0)
        table[j] = new
        return sent

    return loop(send)


def storm_loop():
    last = {}

    def send(worker, key, k, x, previous, g):
        batch = worker.batch(key)
        now, before = worker.gradient(x, batch), worker.gradient(previous, batch)
        last[worker.i] = now if k == 0 else now + 0.7 * (last[worker.i] - before)
        return last[worker.i]

    return loop(send)


ESTIMATORS = {
    "marina": (protocols.marina(0.3, batch_size=B), marina_loop),
    "compressed marina": (
        protocols.marina(0.3, batch_size=B, compressor=compress.top_k(2)),
        functools.partial(marina_loop, top_two),
    ),
    "saga": (protocols.saga(M), saga_loop),
    "storm": (protocols.storm(0.3, batch_size=B), storm_loop),
}


@pytest.mark.smoke
@pytest.mark.parametrize("name", ESTIMATORS)
def test_equals_the_papers_loop(name):
    estimator, expected = ESTIMATORS[name]
    server = server_of(estimator, attack=byzjax.attack(attacks.sign_flip, BYZANTINE))
    state, step = server.init(PARAMS, KEY), jax.jit(server.step)
    for k, model in enumerate(expected()):
        state, info = step(state, samples(), key_of(k))
        got = np.array([*state.params["w"], state.params["b"]])
        np.testing.assert_allclose(got, model, rtol=2e-4, atol=2e-5)
        np.testing.assert_array_equal(info.sent["w"][:F], -info.honest["w"][:F])
    assert np.abs(model).max() > 0.1


# --- what they are for ---------------------------------------------------------------------------


def excess(estimator, attack, steps):
    """The distance to the least-squares solution, all workers having the same samples."""
    data, rule = samples(1, m=20, alike=True), byzjax.aggregate(byzjax.aksel, f=F, mode="n-f")
    server = server_of(estimator, rule=rule, attack=byzjax.attack(attack, BYZANTINE))

    @jax.jit
    def trained(state):
        step = lambda state, k: (server.step(state, data, key_of(k))[0], None)  # noqa: E731
        return jax.lax.scan(step, state, jnp.arange(steps))[0].params

    model = trained(server.init(PARAMS, KEY))
    x, y = (np.float64(data["workers"][name][0]) for name in ("x", "y"))
    best = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y)[0]
    return np.linalg.norm(np.array([*model["w"], model["b"]]) - best)


@pytest.mark.parametrize("name", ["marina", "saga"])
def test_the_error_vanishes_under_attack_and_that_of_sgd_does_not(name):
    estimator = {"marina": protocols.marina(0.2), "saga": protocols.saga(20)}[name]
    attack = functools.partial(attacks.little_is_enough, z=1.0)
    ours, sgd = excess(estimator, attack, 1500), excess(protocols.storm(1.0), attack, 1500)
    assert ours < 2e-5
    assert sgd > 1e-2


def test_momentum_that_is_corrected_has_a_smaller_error():
    attack = functools.partial(attacks.little_is_enough, z=1.0)
    small, plain = (excess(protocols.storm(a), attack, 1500) for a in (0.05, 1.0))
    assert small < plain / 3


# --- as any protocol -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_keep_their_types(name, dtype):
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), PARAMS)
    server = server_of(ESTIMATORS[name][0])
    before = server.init(params, KEY)
    after = jax.eval_shape(lambda s: server.step(s, samples(), KEY)[0], before)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)
    step = jax.jit(server.step, donate_argnums=0)
    for k in range(2):
        before, _ = step(before, samples(), key_of(k))
    assert np.isfinite(np.asarray(before.params["w"], np.float32)).all()


def test_workers_compress_by_keys_of_their_own():
    rand = compress.rand_k(1, KEY)
    server = server_of(protocols.marina(1e-9, compressor=rand))
    state, _ = server.step(server.init(PARAMS, KEY), samples(), key_of(0))
    _, info = server.step(state, samples(), key_of(1))
    change = jax.tree.map(lambda u, g: np.asarray(u - g), info.honest, state.aggregate)
    sent = np.c_[change["w"], change["b"]] != 0
    assert (sent.sum(axis=1) <= 1).all()
    assert len(set(map(tuple, sent))) > 1


def test_a_few_workers_at_once_and_many_keys():
    server, few = (server_of(protocols.saga(M), workers_at_once=k) for k in (None, 2))
    run = jax.jit(jax.vmap(lambda key: server.step(server.init(PARAMS, KEY), samples(), key)[0]))
    states = run(jax.random.split(KEY, 3))
    one, _ = few.step(few.init(PARAMS, KEY), samples(), jax.random.split(KEY, 3)[1])
    last = jax.tree.map(lambda x: x[1], states)
    chex.assert_trees_all_close(one, last, rtol=1e-5, atol=1e-6)


def test_traffic():
    floats = {name: server_of(e).traffic(PARAMS).floats for name, (e, _) in ESTIMATORS.items()}
    assert floats["marina"] == floats["saga"] == floats["storm"] == 2 * N * 4
    bits = compress.top_k(2).bits(PARAMS)
    assert floats["compressed marina"] == pytest.approx(N * (4 + 0.3 * 4 + 0.7 * bits / 32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: protocols.marina(0.0), r"^p must lie in \(0, 1\]; got p=0\.0\.$"),
        (lambda: protocols.storm(1.5), r"^a must lie in \(0, 1\]; got a=1\.5\.$"),
        (lambda: protocols.marina(0.1, compressor=optax.sgd(1.0)), r"^marina needs a compressor"),
        (lambda: protocols.saga(2.5), r"samples"),
        (lambda: server_of("saga"), r"^variance_reduced needs an estimator, such as protocols\."),
        (lambda: step(protocols.saga(5)), r"^saga expected 5 samples of each worker; got 6\.$"),
        (
            lambda: step(protocols.storm(0.5), samples(n=5)),
            r"^expected batches of 7 workers; got 5\.$",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def step(estimator, data=None):
    server = server_of(estimator)
    return server.step(server.init(PARAMS, KEY), samples() if data is None else data, KEY)
