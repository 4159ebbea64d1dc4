"""How many of the drawn workers are Byzantine, and the page on client sampling."""

import functools
import itertools
import math
import pathlib
import re
from fractions import Fraction

import jax
import numpy as np
import pytest
from scipy import stats

import byzjax


def tail(n, f, drawn, k):
    """P(X > k) by counting all sets of workers."""
    sets = list(itertools.combinations(range(n), drawn))
    return Fraction(sum(sum(i < f for i in one) > k for one in sets), len(sets))


def least(n, f, drawn, failure, rounds):
    return next(k for k in range(n + 1) if rounds * tail(n, f, drawn, k) <= Fraction(failure))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_it_is_the_least_of_all_sets(n):
    for f, drawn in itertools.product(range(n + 1), range(1, n + 1)):
        for failure, rounds in ((0.5, 1), (0.125, 2), (0.01, 1), (0.3, 7), (1e-9, 1)):
            expected = least(n, f, drawn, failure, rounds)
            assert byzjax.faults_among(n, f, drawn, failure, rounds=rounds) == expected


def test_a_probability_that_is_met_exactly_is_accepted():
    """Of 8 workers, 1 Byzantine, 1 is drawn: P(X > 0) = 1 / 8, a float."""
    assert byzjax.faults_among(8, 1, 1, 0.125) == 0
    assert byzjax.faults_among(8, 1, 1, math.nextafter(0.125, 0)) == 1
    assert byzjax.faults_among(8, 1, 1, 0.25, rounds=2) == 0
    assert byzjax.faults_among(8, 1, 1, 0.25, rounds=3) == 1


@pytest.mark.parametrize("n", [100, 1000, 30_000])
@pytest.mark.parametrize("rounds", [1, 10_000])
def test_it_agrees_with_scipy(n, rounds):
    for share, drawn in itertools.product((0.01, 0.1, 0.3, 0.9), (1, 10, 50, n // 4, n)):
        f = int(share * n)
        k = byzjax.faults_among(n, f, drawn, rounds=rounds)
        beyond = functools.partial(stats.hypergeom.sf, M=n, n=f, N=drawn)
        assert rounds * beyond(k) <= 1e-6 * (1 + 1e-9)
        least_possible = k == max(0, f + drawn - n)
        assert least_possible or rounds * beyond(k - 1) > 1e-6 * (1 - 1e-9)


def test_it_holds_in_simulated_rounds():
    """Draws as those of the parameter server: the union bound and the exact probability."""
    n, f, drawn, failure, rounds = 30, 9, 10, 0.2, 20
    k = byzjax.faults_among(n, f, drawn, failure, rounds=rounds)
    keys = jax.random.split(jax.random.key(0), 400 * rounds)
    first = jax.jit(jax.vmap(lambda key: jax.random.permutation(key, n)[:drawn]))(keys)
    counts = np.sum(np.asarray(first) < f, axis=1).reshape(400, rounds)
    for limit, holds in ((k, True), (k - 1, False)):
        failed = np.mean((counts > limit).any(axis=1))
        assert (failed <= failure) == holds
        exact = 1 - (1 - stats.hypergeom.sf(limit, n, f, drawn)) ** rounds
        assert failed == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 400))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((10, 11, 5), ValueError, r"^f must be at most n; got f=11, n=10\.$"),
        ((10, 2, 11), ValueError, r"^drawn must be at most n; got drawn=11, n=10\.$"),
        ((10, 2, 0), ValueError, r"^drawn must be at least 1; got drawn=0\.$"),
        ((10, -1, 5), ValueError, r"^f must be at least 0; got f=-1\.$"),
        ((10, 2, 5, 0.0), ValueError, r"^failure is a probability between 0 and 1; got failure=0"),
        ((10, 2, 5, 1), ValueError, r"^failure is a probability between 0 and 1; got failure=1\."),
        ((10, 2, 5, math.nan), ValueError, r"^failure is a probability between 0 and 1; got fail"),
        ((10, 2.5, 5), TypeError, r"^f must be a Python int"),
    ],
)
def test_errors_of_faults_among(arguments, error, message):
    with pytest.raises(error, match=message):
        byzjax.faults_among(*arguments)
    with pytest.raises(ValueError, match=r"^rounds must be at least 1; got rounds=0\.$"):
        byzjax.faults_among(10, 2, 5, rounds=0)


# --- the page ------------------------------------------------------------------------------------

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "sampling.md").read_text()


@pytest.mark.slow
def test_the_page_runs_and_prints_what_it_says(capsys):
    names = {"__name__": "page"}
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        exec(code, names)
    said = re.findall(r"^print\(.*\)  # (.*)$", PAGE, re.MULTILINE)
    assert len(said) == 4
    assert capsys.readouterr().out.splitlines() == said


def test_the_table_of_the_page():
    n, f = 1000, 100
    table = re.search(r"<!-- faults among -->(.*?)<!-- end", PAGE, re.DOTALL)[1]
    _, _, *lines = table.strip().splitlines()
    assert len(lines) == 5
    for line in lines:
        q, mean, one, many, majority, lost = (cell.strip() for cell in line.strip("|").split("|"))
        q = int(q)
        assert int(mean) * n == q * f
        assert int(one) == byzjax.faults_among(n, f, q)
        assert int(many) == byzjax.faults_among(n, f, q, rounds=10_000)
        assert [q > 2 * int(k) for k in (one, many)] == [majority == "yes"] * 2
        assert lost == f"{stats.hypergeom.sf((q - 1) // 2, n, f, q):.1e}"
    for needs, least in ((1, 37), (3, 41)):
        fits = [
            q for q in range(1, 60) if q >= 2 * byzjax.faults_among(n, f, q, rounds=10_000) + needs
        ]
        assert fits[0] == least
        assert f"  # {least}\n" in PAGE
