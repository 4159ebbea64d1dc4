"""Client sampling: states of workers by their number, whoever is drawn."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import byzjax
from byzjax import attacks, protocols
from tests import oracles
from tests.helpers import close, mesh_of, regression_batch, regression_loss

# --- states by worker ----------------------------------------------------------------------------

N, DRAWN, ROUNDS = 9, 4, 8
KEY = jax.random.key(0)
LIMITS = {"deviation": 4.0, "diameter": 1.0, "steps": 9}
WINDOWS = {"windows": (2, 4), "thresholds": (4.0, 6.0)}
MEMORIES = {
    "per_worker": lambda n: byzjax.per_worker(optax.ema(0.9), n),
    "foolsgold": byzjax.foolsgold,
    "concentration_filter": lambda n: byzjax.concentration_filter(n, **LIMITS),
    "safeguard": lambda n: byzjax.safeguard(n, **WINDOWS),
    "mimic": lambda n: attacks.mimic(jnp.arange(n) < 1, key=KEY),
    "stale": lambda n: attacks.stale(jnp.arange(n) < 1, delay=2),
    "neurotoxin": lambda n: attacks.neurotoxin(jnp.arange(n) < 1),
}
SLOW = pytest.mark.slow


def draws(seed, rounds=ROUNDS, drawn=DRAWN, n=N):
    """Who takes part in each round, not in order."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(n)[:drawn] for _ in range(rounds)]


def rows(seed, n=DRAWN, d=3):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_momentum_of_the_drawn_is_that_of_the_loop():
    """Debiased, so that the number of a worker's own updates counts."""
    tx = byzjax.per_worker(optax.ema(0.9), N)
    state, update = tx.init(jnp.zeros(3)), jax.jit(tx.update)
    momenta, counts = {}, dict.fromkeys(range(N), 0)
    for k, who in enumerate(draws(1)):
        out, state = update(rows(k), state, senders=who)
        for row, sent, worker in zip(rows(k), np.asarray(out), who.tolist()):
            momenta[worker] = 0.9 * momenta.get(worker, 0) + 0.1 * row
            counts[worker] += 1
            expected = momenta[worker] / (1 - 0.9 ** counts[worker])
            np.testing.assert_allclose(sent, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(state.count, list(counts.values()))


@pytest.mark.parametrize(
    "name",
    [pytest.param(m, marks=[SLOW] * (m in ("mimic", "concentration_filter"))) for m in MEMORIES],
)
def test_all_workers_in_another_order_keep_their_own_states(name):
    tx = optax.with_extra_args_support(MEMORIES[name](N))
    state, update = tx.init(jnp.zeros(3)), jax.jit(tx.update)
    other = state
    for k, who in enumerate(draws(2, drawn=N, rounds=5)):
        updates = rows(k, n=N)
        out, state = update(updates, state, jnp.ones(3))
        named, other = update(updates[who], other, jnp.ones(3), senders=who)
        close(named, out[who] if out.ndim == 2 else out)
    chex.assert_trees_all_close(
        *(jax.tree.map(numbers, tree) for tree in (state, other)), atol=1e-5
    )


def numbers(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


@pytest.mark.parametrize("name", ["foolsgold", "concentration_filter", "safeguard"])
def test_who_never_takes_part_does_not_count(name):
    """The result is that of a memory made for the others alone, one of whom lies."""
    tx, small = MEMORIES[name](N), MEMORIES[name](DRAWN)
    state, other = tx.init(jnp.zeros(3)), small.init(jnp.zeros(3))
    update, update_small = jax.jit(tx.update), jax.jit(small.update)
    for k in range(6):
        updates = rows(k)
        updates[2] = 30.0
        out, state = update(updates, state, jnp.ones(3), senders=np.array([7, 0, 5, 2]))
        alone, other = update_small(updates, other, jnp.ones(3))
        close(out, alone)
    if name != "foolsgold":
        assert np.asarray(state.good).tolist() == [True] * 5 + [False] + [True] * 3


@pytest.mark.parametrize("name", ["per_worker", "foolsgold", "concentration_filter", "safeguard"])
def test_wrong_senders_are_refused(name):
    tx = MEMORIES[name](N)
    state = tx.init(jnp.zeros(3))
    for senders, message in (
        ([0, 1, 2], rf"^{name} needs one of senders for each of 4 rows; got shape \(3,\)\.$"),
        ([0, 1, 2, 9], r"^senders must be different workers in 0 \.\. 8; got 0, 1, 2, 9\.$"),
        ([0, -1, 2, 3], r"^senders must be different workers in 0 \.\. 8; got 0, -1, 2, 3\.$"),
        ([0, 1, 1, 3], r"^senders must be different workers in 0 \.\. 8; got 0, 1, 1, 3\.$"),
    ):
        for given in (senders, np.array(senders), jnp.array(senders)):
            with pytest.raises(ValueError, match=message):
                tx.update(rows(0), state, jnp.ones(3), senders=given)
    message = rf"^{name} was made for 9 workers; got updates of 4: name them, update\(\.\.\., send"
    with pytest.raises(ValueError, match=message):
        tx.update(rows(0), state, jnp.ones(3))


# --- in the protocol -----------------------------------------------------------------------------

PARAMS = {"w": np.zeros(3, np.float32), "b": np.zeros((), np.float32)}


def server_of(**more):
    options = {"rule": byzjax.aggregate(byzjax.mean), "server": optax.sgd(0.1)} | more
    return protocols.parameter_server(regression_loss, num_workers=N, per_round=DRAWN, **options)


def test_server_momentum_is_kept_by_worker():
    """A momentum of what arrives, in `mix`: also of an attacker's rows, and not of the absent."""
    momentum = byzjax.per_worker(optax.trace(0.5), N)
    lies = byzjax.attack(attacks.sign_flip, jnp.arange(N) < 3)
    server = server_of(mix=momentum, attack=lies, rule=byzjax.aggregate(byzjax.median))
    state, step = server.init(PARAMS, KEY), jax.jit(server.step)
    momenta = np.zeros((N, 3))
    for k in range(ROUNDS):
        state, info = step(state, regression_batch(k, N), jax.random.fold_in(KEY, k))
        who = np.asarray(info.senders)
        momenta[who] = 0.5 * momenta[who] + np.float64(info.sent["w"])
        expected = oracles.median(momenta[who], 0)
        np.testing.assert_allclose(info.aggregate["w"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.stages[2].trace["w"], momenta, rtol=1e-4, atol=1e-5)


def test_stages_see_the_drawn_alone():
    """An attack on honest statistics in `send` sees no zeros of the absent; a count is shared."""
    shapes = []

    def seen(updates, byzantine, step):
        shapes.append(jnp.shape(updates["w"]))
        return attacks.little_is_enough(updates, byzantine, z=1.0 + 0 * step)

    lies = byzjax.attack(seen, jnp.arange(N) < 3)
    counted = optax.scale_by_schedule(lambda count: 1.0 + count)
    inside = server_of(send=optax.chain(byzjax.per_worker(optax.ema(0.9), N), counted, lies))
    outside = server_of(
        send=optax.chain(byzjax.per_worker(optax.ema(0.9), N), counted), attack=lies
    )
    states = [server.init(PARAMS, KEY) for server in (inside, outside)]
    steps_of = [jax.jit(server.step) for server in (inside, outside)]
    for k in range(3):
        batch, key = regression_batch(k, N), jax.random.fold_in(KEY, k)
        both = [step(state, batch, key) for step, state in zip(steps_of, states)]
        states = [state for state, _ in both]
        close(both[0][1].sent["w"], both[1][1].sent["w"])
    assert set(shapes) == {(DRAWN, 3)}
    assert int(states[0].stages[0][1].count) == 3


# --- across devices ------------------------------------------------------------------------------

DEVICES, CLIENTS, F = 8, 30, 2


def with_momentum(num_workers, f, *, axis_name=None):
    return optax.chain(
        byzjax.per_worker(optax.ema(0.9, debias=False), num_workers),
        byzjax.aggregate(byzjax.trimmed_mean, f=f, axis_name=axis_name),
    )


def on_devices(tx, each, d):
    """All rounds of `tx` with `each` clients per device: inputs `[rounds, 8 each, d]`."""

    def run(sent, who):
        state = tx.init(jnp.zeros(d))

        def one(state, inputs):
            updates, senders = inputs
            updates = updates if each > 1 else updates[0]
            out, state = tx.update(updates, state, jnp.zeros(d), senders=senders)
            return state, out

        return jax.lax.scan(one, state, (sent, who))[1]

    specs = (P(None, "workers"), P())
    mesh = mesh_of(workers=DEVICES)
    return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False))


@pytest.mark.parametrize("each", [1, 2])
def test_momentum_of_drawn_clients_across_devices(each):
    """Each round's clients on any device, some of them Byzantine; states by client in NumPy."""
    q, d = each * DEVICES, 13
    who = np.stack(draws(5, drawn=q, n=CLIENTS))
    sent = np.stack([rows(k, n=q, d=d) for k in range(ROUNDS)])
    sent[who < F] = 50.0  # at most two in a round
    sent[3, who[3] == who[3].max()] = -40.0
    tx = byzjax.across_devices(
        with_momentum, "workers", stacked=each > 1, num_workers=CLIENTS, f=F + 1
    )
    result = on_devices(tx, each, d)(sent, who)
    momenta = {client: np.zeros(d) for client in range(CLIENTS)}
    for k in range(ROUNDS):
        for client, row in zip(who[k].tolist(), np.float64(sent[k])):
            momenta[client] = 0.9 * momenta[client] + 0.1 * row
        drawn = np.stack([momenta[client] for client in who[k].tolist()])
        expected = oracles.trimmed_mean(drawn, F + 1)
        np.testing.assert_allclose(result[k], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        byzjax.foolsgold,
        pytest.param(byzjax.concentration_filter, marks=SLOW),
        pytest.param(byzjax.safeguard, marks=SLOW),
    ],
)
def test_memories_of_drawn_clients_across_devices(make):
    given = {
        byzjax.foolsgold: {},
        byzjax.concentration_filter: LIMITS,
        byzjax.safeguard: {"windows": (2, 4), "thresholds": (9.0, 12.0)},
    }[make]
    d, who = 13, np.stack(draws(6, drawn=DEVICES, n=12))
    sent = np.stack([rows(k, n=DEVICES, d=d) for k in range(ROUNDS)])
    sent[who < F] = 50.0
    across = byzjax.across_devices(make, "workers", num_workers=12, **given)
    result = on_devices(across, 1, d)(sent, who)
    tx = make(12, **given)
    state, update = tx.init(jnp.zeros(d)), jax.jit(tx.update)
    for k in range(ROUNDS):
        out, state = update(sent[k], state, jnp.zeros(d), senders=who[k])
        np.testing.assert_allclose(result[k], out, rtol=1e-5, atol=1e-5)
