"""The page from the paper's references to code: its table leads somewhere, its proofs hold."""

import itertools
import math
import pathlib
import re

import numpy as np
import pytest

import byzjax
from byzjax import attacks, protocols, theory
from tests import oracles

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "references.md").read_text()
NUMBERS = range(1, 32)
UNKNOWN = {1, 16, 25, 27}


def rows():
    """(numbers, cells) of each row of the table."""
    for line in re.findall(r"^\| (\d[\d, ]*) \|(.*)\|$", PAGE, re.MULTILINE):
        yield [int(k) for k in line[0].split(",")], [c.strip() for c in line[1].split("|")]


@pytest.mark.smoke
def test_every_reference_has_a_row_and_every_row_its_files():
    numbers = [k for ks, _ in rows() for k in ks]
    assert numbers == list(NUMBERS)
    for ks, (name, what, code, test) in rows():
        if set(ks) <= UNKNOWN:
            assert (name, what, code, test) == ("not identified", "", "", "")
            continue
        for cell, folder in ((code, None), (test, "tests")):
            paths = re.findall(r"\]\(\.\./([^)]+)\)", cell)
            assert paths, ks
            for path in paths:
                assert (ROOT / path).is_file(), path
                assert folder is None or path.startswith(folder), path


def test_names_of_the_table_exist_in_its_files():
    for ks, (_, what, code, _) in rows():
        paths = re.findall(r"\]\(\.\./([^)]+)\)", code)
        text = "".join((ROOT / path).read_text() for path in paths)
        for word in re.findall(r"`([a-z_.]+)`", what):
            place = {"attacks": attacks, "protocols": protocols, "theory": theory}
            package, _, name = word.rpartition(".")
            if package or hasattr(byzjax, name):
                assert hasattr(place.get(package, byzjax), name), (ks, word)
                assert f"def {name}(" in text, word
            else:
                assert re.search(rf"^    {name}: ", text, re.MULTILINE), (ks, word)


def test_numbers_of_the_page():
    ends = np.linspace(-10, 10, 20_001)
    middles = (ends[1:] + ends[:-1]) / 2
    exact, limit = {}, {}
    for m in (26, 201):
        below = np.array([theory.largest_probability(float(v), n=m) for v in ends])
        exact[m] = math.sqrt(float(np.sum(middles**2 * np.diff(below))))
        law = theory.largest_of(m)
        limit[m] = math.sqrt(law.mean**2 + law.variance)
    more = {m: 100 * (limit[m] / exact[m] - 1) for m in exact}
    text = " ".join(PAGE.split())
    assert f"root of its second moment: {exact[26]:.3f} at n = 51." in text
    assert f"gives {limit[26]:.3f}, {more[26]:.0f} % more" in text
    assert f"at n = 401 the difference is {more[201]:.1f} %" in text
    kappa = theory.proved("kappa", "biweight_mean", 25, 5)
    assert f"with c = 6: {kappa:.0f} at (25, 5)" in PAGE


def test_the_code_of_the_page_prints_what_it_says(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    exec(block, {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print.*  # (.*)$", block, re.M)


# --- the minimum covariance determinant ----------------------------------------------------------


def best_subset(x, m, score):
    """The first subset of m rows with the least score, and the scores of all."""
    subsets = list(itertools.combinations(range(len(x)), m))
    scores = np.array([score(x[list(subset)]) for subset in subsets])
    return set(subsets[int(np.argmin(scores))]), scores


def eigenvalues(rows):
    """Those of the covariance, from the singular values of the centred rows, the largest first."""
    return np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2 / len(rows)


def test_in_the_span_of_the_rows_every_determinant_is_0():
    n, f, d = 8, 2, 20
    x = np.random.default_rng(0).normal(size=(n, d))
    basis = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][: n - 1]
    coordinates = (x - x.mean(axis=0)) @ basis.T  # [n, n - 1], of full rank
    assert np.linalg.matrix_rank(coordinates) == n - 1
    for subset in itertools.combinations(range(n), n - f):
        away = coordinates[list(subset)] - coordinates[list(subset)].mean(axis=0)
        assert np.linalg.matrix_rank(away) == n - f - 1


@pytest.mark.parametrize("far", [1e2, 1e4])
def test_one_attacker_breaks_the_volume_of_the_simplex(far):
    """The product of the n - f - 1 eigenvalues that are not 0 in general."""
    n, f, d = 7, 2, 12
    m = n - f
    x = np.random.default_rng(1).normal(size=(n, d))
    u = x[1] - x[0]
    x[-1] = x[: m - 1].mean(axis=0) + far * u / np.linalg.norm(u)
    chosen, volumes = best_subset(x, m, lambda rows: np.prod(eigenvalues(rows)[: m - 1]))
    assert chosen == {*range(m - 1), n - 1}
    assert np.sort(volumes)[0] < 1e-6 * np.sort(volumes)[1]
    moved = np.linalg.norm(x[list(chosen)].mean(axis=0) - x[: m - 1].mean(axis=0))
    assert moved == pytest.approx(far / m)
    held = oracles.minimum_eigenvalue(x, f)  # which takes its place
    assert np.linalg.norm(held - x[:-1].mean(axis=0)) < 3


def test_two_equal_rows_make_every_simplex_flat():
    n, f, d = 7, 2, 12
    x = np.random.default_rng(2).normal(size=(n, d))
    x[-2:] = 1e3
    chosen, _ = best_subset(x, n - f, lambda rows: np.prod(eigenvalues(rows)[: n - f - 1]))
    assert {n - 2, n - 1} <= chosen


@pytest.mark.parametrize(("beyond", "taken"), [(0.98, True), (1.02, False)])
def test_with_a_ridge_attackers_are_exponentially_far(beyond, taken):
    n, f, ridge = 11, 4, 0.1
    m = n - f
    x = np.zeros((n, m + 1))
    x[:m, :m] = np.eye(m)  # a regular simplex
    values = eigenvalues(x[:m])[: m - 1]
    np.testing.assert_allclose(values, values[0])
    square = ridge * m**2 / (f * (n - 2 * f)) * ((1 + values[0] / ridge) ** f - 1)
    x[m:, :m] = x[: n - 2 * f, :m].mean(axis=0)
    x[m:, m] = math.sqrt(beyond * square)
    with_them = [*range(n - 2 * f), *range(m, n)]

    def score(rows):
        return np.sum(np.log1p(eigenvalues(rows) / ridge))

    assert (score(x[with_them]) < score(x[:m])) == taken
    chosen, _ = best_subset(x, m, score)
    assert not taken or chosen != set(range(m))
