"""Several servers: the papers' loops, distances of honest servers, replicas bit for bit."""

import functools
import math
import os
import re
from typing import NamedTuple

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
from tests import oracles
from tests.helpers import compiled, first, regression_batch
from tests.helpers import regression_loss as loss_fn

N, F = 7, 2  # workers
SERVERS, F_SERVERS = 6, 1
REPLICAS = 4
BATCH, DIM = 4, 3
LIARS = np.arange(N) < F
LYING_SERVERS = np.arange(SERVERS) < F_SERVERS
KEY = jax.random.key(0)
PARAMS = {"w": np.zeros(DIM, np.float32), "b": np.zeros((), np.float32)}
MEDIAN = byzjax.aggregate(byzjax.median)


def batch_of(seed, ties=False):
    batch = regression_batch(seed, N)
    if ties:
        for leaf in batch["workers"].values():
            leaf[3], leaf[5] = leaf[2], leaf[2]
    return batch


def batches_of(steps, ties=False):
    return jax.tree.map(lambda *xs: np.stack(xs), *[batch_of(k, ties) for k in range(steps)])


def at(tree, *index):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def options(**change):
    given = {
        "num_servers": SERVERS,
        "num_workers": N,
        "f_servers": F_SERVERS,
        "f_workers": F,
        "pull": MEDIAN,
        "rule": byzjax.aggregate(byzjax.aksel, f=F),
        "server": optax.sgd(0.1, momentum=0.5),
    }
    return given | change


# --- replicated servers: errors, and the paper's loop --------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_servers": 4},
            "replicated_servers needs num_servers >= 3 f_servers + 2; "
            "got num_servers=4, f_servers=1.",
        ),
        (
            {"num_workers": 6},
            "replicated_servers needs num_workers >= 3 f_workers + 1; "
            "got num_workers=6, f_workers=2.",
        ),
        (
            {"quorum_servers": 3},
            "replicated_servers needs 4 <= quorum_servers <= 5 for num_servers=6, f_servers=1; "
            "got quorum_servers=3.",
        ),
        (
            {"quorum_servers": 6},
            "replicated_servers needs 4 <= quorum_servers <= 5 for num_servers=6, f_servers=1; "
            "got quorum_servers=6.",
        ),
        (
            {"quorum_servers": 0, "f_servers": 0},
            "replicated_servers needs 1 <= quorum_servers <= 6 for num_servers=6, f_servers=0; "
            "got quorum_servers=0.",
        ),
        (
            {"quorum_workers": 4},
            "replicated_servers needs 5 <= quorum_workers <= 5 for num_workers=7, f_workers=2; "
            "got quorum_workers=4.",
        ),
        (
            {"quorum_workers": 6},
            "replicated_servers needs 5 <= quorum_workers <= 5 for num_workers=7, f_workers=2; "
            "got quorum_workers=6.",
        ),
        ({"every": 0}, "every must be at least 1; got every=0."),
        ({"workers_at_once": 0}, "workers_at_once must be at least 1; got workers_at_once=0."),
        (
            {"byzantine_servers": jnp.zeros(5, bool)},
            "byzantine_servers must be bool[n] with n=6; got bool[5].",
        ),
    ],
)
def test_numbers_that_cannot_be(change, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        protocols.replicated_servers(loss_fn, **options(**change))
    assert str(error.value) == message


def test_numbers_that_are_not_python_ints():
    with pytest.raises(TypeError, match=r"^f_servers must be a Python int; got "):
        protocols.replicated_servers(loss_fn, **options(f_servers=jnp.int32(1)))
    with pytest.raises(TypeError, match=r"^quorum_servers must be a Python int; got float\.$"):
        protocols.replicated_servers(loss_fn, **options(quorum_servers=4.0))


@pytest.mark.parametrize(("servers", "f"), [(1, 0), (2, 0), (5, 1), (8, 2)])
def test_the_least_numbers_of_servers(servers, f):
    protocols.replicated_servers(loss_fn, **options(num_servers=servers, f_servers=f))


def test_a_batch_of_other_workers():
    servers = protocols.replicated_servers(loss_fn, **options())
    batch = jax.tree.map(lambda x: x[1:], batch_of(0))
    state = jax.jit(servers.init)(PARAMS, KEY)
    with pytest.raises(ValueError, match=r"^expected batches of 7 workers; got 6\.$"):
        servers.step(state, batch, KEY)


class Heard(NamedTuple):
    inner: tuple
    senders: jax.Array


def remembering(transformation, count):
    """The same, with the senders of each last message in its state."""

    def init(params):
        return Heard(transformation.init(params), jnp.zeros(count, jnp.int32))

    def update(updates, state, params=None, **extra_args):
        senders = jnp.asarray(extra_args["senders"], jnp.int32)
        updates, inner = transformation.update(updates, state.inner, params, **extra_args)
        return updates, Heard(inner, senders)

    return optax.GradientTransformationExtraArgs(init, update)


def rows_of(tree):
    """Stacked trees as one matrix, the intercept first."""
    return np.concatenate([np.asarray(tree["b"])[:, None], np.asarray(tree["w"])], axis=1)


def gradient(model, x, y):
    ones = np.concatenate([np.ones((BATCH, 1)), np.asarray(x, np.float64)], axis=1)
    return 2 * ones.T @ (ones @ model - y) / BATCH


@pytest.mark.parametrize(
    ("of_models", "of_gradients", "quorum"),
    [
        # With an even number of rows, two may tie: then rounding decides.
        pytest.param("aksel", "aksel", 5, marks=pytest.mark.smoke),
        pytest.param("median", "minimum_diameter", 4, marks=pytest.mark.slow),
    ],
)
def test_equals_the_loop(of_models, of_gradients, quorum):
    """Two workers and a server are Byzantine; servers exchange models every second step.

    Aksel at both ends, and the rules of the paper.
    """
    every, rate, decay, inertia = 2, 0.1, 0.9, 0.5
    f_of_models = {"f": F_SERVERS} if of_models != "median" else {}
    models_rule = byzjax.aggregate(getattr(byzjax, of_models), **f_of_models)
    models_loop, gradients_loop = (
        getattr(oracles.rules, name) for name in (of_models, of_gradients)
    )
    servers = protocols.replicated_servers(
        loss_fn,
        **options(
            pull=remembering(models_rule, quorum),
            rule=remembering(byzjax.aggregate(getattr(byzjax, of_gradients), f=F), N - F),
            contract=remembering(models_rule, quorum),
            quorum_servers=quorum,
            every=every,
            server=optax.sgd(rate, momentum=inertia),
            send=byzjax.per_worker(optax.ema(decay, debias=False), num_workers=N),
            attack=byzjax.attack(attacks.reversed_gradient, LIARS, kappa=3.0),
            attack_models=byzjax.attack(attacks.constant, LYING_SERVERS, value=50.0),
            byzantine_servers=LYING_SERVERS,
        ),
    )
    step, state = jax.jit(servers.step), jax.jit(servers.init)(PARAMS, KEY)
    models, momenta = np.zeros((SERVERS, 1 + DIM)), np.zeros((N, 1 + DIM))
    velocities = np.zeros((SERVERS, 1 + DIM))
    quorums = []

    def as_sent(models):
        return np.where(np.asarray(LYING_SERVERS)[:, None], 50.0, models)

    for k in range(6):
        batch = batch_of(k)
        state, info = step(state, batch, jax.random.fold_in(KEY, k))
        _, pull, _, _, rule, _, contract = state.stages
        quorums.append([np.asarray(stage.senders) for stage in (pull, rule, contract)])
        to_workers, to_servers, between = quorums[-1]
        for i in range(N):
            model = models_loop(as_sent(models)[to_workers[i]], F_SERVERS)
            x, y = batch["workers"]["x"][i], batch["workers"]["y"][i]
            momenta[i] = decay * momenta[i] + (1 - decay) * gradient(model, x, y)
        sent = np.where(np.asarray(LIARS)[:, None], -3.0 * momenta, momenta)
        aggregates = [gradients_loop(sent[to_servers[p]], F) for p in range(SERVERS)]
        velocities = inertia * velocities + aggregates
        models = models - rate * velocities
        if (k + 1) % every == 0:
            told = as_sent(models)
            heard = [np.stack([models[p], *told[between[p, 1:]]]) for p in range(SERVERS)]
            models = np.stack([models_loop(rows, F_SERVERS) for rows in heard])
        np.testing.assert_allclose(rows_of(info.honest), momenta, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rows_of(info.sent), sent, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rows_of(at(info.aggregate, None))[0], aggregates[1], atol=1e-5)
        np.testing.assert_allclose(rows_of(state.params), models, rtol=1e-4, atol=1e-5)
        assert info.senders.tolist() == list(range(N))
    assert np.abs(models).max() > 0.3  # training moved the model
    np.testing.assert_array_equal(servers.models(state)["w"], state.params["w"][1:])

    pulls, rules, exchanges = (np.stack(each) for each in zip(*quorums))
    assert (np.diff(pulls) > 0).all()
    assert (np.diff(rules) > 0).all()
    for heard, senders in ((pulls, SERVERS), (rules, N)):
        assert len({tuple(one) for one in heard.reshape(-1, heard.shape[-1])}) > 5
        assert all(len({tuple(one) for one in of_step}) > 1 for of_step in heard)
        assert set(heard.ravel()) == set(range(senders))
    assert (exchanges[0] == 0).all()  # no exchange yet
    np.testing.assert_array_equal(exchanges[1], exchanges[2])
    for heard in exchanges[1::2]:
        assert heard[:, 0].tolist() == list(range(SERVERS))  # its own model first
        assert (np.diff(heard[:, 1:]) > 0).all()
        assert (heard[:, 1:] != heard[:, :1]).all()


def models_over_time(protocol, params=PARAMS):
    """A compiled function of the batches: the model or models after every step."""

    @jax.jit
    def run(batches):
        def step(state, batch):
            state, _ = protocol.step(state, batch, KEY)
            return state, state.params

        return jax.lax.scan(step, protocol.init(params, KEY), batches)[1]

    return run


def test_without_a_fault_it_is_one_server():
    shared = {
        "rule": byzjax.aggregate(byzjax.aksel, f=F),
        "server": optax.adamw(0.1, weight_decay=0.01),
        "send": byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=N),
        "attack": byzjax.attack(attacks.sign_flip, LIARS),
    }
    batches, server = batches_of(20), protocols.parameter_server(loss_fn, **shared)
    one = models_over_time(server)(batches)
    # All gradients are received only if no fault is declared.
    several = protocols.replicated_servers(
        loss_fn, **options(num_servers=3, f_servers=0, f_workers=0, **shared)
    )
    models = models_over_time(several)(batches)
    for p in range(3):
        chex.assert_trees_all_close(at(models, slice(None), p), one, rtol=1e-5, atol=1e-6)
    assert np.abs(one["w"][-1]).min() > 0.5


def test_a_trusted_batch_is_seen_by_every_server():
    """Two servers whose models differ, and a rule that returns only the trusted gradient."""

    def trusting(updates, trusted):
        del updates
        return trusted

    shared = {
        "num_servers": 2,
        "num_workers": N,
        "f_servers": 0,
        "rule": byzjax.aggregate(trusting),
        "server": optax.sgd(1.0),
    }
    batch = batch_of(0) | {"trusted": at(batch_of(1)["workers"], 0)}
    models = {"w": np.arange(2 * DIM, dtype="f4").reshape(2, DIM), "b": np.zeros(2, "f4")}
    gradients = jax.jit(jax.vmap(jax.grad(loss_fn), in_axes=(0, None)))(models, batch["trusted"])
    expected = jax.tree.map(np.subtract, models, jax.device_get(gradients))
    for protocol in (
        protocols.replicated_servers(loss_fn, f_workers=0, pull=MEDIAN, every=9, **shared),
        protocols.replicated_state_machine(loss_fn, **shared),
    ):
        state = jax.jit(protocol.init)(PARAMS, KEY)._replace(params=models)
        state, _ = jax.jit(protocol.step)(state, batch, KEY)
        chex.assert_trees_all_close(state.params, expected, rtol=1e-5)


def test_receivers_have_their_own_states_and_keys():
    """A rule that adds noise: without it all servers would be equal."""

    def noisy(updates, *, key):
        noise = jax.random.normal(key, (DIM,))
        return {"w": byzjax.mean(updates)["w"] + noise, "b": updates["b"][0]}

    servers = protocols.replicated_servers(
        loss_fn,
        **options(
            num_servers=3,
            f_servers=0,
            f_workers=0,
            rule=byzjax.aggregate(noisy, key=KEY),
            contract=optax.chain(byzjax.aggregate(noisy, key=KEY)),
            every=2,
        ),
    )
    state = jax.jit(servers.init)(PARAMS, KEY)
    assert len(np.unique(jax.random.key_data(state.stages[4].key), axis=0)) == 3
    state, _ = jax.jit(servers.step)(state, batch_of(0), KEY)
    assert len(np.unique(state.params["w"])) == 3 * DIM


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 3])
def test_fewer_at_once_are_the_same(at_once):
    given = options(quorum_servers=4, rule=MEDIAN, server=optax.sgd(0.1))
    states = []
    for count in (None, at_once):
        servers = protocols.replicated_servers(loss_fn, **given, workers_at_once=count)
        states.append(jax.jit(servers.step)(servers.init(PARAMS, KEY), batch_of(0), KEY)[0])
    chex.assert_trees_all_close(states[0].params, states[1].params, rtol=1e-6, atol=1e-6)
    assert np.abs(states[0].params["w"]).max() > 0.1


def test_traffic():
    servers = protocols.replicated_servers(loss_fn, **options(every=5))
    messages = 6 * 7 + 7 * 6 + 6 * 5 / 5
    assert servers.traffic(PARAMS) == (messages, messages * 4)
    replicas = protocols.replicated_state_machine(
        loss_fn, num_servers=4, num_workers=N, f_servers=1, rule=MEDIAN, server=optax.sgd(0.1)
    )
    assert replicas.traffic(PARAMS) == (56, 224)


def conditionals(function, *args):
    return str(jax.make_jaxpr(function)(*args)).count("cond[")


def test_the_exchange_stays_a_conditional_under_a_vmap_of_runs():
    servers = protocols.replicated_servers(loss_fn, **options(every=3))

    def run(key):
        def step(state, batch):
            return servers.step(state, batch, key)[0], None

        return jax.lax.scan(step, servers.init(PARAMS, key), batches_of(2))[0].params

    keys = jax.random.split(KEY, 2)
    states = jax.vmap(lambda key: servers.init(PARAMS, key), axis_size=2, out_axes=0)(keys)
    one = conditionals(servers.step, servers.init(PARAMS, KEY), batch_of(0), KEY)
    mapped = jax.vmap(servers.step, in_axes=(0, None, 0))
    # The fusion barriers behind the rules are conditionals as well, and stay. The exchange does not
    # if each run has its own step counter.
    assert conditionals(mapped, states, batch_of(0), keys) == one - 1
    assert conditionals(jax.vmap(run), keys) == conditionals(run, KEY) == one


def test_attacks_that_differ_by_receiver():
    """An attack before `pull` learns from `senders` which rows are Byzantine."""

    def largest(updates):
        return jax.tree.map(lambda x: jnp.max(jnp.abs(x), axis=0), updates)

    def half_square(model, batch, key=None):
        del batch, key
        return model**2 / 2  # its gradient is the model

    liar = np.arange(SERVERS) == 2
    noise = byzjax.attack(attacks.gaussian, liar, sigma=100.0, key=KEY)
    servers = protocols.replicated_servers(
        half_square,
        **options(
            pull=remembering(optax.chain(noise, byzjax.aggregate(largest)), 4),
            rule=MEDIAN,
            quorum_servers=4,
        ),
    )
    batch = {"workers": np.ones(N, np.float32)}
    state, info = jax.jit(servers.step)(
        jax.jit(servers.init)(np.zeros((), np.float32), KEY), batch, KEY
    )
    heard_it = (np.asarray(state.stages[1].senders) == 2).any(axis=1)
    assert 0 < heard_it.sum() < N
    np.testing.assert_array_equal(np.asarray(info.honest) != 0, heard_it)
    assert len(np.unique(info.honest)) == heard_it.sum() + 1


def test_lying_servers_wake_by_steps_and_not_by_messages():
    def half_square(model, batch, key=None):
        del batch, key
        return model**2 / 2

    who = attacks.sleeping(np.array([True]), until=2)
    servers = protocols.replicated_servers(
        half_square,
        **options(
            num_servers=1,
            f_servers=0,
            rule=MEDIAN,
            attack_models=byzjax.attack(attacks.constant, who, value=7.0),
        ),
    )
    step, state = jax.jit(servers.step), jax.jit(servers.init)(np.zeros((), np.float32), KEY)
    for expected in (0, 0, 7):
        state, info = step(state, {"workers": np.ones(N, np.float32)}, KEY)
        assert (np.asarray(info.honest) == expected).all()


# --- replicated servers: distances of honest servers ---------------------------------------------

LIES = {
    "none": lambda u, b, key: u,
    "reversed_gradient": lambda u, b, key: attacks.reversed_gradient(u, b, kappa=10.0),
    "inner_product_manipulation": lambda u, b, key: attacks.inner_product_manipulation(
        u, b, epsilon=2.0
    ),
    "little_is_enough": lambda u, b, key: attacks.little_is_enough(u, b, z=3.0),
    "gaussian": lambda u, b, key: attacks.gaussian(u, b, sigma=10.0, key=key),
    "constant": lambda u, b, key: attacks.constant(u, b, value=1e30),
    "non_finite": lambda u, b, key: attacks.non_finite(u, b, value=math.nan),
}


def lie(updates, byzantine, which, *, key):
    """The attack of a traced index: one program for all of them."""
    return jax.lax.switch(which, list(LIES.values()), updates, byzantine, key)


@functools.cache
def sweep(aggregation):
    """One program of runs with 0, 1, 2, 3 of 6 servers and 0, 2, 2, 2 of 7 workers Byzantine.

    For each run it returns, at every step, the distances of the three servers that are honest in
    all runs, and the loss of the last one.
    """
    if aggregation == "median":
        chosen = {"pull": MEDIAN, "every": 2}
    else:
        aksel = byzjax.aggregate(byzjax.aksel, f=F_SERVERS)
        chosen = {"pull": aksel, "contract": aksel}
    batches = batches_of(100)

    def one_leaf_loss(model, batch, key=None):
        return loss_fn({"w": model, "b": 0.0}, batch, key)

    def run(which, byzantine_servers, byzantine, key):
        servers = protocols.replicated_servers(
            one_leaf_loss,
            **options(
                **chosen,
                quorum_servers=4,
                server=optax.sgd(0.05),
                send=byzjax.per_worker(optax.ema(0.9), num_workers=N),
                attack=byzjax.attack(lie, byzantine, which=which, key=key),
                attack_models=byzjax.attack(lie, byzantine_servers, which=which, key=key),
                byzantine_servers=byzantine_servers,
            ),
        )

        def step(state, batch):
            state, _ = servers.step(state, batch, jax.random.fold_in(key, state.step))
            distance = protocols.diameter(state.params[3:])
            last = jax.tree.map(lambda leaf: leaf[-1], batch["workers"])
            loss = one_leaf_loss(state.params[-1], last)
            return state, (distance, loss)

        state, told = jax.lax.scan(step, servers.init(jnp.zeros(DIM), key), batches)
        return told, servers.models(state)

    masks = np.arange(SERVERS) < np.arange(4)[:, None]
    workers = np.arange(N) < np.array([0, F, F, F])[:, None]
    mapped = jax.jit(jax.vmap(run, in_axes=(None, 0, 0, 0)))
    return functools.cache(
        lambda name: jax.device_get(
            mapped(np.int32(list(LIES).index(name)), masks, workers, jax.random.split(KEY, 4))
        )
    )


BROKEN = [name for name in LIES if name not in ("none", "little_is_enough")]
aggregations = pytest.mark.parametrize(
    "aggregation", ["median", pytest.param("aksel", marks=pytest.mark.slow)]
)


@aggregations
@pytest.mark.parametrize("name", LIES)
def test_honest_servers_stay_together(aggregation, name):
    """With at most f attackers, the largest distance in the last 20 of 100 steps is 0.0042.

    Quorums alone, without attackers, keep servers 0.0024 apart. The best model is at distance 3.7
    from the start; noise leaves a loss of 0.0082, which is 14 at first.
    """
    (distance, loss), models = sweep(aggregation)(name)
    assert (distance[:2] < 1).all()
    assert (distance[:2, -20:] < 0.01).all()
    assert (loss[:2, -20:].mean(axis=1) < 0.01).all()
    assert np.isfinite(models[:2]).all()  # no NaN of an attacker gets through
    np.testing.assert_allclose(models[:2], np.tile([1.0, 2, 3], (2, SERVERS - 1, 1)), atol=0.1)


@aggregations
@pytest.mark.parametrize("name", BROKEN)
def test_more_attackers_than_declared_separate_the_servers(aggregation, name):
    """Three of six servers, with one declared and quorums of four."""
    (distance, loss), _ = sweep(aggregation)(name)
    assert not (distance[3, -20:].max() < 1)
    assert not (loss[3, -20:].mean() < 5)


@aggregations
def test_little_is_enough_separates_them_a_little(aggregation):
    (distance, _), _ = sweep(aggregation)("little_is_enough")
    within, beyond = distance[1, -20:].max(), distance[3, -20:].max()
    assert 2 * within < beyond < 1


# --- replicated state machine: votes -------------------------------------------------------------


def agreed_loop(rows, votes):
    """The first row whose bytes enough rows share."""
    sent = [row.tobytes() for row in rows]
    for row, own in zip(rows, sent):
        if sent.count(own) >= votes:
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


# --- replicated state machine: bit for bit -------------------------------------------------------

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
    reason="two programs, whose bits are alike as users compile them: XLA_FLAGS='' pytest",
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


# --- spread --------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_spread():
    rows = np.random.default_rng(0).normal(size=(4, 1 + DIM)).astype(np.float32)
    expected = max(np.linalg.norm(a - b) for a in rows for b in rows)
    spread = compiled(protocols.diameter)

    def models(rows):
        return {"b": rows[:, 0], "w": rows[:, 1:]}

    np.testing.assert_allclose(spread(models(rows)), expected, rtol=1e-6)
    assert spread(models(rows[:1])) == 0
    rows[2, 0] = np.nan
    assert spread(models(rows)) == np.inf
