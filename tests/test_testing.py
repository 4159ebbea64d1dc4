"""`byzjax.testing` passes the library's rules and attacks, and detects each kind of fault."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import attacks, scores, stacked, theory
from byzjax.facts import FACTS, Facts
from byzjax.testing import attacked, broken_promise, check_attack, check_rule
from byzjax.testing._clauses import clause
from byzjax.testing._corners import check_corners
from tests import oracles
from tests.helpers import first
from tests.rule_cases import CASES

EVERY = ("permutes", "shifts", "scales", "repeats")
FORMS = ("derivatives", "jit", "trees and dtypes", "strict promotion", "lowers")
CORNERS = ("mean", "median", "trimmed_mean", "comparative_elimination", "medoid", "zeno")
SLOW = pytest.mark.slow
SOME = ("huber", "spectral_filter", "nearest_to_pivot")


def as_one_program(rule):
    """The rule under `jax.jit`: each direct call in `check_rule` compiles one program.

    Otherwise there would be one for each of the rule's operations.
    """
    given = [name for name in inspect.signature(rule).parameters if name != "updates"]
    return jax.jit(rule, static_argnames=given)


def claims(promise="range", **more):
    fields = {"takes_f": False, "full": False, "cost": "nd", "breakdown": "", "reference": ""}
    return Facts("rule", (2, 1), promise=promise, **fields | more)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(as_one_program(byzjax.aksel), id="one program"),
        pytest.param(byzjax.aksel, id="plain", marks=SLOW),
    ],
)
def test_a_rule_that_keeps_its_contract(rule):
    kappa = functools.partial(theory.proved, "kappa", "aksel")
    held = check_rule(rule, FACTS["aksel"], kappa=kappa, loop=oracles.aksel, sizes=[(12, 5)])
    last = ("stands in a chain", "coordinates sliced over 8 devices", "small corners, n=1, f=0")
    assert held == (*EVERY, "promise: bounded", "equals its loop", *FORMS, *last, "errors")


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.id in SOME], ids=lambda case: case.id)
def test_rules_of_the_library(case):
    n, f = 12, case.most(12)
    facts = case.facts._replace(permutes=case.facts.permutes and not case.ties(n, f))
    bounds = {
        name: functools.partial(case.proved, kind)
        for name, kind in (("bound", "lambda"), ("kappa", "kappa"))
        if case.proved(kind, n, f) is not None
    }
    held = check_rule(
        case.rule,
        facts,
        **bounds,
        sizes=[(n, f)],
        units=case.units,
        trusted=case.trusted,
        **case.hyper(n, f),
    )
    assert f"promise: {facts.promise}" in held


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.id, marks=[] if case.id in CORNERS else pytest.mark.slow)
        for case in CASES
    ],
)
def test_small_corners_of_the_library(case):
    held = check_corners(
        functools.partial(clause, case.id), case, case.facts, np.random.default_rng(0), 1e-5
    )
    assert held == [f"small corners, n={3 if case.least(0) == 3 else 1}, f=0"]


def test_hyperparameters_may_need_more_workers():
    rule = functools.partial(for_many, at_least=4)
    held = check_rule(rule, FACTS["trimmed_mean"], sizes=[(5, 1)])
    assert "small corners, n=5, f=0" in held


def for_many(updates, *, f, at_least=1):
    n, f = byzjax.enough_workers("for_many", updates, f, needs=(2, 1))
    if n < at_least:
        raise ValueError(f"for_many needs n >= {at_least}; got n={n}.")
    return byzjax.trimmed_mean(updates, f=f)


def clipped(updates):
    return byzjax.median(byzjax.clip_norms(updates, max_norm=1.0))


def squashed(updates):
    return jax.tree.map(jnp.tanh, byzjax.median(updates))


def doubled(updates):
    return jax.tree.map(lambda leaf: 2 * leaf, byzjax.median(updates))


def widened(updates):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), byzjax.median(updates))


def over_numpy(updates):
    return jnp.asarray(np.median(np.asarray(updates), axis=0))


def of_kinked_norms(updates):
    """The root has no derivative where a row is the median."""
    norms = jnp.sqrt(stacked.squared_distances(updates, byzjax.median(updates)))
    return jax.tree.map(lambda m: m + 0 * jnp.sum(norms), byzjax.median(updates))


def without_a_slope(updates):
    return jax.lax.stop_gradient(byzjax.median(updates))


@as_one_program
def mixed_dtypes(updates):
    def one(leaf):
        return (byzjax.median(leaf) + jnp.zeros((), jnp.float16)).astype(leaf.dtype)

    return jax.tree.map(one, updates)


@as_one_program
def one_at_a_time(updates):
    """Each leaf has its own nearest worker, so a tree differs from its flat vector."""

    def nearest(leaf):
        squares = stacked.squared_distances(leaf, byzjax.median(leaf))
        return stacked.mean_selected(leaf, scores.lowest(squares, 1))

    return jax.tree.map(nearest, updates)


@as_one_program
def deaf(updates, *, axis_name=None):
    """Its distances use one device's coordinates only."""
    squares = stacked.squared_distances(updates, byzjax.median(updates))
    return stacked.mean_selected(updates, scores.lowest(squares, 2))


@as_one_program
def careless(updates, *, f):
    return byzjax.trimmed_mean(updates, f=min(f, (stacked.num_workers(updates) - 1) // 2))


@as_one_program
def divides_by_f(updates, *, f):
    return jax.tree.map(lambda leaf: leaf * (f / f), byzjax.trimmed_mean(updates, f=f))


@as_one_program
def of_no_window(updates, *, f):
    """x[f:-f] is empty for f = 0."""
    cut = jax.tree.map(lambda leaf: leaf[f:-f].mean(axis=0), updates)
    return byzjax.trimmed_mean(updates, f=f) if f else cut


@as_one_program
def by_the_largest(updates):
    """Fails on an empty leaf, which has no largest value."""

    def one(leaf):
        largest = jnp.max(jnp.abs(leaf))
        return byzjax.median(leaf / largest) * largest

    return jax.tree.map(one, updates)


@pytest.mark.parametrize(
    ("rule", "facts", "words"),
    [
        pytest.param(
            byzjax.mean,
            claims("finite"),
            "promise 'finite', n=5, f=1: it is not finite, after",
            marks=pytest.mark.smoke,
        ),
        (doubled, claims(shifts=False, repeats=False), "it is not within the honest range"),
        (first, claims("none"), "permutes, n=5"),
        (clipped, claims("finite"), "shifts"),
        (squashed, claims("finite", shifts=False), "scales"),
        (doubled, claims("finite", shifts=False), "repeats"),
        (of_kinked_norms, claims("none"), "derivatives"),
        (without_a_slope, claims(), "derivatives, n=5, f=1: .* instead of"),
        (mixed_dtypes, claims(), "strict promotion: TypePromotionError"),
        (widened, claims(), "a tree gives .* shapes and dtypes are"),
        (one_at_a_time, claims("none"), "a tree gives what its flat vector gives"),
        (over_numpy, claims(), "under jit and vmap"),
        (deaf, claims("none"), "coordinates sliced over 8 devices"),
        pytest.param(
            divides_by_f,
            claims(takes_f=True),
            "one coordinate, n=1, f=0: ZeroDivisionError",
            marks=SLOW,
        ),
        (of_no_window, claims(takes_f=True), r"one coordinate, n=1, f=0: \[nan\] instead of"),
        (by_the_largest, claims("none"), "an empty and a scalar leaf, n=1, f=0: ValueError"),
        (careless, claims(takes_f=True), "errors: 2 updates with f=1 do not raise ValueError"),
    ],
)
def test_a_broken_rule_is_detected(rule, facts, words):
    name = rule.__name__
    with pytest.raises(AssertionError, match=f"^{name} breaks its contract, .*{words}"):
        check_rule(rule, facts, sizes=[(5, 1)])


def test_one_bad_coordinate_is_enough():
    x, byzantine = np.ones((3, 2)), np.array([False, False, True])
    assert broken_promise("finite", x, byzantine, np.array([1.0, np.nan])) == "it is not finite"


@pytest.mark.parametrize("trusted", [0, 3])
def test_liars_stand_first_last_and_scattered(trusted):
    sent = attacked(np.random.default_rng(0), 8, 2, trusted=trusted)
    places = [tuple(map(int, np.flatnonzero(byzantine))) for _, byzantine in sent]
    leading, trailing, scattered = (set(places[i::3]) for i in range(3))
    assert (leading, trailing) == ({(trusted, trusted + 1)}, {(6, 7)})
    assert len(scattered) > 5
    assert min(min(pair) for pair in scattered) >= trusted


def test_a_rule_that_is_wrong_without_a_fault_alone_is_found():
    def halved(updates, f):
        return jax.tree.map(lambda leaf: leaf[0] / (1 if f else 2), updates)

    words = r"^halved breaks its contract, one coordinate, n=1, f=0: \[.+\] instead of"
    clause_of, rng = functools.partial(clause, "halved"), np.random.default_rng(0)
    with pytest.raises(AssertionError, match=words):
        check_corners(clause_of, halved, claims(takes_f=True), rng, 1e-5)


def test_another_loop_is_detected():
    with pytest.raises(AssertionError, match=r"median breaks its contract, equals its loop, n=5"):
        check_rule(byzjax.median, FACTS["median"], sizes=[(5, 1)], loop=lambda x, f: x.mean(axis=0))


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"bound": lambda n, f: 0.1}, "more than 0.1 honest diameters of"),
        ({"kappa": lambda n, f: 0.1}, "more than 0.1 times their variance"),
    ],
)
def test_a_bound_that_does_not_hold_is_detected(bounds, said):
    with pytest.raises(AssertionError, match=rf"^median breaks .*, promise 'bounded', .*{said}"):
        check_rule(byzjax.median, claims("bounded"), sizes=[(5, 1)], **bounds)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "median claims to be bounded; check_rule needs a bound or a kappa."),
        ({"kappa": lambda n, f: 4.0, "sizes": []}, "check_rule needs at least one size"),
    ],
)
def test_what_cannot_be_checked(given, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        check_rule(byzjax.median, claims("bounded"), **given)


def test_a_rule_without_a_promise_and_its_loop():
    """The attackers' NaN reaches the aggregate, and the loop's."""
    rule = functools.partial(byzjax.mean)
    held = check_rule(rule, FACTS["mean"], sizes=[(5, 1)], loop=oracles.mean)
    assert "equals its loop" in held


@pytest.mark.parametrize(
    ("attack", "given"),
    [
        pytest.param(attacks.zero, {}, id="zero"),
        pytest.param(attacks.little_is_enough, {}, marks=SLOW),
        pytest.param(attacks.gaussian, {"key": jax.random.key(0)}, marks=pytest.mark.slow),
        pytest.param(
            attacks.fang_krum,
            {"rule": functools.partial(byzjax.krum, f=1), "f": 1},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_attacks_of_the_library(attack, given):
    assert "who lies may be traced" in check_attack(attack, sizes=[(12, 5)], **given)


def replaced(updates, byzantine, lie):
    def one(leaf):
        liars = jnp.expand_dims(byzantine, tuple(range(1, leaf.ndim)))
        return jnp.where(liars, lie(leaf), leaf)

    return jax.tree.map(one, updates)


def moves_everybody(updates, byzantine):
    return jax.tree.map(lambda leaf: leaf + 1e-3 * byzantine.any(), updates)


def never_rests(updates, byzantine):
    return replaced(updates, byzantine | ~byzantine.any(), jnp.zeros_like)


def looks(updates, byzantine):
    return updates if not byzantine.any() else replaced(updates, byzantine, jnp.zeros_like)


def wide(updates, byzantine):
    return replaced(updates, byzantine, lambda leaf: jnp.zeros(leaf.shape, jnp.float32))


drawn = itertools.count()


def draws_while_traced(updates, byzantine):
    number = float(next(drawn))
    return replaced(updates, byzantine, lambda leaf: jnp.full_like(leaf, number))


@pytest.mark.parametrize(
    ("attack", "clause"),
    [
        (moves_everybody, "honest rows are kept, n=5, s=1: worker 1 sent"),
        (never_rests, "no liar, no change: worker 0 sent"),
        (looks, "who lies may be traced"),
        (wide, "trees and dtypes are kept"),
        (draws_while_traced, "two calls give the same: worker"),
    ],
)
def test_a_broken_attack_is_detected(attack, clause):
    with pytest.raises(AssertionError, match=f"^{attack.__name__} breaks its contract, {clause}"):
        check_attack(attack)
