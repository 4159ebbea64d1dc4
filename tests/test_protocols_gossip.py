"""Gossip, also with clipping, against a loop over nodes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import byzjax
from byzjax import attacks, protocols
from byzjax.protocols import graphs
from tests import oracles
from tests.helpers import compiled, regression_batch
from tests.helpers import regression_loss as loss_fn

KEY = jax.random.key(0)
NUMBERS = jax.random.key(0, impl="unsafe_rbg")  # its noise compiles in a third of the time
BATCH, DIM = 4, 3
PARAMS = {"b": np.zeros((), np.float32), "w": np.zeros(DIM, np.float32)}
CLIQUES = graphs.two_cliques(7)  # neighbourhoods of 3, 4 and 5 rows
LIARS = np.arange(7) == 2
batch_of = functools.partial(regression_batch, n=7)
TRIM = byzjax.aggregate(byzjax.trimmed_mean, f=1)
CLIP = byzjax.aggregate(protocols.clipped_gossip, f=1)


def rows_of(params):
    """Models as rows: b, then w, one row per node."""
    return np.column_stack([params["b"], params["w"]]).astype(np.float64)


def constant_loss(params, batch, key=None):
    """A loss with zero gradient: only the exchange remains."""
    del batch, key
    return 0 * jnp.sum(params)


def nothing(n):
    return {"workers": np.zeros((n, 1), np.float32)}


def begun(peers, params, models=None):
    """An initial state in which nodes may have different models."""
    state = jax.jit(peers.init)(params, KEY)
    return state if models is None else state._replace(params=np.asarray(models, np.float32))


def row(index):
    """A rule that returns one row: row 0 is the node's, row 1 the first neighbour's."""
    return byzjax.aggregate(lambda updates: byzjax.stacked.take(updates, index))


# --- the paper's loop -----------------------------------------------------------------------------


def clip_loop(rows, weights, radius=None, f=None):
    distances = [np.linalg.norm(x - rows[0]) for x in rows[1:]]
    if f is not None:
        radius = sorted(distances, reverse=True)[f]
    out = rows[0].copy()
    for x, w, far in zip(rows[1:], weights[1:], distances):
        out += w * (x - rows[0]) * (1 if far <= radius else radius / far)
    return out


def dissensus_loop(rows, byzantine, center, weights, epsilon=1.0):
    if not byzantine.any():
        return rows
    pull = sum(w * (x - center) for x, w, lies in zip(rows, weights, byzantine) if not lies)
    total = sum(w for w, lies in zip(weights, byzantine) if lies)
    return oracles.lie(rows, byzantine, center - epsilon * pull / total)


def one_step(graph, models, momenta, batch, rule, lie, byzantine, per_receiver):
    """Node by node: its gradient, its momentum, the rows that it receives, its new model."""
    x = np.asarray(batch["workers"]["x"], np.float64)
    y = np.asarray(batch["workers"]["y"], np.float64)
    n, half = len(graph), []
    for i in range(n):
        error = x[i] @ models[i][1:] + models[i][0] - y[i]
        gradient = np.concatenate([[2 * error.mean()], 2 * error @ x[i] / len(error)])
        momenta[i] = gradient + 0.9 * momenta[i]
        half.append(models[i] - 0.05 * momenta[i])
    half = np.array(half)
    sent = half if per_receiver else lie(half, byzantine)
    weights, new = np.array(graphs.metropolis_weights(graph)), []
    for i in range(n):
        senders = [i, *(j for j in range(n) if graph[i][j])]
        rows, shares = sent[senders], weights[i][senders]
        if per_receiver:
            rows = lie(rows, byzantine[senders], half[i], shares)
        rows = np.array([half[i], *rows[1:]])
        new.append(rule(rows, half[i], shares))
    return np.array(new), half, sent


CASES = {
    "trimmed mean": (
        byzjax.aggregate(byzjax.trimmed_mean, f=1),
        lambda rows, center, weights: oracles.trimmed_mean(rows, 1),
        byzjax.attack(attacks.inner_product_manipulation, LIARS, epsilon=2.0),
        functools.partial(oracles.inner_product_manipulation, epsilon=2.0),
        False,
    ),
    "MoNNA": (
        byzjax.aggregate(byzjax.nearest_to_pivot, f=1),
        lambda rows, center, weights: oracles.nearest_to_pivot(rows, 1),
        byzjax.attack(attacks.inner_product_manipulation, LIARS, epsilon=-1.1),
        lambda rows, mask, *_: (
            oracles.inner_product_manipulation(rows, mask, epsilon=-1.1) if mask.any() else rows
        ),
        True,
    ),
    "centered clipping": (
        byzjax.aggregate(byzjax.centered_clip, radius=0.2),
        lambda rows, center, weights: oracles.centered_clip(rows, 0, center, 0.2),
        byzjax.attack(attacks.sign_flip, LIARS),
        oracles.sign_flip,
        False,
    ),
    "clipped gossip": (
        byzjax.aggregate(protocols.clipped_gossip, f=1),
        lambda rows, center, weights: clip_loop(rows, weights, f=1),
        byzjax.attack(attacks.dissensus, LIARS, epsilon=1.5),
        functools.partial(dissensus_loop, epsilon=1.5),
        True,
    ),
}


@pytest.mark.parametrize(
    "case",
    [
        "trimmed mean",
        pytest.param("clipped gossip", marks=pytest.mark.smoke),
        *[pytest.param(case, marks=pytest.mark.slow) for case in ("MoNNA", "centered clipping")],
    ],
)
def test_equals_the_loop_over_nodes(case):
    rule, rule_loop, attack, lie, per_receiver = CASES[case]
    peers = protocols.gossip(
        loss_fn,
        graph=CLIQUES,
        rule=rule,
        optimizer=optax.sgd(0.05, momentum=0.9),
        byzantine=LIARS,
        f=1,
        attack=attack,
        per_receiver=per_receiver,
    )
    state, step = begun(peers, PARAMS), jax.jit(peers.step)
    models, momenta, mask = np.zeros((7, 1 + DIM)), np.zeros((7, 1 + DIM)), LIARS
    for k in range(5):
        state, info = step(state, batch_of(k), KEY)
        models, half, sent = one_step(
            CLIQUES, models, momenta, batch_of(k), rule_loop, lie, mask, per_receiver
        )
        np.testing.assert_allclose(rows_of(state.params), models, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(rows_of(info.honest), half, rtol=2e-5, atol=2e-6)
        expected = models[~mask].mean(axis=0)
        np.testing.assert_allclose(info.aggregate["w"], expected[1:], rtol=2e-5, atol=2e-6)
        if not per_receiver:
            np.testing.assert_allclose(rows_of(info.sent), sent, rtol=2e-5, atol=2e-6)
    assert info.senders.tolist() == list(range(7))
    assert np.abs(models - models[0]).max() > 0.01  # nodes have different models
    np.testing.assert_array_equal(rows_of(peers.models(state)), rows_of(state.params)[~mask])


def test_no_fault_and_the_mean_of_all_is_sgd_on_all_data():
    peers = protocols.gossip(
        loss_fn,
        graph=graphs.complete(7),
        rule=byzjax.aggregate(byzjax.mean),
        optimizer=optax.sgd(0.1),
    )
    state, params, step = begun(peers, PARAMS), PARAMS, jax.jit(peers.step)
    gradient = jax.jit(jax.grad(loss_fn))
    for k in range(5):
        batch = batch_of(k)
        state, _ = step(state, batch, KEY)
        union = jax.tree.map(lambda x: x.reshape(7 * BATCH, *x.shape[2:]), batch["workers"])
        grads = jax.device_get(gradient(params, union))
        params = jax.tree.map(lambda x, g: x - np.float32(0.1) * g, params, grads)
        every = jax.tree.map(lambda leaf: np.stack([leaf] * 7), params)
        chex.assert_trees_all_close(peers.models(state), every, rtol=1e-5, atol=1e-6)
    assert np.linalg.norm(params["w"]) > 1


def test_exchange_alone_is_a_product_with_the_weights():
    """So the average of all models is preserved, and they converge to it."""
    peers = protocols.gossip(
        constant_loss,
        graph=CLIQUES,
        rule=byzjax.aggregate(byzjax.stacked.weighted_mean),
        optimizer=optax.sgd(0.1),
    )
    x = np.random.default_rng(0).normal(size=(7, 3))
    state = begun(peers, np.zeros(3, np.float32), x)
    step, weights = jax.jit(peers.step), np.array(graphs.metropolis_weights(CLIQUES))
    for k in range(1, 41):
        state, _ = step(state, nothing(7), KEY)
        power = np.linalg.matrix_power(weights, k)
        np.testing.assert_allclose(state.params, power @ x, atol=2e-6)
    last = np.asarray(state.params)
    np.testing.assert_allclose(last.mean(axis=0), x.mean(axis=0), atol=2e-6)
    assert np.ptp(last, axis=0).max() < 0.05 * np.ptp(x, axis=0).max()


# --- what nodes receive ---------------------------------------------------------------------------


def heard_from_the_first(graph, attack, per_receiver, byzantine, index=1):
    n = len(graph)
    peers = protocols.gossip(
        constant_loss,
        graph=graph,
        rule=row(index),
        optimizer=optax.sgd(1.0),
        byzantine=byzantine,
        attack=attack,
        per_receiver=per_receiver,
    )
    state = begun(peers, np.zeros(1, np.float32), np.arange(1, n + 1)[:, None])
    state, info = jax.device_get(jax.jit(peers.step)(state, nothing(n), KEY))
    return state.params[:, 0], info


def test_an_attacker_sends_all_the_same_or_each_something_else():
    byzantine = np.arange(4) == 0
    noise = byzjax.attack(attacks.gaussian, byzantine, sigma=100.0, key=NUMBERS)
    heard, info = heard_from_the_first(graphs.complete(4), noise, False, byzantine)
    assert heard[0] == 2
    assert np.ptp(heard[1:]) == 0
    np.testing.assert_array_equal(info.sent[0], heard[1])
    heard, info = heard_from_the_first(graphs.complete(4), noise, True, byzantine)
    assert heard[0] == 2
    assert len(np.unique(heard[1:])) == 3
    assert np.abs(heard[1:]).min() > 5
    # What the first honest node receives.
    np.testing.assert_array_equal(info.sent[:, 0], [heard[1], 2, 3, 4])


def test_what_the_first_honest_node_does_not_hear_is_the_half_step():
    byzantine = np.array([True, False, False, True, False, True])
    flip = byzjax.attack(attacks.sign_flip, byzantine)
    heard, info = heard_from_the_first(graphs.ring(6), flip, True, byzantine)
    assert heard.tolist() == [2, -1, 2, 3, -4, -1]  # the neighbour of lower index
    assert info.sent[:, 0].tolist() == [-1, 2, 3, 4, 5, 6]
    assert info.honest[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    chain = graphs.dumbbell(2, 1)  # 0 - 1 - 2 - 3 - 4: neighbourhoods of two sizes
    byzantine = np.array([True, False, True, True, False])
    flip = byzjax.attack(attacks.sign_flip, byzantine)
    heard, info = heard_from_the_first(chain, flip, True, byzantine)
    assert heard.tolist() == [2, -1, 2, -3, -4]
    assert info.sent[:, 0].tolist() == [-1, 2, -3, 4, 5]


def test_a_node_does_not_lie_to_itself():
    byzantine = np.arange(5) < 3
    flip = byzjax.attack(attacks.sign_flip, byzantine)
    for per_receiver in (False, True):
        heard, _ = heard_from_the_first(graphs.star(5), flip, per_receiver, byzantine, index=0)
        assert heard.tolist() == [1, 2, 3, 4, 5]


def test_dissensus_holds_every_honest_node_where_it_is():
    """If some neighbours are Byzantine: they cancel the pull of the honest neighbours."""
    byzantine = np.arange(7) == 3
    peers = protocols.gossip(
        constant_loss,
        graph=CLIQUES,
        rule=byzjax.aggregate(byzjax.stacked.weighted_mean),
        optimizer=optax.sgd(0.1),
        byzantine=byzantine,
        f=1,
        attack=byzjax.attack(attacks.dissensus, byzantine),
        per_receiver=True,
    )
    x = 100 + np.random.default_rng(4).normal(size=(7, 3)).astype(np.float32)
    state = begun(peers, np.zeros(3, np.float32), x)
    state, info = jax.jit(peers.step)(state, nothing(7), KEY)
    new, near = np.asarray(state.params), [0, 4, 5, 6]  # the nodes that hear node 3
    np.testing.assert_allclose(new[near], x[near], rtol=2e-7)
    assert np.abs(new[1:3] - x[1:3]).min() > 0.01
    weights = np.array(graphs.metropolis_weights(CLIQUES))[0][:4]
    lies = dissensus_loop(x[:4].astype(np.float64), np.arange(4) == 3, x[0], weights)
    np.testing.assert_allclose(info.sent[3], lies[3], rtol=1e-6)


# --- states ---------------------------------------------------------------------------------------


def test_the_optimizer_sees_its_own_nodes_model():
    peers = protocols.gossip(
        constant_loss,
        graph=graphs.ring(3),
        rule=row(0),
        optimizer=optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1.0)),
    )
    x = np.float32([[1, 2], [10, 20], [100, 200]])
    state = begun(peers, np.zeros(2, np.float32), x)
    state, _ = jax.jit(peers.step)(state, nothing(3), KEY)
    np.testing.assert_allclose(state.params, 0.9 * x, rtol=1e-6)


HALVES = graphs.two_cliques(6)  # neighbourhoods of 3 and 4 rows
POINTS = np.random.default_rng(2).normal(size=(6, DIM)).astype(np.float32)
ORIGIN = np.zeros(DIM, np.float32)
OWN_POINTS = {"workers": POINTS}
TWO = np.array([True, False, False, False, True, False])


def toward_its_own(params, batch, key=None):
    """Node i alone would converge to its own point."""
    del key
    return 0.5 * jnp.sum((params - batch) ** 2)


def peers_of(byzantine, *, loss=toward_its_own, graph=HALVES, rule=None, key=None, **options):
    """At most two attackers, which send noise if there is a key, and dissensus otherwise."""
    lie = byzjax.attack(attacks.dissensus, byzantine)
    if key is not None:
        lie = byzjax.attack(attacks.gaussian, byzantine, sigma=3.0, key=key)
    options = {"attack": lie} | options
    return protocols.gossip(
        loss,
        graph=graph,
        rule=byzjax.aggregate(byzjax.trimmed_mean, f=1) if rule is None else rule,
        optimizer=optax.sgd(0.1, momentum=0.5),
        byzantine=byzantine,
        f=2,
        **options,
    )


def test_every_node_keeps_its_rules_memory():
    """The stored center is the node's own last result, whatever its degree."""
    rule = byzjax.centered_clipping(radius=0.5)
    peers = peers_of(np.zeros(6, bool), rule=rule, attack=None)
    state, _ = jax.device_get(jax.jit(peers.step)(begun(peers, ORIGIN), OWN_POINTS, KEY))
    np.testing.assert_allclose(state.rule.center, state.params, rtol=1e-6)
    # Two nodes in each half hear the same three; those on the bridge hear one more.
    assert len(np.unique(np.round(state.params[:, 0], 5))) == 4


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("graph", "per_receiver", "key", "chunk"),
    [
        (graphs.ring(6), True, None, 4),
        pytest.param(HALVES, True, KEY, 1, marks=SLOW),
        pytest.param(HALVES, False, KEY, 3, marks=SLOW),
    ],
)
def test_fewer_nodes_at_once_are_the_same(graph, per_receiver, key, chunk):
    results = []
    for at_once in (None, chunk):
        options = {"per_receiver": per_receiver, "workers_at_once": at_once}
        peers = peers_of(TWO, graph=graph, key=key, **options)
        state = begun(peers, ORIGIN)
        results.append(jax.jit(peers.step)(state, OWN_POINTS, KEY))
    (state, info), (same_state, same_info) = results
    chex.assert_trees_all_close(same_state.params, state.params, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(same_info, info, rtol=1e-6, atol=1e-6)


def test_a_sweep_over_masks_and_keys_in_one_scan():
    circle = graphs.ring(6)

    def keyed(params, batch, key):
        moved = (jax.random.key_data(key)[-1] % 1000).astype(jnp.float32) / 1000
        return toward_its_own(params, batch + moved)

    @jax.jit
    @jax.vmap
    def run(byzantine, key):
        peers = peers_of(byzantine, loss=keyed, graph=circle, per_receiver=True)

        def step(state, _):
            state, info = peers.step(state, OWN_POINTS, key)
            return state, info.aggregate

        state, ways = jax.lax.scan(step, peers.init(jnp.full(DIM, 20.0), key), length=60)
        return peers.models(state), ways

    masks = np.array([[False] * 6, np.arange(6) == 0, np.arange(6) % 3 == 0])
    keys = jax.random.split(KEY, 3)
    models, ways = jax.device_get(run(masks, keys))
    assert models.shape == (3, 4, DIM)
    for mask, final in zip(masks, models):
        mine = POINTS[~mask]
        assert (final > mine.min(axis=0)).all()
        assert (final < mine.max(axis=0) + 1).all()
    other = np.array([2, 0, 1])
    np.testing.assert_allclose(run(masks[other], keys[other])[1], ways[other], rtol=1e-6)
    for changed in (run(masks[other], keys)[1], run(masks, keys[other])[1]):
        assert np.abs(np.asarray(changed - ways)[:, -1]).max(axis=1).min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("per_receiver", [False, True])
def test_one_of_a_sweep_is_the_run_by_itself(per_receiver):
    def run(byzantine, key):
        peers = peers_of(byzantine, key=key, per_receiver=per_receiver)

        def step(state, _):
            state, info = peers.step(state, OWN_POINTS, key)
            return state, info

        return jax.lax.scan(step, peers.init(jnp.zeros(DIM), key), length=10)

    masks, keys = np.array([TWO, ~TWO & (np.arange(6) == 1)]), jax.random.split(KEY, 2)
    every = jax.jit(jax.vmap(run))(masks, keys)
    alone = jax.jit(run)
    for i in range(2):
        state, info = alone(masks[i], keys[i])
        chex.assert_trees_all_close(info, jax.tree.map(lambda x, i=i: x[i], every[1]), rtol=1e-5)
        np.testing.assert_allclose(state.params, every[0].params[i], rtol=1e-5)


# --- clipped gossip -------------------------------------------------------------------------------


clipping = functools.partial(compiled, protocols.clipped_gossip)


@pytest.mark.parametrize("options", [{"radius": 2.0}, {"f": 0}, {"f": 1}, {"f": 3}])
@given(seed=st.integers(0, 2**32 - 1))
def test_clipped_gossip_equals_the_papers_loop(options, seed):
    rng = np.random.default_rng(seed)
    rows, weights = rng.normal(size=(5, 3)).astype(np.float32), rng.dirichlet(np.ones(5))
    tree = {"a": rows[:, :1], "b": rows[:, 1:].reshape(5, 2, 1)}
    out = clipping(**options)(tree, weights.astype(np.float32))
    expected = clip_loop(rows.astype(np.float64), weights, **options)
    result = np.concatenate([out["a"], np.asarray(out["b"])[:, 0]])
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_clipped_gossip_far_from_the_origin():
    """Models that are close together and a million times as far from 0."""
    rows = 1e4 + np.random.default_rng(0).normal(size=(5, 3)) / 64
    rows = rows.astype(np.float32).astype(np.float64)  # as they are sent
    out = clipping(f=1)(rows.astype(np.float32), np.full(5, 0.2, np.float32))
    np.testing.assert_allclose(out, clip_loop(rows, np.full(5, 0.2), f=1), atol=5.1e-4)


def test_clipped_gossip_and_what_is_not_finite():
    rows = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    weights = np.float32([0.3, 0.1, 0.1, 0.2, 0.1, 0.2])
    rows[2], rows[5, 1] = np.nan, -np.inf
    kept = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, rows[0])
    for options in ({"radius": 0.7}, {"f": 2}, {"f": 1}):
        out = clipping(**options)(rows, weights)
        radius = options.get("radius")
        if radius is None:  # non-finite rows are the farthest: two are clipped, with one none is
            finite = sorted(np.linalg.norm(kept[1:] - rows[0], axis=1))
            radius = finite[-1] if options["f"] == 2 else np.inf
        expected = clip_loop(kept.astype(np.float64), weights, radius=radius)
        np.testing.assert_allclose(out, expected, atol=1e-6)


def test_clipped_gossip_moves_no_farther_than_tau():
    """With f, nor farther than an honest neighbour is away: 1e30 does not move it far."""
    rows = np.array([[0.0, 0.0], [3.0, 4.0], [1e15, 0.0], [0.0, 1e15], [1.0, 0.0]], np.float32)
    weights = np.full(5, 0.2, np.float32)
    assert np.linalg.norm(clipping(radius=2.0)(rows, weights)) <= 0.8 * 2
    assert np.linalg.norm(clipping(f=2)(rows, weights)) <= 0.8 * 5
    assert np.linalg.norm(clipping(f=1)(rows, weights)) > 1e13


def test_clipped_gossip_keeps_the_dtype_and_has_derivatives():
    rows = np.float32([[1], [1], [4], [np.nan]])
    weights = np.full(4, 0.25, np.float32)
    several = [{"radius": 3.5}, {"radius": 3.0}, {"f": 1}]

    def outs(x):
        return jnp.stack([protocols.clipped_gossip(x, weights, **o)[0] for o in several])

    jacobian = np.asarray(jax.jit(jax.jacrev(outs))(rows))[..., 0]
    assert np.isfinite(jacobian).all()
    np.testing.assert_allclose(jacobian[0], [0.5, 0.25, 0.25, 0])
    short = jax.eval_shape(
        lambda x: protocols.clipped_gossip(x, weights, f=1), rows.astype(jnp.bfloat16)
    )
    assert short.dtype == jnp.bfloat16


# --- types, traffic and errors --------------------------------------------------------------------


def test_strict_promotion_and_the_types_of_the_state():
    def loss(params, batch, key=None):
        del key
        return jnp.sum((params["w"] - batch) ** 2) + jnp.sum(params["b"]).astype(jnp.float32)

    params = {"w": np.ones((3, 2), np.float32), "b": np.ones(2, jnp.bfloat16)}
    batch = {"workers": np.ones((7, 3, 2), np.float32)}
    for per_receiver in (False, True):
        peers = protocols.gossip(
            loss,
            graph=CLIQUES,
            rule=CLIP,
            optimizer=optax.sgd(0.1, momentum=0.9),
            byzantine=LIARS,
            attack=byzjax.attack(attacks.gaussian, LIARS, key=KEY),
            per_receiver=per_receiver,
        )
        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            before = jax.eval_shape(peers.init, params, KEY)
            after, info = jax.eval_shape(peers.step, before, batch, KEY)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, before)
        chex.assert_trees_all_equal_shapes_and_dtypes(info.sent, before.params)
        chex.assert_trees_all_equal_shapes_and_dtypes(info.aggregate, params)


def test_traffic():
    for graph, messages in (
        (graphs.torus(3, 4), 48),
        (graphs.star(5), 8),
        (CLIQUES, 2 * (3 + 6 + 1)),
    ):
        peers = protocols.gossip(loss_fn, graph=graph, rule=row(0), optimizer=optax.sgd(0.1))
        assert peers.traffic(PARAMS) == (messages, messages * (1 + DIM))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"f": 7}, "gossip needs f < n; got n=7, f=7."),
        ({"byzantine": np.zeros(6, bool)}, "byzantine must be bool[n] with n=7; got bool[6]."),
        ({"byzantine": np.zeros(7, int)}, "byzantine must be bool[n] with n=7; got int32[7]."),
        ({"workers_at_once": 0}, "workers_at_once must be at least 1; got workers_at_once=0."),
        (
            {"rule": byzjax.aggregate(byzjax.krum, f=1)},
            "krum needs n >= 2f + 3; got n=3, f=1; in gossip these are a node and its neighbours, "
            "3 rows.",
        ),
        (
            {"rule": byzjax.aggregate(byzjax.krum, f=1), "graph": graphs.complete(4)},
            "krum needs n >= 2f + 3; got n=4, f=1; in gossip these are a node and its neighbours, "
            "4 rows.",
        ),
        (
            {"rule": byzjax.aggregate(protocols.clipped_gossip, f=1), "graph": graphs.star(4)},
            "clipped_gossip needs n >= f + 2; got n=2, f=1; in gossip these are a node and its "
            "neighbours, 2 rows.",
        ),
        (
            {"graph": np.kron(np.eye(2), 1 - np.eye(3))},
            "a graph must be connected; got 6 nodes, of which 3 are joined to node 0.",
        ),
    ],
)
def test_errors(options, message):
    given = {"graph": CLIQUES, "rule": TRIM, "optimizer": optax.sgd(0.1)} | options
    with pytest.raises(ValueError, match=r".") as error:
        protocols.gossip(loss_fn, **given)
    assert str(error.value) == message


def test_errors_of_types_and_batches():
    with pytest.raises(TypeError, match=r"^f must be a Python int; got float"):
        protocols.gossip(loss_fn, graph=CLIQUES, rule=TRIM, optimizer=optax.sgd(0.1), f=1.0)
    with pytest.raises(TypeError, match=r"^aggregate: fl_trust needs trusted; "):
        protocols.gossip(
            loss_fn,
            graph=CLIQUES,
            rule=byzjax.aggregate(byzjax.fl_trust),
            optimizer=optax.sgd(0.1),
        )
    peers = protocols.gossip(loss_fn, graph=CLIQUES, rule=TRIM, optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"^expected batches of the graph's 7 nodes; got 6\.$"):
        peers.step(begun(peers, PARAMS), batch_of(0, n=6), KEY)


def test_errors_of_clipped_gossip():
    rows, weights = np.ones((3, 2), np.float32), np.ones(3, np.float32) / 3
    for options, message in (
        ({}, "clipped_gossip takes exactly one of radius and f; got radius=None, f=None."),
        (
            {"radius": 1.0, "f": 1},
            "clipped_gossip takes exactly one of radius and f; got radius=1.0, f=1.",
        ),
        ({"radius": 0.0}, "radius must be positive; got radius=0.0."),
        ({"f": 2}, "clipped_gossip needs n >= f + 2; got n=3, f=2."),
    ):
        with pytest.raises(ValueError, match=r".") as error:
            protocols.clipped_gossip(rows, weights, **options)
        assert str(error.value) == message
    with pytest.raises(ValueError, match=r"^weights have shape \(2,\); 3 rows need shape"):
        protocols.clipped_gossip(rows, weights[:2], radius=1.0)
