"""Rounds of agreement: equal to naive loops, within the hulls, as close as is proved."""

import csv
import functools
import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import byzjax
from byzjax import protocols
from byzjax.protocols import agreement
from tests import contraction, helpers
from tests.helpers import mesh_of
from tests.oracles import agreement as oracles

ROOT = pathlib.Path(__file__).parent.parent
BAD = (np.nan, -np.nan, np.inf, -np.inf, 1e30)
ROUNDING = 1e-12  # of factors in float64; the largest excess over a proved one is 1e-14


def matrices(n, d, bad=0, count=24, seed=0):
    """Float32: normal, on a small grid, or heavy-tailed, with the given number of bad rows."""
    rng = np.random.default_rng([seed, n, d])
    for k in range(count):
        x = (rng.normal, rng.standard_cauchy)[k % 2](size=(n, d))
        x = np.round(x) if k % 3 == 0 else x
        for row in rng.permutation(n)[:bad]:
            x[row, rng.random(d) < 0.5] = rng.choice(BAD)
        yield x.astype(np.float32)


mid_extremes = jax.jit(protocols.mid_extremes)
approach_extreme = jax.jit(protocols.approach_extreme)
trimmed_agreement = jax.jit(protocols.trimmed_agreement, static_argnames="f")
safe_area_average = jax.jit(protocols.safe_area_average, static_argnames="f")


close = functools.partial(helpers.close, eps=1e-6)


@functools.cache
def mapped(rule, **given):
    """The function mapped over many inputs at once."""
    return jax.jit(jax.vmap(functools.partial(rule, **given)))


# --- the loops -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(2, 1), (7, 3)])
@pytest.mark.parametrize("bad", [0, 1])
def test_mid_extremes_equals_the_loop(n, d, bad):
    x = np.stack([*matrices(n, d, bad)])
    for one, out in zip(x, np.asarray(mapped(protocols.mid_extremes)(x))):
        close(out, oracles.mid_extremes(one))


@pytest.mark.parametrize("bad", [0, 2])
def test_approach_extreme_equals_the_loop(bad):
    x = np.stack([*matrices(6, 3, bad)])
    own = np.stack([*matrices(1, 3, count=24)])[:, 0]
    for one, c, out in zip(x, own, np.asarray(mapped(protocols.approach_extreme)(x, own))):
        close(out, oracles.approach_extreme(one, c))


@pytest.mark.parametrize(("n", "f"), [(1, 0), (4, 1), (9, 2)])
def test_trimmed_agreement_equals_the_loop(n, f):
    x = np.stack([*matrices(n, 3, f)])
    for one, out in zip(x, np.asarray(mapped(protocols.trimmed_agreement, f=f)(x))):
        close(out, oracles.trimmed_agreement(one, f))
        assert np.isfinite(out).all()


@pytest.mark.parametrize(
    ("n", "d", "f", "count"),
    [(4, 1, 1, 8), pytest.param(7, 1, 2, 4, marks=pytest.mark.slow), (5, 2, 1, 8)],
)
def test_safe_area_average_equals_linear_programs(n, d, f, count):
    x = np.stack([*matrices(n, d, count=count)])
    x[0, 0], x[1, 1] = np.nan, np.inf
    for one, out in zip(x, np.asarray(mapped(protocols.safe_area_average, f=f)(x))):
        np.testing.assert_allclose(out, oracles.safe_area_average(one, f), rtol=1e-5, atol=1e-5)


@pytest.mark.smoke
def test_known_values():
    x = np.float32([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [4.0, 4.0], [np.nan, 50.0]])
    np.testing.assert_array_equal(mid_extremes(x), [2, 2])
    np.testing.assert_array_equal(approach_extreme(x, np.float32([0.0, 4.0])), [1.5, 2])
    np.testing.assert_array_equal(trimmed_agreement(x, f=1), [2, 2])
    # Two pairs at the same distance, and three rows: the first pair counts.
    corners = np.float32([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -2.0], [-2.0, -1.0]])
    np.testing.assert_array_equal(mid_extremes(corners), [0, -0.5])
    np.testing.assert_array_equal(mid_extremes(corners[::-1]), [-0.5, 0])
    np.testing.assert_array_equal(approach_extreme(corners, np.ones(2, np.float32)), [0, -0.5])
    np.testing.assert_array_equal(
        approach_extreme(corners[::-1], np.ones(2, np.float32)), [-0.5, 0]
    )
    # The safe area of a square's corners is its centre; of a triangle and an inner point, that one.
    square = np.float32([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0], [1.0, 1.0]])
    close(safe_area_average(square, f=1), [1, 1])


def test_no_sender_is_heard():
    x, own = np.full((5, 2), np.inf, np.float32), np.float32([3, 4])
    assert np.isnan(mid_extremes(x)).all()
    np.testing.assert_array_equal(approach_extreme(x, own), own)
    x[2] = own
    np.testing.assert_array_equal(mid_extremes(x), own)
    two_bad = np.zeros((5, 2), np.float32)
    two_bad[0, 1], two_bad[3, 0] = np.nan, np.inf
    assert np.isnan(safe_area_average(two_bad, f=1)).all()


def test_large_values_do_not_overflow():
    most = float(np.finfo(np.float32).max)
    x = np.float32([most, most, most, -most, most])[:, None] * np.float32([1.0, 0.5])
    np.testing.assert_array_equal(trimmed_agreement(x, f=1), [most, most / 2])
    np.testing.assert_allclose(safe_area_average(x, f=1), [most, most / 2], rtol=1e-6)
    np.testing.assert_allclose(safe_area_average(x[:4, :1], f=1), [most], rtol=1e-6)


# --- the safe area -------------------------------------------------------------------------------


def degenerate(m):
    """Points `[m, 2]` in special position, exact in float32."""
    rng = np.random.default_rng(m)
    steps = rng.permutation(2 * m)[:m].astype(float)
    for direction in ([1, 0], [0, 1], [3, -2]):
        yield steps[:, None] * np.array(direction)
    yield np.array(direction) * (steps // 4)[:, None]
    yield np.tile([3.0, 5.0], (m, 1))
    for size in (2, 3, 3):
        yield rng.integers(0, size, (m, 2)).astype(float)
    some = rng.integers(-8, 9, (m, 2)).astype(float)
    yield np.concatenate([np.tile(some[:1], (m // 2, 1)), some[m // 2 :]])
    yield np.concatenate([[[2.0, 2], [2, -2], [-2, 2], [-2, -2]], some[4:]])


def ill_posed(m):
    """Points almost on a line, or one far away: the area is a narrow wedge."""
    rng = np.random.default_rng(m)
    t = rng.normal(size=(m, 1)) * rng.normal(size=2)
    for off in (1e-3, 1e-6, 1e-7):
        yield t + off * rng.normal(size=(m, 2))
    for far in (1e3, 1e8, 1e18):
        yield np.concatenate([rng.normal(size=(m - 1, 2)), [[far, -3 * far]]])
        yield np.concatenate([t[1:], [[far, -3 * far]]])
    yield 1e3 + rng.normal(size=(m, 2))


def scale_of(points, f):
    """The scale of rounding errors: the extent of m - f of the points, and their offset."""
    middle = np.median(points, axis=0)
    reach = np.sort(np.abs(points - middle).max(axis=1))[len(points) - f - 1]
    return max(reach, np.abs(middle).max())


@pytest.mark.parametrize(("m", "f"), [(4, 1), (7, 2), pytest.param(5, 1, marks=pytest.mark.slow)])
def test_the_point_lies_in_every_hull(m, f):
    rng = np.random.default_rng(0)
    general = [rng.normal(size=(m, 2)) for _ in range(4)] + [rng.standard_cauchy(size=(m, 2))]
    exact, rough = [*degenerate(m), *general], [*ill_posed(m)]
    x = np.stack([*exact, *rough]).astype(np.float32)
    out = jax.jit(jax.vmap(lambda points: agreement._middle_of_safe_area(points, f)))(x)
    for k, (points, point) in enumerate(zip(x, np.asarray(out, np.float64))):
        unit = scale_of(points, f)
        for rows in itertools.combinations(range(m), m - f):
            # Beyond 1e9 the linear program itself becomes inaccurate.
            hull = np.clip(points[list(rows)], -1e9, 1e9)
            assert oracles.distance_to_hull(point, hull) <= 4e-6 * unit, (k, rows)
        if k < len(exact):
            expected = oracles.middle_of_safe_area(points, f)
            np.testing.assert_allclose(point, expected, atol=1e-5 * unit)


def test_a_far_row_does_not_blur_the_point():
    """Equal to float64; the largest difference seen is 1.3e-5."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4, 2))
    x[:, 0] *= np.repeat([1e3, 1e8], 200)[:, None]
    x = x.astype(np.float32)

    def points(x):
        return jax.jit(jax.vmap(lambda points: agreement._middle_of_safe_area(points, 1)))(x)

    with contraction.wide():
        expected = points(x.astype(np.float64))
        assert expected.dtype == np.float64
    np.testing.assert_allclose(points(x), expected, rtol=0, atol=3e-5)


def test_the_point_permutes_shifts_and_scales():
    rng = np.random.default_rng(1)
    x = np.round(rng.normal(size=(6, 2)) * 64) / 64
    rule = jax.jit(lambda x: agreement._middle_of_safe_area(x, 1))

    def point(x):
        return np.asarray(rule(x.astype(np.float32)))

    base = point(x)
    close(point(x[rng.permutation(6)]), base)
    close(point(x + np.array([8.0, -2])) - np.float32([8, -2]), base)
    for by in (2.0**-100, 2.0**100):
        close(point(by * x) / np.float32(by), base)


@pytest.mark.parametrize("lie", [np.nan, -np.inf, 3e38, 1e30, 1e9])
def test_no_attack_leaves_the_honest_hull(lie):
    rng = np.random.default_rng(2)
    honest = rng.normal(size=(4, 2))
    lies = np.array([[lie, lie], [-lie, lie], [lie, 0.3], [0.1, -lie]])
    x = np.stack([np.insert(honest, k, row, axis=0) for k, row in enumerate(lies)])
    for one in x.astype(np.float32):
        out = safe_area_average(one, f=1)
        assert oracles.distance_to_hull(out, honest) <= 1e-6


# --- as rules ------------------------------------------------------------------------------------


def rounds(own):
    return {
        "mid_extremes": protocols.mid_extremes,
        "approach_extreme": lambda x, **kw: protocols.approach_extreme(x, own, **kw),
        "trimmed_agreement": functools.partial(protocols.trimmed_agreement, f=1),
        "safe_area_average": functools.partial(protocols.safe_area_average, f=1),
    }


def test_coordinates_sliced_over_devices():
    """Only one device sees the NaN; all exclude its row."""
    rng = np.random.default_rng(3)
    x, own = rng.normal(size=(5, 16)).astype("f4"), rng.normal(size=16).astype("f4")
    x[2, 13] = np.nan

    def both(x, own, axis_name=None):
        names = "mid_extremes", "approach_extreme"
        return [rounds(own)[name](x, axis_name=axis_name) for name in names]

    sliced = jax.jit(
        jax.shard_map(
            functools.partial(both, axis_name="shard"),
            mesh=mesh_of(shard=8),
            in_specs=(P(None, "shard"), P("shard")),
            out_specs=P("shard"),
        )
    )(x, own)
    for out, expected in zip(sliced, jax.jit(both)(x, own), strict=True):
        np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_trees_and_dtypes():
    x = next(matrices(5, 2))
    ones = np.ones(2, np.float32)
    whole = [
        mid_extremes(x),
        approach_extreme(x, ones),
        trimmed_agreement(x, f=1),
        safe_area_average(x, f=1),
    ]
    tree = {"a": x[:, 0], "b": x[:, 1:].astype(jnp.bfloat16)}
    own = {"a": ones[0], "b": ones[1:].astype(jnp.bfloat16)}
    outs = jax.jit(lambda tree, own: [rule(tree) for rule in rounds(own).values()])(tree, own)
    for out, expected in zip(outs, whole):
        assert (out["a"].dtype, out["b"].dtype) == (jnp.float32, jnp.bfloat16)
        assert (out["a"].shape, out["b"].shape) == ((), (1,))
        both = np.array([out["a"], np.asarray(out["b"], np.float32)[0]])
        np.testing.assert_allclose(both, expected, rtol=2e-2, atol=2e-2)


def test_rounds_as_rules_of_the_verb():
    x = next(matrices(5, 2))

    def given(rule, **hyperparameters):
        tx = byzjax.aggregate(rule, **hyperparameters)
        return tx.update(x[:, :1], tx.init(jnp.zeros(1)), center=x[1, :1])[0]

    @jax.jit
    def both_ways():
        verbs = [
            given(protocols.mid_extremes),
            given(protocols.approach_extreme),
            given(protocols.trimmed_agreement, f=1),
            given(protocols.safe_area_average, f=1),
        ]
        return verbs, [rule(x[:, :1]) for rule in rounds(x[1, :1]).values()]

    np.testing.assert_array_equal(*both_ways())
    tx = byzjax.aggregate(protocols.approach_extreme)
    with pytest.raises(TypeError, match=r"^aggregate: approach_extreme needs center; "):
        tx.update(x, tx.init(jnp.zeros(2)))


def test_derivatives_equal_differences():
    rng = np.random.default_rng(5)
    with contraction.wide():
        x, dx = jnp.asarray(rng.normal(size=(2, 5, 2)))

        def along(t):
            return jnp.stack([rule(x + t * dx) for rule in rounds(x[0] + t).values()])

        with_slope = jax.jit(lambda t: jax.jvp(along, (t,), (1.0,)))
        _, derivative = with_slope(0.0)
        differences = (with_slope(1e-6)[0] - with_slope(-1e-6)[0]) / 2e-6
    np.testing.assert_allclose(derivative, differences, rtol=1e-6, atol=1e-8)
    assert (np.abs(derivative) > 1e-3).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: protocols.trimmed_agreement(np.zeros((6, 1)), f=2),
            ValueError,
            "trimmed_agreement needs n >= 3f + 1; got n=6, f=2.",
        ),
        (
            lambda: protocols.trimmed_agreement(np.zeros((6, 1)), f=1.0),
            TypeError,
            "f must be a Python int; got float, 1.0: write f=1.",
        ),
        (
            lambda: protocols.safe_area_average(np.zeros((6, 3)), f=1),
            ValueError,
            "safe_area_average needs one or two coordinates; got d=3.",
        ),
        (
            lambda: protocols.safe_area_average(np.zeros((8, 2)), f=2),
            ValueError,
            "safe_area_average needs n >= (d + 2)f + 1 = 9; got n=8, f=2, d=2.",
        ),
        (
            lambda: protocols.safe_area_average(np.zeros((30, 2)), f=2),
            ValueError,
            "safe_area_average takes at most 100,000 subsets and 100,000,000 pairs of lines; "
            "n=30, f=2 have C(n, f) = 435, and 577,600 pairs in each.",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message


# --- how close receivers get ---------------------------------------------------------------------


def test_the_worst_attacks_attain_what_is_proved():
    """For the trimmed rounds: honest values at the ends, attackers low to one, high to another."""
    for n, f in ((4, 1), (13, 3)):
        m = n - f
        honest = np.where(np.arange(m) < f, 0.0, 0.5)
        honest[m - f :] = 1
        low, high = (np.append(honest, np.full(f, lie)).astype(np.float32) for lie in (-9, 9))
        both = np.stack([low, high])[:, :, None]
        for rule, proved in (
            (protocols.trimmed_agreement, 1 / 2),
            (byzjax.trimmed_mean, f / (n - 2 * f)),
        ):
            one, other = np.asarray(mapped(rule, f=f)(both))
            np.testing.assert_allclose(other - one, proved, rtol=1e-6)


def test_communication_graphs_are_non_split():
    rng = np.random.default_rng(0)
    densities = []
    for _ in range(50):
        heard = contraction.heard(rng, 7)
        assert all((a & b).any() for a, b in itertools.combinations(heard, 2))
        assert heard.diagonal().all()
        densities.append(heard.mean())
    assert min(densities) < 0.5 < max(densities)


NAMES = list(dict.fromkeys(round_.name for round_ in contraction.ROUNDS))


def of_the_plane(name):
    """The first round in the plane of this name."""
    return next(r for r in contraction.ROUNDS if r.name == name and r.d == 2)


@pytest.mark.parametrize("name", NAMES)
def test_never_above_what_is_proved(name):
    factors, _ = contraction.measure(of_the_plane(name), 120, 0, 0)
    assert len(factors) == 120
    assert 0.2 < factors.max() <= of_the_plane(name).proved * (1 + ROUNDING)


def test_ascent_finds_the_worst_and_not_more():
    round_ = contraction.non_split("mid_extremes", 5, 3)
    factors, climbed = contraction.measure(round_, 60, 10, 25)
    assert factors.max() < climbed.max() <= math.sqrt(7 / 8) * (1 + ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("mid_extremes", 0.7),
        ("approach_extreme", 0.75),
        ("trimmed_agreement", 0.499),
        ("trimmed_mean", 0.499),
        ("safe_area_average", 0.75),
    ],
)
def test_never_above_what_is_proved_after_ascent(name, reached):
    round_ = of_the_plane(name)
    factors, climbed = contraction.measure(round_, 1000, 100, 100)
    assert (len(factors), len(climbed)) == (1000, 100)
    assert factors.max() <= round_.proved * (1 + ROUNDING)
    assert reached < climbed.max() <= round_.proved * (1 + ROUNDING)


def test_the_table_holds_what_is_proved():
    with (ROOT / "docs" / "benchmarks" / "agreement.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [(r["round"], r["n"], r["d"], r["f"]) for r in rows] == [
        (r.name, str(r.n), str(r.d), str(r.f)) for r in contraction.ROUNDS
    ]
    for row, round_ in zip(rows, contraction.ROUNDS):
        assert math.isclose(float(row["proved"]), round_.proved)
        assert (int(row["random inputs"]), int(row["ascents"])) == (1000, 100)
        for column in ("largest of random", "largest after ascent"):
            assert 0 < float(row[column]) <= round_.proved * (1 + ROUNDING)
