"""The contract at shapes that take each path, computed from the thresholds themselves.

A new threshold needs shapes below it, at it and above it.
"""

import ast
import functools
import itertools
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import stacked
from byzjax._numerics import thresholds
from tests import branches
from tests.helpers import close
from tests.rule_cases import CASES, Case

# name -> (n, d) of one leaf
PATHS = {
    **{
        f"by_products-{n}-{d}": (n, d)
        for rows, columns in thresholds.PRODUCTS
        for n, d in ((rows, columns), (rows + 1, columns + 1), (rows - 1, columns))
    },
    **{f"rows-{n}": (n, 70) for n in (thresholds.UNROLLED_ROWS, thresholds.UNROLLED_ROWS + 1)},
    **{f"network-{n}": (n, 40) for n in (thresholds.NETWORK_MAX, thresholds.NETWORK_MAX + 1)},
    **{
        f"in_order-{n}": (n, 40)
        for n in (thresholds.NEAREST_NETWORK_MAX, thresholds.NEAREST_NETWORK_MAX + 1)
    },
    **{f"columns-{d}": (9, d) for d in (thresholds.BLOCKED - 1, thresholds.BLOCKED + 1)},
    **{f"slabs-{d}": (7, d) for d in (thresholds.SLABS - 1, thresholds.SLABS + 1)},
    **{f"own_leaf-{d}": (9, d) for d in (thresholds.OWN_LEAF, thresholds.ALWAYS_OWN_LEAF)},
    **{f"squaring-{n}": (n, 30) for n in (thresholds.SQUARED - 1, thresholds.SQUARED)},
}
# Values that Byzantine workers send, finite and not.
LIES = (1e20, -3e38, np.inf, np.nan, 1e4)


def honest(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def placements(n, f, rng):
    """First, last, scattered, at the centre, and random places."""
    yield np.arange(f)
    yield np.arange(n - f, n)
    yield np.linspace(0, n - 1, f).astype(int)
    five = np.unique([i * (n - 1) // 4 for i in range(5)])
    for three in itertools.combinations(five, min(3, f, len(five))):
        rest = np.setdiff1d(np.arange(n), three)
        yield np.concatenate([three, rng.permutation(rest)[: f - len(three)]]).astype(int)
    yield rng.permutation(n)[:f]


@functools.cache
def distances(n, d):
    return jax.jit(stacked.pairwise_squared_distances)


@functools.cache
def distances_of_many(n, d):
    return jax.jit(jax.vmap(stacked.pairwise_squared_distances))


def exact(x):
    """Squared distances in float64, +inf where float32 overflows."""
    x = x.astype(np.float64)
    with np.errstate(all="ignore"):
        out = np.array([((x - row) ** 2).sum(axis=1) for row in x])
    out[~np.isfinite(out) | (out > np.finfo(np.float32).max)] = np.inf
    np.fill_diagonal(out, 0)
    return out


def check_distances(x, where):
    n, d = x.shape
    got = np.asarray(distances(n, d)(x), np.float64)
    expected = exact(x)
    finite = np.isfinite(expected) & (expected < 1e38)
    np.testing.assert_allclose(got[finite], expected[finite], rtol=2e-4, err_msg=where)
    assert np.isinf(got[np.isinf(expected)]).all(), where


QUICK = [f"by_products-{n}-{d}" for n, d in thresholds.PRODUCTS]


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=[pytest.mark.slow] * (p not in QUICK)) for p in PATHS]
)
def test_distances_whatever_liars_at_chosen_places_send(path):
    n, d = PATHS[path]
    rng, f = np.random.default_rng(1), min((n - 3) // 2, 12)
    base = honest(n, d)
    check_distances(base, path)
    for k, places in enumerate(placements(n, f, rng)):
        x, lie = base.copy(), LIES[k % len(LIES)]
        x[places] = lie
        if k % 2:  # not all equal, and some in one coordinate only
            x[places[: f // 2]] = base[places[: f // 2]]
            x[places[: f // 2], rng.integers(d)] = lie
        check_distances(x, f"{path}, {lie} at {places}")
    if n * d < 2**21:
        many = np.stack([base, x])
        mapped = np.asarray(distances_of_many(n, d)(many))
        once = np.stack([distances(n, d)(each) for each in many])
        close(np.where(np.isinf(mapped), -1, mapped), np.where(np.isinf(once), -1, once), eps=2e-4)


# Rules whose oracles hold a matrix [d, d] or loop over coordinates. They are equivariant under
# permutations of the axes, so only some columns of a wide matrix need to differ from 0.
EMBEDDED = {
    *["minimum_eigenvalue", "covariance_filter", "geometric_median", "geometric_median_of_means"],
    *["huber", "bulyan", "rfa", "flag", "flag-3", "minimum_diameter"],
}
# Other rules, whose oracles handle wide matrices.
WIDE = {
    *["mean", "median", "trimmed_mean", "mean_around_median", "phocas", "majority_sign", "krum"],
    *["aksel-mid", "multi_krum", "medoid", "nearest_to_pivot", "comparative_elimination"],
}
FEW = 12  # columns that differ from 0
SEARCHES = {"minimum_diameter", "minimum_eigenvalue", "bulyan"}  # slow oracles
# Rules that may use products of rows: tested on either side of these thresholds, not only at them.
OF_PRODUCTS = {"krum", "bulyan", "medoid", "minimum_diameter", "geometric_median", "flag"}
# Rules with a window of the values nearest to a centre, which alone has the threshold `in_order`.
WINDOWS = {"mean_around_median", "phocas", "geometric_median"}


def tried(case: Case, path: str) -> bool:
    n, d = PATHS[path]
    if case.variant or (d > 2**15 and case.id not in EMBEDDED | WIDE):
        return False
    if path.startswith(("slabs", "own_leaf")):  # of distances, which are tested above
        return False
    if path.startswith("by_products") and path != QUICK[0] and case.id not in OF_PRODUCTS:
        return False
    if path.startswith("in_order") and case.id not in WINDOWS:
        return False
    if case.id.endswith("-weights") and not path.startswith(("rows", "columns")):
        return False  # the order statistics of weighted rows have these two alone
    return case.id not in SEARCHES or case.least(1) <= n <= case.most_n


def example(case: Case, path: str) -> tuple[int, np.ndarray, np.ndarray]:
    """(f, rows with f Byzantine ones as far as the rule's promise allows, the expected result)."""
    n, d = PATHS[path]
    f = max(1, min(case.most(n) // 2, 9))
    assert case.least(f) <= n
    # Among many close eigenvalues rounding decides which is the largest, so `covariance_filter`
    # also gets few nonzero columns.
    narrow = case.id in EMBEDDED and (d > 2**10 or case.id == "covariance_filter")
    small = honest(n, FEW if narrow else d)
    if case.facts.promise != "none":
        small[-f:] = 1e3
    x, expected = small, case.expected(small, f)
    if narrow:
        places = np.linspace(0, d - 1, FEW).astype(int)
        x, of_few, expected = np.zeros((n, d), np.float32), expected, np.zeros(d)
        x[:, places], expected[places] = small, of_few
    return f, x, expected


def check(case: Case, f: int, x: np.ndarray, expected: np.ndarray, actual: jax.Array) -> None:
    close(actual, expected, np.abs(x[:-f]).max(), 20 * case.eps)


OVER_RULES = [
    pytest.param(case, path, id=f"{case.id}-{path}", marks=pytest.mark.xdist_group(case.id))
    for case in CASES
    for path in PATHS
    if tried(case, path)
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "path"), OVER_RULES)
def test_rules_equal_their_loops_on_every_path(case, path):
    f, x, expected = example(case, path)
    check(case, f, x, expected, case(jnp.asarray(x), f))


@pytest.mark.slow
def test_random_cases():
    """Random values at random places: no honest distance is wrong on any path."""
    rng, count = np.random.default_rng(5), 0
    small = [(64, 300), (65, 300), (97, 60), (130, 60)]
    wide = [(40, 2**11), (41, 2**11 + 3), (39, 2**11)]
    large = [(8, 2**17), (9, 2**17 + 1)]
    counts = [*((s, 4500) for s in small), *((s, 700) for s in wide), *((s, 60) for s in large)]
    for (n, d), times in counts:
        base = honest(n, d, n)
        expected = exact(base)
        run, done = distances(n, d), 0
        while done < times:
            f = int(rng.integers(1, (n - 1) // 2 + 1))
            places = rng.permutation(n)[:f]
            x = base.copy()
            scale = 10.0 ** rng.uniform(-3, 38)
            kind = rng.integers(5)
            if kind == 0:
                x[places] = np.float32(scale)
            elif kind == 1:
                x[places] = rng.normal(size=(f, 1)).astype(np.float32) * np.float32(scale)
            elif kind == 2:
                x[places[0]] = rng.choice([np.nan, np.inf, -np.inf])
                x[places[1:]] = np.float32(scale)
            elif kind == 3:
                x[places, rng.integers(d)] = np.float32(scale)
            else:
                x[places] = base[places[0]] + np.float32(scale)
            good = np.setdiff1d(np.arange(n), places)
            got = np.asarray(run(x), np.float64)[np.ix_(good, good)]
            np.testing.assert_allclose(got, expected[np.ix_(good, good)], rtol=2e-4)
            done += 1
        count += done
    print(f"{count:,} drawn cases, none broken")
    assert count >= 20_000


@pytest.mark.slow
def test_every_branch_of_the_library_is_taken_by_a_case_of_the_contract():
    """Thresholds, conditionals and the forms of other platforms; see `tests/branches.py`."""
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, "-m", "tests.branches"]
    done = subprocess.run(command, cwd=root, timeout=600, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    places, sides = re.match(r"(\d+) places with (\d+) branches", done.stdout).groups()
    print(done.stdout)
    assert int(places) > 50
    assert int(sides) > 100


def test_a_branch_that_no_case_takes_is_reported():
    source = "def g(n, x):\n    if n < BLOCKED:\n        return lax.cond(x > 0, abs, abs, x)"
    tree = ast.fix_missing_locations(branches.Marked("toy.py").visit(ast.parse(source)))
    scope = {"BLOCKED": 9, "lax": jax.lax, "_marked_value": branches._marked_value}
    try:
        exec(compile(tree, "toy.py", "exec"), scope)
        scope["g"](20, 1.0)
        assert [side for _, side in branches.missing()] == [True, False, True]
        scope["g"](3, jnp.asarray(1.0))
        assert [(site[1], side) for site, side in branches.missing()] == [(3, False)]
    finally:
        branches.sides.clear()
        branches.taken.clear()


# --- regressions ---------------------------------------------------------------------------------


def test_three_attackers_at_the_centre_break_no_rule():
    x = honest(9, thresholds.PRODUCTS[-1][1])
    x[[0, 2, 4]] = 1e20
    good = np.delete(x, [0, 2, 4], axis=0)
    for rule in (byzjax.krum, byzjax.minimum_diameter):
        out = np.asarray(rule(x, f=3))
        assert np.abs(out).max() <= np.abs(good).max()
    assert np.abs(np.asarray(byzjax.medoid(x))).max() <= np.abs(good).max()
    mixed = np.asarray(byzjax.nearest_neighbors(x, f=3))
    assert np.abs(mixed[[1, 3, 5, 6, 7, 8]]).max() <= np.abs(good).max()
    many = honest(11, thresholds.PRODUCTS[-1][1])
    many[[0, 2, 5]] = 1e20  # the centre is the median of the rows 0, 2, 5, 7 and 10
    assert np.abs(np.asarray(byzjax.bulyan(many, f=2))).max() < 1e19
