"""Momentum, schedules, decay and clipping, against loops."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.grid import optimizers
from experiments.grid.config import Config
from experiments.training import optim

BASE = Config(n=3, f=1, s=(1,), learning_rate=0.5, steps=10, momentum=0.0)


def changed(**more):
    return dataclasses.replace(BASE, **more)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("constant", [0.5, 0.5, 0.5]),
        ("hyperbolic(4)", [0.5, 0.25, 0.5 / 3]),
        ("steps(3, 6)", [0.5, 0.05, 0.005]),
        ("cosine", [0.5, 0.25 * (1 + np.cos(0.4 * np.pi)), 0.25 * (1 + np.cos(0.8 * np.pi))]),
    ],
)
def test_schedules(text, expected):
    rate = optim.schedule(changed(schedule=text))
    rates = [rate(step) if callable(rate) else rate for step in (0, 4, 8)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def run(stages, gradients, params):
    """Steps of the server under the mean, with all stages in between."""
    mean = optax.stateless(lambda updates, params: updates.mean(axis=0))
    parts = [stages["send"], stages["receive"], mean, stages["server"]]
    tx = optax.chain(*[part for part in parts if part is not None])
    state, out = tx.init(params), []
    for g in gradients:
        step, state = tx.update(g, state, params)
        params = params + step
        out.append(np.asarray(params))
    return out


@pytest.mark.parametrize("kind", optimizers.KINDS)
@pytest.mark.parametrize("place", optimizers.PLACES)
def test_momentum(kind, place):
    """Under the mean all places are equivalent."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(4, 3, 5)).astype(np.float32)
    models = run(
        optim.stages(changed(momentum=0.9, momentum_at=place, momentum_kind=kind)),
        jnp.asarray(gradients),
        jnp.zeros(5),
    )
    params, m = np.zeros(5), np.zeros(5)
    for g, after in zip(gradients.mean(axis=1), models):
        m = 0.9 * m + (0.1 if kind == "damped" else 1.0) * g
        params = params - 0.5 * (g + 0.9 * m if kind == "nesterov" else m)
        np.testing.assert_allclose(after, params, rtol=1e-5, atol=1e-6)


def test_where_momentum_stands():
    for place, there in (("worker", "send"), ("server", "receive")):
        stages = optim.stages(changed(momentum=0.9, momentum_at=place))
        assert stages[there] is not None
    assert optim.stages(changed(momentum=0.9, momentum_at="update"))["send"] is None


def test_decay_then_clipping_of_each_worker():
    params = jnp.array([3.0, 0.0])
    gradients = jnp.array([[[0.0, 4.0], [0.3, 0.0], [0.0, 0.0]]])
    stages = optim.stages(changed(weight_decay=1.0, clip=1.0, learning_rate=1.0))
    (after,) = run(stages, gradients, params)
    # g + 1 * params = (3, 4), (3.3, 0), (3, 0), each shortened to 1.
    np.testing.assert_allclose(after, params - np.array([0.6 + 1 + 1, 0.8]) / 3, rtol=1e-6)


def test_decay_then_clipping_then_momentum():
    gradients = jnp.array([[[3.0, 4.0]] * 3, [[0.6, 5.8]] * 3])
    stages = optim.stages(
        changed(
            weight_decay=1.0, clip=1.0, momentum=0.5, momentum_kind="undamped", learning_rate=1.0
        )
    )
    models = run(stages, gradients, jnp.zeros(2))
    # (3, 4) is shortened to (0.6, 0.8), and (0.6, 5.8) - (0.6, 0.8) = (0, 5) to (0, 1).
    second = 0.5 * np.array([0.6, 0.8]) + [0.0, 1.0]
    np.testing.assert_allclose(models, [[-0.6, -0.8], [-0.6, -0.8] - second], rtol=1e-6)
