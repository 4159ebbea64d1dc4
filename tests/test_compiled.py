"""Functions of arrays are compiled at their definition, which callers do not notice."""

import functools
import gc
import inspect
import pickle
import resource
import traceback

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import _compiled, attacks, protocols, scores, stacked
from byzjax._checks import positive, static_int
from byzjax._compiled import compiled
from tests.rule_cases import CASES
from tests.test_attacks import CASES as ATTACKS

TRACES = []


@compiled(limit=positive)
def clipped(x: jax.Array, *, times: int = 1, limit: float = 1.0, name: str | None = None):
    """Clips `times` times."""
    TRACES.append((times, name))
    for _ in range(static_int("times", times)):
        x = jnp.clip(x, -limit, limit) * 2
    return x


@compiled
def applied(function: byzjax._compiled.Callable, x: jax.Array):
    TRACES.append("applied")
    return function(x)


X = jnp.linspace(-2, 2, 5)


def traces(*calls):
    """How many programs the calls trace."""
    before = len(TRACES)
    for call in calls:
        call()
    return len(TRACES) - before


# --- static and data -----------------------------------------------------------------------------


def test_another_float_runs_the_same_program():
    values = [0.25, 0.5, 1, 2, np.float32(0.1), np.float64(0.3), jnp.array(0.7)]
    count = traces(*[functools.partial(clipped, X, limit=v) for v in values[:4]])
    assert count <= 1
    assert traces(*[functools.partial(clipped, X, limit=v) for v in values]) <= 2
    np.testing.assert_array_equal(clipped(X, limit=0.25), np.clip(X, -0.25, 0.25) * 2)
    assert traces(lambda: clipped(X, times=7), lambda: clipped(X, times=7)) == 1


def test_equal_numbers_of_other_types_are_distinct():
    assert clipped(X, times=1).shape == (5,)
    for value in (True, 1.0):
        with pytest.raises(
            TypeError,
            match=r"^times must be a Python int; got (bool, True|float, 1\.0): write times=1\.$",
        ):
            clipped(X, times=value)
    assert traces(lambda: clipped(X, times=np.int64(3)), lambda: clipped(X, times=np.int64(3))) == 1


def test_functions_that_are_equal_share_a_program():
    def scaled(factor):
        return lambda x: x * factor

    def by_name(x, factor=2.0):
        return x + factor

    assert traces(*[lambda: applied(scaled(3.0), X)] * 4) == 1
    assert traces(*[lambda: applied(scaled(5.0), X)] * 4) == 1
    np.testing.assert_array_equal(applied(scaled(5.0), X), X * 5.0)
    assert traces(*[lambda: applied(functools.partial(by_name, factor=7.0), X)] * 4) == 1
    np.testing.assert_array_equal(applied(functools.partial(by_name, factor=9.0), X), X + 9.0)
    assert traces(*[lambda: applied(scaled(jnp.ones(5)), X)] * 3) == 3  # arrays are themselves

    def recursive(x):
        return x if x.ndim == 1 else recursive(x[0])

    assert traces(*[lambda: applied(recursive, X)] * 3) == 1


def test_an_impossible_float_raises_at_each_call():
    clipped(X, limit=0.5)
    for call in (clipped, jax.jit(lambda x, limit: clipped(x, limit=-1.0))):
        with pytest.raises(ValueError, match=r"^limit must be positive; got limit=-1\.0\."):
            call(X, limit=-1.0)
    with pytest.raises(ValueError, match=r"^threshold must be positive; got threshold=0\.$"):
        byzjax.influence(byzjax.huber, jnp.ones((3, 2)), threshold=0)
    rule = functools.partial(byzjax.centered_clip, center=jnp.zeros(2), radius=-1.0)
    with pytest.raises(ValueError, match=r"^radius must be positive; got radius=-1\.0\."):
        byzjax.influence(rule, jnp.ones((3, 2)))


# --- appearance ----------------------------------------------------------------------------------


def test_it_looks_like_the_function():
    assert clipped.__name__ == clipped.__qualname__ == "clipped"
    assert clipped.__doc__ == "Clips `times` times."
    assert list(inspect.signature(clipped).parameters) == ["x", "times", "limit", "name"]
    assert pickle.loads(pickle.dumps(clipped)) is clipped
    bound = pickle.loads(pickle.dumps(functools.partial(byzjax.krum, f=2)))
    np.testing.assert_array_equal(bound(jnp.ones((9, 2))), np.ones(2))
    assert inspect.isfunction(byzjax.krum)
    assert byzjax.krum.__module__ == "byzjax.rules.krum"
    assert "def krum(" in inspect.getsource(byzjax.krum)


def test_errors_are_one_line_without_frames_of_the_mechanism():
    for call in (
        lambda: byzjax.krum(jnp.ones((5, 2)), f=2),
        lambda: byzjax.krum(jnp.ones((5, 2))),
        lambda: byzjax.krum(jnp.ones((5, 2)), f=1, q=1),
        lambda: byzjax.krum({"a": jnp.ones((5, 2)), "b": "word"}, f=1),
        lambda: byzjax.clip_norms(jnp.ones((5, 2)), max_norm="1"),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            call()
        assert len(str(error.value).splitlines()) == 1
        assert not getattr(error.value, "__notes__", [])
        frames = [frame.filename for frame in traceback.extract_tb(error.value.__traceback__)]
        assert not [name for name in frames if name == _compiled.__file__ or "/jax/" in name]
        assert any(name.startswith(byzjax.__path__[0]) for name in frames)


def test_without_jit_and_with_debug_flags():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    with_infinity = x.at[3].set(jnp.inf)
    with jax.disable_jit():
        plain = byzjax.aksel(with_infinity, f=2)
    np.testing.assert_allclose(byzjax.aksel(with_infinity, f=2), plain, rtol=1e-5)
    with jax.debug_nans(True), jax.numpy_rank_promotion("raise"):
        for rule in (byzjax.krum, byzjax.trimmed_mean, byzjax.aksel, byzjax.minimum_diameter):
            assert np.isfinite(rule(with_infinity, f=2)).all()
        mixed = byzjax.nearest_neighbors(with_infinity, f=2)
        assert np.isfinite(np.delete(mixed, 3, axis=0)).all()


@pytest.mark.parametrize("name", ["krum", "aksel", "trimmed_mean", "geometric_median", "bulyan"])
def test_inside_a_program_it_is_inlined(name):
    """A user's program lowers to what it would be without any decorator."""
    rule = getattr(byzjax, name)
    options = {} if name == "geometric_median" else {"f": 2}

    def decorated(x):
        return rule(x, **options)

    def undecorated(x):
        _compiled._tracing.now = True
        try:
            return inspect.unwrap(rule)(x, **options)
        finally:
            _compiled._tracing.now = False

    decorated.__name__ = undecorated.__name__ = "program"
    x = jnp.ones((11, 6))
    lowered, expected = (jax.jit(f).lower(x).as_text() for f in (decorated, undecorated))
    assert lowered == expected


# --- repeated calls ------------------------------------------------------------------------------


def calls():
    """Every public function of arrays with its arguments, by name."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32))
    byzantine, key, one = jnp.arange(12) < 2, jax.random.key(0), x[0]
    for case in CASES:
        yield case.id, functools.partial(case, x, min(2, case.most(12)))
    for case in ATTACKS:
        yield f"attack {case.id}", functools.partial(case, x, byzantine)
    yield from {
        "nearest_neighbors": lambda: byzjax.nearest_neighbors(x, f=2),
        "bucketing": lambda: byzjax.bucketing(x, s=2, key=key),
        "clip_norms": lambda: byzjax.clip_norms(x, max_norm=1.0),
        "adaptive_clipping": lambda: byzjax.adaptive_clipping(x, f=2),
        "influence": lambda: byzjax.influence(byzjax.krum, x, f=2),
        "influence of a partial": lambda: byzjax.influence(functools.partial(byzjax.krum, f=2), x),
        "bulyan with a rule": lambda: byzjax.bulyan(x, f=2, rule=lambda u, f: byzjax.aksel(u, f=f)),
        "lowest": lambda: scores.lowest(x[0], 2),
        "sum_of_lowest": lambda: scores.sum_of_lowest(x[0], 2),
        "ranks": lambda: scores.ranks(x[0]),
        "columns": lambda: stacked.columns(x),
        "from_columns": lambda: stacked.from_columns([one], x),
        "coordinatewise": lambda: stacked.coordinatewise(lambda m: m.max(axis=0), x),
        "rowwise": lambda: stacked.rowwise(lambda m: m.sum(axis=1), x),
        "squared_norms": lambda: stacked.squared_norms(x),
        "squared_distances": lambda: stacked.squared_distances(x, one),
        "pairwise": lambda: stacked.pairwise_squared_distances(x),
        "inner_products": lambda: stacked.inner_products(x, one, center=one),
        "gram": lambda: stacked.gram(x, one),
        "stacked.mean": lambda: stacked.mean(x),
        "weighted_mean": lambda: stacked.weighted_mean(x, one.repeat(2)),
        "mean_of": lambda: stacked.mean_selected(x, byzantine),
        "weighted_sum": lambda: stacked.weighted_sum(x, one.repeat(2)),
        "combine": lambda: stacked.combine(x, x.T),
        "group_means": lambda: stacked.group_means(x, jnp.arange(12) // 6, 2),
        "scale": lambda: stacked.scale(x, one.repeat(2)),
        "widened": lambda: stacked.widened(x),
        "take": lambda: stacked.take(x, 3),
        "sample": lambda: stacked.sample(x, 3, key),
        "mid_extremes": lambda: protocols.mid_extremes(x),
        "approach_extreme": lambda: protocols.approach_extreme(x, one),
        "trimmed_agreement": lambda: protocols.trimmed_agreement(x, f=2),
        "safe_area_average": lambda: protocols.safe_area_average(x[:, :1], f=2),
        "clipped_gossip": lambda: protocols.clipped_gossip(x, one.repeat(2), radius=1.0),
        "agreed": lambda: protocols.agreed(x, votes=1),
        "vote": lambda: protocols.vote(x, r=3),
        "spread": lambda: protocols.diameter(x),
        "z": lambda: attacks.little_is_enough_z(12, 2),
    }.items()


COMPILED = []  # the compile time of each program that was compiled in this process


@jax.monitoring.register_event_duration_secs_listener
def _count(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(duration)


def compilations(call, times):
    """How many programs are compiled by `times` calls."""
    before = len(COMPILED)
    for _ in range(times):
        jax.block_until_ready(call())
    return len(COMPILED) - before


def test_compilations_are_counted():
    assert compilations(lambda: jax.jit(lambda x: x + 1)(X), 2) == 2


CALLS = dict(calls())
ONCE = ("krum", "geometric_median", "attack ipm", "influence", "gram")


@pytest.mark.parametrize("name", ONCE)  # the others below
def test_a_second_call_compiles_nothing(name):
    call = CALLS[name]
    assert compilations(call, 2) >= 0
    assert compilations(call, 1) == 0


@pytest.mark.slow
def test_a_thousand_calls_of_everything_keep_nothing():
    for name, call in CALLS.items():
        assert compilations(call, 2) >= 0
        assert compilations(call, 1) == 0, name
    searches = ("fang_krum", "strongest", "gradient_attack")  # a thousand calls of these take long

    def round_of(times):
        programs = 0
        for name, call in CALLS.items():
            slow = any(word in name for word in searches)
            programs += compilations(call, max(1, times // 50) if slow else times)
        gc.collect()
        return programs, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    _, before = round_of(100)
    programs, after = round_of(1000)
    print(f"{len(CALLS)} functions, 1,000 calls each: {programs} programs, {after - before:.1f} MB")
    assert programs == 0
    assert after - before < 30
