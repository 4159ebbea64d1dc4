"""Rules on sharded parameters equal those on one device, and gather no leaf."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import byzjax
from tests import traffic
from tests.helpers import first, flat, mesh_of, near
from tests.rule_cases import CASES

N, F = 8, 2
QUICK = ("mean", "trimmed_mean", "aksel-mid", "krum", "geometric_median", "centered_clip")
LAYOUTS = {  # leaves sharded over both axes, over one, over none
    "a": ((8, 16), P("data", "model")),
    "b": ((3, 8), P(None, "model")),
    "c": ((5,), P()),
    "d": ((16, 3), P(("model", "data"))),
    "e": ((6, 2), P("data")),
}


def shardings():
    mesh = mesh_of(data=2, model=4)
    return {name: NamedSharding(mesh, spec) for name, (_, spec) in LAYOUTS.items()}


def updates(seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=(N, *shape)) + 1).astype(np.float32)
        for name, (shape, _) in LAYOUTS.items()
    }


def with_liars(tree):
    tree = jax.tree.map(np.copy, tree)
    tree["d"][2, 11] = np.nan
    for leaf in tree.values():
        leaf[5] = np.inf
    return tree


def faults_of(case):
    return min(F, case.most(N)) if case.facts.takes_f else F


@functools.cache
def of_rules(names, workers):
    """One program for the rules on shards, and one on whole updates."""
    cases = [case for case in CASES if case.id in names]
    rules = {case.id: byzjax.sharded(case.rule, shardings(), workers=workers) for case in cases}

    def on_shards(tree):
        return {
            case.id: rules[case.id](tree, **case.arguments(tree, faults_of(case))) for case in cases
        }

    def whole(tree):
        return {case.id: case(tree, faults_of(case)) for case in cases}

    trees = {"honest": updates(), "with liars": with_liars(updates(seed=1))}
    on_shards, whole = jax.jit(on_shards), jax.jit(whole)
    return {name: (on_shards(tree), whole(tree)) for name, tree in trees.items()}


def check(case, names, workers, sent):
    out, expected = (results[case.id] for results in of_rules(names, workers)[sent])
    for name, sharding in shardings().items():
        assert out[name].sharding.is_equivalent_to(sharding, out[name].ndim), name
    if np.isfinite(flat(expected)).all():
        near(out, expected)
    else:  # more Byzantine rows than the rule tolerates
        assert sent == "with liars"
        assert case.facts.promise == "none" or faults_of(case) < 2
        assert not np.isfinite(flat(out)).any()


def over_cases(names):
    cases = [case for case in CASES if case.id in names]
    assert len(cases) == len(names)
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


over_sent = pytest.mark.parametrize("sent", ["honest", "with liars"])


@over_sent
@over_cases(QUICK[-3:])
def test_rules_on_shards_equal_the_whole(case, sent):
    check(case, QUICK[-3:], None, sent)


@over_sent
@over_cases(QUICK)
def test_rules_on_shards_that_workers_are_sharded_over_equal_the_whole(case, sent):
    check(case, QUICK, "data", sent)


ALL = tuple(case.id for case in CASES if case.rule is not byzjax.zeno)


@pytest.mark.slow
@over_sent
@over_cases(ALL)
def test_all_rules_on_shards_equal_the_whole(case, sent):
    check(case, ALL, None, sent)


def test_leaves_that_are_empty_scalar_or_of_bfloat16():
    mesh = mesh_of(data=2, model=4)
    layouts = {"empty": ((0, 8), P(None, "model")), "scalar": ((), P()), "low": ((4, 3), P("data"))}
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=(N, *shape)).astype("f4") for name, (shape, _) in layouts.items()}
    rows["low"] = rows["low"].astype(jnp.bfloat16)
    specs = {name: NamedSharding(mesh, spec) for name, (_, spec) in layouts.items()}
    rules = {
        (rule, workers): functools.partial(byzjax.sharded(rule, specs, workers=workers), f=F)
        for rule in (byzjax.trimmed_mean, byzjax.krum)
        for workers in (None, "data")
    }
    outs = jax.jit(lambda rows: [rule(rows) for rule in rules.values()])(rows)
    whole = jax.jit(lambda rows: [rule(rows, f=F) for rule, _ in rules])(rows)
    for out, expected in zip(outs, whole, strict=True):
        jax.tree.map(np.testing.assert_array_equal, out, expected)
        for name in layouts:
            assert (out[name].shape, out[name].dtype) == (layouts[name][0], rows[name].dtype)


def test_in_a_chain_behind_a_mixing():
    mixing = functools.partial(byzjax.nearest_neighbors, f=F)
    rule = byzjax.sharded(byzjax.centered_clip, shardings(), mix=mixing)
    tx = optax.chain(byzjax.aggregate(rule, radius=1.5), optax.sgd(0.1))
    params = first(updates(seed=2))
    placed = jax.device_put(params, shardings())

    @jax.jit
    def step(tree, center, params):
        out, _ = tx.update(tree, tx.init(params), params, center=center)
        return optax.apply_updates(params, out)

    @jax.jit
    def whole(tree, params):
        clipped = byzjax.centered_clip(mixing(tree), params, radius=1.5)
        return jax.tree.map(lambda p, out: p - 0.1 * out, params, clipped)

    near(step(updates(), placed, placed), whole(updates(), params))
    with pytest.raises(
        TypeError, match=r"^aggregate: centered_clip has no parameter tau; it takes"
    ):
        byzjax.aggregate(rule, tau=1.0)


# --- cost ----------------------------------------------------------------------------------------

LARGE = {  # 1e8 parameters
    "embedding": ((10_000, 9_000), P("devices", None)),
    "up": ((1_000, 8_000), P(None, "devices")),
    "down": ((2_000, 1_000), P("devices", None)),
    "bias": ((1_000,), P()),
}


def program_of(rule, model, workers=None, **given):
    """The program on 8 devices, from shapes alone, and the shapes of its stacked updates."""
    mesh = mesh_of(devices=N)
    one = {name: NamedSharding(mesh, spec) for name, (_, spec) in model.items()}
    rows = {}
    for name, (shape, spec) in model.items():
        spec = P(workers) if workers else P(None, *spec)
        sharding = NamedSharding(mesh, spec)
        rows[name] = jax.ShapeDtypeStruct((N, *shape), jnp.float32, sharding=sharding)
    rule = byzjax.sharded(rule, one, workers=workers)
    return jax.jit(lambda rows: rule(rows, **given)).lower(rows).compile(), rows


@pytest.mark.parametrize(
    ("rule", "most"),
    [
        (byzjax.median, 1.5),
        (byzjax.aksel, 1.5),
        pytest.param(byzjax.krum, 1.6, marks=pytest.mark.slow),
    ],
)
def test_memory_of_a_large_model(rule, most):
    given = {"f": F} if rule in (byzjax.aksel, byzjax.krum) else {}
    program, rows = program_of(rule, LARGE, **given)
    assert sum(leaf.size for leaf in rows.values()) >= N * 1e8
    memory = program.memory_analysis()
    share = sum(4 * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in rows.values())
    assert memory.argument_size_in_bytes == share
    held = share + memory.temp_size_in_bytes + memory.output_size_in_bytes
    assert 1 + 1 / N <= held / share <= most
    sent = traffic.bytes_sent(program.as_text(), N)
    bias = 7 / 8 * 4 * 1_000  # replicated, so reassembled from its slices
    assert sent.pop("all-gather") == bias
    assert sum(sent.values()) <= 8 * 4 * N**2  # distances


@pytest.mark.smoke
def test_in_the_place_of_a_scattered_sum():
    """Workers and parameters over the same devices: each sends the slices that others hold."""
    model = {"w": ((64, 100), P("devices")), "v": ((3, 80), P(None, "devices"))}
    program, _ = program_of(byzjax.krum, model, workers="devices", f=F)
    sent = traffic.bytes_sent(program.as_text(), N)
    distances = 2 * 7 / 8 * 4 * N**2
    assert sent == {"all-to-all": 7 / 8 * 4 * (64 * 100 + 3 * 80), "all-reduce": distances}


# --- errors --------------------------------------------------------------------------------------


def other_mesh():
    return shardings() | {"a": NamedSharding(mesh_of(model=8), P("model"))}


def loss(params):
    return jnp.sum(params["a"] ** 2)


def zeno_on_shards():
    rule = byzjax.sharded(byzjax.zeno, shardings())
    rule(updates(), first(updates()), loss, f=F, learning_rate=0.1, rho=0.0)


@byzjax.per_row_inputs(peak=lambda updates: updates["a"].max())
def of_whole_rows(updates, *, peak=None, axis_name=None):
    raise AssertionError


ERRORS = {
    "sharded: <lambda> has no parameter axis_name, so it would take a device's slice": lambda: (
        byzjax.sharded(lambda updates: updates, shardings())
    ),
    f"sharded needs a NamedSharding of every leaf; got a jax.{P.__name__}: write ": lambda: (
        byzjax.sharded(byzjax.median, {"a": P("model")})
    ),
    "sharded needs leaves on one mesh; got 2 meshes.": lambda: byzjax.sharded(
        byzjax.median, other_mesh()
    ),
    "workers must be one of the axes ('data', 'model'); got 'workers'.": lambda: byzjax.sharded(
        byzjax.median, shardings(), workers="workers"
    ),
    "workers has to be the last of the axes that a dimension is sharded over; got ('model',": (
        lambda: byzjax.sharded(byzjax.median, shardings(), workers="model")
    ),
    "sharded: the shardings are of PyTreeDef({'a': *,": lambda: byzjax.sharded(
        byzjax.median, shardings()
    )([jnp.zeros((N, 8))]),
    "sharded: data are a function of a whole update, which no device holds.": zeno_on_shards,
    "sharded: of_whole_rows needs peak=..., since no device has whole rows.": lambda: (
        byzjax.sharded(of_whole_rows, shardings())(updates())
    ),
    "krum needs n >= 2f + 3; got n=8, f=3.": lambda: jax.eval_shape(
        functools.partial(byzjax.sharded(byzjax.krum, shardings()), f=3), updates()
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    with pytest.raises((TypeError, ValueError)) as caught:
        ERRORS[message]()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
