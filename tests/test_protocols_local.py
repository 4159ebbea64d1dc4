"""Local training: workers take steps of optimizers of their own between two exchanges."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks, protocols
from byzjax.protocols import graphs
from tests.test_protocols import BYZANTINE, KEY, PARAMS, N, batch_of, loss_fn, noisy_loss_fn
from tests.test_protocols_rounds import gradient, server_of

NAMES = sorted(PARAMS)
RATE, DECAY, B1, B2, EPS = 0.05, 0.1, 0.9, 0.999, 1e-8


class AdamW:
    """One worker's optimizer, as Loshchilov and Hutter's Algorithm 2 has it."""

    def __init__(self):
        self.count, self.mean, self.square = 0, dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 0.0)

    def step(self, model, grads):
        self.count += 1
        out = {}
        for name in NAMES:
            self.mean[name] = B1 * self.mean[name] + (1 - B1) * grads[name]
            self.square[name] = B2 * self.square[name] + (1 - B2) * grads[name] ** 2
            mean = self.mean[name] / (1 - B1**self.count)
            square = self.square[name] / (1 - B2**self.count)
            step = mean / (np.sqrt(square) + EPS) + DECAY * model[name]
            out[name] = model[name] - RATE * step
        return out


def diloco(rounds, steps, keep, drawn=None, attacked=False):
    """DiLoCo, Algorithm 1, with the median of the workers: models after each round, optimizers."""
    model, momentum = {"w": np.zeros(3), "b": 0.0}, dict.fromkeys(NAMES, 0.0)
    optimizers, models = [AdamW() for _ in range(N)], []
    for r in range(rounds):
        batch, sent = batch_of(r)["workers"], []
        for i in range(N) if drawn is None else drawn[r]:
            if not keep:
                optimizers[i] = AdamW()
            own, x, y = model, np.float64(batch["x"][i]), np.float64(batch["y"][i])
            for part in np.split(np.arange(len(y)), steps):
                own = optimizers[i].step(own, gradient(own, x[part], y[part]))
            sign = -1 if attacked and np.asarray(BYZANTINE)[i] else 1
            sent.append({name: sign * (model[name] - own[name]) for name in NAMES})
        outer = {name: np.median([u[name] for u in sent], axis=0) for name in NAMES}
        momentum = {name: 0.9 * momentum[name] + outer[name] for name in NAMES}
        model = {name: model[name] - 0.7 * (outer[name] + 0.9 * momentum[name]) for name in NAMES}
        models.append(model)
    return models, optimizers


def diloco_server(loss=loss_fn, **more):
    return server_of(
        loss,
        rule=byzjax.aggregate(byzjax.median),
        server=optax.sgd(0.7, momentum=0.9, nesterov=True),
        local=optax.adamw(RATE, b1=B1, b2=B2, eps=EPS, weight_decay=DECAY),
        **more,
    )


def run(server, rounds):
    state, step, models, drawn = server.init(PARAMS, KEY), jax.jit(server.step), [], []
    for r in range(rounds):
        state, info = step(state, batch_of(r), jax.random.fold_in(KEY, r))
        models.append(jax.device_get(state.params))
        drawn.append(np.asarray(info.senders))
    return state, models, drawn


@pytest.mark.smoke
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("attacked", [False, True])
def test_equals_the_papers_loop(keep, attacked):
    lie = {"attack": byzjax.attack(attacks.sign_flip, BYZANTINE)} if attacked else {}
    server = diloco_server(local_steps=4, keep_local_state=keep, **lie)
    _, models, _ = run(server, 3)
    for model, expected in zip(models, diloco(3, 4, keep, attacked=attacked)[0]):
        for name in NAMES:
            np.testing.assert_allclose(model[name], expected[name], rtol=1e-4, atol=1e-5)


def test_slsgd_is_a_trimmed_mean_of_models_and_a_server_that_moves_a_part_of_the_way():
    """SLSGD, Algorithm 1 with option II: w = (1 - alpha) w + alpha trimmed_mean(models)."""
    alpha, f, steps, rate = 0.6, 1, 2, 0.1
    server = server_of(
        rule=byzjax.aggregate(byzjax.trimmed_mean, f=f),
        server=optax.sgd(alpha),
        local_steps=steps,
        local=optax.sgd(rate),
    )
    model = {"w": np.zeros(3), "b": 0.0}
    for r, expected in enumerate(run(server, 3)[1]):
        batch, models = batch_of(r)["workers"], []
        for x, y in zip(np.float64(batch["x"]), np.float64(batch["y"])):
            own = model
            for part in np.split(np.arange(len(y)), steps):
                slope = gradient(own, x[part], y[part])
                own = {name: own[name] - rate * slope[name] for name in NAMES}
            models.append(own)
        for name in NAMES:
            ordered = np.sort([own[name] for own in models], axis=0)[f:-f]
            model = model | {name: (1 - alpha) * model[name] + alpha * ordered.mean(axis=0)}
            np.testing.assert_allclose(expected[name], model[name], rtol=1e-5, atol=1e-6)


def test_states_of_workers_that_are_not_drawn_stay():
    server = diloco_server(local_steps=2, keep_local_state=True, per_round=3)
    state, models, drawn = run(server, 6)
    expected, optimizers = diloco(6, 2, True, drawn)
    for name in NAMES:
        np.testing.assert_allclose(models[-1][name], expected[-1][name], rtol=1e-3, atol=1e-5)
    adam = state.local[0]
    times = np.bincount(np.concatenate(drawn), minlength=N)
    assert len(set(times)) > 1
    np.testing.assert_array_equal(adam.count, 2 * times)
    for i in range(N):
        for name in NAMES:
            np.testing.assert_allclose(
                adam.mu[name][i], optimizers[i].mean[name], rtol=1e-3, atol=1e-5
            )


@pytest.mark.parametrize("keep", [False, True])
def test_one_step_of_sgd_is_the_protocol_without(keep):
    """The pseudo-gradient is then the gradient times the step size, of the same random loss."""
    rate = 0.25  # a power of two: nothing is rounded
    local = server_of(
        noisy_loss_fn, local=optax.sgd(rate), keep_local_state=keep, server=optax.sgd(1.0)
    )
    plain = server_of(noisy_loss_fn, server=optax.sgd(rate))
    for one, other in zip(run(local, 3)[1], run(plain, 3)[1]):
        for name in NAMES:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)


def test_sgd_by_either_argument_is_the_same():
    """`local=optax.sgd(gamma)` sends gamma k times the mean gradient of `local_rate=gamma`."""
    local = server_of(local_steps=4, local=optax.sgd(0.05), server=optax.sgd(1.0))
    rate = server_of(local_steps=4, local_rate=0.05, server=optax.sgd(0.2))
    for one, other in zip(run(local, 2)[1], run(rate, 2)[1]):
        for name in NAMES:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)


def test_a_loop_with_donated_states_and_half_precision():
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)
    server = diloco_server(local_steps=2, keep_local_state=True, workers_at_once=2)

    def rounds(state, keys):
        return jax.lax.scan(lambda s, k: (server.step(s, batch_of(0), k)[0], None), state, keys)[0]

    state = server.init(params, KEY)
    before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    state = jax.jit(rounds, donate_argnums=0)(state, jax.random.split(KEY, 3))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == before
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(state))


def test_nodes_of_gossip_take_local_steps():
    """H steps of momentum SGD at each node, then the mean with its neighbours."""
    peers = protocols.gossip(
        loss_fn,
        graph=graphs.ring(N),
        rule=byzjax.aggregate(byzjax.mean),
        optimizer=optax.sgd(RATE, momentum=0.9),
        local_steps=2,
    )
    state = peers.init(PARAMS, KEY)
    models = [{"w": np.zeros(3), "b": 0.0} for _ in range(N)]
    speeds = [dict.fromkeys(NAMES, 0.0) for _ in range(N)]
    for r in range(3):
        state, _ = jax.jit(peers.step)(state, batch_of(r), KEY)
        batch = batch_of(r)["workers"]
        for i in range(N):
            x, y = np.float64(batch["x"][i]), np.float64(batch["y"][i])
            for part in np.split(np.arange(len(y)), 2):
                grads = gradient(models[i], x[part], y[part])
                speeds[i] = {k: 0.9 * speeds[i][k] + grads[k] for k in NAMES}
                models[i] = {k: models[i][k] - RATE * speeds[i][k] for k in NAMES}
        heard = [[models[(i + j) % N] for j in (-1, 0, 1)] for i in range(N)]
        models = [{k: np.mean([m[k] for m in near], axis=0) for k in NAMES} for near in heard]
    for name in NAMES:
        expected = np.stack([model[name] for model in models])
        np.testing.assert_allclose(peers.models(state)[name], expected, rtol=1e-4, atol=1e-5)


def test_errors():
    adam = optax.adam(0.1)
    for more, error, message in (
        (
            {"local": adam, "local_rate": 0.1, "local_steps": 2},
            ValueError,
            r"^local has its own step size; got local_rate=0\.1 as well\.$",
        ),
        (
            {"keep_local_state": True},
            ValueError,
            r"^keep_local_state needs local and num_workers; ",
        ),
        (
            {"keep_local_state": True, "local": adam, "num_workers": None},
            ValueError,
            r"^keep_local_state needs local and num_workers; .*num_workers=None\.$",
        ),
        ({"local": 0.1}, TypeError, r"^parameter_server: local must be .*optax\.adamw\(1e-3\)"),
    ):
        with pytest.raises(error, match=message):
            protocols.parameter_server(
                loss_fn,
                **{"rule": byzjax.aggregate(byzjax.mean), "server": adam, "num_workers": N} | more,
            )
    with pytest.raises(ValueError, match=r"^local_steps must be at least 1"):
        protocols.gossip(
            loss_fn,
            graph=graphs.ring(4),
            rule=byzjax.aggregate(byzjax.mean),
            optimizer=adam,
            local_steps=0,
        )
