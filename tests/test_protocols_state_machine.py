"""The replicated state machine: votes, and replicas that are one server bit for bit."""

import functools
import math
import os
import re

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks, protocols
from tests.helpers import compiled, first
from tests.helpers import regression_loss as loss_fn
from tests.test_protocols_replicated import (
    BATCH,
    DIM,
    KEY,
    LIARS,
    LIES,
    MEDIAN,
    PARAMS,
    F,
    N,
    at,
    batch_of,
    batches_of,
    gradient,
    models_over_time,
    rows_of,
)

REPLICAS = 4


# --- votes ---------------------------------------------------------------------------------------


def agreed_loop(rows, votes):
    """The first row whose bytes enough rows share."""
    sent = [row.tobytes() for row in rows]
    for row, its_bytes in zip(rows, sent):
        if sent.count(its_bytes) >= votes:
            return row
    return np.full_like(rows[0], np.nan)


def voted(rows, votes):
    return jax.device_get(compiled(protocols.agreed, votes=votes)(rows))


@hypothesis.given(
    values=st.lists(
        st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf]), min_size=10, max_size=10
    ),
    votes=st.integers(1, 3),
)
@hypothesis.settings(max_examples=60)
def test_agreed_equals_the_loop(values, votes):
    rows = np.array(values, np.float32).reshape(5, 2)
    result = voted({"w": rows[:, :1], "b": rows[:, 1]}, votes)
    result = np.array([result["w"][0], result["b"]])
    assert result.tobytes() == agreed_loop(rows, votes).tobytes()


def test_agreed_compares_bits():
    one, other = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    out = voted(np.array([[one], [other], [other], [2.0]], np.float32), 2)
    assert out.view(np.uint32).tolist() == [0x7FC00001]
    just_beside = np.float32([[1], [np.nextafter(np.float32(1), np.float32(2))]])
    assert np.isnan(voted(np.concatenate([just_beside, [[3], [4]]]).astype("f4"), 2)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_agreed_keeps_the_dtype(dtype):
    rows = np.array([[np.nan, 0.1], [3.0, 0.1], [3.0, 0.1]]).astype(jnp.dtype(dtype))
    out = voted(rows, 2)
    assert out.dtype == rows.dtype
    np.testing.assert_array_equal(out, rows[1])


def test_agreed_needs_as_many_senders_as_votes():
    with pytest.raises(ValueError, match=r"^agreed needs n >= votes; got n=3, votes=4\.$"):
        protocols.agreed(np.zeros((3, 2)), votes=4)
    with pytest.raises(ValueError, match=r"^votes must be at least 1; got votes=0\.$"):
        protocols.agreed(np.zeros((3, 2)), votes=0)


# --- bit for bit ---------------------------------------------------------------------------------

RULES = {
    "aksel": byzjax.aggregate(byzjax.aksel, f=F),
    "krum": byzjax.aggregate(byzjax.krum, f=F),
    "median": MEDIAN,
    "trimmed_mean": byzjax.aggregate(byzjax.trimmed_mean, f=F),
    "geometric_median": byzjax.aggregate(byzjax.geometric_median),
}
STEPS = 20


def stages(rule):
    return {
        "rule": rule,
        "server": optax.sgd(0.05, momentum=0.5),
        "send": byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=N),
        "attack": byzjax.attack(attacks.reversed_gradient, LIARS, kappa=3.0),
    }


def replicas(rule, count=REPLICAS, f=1):
    return protocols.replicated_state_machine(
        loss_fn, num_servers=count, num_workers=N, f_servers=f, **stages(rule)
    )


def assert_same_bits(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(
    "name",
    [
        "aksel",
        pytest.param("krum", marks=pytest.mark.slow),
        pytest.param("median", marks=pytest.mark.slow),
        pytest.param("trimmed_mean", marks=pytest.mark.slow),
        pytest.param("geometric_median", marks=pytest.mark.slow),
    ],
)
def test_replicas_are_one_server_bit_for_bit(name):
    """Also if gradients tie: three workers have the same batch."""
    several = models_over_time(replicas(RULES[name]))
    single = models_over_time(replicas(RULES[name], count=1, f=0))
    trusted = protocols.parameter_server(loss_fn, **stages(RULES[name]))
    server = models_over_time(trusted)
    for ties in (False, True):
        batches = batches_of(STEPS, ties)
        models, alone, expected = several(batches), single(batches), server(batches)
        for p in range(REPLICAS):
            assert_same_bits(at(models, slice(None), p), at(alone, slice(None), 0))
        # A different program, fused differently: bits may differ.
        chex.assert_trees_all_close(at(alone, slice(None), 0), expected, rtol=1e-5, atol=1e-6)
        assert np.abs(expected["w"][-1]).max() > 0.3


def test_every_replica_runs_the_whole_rule():
    """The sorting network is compiled into the loop over replicas, with no part before it."""
    machine = replicas(MEDIAN)
    state = jax.eval_shape(machine.init, PARAMS, KEY)
    text = jax.jit(machine.step).lower(state, batch_of(0), KEY).compile().as_text()
    parts = {part.split(None, 1)[0]: part for part in text.split("\n\n") if part.strip()}
    networks = {name for name, part in parts.items() if part.count(" minimum(") > 10}
    assert networks
    assert not networks & set(re.findall(r"calls=(%[\w.-]+)", parts["ENTRY"]))


@pytest.mark.slow
@pytest.mark.skipif(
    "fusion_emitters" in os.environ["XLA_FLAGS"],
    reason="the bits of two programs agree only as users compile them: XLA_FLAGS='' pytest",
)
@pytest.mark.parametrize("name", ["aksel", "krum", "median", "geometric_median"])
def test_replicas_of_a_wider_model_are_one_server_bit_for_bit(name):
    """One leaf with its own kernel, and one that shares a kernel."""
    wide, hidden = 400, 100
    rng = np.random.default_rng(0)
    params = {
        "w": jnp.asarray(rng.normal(size=(wide, hidden)).astype(np.float32) / 20),
        "v": jnp.asarray(rng.normal(size=hidden).astype(np.float32) / 10),
    }
    x = rng.normal(size=(5, N, BATCH, wide)).astype(np.float32)
    batches = {"workers": {"x": jnp.asarray(x), "y": jnp.sin(jnp.asarray(x[..., 0]))}}

    def wide_loss_fn(params, batch, key=None):
        del key
        return jnp.mean((jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"]) ** 2)

    runs = [
        models_over_time(
            protocols.replicated_state_machine(
                wide_loss_fn,
                num_servers=count,
                num_workers=N,
                f_servers=f,
                rule=RULES[name],
                server=optax.adam(0.01),
            ),
            params,
        )(batches)
        for count, f in ((REPLICAS, 1), (1, 0))
    ]
    for p in range(REPLICAS):
        assert_same_bits(at(runs[0], slice(None), p), at(runs[1], slice(None), 0))


@pytest.mark.smoke
def test_replicas_draw_the_same_numbers():
    def noisy(updates, *, key):
        return jax.tree.map(lambda x: x[0] + jax.random.normal(key, x.shape[1:]), updates)

    machine = replicas(byzjax.aggregate(noisy, key=KEY))
    state = machine.init(PARAMS, KEY)
    for k in range(2):
        state, _ = jax.jit(machine.step)(state, batch_of(k), KEY)
    for p in range(1, REPLICAS):
        assert_same_bits(at(state.params, p), at(state.params, 0))
    assert len(np.unique(state.params["w"][0])) == DIM


MODEL_LIES = LIES | {
    "last_bit": lambda u, b, key: attacks.flip_bits(u, b, bits=(0,), coordinates=1),
    "collusion": lambda u, b, key: attacks.constant(u, b, value=9.0),
}


def lie_about_models(updates, byzantine, which, *, key):
    return jax.lax.switch(which, list(MODEL_LIES.values()), updates, byzantine, key)


def run_with_lying_servers(attack_models, mask, batches):
    machine = protocols.replicated_state_machine(
        loss_fn,
        num_servers=REPLICAS,
        num_workers=N,
        f_servers=1,
        **stages(RULES["aksel"]),
        attack_models=attack_models,
        byzantine_servers=mask,
    )

    def step(state, batch):
        state, info = machine.step(state, batch, KEY)
        return state, info.honest

    state, gradients = jax.lax.scan(step, machine.init(PARAMS, KEY), batches)
    return state.params, machine.models(state), gradients


@functools.cache
def lying_servers():
    @jax.jit
    def run(which, mask, batches):
        lying = byzjax.attack(lie_about_models, mask, which=which, key=KEY)
        return run_with_lying_servers(lying, mask, batches)

    names, batches = list(MODEL_LIES), batches_of(STEPS)
    return lambda name, who: jax.device_get(
        run(np.int32(names.index(name)), np.array(who), batches)
    )


@pytest.mark.parametrize("name", MODEL_LIES)
def test_a_lying_server_changes_no_bit(name):
    run = lying_servers()
    expected, honest, _ = run("none", [False] * REPLICAS)
    assert np.abs(expected["w"]).max() > 0.3
    for liar in range(REPLICAS):
        params, models, _ = run(name, [p == liar for p in range(REPLICAS)])
        assert_same_bits(params, expected)
        assert_same_bits(models, honest)


def test_one_liar_more_than_declared():
    """f + 1 servers that send one value have enough votes, and win if they come first."""
    run = lying_servers()
    expected, _, _ = run("none", [False] * REPLICAS)
    params, _, gradients = run("collusion", [True, True, False, False])
    x, y = (np.float64(leaf) for leaf in (batch_of(0)["workers"][name] for name in "xy"))
    at_nines = [0.1 * gradient(np.full(1 + DIM, 9.0), *batch) for batch in zip(x, y, strict=True)]
    # the momentum of the first step
    np.testing.assert_allclose(rows_of(at(gradients, 0)), at_nines, rtol=1e-4, atol=1e-5)
    for p in range(1, REPLICAS):  # all deceived equally
        assert_same_bits(at(params, p), at(params, 0))
    last = first(batch_of(STEPS - 1)["workers"])
    assert loss_fn(at(params, 0), last) > 5 * loss_fn(at(expected, 0), last)
    honest_first, _, _ = run("collusion", [False, False, True, True])
    assert_same_bits(honest_first, expected)


def test_no_value_has_the_votes():
    params, _, gradients = lying_servers()("gaussian", [True, True, True, False])
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves((params, gradients)))


def test_state_machines_in_a_sweep_over_masks_and_keys():
    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, None))
    def run(mask, key, batches):
        lying = byzjax.attack(attacks.gaussian, mask, key=key)
        return run_with_lying_servers(lying, mask, batches)

    masks = np.arange(REPLICAS) == np.array([REPLICAS, 0, 3])[:, None]
    _, models, _ = run(masks, jax.random.split(KEY, 3), batches_of(STEPS))
    assert models["w"].shape == (3, REPLICAS - 1, DIM)
    expected, _, _ = lying_servers()("none", [False] * REPLICAS)
    chex.assert_trees_all_close(
        models["w"],
        np.broadcast_to(expected["w"][0], (3, REPLICAS - 1, DIM)),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_servers": 3},
            "replicated_state_machine needs num_servers >= 3 f_servers + 1; "
            "got num_servers=3, f_servers=1.",
        ),
        ({"num_workers": 0}, "num_workers must be at least 1; got num_workers=0."),
        (
            {"byzantine_servers": jnp.zeros(4)},
            "byzantine_servers must be bool[n] with n=4; got float32[4].",
        ),
        ({"workers_at_once": 0}, "workers_at_once must be at least 1; got workers_at_once=0."),
    ],
)
def test_invalid_numbers_of_state_machines(change, message):
    given = {"num_servers": 4, "num_workers": N, "f_servers": 1, "rule": MEDIAN}
    with pytest.raises(ValueError) as error:  # noqa: PT011
        protocols.replicated_state_machine(loss_fn, **given | change, server=optax.sgd(0.1))
    assert str(error.value) == message
