"""Every kappa from both sides: no search exceeds it, and the input of its proof attains it.

Rules are those of the papers' loops and of `tests.search`, both NumPy in float64; the library's own
are compared on the same inputs.
"""

import pathlib
from functools import partial

import jax
import numpy as np
import pytest

import byzjax
from byzjax import theory
from byzjax._numerics.float64 import float64
from byzjax.theory import _inputs as inputs
from byzjax.theory import exact, table
from byzjax.theory.constants import behind_bucketing
from tests import oracles, search

ROOT = pathlib.Path(__file__).parent.parent
PAIRS = [(n, f) for n in range(3, 14) for f in range(1, (n - 1) // 2 + 1)]
EXACT = [c for c in table.KAPPA if c.attained]
LIMITED = [c for c in table.KAPPA if c.tag == "derived"]


def name_of(c):
    return ", ".join([c.rule, *map(str, c.options.values())])


def pairs_of(c, most_n=13):
    return [(n, f) for n, f in PAIRS if n <= most_n and n >= c.needs[0] * f + c.needs[1]]


def loop(c, f):
    """The paper's loop for this form, `rows -> aggregate`."""
    pivot = {"pivot": f} if c.rule == "nearest_to_pivot" else {}
    return lambda x: getattr(oracles, c.rule)(x, f, **c.options, **pivot)


def ratio_of(aggregate, x, honest):
    good = np.asarray(x)[honest]
    return ((aggregate - good.mean(axis=0)) ** 2).sum() / oracles.variance(good)


# --- the inputs ----------------------------------------------------------------------------------


def test_enough_sizes_are_tried():
    assert len(PAIRS) >= 30
    assert {n % 2 for n, _ in PAIRS} == {0, 1}
    assert len(EXACT) == 10


@pytest.mark.parametrize("c", EXACT, ids=name_of)
def test_the_input_of_the_proof_attains_kappa(c):
    tried = 0
    for n, f in pairs_of(c):
        if not c.attained(n, f):
            continue
        x = np.array(c.input(n, f))
        assert len(x) == n
        if c.rule == "geometric_median":  # 0 is the median by its optimality condition
            assert not x[:f].any()
            (ratio,) = search.geometric_median_ratio(f)(x[None, f:])
        else:
            ratio = ratio_of(loop(c, f)(x), x, np.arange(n) >= f)
        assert ratio == pytest.approx(c.value(n, f), rel=1e-6), (n, f)
        tried += 1
    assert tried >= (18 if c.options.get("mode") == "mid" else 30)


OWN = [
    ("aksel", {"mode": "n-f"}, 7, 2),
    ("geometric_median", {}, 8, 3),
    *(
        pytest.param(name, options, n, f, marks=pytest.mark.slow)
        for name, options in (
            *((name, {}) for name in ("median", "trimmed_mean", "mean_around_median", "phocas")),
            *((name, {}) for name in ("minimum_eigenvalue", "geometric_median")),
            *((name, {}) for name in ("minimum_diameter", "nearest_to_pivot", "aksel", "medoid")),
            ("aksel", {"mode": "n-f"}),
        )
        for n, f in ((3, 1), (6, 2), (9, 3), (10, 4), (11, 2))
        if name != "aksel" or options or n % 2
    ),
]


@pytest.mark.parametrize(("name", "options", "n", "f"), OWN)
def test_the_librarys_rule_attains_it(name, options, n, f):
    worst = theory.worst_input(name, n, f, **options)
    arguments = dict(options)
    if byzjax.facts.FACTS[name].takes_f:
        arguments["f"] = f
    if name == "nearest_to_pivot":
        arguments["pivot"] = f
    with float64():
        out = jax.device_get(getattr(byzjax, name)(worst.updates, **arguments))
    assert out.dtype == np.float64
    assert ratio_of(out, worst.updates, worst.subset) == pytest.approx(worst.kappa, rel=1e-6)
    proved = theory.proved("kappa", name, n, f, **options)
    assert worst.kappa == pytest.approx(proved if name != "medoid" else proved - 1)


@pytest.mark.parametrize("c", [c for c in table.KAPPA if c.least], ids=name_of)
def test_where_kappa_is_not_exact_an_input_shows_what_it_is_at_least(c):
    for n, f in pairs_of(c):
        x = np.array(c.input(n, f))
        ratio = ratio_of(loop(c, f)(x), x, np.arange(n) >= f)
        assert ratio == pytest.approx(c.least(n, f), rel=1e-6), (n, f)
        assert ratio <= c.value(n, f) * (1 + 1e-6)
        if c.rule == "medoid":
            assert c.value(n, f) <= (ratio + 1) * (1 + 1e-6)


def test_the_page_is_what_the_code_prints():
    assert (ROOT / "docs" / "kappa.md").read_text() == exact.page()
    words = [exact.status(c) for c in table.KAPPA]
    assert words.count("exact") == len(EXACT) - 1
    assert words.count("exact for odd n") == 1


def test_an_input_that_is_not_known():
    for name, n, f in (("covariance_filter", 10, 3), ("bulyan", 11, 2)):
        with pytest.raises(ValueError, match=rf"^no input .* kappa of {name} at n={n}, f={f}\.$"):
            theory.worst_input(name, n, f)


def test_the_lambdas_of_subsets_and_pivots_are_attained():
    for n, f in PAIRS:
        x = np.array([[1.0]] * f + [[0.0]] * (n - 2 * f) + [[-1.0]] * f)
        good = x[f:]
        for aggregate, name in (
            (oracles.minimum_diameter(x, f), "minimum_diameter"),
            (oracles.nearest_to_pivot(x, f, pivot=f), "nearest_to_pivot"),
        ):
            distance = abs(aggregate - good.mean(axis=0))[0] / oracles.diameter(good)
            assert distance == pytest.approx(theory.proved("lambda", name, n, f)), (name, n, f)


# --- searches ------------------------------------------------------------------------------------


def on_batches(c, n, f):
    """The ratio of this form for a batch of inputs."""
    if c.rule == "geometric_median":
        return search.geometric_median_ratio(f)
    if c.rule == "krum":
        more = n - f - (1 if c.options["neighbors"] == "n-f-1" else 2)
        return search.kappa_ratio(partial(search.krum, neighbors=more), f)
    options = {} if c.rule == "bulyan" else c.options
    if options.get("mode") == "radius":
        return search.kappa_ratio(search.aksel_within_radius, f)
    return search.kappa_ratio(partial(getattr(search, c.rule), **options), f)


SUBSETS = ("minimum_diameter", "minimum_eigenvalue")


def exceeds(c, n, f, d, batch, steps):
    rng = np.random.default_rng([n, f, d])
    seed_input = c.input(n, f) if c.attained and c.attained(n, f) else None
    x = search.starts(rng, batch, n, d, seed_input)
    if c.rule == "geometric_median":
        x = x[:, f:]
    largest, worst = search.largest(on_batches(c, n, f), x, steps, rng)
    assert largest <= c.value(n, f) * (1 + 1e-6), (name_of(c), n, f, d, worst.tolist())


@pytest.mark.parametrize("c", LIMITED, ids=name_of)
def test_no_short_search_exceeds_kappa(c):
    for n, f in pairs_of(c, most_n=9 if c.rule in SUBSETS else 13):
        exceeds(c, n, f, 1 + (n + f) % 3, batch=16, steps=60)


@pytest.mark.slow
@pytest.mark.parametrize("c", LIMITED, ids=name_of)
def test_no_search_exceeds_kappa(c):
    for n, f in pairs_of(c, most_n=8 if c.rule in SUBSETS else 13):
        for d in (1, 3):
            exceeds(c, n, f, d, batch=32, steps=250)


# --- what the proofs use -------------------------------------------------------------------------


def test_the_lemma():
    """For the median, the trimmed mean and a row as centres, any values and any T."""
    rng = np.random.default_rng(0)
    for n, f in PAIRS:
        x = rng.normal(size=(400, n)) ** 3 * np.where(np.arange(n) < f, 10 ** rng.normal(), 1)
        x = np.where(rng.random((400, 1)) < 0.5, np.round(x), x)  # with ties
        good = x[:, f:]
        away = ((good - good.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        for center, q in (
            (np.median(x, axis=1), inputs.honest_needed(n, f)),
            (np.sort(x, axis=1)[:, f : n - f].mean(axis=1), n - 2 * f),
            (good[:, 0], 1),
        ):
            largest = np.sort((good - center[:, None]) ** 2, axis=1)[:, ::-1].cumsum(axis=1)
            for t in range(1, n - f + 1):
                assert (largest[:, t - 1] <= (1 + t / q) * away * (1 + 1e-9)).all(), (n, f, t, q)


def test_of_the_lemmas_constant_nothing_can_be_spared():
    """The f rows at -1 of the input of T2 are (1 + f/q) m V from the median together."""
    for n, f in PAIRS:
        good = np.array(inputs.nearest_to_median(n, f))[f:]
        share = (good[:f] ** 2).sum() / (oracles.variance(good) * (n - f))
        assert share == pytest.approx(1 + f / inputs.honest_needed(n, f))


def neighbors_ratio(f):
    """The sum of squared distances of the mixed honest rows to the honest mean, over V."""

    def ratio(x):
        good = x[:, f:]
        center = good.mean(axis=1, keepdims=True)
        variance = ((good - center) ** 2).sum(axis=(1, 2)) / good.shape[1]
        least = 1e-12 * (x**2).sum(axis=-1).max(axis=1)
        total = ((search.nearest_neighbors(x, f)[:, f:] - center) ** 2).sum(axis=(1, 2))
        return np.where(variance > least, total / np.maximum(variance, 1e-300), 0)

    return ratio


def mixed(f, rule):
    return search.kappa_ratio(lambda x, f: rule(search.nearest_neighbors(x, f), f), f)


@pytest.mark.parametrize(
    ("steps", "batch"), [(24, 12), pytest.param(400, 48, marks=pytest.mark.slow)]
)
def test_nearest_neighbors(steps, batch):
    """T9: the sum is at most 4 f V, and with the trimmed mean kappa is 4 f / (n - 2f), attained."""
    for n, f in PAIRS:
        worst = np.array(inputs.nearest_to_trimmed_mean(n, f))
        kappa = theory.after_nearest_neighbors(theory.proved("kappa", "trimmed_mean", n, f), n, f)
        assert kappa == pytest.approx(4 * f / (n - 2 * f))
        attained = oracles.trimmed_mean(oracles.nearest_neighbors(worst, f), f)
        assert ratio_of(attained, worst, np.arange(n) >= f) == pytest.approx(kappa, rel=1e-6)
        assert neighbors_ratio(f)(worst[None])[0] == pytest.approx(4 * f, rel=1e-6)
        median = theory.after_nearest_neighbors(theory.proved("kappa", "median", n, f), n, f)
        for ratio, most in (
            (neighbors_ratio(f), 4 * f),
            (mixed(f, search.trimmed_mean), kappa),
            (mixed(f, search.median), median),
        ):
            rng = np.random.default_rng([n, f])
            x = search.starts(rng, batch, n, 1 + n % 3, worst)
            assert search.largest(ratio, x, steps, rng)[0] <= most * (1 + 1e-6), (n, f)
        if n <= 2 * f + 2:
            x = np.array(inputs.nearest_to_median(n, f))
            out = oracles.median(oracles.nearest_neighbors(x, f))
            assert ratio_of(out, x, np.arange(n) >= f) == pytest.approx(median, rel=1e-6)


BUCKETS = [
    (n, f, s) for n in range(5, 25) for f in (1, 2, 3) for s in (2, 3) if -(-n // s) >= 2 * f + 1
]


def in_buckets(rule, places, s, x, f):
    return getattr(search, rule)(search.buckets(x[:, places], s), f)


def test_bucketing():
    """T14, for the worst permutation: here the buckets are consecutive rows."""
    assert len(BUCKETS) >= 30
    for n, f, s in BUCKETS:
        places = np.concatenate([np.arange(f) * s, np.setdiff1d(np.arange(n), np.arange(f) * s)])
        inverse = np.argsort(places)  # liars first -> one in each of the first f buckets
        honest = np.isin(np.arange(n), places[:f], invert=True)
        for rule, rows in (
            ("trimmed_mean", inputs.trimmed_mean_in_buckets),
            ("median", inputs.median_in_buckets),
        ):
            if rule == "median" and n % s:
                with pytest.raises(ValueError, match="s must divide n"):
                    behind_bucketing(rule, n, f, s=s)
                continue
            kappa = behind_bucketing(rule, n, f, s=s)
            x = np.array(rows(n, f, s))
            out = getattr(oracles, rule)(oracles.bucketing(x, s, range(n)), f)
            assert ratio_of(out, x, honest) == pytest.approx(kappa, rel=1e-6), (rule, n, f, s)
            ratio = search.kappa_ratio(partial(in_buckets, rule, inverse, s), f)
            rng = np.random.default_rng([n, f, s])
            near = search.starts(rng, 8, n, 1 + n % 2, x[places])
            assert search.largest(ratio, near, 20, rng)[0] <= kappa * (1 + 1e-6), (rule, n, f, s)
        assert behind_bucketing("trimmed_mean", n, f, s=1) == pytest.approx(f / (n - 2 * f))
        if n % s == 0:
            expected = (2 * s - 1) * f / (n - 2 * s * f)
            assert behind_bucketing("trimmed_mean", n, f, s=s) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"^there must be 2f \+ 1 buckets; got ceil\(n/s\) = 4, f"):
        behind_bucketing("trimmed_mean", 8, 2, s=2)
    with pytest.raises(ValueError, match=r"^rule must be .*; got 'krum'\.$"):
        behind_bucketing("krum", 8, 1, s=2)


# --- known numbers -------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("rule", "options", "at", "far"),
    [  # at (25, 5) and (25, 11), as an independent search met them
        ("aksel", {"mode": "n-f"}, 1.625, 20.43),
        ("mean_around_median", {}, 1.625, 20.43),
        ("phocas", {}, 4 / 3, 44 / 3),
        ("geometric_median", {}, 1.5, 6.0),
        ("aksel", {}, 4.04, 23.69),
        ("nearest_to_pivot", {}, 6.0, 37.71),
        ("minimum_diameter", {}, 3.339, 23.96),
        ("medoid", {}, 3.378, 40.44),
    ],
)
def test_known_values(rule, options, at, far):
    assert theory.proved("kappa", rule, 25, 5, **options) == pytest.approx(at, rel=1e-3)
    assert theory.proved("kappa", rule, 25, 11, **options) == pytest.approx(far, rel=1e-3)


def test_lambda_follows_from_kappa_where_that_is_less():
    for rule in ("median", "geometric_median", "mean_around_median", "phocas", "aksel", "bulyan"):
        kappa = theory.proved("kappa", rule, 25, 5)
        assert theory.proved("lambda", rule, 25, 5) == theory.lambda_of_kappa(kappa, 25, 5)
    assert theory.proved("lambda", "nearest_to_pivot", 25, 5) == 0.5
    krum = [c.value(25, 5) for c in theory.constants("lambda", "krum", 25, 5)]
    assert theory.proved("lambda", "krum", 25, 5) < min(krum)
    assert theory.proved("lambda", "krum", 25, 11) == pytest.approx(1 + np.sqrt(12 / 2))
    for name, facts in byzjax.facts.FACTS.items():  # a promise of this kind is a constant
        if facts.kind == "rule" and facts.promise in ("bounded", "range"):
            assert theory.proved("lambda", name, 25, 5) is not None, name


def test_what_the_pages_say_of_the_two_forms_of_aksel():
    near, far = (theory.proved("kappa", "aksel", 25, 5, mode=mode) for mode in ("n-f", "mid"))
    text = " ".join((ROOT / "docs" / "choosing.md").read_text().split())
    assert f"{near:.2f} in place of {far:.2f} at (25, 5)" in text
    for f in range(1, 30):
        at_limit = {
            theory.proved("kappa", "aksel", 2 * f + 1, f, mode=mode) for mode in ("n-f", "mid")
        }
        assert max(at_limit) == pytest.approx(min(at_limit))
