"""The searches for the best subset: hard graphs, ties, and cases without a search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax.solvers import least_eigenvalue
from byzjax.solvers.least_diameter import least_diameter as search
from tests import oracles
from tests.helpers import compiled

SLOW = pytest.mark.slow

least_diameter = jax.jit(search, static_argnums=1)


def selected(distances, f):
    rows, diameter = least_diameter(np.asarray(distances, np.float32), f)
    return np.flatnonzero(rows).tolist(), float(diameter)


def from_edges(edges):
    """Distances 2 along the edges of a graph and 1 elsewhere."""
    distances = 1.0 + np.asarray(edges)
    np.fill_diagonal(distances, 0)
    return distances


# Rows in cliques of three have two neighbours; they are removed without a search.
@pytest.mark.parametrize("size", [3, 4, pytest.param(5, marks=SLOW)])
def test_cliques(size):
    """All but one row of each clique of far rows must go for the diameter to be 1, not 2."""
    count = 6
    f = count * (size - 1)
    alone = max(0, 2 * f + 1 - count * size)
    edges = np.kron(np.eye(count), 1 - np.eye(size))
    edges = np.pad(edges, (0, alone))
    firsts = [k * size for k in range(count)]
    rest = list(range(count * size, count * size + alone))
    assert selected(from_edges(edges), f) == (firsts + rest, 1.0)
    n = len(edges)
    assert selected(from_edges(edges), f - 1) == (list(range(n - f + 1)), 2.0)


def test_petersen_graph():
    """Its least vertex cover has 6 of 10 vertices."""
    edges = np.zeros((13, 13))
    for i in range(5):
        for a, b in ((i, (i + 1) % 5), (i, i + 5), (i + 5, 5 + (i + 2) % 5)):
            edges[a, b] = edges[b, a] = 1
    rows, diameter = selected(from_edges(edges), 6)
    assert (rows, diameter) == ([0, 2, 8, 9, 10, 11, 12], 1.0)
    assert selected(from_edges(edges[:12, :12]), 5)[1] == 2.0


@pytest.mark.parametrize("f", [pytest.param(2, marks=SLOW), 5])
@pytest.mark.parametrize("name", ["minimum_diameter", "minimum_eigenvalue"])
def test_many_ties(name, f):
    """Few distinct distances, among points on a small grid: the first subset counts."""
    x = np.random.default_rng(4).integers(0, 3, (24, 11, 2)).astype(np.float32)
    outs = jax.jit(jax.vmap(lambda x: getattr(byzjax, name)(x, f=f)))(x)
    for one, out in zip(x, np.asarray(outs)):
        expected = getattr(oracles, name)(one, f)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_thirty_rows():
    """Twenty rows in a ball of radius 1, and ten Byzantine rows close together outside it."""
    rng = np.random.default_rng(0)
    good = rng.normal(size=(20, 50))
    good /= np.linalg.norm(good, axis=1, keepdims=True)
    x = np.concatenate([np.full((10, 50), 0.25), good])
    out = compiled(byzjax.minimum_diameter, f=10)(x.astype(np.float32))
    rows, diameter = selected(((x[:, None] - x[None]) ** 2).sum(-1), 10)
    np.testing.assert_allclose(out, x[rows].mean(axis=0), atol=1e-6)
    assert diameter <= 4.0


@pytest.mark.parametrize("far", [1e3, 1e9, 1e15])
def test_scales_of_the_least_eigenvalue(far):
    """Far rows do not lose the digits of differences between the others."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(9, 6)).astype(np.float32)
    x[:2] *= far
    rule = compiled(byzjax.minimum_eigenvalue, f=3)
    out = rule(x)
    np.testing.assert_allclose(out, oracles.minimum_eigenvalue(x, 3), rtol=1e-5, atol=1e-6)
    small = np.asarray(rule(x[2:] * np.float32(1e-12)))
    np.testing.assert_allclose(1e12 * small, oracles.minimum_eigenvalue(x[2:], 3), rtol=1e-5)


@jax.jit
def bounds_and_values(gram, left_out):
    bounds = least_eigenvalue._lower_bounds(gram, jnp.zeros(12, bool), left_out)
    return bounds, least_eigenvalue._eigenvalues(gram, least_eigenvalue._rows_in(left_out, 12))


def test_bounds_are_below_the_eigenvalues():
    rng = np.random.default_rng(2)
    left_out = [(k, j, i) for i in range(12) for j in range(i) for k in range(j)]
    left_out = np.array(left_out, np.int32)
    for x in (rng.normal(size=(12, 200)), rng.normal(size=(12, 2)), np.eye(12, 40)):
        outs = bounds_and_values((x @ x.T).astype(np.float32), left_out)
        bounds, values = (np.asarray(part) for part in outs)
        assert (bounds <= values * (1 + 1e-5)).all(), x.shape
        assert (bounds >= 0.5 * values).all(), x.shape
