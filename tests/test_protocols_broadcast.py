"""Reliable broadcast against message passing in a random order, and replicas that need it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks, protocols
from tests.helpers import compiled
from tests.test_protocols_replicated import KEY, LIARS, PARAMS, F, N, batch_of
from tests.test_protocols_replicated import loss_fn as replicated_loss

SIZES = [(4, 1), (7, 2), (8, 2), (10, 3)]


def broadcast_loop(rows, byzantine, echoes, readies, f, rng):
    """Bracha's protocol with a queue of messages, delivered in a random order."""
    n = len(rows)
    sent = [row.tobytes() for row in rows]
    heard = {kind: [{} for _ in range(n)] for kind in ("echo", "ready")}
    said = [set() for _ in range(n)]
    result = [None] * n
    queue = [("send", None, j, sent[j]) for j in range(n)]
    for i in np.flatnonzero(byzantine):
        for kind, table in (("echo", echoes), ("ready", readies)):
            queue += [(kind, i, j, sent[table[i, j]]) for j in range(n) if table[i, j] >= 0]

    def tell(kind, i, value):
        if not byzantine[i] and kind not in said[i]:
            said[i].add(kind)
            queue.extend((kind, i, j, value) for j in range(n))

    while queue:
        kind, i, j, value = queue.pop(rng.integers(len(queue)))
        if kind == "send":
            tell("echo", j, value)
            continue
        heard[kind][j].setdefault(value, set()).add(i)
        if len(heard["echo"][j].get(value, ())) > (n + f) / 2:
            tell("ready", j, value)
        count = len(heard["ready"][j].get(value, ()))
        if count > f:
            tell("ready", j, value)
        if count > 2 * f:
            result[j] = value
    return result


@functools.cache
def broadcast(f):
    return jax.jit(functools.partial(protocols.reliable_broadcast, f=f))


def drawn(seed, n, f):
    """What a sender sends, where up to f nodes are Byzantine, and what these say."""
    rng = np.random.default_rng([seed, n])
    kinds = rng.integers(1, 4)
    share = rng.uniform(0.2, 1)  # of nodes that get the first value
    chosen = np.where(rng.random(n) < share, 0, rng.integers(0, kinds, size=n))
    rows = np.array([[0.0, 1.5], [-0.0, 1.5], [np.nan, 2.0]], np.float32)[chosen]
    byzantine = np.zeros(n, bool)
    byzantine[rng.permutation(n)[: rng.integers(0, f + 1)]] = True
    tables = rng.integers(-1, n, size=(2, n, n))
    if seed % 2:  # each is told what it wants to hear
        tables[:] = np.arange(n)
    return rng, rows, byzantine, *tables.astype(np.int32)


@pytest.mark.smoke
@pytest.mark.parametrize(("n", "f"), SIZES)
def test_equals_message_passing_and_keeps_its_guarantees(n, f):
    outcomes = set()
    for seed in range(60):
        rng, rows, byzantine, echoes, readies = drawn(seed, n, f)
        out = jax.device_get(broadcast(f)(rows, byzantine, echoes, readies))
        expected = broadcast_loop(rows, byzantine, echoes, readies, f, rng)
        honest = np.flatnonzero(~byzantine)
        for i in honest:
            assert out.delivered[i] == (expected[i] is not None), seed
            if out.delivered[i]:
                assert out.updates[i].tobytes() == expected[i], seed
            else:
                assert np.isnan(out.updates[i]).all()
        outcome = {out.updates[i].tobytes() if out.delivered[i] else None for i in honest}
        assert len(outcome) == 1, seed  # agreement, and all or none
        if len({row.tobytes() for row in rows[honest]}) == 1:  # as from an honest sender
            assert outcome == {rows[honest[0]].tobytes()}
        outcomes.add(None in outcome)
    assert outcomes == {True, False}


def test_one_byzantine_node_too_many_splits_the_honest_ones():
    """n = 4, f = 1, but two Byzantine nodes tell both others what they want to hear."""
    rows = np.float32([[1], [2], [3], [3]])
    support = np.broadcast_to(np.arange(4, dtype=np.int32), (4, 4))
    lying = np.array([False, False, True, True])
    out = protocols.reliable_broadcast(rows, lying, support, support, f=1)
    assert out.updates[:2].ravel().tolist() == [1.0, 2.0]


def test_a_ready_of_few_is_taken_up_by_all():
    """Of 7 nodes 5 get enough echoes; readies of f + 1 = 3 convince the others."""
    rows = np.float32([[1]] * 5 + [[2]] * 2)
    lying, none = np.zeros(7, bool), None
    out = protocols.reliable_broadcast(rows, lying, none, none, f=2)
    assert out.delivered.all()
    assert out.updates.ravel().tolist() == [1.0] * 7
    lying[0] = True  # silent: 4 echoes of 1 are not more than (7 + 2) / 2
    out = protocols.reliable_broadcast(rows, lying, none, none, f=2)
    assert not out.delivered.any()


def test_trees_and_dtypes():
    tree = {"a": jnp.ones((4, 2, 3), jnp.bfloat16), "b": jnp.arange(4.0) * 0}
    out = compiled(protocols.reliable_broadcast, f=1)(tree, jnp.zeros(4, bool))
    assert out.delivered.all()
    jax.tree.map(np.testing.assert_array_equal, out.updates, tree)
    assert out.updates["a"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda x: protocols.reliable_broadcast(x, np.zeros(4, bool), f=2),
            r"n >= 3f \+ 1; got n=4, f=2",
        ),
        (
            lambda x: protocols.reliable_broadcast(x, np.zeros(3, bool), f=1),
            r"bool\[n\] with n=4; got bool\[3\]",
        ),
        (
            lambda x: protocols.reliable_broadcast(
                x, np.zeros(4, bool), np.zeros((4, 3), int), f=1
            ),
            r"echoes has shape \(4, 3\); 4 nodes need shape \(4, 4\)",
        ),
    ],
)
def test_errors(call, said):
    with pytest.raises(ValueError, match=said):
        call(np.zeros((4, 2), np.float32))


# --- replicas ------------------------------------------------------------------------------------

REPLICAS = 4
BYZANTINE_SERVERS = np.arange(REPLICAS) == REPLICAS - 1
# Of the Byzantine workers the first tells half of the replicas something else, the second one.
EQUIVOCATING = np.zeros((REPLICAS, N), bool)
EQUIVOCATING[2:, np.flatnonzero(LIARS)[0]] = True
EQUIVOCATING[2, np.flatnonzero(LIARS)[1]] = True


def trained(steps=4, **options):
    """The models of the first honest replicas after a few steps."""
    machine = protocols.replicated_state_machine(
        replicated_loss,
        num_servers=REPLICAS,
        num_workers=N,
        f_servers=1,
        rule=byzjax.aggregate(byzjax.aksel, f=F),
        server=optax.sgd(0.05, momentum=0.5),
        attack=byzjax.attack(attacks.reversed_gradient, LIARS, kappa=3.0),
        byzantine_servers=BYZANTINE_SERVERS,
        **options,
    )
    state, step = machine.init(PARAMS, KEY), jax.jit(machine.step)
    for k in range(steps):
        state, info = step(state, batch_of(k), jax.random.fold_in(KEY, k))
    return jax.device_get(machine.models(state)), info


def bits(models, row):
    return [np.asarray(leaf[row]).tobytes() for leaf in jax.tree.leaves(models)]


def test_replicas_that_broadcast_stay_equal_where_others_part():
    together, _ = trained(equivocating=EQUIVOCATING)
    apart, _ = trained(equivocating=EQUIVOCATING, broadcast="none")
    assert bits(together, 0) == bits(together, 1) == bits(together, 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(together))
    assert bits(apart, 0) == bits(apart, 1) != bits(apart, 2)


def test_who_does_not_equivocate_is_delivered():
    """The same steps as without a broadcast, up to the rounding of another program."""
    plain, info = trained()
    silent = np.zeros((REPLICAS, N), bool)
    broadcast_, same = trained(equivocating=silent)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(broadcast_), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), info, same)


def test_an_update_that_is_not_delivered_is_a_row_of_nan():
    """A Byzantine worker that splits the replicas evenly is a fault that the rule sees."""

    def last_row(updates):
        return jax.tree.map(lambda leaf: leaf[np.flatnonzero(LIARS)[0]], updates)

    machine = protocols.replicated_state_machine(
        replicated_loss,
        num_servers=REPLICAS,
        num_workers=N,
        f_servers=1,
        rule=byzjax.aggregate(last_row),
        server=optax.sgd(0.05),
        attack=byzjax.attack(attacks.reversed_gradient, LIARS, kappa=3.0),
        equivocating=EQUIVOCATING,
    )
    _, info = jax.jit(machine.step)(machine.init(PARAMS, KEY), batch_of(0), KEY)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(info.aggregate))


def test_errors_of_the_machine():
    with pytest.raises(ValueError, match=rf"^equivocating must be bool\[n, m\] with n=4, m={N}"):
        trained(equivocating=np.zeros((REPLICAS, N + 1), bool))
    with pytest.raises(ValueError, match=r"^broadcast must be one of reliable, none; got 'some'"):
        trained(broadcast="some")
