"""Workers over devices: steps on several devices equal those on one, also under `jax.pmap`."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import byzjax
from byzjax import attacks, protocols
from byzjax.protocols import graphs
from tests.helpers import first, mesh_of, regression_loss

N, F, BATCH, DIM, STEPS = 12, 2, 4, 3, 3
KEY = jax.random.key(0)
BYZANTINE = np.arange(N) < F
PARAMS = {"w": np.zeros(DIM, np.float32), "b": np.zeros((), np.float32)}
RNG = np.random.default_rng(0)
BATCHES = {
    "x": RNG.normal(size=(STEPS, N, BATCH, DIM)).astype(np.float32),
    "y": RNG.normal(size=(STEPS, N, BATCH)).astype(np.float32),
}


def loss_fn(params, batch, key=None):
    """Every worker has its own loss and its own random numbers."""
    noise = 0.1 * jnp.mean(params["w"] * jax.random.normal(key, (DIM,)))
    return regression_loss(params, batch) + noise


MEDIAN, SGD = byzjax.aggregate(byzjax.median), optax.sgd(0.1)
ONE_SERVER = {
    "send": byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=N),
    "attack": byzjax.attack(attacks.gaussian, BYZANTINE, sigma=3.0, key=KEY),
    "rule": byzjax.aggregate(byzjax.aksel, f=F),
    "server": SGD,
    "num_workers": N,
}
LIES = byzjax.attack(attacks.sign_flip, BYZANTINE)
MAKE = {
    "parameter_server": lambda **over: protocols.parameter_server(loss_fn, **ONE_SERVER, **over),
    "some a round, local steps": lambda **over: protocols.parameter_server(
        loss_fn, rule=MEDIAN, server=SGD, num_workers=N, per_round=7, local_steps=2,
        local_rate=0.1, **over
    ),
    "some a round, kept optimizers": lambda **over: protocols.parameter_server(
        loss_fn, rule=MEDIAN, server=SGD, num_workers=N, per_round=7, local_steps=2,
        local=optax.adam(0.1), keep_local_state=True, **over
    ),
    "variance_reduced": lambda **over: protocols.variance_reduced(
        loss_fn, estimator=protocols.marina(0.5), rule=MEDIAN, server=SGD, num_workers=N,
        attack=LIES, **over
    ),
    "variance_reduced, saga": lambda **over: protocols.variance_reduced(
        loss_fn, estimator=protocols.saga(BATCH), rule=MEDIAN, server=SGD, num_workers=N,
        attack=LIES, **over
    ),
    "replicated_servers": lambda **over: protocols.replicated_servers(
        loss_fn, num_servers=5, num_workers=N, f_servers=1, f_workers=F, pull=MEDIAN, rule=MEDIAN,
        server=SGD, attack=LIES, **over
    ),
    "replicated_state_machine": lambda **over: protocols.replicated_state_machine(
        loss_fn, num_servers=4, num_workers=N, f_servers=1, rule=MEDIAN, server=SGD, attack=LIES,
        **over
    ),
    "gossip": lambda **over: protocols.gossip(
        loss_fn, graph=graphs.ring(N), rule=MEDIAN, optimizer=SGD, byzantine=BYZANTINE, f=F,
        attack=LIES, **over
    ),
    "redundant": lambda **over: protocols.redundant(
        loss_fn, num_workers=N, s=1, server=SGD, attack=LIES, **over
    ),
}  # fmt: skip


def steps_of(protocol):
    def steps(state):
        """The models after a few steps, and the last step's `Info`."""

        def one(state, place):
            batch, k = place
            return protocol.step(state, {"workers": batch}, jax.random.fold_in(KEY, k))

        state, infos = jax.lax.scan(one, state, (BATCHES, jnp.arange(STEPS)))
        return protocol.models(state), jax.tree.map(lambda x: x[-1], infos)

    return steps


def begun(protocol):
    return jax.jit(protocol.init)(PARAMS, KEY)


@functools.cache
def on_one_device(name):
    protocol = MAKE[name]()
    return jax.device_get(jax.jit(steps_of(protocol))(begun(protocol)))


def over(devices, function):
    mesh = mesh_of(workers=devices)
    same = PartitionSpec()
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=same, out_specs=same, check_vma=False)
    )


SLOW = ("replicated_servers", "replicated_state_machine", "redundant")


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in MAKE]
)
def test_steps_on_eight_devices_are_those_on_one(name):
    """Two workers per device; equal up to rounding, since it is a different program."""
    protocol = MAKE[name](workers_axis="workers")
    results = jax.device_get(over(8, steps_of(protocol))(begun(protocol)))
    chex.assert_trees_all_close(results, on_one_device(name), rtol=1e-6, atol=1e-6)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(results[0])) > 0.01


def test_the_same_steps_run_under_pmap():
    protocol = MAKE["parameter_server"](workers_axis="workers")
    copies = jax.jit(lambda state: jax.tree.map(lambda x: jnp.stack([x] * 8), state))
    on_each = jax.pmap(steps_of(protocol), axis_name="workers")(copies(begun(protocol)))
    on_each = jax.device_get(on_each)
    expected = on_one_device("parameter_server")
    for device in range(8):
        results = jax.tree.map(lambda x, i=device: x[i], on_each)
        chex.assert_trees_all_close(results, expected, rtol=1e-6, atol=1e-6)


def test_each_device_computes_the_gradients_of_its_workers_alone():
    """Counted in the lowered program: for 12 workers, 3 devices multiply 4 batches each."""
    protocol = MAKE["parameter_server"](workers_axis="workers")
    batch = first(BATCHES)
    step = over(3, lambda state: protocol.step(state, {"workers": batch}, KEY))
    text = step.lower(begun(protocol)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    batches = [line for line in products if f"tensor<4x{BATCH}x{DIM}xf32>" in line]
    assert batches
    assert not any(f"tensor<{N}x{BATCH}x{DIM}xf32>" in line for line in products)
