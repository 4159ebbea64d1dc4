"""Redundant nodes: attackers change no bit under the repetition code."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import byzjax
from byzjax import attacks, protocols
from tests.helpers import compiled, mesh_of
from tests.helpers import regression_loss as loss_fn

KEY = jax.random.key(0)
BATCH, DIM, STEPS, RATE = 4, 3, 5, 0.1
PARAMS = {"w": np.zeros((DIM, 2), np.float32), "b": np.zeros(2, np.float32)}


def noisy_loss_fn(params, batch, key=None):
    return loss_fn(params, batch) + jnp.sum(params["w"] * jax.random.normal(key, (DIM, 2)))


def batch_of(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, BATCH, DIM))
    y = x @ np.arange(1.0, 7.0).reshape(DIM, 2) + rng.normal(size=(n, BATCH, 2))
    return {"workers": {"x": x.astype(np.float32), "y": y.astype(np.float32)}}


def batches_of(n):
    return jax.tree.map(lambda *xs: np.stack(xs), *[batch_of(k, n) for k in range(STEPS)])


def train(protocol, batches, key=KEY, params=PARAMS):
    """The models after each step, and the steps' `Info`."""

    def step(state, given):
        batch, k = given
        state, info = protocol.step(state, batch, jax.random.fold_in(key, k))
        return state, (state.params, info)

    _, out = jax.lax.scan(step, protocol.init(params, key), (batches, jnp.arange(STEPS)))
    return out


def masks_of(rng, groups, r, s, count):
    """Masks: first no attacker; then up to s in each group, exactly s in every third mask."""
    masks = np.zeros((count, groups, r), bool)
    for k, g in itertools.product(range(1, count), range(groups)):
        liars = s if k % 3 == 1 else rng.integers(0, s + 1)
        masks[k, g, rng.choice(r, liars, replace=False)] = True
    return masks.reshape(count, groups * r)


# --- the papers' loops, in NumPy's float64 -------------------------------------------------------


def majority(rows):
    """Boyer and Moore: the row that more than half of the rows equal, if there is one."""
    candidate, count = None, 0
    for row in rows:
        if count == 0:
            candidate = row
        count += 1 if candidate.tobytes() == row.tobytes() else -1
    return candidate


def most_equal(rows):
    """The first of the rows that most rows equal bit for bit."""
    counts = [sum(a.tobytes() == b.tobytes() for b in rows) for a in rows]
    return rows[counts.index(max(counts))]


def gradient(w, b, x, y):
    error = 2 * (x @ w + b - y) / y.size
    return x.T @ error, error.sum(axis=0)


def draco(batches, byzantine, r):
    """The model after all steps; attackers send -100 in every coordinate."""
    w, b = np.zeros((DIM, 2)), np.zeros(2)
    for x, y in zip(*[np.asarray(batches["workers"][name], np.float64) for name in "xy"]):
        votes = []
        for first in range(0, len(x), r):
            group, sent = range(first, first + r), []
            for node in group:
                of_batches = [gradient(w, b, x[j], y[j]) for j in group]
                mean = [sum(parts) / r for parts in zip(*of_batches)]
                sent.append([np.full_like(m, -100) for m in mean] if byzantine[node] else mean)
            votes.append([majority([m[leaf] for m in sent]) for leaf in range(2)])
        dw, db = [sum(parts) / len(votes) for parts in zip(*votes)]
        w, b = w - RATE * dw, b - RATE * db
    return w, b


# --- the vote ------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [1, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_vote_equals_the_loop(r, dtype):
    rng = np.random.default_rng(r)
    values = np.array([0, 1, 2] if dtype == "int32" else [math.nan, -0.0, 0.0, math.inf])
    voted = compiled(protocols.vote, r=r)
    for _ in range(20):
        x = {
            "a": rng.choice(values, size=(12, 2)).astype(jnp.dtype(dtype)),
            "b": rng.choice(values, size=12).astype(jnp.dtype(dtype)),
        }
        out = voted(x)
        for name, leaf in x.items():
            rows = np.asarray(leaf)
            expected = [most_equal(rows[k : k + r]) for k in range(0, 12, r)]
            assert np.asarray(out[name]).tobytes() == np.stack(expected).tobytes()
            assert out[name].dtype == leaf.dtype


@pytest.mark.smoke
def test_vote_is_leaf_by_leaf():
    """Each attacker corrupts another leaf: no row is intact, but every leaf has a majority."""
    spoilt = {name: np.ones((3, 2), np.float32) for name in "abc"}
    for i, leaf in enumerate(spoilt.values()):
        leaf[i] = math.nan
    out = compiled(protocols.vote, r=3)(spoilt)
    chex.assert_trees_all_equal(out, {name: np.ones((1, 2), np.float32) for name in "abc"})


def test_vote_over_sliced_coordinates():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(2, 24)), 3, axis=0).astype(np.float32)
    # In the first group no two rows are equal, though on each slice two are: the first row counts.
    x[0, 5], x[1, 20], x[2, 13], x[4] = 7, 8, 9, math.nan
    sliced = jax.shard_map(
        lambda y: protocols.vote(y, r=3, axis_name="shard"),
        mesh=mesh_of(shard=8),
        in_specs=PartitionSpec(None, "shard"),
        out_specs=PartitionSpec(None, "shard"),
    )
    np.testing.assert_array_equal(jax.jit(sliced)(x), x[[0, 3]])
    np.testing.assert_array_equal(compiled(protocols.vote, r=3)(x), x[[0, 3]])


def test_vote_is_a_mixing():
    tx = byzjax.mix(protocols.vote, r=3)
    x = np.float32([[1], [1], [9], [5], [2], [2]])

    @jax.jit
    def both(x):
        gradient = jax.grad(lambda x: jnp.sum(protocols.vote(x, r=3)))(x)
        return tx.update(x, tx.init(x[0]))[0], gradient[:, 0]

    voted, gradient = both(x)
    np.testing.assert_array_equal(voted, [[1.0], [2.0]])
    np.testing.assert_array_equal(gradient, [1, 0, 0, 0, 1, 0])


def test_errors_of_vote():
    with pytest.raises(ValueError, match=r"^vote needs r to divide n; got r=3, n=4\.$"):
        protocols.vote(np.zeros((4, 1), np.float32), r=3)
    with pytest.raises(TypeError, match=r"^r must be a Python int; got float"):
        protocols.vote(np.zeros((4, 1), np.float32), r=2.0)


# --- the repetition code -------------------------------------------------------------------------

LIES = {
    "sign_flip": attacks.sign_flip,
    "gaussian": lambda x, who: attacks.gaussian(x, who, key=KEY),
    "reversed_gradient": lambda x, who: attacks.reversed_gradient(x, who, kappa=100.0),
    "constant": attacks.constant,
    "not a number": attacks.non_finite,
    "infinity": lambda x, who: attacks.non_finite(x, who, value=math.inf),
    "little_is_enough": lambda x, who: attacks.little_is_enough(x, who, z=1.5),
}


def a_lie(which):
    """The attack of a traced index."""

    def lie(updates, byzantine):
        branches = [lambda x, attack=attack: attack(x, byzantine) for attack in LIES.values()]
        return jax.lax.switch(which, branches, updates)

    return lie


def repetition(nodes, s, r, which, byzantine, **options):
    return protocols.redundant(
        loss_fn,
        **{"num_workers": nodes, "s": s, "r": r, "server": optax.sgd(RATE, momentum=0.5)},
        attack=byzjax.attack(a_lie(which), byzantine),
        **options,
    )


def clean_models(nodes, s, r):
    """The nodes train as in a protocol without an attack."""
    server = optax.sgd(RATE, momentum=0.5)
    protocol = protocols.redundant(loss_fn, num_workers=nodes, s=s, r=r, server=server)
    return jax.jit(lambda: train(protocol, batches_of(nodes))[0])()


@pytest.mark.parametrize(
    ("nodes", "s", "r"), [(10, 2, None), pytest.param(12, 1, 4, marks=pytest.mark.slow)]
)
def test_no_attack_changes_a_bit(nodes, s, r):
    """One program for all masks; in the first of them no node is Byzantine."""
    size, batches = r or 2 * s + 1, batches_of(nodes)
    masks = masks_of(np.random.default_rng(1), nodes // size, size, s, 10)
    assert masks[0].sum() == 0
    assert masks[1].reshape(-1, size).sum(axis=1).tolist() == [s] * (nodes // size)

    @jax.jit
    def of_mask(which, byzantine):
        models, info = train(repetition(nodes, s, r, which, byzantine), batches)
        return models, info.sent["b"], info.honest["b"]

    def run(which, masks):
        # Not mapped: lanes of a vector and what is left over may round differently.
        outcomes = [jax.device_get(of_mask(which, mask)) for mask in masks]
        return jax.tree.map(lambda *rows: np.stack(rows), *outcomes)

    server = protocols.parameter_server(
        loss_fn, rule=byzjax.aggregate(byzjax.mean), server=optax.sgd(RATE, momentum=0.5)
    )
    mean = jax.device_get(jax.jit(lambda: train(server, batches)[0])())
    assert np.abs(mean["w"][-1]).max() > 1
    for which in range(len(LIES)):
        models, sent, honest = run(which, masks)
        np.testing.assert_array_equal((sent != honest).any(axis=(1, 3)), masks)
        for leaf, expected in zip(jax.tree.leaves(models), jax.tree.leaves(mean)):
            np.testing.assert_allclose(leaf[0], expected, rtol=2e-6, atol=2e-6)
            assert all(row.tobytes() == leaf[0].tobytes() for row in leaf)


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "s", "r"), [(10, 2, None), (9, 1, 3), (12, 1, 4)])
def test_bits_are_those_of_a_protocol_without_attack(nodes, s, r):
    size = r or 2 * s + 1
    masks = masks_of(np.random.default_rng(1), nodes // size, size, s, 4)
    run = jax.jit(
        lambda which, byzantine: train(
            repetition(nodes, s, r, which, byzantine), batches_of(nodes)
        )[0]
    )
    clean = clean_models(nodes, s, r)
    for which, byzantine in itertools.product(range(len(LIES)), masks):
        chex.assert_trees_all_equal(run(which, byzantine), clean)


@pytest.mark.smoke
def test_equals_the_papers_loop():
    nodes, r = 9, 3
    byzantine = np.isin(np.arange(nodes), [1, 3, 8])
    lie = byzjax.attack(attacks.constant, byzantine)
    protocol = protocols.redundant(
        loss_fn, num_workers=nodes, s=1, attack=lie, server=optax.sgd(RATE)
    )
    batches = batches_of(nodes)
    models, _ = jax.device_get(jax.jit(lambda: train(protocol, batches))())
    w, b = draco(batches, byzantine, r)
    np.testing.assert_allclose(models["w"][-1], w, rtol=2e-6)
    np.testing.assert_allclose(models["b"][-1], b, rtol=2e-6)


@pytest.mark.parametrize(
    "rule", [byzjax.median, pytest.param(byzjax.geometric_median, marks=pytest.mark.slow)]
)
def test_more_than_s_in_a_group_break_it_and_detox_holds(rule):
    """All nodes of two groups of nine are Byzantine, and one of every other group."""
    nodes, r = 27, 3
    byzantine = np.arange(nodes) % r == 1
    byzantine[[3, 4, 5, 12, 13, 14]] = True
    lie = byzjax.attack(attacks.constant, byzantine, value=-1000.0)
    detox = protocols.redundant(
        loss_fn,
        **{"num_workers": nodes, "s": 1, "attack": lie, "server": optax.sgd(RATE)},
        rule=byzjax.aggregate(rule),
    )

    @jax.jit
    def step(batch):
        _, info = detox.step(detox.init(PARAMS, KEY), batch, KEY)
        return info, protocols.vote(info.sent, r=r)

    info, votes = jax.device_get(step(batch_of(0, nodes)))
    means = jax.tree.map(lambda g: g[::r], info.honest)
    spoilt = np.isin(np.arange(nodes // r), [1, 4])
    for vote, mean in zip(jax.tree.leaves(votes), jax.tree.leaves(means)):
        np.testing.assert_array_equal(vote[spoilt], -1000)
        np.testing.assert_array_equal(vote[~spoilt], mean[~spoilt])
    good = np.concatenate([m[~spoilt].reshape(7, -1) for m in jax.tree.leaves(means)], axis=1)

    def distance(point):
        """The distance to the farthest of the good groups."""
        point = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(point)])
        return np.linalg.norm(good - point, axis=1).max()

    center = jax.tree.map(lambda m: np.mean(m[~spoilt], axis=0), means)
    draco = jax.tree.map(lambda vote: np.mean(vote, axis=0), votes)
    assert distance(draco) > 10 * distance(center)
    assert distance(info.aggregate) < 1.5 * distance(center)


def test_a_trusted_batch_becomes_the_extra_argument_trusted():
    def the_trusted(updates, trusted):
        del updates
        return trusted

    protocol = protocols.redundant(
        loss_fn,
        num_workers=3,
        s=1,
        rule=byzjax.aggregate(the_trusted),
        server=optax.sgd(RATE),
    )
    batch = batch_of(0, 3)
    batch["trusted"] = jax.tree.map(lambda x: x[2], batch["workers"])

    @jax.jit
    def both(batch):
        expected = jax.grad(loss_fn)(PARAMS, batch["trusted"])
        return protocol.step(protocol.init(PARAMS, KEY), batch, KEY)[1], expected

    info, expected = both(batch)
    chex.assert_trees_all_close(info.aggregate, expected, rtol=1e-6)


def test_batches_draw_their_own_keys():
    """Also if two batches are computed at once."""
    options = {"num_workers": 3, "s": 1, "server": optax.sgd(RATE), "workers_at_once": 2}
    protocol = protocols.redundant(noisy_loss_fn, **options)

    @jax.jit
    def both(batch):
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(KEY, jnp.arange(3))
        of_one = jax.vmap(lambda b, key: jax.grad(noisy_loss_fn)(PARAMS, b, key))
        expected = byzjax.mean(of_one(batch["workers"], keys))
        return protocol.step(protocol.init(PARAMS, KEY), batch, KEY)[1].aggregate, expected

    aggregate, expected = both(batch_of(0, 3))
    chex.assert_trees_all_close(aggregate, expected, rtol=2e-6, atol=2e-6)


# --- the interface of protocols ------------------------------------------------------------------


@pytest.mark.parametrize("code", ["repetition", "cyclic"])
def test_state_info_and_traffic(code):
    """With an attack that has memory: its state has the shape of a message."""
    protocol = protocols.redundant(
        loss_fn,
        num_workers=6,
        s=1,
        code=code,
        attack=attacks.stale(np.arange(6) == 4, delay=2),
        server=optax.adam(RATE),
    )
    state = jax.jit(protocol.init)(PARAMS, KEY)
    after, info = jax.jit(protocol.step)(state, batch_of(0, 6), KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert info.senders.tolist() == list(range(6))
    for tree in (info.honest, info.sent):
        assert jax.tree.map(jnp.shape, tree) == {"w": (6, DIM, 2), "b": (6, 2)}
    assert protocol.models(after)["w"].shape == (1, DIM, 2)
    up = 2 if code == "cyclic" else 1
    assert protocol.traffic(PARAMS) == (12, 6 * 8 + up * 6 * 8)
    with pytest.raises(ValueError, match=r"^expected batches of 6 workers; got 7\.$"):
        protocol.step(state, batch_of(0, 7), KEY)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"s": 2, "r": 3}, ValueError, "redundant needs r >= 2s + 1; got r=3, s=2."),
        (
            {"s": 1, "r": 2, "num_workers": 4},
            ValueError,
            "redundant needs r >= 2s + 1; got r=2, s=1.",
        ),
        (
            {"s": 1, "num_workers": 10},
            ValueError,
            "redundant needs r to divide num_workers; got r=3, num_workers=10.",
        ),
        (
            {"s": 2, "num_workers": 4, "code": "cyclic"},
            ValueError,
            "the cyclic code needs num_workers >= 2s + 1; got num_workers=4, s=2.",
        ),
        (
            {"s": 5, "num_workers": 45, "code": "cyclic"},
            ValueError,
            "the cyclic code needs at most 5000 sets of s among num_workers nodes; "
            "got num_workers=45, s=5, which is 1221759 sets.",
        ),
        (
            {"s": 1, "r": 4, "code": "cyclic"},
            ValueError,
            "the cyclic code has r = 2s + 1; got r=4, s=1.",
        ),
        (
            {"s": 1, "code": "cyclic", "rule": byzjax.aggregate(byzjax.median)},
            ValueError,
            "the cyclic code takes no rule: it decodes one mean.",
        ),
        (
            {"s": 1, "code": "fountain"},
            ValueError,
            "code must be one of repetition, cyclic; got 'fountain'.",
        ),
        ({"s": 1.0}, TypeError, "s must be a Python int; got float, "),
        ({"s": 1, "r": 3.0}, TypeError, "r must be a Python int; got float, "),
        (
            {"s": 1, "workers_at_once": 0},
            ValueError,
            "workers_at_once must be at least 1; got workers_at_once=0.",
        ),
    ],
)
def test_what_cannot_be_stops_at_construction(options, error, text):
    with pytest.raises(error) as caught:
        protocols.redundant(loss_fn, **{"num_workers": 15, "server": optax.sgd(RATE)} | options)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("code", [pytest.param("repetition", marks=pytest.mark.slow), "cyclic"])
def test_without_liars_to_tolerate_it_is_the_mean(code):
    protocol = protocols.redundant(loss_fn, num_workers=4, s=0, code=code, server=optax.sgd(RATE))

    @jax.jit
    def both(batch):
        union = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch["workers"])
        _, info = protocol.step(protocol.init(PARAMS, KEY), batch, KEY)
        return info, jax.grad(loss_fn)(PARAMS, union)

    info, gradient = both(batch_of(0, 4))
    chex.assert_trees_all_close(info.aggregate, gradient, rtol=1e-5, atol=1e-6)
