"""Rules inside `jax.shard_map` and `jax.pmap` equal the rules on stacked updates."""

import collections
import functools
import math
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import byzjax
from byzjax._numerics import thresholds
from tests import traffic, two_processes
from tests.helpers import compiled, first, flat, mesh_of, near
from tests.rule_cases import CASES

N, F = 8, 2
KEY = jax.random.key(3)
# Sizes divisible by 8 and not, a scalar, an empty leaf.
SHAPES = {"a": (3, 5), "b": (), "c": (8, 2), "d": (17,), "e": (0,)}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())
QUICK = ["mean", "trimmed_mean", "aksel-mid", "krum", "geometric_median", "sign_guard", "zeno"]
COUNTED = ["bulyan", "mean_around_median", "sign_guard"]
MANY = [byzjax.trimmed_mean, byzjax.mean_around_median, byzjax.phocas, byzjax.aksel]
MIXINGS = {
    "nearest_neighbors": functools.partial(byzjax.nearest_neighbors, f=F),
    "bucketing": functools.partial(byzjax.bucketing, s=2, key=KEY),
    "clip_norms": functools.partial(byzjax.clip_norms, max_norm=4.0),
    "adaptive_clipping": functools.partial(byzjax.adaptive_clipping, f=F),
}


def tree_of(matrix):
    """Rows as a tree with leaves of various sizes."""
    tree, start = {}, 0
    for name, shape in SHAPES.items():
        stop = start + math.prod(shape)
        tree[name] = matrix[:, start:stop].astype(np.float32).reshape(len(matrix), *shape)
        start = stop
    return tree


def updates(n=N, seed=0):
    return tree_of(np.random.default_rng(seed).normal(size=(n, SIZE)) + 1)


def with_liars(tree):
    """One NaN that only one device sees, and one row of infinities."""
    tree = jax.tree.map(np.copy, tree)
    tree["d"][2, 11] = np.nan
    for leaf in tree.values():
        leaf[5] = np.inf
    return tree


def on_devices(function, mesh=None, axis="workers"):
    """A function of one device's rows, mapped over devices; its result is the same on all."""
    mesh = mesh or mesh_of(workers=N)
    return jax.shard_map(function, mesh=mesh, in_specs=P(axis), out_specs=P())


def faults_of(case):
    return min(F, case.most(N)) if case.facts.takes_f else F


@functools.cache
def of_rules(quick):
    """One program for these rules on 8 devices, and one on the stacked updates."""
    cases = [case for case in CASES if (case.id in QUICK) == quick]

    def collective(rows):
        return {
            case.id: byzjax.all_aggregate(
                case.rule, first(rows), "workers", **case.arguments(updates(), faults_of(case))
            )
            for case in cases
        }

    def whole(tree):
        return {case.id: case(tree, faults_of(case)) for case in cases}

    trees = {"honest": updates(), "with liars": with_liars(updates(seed=1))}
    collective, whole = jax.jit(on_devices(collective)), jax.jit(whole)
    return {name: jax.device_get((collective(tree), whole(tree))) for name, tree in trees.items()}


@pytest.mark.parametrize("sent", ["honest", "with liars"])
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.id, marks=[pytest.mark.slow] * (c.id not in QUICK)) for c in CASES],
)
def test_rules_on_8_devices_equal_the_stacked_form(case, sent):
    out, expected = (results[case.id] for results in of_rules(case.id in QUICK)[sent])
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), out)
    assert described == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), expected)
    if np.isfinite(flat(expected)).all():
        near(out, expected)
    else:  # more Byzantine rows than the rule tolerates
        assert sent == "with liars"
        assert case.facts.promise == "none" or faults_of(case) < 2
        assert not np.isfinite(flat(out)).any()


def test_the_quick_rules_are_known():
    assert {case.id for case in CASES} >= {*QUICK, *COUNTED}


def of_each_device(case, tree):
    """The shapes that a rule returns if each device has updates of its own.

    As when seeds are distributed over devices; `jax.shard_map` checks what varies among them.
    """
    f = faults_of(case)

    def alone(trees):
        return jax.tree.map(lambda leaf: leaf[None], case(first(trees), f))

    run = jax.shard_map(
        alone, mesh=mesh_of(seeds=2), in_specs=P("seeds"), out_specs=P("seeds"), check_vma=True
    )
    out = jax.eval_shape(run, jax.tree.map(lambda leaf: np.stack([leaf, leaf]), tree))
    return {name: leaf.shape[1:] for name, leaf in out.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_each_device_may_aggregate_its_own_updates(case):
    assert of_each_device(case, updates()) == SHAPES


@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.id, marks=[pytest.mark.slow] * (c.id not in COUNTED)) for c in CASES],
)
def test_each_device_may_aggregate_many_updates(case, size):
    """More rows than a sorting network is built for, and no column of them."""
    assert of_each_device(case, {"w": np.ones((136, size), np.float32)}) == {"w": (size,)}


@pytest.mark.slow
def test_many_workers_a_device():
    """More workers than a sorting network is built for."""
    given = {"f": 20}
    rules = [byzjax.median, *(functools.partial(rule, **given) for rule in MANY)]
    tree = updates(N * 17, seed=5)

    def step(rows):
        return [byzjax.all_aggregate(rule, rows, "workers", stacked=True) for rule in rules]

    out = jax.jit(on_devices(step))(tree)
    for one, rule in zip(out, rules, strict=True):
        near(one, rule(tree))


def test_mixings_before_a_rule_and_alone():
    rule = functools.partial(byzjax.aksel, f=1)

    def collective(rows):
        return [
            byzjax.all_aggregate(byzjax.aksel, first(rows), "workers", f=1, mix=mixing)
            for mixing in MIXINGS.values()
        ]

    def alone(rows):
        mixed = [
            byzjax.all_mix(mixing, first(rows), "workers")
            for name, mixing in MIXINGS.items()
            if name != "bucketing"
        ]
        return jax.tree.map(lambda leaf: leaf[None], mixed)

    together = jax.shard_map(
        lambda rows: (collective(rows), alone(rows)),
        mesh=mesh_of(workers=N),
        in_specs=P("workers"),
        out_specs=(P(), P("workers")),
    )
    together = jax.jit(together)

    @jax.jit
    def stacked(tree):
        mixed = [mixing(tree) for mixing in MIXINGS.values()]
        return mixed, [rule(rows) for rows in mixed]

    with_nan = updates()
    with_nan["b"][3] = np.nan
    for tree in (updates(), with_nan):
        before, each = together(tree)
        whole, aggregates = stacked(tree)
        for out, expected in zip(before, aggregates, strict=True):
            near(out, expected)
        del whole[list(MIXINGS).index("bucketing")]
        for out, mixed in zip(each, whole, strict=True):
            assert np.isfinite(flat(mixed)).sum() == np.isfinite(flat(out)).sum() > 0
            np.testing.assert_allclose(flat(out), flat(mixed), rtol=2e-6, atol=2e-6)


SEVERAL = {
    "krum": (byzjax.krum, {"f": 4, "m": 3}),
    "aksel": (byzjax.aksel, {"f": 4}),
    "centered_clip": (byzjax.centered_clip, {"radius": 1.5, "center": first(updates(seed=4))}),
}


@functools.cache
def of_the_stacked(name):
    rule, given = SEVERAL[name]
    return jax.jit(functools.partial(rule, **given))


def of_several(rows, axis, names):
    return [
        byzjax.all_aggregate(rule, rows, axis, stacked=True, **given)
        for rule, given in map(SEVERAL.get, names)
    ]


def in_pmap(step, tree):
    by_devices = jax.tree.map(lambda leaf: leaf.reshape(N, 2, *leaf.shape[1:]), tree)
    return first(jax.pmap(step, axis_name="workers")(by_devices))


AXES = ("hosts", "chips")
FORMS = {
    "one axis": ("workers", lambda step, tree: jax.jit(on_devices(step))(tree)),
    "two axes": (
        AXES,
        lambda step, tree: jax.jit(on_devices(step, mesh_of(hosts=2, chips=4), AXES))(tree),
    ),
    "pmap": ("workers", in_pmap),
}


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("one axis", tuple(SEVERAL)),
        ("two axes", ("krum",)),
        ("pmap", ("krum",)),
        *[pytest.param(form, tuple(SEVERAL), marks=pytest.mark.slow) for form in list(FORMS)[1:]],
    ],
)
def test_several_workers_a_device(form, names):
    axis, run = FORMS[form]
    tree = updates(2 * N, seed=3)
    tree["d"][3, 2] = np.nan
    out = run(functools.partial(of_several, axis=axis, names=names), tree)
    for name, one in zip(names, out, strict=True):
        near(one, of_the_stacked(name)(tree))


def test_a_mixing_of_several_workers_a_device():
    mixing, tree = MIXINGS["clip_norms"], updates(2 * N, seed=3)
    tree["d"][3, 2] = np.nan
    own = {"mesh": mesh_of(workers=N), "in_specs": P("workers"), "out_specs": P("workers")}
    back = jax.shard_map(lambda rows: byzjax.all_mix(mixing, rows, "workers", stacked=True), **own)
    np.testing.assert_allclose(flat(jax.jit(back)(tree)), flat(jax.jit(mixing)(tree)), rtol=2e-6)


def test_all_devices_have_the_same_to_the_bit():
    def step(rows):
        out = byzjax.all_aggregate(byzjax.geometric_median, first(rows), "workers")
        return jax.tree.map(lambda leaf: leaf[None], out)

    step = jax.shard_map(
        step, mesh=mesh_of(workers=N), in_specs=P("workers"), out_specs=P("workers")
    )
    for leaf in jax.tree.leaves(jax.device_get(jax.jit(step)(updates()))):
        np.testing.assert_array_equal(leaf, leaf[:1].repeat(N, 0))


@pytest.mark.smoke
def test_dtypes_are_kept():
    tree = updates()
    tree |= {"a": tree["a"].astype(jnp.bfloat16), "c": tree["c"].astype(np.float16)}
    rule = functools.partial(byzjax.trimmed_mean, f=F)
    out = jax.jit(on_devices(lambda rows: byzjax.all_aggregate(rule, first(rows), "workers")))(tree)
    jax.tree.map(np.testing.assert_array_equal, out, jax.jit(rule)(tree))
    assert {name: leaf.dtype.name for name, leaf in out.items()} == {
        **dict.fromkeys("bde", "float32"),
        "a": "bfloat16",
        "c": "float16",
    }


def test_large_leaves_travel_by_themselves(monkeypatch):
    monkeypatch.setattr(thresholds, "OWN_MESSAGE", 16)
    step = jax.jit(
        on_devices(lambda rows: byzjax.all_aggregate(byzjax.krum, first(rows), "workers", f=F))
    )
    near(step(updates()), compiled(byzjax.krum, f=F)(updates()))
    text = step.lower(updates()).compile().as_text()
    kinds = [kind for kind, _, _ in traffic.collectives(text, N)]
    assert kinds.count("all-to-all") == 4  # a and c, d, and one for the small leaves


def test_its_derivative_is_that_of_the_rule():
    target = first(updates(seed=9))

    def loss(out):
        return sum(jnp.sum((out[name] - target[name]) ** 2) for name in target)

    step = on_devices(lambda rows: byzjax.all_aggregate(byzjax.aksel, first(rows), "workers", f=F))
    gradient = jax.jit(jax.grad(lambda tree: loss(step(tree))))(updates())
    whole = jax.jit(jax.grad(lambda tree: loss(byzjax.aksel(tree, f=F))))
    near(gradient, whole(updates()))


# --- memory --------------------------------------------------------------------------------------

MEMORIES = {
    byzjax.centered_clipping: {"radius": 1.5},
    byzjax.foolsgold: {"num_workers": N},
    byzjax.concentration_filter: {
        "num_workers": N,
        "deviation": 4.0,
        "diameter": 1.0,
        "steps": 3,
    },
    byzjax.safeguard: {"num_workers": N, "windows": (1, 2), "thresholds": (9.0, 12.0)},
}


def test_memory_of_slices():
    def run(transformations, params, steps, rows):
        outs = []
        for tx in transformations:
            state = tx.init(params)
            for tree in steps:
                out, state = tx.update(rows(tree), state, params)
            outs.append(out)
        return outs

    params = first(updates(seed=8))
    steps = [with_liars(updates(seed=seed)) for seed in range(3)]
    across = [byzjax.across_devices(make, "workers", **given) for make, given in MEMORIES.items()]
    single = [make(**given) for make, given in MEMORIES.items()]
    out = jax.jit(on_devices(lambda steps: run(across, params, steps, first)))(steps)
    expected = jax.jit(lambda steps: run(single, params, steps, lambda tree: tree))(steps)
    for one, other in zip(out, expected, strict=True):
        near(one, other)


def test_extra_arguments_of_all_kinds():
    """Updates and functions of updates are sliced; other arrays of the same shape are not."""

    def make(rule, **given):
        return functools.partial(byzjax.aggregate, rule, **given)

    def scaled(updates, value, *, axis_name=None):
        del axis_name
        return jax.tree.map(lambda leaf: value * leaf[0], updates)

    def of_a_function(updates, norm, *, axis_name=None):
        del axis_name
        return byzjax.stacked.take(updates, jnp.argmin(jax.vmap(norm)(updates)))

    def norm(update):
        return sum(jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(update) if leaf.size)

    makes = [make(byzjax.fl_trust), make(scaled), make(of_a_function)]
    rows, extra = updates(), {"trusted": first(updates(seed=4)), "norm": norm, "value": 3.0}
    names = {"axis_name": "workers", "data": ("trusted", "norm")}

    def run(transformations, rows, **extra):
        return [tx.update(rows, tx.init(first(updates())), **extra)[0] for tx in transformations]

    across = [byzjax.across_devices(make, **names) for make in makes]
    out = jax.jit(on_devices(lambda rows: run(across, first(rows), **extra)))(rows)
    whole = jax.jit(lambda rows: run([make() for make in makes], rows, **extra))(rows)
    for one, other in zip(out, whole, strict=True):
        near(one, other)
    scalar = byzjax.across_devices(make(scaled), "workers", data="trusted")
    step = on_devices(lambda x: scalar.update(x[0], scalar.init(x[0]), value=3.0)[0])
    np.testing.assert_array_equal(jax.jit(step)(np.arange(2.0, 2 + N, dtype=np.float32)), 6.0)
    wrong = on_devices(lambda rows: run(across, first(rows), **(extra | {"trusted": 1.0})))
    with pytest.raises(ValueError, match=r"^trusted has the shapes \(\), but one update has"):
        jax.eval_shape(wrong, rows)


# --- cost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["median", "krum", "lax.pmean"])
def test_a_device_sends_as_much_as_for_a_mean(name):
    """2 (P - 1) / P numbers per coordinate, and distances."""
    shapes = {"w": (700, 100), "b": (3,)}
    d = 700 * 100 + 3
    rows = {k: jax.ShapeDtypeStruct((N, *shape), jnp.float32) for k, shape in shapes.items()}

    def step(rows):
        if name == "lax.pmean":
            return lax.pmean(first(rows), "workers")
        given = {} if name == "median" else {"f": F}
        return byzjax.all_aggregate(getattr(byzjax, name), first(rows), "workers", **given)

    sent = traffic.bytes_sent(jax.jit(on_devices(step)).lower(rows).compile().as_text(), N)
    numbers = {kind: size / 4 for kind, size in sent.items()}
    padding = 2 * 8
    if name == "lax.pmean":
        assert numbers == {"all-reduce": 2 * 7 / 8 * d}
    else:
        assert 7 / 8 * d <= numbers.pop("all-to-all") <= 7 / 8 * (d + padding)
        assert 7 / 8 * d <= numbers.pop("all-gather") <= 7 / 8 * (d + padding)
        assert numbers == ({} if name == "median" else {"all-reduce": 2 * 7 / 8 * N**2})


@pytest.mark.parametrize(("mix", "times"), [(None, 2), (MIXINGS["clip_norms"], 3)])
def test_a_loss_of_whole_updates_is_evaluated_where_they_are_sent(mix, times):
    """Each device evaluates the loss for its worker's row; a mixed row has to be sent first."""
    d, losses = 4000, collections.Counter()

    def loss(params):
        losses[params.shape] += 1
        return jnp.sum(params**2)

    given = {"f": F, "learning_rate": 0.1, "rho": 1e-3}

    def step(rows):
        data = {"params": jnp.ones(d), "trusted_loss": loss}
        return byzjax.all_aggregate(byzjax.zeno, rows[0], "workers", mix=mix, **data, **given)

    rows = np.random.default_rng(0).normal(size=(N, d)).astype(np.float32)
    program = jax.jit(on_devices(step)).lower(rows).compile()
    sent = traffic.bytes_sent(program.as_text(), N)
    assert sum(sent.values()) / 4 <= times * 7 / 8 * d + 5 * N
    assert set(losses) == {(d,)}

    @jax.jit
    def whole(rows):
        return byzjax.zeno(rows if mix is None else mix(rows), jnp.ones(d), loss, **given)

    near(program(rows), whole(rows))


def peaks(updates, height):
    """A rule of whole rows only: slices have other scores."""
    return height * jnp.max(jnp.abs(updates), axis=1)


@byzjax.per_row_inputs(peak=peaks)
def of_lowest_peak(updates, *, height=2.0, peak=None, axis_name=None):
    del axis_name
    peak = peaks(updates, height) if peak is None else peak
    return byzjax.stacked.take(updates, jnp.argmin(peak))


@pytest.mark.parametrize("mix", [None, *(MIXINGS[name] for name in ("clip_norms", "bucketing"))])
def test_a_user_defined_rule_may_need_whole_rows(mix):
    rows = np.random.default_rng(0).normal(size=(N, 41)).astype(np.float32)
    rows[0] = 9.0

    def step(rows, rule=of_lowest_peak, **given):
        return byzjax.all_aggregate(rule, rows[0], "workers", mix=mix, **given)

    def bound_before(rows):
        rule = functools.partial(of_lowest_peak, height=-1.0)
        return step(rows, rule=jax.jit(rule, static_argnames="axis_name"))

    whole = rows if mix is None else np.asarray(jax.jit(mix)(rows))
    heights = np.abs(whole).max(axis=1)
    expected = whole[heights.argmin()], whole[heights.argmax()], whole[0]

    def steps(rows):
        known = step(rows, peak=jnp.arange(len(whole)))
        return step(rows), bound_before(rows), known

    for out, row in zip(jax.jit(on_devices(steps))(rows), expected, strict=True):
        near(out, row)


@pytest.mark.parametrize(
    ("rule", "function", "words"),
    [
        (byzjax.median, peaks, "median needs a keyword-only parameter peak=None."),
        (lambda x, *, peak: x, peaks, "<lambda> needs a keyword-only parameter peak=None."),
        (lambda x, *, peak=None: x, peaks, "peaks takes height, which <lambda> does not."),
    ],
)
def test_what_a_rule_cannot_declare(rule, function, words):
    with pytest.raises(TypeError, match=f"^per_row_inputs: {words}$"):
        byzjax.per_row_inputs(peak=function)(rule)


def test_losses_that_are_known_already():
    def never(params):
        raise AssertionError

    given = {"f": 1, "learning_rate": 0.1, "rho": 0.0}
    rows, decreases, one = np.float32([[1], [2], [7]]), np.float32([3, 9, 1]), np.ones(1, "f4")
    alone = jax.jit(lambda x: byzjax.zeno(x, one, never, decreases=decreases, **given))
    out = alone(rows)
    np.testing.assert_array_equal(out, [1.5])
    rule = functools.partial(byzjax.zeno, decreases=decreases, **given)
    across = jax.vmap(
        lambda row: byzjax.all_aggregate(rule, row, "workers", params=one, trusted_loss=never),
        axis_name="workers",
    )
    np.testing.assert_array_equal(jax.jit(across)(rows), [[1.5]] * 3)


# --- processes -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Over loopback, with four devices each."""
    rows = np.random.default_rng(0).normal(size=(N, 1001)).astype(np.float32)
    rows[3, 7], rows[6] = np.nan, 1e30  # an attacker in each
    np.save(tmp_path / "updates.npy", rows)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.two_processes", str(port)]
    root = pathlib.Path(__file__).parent.parent
    processes = [
        subprocess.Popen(
            [*command, str(place), str(tmp_path)],
            cwd=root,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "4"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for place in range(2)
    ]
    try:
        logs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(logs)[-4000:]
    results = [np.load(tmp_path / f"{place}.npz") for place in range(2)]
    for name, (rule, given) in two_processes.RULES.items():
        np.testing.assert_array_equal(results[0][name], results[1][name])
        near(results[0][name], rule(jnp.asarray(rows), **given))
    assert [int(each["processes"]) for each in results] == [2, 2]


# --- errors --------------------------------------------------------------------------------------


def coordinatewise_maximum(updates):
    return jax.tree.map(lambda leaf: leaf.max(axis=0), updates)


ERRORS = {
    "krum needs n >= 2f + 3; got n=8, f=3.": (byzjax.krum, {"f": 3}),
    "all_aggregate: krum has no parameter g; it takes f, m, neighbors, squared.": (
        byzjax.krum,
        {"g": 3},
    ),
    "all_aggregate: krum needs f; write all_aggregate(krum, updates, axis_name, f=...).": (
        byzjax.krum,
        {},
    ),
    "all_aggregate: centered_clip needs center; write all_aggregate(centered_clip, ": (
        byzjax.centered_clip,
        {"radius": 1.0},
    ),
    "center has the shapes (3,), but one update has {'a': (3, 5),": (
        byzjax.centered_clip,
        {"radius": 1.0, "center": np.zeros(3)},
    ),
    "all_aggregate: coordinatewise_maximum has no parameter axis_name, so it would take": (
        coordinatewise_maximum,
        {},
    ),
    "mix: coordinatewise_maximum has no parameter axis_name, so it would take a device's": (
        byzjax.median,
        {"mix": coordinatewise_maximum},
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    rule, given = ERRORS[message]
    step = on_devices(lambda rows: byzjax.all_aggregate(rule, first(rows), "workers", **given))
    with pytest.raises((TypeError, ValueError)) as caught:
        jax.eval_shape(step, updates())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_mixing_alone_keeps_the_workers():
    step = on_devices(lambda rows: byzjax.all_mix(MIXINGS["bucketing"], first(rows), "workers"))
    with pytest.raises(ValueError, match=r"^all_mix needs a mixing that keeps .* 8 rows into 4"):
        jax.eval_shape(step, updates())


def test_gradients_that_shard_map_has_summed_are_rejected():
    """For replicated parameters `jax.grad` sums over devices: every worker would send the sum."""

    def step(params, batch):
        grads = jax.grad(lambda params: jnp.sum((batch[0] - params) ** 2))(params)
        return byzjax.all_aggregate(byzjax.median, grads, "workers")

    specs = {"mesh": mesh_of(workers=N), "in_specs": (P(), P("workers")), "out_specs": P()}
    params, batch = np.zeros(3, "f4"), np.arange(24, dtype=np.float32).reshape(N, 3)
    with pytest.raises(ValueError, match=r"^updates: the same on all devices of 'workers'"):
        jax.eval_shape(jax.shard_map(step, **specs), params, batch)

    def beside_a_leaf_of_its_own(params, batch):
        grads = {"own": batch[0], "summed": jax.grad(lambda p: jnp.sum(batch[0] * p))(params)}
        return byzjax.all_aggregate(byzjax.median, grads, "workers")

    with pytest.raises(ValueError, match=r"^updates\['summed'\]: the same on all devices"):
        jax.eval_shape(jax.shard_map(beside_a_leaf_of_its_own, **specs), params, batch)
    out = jax.jit(jax.shard_map(step, **specs, check_vma=False))(params, batch)
    np.testing.assert_allclose(out, np.median(-2 * batch, axis=0))
