"""The contract of all attacks, as one table, and the strength of `little_is_enough`."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import byzjax
from byzjax import attacks
from tests import oracles
from tests.helpers import compiled


@dataclasses.dataclass(frozen=True)
class Case:
    """One attack with its hyperparameters."""

    id: str
    attack: Callable
    oracle: Callable | None  # (matrix [n, d], byzantine, **hyper) -> matrix in float64
    hyper: dict = dataclasses.field(default_factory=dict, hash=False)
    takes_key: bool = False
    finite: bool = True  # the attackers' rows are finite if all honest rows are
    data: Callable = lambda updates: ()  # arguments after `byzantine`
    oracle_hyper: dict | None = dataclasses.field(default=None, hash=False)  # the oracle's
    reads_own: bool = False  # it depends on the attackers' honest updates
    alone: bool = True  # a single attacker changes something
    short: bool = True  # the oracle is also exact in short floats
    searches: bool = False  # it evaluates the rule many times
    eps: float = 1e-5

    def __call__(self, updates, byzantine, key=None):
        random = {"key": jax.random.key(0) if key is None else key} if self.takes_key else {}
        return self.attack(updates, byzantine, *self.data(updates), **self.hyper, **random)

    def expected(self, x, byzantine):
        hyper = self.hyper if self.oracle_hyper is None else self.oracle_hyper
        return self.oracle(np.asarray(x, np.float64), byzantine, **hyper)


def krum_of_12(updates):
    """The deployed rule; f = 1 suits the smallest of the sizes below as well."""
    return byzjax.krum(updates, f=1)


def best_of_few(updates, byzantine):
    """With the mean, whose derivative compiles quickly; this file tests what all attacks share."""
    return attacks.gradient_attack(
        updates,
        byzantine,
        rule=byzjax.mean,
        steps=3,
        ascents=1,
        starts=[attacks.sign_flip, attacks.inner_product_manipulation],
    )


ACROSS = (0.5, -0.5, 0.5, -0.5, 0.5, -0.5)


def across(updates):
    """A momentum orthogonal to the vector of ones, whose orthogonal part `relocated` uses.

    For a parallel one that part is a small difference of large numbers, in any arithmetic.
    """
    return (jax.tree.map(lambda x: jnp.resize(jnp.asarray(ACROSS), x.shape[1:]), updates),)


def half_of_coordinates(updates):
    """Every second coordinate of each leaf, as a mask."""
    return (jax.tree.map(lambda momentum: momentum > 0, across(updates)[0]),)


CENTER, WEIGHT = 0.25, 0.125  # of the receiver, in every coordinate; of every row


def one_receiver(updates):
    """The receiver's model and its averaging weights."""
    center = jax.tree.map(lambda x: jnp.full(x.shape[1:], CENTER, x.dtype), updates)
    return center, jnp.full(byzjax.stacked.num_workers(updates), WEIGHT)


def dissensus(x, byzantine, epsilon):
    """The average of all rows minus the centre is 1 - epsilon times that of the honest rows."""
    pull = WEIGHT * (oracles.honest(x, byzantine) - CENTER).sum(axis=0)
    return oracles.lie(x, byzantine, CENTER - epsilon * pull / (WEIGHT * sum(byzantine)))


CASES = [
    Case("sign_flip", attacks.sign_flip, oracles.sign_flip, reads_own=True),
    Case("flip-mean", attacks.sign_flip, oracles.sign_flip_of_mean, {"of": "mean"}),
    Case("reversed", attacks.reversed_gradient, oracles.reversed_gradient, reads_own=True),
    Case(
        "reversed-mean",
        attacks.reversed_gradient,
        oracles.reversed_gradient,
        {"kappa": 3.0, "of": "mean"},
    ),
    Case("omniscient", attacks.omniscient, oracles.omniscient, {"factor": 2.0}),
    Case(
        "relocated",
        attacks.relocated,
        oracles.relocated,
        {"reference": 0.9, "base": 0.7, "theta": 60.0, "z": 1.5},
        data=across,
        oracle_hyper={
            "momentum": np.array(ACROSS),
            "reference": 0.9,
            "base": 0.7,
            "theta": 60.0,
            "z": 1.5,
        },
    ),
    *[
        Case(f"{attack.__name__}-{direction}", attack, oracle, {"direction": direction})
        for attack, oracle in (
            (attacks.min_max, oracles.min_max),
            (attacks.min_sum, oracles.min_sum),
        )
        for direction in ("unit", "sign", "std")
    ],
    Case("min_sum-code", attacks.min_sum, oracles.min_sum, {"bound": "min"}),
    Case("hidden-all", attacks.hidden_vulnerability, oracles.hidden_vulnerability, {"gamma": 3.0}),
    Case(
        "hidden-one",
        attacks.hidden_vulnerability,
        oracles.hidden_vulnerability,
        {"gamma": 3.0, "coordinate": 4},
    ),
    Case("order-largest", attacks.order_statistic, oracles.order_statistic),
    Case("order-2", attacks.order_statistic, oracles.order_statistic, {"rank": 2}),
    Case("pushed", attacks.pushed, oracles.pushed),
    Case("pushed-n-f", attacks.pushed, oracles.pushed, {"mode": "n-f", "direction": "minus"}),
    Case(
        "pushed-against",
        attacks.pushed,
        oracles.pushed,
        {"mode": "n-f", "f": 5, "direction": "against", "margin": 0.1},
    ),
    Case(
        "fang_krum",
        attacks.fang_krum,
        oracles.fang_krum,
        {"rule": krum_of_12, "f": 1},
        oracle_hyper={"krum": oracles.krum, "f": 1},
        short=False,
    ),
    Case("fang-trim", attacks.fang_trimmed_mean, None, takes_key=True),
    Case(
        "fang-trim-partial",
        attacks.fang_trimmed_mean,
        None,
        {"knowledge": "liars"},
        takes_key=True,
        reads_own=True,
        alone=False,
    ),
    Case("dissensus", attacks.dissensus, dissensus, {"epsilon": 1.5}, data=one_receiver),
    Case("copy_worker", attacks.copy_worker, oracles.copy_worker, {"worker": 1}),
    Case(
        "flip_bits",
        attacks.flip_bits,
        oracles.flip_bits,
        {"bits": (0, 22, 31), "coordinates": None},
        reads_own=True,
        oracle_hyper={"bits": (0, 22, 31), "coordinates": 6},
        short=False,
    ),
    Case("gambler", attacks.gambler, None, {"probability": 1.0, "shards": 1}, True, reads_own=True),
    Case("lossy", attacks.lose_coordinates, None, {"share": 1.0}, True, finite=False),
    Case("drop", attacks.drop, None, {}, True, finite=False),
    Case(
        "strongest",
        attacks.strongest,
        None,
        {
            "attack": attacks.inner_product_manipulation,
            "rule": byzjax.mean,
            "strength": "epsilon",
            "low": 0.1,
            "high": 10.0,
            "coarse": 3,
        },
        searches=True,
    ),
    Case("gradient_attack", best_of_few, None, reads_own=True, searches=True),
    Case("ipm", attacks.inner_product_manipulation, oracles.inner_product_manipulation),
    Case(
        "ipm-2",
        attacks.inner_product_manipulation,
        oracles.inner_product_manipulation,
        {"epsilon": 2.0},
    ),
    Case("alie", attacks.little_is_enough, oracles.little_is_enough),
    Case("alie-f", attacks.little_is_enough, oracles.little_is_enough, {"f": 5}),
    Case(
        "alie-liars",
        attacks.little_is_enough,
        oracles.little_is_enough_of_liars,
        {"z": 1.5, "direction": "minus", "ddof": 0, "knowledge": "liars"},
        reads_own=True,
        alone=False,
    ),
    Case(
        "alie-plus",
        attacks.little_is_enough,
        oracles.little_is_enough,
        {"z": 1.5, "direction": "plus", "ddof": 0},
    ),
    Case("hybrid_sparse", attacks.hybrid_sparse, oracles.hybrid_sparse, {"share": 0.5}),
    Case(
        "hybrid-mask",
        attacks.hybrid_sparse,
        oracles.hybrid_sparse,
        {"sparse_z": 3.0, "z": 0.5, "direction": "against"},
        data=half_of_coordinates,
        oracle_hyper={
            "mask": np.array(ACROSS) > 0,
            "sparse_z": 3.0,
            "z": 0.5,
            "direction": "against",
        },
    ),
    Case("nan", attacks.non_finite, oracles.non_finite, finite=False),
    Case("inf", attacks.non_finite, oracles.non_finite, {"value": -math.inf}, finite=False),
    Case("gaussian", attacks.gaussian, None, takes_key=True),
    Case(
        "byz_mean",
        attacks.byz_mean,
        oracles.byz_mean,
        {"attack": functools.partial(attacks.little_is_enough, z=1.5)},
        oracle_hyper={"z": 1.5},
        short=False,
    ),
    Case("replace", attacks.model_replacement, oracles.model_replacement, reads_own=True),
    Case(
        "replace-5",
        attacks.model_replacement,
        oracles.model_replacement,
        {"boost": 5.0},
        reads_own=True,
    ),
    Case("constrain", attacks.constrain_and_scale, oracles.constrain_and_scale, reads_own=True),
    Case(
        "train-and-scale",
        attacks.constrain_and_scale,
        oracles.constrain_and_scale,
        {"alpha": 1.0, "max_norm": 0.3},
        reads_own=True,
    ),
]
FUNCTIONS = {
    name: getattr(attacks, name)
    for name in attacks.__all__
    if list(inspect.signature(getattr(attacks, name)).parameters)[:2] == ["updates", "byzantine"]
}
# An attack that needs no hyperparameters, and has an oracle of its name, needs no entry above.
CASES += [
    Case(name, attack, getattr(oracles, name))
    for name, attack in FUNCTIONS.items()
    if attack not in {case.attack for case in CASES} and hasattr(oracles, name)
]
SIZES = [(12, 4), (12, 1), (25, 11)]  # n, and the number of attackers
FIRST = [SIZES[0], pytest.param(*SIZES[1], marks=[pytest.mark.slow])]
# Another n is compiled again; by default only for attacks that sort, rank or measure rows.
AT_25 = {"min_max-std", "order-2", "pushed", "anti_cge", "fang_krum"}


def test_every_attack_has_a_case():
    cases = {"gradient_attack", *(case.attack.__name__ for case in CASES)}
    assert set(FUNCTIONS) <= cases, "write its loop in tests/oracles/attacks.py, or a Case"


def over_cases(keep=lambda case: True, by_default=None):
    """One test for each case; slow where `by_default` does not name it."""

    def marks(case):
        slow = by_default is not None and case.id not in by_default
        return [pytest.mark.xdist_group(case.id), *[pytest.mark.slow] * slow]

    cases = [pytest.param(c, id=c.id, marks=marks(c)) for c in CASES if keep(c)]
    return pytest.mark.parametrize("case", cases)


def at_size(n, s, case):
    slow = n == 25 and case.id not in AT_25
    marks = [pytest.mark.xdist_group(case.id), *[pytest.mark.slow] * slow]
    return pytest.param(n, s, case, id=f"{n}-{s}-{case.id}", marks=marks)


def drawn(seed, n, s, d=6):
    rng = np.random.default_rng(seed)
    byzantine = np.isin(np.arange(n), rng.choice(n, s, replace=False))
    return rng.normal(size=(n, d)).astype(np.float32), byzantine


def tree_of(x):
    """Rows of 6 as two leaves, the form that most tests compile."""
    return {"a": x[:, :4].reshape(len(x), 2, 2), "b": x[:, 4:]}


def matrix_of(tree):
    return np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in tree.values()], axis=1)


def sent(case, x, byzantine):
    """The attack on a matrix, as NumPy."""
    out = compiled(case)(tree_of(x), byzantine, jax.random.key(0))
    assert jax.tree.map(jnp.shape, out) == jax.tree.map(jnp.shape, tree_of(x))
    return matrix_of(out)


def bits(x):
    return np.asarray(x).tobytes()


# --- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "s", "case"), [at_size(*size, c) for size in SIZES for c in CASES if c.oracle is not None]
)
@given(seed=st.integers(0, 2**32 - 1))
def test_equals_the_papers_loop(n, s, case, seed):
    x, byzantine = drawn(seed, n, s)
    out = sent(case, x, byzantine)
    np.testing.assert_allclose(out, case.expected(x, byzantine), rtol=case.eps, atol=case.eps)
    assert bits(out[~byzantine]) == bits(x[~byzantine])


def honest_rows_are_unchanged(case, tree, byzantine):
    out = compiled(case)(tree, byzantine, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(out, tree)
    for before, after in zip(jax.tree.leaves(tree), jax.tree.leaves(out)):
        assert bits(np.asarray(after)[~byzantine]) == bits(np.asarray(before)[~byzantine])
        if byzantine.sum() > 1 or case.alone:
            assert bits(np.asarray(after)[byzantine]) != bits(np.asarray(before)[byzantine])


SPECIAL = [-0.0, 1e-40, math.inf, math.nan, -math.nan, 3e38]


@pytest.mark.smoke
@over_cases()
def test_honest_rows_are_bitwise_unchanged(case):
    x, byzantine = drawn(1, 12, 4)
    x[np.flatnonzero(~byzantine)[0]] = SPECIAL
    honest_rows_are_unchanged(case, tree_of(x), byzantine)


@over_cases(by_default={"flip-mean", "ipm", "gaussian", "copy_worker"})
@pytest.mark.parametrize(("n", "s"), FIRST)  # those of one n share a program
def test_honest_rows_of_several_dtypes_are_bitwise_unchanged(case, n, s):
    rows_of_several_dtypes(case, n, s)


@pytest.mark.slow
@over_cases(lambda case: case.oracle is None)  # the others are at this size above
def test_honest_rows_of_an_attack_without_a_loop_at_25_workers(case):
    rows_of_several_dtypes(case, *SIZES[2])


def rows_of_several_dtypes(case, n, s):
    x, byzantine = drawn(1, n, s)
    x[np.flatnonzero(~byzantine)[0]] = SPECIAL
    tree = {"a": x[:, :4].reshape(n, 2, 2), "b": x[:, 4], "c": x[:, 5:].astype(jnp.bfloat16)}
    honest_rows_are_unchanged(case, tree, byzantine)


@over_cases()
def test_no_attacker_no_change(case):
    x, _ = drawn(2, 12, 0)
    assert bits(sent(case, x, np.zeros(12, bool))) == bits(x)


def over_masks(case):
    x, _ = drawn(3, 12, 0)
    masks = np.stack([drawn(k, 12, s)[1] for k, s in enumerate([0, 1, 4, 11])])
    key = jax.random.key(7)
    mapped = jax.jit(jax.vmap(case, in_axes=(None, 0, None)))(x, masks, key)
    return x, masks, key, np.asarray(mapped)


TRACED = {"flip-mean", "alie", "ipm", "gaussian", "fang_krum", "copy_worker"}


@over_cases(by_default=TRACED)
def test_the_mask_may_be_traced_and_mapped(case):
    x, masks, key, mapped = over_masks(case)
    once = jax.jit(chex.assert_max_traces(lambda x, mask: case(x, mask, key), n=1))
    chex.clear_trace_counter()
    for mask, out in zip(masks, mapped):
        np.testing.assert_allclose(out, once(x, mask), rtol=1e-5, atol=1e-6)


# Operation by operation, attacks that search take half a minute.
@over_cases(lambda case: not case.searches, by_default=TRACED - {"alie", "fang_krum"})
def test_it_is_the_same_without_jit(case):
    x, masks, key, mapped = over_masks(case)
    eager = case(jnp.asarray(x), masks[2], key)
    np.testing.assert_allclose(eager, mapped[2], rtol=1e-5, atol=1e-6)
    with jax.disable_jit():
        plain = case(jnp.asarray(x), jnp.asarray(masks[1]), key)
    np.testing.assert_allclose(plain, mapped[1], rtol=1e-5, atol=1e-6)


@over_cases(lambda case: not case.reads_own)
def test_what_the_liars_held_does_not_matter(case):
    """Only the honest rows are read, except by attacks that declare otherwise."""
    x, byzantine = drawn(4, 12, 4)
    broken = np.where(byzantine[:, None], np.nan, x)
    assert bits(sent(case, broken, byzantine)) == bits(sent(case, x, byzantine))


@over_cases(lambda case: case.finite and case.id != "alie")  # its z would be infinite
@pytest.mark.parametrize("honest", [1, 2])
def test_few_honest_workers(case, honest):
    x, byzantine = drawn(5, 12, 12 - honest)
    assert np.isfinite(sent(case, x, byzantine)).all()


# The first case of each attack; those that search take seconds to compile.
FIRST_OF_EACH = {case.attack: case.id for case in reversed(CASES) if not case.searches}.values()


@over_cases(by_default=FIRST_OF_EACH)
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_short_floats(case, dtype):
    x, byzantine = drawn(6, 11, 3)
    x = x.astype(dtype)
    out = compiled(case)(x, byzantine, jax.random.key(0))
    assert out.dtype == x.dtype
    if case.oracle is not None and case.short:
        expected = case.expected(np.asarray(x, np.float64), byzantine)
        eps = 2 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=eps, atol=eps)
    x[np.flatnonzero(~byzantine)[0]] = [min(value, 6e4) for value in SPECIAL]
    honest_rows_are_unchanged(case, x, byzantine)


@over_cases()
def test_strict_promotion_and_every_platform(case):
    updates = {"w": np.ones((11, 2, 3), np.float32), "b": np.ones((11,), jnp.bfloat16)}
    args = (updates, np.arange(11) < 3, jax.random.key(0))
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        out = jax.eval_shape(lambda *args: case(*args), *args)
    chex.assert_trees_all_equal_shapes_and_dtypes(out, updates)
    jax.export.export(jax.jit(lambda *args: case(*args)), platforms=("cpu", "cuda", "tpu"))(*args)


@over_cases()
def test_errors(case):
    x = np.ones((12, 2), np.float32)
    for byzantine, shown in (
        (np.zeros(11, bool), "bool[11]"),
        (np.zeros(12, np.int32), "int32[12]"),
        (np.zeros((12, 1), bool), "bool[12, 1]"),
    ):
        with pytest.raises(ValueError, match=r".") as error:
            case(x, byzantine)
        text = f"byzantine must be bool[n] with n=12; got {shown}: "
        assert str(error.value).startswith(text)
    with pytest.raises(ValueError, match=r"^no worker axis: "):
        case(np.ones((), np.float32), np.zeros(12, bool))


# --- one by one ----------------------------------------------------------------------------------

# n, f, z to three digits: Baruch et al.'s formula as in its public implementations.
STRENGTHS = [
    (51, 24, 1.446),
    (51, 12, 0.361),
    (25, 11, 1.068),
    (25, 5, 0.253),
    (20, 9, 0.908),
    (100, 20, 0.286),
    (50, 10, 0.253),
    (24, 2, 0.0),
]


@pytest.mark.parametrize(("n", "f", "z"), STRENGTHS)
def test_strength_of_little_is_enough(n, f, z):
    assert float(attacks.little_is_enough_z(n, f)) == pytest.approx(z, abs=5.1e-4)
    assert float(jax.jit(attacks.little_is_enough_z, static_argnums=0)(n, f)) == pytest.approx(
        oracles.little_is_enough_z(n, f), abs=1e-5
    )


def test_the_declared_number_of_faults_sets_the_strength():
    x, byzantine = drawn(7, 25, 1)

    @jax.jit
    def three(x, byzantine):
        attack = attacks.little_is_enough
        z = attacks.little_is_enough_z(25, 11)
        return attack(x, byzantine, f=11), attack(x, byzantine, z=z), attack(x, byzantine)

    declared, same, counted = three(x, byzantine)
    np.testing.assert_allclose(declared, same, rtol=1e-6)
    assert not np.allclose(declared, counted)


def test_little_is_enough_errors():
    x, byzantine = drawn(8, 12, 3)
    with pytest.raises(
        ValueError, match=r"^little_is_enough takes f or z, not both; got f=3, z=1\.$"
    ):
        attacks.little_is_enough(x, byzantine, f=3, z=1)
    with pytest.raises(ValueError, match=r"^little_is_enough needs f < n; got n=12, f=12\.$"):
        attacks.little_is_enough(x, byzantine, f=12)
    with pytest.raises(ValueError, match=r"^direction must be one of minus, plus; got 'up'\.$"):
        attacks.little_is_enough(x, byzantine, direction="up")
    with pytest.raises(TypeError, match=r"^f must be a Python int; got float"):
        attacks.little_is_enough(x, byzantine, f=3.0)
    with pytest.raises(ValueError, match=r"^non_finite needs NaN, inf or -inf; got value=1\.0\.$"):
        attacks.non_finite(x, byzantine, value=1.0)


def test_strengths_may_be_traced():
    x, byzantine = drawn(9, 12, 3)
    for attack, name in (
        (attacks.little_is_enough, "z"),
        (attacks.inner_product_manipulation, "epsilon"),
    ):
        run = jax.jit(lambda value, attack=attack, name=name: attack(x, byzantine, **{name: value}))
        out = compiled(attack, **{name: 0.7})(x, byzantine)
        np.testing.assert_allclose(run(0.7), out, rtol=1e-5)


def test_gaussian_noise():
    x, byzantine = np.zeros((6, 20_000), np.float32), np.arange(6) < 3
    run = compiled(attacks.gaussian, sigma=200.0)
    out = run({"a": x, "b": x}, byzantine, key=jax.random.key(0))
    again = run({"a": x, "b": x}, byzantine, key=jax.random.key(0))
    other = run({"a": x, "b": x}, byzantine, key=jax.random.key(1))
    chex.assert_trees_all_equal(out, again)
    noise = np.concatenate([out["a"][:3], out["b"][:3], other["a"][:3]])
    np.testing.assert_allclose(noise.mean(axis=1), 0, atol=6)
    np.testing.assert_allclose(noise.std(axis=1), 200, rtol=0.03)
    correlation = np.corrcoef(noise) - np.eye(len(noise))
    assert np.abs(correlation).max() < 0.03  # between workers, leaves and keys


@pytest.mark.smoke
def test_flip_labels():
    y = np.array([[0, 1, 9], [0, 1, 9], [3, 4, 5]], np.int32)
    batch = {"x": np.ones((3, 3, 2)), "y": y}
    byzantine = np.array([False, True, True])
    out = jax.jit(lambda b, mask: attacks.flip_labels(b, mask, num_classes=10))(batch, byzantine)
    assert out["y"].tolist() == [[0, 1, 9], [9, 8, 0], [6, 5, 4]]
    assert out["y"].dtype == y.dtype
    np.testing.assert_array_equal(out["x"], batch["x"])
    assert batch["y"] is y
    named = attacks.flip_labels({"label": y}, byzantine, num_classes=10, label="label")
    assert named["label"].tolist() == out["y"].tolist()
    with pytest.raises(KeyError, match="the batch has no entry 'label'; it has x, y"):
        attacks.flip_labels(batch, byzantine, num_classes=10, label="label")
    with pytest.raises(
        ValueError, match=r"^byzantine has shape \(2,\); labels of shape \(3, 3\) need"
    ):
        attacks.flip_labels(batch, byzantine[:2], num_classes=10)
    with pytest.raises(TypeError, match=r"^num_classes must be a Python int; got float"):
        attacks.flip_labels(batch, byzantine, num_classes=10.0)


@pytest.mark.smoke
@pytest.mark.parametrize("by", [1, 0, -3, 70])
@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_shift_tokens(by, dtype):
    """Two batches of three windows for each worker, with labels up to the largest."""
    y = (np.arange(4 * 3 * 5) * 13 % 65).reshape(4, 3, 5).astype(dtype)
    y[:, 0, 0] = 64
    batch, byzantine = {"x": np.ones(4), "y": y}, np.array([False, True, False, True])
    run = jax.jit(lambda b, mask, k: attacks.shift_tokens(b, mask, num_tokens=65, by=k))
    expected = oracles.shift_tokens(y, byzantine, 65, by)
    for out in (
        run(batch, byzantine, by),
        attacks.shift_tokens(batch, byzantine, num_tokens=65, by=by),
    ):
        np.testing.assert_array_equal(out["y"], expected)
        assert out["y"].dtype == dtype
        np.testing.assert_array_equal(out["x"], batch["x"])
    assert (expected[1] != y[1]).all() == (by != 0)


def test_what_shift_tokens_refuses():
    batch, byzantine = {"y": np.zeros((2, 3), np.int32)}, np.array([True, False])
    with pytest.raises(KeyError, match="the batch has no entry 'target'; it has y"):
        attacks.shift_tokens(batch, byzantine, num_tokens=65, label="target")
    with pytest.raises(ValueError, match=r"^byzantine has shape \(1,\); labels of shape \(2, 3\)"):
        attacks.shift_tokens(batch, byzantine[:1], num_tokens=65)
    with pytest.raises(TypeError, match=r"^shift_tokens needs an integer by; got float32"):
        attacks.shift_tokens(batch, byzantine, num_tokens=65, by=jnp.float32(0.5))
    with pytest.raises(ValueError, match=r"^num_tokens must be at least 2; got"):
        attacks.shift_tokens(batch, byzantine, num_tokens=1)


def test_little_is_enough_has_a_slope_where_honest_rows_coincide():
    byzantine = jnp.array([True, False, False, False])

    def lie(updates):
        return attacks.little_is_enough(updates, byzantine, z=1.5)[0].sum()

    gradient = jax.jit(jax.grad(lie))(np.ones((4, 2), np.float32))
    np.testing.assert_allclose(gradient, [[0, 0]] + [[1 / 3, 1 / 3]] * 3, rtol=1e-6)


def test_a_lie_that_all_send_is_computed_once():
    """Also over seeds: the part of the compiled program that writes all rows only selects."""
    run = jax.vmap(compiled(attacks.inner_product_manipulation, epsilon=2.0), in_axes=(0, None))
    shapes = jax.ShapeDtypeStruct((3, 11, 300), "float32"), jax.ShapeDtypeStruct((11,), bool)
    text = jax.jit(run).lower(*shapes).compile().as_text()
    writing = [part for part in text.split("\n\n") if "ROOT %select" in part]
    assert writing
    assert not any(" multiply(" in part or " add(" in part for part in writing)
