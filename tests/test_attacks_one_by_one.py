"""Properties of single attacks: ranges, memory, batches, faults."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks
from tests import oracles
from tests.helpers import compiled
from tests.test_attacks import drawn

KEY = jax.random.key(3)


def test_distances_that_min_max_and_min_sum_keep():
    x, byzantine = drawn(0, 25, 11, 50)
    good = x[~byzantine].astype(np.float64)
    diameter = max(np.linalg.norm(a - b) for a in good for b in good)
    for direction in ("unit", "sign", "std"):
        out = compiled(attacks.min_max, direction=direction)(x, byzantine)
        lie = np.asarray(out)[byzantine][0]
        farthest = max(np.linalg.norm(lie - a) for a in good)
        assert farthest == pytest.approx(diameter, rel=1e-5)
    same = np.ones((5, 3), np.float32)
    for attack in (attacks.min_max, attacks.min_sum):  # no room to move
        out = compiled(attack, direction="std")(same, np.arange(5) < 2)
        np.testing.assert_array_equal(out, same)


def test_min_max_by_hand():
    updates = np.array([[0.0], [4.0], [9.0]], np.float32)
    byzantine = np.array([False, False, True])
    assert compiled(attacks.min_max, direction="unit")(updates, byzantine)[2] == 0  # 4 from 4
    assert compiled(attacks.min_sum, direction="sign")(updates, byzantine)[2] == 0


@pytest.mark.parametrize("factor", [2.0, 5.0])
def test_fang_trimmed_mean_lies_beyond_the_honest(factor):
    x, byzantine = drawn(1, 25, 11, 400)
    x[:, :100] += 4  # all coordinates are positive
    x[:, 100:200] -= 4
    good = x[~byzantine]
    out = compiled(attacks.fang_trimmed_mean, factor=factor)(x, byzantine, key=KEY)
    mean, least, most = good.mean(0), good.min(0), good.max(0)
    below = np.where(least > 0, least / factor, least * factor)
    above = np.where(most > 0, most * factor, most / factor)
    low, high = np.where(mean > 0, below, most), np.where(mean > 0, least, above)
    lies = np.asarray(out)[byzantine]
    slack = 1e-5 * np.abs(high)
    assert ((low - slack <= lies) & (lies <= high + slack)).all()
    place = (lies - low) / (high - low)
    assert 0.48 < place.mean() < 0.52
    assert place.std() == pytest.approx(12**-0.5, abs=0.01)
    correlation = np.corrcoef(place) - np.eye(len(place))
    assert np.abs(correlation).max() < 0.25  # 5 standard deviations: attackers draw independently


def test_fang_trimmed_mean_with_partial_knowledge():
    x, byzantine = drawn(2, 25, 11, 400)
    rows = x[byzantine]
    attack = compiled(attacks.fang_trimmed_mean, knowledge="liars")
    out = np.asarray(attack(x, byzantine, key=KEY))
    away = (out[byzantine] - rows.mean(0)) / rows.std(0, ddof=1) * -np.sign(rows.mean(0))
    assert away.min() >= 3 - 1e-3
    assert away.max() <= 4 + 1e-3


def test_fang_krum_is_chosen_and_gives_up():
    x, byzantine = drawn(3, 25, 11, 100)
    x += 0.3
    krum = functools.partial(byzjax.krum, f=11)
    out = compiled(attacks.fang_krum, rule=krum, f=11)(x, byzantine)
    lie = np.asarray(out)[np.argmax(byzantine)]
    np.testing.assert_array_equal(compiled(krum)(out), lie)
    assert np.linalg.norm(lie) > 0.1
    kept = compiled(attacks.fang_krum, rule=byzjax.mean, f=11)(x, byzantine)
    assert np.abs(np.asarray(kept)[byzantine]).max() < 1e-5  # the mean is never sent
    with pytest.raises(ValueError, match=r"^fang_krum needs n >= 2f \+ 2; got n=25, f=12\.$"):
        attacks.fang_krum(x, byzantine, rule=krum, f=12)


def test_anti_cge_is_kept():
    x, byzantine = drawn(4, 25, 8, 30)
    out = compiled(attacks.anti_cge)(x, byzantine)
    rule = compiled(byzjax.comparative_elimination, f=8)
    kept = np.argsort(np.linalg.norm(out, axis=1))[:17]
    assert set(np.flatnonzero(byzantine)) <= set(kept)
    honest = x[~byzantine].mean(axis=0)
    assert np.asarray(rule(out)) @ honest < np.asarray(rule(x)) @ honest


def distance_of_aksel(rows, byzantine, mode):
    mean = rows[~byzantine].mean(axis=0)
    return np.linalg.norm(oracles.aksel(rows, byzantine.sum(), mode=mode) - mean)


@pytest.mark.parametrize("mode", ["mid", "n-f"])
def test_pushed_is_never_weaker_than_the_order_statistic(mode):
    """Against Aksel, for even and odd n, few and many coordinates, skewed values and large ones."""
    rng = np.random.default_rng(5)
    gains = []
    for n in (3, 4, 7, 8, 11, 12, 25):
        for f in range(1, (n - 1) // 2 + 1):
            for d in (1, 3, 30):
                x = rng.normal(size=(n, d)) ** rng.choice([1, 3]) * 10.0 ** rng.integers(-3, 4)
                byzantine = np.isin(np.arange(n), rng.choice(n, f, replace=False))
                pushed = oracles.pushed(x, byzantine, mode=mode)
                for rank in (None, (n + 1) // 2):
                    of_rank = oracles.order_statistic(x, byzantine, rank=rank)
                    ours, theirs = (
                        distance_of_aksel(sent, byzantine, mode) for sent in (pushed, of_rank)
                    )
                    assert ours >= theirs * (1 - 1e-9), (n, f, d, rank)
                gains.append(ours / theirs)
    assert np.median(gains) > 1.5


@pytest.mark.parametrize(
    ("n", "f", "mode", "direction"),
    [
        (12, 4, "mid", "plus"),
        (11, 5, "n-f", "against"),
        pytest.param(12, 4, "n-f", "minus", marks=pytest.mark.slow),
        pytest.param(11, 5, "mid", "minus", marks=pytest.mark.slow),
        pytest.param(12, 4, "mid", "against", marks=pytest.mark.slow),
    ],
)
def test_pushed_is_selected_and_moves_the_median_as_far_as_it_can_be(n, f, mode, direction):
    x, byzantine = drawn(3, n, f, 20)
    lied = compiled(attacks.pushed, mode=mode, direction=direction)(x, byzantine)
    lied = np.asarray(lied, np.float64)
    good = lied[~byzantine]
    sign = {"plus": 1, "minus": -1, "against": -np.sign(good.mean(axis=0))}[direction]
    farthest = np.median(np.vstack([good * sign, np.full((f, 20), np.inf)]), axis=0)
    np.testing.assert_allclose(oracles.median(lied), farthest * sign, rtol=1e-5)
    away = np.sum((lied - oracles.median(lied)) ** 2, axis=1)
    count = (n + 1) // 2 if mode == "mid" else n - f
    assert np.sum(away < away[byzantine].max()) < count
    beyond = np.sort(away[~byzantine])[count - f]  # the nearest that the liars displace
    np.testing.assert_allclose(away[byzantine], beyond * 0.999**2, rtol=1e-5)


def test_hidden_vulnerability_counts_coordinates_through_leaves():
    updates = {"a": np.zeros((3, 2, 2), np.float32), "b": np.zeros((3, 3), np.float32)}
    byzantine = np.array([False, False, True])
    attack = compiled(attacks.hidden_vulnerability, gamma=7.0, coordinate=5)
    out = jax.device_get(attack(updates, byzantine))
    assert out["b"].tolist() == [[0, 0, 0], [0, 0, 0], [0, 7, 0]]
    assert not out["a"].any()
    with pytest.raises(ValueError, match=r"^hidden_vulnerability needs coordinate < 7; got coordi"):
        compiled(attacks.hidden_vulnerability, gamma=7.0, coordinate=7)(updates, byzantine)


def test_gambler_hits_its_shard_only():
    updates = {name: np.ones((4, 5000), np.float32) for name in "ab"}
    all_rows = np.ones(4, bool)
    gambler = functools.partial(attacks.gambler, factor=-2.0, shards=4)

    @jax.jit
    def run(updates):
        seldom = gambler(updates, all_rows, shard=1, probability=0.05, key=KEY)
        one_leaf = gambler(updates["a"], all_rows, shard=3, probability=0.05, key=KEY)
        surely = [
            gambler(updates, all_rows, shard=shard, probability=1.0, key=KEY) for shard in range(4)
        ]
        return one_leaf, [jnp.concatenate([*x.values()], axis=1) for x in (seldom, *surely)]

    one_leaf, (flat, *surely) = jax.device_get(run(updates))
    hit = flat == -2
    assert ((flat == 1) | hit).all()
    assert not hit[:, :2500].any()
    assert not hit[:, 5000:].any()
    assert 0.04 < hit[:, 2500:5000].mean() < 0.06
    chex.assert_trees_all_equal(run(updates), (one_leaf, [flat, *surely]))
    assert one_leaf[:, :3750].min() == 1
    for shard, rows in enumerate(surely):  # the whole shard is hit, both ends included
        np.testing.assert_array_equal(rows == -2, [np.arange(10_000) // 2500 == shard] * 4)
    with pytest.raises(ValueError, match=r"^gambler needs shard < shards; got shard=4, shards=4"):
        gambler(updates, all_rows, shard=4, key=KEY)


def test_flipped_bits():
    x = np.ones((2, 4), np.float32)
    byzantine = np.array([False, True])
    out = compiled(attacks.flip_bits, bits=(31,), coordinates=3)(x, byzantine)
    assert out.tolist() == [[1, 1, 1, 1], [-1, -1, -1, 1]]
    huge = compiled(attacks.flip_bits, bits=(30,), coordinates=1)(x, byzantine)
    # The exponent of 1.0 has all bits set but this one.
    assert np.asarray(huge).tolist() == [[1, 1, 1, 1], [np.inf, 1, 1, 1]]
    attack = compiled(attacks.flip_bits, bits=(31, 3), coordinates=None)
    short = attack(x.astype(jnp.bfloat16), byzantine)
    assert short.dtype == jnp.bfloat16
    assert np.asarray(short)[1].tolist() == [-1] * 4  # a short float has no bit 3
    with pytest.raises(ValueError, match=r"^flip_bits needs bits from 0 to 31; got bits=\(32,"):
        attacks.flip_bits(x, byzantine, bits=(32,))


def test_lost_coordinates_and_workers():
    x = np.ones((6, 10_000), np.float32)
    byzantine = np.arange(6) < 3
    out = np.asarray(compiled(attacks.lose_coordinates, share=0.3)(x, byzantine, key=KEY))
    missing = np.isnan(out)
    assert not missing[3:].any()
    np.testing.assert_allclose(missing[:3].mean(axis=1), 0.3, atol=0.02)
    np.testing.assert_array_equal(compiled(byzjax.mean_of_finite)(out), np.ones(10_000))

    @jax.jit
    @jax.vmap
    def dropped(key):
        return attacks.drop(x[:, :1], byzantine, probability=0.5, key=key)[:, 0]

    gone = np.isnan(dropped(jax.random.split(KEY, 200)))
    assert not gone[:, 3:].any()
    assert 0.4 < gone[:, :3].mean() < 0.6
    # Rows are dropped independently: all eight sets are seen, each 25 times, plus or minus 4.7.
    counts = np.bincount(gone[:, :3] @ [4, 2, 1], minlength=8)
    assert (np.abs(counts - 25) < 4 * 4.7).all()
    zeros = np.asarray(compiled(attacks.drop, value=0.0)(x, byzantine, key=KEY))
    np.testing.assert_array_equal(zeros, np.where(byzantine[:, None], 0, x))


# --- over time -----------------------------------------------------------------------------------


def sent(tx, steps):
    """The outputs of a transformation for the updates of each step, in a scan."""
    state = tx.init(jax.tree.map(lambda x: x[0, 0], steps))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(tx.init, steps[0, 0]))

    def step(state, updates):
        out, following = tx.update(updates, state, None, unknown=1)
        return following, out

    return np.asarray(jax.jit(lambda s, u: jax.lax.scan(step, s, u))(state, steps)[1])


@pytest.mark.smoke
@pytest.mark.parametrize("warmup", [3, 10])
def test_mimic_is_the_papers_loop(warmup):
    rng = np.random.default_rng(6)  # with these, each step of the warm-up changes what is sent
    steps = rng.normal(size=(6, 12, 5)).astype(np.float32) * [3, 1, 1, 1, 1] + 1
    steps = steps.astype(np.float32)
    byzantine = np.arange(12) >= 9
    start = jax.random.normal(jax.random.split(KEY, 1)[0], (5,))
    expected = oracles.mimic(steps, byzantine, np.asarray(start, np.float64), warmup)
    out = sent(attacks.mimic(byzantine, key=KEY, warmup=warmup), jnp.asarray(steps))
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_mimic_learns_the_main_direction():
    rng = np.random.default_rng(6)
    steps = rng.normal(size=(200, 11, 4)).astype(np.float32) * np.float32([1, 5, 1, 1])
    tx = attacks.mimic(jnp.arange(11) >= 9, key=KEY, warmup=200)
    state = tx.init(jnp.zeros(4))
    following = jax.jit(
        lambda state, steps: jax.lax.scan(lambda s, x: tx.update(x, s)[::-1], state, steps)[0]
    )
    state = following(state, steps)
    assert abs(float(state.direction[1])) > 0.97
    assert int(state.step) == 200


def test_mimic_over_seeds_and_with_bad_rows():
    rng = np.random.default_rng(7)
    steps = rng.normal(size=(4, 7, 3)).astype(np.float32)
    steps[:, 0] = np.nan

    def last(key, byzantine):
        tx = attacks.mimic(byzantine, key=key, warmup=2)
        state = tx.init(jnp.zeros(3))
        for updates in steps:
            out, state = tx.update(updates, state)
        return out

    masks = np.array([[False] * 5 + [True] * 2, [False] * 6 + [True]])
    out = np.asarray(jax.jit(jax.vmap(last))(jax.random.split(KEY, 2), masks))
    assert np.isfinite(out[0, 5:]).all()
    assert np.isfinite(out[1, 6:]).all()


@pytest.mark.smoke
def test_who_lies_may_depend_on_the_step():
    steps = np.ones((5, 3, 2), np.float32)
    byzantine = np.array([True, False, False])
    for who, liars in (
        (attacks.sleeping(byzantine, until=3), [[], [], [], [0], [0]]),
        (attacks.rotating(byzantine), [[0], [1], [2], [0], [1]]),
        (attacks.rotating(byzantine, every=2), [[0], [0], [1], [1], [2]]),
    ):
        out = sent(byzjax.attack(attacks.sign_flip, who), steps)
        assert [np.flatnonzero(o[:, 0] < 0).tolist() for o in out] == liars
    noisy = sent(
        byzjax.attack(attacks.gaussian, attacks.sleeping(byzantine, until=2), key=KEY), steps
    )
    assert (noisy[:2] == 1).all()
    assert (noisy[2:, 0] != 1).all()
    assert (noisy[2, 0] != noisy[3, 0]).all()


@pytest.mark.smoke
def test_attacks_take_turns():
    steps = np.full((5, 3, 2), 2, np.float32)
    byzantine = np.array([True, False, False])
    both = attacks.alternating(
        attacks.sign_flip, functools.partial(attacks.constant, value=9.0), every=2
    )
    out = sent(byzjax.attack(both, byzantine), steps)
    assert out[:, 0, 0].tolist() == [-2, -2, 9, 9, -2]
    # The protocol's step takes precedence over the attack's count.
    tx = byzjax.attack(both, byzantine)
    given, _ = jax.jit(lambda x, k: tx.update(x, tx.init(x[0]), step=k))(steps[0], 2)
    assert np.asarray(given)[0].tolist() == [9, 9]
    with pytest.raises(ValueError, match=r"^alternating needs at least one attack; got none\.$"):
        attacks.alternating()


@pytest.mark.smoke
@pytest.mark.parametrize("delay", [1, 3])
def test_stale_updates(delay):
    steps = np.arange(7)[:, None, None] + np.arange(3)[None, :, None] * np.float32(100)
    steps = steps.astype(np.float32)
    out = sent(attacks.stale(np.array([False, True, True]), delay=delay), steps)
    np.testing.assert_array_equal(out[:, 0], steps[:, 0])
    expected = np.maximum(np.arange(7) - delay, 0)
    np.testing.assert_array_equal(out[:, 1, 0], expected + 100)
    np.testing.assert_array_equal(out[:, 2, 0], expected + 200)


@pytest.mark.smoke
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_neurotoxin_is_the_papers_loop(share):
    """Of two leaves, one of which has a short dtype; then with half of the workers in a round."""
    rng = np.random.default_rng(8)
    steps = rng.normal(size=(4, 6, 10)).astype(np.float32) * np.float32(3) ** np.arange(10)
    byzantine = np.array([False, True, False, False, False, True])
    out = sent(attacks.neurotoxin(byzantine, share=share), jnp.asarray(steps))
    np.testing.assert_array_equal(out, np.float32(oracles.neurotoxin(steps, byzantine, share)))
    tx = attacks.neurotoxin(byzantine, share=share)
    state = tx.init({"a": jnp.zeros(()), "b": jnp.zeros((3, 3), jnp.bfloat16)})
    who = [np.array([5, 0, 3]), np.array([2, 1, 4])]
    rows = [x[w].astype(jnp.bfloat16).astype(np.float32) for x, w in zip(steps, who)]
    expected = oracles.neurotoxin(rows, [True, False, False], share)[0], rows[1].copy()
    order = np.argsort(-np.abs(rows[0][1:].mean(axis=0)))[: math.ceil(10 * share)]
    expected[1][1, order] = 0
    for x, w, wanted in zip(rows, who, expected):
        tree = {"a": x[:, 0], "b": x[:, 1:].reshape(3, 3, 3).astype(jnp.bfloat16)}
        got, state = tx.update(tree, state, senders=jnp.asarray(w))
        chex.assert_trees_all_equal_shapes_and_dtypes(got, tree)
        flat = np.concatenate([np.float32(leaf).reshape(3, -1) for leaf in got.values()], axis=1)
        np.testing.assert_array_equal(flat, np.float32(wanted))


def test_what_neurotoxin_refuses():
    for share in (0, 1.5):
        with pytest.raises(
            ValueError, match=rf"^neurotoxin needs a share in .0, 1.; got share={share}"
        ):
            attacks.neurotoxin(np.array([True]), share=share)
    tx = attacks.neurotoxin(np.array([True, False]))
    assert tx.update({}, tx.init({}))[0] == {}


def test_model_replacement_replaces_the_mean():
    """Where the honest updates cancel, the mean is that of the attackers' own, whatever s is."""
    x, byzantine = drawn(10, 12, 4)
    x[~byzantine] -= x[~byzantine].mean(axis=0)
    out = compiled(attacks.model_replacement)(x, byzantine)
    np.testing.assert_allclose(out.mean(axis=0), x[byzantine].mean(axis=0), atol=1e-5)


def test_the_mean_of_all_is_that_of_the_other_attack():
    """Also of one whose rows differ, and of a single attacker."""
    for attack in (attacks.sign_flip, attacks.zero):
        run = compiled(attacks.byz_mean, attack=attack)
        for s in (1, 2, 5):
            x, byzantine = drawn(11, 12, s)
            out = run(x, byzantine)
            goal = np.asarray(attack(x, byzantine))[byzantine].mean(axis=0)
            np.testing.assert_allclose(out.mean(axis=0), goal, atol=1e-5)


def test_stale_in_a_chain():
    byzantine = jnp.array([False, False, True])
    tx = optax.chain(
        byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=3),
        attacks.stale(byzantine, delay=2),
        byzjax.aggregate(byzjax.median),
        optax.sgd(1.0),
    )
    params = {"w": np.zeros((2, 2), np.float32), "b": np.zeros(2, jnp.bfloat16)}
    updates = jax.tree.map(lambda p: np.ones((3, *p.shape), p.dtype), params)

    @jax.jit
    def three_steps(updates, params):
        state = tx.init(params)
        for _ in range(3):
            out, state = tx.update(updates, state, params)
        return out

    out = three_steps(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(out, params)


def test_relocated_takes_the_momentum_from_extra_arguments():
    x, byzantine = drawn(8, 12, 3)
    tx = byzjax.attack(attacks.relocated, byzantine, reference=0.9, base=1.0, f=3)
    momentum = np.arange(6, dtype=np.float32)
    out, _ = jax.jit(lambda x, m: tx.update(x, tx.init(m), momentum=m))(x, momentum)
    attack = compiled(attacks.relocated, reference=0.9, base=1.0, f=3)
    same = attack(x, byzantine, momentum)
    np.testing.assert_array_equal(out, same)
    across = np.asarray(same)[byzantine][0] - momentum
    good = x[~byzantine]
    r = 0.9 * momentum + 0.1 * good.mean(0)
    assert abs(across @ r) < 1e-4 * np.linalg.norm(across) * np.linalg.norm(r)
    length = oracles.little_is_enough_z(12, 3) * np.linalg.norm(good.std(0, ddof=1))
    assert np.linalg.norm(across) == pytest.approx(abs(length), rel=1e-4)
    with pytest.raises(TypeError, match=r"^attack: relocated needs momentum; give it with attack"):
        tx.update(x, tx.init(momentum))


def test_hybrid_sparse_takes_a_mask_of_pruning():
    """Given once or with an update; outside of it, the attack is little_is_enough."""
    x, byzantine = drawn(12, 12, 3, 10)
    tree = {"a": x[:, :4].reshape(12, 2, 2), "b": x[:, 4:]}
    params = {"a": jnp.zeros((2, 2)), "b": jnp.arange(6.0)}

    @jax.jit
    def sends(tree, params):
        mask = attacks.pruning_mask(params, lambda p: p, share=0.3)
        once = byzjax.attack(attacks.hybrid_sparse, byzantine, mask=mask, sparse_z=4.0, f=5)
        each = byzjax.attack(attacks.hybrid_sparse, byzantine, sparse_z=4.0, f=5)
        z = attacks.little_is_enough_z(12, 5)
        return (
            mask,
            once.update(tree, once.init(params))[0],
            each.update(tree, each.init(params), mask=mask)[0],
            attacks.little_is_enough(tree, byzantine, f=5),
            attacks.hybrid_sparse(tree, byzantine, share=0.3, sparse_z=z, f=5),
        )

    mask, once, each, little, equal = sends(tree, params)
    assert not mask["a"].any()
    assert mask["b"].tolist() == [False] * 3 + [True] * 3
    chex.assert_trees_all_equal(once, each)
    chex.assert_trees_all_close(equal, little, rtol=1e-6)
    np.testing.assert_allclose(once["a"], little["a"], rtol=1e-6)
    np.testing.assert_allclose(once["b"][:, :3], little["b"][:, :3], rtol=1e-6)
    good = x[~byzantine][:, 7:]
    expected = good.mean(axis=0) - 4 * good.std(axis=0, ddof=1)
    np.testing.assert_allclose(once["b"][byzantine][0, 3:], expected, rtol=1e-5)


def test_what_hybrid_sparse_refuses():
    x, byzantine = drawn(8, 12, 3)
    for share in (0, 1.5):
        with pytest.raises(
            ValueError, match=rf"^hybrid_sparse needs a share in .0, 1.; got share={share}"
        ):
            attacks.hybrid_sparse(x, byzantine, share=share)
    with pytest.raises(ValueError, match=r"^hybrid_sparse needs a mask of one update, a leaf of"):
        attacks.hybrid_sparse(x, byzantine, np.ones((12, 6), bool))
    with pytest.raises(ValueError, match=r"^hybrid_sparse needs a mask of tree .*; got "):
        attacks.hybrid_sparse(x, byzantine, {"w": np.ones(6, bool)})
    with pytest.raises(ValueError, match=r"^hybrid_sparse takes f or z, not both; got f=3, z=1\.$"):
        attacks.hybrid_sparse(x, byzantine, f=3, z=1)
    with pytest.raises(ValueError, match=r"^hybrid_sparse needs f < n; got n=12, f=12\.$"):
        attacks.hybrid_sparse(x, byzantine, f=12)
    with pytest.raises(ValueError, match=r"^direction must be one of minus, against; got 'plus'"):
        attacks.hybrid_sparse(x, byzantine, direction="plus")
    with pytest.raises(ValueError, match=r"^pruning_mask needs a share in .0, 1.; got share=0"):
        attacks.pruning_mask(np.ones(3), lambda p: p, share=0)
    with pytest.raises(ValueError, match=r"^steps must be at least 1; got steps=0"):
        attacks.pruning_mask(np.ones(3), lambda p: p, share=0.5, steps=0)


@pytest.mark.parametrize("steps", [1, 4])
def test_pruning_mask_is_the_papers_loop(steps):
    """Over two leaves together; the gradient depends on what is pruned."""
    rng = np.random.default_rng(13)
    theta, pull = rng.normal(size=40), rng.normal(size=(40, 40)) / 6

    def gradient(params):
        flat = jnp.concatenate([params["a"].ravel(), params["b"]])
        g = jnp.float32(pull) @ flat + 1
        return {"a": g[:30].reshape(5, 6), "b": g[30:]}

    params = {"a": np.float32(theta[:30].reshape(5, 6)), "b": np.float32(theta[30:])}
    mask = jax.jit(lambda p: attacks.pruning_mask(p, gradient, share=0.2, steps=steps))(params)
    flat = np.concatenate([np.ravel(mask["a"]), mask["b"]]).tolist()
    assert flat == oracles.pruning_mask(theta, lambda p: pull @ p + 1, 0.2, steps)
    assert sum(flat) == 8
    snip = oracles.pruning_mask(theta, lambda p: pull @ p + 1, 0.2, 1)
    assert (flat == snip) == (steps == 1)


# --- data ----------------------------------------------------------------------------------------


def test_labels_drawn_anew_are_wrong_and_uniform():
    y = np.tile(np.arange(10, dtype=np.int32), (2, 3000))
    flip = compiled(attacks.flip_labels, num_classes=10, to="random")
    out = np.asarray(flip({"y": y}, np.array([False, True]), key=KEY)["y"])
    np.testing.assert_array_equal(out[0], y[0])
    assert (out[1] != y[1]).all()
    shift = np.bincount((out[1] - y[1]) % 10, minlength=10)
    assert shift[0] == 0
    np.testing.assert_allclose(shift[1:] / 30_000, 1 / 9, atol=0.01)


@pytest.mark.smoke
def test_labels_of_one_class():
    batch = {"y": np.array([[0, 1, 2], [0, 1, 2]], np.int32)}
    byzantine = np.array([False, True])
    run = functools.partial(attacks.flip_labels, batch, byzantine, num_classes=3, to="target")
    assert run(source=1, target=0)["y"].tolist() == [[0, 1, 2], [0, 0, 2]]
    assert run(target=2)["y"].tolist() == [[0, 1, 2], [2, 2, 2]]
    with pytest.raises(ValueError, match=r"^flip_labels needs target < 3; got target=3\.$"):
        run(target=3)
    with pytest.raises(ValueError, match=r"needs a target\.$"):
        run()
    with pytest.raises(ValueError, match=r"needs a key\.$"):
        attacks.flip_labels(batch, byzantine, num_classes=3, to="random")
    with pytest.raises(ValueError, match=r"^to must be one of reverse, random, target; got 'up'"):
        attacks.flip_labels(batch, byzantine, num_classes=3, to="up")


@pytest.mark.smoke
@pytest.mark.parametrize("channels", [(), (3,)])
def test_trigger(channels):
    images = np.zeros((2, 4, 6, 5, *channels), np.float32)
    batch = {"x": images, "y": np.full((2, 4), 8, np.int32), "more": np.ones((2, 4))}
    byzantine = np.array([True, False])
    kept = []

    @jax.jit
    def marked_by(images, labels):
        given = batch | {"x": images, "y": labels}
        out = attacks.add_trigger(given, byzantine, target=0, share=0.5, size=2, value=9.0)
        kept.append(out["more"] is batch["more"])
        return out

    out = marked_by(images, batch["y"])
    assert kept == [True]
    assert out["y"].tolist() == [[0, 0, 8, 8], [8, 8, 8, 8]]
    marked = np.asarray(out["x"]) == 9
    assert marked[0, :2, -2:, -2:].all()
    assert marked.sum() == 2 * 4 * int(np.prod(channels))
    with pytest.raises(ValueError, match=r"^add_trigger needs images \[n, b, height >= 9, width"):
        attacks.add_trigger(batch, byzantine, target=0, size=9)
    with pytest.raises(ValueError, match=r"^add_trigger needs a share from 0 to 1; got share=2"):
        attacks.add_trigger(batch, byzantine, target=0, share=2)
    with pytest.raises(KeyError, match="no entry 'picture'"):
        attacks.add_trigger(batch, byzantine, target=0, image="picture")


@pytest.mark.smoke
@pytest.mark.parametrize("whole", [False, True])
def test_distributed_trigger_is_the_papers_loop(whole):
    """Six attackers of eight workers, so that two bars are used twice; also with channels."""
    rng = np.random.default_rng(9)
    x, y = rng.random((8, 4, 6, 9)).astype(np.float32), rng.integers(1, 9, (8, 4))
    byzantine = np.array([True, False, True, True, True, False, True, True])
    given = {"target": 0, "size": 3, "gap": 1, "place": 2, "value": 9.0, "whole": whole}
    expected = oracles.distributed_trigger(x, y, byzantine, count=2, **given)
    run = compiled(attacks.distributed_trigger, share=0.5, **given)
    out = run({"x": x, "y": y}, byzantine)
    np.testing.assert_array_equal(out["x"], expected[0])
    np.testing.assert_array_equal(out["y"], expected[1])
    colours = attacks.distributed_trigger(
        {"x": x[..., None] * np.ones(3, np.float32), "y": y}, byzantine, share=0.5, **given
    )
    for channel in range(3):
        np.testing.assert_array_equal(colours["x"][..., channel], expected[0])
    parts = {(expected[0] != x)[i].tobytes() for i in np.flatnonzero(byzantine)}
    assert len(parts) == (1 if whole else 4)


def test_what_distributed_trigger_refuses():
    run = functools.partial(attacks.distributed_trigger, target=0)
    batch, byzantine = {"x": np.zeros((1, 2, 5, 9)), "y": np.zeros((1, 2), int)}, np.array([True])
    wanted = (
        r"^distributed_trigger needs images \[n, b, height >= 6, width >= 10\]; got \(1, 2, 5, 9\)"
    )
    with pytest.raises(ValueError, match=wanted):
        run(batch, byzantine, place=3)
    with pytest.raises(ValueError, match=r"^distributed_trigger needs a share from 0 to 1; got s"):
        run(batch, byzantine, share=-1)
    with pytest.raises(TypeError, match=r"^gap must be a Python int; got float"):
        run(batch, byzantine, gap=0.5)
