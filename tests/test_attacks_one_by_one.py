"""What is special about single attacks: ranges, memory, batches, faults."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import attacks
from tests import oracles
from tests.test_attacks import drawn

KEY = jax.random.key(3)


def test_distances_that_min_max_and_min_sum_keep():
    x, byzantine = drawn(0, 25, 11, 50)
    good = x[~byzantine].astype(np.float64)
    diameter = max(np.linalg.norm(a - b) for a in good for b in good)
    for direction in ("unit", "sign", "std"):
        lie = np.asarray(attacks.min_max(x, byzantine, direction=direction)[byzantine][0])
        farthest = max(np.linalg.norm(lie - a) for a in good)
        assert farthest == pytest.approx(diameter, rel=1e-5)
    same = np.ones((5, 3), np.float32)
    for attack in (attacks.min_max, attacks.min_sum):  # nowhere to go
        np.testing.assert_array_equal(attack(same, np.arange(5) < 2, direction="std"), same)


def test_min_max_by_hand():
    updates = jnp.array([[0.0], [4.0], [9.0]])
    byzantine = jnp.array([False, False, True])
    assert float(attacks.min_max(updates, byzantine, direction="unit")[2, 0]) == 0  # 4 from 4
    assert float(attacks.min_sum(updates, byzantine, direction="sign")[2, 0]) == 0


@pytest.mark.parametrize("factor", [2.0, 5.0])
def test_fang_trimmed_mean_lies_beyond_the_honest(factor):
    x, byzantine = drawn(1, 25, 11, 400)
    x[:, :100] += 4  # coordinates that are all positive
    x[:, 100:200] -= 4
    good = x[~byzantine]
    out = attacks.fang_trimmed_mean(x, byzantine, key=KEY, factor=factor)
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


def test_fang_trimmed_mean_with_partial_knowledge():
    x, byzantine = drawn(2, 25, 11, 400)
    own = x[byzantine]
    out = np.asarray(attacks.fang_trimmed_mean(x, byzantine, key=KEY, knowledge="liars"))
    away = (out[byzantine] - own.mean(0)) / own.std(0, ddof=1) * -np.sign(own.mean(0))
    assert away.min() >= 3 - 1e-3
    assert away.max() <= 4 + 1e-3


def test_fang_krum_is_chosen_and_gives_up():
    x, byzantine = drawn(3, 25, 11, 100)
    x += 0.3
    krum = functools.partial(byzjax.krum, f=11)
    out = attacks.fang_krum(x, byzantine, rule=krum, f=11)
    np.testing.assert_array_equal(krum(out), out[np.argmax(byzantine)])
    lie = out[np.argmax(byzantine)]
    assert float(jnp.linalg.norm(lie)) > 0.1
    kept = attacks.fang_krum(x, byzantine, rule=byzjax.mean, f=11)[np.argmax(byzantine)]
    assert float(jnp.abs(kept).max()) < 1e-5  # the mean is never the lie
    with pytest.raises(ValueError, match=r"^fang_krum needs n >= 2f \+ 2; got n=25, f=12\.$"):
        attacks.fang_krum(x, byzantine, rule=krum, f=12)


def test_anti_cge_is_kept():
    x, byzantine = drawn(4, 25, 8, 30)
    out = attacks.anti_cge(x, byzantine)
    kept = np.argsort(np.linalg.norm(out, axis=1))[:17]
    assert set(np.flatnonzero(byzantine)) <= set(kept)
    honest = x[~byzantine].mean(axis=0)
    assert float(byzjax.comparative_elimination(out, f=8) @ honest) < float(
        byzjax.comparative_elimination(x, f=8) @ honest
    )


def test_hidden_vulnerability_counts_coordinates_through_leaves():
    updates = {"a": jnp.zeros((3, 2, 2)), "b": jnp.zeros((3, 3))}
    byzantine = jnp.array([False, False, True])
    out = attacks.hidden_vulnerability(updates, byzantine, gamma=7.0, coordinate=5)
    assert out["b"][2].tolist() == [0, 7, 0]
    assert not out["a"].any()
    with pytest.raises(ValueError, match=r"^hidden_vulnerability needs coordinate < 7; got coordi"):
        attacks.hidden_vulnerability(updates, byzantine, gamma=7.0, coordinate=7)


def test_gambler_hits_its_shard_only():
    updates = {"a": jnp.ones((4, 5000)), "b": jnp.ones((4, 5000))}
    everybody = jnp.ones(4, bool)
    run = functools.partial(attacks.gambler, factor=-2.0, probability=0.05, shards=4)
    out = run(updates, everybody, shard=1, key=KEY)
    flat = np.concatenate([out["a"], out["b"]], axis=1)
    hit = flat == -2
    assert ((flat == 1) | hit).all()
    assert not hit[:, :2500].any()
    assert not hit[:, 5000:].any()
    assert 0.04 < hit[:, 2500:5000].mean() < 0.06
    chex.assert_trees_all_equal(out, run(updates, everybody, shard=1, key=KEY))
    assert run({"a": updates["a"]}, everybody, shard=3, key=KEY)["a"][:, :3750].min() == 1
    with pytest.raises(ValueError, match=r"^gambler needs shard < shards; got shard=4, shards=4"):
        run(updates, everybody, shard=4, key=KEY)


def test_flipped_bits():
    x = jnp.ones((2, 4), jnp.float32)
    byzantine = jnp.array([False, True])
    out = attacks.flip_bits(x, byzantine, bits=(31,), coordinates=3)
    assert out.tolist() == [[1, 1, 1, 1], [-1, -1, -1, 1]]
    huge = attacks.flip_bits(x, byzantine, bits=(30,), coordinates=1)[1, 0]
    assert bool(jnp.isinf(huge))  # the exponent of 1.0 lacks just that bit
    short = attacks.flip_bits(x.astype(jnp.bfloat16), byzantine, bits=(31, 3), coordinates=None)
    assert short.dtype == jnp.bfloat16
    assert short[1].tolist() == [-1] * 4  # bit 3 is none of a short float
    with pytest.raises(ValueError, match=r"^flip_bits needs bits from 0 to 31; got bits=\(32,"):
        attacks.flip_bits(x, byzantine, bits=(32,))


def test_lost_coordinates_and_workers():
    x = jnp.ones((6, 10_000))
    byzantine = jnp.arange(6) < 3
    out = np.asarray(attacks.lose_coordinates(x, byzantine, share=0.3, key=KEY))
    lost = np.isnan(out)
    assert not lost[3:].any()
    np.testing.assert_allclose(lost[:3].mean(axis=1), 0.3, atol=0.02)
    np.testing.assert_array_equal(byzjax.mean_of_finite(out), np.ones(10_000))
    gone = [
        np.isnan(attacks.drop(x[:, :1], byzantine, probability=0.5, key=k)[:, 0])
        for k in jax.random.split(KEY, 200)
    ]
    assert 0.4 < np.mean(gone, axis=0)[:3].mean() < 0.6
    assert not np.any(gone, axis=0)[3:].any()
    zeros = attacks.drop(x, byzantine, value=0.0, key=KEY)
    assert float(zeros[:3].max()) == 0


# --- over time -----------------------------------------------------------------------------------


def sent(tx, steps):
    """What a transformation makes of the updates of each step, in a scan."""
    state = tx.init(jax.tree.map(lambda x: x[0, 0], steps))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(tx.init, steps[0, 0]))

    def step(state, updates):
        out, following = tx.update(updates, state, None, unknown=1)
        return following, out

    return np.asarray(jax.jit(lambda s, u: jax.lax.scan(step, s, u))(state, steps)[1])


@pytest.mark.parametrize("warmup", [3, 10])
def test_mimic_is_the_papers_loop(warmup):
    rng = np.random.default_rng(5)
    steps = rng.normal(size=(6, 12, 5)).astype(np.float32) * [3, 1, 1, 1, 1] + 1
    steps = steps.astype(np.float32)
    byzantine = np.arange(12) >= 9
    first = jax.random.normal(jax.random.split(KEY, 1)[0], (5,))
    expected = oracles.mimic(steps, byzantine, np.asarray(first, np.float64), warmup)
    out = sent(attacks.mimic(byzantine, key=KEY, warmup=warmup), jnp.asarray(steps))
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_mimic_learns_the_main_direction():
    rng = np.random.default_rng(6)
    steps = rng.normal(size=(200, 11, 4)).astype(np.float32) * np.float32([1, 5, 1, 1])
    tx = attacks.mimic(jnp.arange(11) >= 9, key=KEY, warmup=200)
    state = tx.init(jnp.zeros(4))
    for updates in steps:
        _, state = tx.update(jnp.asarray(updates), state)
    assert abs(float(state.direction[1])) > 0.97
    assert int(state.step) == 200


def test_mimic_over_seeds_and_with_bad_rows():
    rng = np.random.default_rng(7)
    steps = jnp.asarray(rng.normal(size=(4, 7, 3)), jnp.float32).at[:, 0].set(jnp.nan)

    def last(key, byzantine):
        tx = attacks.mimic(byzantine, key=key, warmup=2)
        state = tx.init(jnp.zeros(3))
        for updates in steps:
            out, state = tx.update(updates, state)
        return out

    masks = jnp.array([[False] * 5 + [True] * 2, [False] * 6 + [True]])
    out = jax.vmap(last)(jax.random.split(KEY, 2), masks)
    assert bool(jnp.isfinite(out[0, 5:]).all())
    assert bool(jnp.isfinite(out[1, 6:]).all())


def test_who_lies_may_depend_on_the_step():
    steps = jnp.ones((5, 3, 2))
    byzantine = jnp.array([True, False, False])
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


def test_attacks_take_turns():
    steps = jnp.full((5, 3, 2), 2.0)
    byzantine = jnp.array([True, False, False])
    both = attacks.alternating(
        attacks.sign_flip, functools.partial(attacks.constant, value=9.0), every=2
    )
    out = sent(byzjax.attack(both, byzantine), steps)
    assert out[:, 0, 0].tolist() == [-2, -2, 9, 9, -2]
    # A step that the protocol gives takes precedence over one's own count.
    tx = byzjax.attack(both, byzantine)
    given, _ = tx.update(steps[0], tx.init(jnp.zeros(2)), None, step=jnp.int32(2))
    assert given[0].tolist() == [9, 9]
    with pytest.raises(ValueError, match=r"^alternating needs at least one attack; got none\.$"):
        attacks.alternating()


@pytest.mark.parametrize("delay", [1, 3])
def test_stale_updates(delay):
    steps = jnp.arange(7.0)[:, None, None] + jnp.arange(3.0)[None, :, None] * 100
    out = sent(attacks.stale(jnp.array([False, True, True]), delay=delay), steps)
    np.testing.assert_array_equal(out[:, 0], steps[:, 0])
    expected = np.maximum(np.arange(7) - delay, 0)
    np.testing.assert_array_equal(out[:, 1, 0], expected + 100)
    np.testing.assert_array_equal(out[:, 2, 0], expected + 200)


def test_stale_in_a_chain():
    byzantine = jnp.array([False, False, True])
    tx = optax.chain(
        byzjax.per_worker(optax.ema(0.9, debias=False), num_workers=3),
        attacks.stale(byzantine, delay=2),
        byzjax.aggregate(byzjax.median),
        optax.sgd(1.0),
    )
    params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2, jnp.bfloat16)}
    state = tx.init(params)
    updates = jax.tree.map(lambda p: jnp.ones((3, *p.shape), p.dtype), params)
    for _ in range(3):
        out, state = jax.jit(tx.update)(updates, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(out, params)


def test_relocated_takes_the_momentum_from_extra_arguments():
    x, byzantine = drawn(8, 12, 3)
    tx = byzjax.attack(attacks.relocated, byzantine, reference=0.9, base=1.0, f=3)
    momentum = jnp.arange(6.0)
    out, _ = tx.update(x, tx.init(momentum), None, momentum=momentum)
    same = attacks.relocated(x, byzantine, momentum, reference=0.9, base=1.0, f=3)
    np.testing.assert_array_equal(out, same)
    across = np.asarray(same)[byzantine][0] - np.asarray(momentum)
    good = x[~byzantine]
    r = 0.9 * np.asarray(momentum) + 0.1 * good.mean(0)
    assert abs(across @ r) < 1e-4 * np.linalg.norm(across) * np.linalg.norm(r)
    length = float(attacks.little_is_enough_z(12, 3)) * np.linalg.norm(good.std(0, ddof=1))
    assert np.linalg.norm(across) == pytest.approx(abs(length), rel=1e-4)
    with pytest.raises(TypeError, match=r"^attack: relocated needs momentum; give it with attack"):
        tx.update(x, tx.init(momentum))


# --- data ----------------------------------------------------------------------------------------


def test_labels_drawn_anew_are_wrong_and_uniform():
    y = jnp.tile(jnp.arange(10), (2, 3000))
    out = attacks.flip_labels(
        {"y": y}, jnp.array([False, True]), num_classes=10, to="random", key=KEY
    )["y"]
    np.testing.assert_array_equal(out[0], y[0])
    assert (out[1] != y[1]).all()
    shift = np.bincount(np.asarray((out[1] - y[1]) % 10), minlength=10)
    assert shift[0] == 0
    np.testing.assert_allclose(shift[1:] / 30_000, 1 / 9, atol=0.01)


def test_labels_of_one_class():
    batch = {"y": jnp.array([[0, 1, 2], [0, 1, 2]])}
    byzantine = jnp.array([False, True])
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


@pytest.mark.parametrize("channels", [(), (3,)])
def test_trigger(channels):
    images = jnp.zeros((2, 4, 6, 5, *channels))
    batch = {"x": images, "y": jnp.full((2, 4), 8), "more": jnp.ones((2, 4))}
    byzantine = jnp.array([True, False])
    out = attacks.add_trigger(batch, byzantine, target=0, share=0.5, size=2, value=9.0)
    assert out["y"].tolist() == [[0, 0, 8, 8], [8, 8, 8, 8]]
    marked = np.asarray(out["x"]) == 9
    assert marked[0, :2, -2:, -2:].all()
    assert marked.sum() == 2 * 4 * int(np.prod(channels))
    assert out["more"] is batch["more"]
    with pytest.raises(ValueError, match=r"^add_trigger needs images \[n, b, height >= 9, width"):
        attacks.add_trigger(batch, byzantine, target=0, size=9)
    with pytest.raises(ValueError, match=r"^add_trigger needs a share from 0 to 1; got share=2"):
        attacks.add_trigger(batch, byzantine, target=0, share=2)
    with pytest.raises(KeyError, match="no entry 'picture'"):
        attacks.add_trigger(batch, byzantine, target=0, image="picture")
