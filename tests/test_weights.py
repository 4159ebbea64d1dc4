"""Rules with weights: against their loops on multisets, what they withstand by weight, and caps."""

import functools
import inspect
import itertools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

import byzjax
from byzjax import theory
from byzjax._mistakes import LONGEST
from byzjax.facts import FACTS
from tests import oracles
from tests.helpers import close, mesh_of, near
from tests.rule_cases import replicated

N, D = 7, 5
CENTER = np.full(D, 0.25, np.float32)


def clip(x, weights=None, **options):
    return byzjax.centered_clip(x, jnp.full(x.shape[1:], 0.25), weights=weights, **options)


def clip_loop(x, f, **options):
    return oracles.centered_clip(x, f, np.full(x.shape[1], 0.25), **options)


def mid(x, f):
    """Of n rows ceil(n/2) count, which is as with mode n-f if f is n // 2; f is that part here."""
    return oracles.aksel(x, f, mode="n-f")


def faults(n, f, rule):
    return n // 2 if rule == "aksel-mid" else f


# name: (rule, loop, hyperparameters beside f, whether it takes f)
RULES = {
    "mean": (byzjax.mean, oracles.mean, {}, False),
    "median": (byzjax.median, oracles.median, {}, False),
    "trimmed_mean": (byzjax.trimmed_mean, oracles.trimmed_mean, {}, True),
    "mean_around_median": (byzjax.mean_around_median, oracles.mean_around_median, {}, True),
    "phocas": (byzjax.phocas, oracles.phocas, {}, True),
    "comparative_elimination": (
        byzjax.comparative_elimination,
        oracles.comparative_elimination,
        {},
        True,
    ),
    "aksel-mid": (byzjax.aksel, mid, {}, True),
    "aksel-n-f": (byzjax.aksel, oracles.aksel, {"mode": "n-f"}, True),
    "aksel-radius": (byzjax.aksel, oracles.aksel, {"mode": "radius"}, True),
    "geometric_median": (byzjax.geometric_median, oracles.geometric_median, {}, False),
    "rfa": (
        byzjax.geometric_median,
        oracles.geometric_median,
        {"iterations": 3, "start": "median", "smoothing": 0.1},
        False,
    ),
    "rfa-mean": (byzjax.geometric_median, oracles.geometric_median, {"iterations": 2}, False),
    "huber": (byzjax.huber, oracles.huber, {"threshold": 1.5}, False),
    "centered_clip": (clip, clip_loop, {"radius": 1.5}, False),
    "centered_clip-3": (clip, clip_loop, {"radius": 1.5, "iterations": 3}, False),
}
QUICK = {"mean", "median", "trimmed_mean", "aksel-n-f", "geometric_median"}
DERIVED = {"mean", "trimmed_mean"}
SMOOTH = {"mean", "geometric_median", "huber", "rfa-mean", "centered_clip", "centered_clip-3"}


def over(quick, names=tuple(RULES)):
    """Parametrizes over rules; those that are not quick are slow."""
    marks = {name: [] if name in quick else [pytest.mark.slow] for name in names}
    return pytest.mark.parametrize("name", [pytest.param(r, marks=marks[r]) for r in names])


over_rules, over_derivatives = over(QUICK), over(DERIVED)
over_all = over(QUICK | {"phocas", "mean_around_median", "comparative_elimination", "aksel-mid"})


def hyper(name, f):
    _, _, options, takes_f = RULES[name]
    return options | ({"f": f} if takes_f else {})


@functools.cache
def program(name, f):
    """The rule on a batch of matrices and weights."""
    rule = functools.partial(RULES[name][0], **hyper(name, f))
    return jax.jit(jax.vmap(lambda x, w: rule(x, weights=w)))


def expected(name, x, times, f):
    _, loop, options, takes_f = RULES[name]
    f = faults(len(x), f, name)
    rows, f = replicated(x, times, f if takes_f else None)
    options = {k: v for k, v in options.items() if name != "aksel-mid"}
    return loop(rows, f, **options)


def drawn(seed, count=16, n=N, zeros=True):
    """Matrices, and weights as integers."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, n, D)).astype(np.float32)
    w = rng.integers(0 if zeros else 1, 6, size=(count, n))
    w[:, 0] += 1
    w[w.min(axis=1) == w.max(axis=1), 0] += 1
    return x, w


# --- the definition ------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [1, 2])
@over_all
def test_a_row_of_integer_weight_stands_that_many_times(name, f):
    if f == 2 and not RULES[name][3]:
        pytest.skip("takes no f")
    x, times = drawn([f, 0])
    out = program(name, f)(x, jnp.asarray(times, jnp.float32))
    for rows, counts, result in zip(x, times, out):
        close(result, expected(name, rows, counts, f), 8, 1e-5)


@over_rules
def test_only_ratios_of_weights_matter(name):
    x, times = drawn(2)
    base = program(name, 1)(x, jnp.asarray(times, jnp.float32))
    for factor in (2.0**-100, 1 / 3, 1e30):
        close(program(name, 1)(x, jnp.asarray(times * factor, jnp.float32)), base, 8, 1e-5)


@over_all
def test_equal_weights_give_the_rule_without_weights_bit_for_bit(name):
    x, _ = drawn(3, count=1)
    rule = functools.partial(RULES[name][0], **hyper(name, 2))
    of_weights = jax.jit(lambda x, w: rule(x, weights=w))
    plain = jax.jit(rule)(x[0])
    for weight in (1.0, 0.1, 3e-30, 1e38):
        out = of_weights(x[0], jnp.full(N, weight, jnp.float32))
        assert np.asarray(out).tobytes() == np.asarray(plain).tobytes()
    mapped = program(name, 2)(np.stack([x[0]] * 16), jnp.full((16, N), 0.7))
    by_one = jax.jit(jax.vmap(rule))(np.stack([x[0]] * 16))
    close(mapped, by_one, 1, 1e-6)  # both forms are computed there, in another program


@over_rules
def test_a_row_of_weight_0_does_not_count(name):
    x, times = drawn(4)
    times[:, 2] = 0
    weights = jnp.asarray(times, jnp.float32)
    base = np.asarray(program(name, 1)(x, weights))
    assert np.isfinite(base).all()
    for bad in (np.nan, -np.inf, 1e30):
        x[:, 2] = bad
        close(program(name, 1)(x, weights), base, 8, 1e-5)


def test_the_lower_one_on_a_tie():
    """The median is 4, of the weight 2 and 6 are equally far, and half of their weight counts."""
    x = jnp.array([[4.0], [2.0], [6.0], [40.0]])
    weights = jnp.array([4.0, 1.0, 2.0, 1.0])  # six of eight count
    close(byzjax.mean_around_median(x, f=1, weights=weights), [(4 * 4 + 2 + 6) / 6], 8)


@over_rules
def test_permuting_rows_and_weights(name):
    x, times = drawn(5)
    order = np.random.default_rng(5).permutation(N)
    weights = jnp.asarray(times, jnp.float32)
    base, after = program(name, 1)(x, weights), program(name, 1)(x[:, order], weights[:, order])
    close(after, base, 8, 1e-5)


@over(())
def test_many_rows(name):
    n, f = 150, 40
    rng = np.random.default_rng(6)
    x, times = rng.normal(size=(n, D)).astype(np.float32), rng.integers(0, 4, size=n)
    rule = functools.partial(RULES[name][0], **hyper(name, f))
    out = jax.jit(lambda x, w: rule(x, weights=w))(x, jnp.asarray(times, jnp.float32))
    close(out, expected(name, x, times, f), 8, 2e-5)


# --- derivatives ---------------------------------------------------------------------------------


@over_derivatives
def test_derivatives_by_updates_and_weights(name):
    x, times = drawn(7, count=4, zeros=False)
    rng = np.random.default_rng(7)
    weights = np.asarray(times + rng.uniform(0, 0.5, times.shape), np.float32)
    weights[0] = 1.0  # the value is that without weights, the derivative that with weights
    toward, dx, dw = rng.normal(size=D), rng.normal(size=x.shape), rng.normal(size=times.shape)
    run = functools.partial(RULES[name][0], **hyper(name, 2))

    def value(x, w):
        return jax.vmap(lambda x, w: run(x, weights=w))(x, w) @ toward

    gradients = jax.jit(jax.grad(lambda x, w: value(x, w).sum(), argnums=(0, 1)))(x, weights)
    _, forward = jax.jit(lambda *a: jax.jvp(value, (x, weights), a))(*map(np.float32, (dx, dw)))
    by_x = np.sum(np.asarray(gradients[0]) * dx, axis=(1, 2))
    by_w = np.sum(np.asarray(gradients[1]) * dw, axis=1)
    close(forward, by_x + by_w, 8, 1e-5)
    # A cut between two rows, as for equal weights, or half of the weight: a kink, or a jump.
    smooth = slice(0 if name in SMOOTH else 1, None)
    step = 2e-3
    at = jax.jit(value)
    moved = [at(x + s * dx.astype("f4"), weights) for s in (step, -step)]
    close(by_x, (moved[0] - moved[1]) / (2 * step), 8, 2e-3)
    moved = [at(x, weights + s * dw.astype("f4")) for s in (step, -step)]
    close(by_w[smooth], ((moved[0] - moved[1]) / (2 * step))[smooth], 8, 2e-3)


@over_derivatives
def test_derivatives_where_rows_are_bad_or_weigh_nothing(name):
    x, times = drawn(8, count=2)
    times[:] = [2, 3, 2, 0, 2, 3, 1]
    x[0, 3], x[1, 6] = np.nan, np.inf
    run = functools.partial(RULES[name][0], **hyper(name, 2))
    one = jax.grad(lambda x, w: run(x, weights=w).sum(), argnums=(0, 1))
    by_x, by_w = jax.jit(jax.vmap(one))(x, jnp.asarray(times, jnp.float32))
    if name == "mean":
        by_x, by_w = by_x[:1], by_w[:1]
    assert np.isfinite(by_x).all()
    assert np.isfinite(by_w).all()
    assert not np.any(by_x[:1, 3])


# --- what it withstands, by weight ---------------------------------------------------------------

WITHSTAND = [name for name in RULES if name not in ("mean", "rfa-mean")]
SENT = [np.nan, -np.inf, np.inf, 1e30, -1e12, 1e3, 3.0]


def attacked(seed, n, f, share=1.0):
    """Matrices, weights, and rows of up to this part of f/n of the weight that send bad values."""
    rng = np.random.default_rng(seed)
    for value in SENT:
        w = rng.exponential(size=n).astype(np.float32)
        byzantine = np.arange(n) < rng.integers(1, f + 2)
        rng.shuffle(byzantine)
        limit = share * f / n
        factor = limit / (1 - limit) * w[~byzantine].sum() / w[byzantine].sum()
        w[byzantine] *= np.float32(factor)
        x = rng.normal(size=(n, D)).astype(np.float32)
        if value == 3.0:
            x[byzantine, 0] = value
        else:
            x[byzantine] = value
        yield x, w, byzantine


def weighted_variance(x, w):
    mean = w @ x / w.sum()
    return mean, w @ np.sum((x - mean) ** 2, axis=1) / w.sum()


@over(QUICK, WITHSTAND)
def test_it_withstands_its_share_of_the_weight(name):
    n, f = N, 2
    cases = [case for seed in range(2) for case in attacked([9, seed], n, f)]
    x, w = np.stack([c[0] for c in cases]), np.stack([c[1] for c in cases])
    out = np.asarray(program(name, f)(x, jnp.asarray(w)), np.float64)
    rule = RULES[name][0].__name__
    promise = "finite" if rule == "clip" or name == "rfa" else FACTS[rule].promise
    for (rows, weights, byzantine), result in zip(cases, out):
        assert np.isfinite(result).all(), (rows[byzantine][0], weights)
        good = rows[~byzantine].astype(np.float64)
        if promise == "range":
            assert (result >= good.min(axis=0) - 1e-5).all()
            assert (result <= good.max(axis=0) + 1e-5).all()
        if promise == "bounded":
            mean, variance = weighted_variance(good, weights[~byzantine].astype(np.float64))
            kappa = theory.proved_by_weight("kappa", rule, n, f, **RULES[name][2])
            assert np.sum((result - mean) ** 2) <= kappa * variance * (1 + 1e-4)


@over(
    {"median", "trimmed_mean"},
    ("median", "trimmed_mean", "aksel-n-f", "aksel-radius", "geometric_median", "huber"),
)
def test_it_breaks_beyond_half_of_the_weight(name):
    """One row with more than half of the weight decides, or the result is NaN."""
    x, _ = drawn(10, count=1)
    x[0, 3] = 1e6
    weights = np.ones((1, N), np.float32)
    weights[0, 3] = N + 1
    run = jax.jit(jax.vmap(functools.partial(RULES[name][0], **hyper(name, 2))))
    out = run(x, weights=jnp.asarray(weights))
    assert not np.abs(out).max() < 1e5


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in WITHSTAND if n.startswith("aksel")] + WITHSTAND[:4])
@pytest.mark.parametrize(("n", "f"), [(5, 1), (7, 3), (8, 2)])
def test_a_search_does_not_exceed_kappa_by_weight(name, n, f):
    """Random places on a line and in the plane, moved one at a time while the ratio grows."""
    rule, options = RULES[name][0], RULES[name][2]
    kappa = theory.proved_by_weight("kappa", rule.__name__, n, f, **options)
    assert kappa is not None
    rng = np.random.default_rng([n, f])
    batch, b = 256, 1 + f // 2
    run = jax.jit(jax.vmap(lambda x, w: functools.partial(rule, **hyper(name, f))(x, weights=w)))

    def ratios(x, w):
        out = np.asarray(run(jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)), np.float64)
        good, weights = x[:, b:], w[:, b:] / w[:, b:].sum(axis=1, keepdims=True)
        mean = np.einsum("bi,bid->bd", weights, good)
        variance = np.einsum("bi,bid->b", weights, (good - mean[:, None]) ** 2)
        apart = np.sum((out - mean) ** 2, axis=1)
        return np.where(variance > 1e-8, apart / np.maximum(variance, 1e-8), 0)

    def of_share(w):
        limit = f / n
        lies = w[:, :b].sum(axis=1, keepdims=True)
        w[:, :b] *= limit / (1 - limit) * w[:, b:].sum(axis=1, keepdims=True) / lies
        return w

    x = np.round(rng.normal(size=(batch, n, 2)) * 2) / 2
    w = of_share(rng.exponential(size=(batch, n)) + 0.05)
    best = ratios(x, w)
    for _ in range(150):
        y, v = x.copy(), w.copy()
        i = rng.integers(n, size=batch)
        y[np.arange(batch), i] += rng.normal(size=(batch, 2)) * rng.choice([0.01, 0.3, 2.0])
        v[np.arange(batch), rng.integers(n, size=batch)] *= rng.choice([0.2, 0.7, 1.5, 5.0])
        v = of_share(v)
        tried = ratios(y, v)
        better = tried > best
        x[better], w[better], best[better] = y[better], v[better], tried[better]
    print(f"{name} n={n} f={f}: {best.max():.3f} of {kappa:.3f}")
    assert best.max() <= kappa * (1 + 1e-3)
    assert best.max() >= kappa / 8


def test_constants_by_weight():
    assert theory.proved_by_weight("kappa", "median", 12, 3) == pytest.approx(1 / (1 - 0.5))
    assert theory.proved_by_weight("kappa", "trimmed_mean", 12, 3) == pytest.approx(0.25 / 0.5)
    by_hand = (1 + 8 / 11 * np.sqrt(2 / (6 / 11))) ** 2 / (1 - 6 / 11)
    assert theory.proved_by_weight("kappa", "aksel", 11, 3) == pytest.approx(by_hand)
    assert theory.proved_by_weight("kappa", "krum", 11, 3) is None
    assert theory.proved_by_weight("epsilon", "aksel", 11, 3) is None
    with pytest.raises(ValueError, match=r"^by weight there are kappa, lambda, epsilon; got 'eta'"):
        theory.proved_by_weight("eta", "median", 11, 3)
    for rule, facts in FACTS.items():
        takes = facts.kind == "rule" and "weights" in _parameters(rule)
        assert takes == (facts.kind == "rule" and bool(facts.weights))


def _parameters(rule):
    return inspect.signature(getattr(byzjax, rule)).parameters


# --- rules on pairs, which take none -------------------------------------------------------------


def test_why_krum_takes_none():
    """Krum on a multiset depends on the unit of the weights, and prefers the heavy row."""
    x = np.array([[0.0], [2], [3], [4], [12], [13], [14]])
    assert oracles.krum(x, 2)[0] == 2.0
    assert oracles.krum(np.repeat(x, 2, axis=0), 4)[0] == 3.0  # the same workers, twice each
    x = np.array([[0.0], [1], [2], [3], [10]])
    assert oracles.krum(x, 1)[0] == 1.0
    assert oracles.krum(np.repeat(x, [1, 1, 1, 1, 4], axis=0), 2)[0] == 10.0


REFUSE = sorted(n for n, facts in FACTS.items() if facts.kind == "rule" and not facts.weights)


@pytest.mark.parametrize("name", [*REFUSE, "nearest_neighbors", "bucketing"])
def test_others_refuse_in_one_line(name):
    with pytest.raises(TypeError, match=rf"^{name} takes no weights: docs/weights.md") as error:
        getattr(byzjax, name)(jnp.ones((12, 2)), weights=jnp.ones(12))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= LONGEST


def test_a_transformation_does_not_ignore_weights_that_its_rule_refuses():
    tx = byzjax.aggregate(byzjax.krum, f=1)
    with pytest.raises(TypeError, match=r"^aggregate: krum takes no weights"):
        tx.update(jnp.ones((5, 2)), tx.init(jnp.ones(2)), weights=jnp.ones(5))
    with pytest.raises(TypeError, match=r"^aggregate: krum takes no weights"):
        byzjax.aggregate(byzjax.krum, f=1, weights=jnp.ones(5))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0] * 5, "weights must be an array; got a list: write jnp.asarray(weights)."),
        (jnp.ones(4), "weights must have shape (5,) for n=5; got (4,)."),
        (-jnp.ones(5), "weights must be finite and at least 0; got -1.0 for worker 0."),
        (jnp.array([1, 1, jnp.nan, 1, 1]), "weights must be finite and at least 0; got nan for"),
        (np.zeros(5), "weights must not all be 0; got n=5 zeros."),
        (2.0, "weights must be real numbers [n], one for each worker; got 2.0."),
        (jnp.ones((5, 1)), "weights must be real numbers [n], one for each worker; got float32"),
    ],
)
def test_wrong_weights(weights, words):
    for rule in (byzjax.median, functools.partial(byzjax.geometric_median, iterations=1)):
        with pytest.raises((TypeError, ValueError)) as error:
            rule(jnp.ones((5, 2)), weights=weights)
        assert str(error.value).startswith(words)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_traced_weights_that_are_wrong_give_nan(bad):
    run = jax.jit(lambda w: byzjax.trimmed_mean(jnp.ones((5, 2)), f=1, weights=w))
    assert np.isnan(run(jnp.array([1, 1, bad, 1, 1]))).all()
    assert np.isnan(run(jnp.zeros(5))).all()


# --- trees, types, devices, transformations ------------------------------------------------------


def tree_and_weights(dtype=jnp.float32):
    rng = np.random.default_rng(11)
    leaves = [rng.normal(size=(8, *shape)) for shape in [(3, 4), (), (9,)]]
    weights = jnp.asarray(rng.integers(1, 5, size=8), jnp.int32)
    return [jnp.asarray(leaf, dtype) for leaf in leaves], weights


@pytest.mark.slow
def test_lists_of_leaves_and_narrow_types():
    tree, weights = tree_and_weights()
    flat = jnp.concatenate([leaf.reshape(8, -1) for leaf in tree], axis=1)
    rules = [
        functools.partial(byzjax.aksel, f=2, mode="n-f"),
        functools.partial(byzjax.phocas, f=2),
        byzjax.geometric_median,
    ]
    for rule in rules:
        out = rule(tree, weights=weights)
        whole = rule(flat, weights=weights)
        close(np.concatenate([np.ravel(leaf) for leaf in out]), whole, 8, 1e-5)
        narrow = rule(flat.astype(jnp.bfloat16), weights=weights)
        assert narrow.dtype == jnp.bfloat16
        close(np.asarray(narrow, np.float32), whole, 1, 0.05)


@pytest.mark.slow
def test_on_devices():
    tree, weights = tree_and_weights()
    rules = {"phocas": {"f": 2}, "aksel": {"f": 2}, "geometric_median": {}, "median": {}}

    def collective(rows, weights):
        return {
            name: byzjax.all_aggregate(
                getattr(byzjax, name), rows, "workers", stacked=True, weights=weights, **options
            )
            for name, options in rules.items()
        }

    run = jax.shard_map(
        collective, mesh=mesh_of(workers=4), in_specs=(P("workers"), P()), out_specs=P()
    )
    for w in (weights, jnp.ones(8)):
        out = jax.jit(run)(tree, w)
        for name, options in rules.items():
            near(out[name], getattr(byzjax, name)(tree, weights=w, **options), 1e-5)


def test_transformations_take_weights_at_each_update():
    tree, weights = tree_and_weights()
    expected = byzjax.trimmed_mean(tree, f=2, weights=weights)
    tx = optax.chain(byzjax.aggregate(byzjax.trimmed_mean, f=2), optax.scale(1.0))
    params = [leaf[0] for leaf in tree]
    near(tx.update(tree, tx.init(params), params, weights=weights)[0], expected)
    near(tx.update(tree, tx.init(params), params)[0], byzjax.trimmed_mean(tree, f=2))
    bound = byzjax.aggregate(byzjax.trimmed_mean, f=2, weights=weights)
    near(bound.update(tree, bound.init(params), params)[0], expected)
    clipping = byzjax.centered_clipping(radius=2.0)
    out, _ = clipping.update(tree, clipping.init(params), params, weights=weights)
    zero = jax.tree.map(jnp.zeros_like, params)
    near(out, byzjax.centered_clip(tree, zero, radius=2.0, weights=weights))


def test_influence_of_heavy_rows():
    x = jnp.array([[0.0], [1.0], [2.0], [3.0]])
    weights = jnp.array([4.0, 1.0, 2.0, 1.0])
    close(byzjax.influence(byzjax.mean, x, weights=weights), weights / 8)


# --- caps ----------------------------------------------------------------------------------------

sizes = st.integers(3, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(1, 10**6), min_size=n, max_size=n), st.integers(1, (n - 1) // 2)
    )
)


@settings(max_examples=60, deadline=None)
@given(drawn=sizes, room=st.floats(0.0, 1.0))
def test_no_f_workers_hold_more_than_the_share(drawn, room):
    counts, f = drawn
    counts = np.array(counts + [1] * (12 - len(counts)))
    n = len(counts)
    share = f / n + room * (1 - f / n)
    capped = np.asarray(
        byzjax.cap_weights(jnp.asarray(counts), f=f, share=float(np.float32(share))), np.float64
    )
    top = np.sort(capped)[::-1]
    assert top[:f].sum() <= share * top.sum() * (1 + 1e-5)
    cap = capped.max()
    close(capped, np.minimum(counts, cap), 1, 1e-6)
    if cap < counts.max() * (1 - 1e-5):  # the largest cap: with a larger one they hold more
        larger = np.sort(np.minimum(counts, cap * 1.01))[::-1]
        assert larger[:f].sum() > share * larger.sum() * (1 - 1e-5)


def test_caps_by_hand():
    counts = jnp.array([30.0, 10.0, 20.0, 20.0, 1e9])
    close(byzjax.cap_weights(counts, f=1, share=0.25), [25, 10, 20, 20, 25])
    close(byzjax.cap_weights(counts, f=1, share=1.0), counts)
    np.testing.assert_array_equal(byzjax.cap_weights(counts, f=0, share=0.1), counts)
    close(byzjax.cap_weights(counts, f=1, share=0.2), np.full(5, 10.0))
    assert np.isnan(jax.jit(lambda c: byzjax.cap_weights(c, f=2, share=0.3))(counts)).all()
    for wrong, words in (
        ({"f": 2, "share": 0.25}, "cap_weights needs f <= share * m for m workers with positive"),
        ({"f": 1, "share": 0.0}, "share must be in (0, 1]; got share=0.0."),
        ({"f": -1, "share": 0.5}, "f must be at least 0; got f=-1."),
    ):
        with pytest.raises(ValueError, match="^" + re.escape(words)):
            byzjax.cap_weights(counts, **wrong)
    with pytest.raises(ValueError, match=r"^counts must be finite and at least 0"):
        byzjax.cap_weights(-counts, f=1, share=0.5)


def test_capped_counts_withstand_whatever_is_reported():
    """Five of 25 are liars with any counts; a share of 0.28 is that of f = 7."""
    rng = np.random.default_rng(12)
    x = rng.normal(size=(25, D)).astype(np.float32)
    counts = rng.integers(50, 500, size=25).astype(np.float32)
    x[:5] = 1e6
    for report, only in itertools.product((1.0, 1e4, 1e9), (1, 5)):
        counts[:5] = 100
        counts[:only] = report
        weights = byzjax.cap_weights(jnp.asarray(counts), f=5, share=7 / 25)
        out = byzjax.trimmed_mean(x, f=7, weights=weights)
        assert (x[5:].min(axis=0) <= out).all()
        assert (out <= x[5:].max(axis=0)).all()
    counts[0] = 1e9
    assert np.abs(byzjax.trimmed_mean(x, f=7, weights=jnp.asarray(counts))).max() > 1e5
