"""The contract of all rules; their table is in tests/rule_cases.py.

All inputs of one (rule, n, f) use two compiled functions, the rule and its derivatives, each mapped
over `BATCH` matrices `[n, DIM]`: examples differ in values, positions and offsets, never in shapes.
Values lie on a grid of 1/1024, so that shifting and scaling them is exact in float32 and cannot
reverse a comparison: only the rounding of the rule's sums remains.
"""

import functools
import math
import os
import re
import subprocess
import sys

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

import byzjax
from byzjax import theory
from byzjax.facts import inequality
from byzjax.testing import attacked, broken_promise, grid
from byzjax.testing.rows import DIM
from tests import oracles
from tests.helpers import close, flat, mesh_of
from tests.rule_cases import CASES, KEY

BATCH = 64
X64 = jax.config.jax_enable_x64
REAL = np.float64 if X64 else np.float32


def quick_sizes(case):
    """(n, f): the fewest workers, and an even number of workers."""
    return {(max(case.least(1), 3), 1), (12, case.most(12))}


def sizes(case):
    """(n, f): in addition, no fault, one more worker, and other numbers of either parity."""
    pairs = {(case.least(0), 0), (case.least(1) + 1, 1), (11, case.most(11))}
    pairs |= {(n, max(1, case.most(n) // 2)) for n in (25, *[64] * (not case.variant))}
    return sorted({(n, f) for n, f in pairs if n <= case.most_n} | quick_sizes(case))


def over_sizes(*only, keep=lambda case: True, least_f=0, all_quick=False, slow=None, smoke=False):
    """Parametrizes over cases and their sizes, or those with `n` in `only`; n = `slow` is slow.

    With `smoke`, the fewest workers of every quick case belong to the smoke tier.
    """

    def size(case, n, f):
        quick = n != slow and (n, f) in quick_sizes(case) and (all_quick or case.quick)
        first = smoke and case.quick and (n, f) == min(quick_sizes(case))
        tiers = [*marks(case, quick), *([pytest.mark.smoke] if first else [])]
        return pytest.param(case, n, f, id=f"{case.id}-{n}-{f}", marks=tiers)

    return pytest.mark.parametrize(
        ("case", "n", "f"),
        [
            size(case, n, f)
            for case in CASES
            for n, f in sizes(case)
            if keep(case) and f >= least_f and (not only or n in only)
        ],
    )


def marks(case, quick):
    """Groups a case's tests, which share compiled functions."""
    return [pytest.mark.xdist_group(case.id), *([] if quick else [pytest.mark.slow])]


def promises(case):
    return case.facts.promise != "none"


def over_cases(keep=lambda case: True):
    return pytest.mark.parametrize(
        "case",
        [pytest.param(c, id=c.id, marks=marks(c, c.quick)) for c in CASES if keep(c)],
    )


# --- the two compiled functions of one (rule, n, f) ----------------------------------------------


def padded(matrices):
    x = np.stack([np.asarray(m, REAL) for m in matrices])
    return jnp.asarray(np.concatenate([x, np.repeat(x[:1], BATCH - len(x), axis=0)]))


@functools.cache
def compiled(case, n, f):
    return jax.jit(jax.vmap(lambda x: case(x, f)))


def apply(case, n, f, matrices):
    """The rule on up to BATCH matrices `[n, DIM]`, in one call."""
    out = compiled(case, n, f)(padded(matrices))
    assert out.dtype == REAL
    return np.asarray(out, np.float64)[: len(matrices)]


@functools.cache
def compiled_derivatives(case, n, f):
    def derivatives(x, dx, dy):
        _, forward = jax.jvp(lambda x: case(x, f), (x,), (dx,))
        _, vjp = jax.vjp(lambda x: case(x, f), x)
        return forward, vjp(dy)[0]

    return jax.jit(jax.vmap(derivatives))


def derivatives(case, n, f, matrices, tangents, cotangents):
    """(jvp, vjp) of the rule at each of the matrices."""
    args = [padded(a) for a in (matrices, tangents, cotangents)]
    out = compiled_derivatives(case, n, f)(*args)
    return [np.asarray(a, np.float64)[: len(matrices)] for a in out]


seeds = st.integers(0, 2**32 - 1)


# --- the paper's loop, and the laws --------------------------------------------------------------


@over_sizes(all_quick=True, smoke=True)
def test_equals_the_papers_loop(case, n, f):
    rng = np.random.default_rng(n)
    matrices = [grid(rng, n) for _ in range(8)]
    matrices += [rng.normal(size=(n, DIM)) for _ in range(8)]  # not on the grid
    matrices += [np.exp(3 * rng.normal(size=(n, DIM))) for _ in range(4)]  # heavy tails
    for x, out in zip(matrices, apply(case, n, f, matrices)):
        x = np.asarray(x, np.float32)
        close(out, case.expected(x, f), np.abs(x).max(), case.eps)


@over_sizes(all_quick=True)
@given(
    seed=seeds,
    shift=st.integers(-512, 512).map(lambda k: k / 8),
    scale=st.integers(-30, 30).map(lambda k: 2.0**k),
)
def test_laws(case, n, f, seed, shift, scale):
    rng = np.random.default_rng(seed)
    x, direction = grid(rng, n), rng.integers(-8, 9, size=DIM)
    offset = shift * direction
    permuted = x[rng.permutation(n)]
    repeated = np.repeat(x[:1], n, axis=0)
    matrices = [x, permuted, x + offset, x * scale, repeated]
    base, after_permuting, after_shift, after_scaling, of_repeated = apply(case, n, f, matrices)
    if case.facts.permutes:
        expected = case.expected(permuted, f) if case.ties(n, f) else base
        close(after_permuting, expected, np.abs(x).max(), case.eps)
    if case.facts.shifts:
        close(after_shift - offset, base, np.abs(x + offset).max(), case.eps)
    if case.facts.scales and not case.units and not case.oracle_data(1):
        close(after_scaling / scale, base, np.abs(x).max(), case.eps)
    if case.facts.repeats:
        close(of_repeated, x[0], np.abs(x).max(), case.eps)


@over_cases(lambda case: case.units or case.oracle_data(1))
def test_scales_with_what_has_its_unit(case):
    if case.facts.scales:
        n, f = 12, case.most(12)
        x, rule = grid(np.random.default_rng(3), n), jax.jit(lambda x, c: case(x, f, c))
        for c in (2.0**-8, 2.0**8):
            close(rule(c * x, c) / c, rule(x, 1.0), np.abs(x).max(), case.eps)


def test_known_values():
    """Small enough to be computed by hand."""
    x = jnp.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    y = jnp.array([[0.0, 0], [1, 0], [0, 1], [1, 1], [10, -10]])
    for rule in (byzjax.mean, byzjax.median, functools.partial(byzjax.trimmed_mean, f=1)):
        np.testing.assert_array_equal(rule(x), [4, 5, 6])
    # Distances 27, 0, 27: of a tie at the radius, the lower index or all are taken.
    for mode, out in {"mid": [2.5, 3.5, 4.5], "n-f": [2.5, 3.5, 4.5], "radius": [4, 5, 6]}.items():
        np.testing.assert_array_equal(byzjax.aksel(x, f=1, mode=mode), out)
    np.testing.assert_array_equal(byzjax.median(y), [1, 0])
    close(byzjax.trimmed_mean(y, f=1), [2 / 3, 1 / 3])
    for mode, out in {"mid": [2 / 3, 1 / 3], "n-f": [0.5, 0.5], "radius": [2 / 3, 1 / 3]}.items():
        close(byzjax.aksel(y, f=1, mode=mode), out)
    np.testing.assert_array_equal(byzjax.krum(y, f=1), [0, 0])  # four scores tie


# --- trees, devices, dtypes, compilation ---------------------------------------------------------


def tree_of(x, shapes):
    """Cuts `[n, d]` into leaves `[n, *shape]`."""
    n, ends = len(x), np.cumsum([math.prod(s) for s in shapes])
    assert ends[-1] == x.shape[1]
    parts = np.split(np.asarray(x), ends[:-1], axis=1)
    leaves = [jnp.asarray(p.reshape(n, *s), jnp.float32) for p, s in zip(parts, shapes)]
    return {"first": leaves[0], "rest": tuple(leaves[1:])}


SHAPES = [(), (2,), (1, 1), (3, 2), (), (0,), (2, 2), (1,), (), (2, 1, 2), (3,), (1, 5, 1)]


@pytest.mark.slow  # the next test has a tree of fewer leaves, one of them empty, and a bad row
@over_sizes(12)
def test_a_tree_gives_what_its_vector_gives(case, n, f):
    x = grid(np.random.default_rng(5), n, sum(math.prod(s) for s in SHAPES))
    x[3, 0] = np.inf
    tree = tree_of(x, SHAPES)
    out = jax.jit(lambda t: case(t, f))(tree)
    assert [leaf.shape for leaf in jax.tree.leaves(out)] == SHAPES
    assert jax.tree.structure(out) == jax.tree.structure(tree)
    expected = case.expected(x, f, [math.prod(shape) for shape in SHAPES if 0 not in shape])
    close(flat(out), expected, 8, case.eps)


def tree_of_two_dtypes(n):
    """(matrix, tree) of a bfloat16 and three float32 leaves, one of them empty; one row is bad."""
    x = grid(np.random.default_rng(6), n, 8)
    x[3, 0] = np.inf
    tree = tree_of(x, [(2, 2), (3,), (0,), ()])
    tree["first"] = tree["first"].astype(jnp.bfloat16)
    x[:, :4] = np.asarray(tree["first"], np.float32).reshape(n, 4)
    return x, tree


@over_sizes(12)
def test_a_tree_of_two_dtypes(case, n, f):
    x, tree = tree_of_two_dtypes(n)
    out = case(tree, f)
    assert jax.tree.structure(out) == jax.tree.structure(tree)
    leaves = jax.tree.leaves(out)
    assert [leaf.dtype for leaf in leaves] == [jnp.bfloat16, *[jnp.float32] * 3]
    assert [leaf.shape for leaf in leaves] == [(2, 2), (3,), (0,), ()]
    expected = case.expected(x, f, [4, 3, 1])
    close(flat(out)[:4], expected[:4], 8, eps=2**-8)
    close(flat(out)[4:], expected[4:], 8, case.eps)


WITH_SLOPE = {"trimmed_mean", "aksel-mid", "krum", "geometric_median", "centered_clip"}


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.id, marks=marks(c, c.id in WITH_SLOPE)) for c in CASES]
)
def test_the_gradient_of_a_tree_of_two_dtypes(case):
    _, tree = tree_of_two_dtypes(12)

    @jax.jit
    def gradient_of(tree):
        out, vjp = jax.vjp(lambda t: case(t, case.most(12)), tree)
        return vjp(jax.tree.map(jnp.ones_like, out))[0]

    gradient = gradient_of(tree)
    assert jax.tree.structure(gradient) == jax.tree.structure(tree)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(gradient)]
    assert dtypes == [jnp.bfloat16, *[jnp.float32] * 3]
    if case.facts.shifts:  # then the weights of the workers sum to 1
        sums = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64).sum(axis=0), gradient)
        close(flat(sums)[:4], 1, eps=12 * 2**-8)
        close(flat(sums)[4:], 1, eps=1e-5)


@over_sizes(11)
def test_coordinates_sliced_over_devices(case, n, f):
    rng = np.random.default_rng(7)
    tree = tree_of(grid(rng, n, 24), [(8,), (8, 2)])
    broken = jax.tree.map(lambda leaf: leaf, tree)
    # Only one device sees the NaN; all others must exclude the row as well.
    broken["first"] = broken["first"].at[2, 5].set(jnp.nan)

    sliced = jax.shard_map(
        lambda tree: case(tree, f, axis_name="shard"),
        mesh=mesh_of(shard=8),
        in_specs=P(None, "shard"),
        out_specs=P("shard"),
    )
    dy = tree_of(1 + np.arange(24.0)[None], [(8,), (8, 2)])
    dy = jax.tree.map(lambda leaf: leaf[0], dy)

    def value_and_slope(rule):
        def both(t):
            out, vjp = jax.vjp(rule, t)
            return out, vjp(dy)

        return jax.jit(both)

    by_one, by_all = value_and_slope(lambda t: case(t, f)), value_and_slope(sliced)
    for t in (tree, broken):
        whole, gradient = by_one(t)
        parts, gradient_of_parts = by_all(t)
        close(flat(parts), flat(whole), 8, case.eps)
        close(flat(gradient_of_parts), flat(gradient), 8, 10 * case.eps)


DTYPES = ["bfloat16", "float16", *["float64"] * X64]


@pytest.mark.slow  # a tree of two dtypes has a leaf of bfloat16, and its derivative
@pytest.mark.parametrize("dtype", DTYPES)
@over_sizes(12)
def test_dtype_is_kept(case, n, f, dtype):
    x = 100 * grid(np.random.default_rng(8), n)  # squares overflow float16, sums must not
    x = jnp.asarray(x, dtype)

    @jax.jit
    def value_and_gradient(x):
        out, vjp = jax.vjp(lambda x: case(x, f), x)
        return out, vjp(jnp.ones_like(out))[0]

    out, gradient = value_and_gradient(x)
    assert out.dtype == gradient.dtype == jnp.dtype(dtype)
    exact = case.expected(np.asarray(x, np.float64), f)
    eps = 2 * float(jnp.finfo(dtype).eps)
    close(np.asarray(out, np.float64), exact, 1000, eps=max(eps, case.eps * (dtype != "float64")))
    if case.facts.shifts:  # then the weights of the workers sum to 1
        close(np.asarray(gradient, np.float64).sum(axis=0), 1, eps=12 * float(jnp.finfo(dtype).eps))


@pytest.mark.slow
@pytest.mark.skipif(X64, reason="is already the process with 64 bits")
def test_float64_in_a_process_of_its_own():
    only = "test_dtype_is_kept and float64 or strict_promotion or finite_differences and 12"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    command += ["-m", "slow or not slow", "-k", only]
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        command, env=environment, cwd=root, timeout=500, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    (passed,) = re.findall(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert int(passed) >= 3 * len(CASES), done.stdout[-4000:]


@over_cases()
def test_jit_and_vmap_agree(case):
    chex.clear_trace_counter()
    n, f = case.least(1), 1
    x = grid(np.random.default_rng(9), n)
    (mapped,) = apply(case, n, f, [x])
    once = jax.jit(chex.assert_max_traces(lambda x: case(x, f), n=1))
    close(once(x), mapped, 8, case.eps)
    assert np.isfinite(once(x + 1)).all()  # from the same trace


CALLED_DIRECTLY = {"trimmed_mean", "aksel-mid", "krum", "centered_clip", "bulyan"}


# The docstrings' examples call every rule directly; here the numbers are compared.
@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.id, marks=marks(c, c.id in CALLED_DIRECTLY)) for c in CASES]
)
def test_a_direct_call_and_vmap_agree(case):
    n, f = case.least(1), 1
    x = grid(np.random.default_rng(9), n).astype(np.float32)
    (mapped,) = apply(case, n, f, [x])
    close(case(x, f), mapped, 8, case.eps)


@over_cases()
def test_lowers_for_every_platform_under_strict_promotion(case):
    n, f = 12, case.most(12)
    updates = {
        "w": jax.ShapeDtypeStruct((n, 3, 20_000), jnp.float32),  # more than one block
        "b": jax.ShapeDtypeStruct((n,), jnp.bfloat16),
    }

    def value_and_gradient(updates):
        out, vjp = jax.vjp(lambda u: case(u, f), updates)
        return out, vjp(out)

    export = jax.export.export(jax.jit(value_and_gradient), platforms=("cpu", "cuda", "tpu"))
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        out = export(updates).out_avals
    assert out[1].shape == (3, 20_000)


DECOMPOSES = {"covariance_filter", "geometric_median", "flag"}


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.id, marks=marks(c, c.id in DECOMPOSES)) for c in CASES]
)
def test_no_decomposition_of_a_batch_on_cpu(case):
    """On the CPU a batch of them may deadlock: byzjax/_numerics/linalg.py."""
    n = min(case.most_n, 25)

    def value_and_gradient(updates):
        out, vjp = jax.vjp(lambda u: case(u, case.most(n)), updates)
        return out, vjp(out)

    once = jax.jit(value_and_gradient).trace(jnp.ones((n, DIM)))
    decomposes = "lapack_" in once.lower(lowering_platforms=("cpu",)).as_text()
    assert decomposes or case.id not in DECOMPOSES
    if decomposes:
        many = jax.jit(jax.vmap(jax.vmap(value_and_gradient))).trace(jnp.ones((2, 3, n, DIM)))
        text = many.lower(lowering_platforms=("cpu",)).as_text()
        assert "lapack_" in text
        assert not re.findall(r'num_batch_dims = "[1-9]', text)


# --- errors --------------------------------------------------------------------------------------


@over_cases(lambda case: case.facts.takes_f)
def test_too_few_workers(case):
    name, needs = case.rule.__name__, inequality(case.facts.needs)
    for f in (1, 5):
        n = case.least(f) - 1
        with pytest.raises(ValueError, match=r".") as error:
            case(jnp.ones((n, 2)), f)
        assert str(error.value) == f"{name} needs {needs}; got n={n}, f={f}."
    for rule in (
        lambda x: case(x, 1),
        jax.jit(lambda x: case(x, 1)),
        jax.vmap(lambda x: case(x, 1)),
    ):
        with pytest.raises(ValueError, match=r"^" + name + " needs n >= "):
            rule(jnp.ones((case.least(1) - 1,) * 2 + (2,)))


def test_too_few_workers_for_krum_in_full():
    with pytest.raises(ValueError, match=r"^krum needs n >= 2f \+ 3; got n=12, f=5\.$"):
        byzjax.krum(jnp.ones((12, 2)), f=5)


@over_cases(lambda case: case.facts.takes_f)
def test_f_is_a_static_python_int(case):
    x = jnp.ones((12, 2))
    hyper = case.hyper(12, 1)
    with pytest.raises(
        TypeError, match=r"^f must be a Python int; got a traced array: write jax\.jit\("
    ):
        jax.jit(lambda f: case.call(x, f=f, **hyper))(1)
    for f, name in (
        (1.0, "float"),
        (True, "bool"),
        (jnp.array(1), "an array"),
        (None, "NoneType"),
    ):
        with pytest.raises(TypeError, match=f"^f must be a Python int; got {name}.*: write f=\\w"):
            case.call(x, f=f, **hyper)
    with pytest.raises(ValueError, match=r"^f must be at least 0; got f=-1\.$"):
        case.call(x, f=-1, **hyper)
    assert jax.eval_shape(lambda x: case.call(x, f=np.int32(1), **hyper), x).shape == (2,)


@over_cases()
def test_unstacked_updates(case):
    for updates in (jnp.ones(()), {"w": jnp.ones((12, 2)), "b": jnp.ones(())}):
        with pytest.raises(
            ValueError, match=r"^no worker axis: .* is a scalar; stacked updates have"
        ):
            case.call(updates, **case.kwargs(12, 1))
    with pytest.raises(ValueError, match=r"^leaves disagree on n: "):
        case.call({"w": jnp.ones((12, 2)), "b": jnp.ones((11,))}, **case.kwargs(12, 1))


def test_modes_and_other_hyperparameters():
    x = jnp.ones((12, 2))
    with pytest.raises(ValueError, match=r"^mode must be one of mid, n-f, radius; got 'median'\.$"):
        byzjax.aksel(x, f=1, mode="median")
    with pytest.raises(ValueError, match=r"^krum needs m <= n - f - 2 = 9; got m=10, n=12, f=1\.$"):
        byzjax.krum(x, f=1, m=10)
    with pytest.raises(ValueError, match=r"^m must be at least 1; got m=0\.$"):
        byzjax.krum(x, f=1, m=0)
    with pytest.raises(
        TypeError, match=r"^m must be a Python int; got a traced array: write jax\.jit\("
    ):
        jax.jit(lambda m: byzjax.krum(x, f=1, m=m))(1)
    with pytest.raises(ValueError, match=r"^minimum_diameter needs f <= 32; got f=33, n=67\.$"):
        byzjax.minimum_diameter(jnp.ones((67, 2)), f=33)
    with pytest.raises(
        ValueError,
        match=r"^minimum_eigenvalue tries at most 100000 subsets; n=25, f=8 have .* = 1081575\.$",
    ):
        byzjax.minimum_eigenvalue(jnp.ones((25, 2)), f=8)
    for m, rest in ((10, "needs m <= n - f - 2 = 9; got m=10, n=12, f=1"), (0, "")):
        words = f"multi_krum {rest}." if rest else "m must be at least 1; got m=0."
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
            byzjax.multi_krum(x, f=1, m=m)
    with pytest.raises(ValueError, match=r"^multi_krum needs m <= n - f = 11; got m=12, n=12"):
        byzjax.multi_krum(x, f=1, m=12, neighbors="n-f-1")
    with pytest.raises(
        ValueError, match=r"^robust_learning_rate needs threshold <= n; got threshold=13, n=12\.$"
    ):
        byzjax.robust_learning_rate(x, threshold=13)
    with pytest.raises(ValueError, match=r"^flag needs r <= n; got r=13, n=12\.$"):
        byzjax.flag(x, r=13)
    with pytest.raises(ValueError, match=r"^share must be in \(0, 1\]; got share=0\.$"):
        byzjax.sign_guard(x, key=KEY, share=0)
    with pytest.raises(TypeError, match=r"updates must be real floats; the array is int32: write"):
        byzjax.median(jnp.ones((12, 2), jnp.int32))


# --- promises ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@over_sizes(keep=promises, least_f=1, all_quick=True)
def test_promise(case, n, f, seed):
    matrices = list(attacked(np.random.default_rng([n, seed]), n, f, trusted=case.trusted))
    assert len(matrices) <= BATCH
    for (x, byzantine), out in zip(matrices, apply(case, n, f, [m for m, _ in matrices])):
        sent = f"the attackers {np.flatnonzero(byzantine)} sent {x[byzantine][0]}"
        bound, kappa = (case.proved(kind, n, f) for kind in ("lambda", "kappa"))
        promise = case.facts.promise
        assert not broken_promise(promise, x, byzantine, out, bound=bound, kappa=kappa), sent


@over_sizes(11, 12, keep=promises, all_quick=True)
def test_bad_rows_are_treated_as_in_the_papers_loop(case, n, f):
    matrices = [x for x, _ in attacked(np.random.default_rng(12), n, f, trusted=case.trusted)]
    for x, out in zip(matrices, apply(case, n, f, matrices)):
        if np.abs(x[np.isfinite(x)]).max() <= case.reach:
            close(out, case.expected(np.asarray(x, np.float32), f), 8, case.eps)


@over_sizes(11, 12, keep=lambda case: case.proved("epsilon", 11, 1) is not None)
def test_no_attack_accuracy(case, n, f):
    """T4 of docs/bounds.md: without attackers, squared distance to the mean <= epsilon V."""
    rng = np.random.default_rng(13)
    matrices = [rng.exponential(size=(n, DIM)) * rng.exponential(size=(n, 1)) for _ in range(BATCH)]
    for x, out in zip(matrices, apply(case, n, f, matrices)):
        distance = np.linalg.norm(out - x.mean(axis=0))
        assert distance**2 <= case.proved("epsilon", n, f) * oracles.variance(x) * (1 + 1e-5)


@pytest.mark.parametrize("f", [1, 2, 3])
def test_constants_are_attained(f):
    """The bounds at n = 2f + 1: f + 1 honest values, f are 0 and one is 1; attackers send 2."""
    n = 2 * f + 1
    good = np.array([0.0] * f + [1.0])[:, None]
    mean, variance = good.mean(), oracles.variance(good)
    above = jnp.asarray(np.concatenate([np.full((f, 1), 2.0), good]), jnp.float32)
    for out, kappa in (
        (byzjax.median(above), theory.proved("kappa", "median", n, f)),
        (byzjax.trimmed_mean(above, f=f), theory.proved("kappa", "trimmed_mean", n, f)),
        (
            byzjax.aksel(above, f=f, mode="n-f"),
            theory.proved("kappa", "aksel", n, f, mode="n-f"),
        ),
    ):
        np.testing.assert_allclose((out[0] - mean) ** 2, kappa * variance, rtol=1e-5)


@over_cases(lambda case: case.rule in (byzjax.aksel, byzjax.krum))
def test_too_many_bad_rows_do_not_look_healthy(case):
    """With too few rows at finite distances, a rule that selects rows returns only NaN."""
    n = 12
    whole, one_coordinate, overflowing = np.ones((3, n, DIM))
    whole[: n - 2] = np.nan
    one_coordinate[: n - 2, 0] = np.nan
    overflowing[: n - 2] = 1e30 * (-1.0) ** np.arange(n - 2)[:, None]
    out = apply(case, n, case.most(n), [whole, one_coordinate, overflowing])
    assert np.isnan(out).all()


# --- derivatives ---------------------------------------------------------------------------------


@over_sizes(3, 4, 5, 6, 12, slow=12)
def test_derivatives_equal_finite_differences(case, n, f):
    rng = np.random.default_rng(20)
    count, step, eps = 6, 1e-6, 2e-6 if X64 else case.slope_eps
    x = [np.asarray(rng.normal(size=(n, DIM)), np.float32) for _ in range(count)]
    dx, dy = rng.normal(size=(count, n, DIM)), rng.normal(size=(count, DIM))
    forward, backward = derivatives(case, n, f, x, dx, dy)
    for i in range(count):
        wide = x[i].astype(np.float64)
        ahead = case.expected(wide + step * dx[i], f)
        behind = case.expected(wide - step * dx[i], f)
        close(forward[i], (ahead - behind) / (2 * step), eps=eps)
        close(np.sum(backward[i] * dx[i]), forward[i] @ dy[i], eps=eps)


@over_sizes(3, 4, 5, 6, 12, slow=12)
def test_derivatives_where_rows_coincide(case, n, f):
    rng = np.random.default_rng(21)
    row = grid(rng, 1)
    some = np.concatenate([np.repeat(row, n - n // 3, axis=0), grid(rng, n // 3)])
    matrices = [np.repeat(row, n, axis=0), np.zeros((n, DIM)), some, some[::-1]]
    ones = np.ones((len(matrices), n, DIM))
    forward, backward = derivatives(case, n, f, matrices, ones, np.ones((len(matrices), DIM)))
    assert np.isfinite(forward).all()
    assert np.isfinite(backward).all()
    if case.facts.shifts:  # all inputs move by 1
        close(forward, 1)
        close(backward.sum(axis=1), 1)


@over_sizes(3, 4, 5, 6, 12, least_f=1, slow=12)
def test_derivatives_with_bad_rows(case, n, f):
    rng = np.random.default_rng(22)
    matrices = attacked(rng, n, f, trusted=case.trusted)
    x = np.stack([m for m, bad in matrices if case.withstands(bad, f)]).astype(np.float32)
    assert not np.isfinite(x).all()
    dx, dy = rng.normal(size=x.shape), rng.normal(size=(len(x), DIM))
    forward, backward = derivatives(case, n, f, x, dx, dy)
    assert np.isfinite(forward).all()
    assert np.isfinite(backward).all()
    if promises(case):
        assert (backward[~np.isfinite(x)] == 0).all()
    unique = np.isfinite(x).all(axis=2).sum(axis=1) >= case.unique_from
    x, dx, dy, forward, backward = (a[unique] for a in (x, dx, dy, forward, backward))
    close(np.sum(backward * dx, axis=(1, 2)), np.sum(forward * dy, axis=1), 8, eps=1e-5)
    if promises(case):
        # The replacement rows do not matter: the loop's differences give the derivative.
        step = 1e-6
        for i in np.flatnonzero(~np.isfinite(x).all(axis=(1, 2))):
            wide = x[i].astype(np.float64)
            ahead = case.expected(wide + step * dx[i], f)
            behind = case.expected(wide - step * dx[i], f)
            exact = (ahead - behind) / (2 * step)
            finite = [column[np.isfinite(column)] for column in x[i].T]
            untied = np.array([len(np.unique(column)) == len(column) for column in finite])
            np.testing.assert_allclose(forward[i][untied], exact[untied], rtol=2e-5, atol=2e-5)
