"""The searches for the best subset: hard graphs, ties, and what must not be searched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax.rules import subsets
from tests import oracles

least_diameter = jax.jit(subsets._least_diameter, static_argnums=1)


def selected(distances, f):
    rows, diameter = least_diameter(jnp.asarray(distances, jnp.float32), f)
    return np.flatnonzero(rows).tolist(), float(diameter)


def from_edges(edges):
    """Distances 2 along the edges of a graph and 1 elsewhere."""
    distances = 1.0 + np.asarray(edges)
    np.fill_diagonal(distances, 0)
    return distances


@pytest.mark.parametrize("size", [3, 4, 5])
def test_cliques(size):
    """Of each clique of far rows all but one have to go; then the diameter is 1, else 2."""
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


@pytest.mark.parametrize("name", ["minimum_diameter", "minimum_eigenvalue"])
def test_many_ties(name):
    """Few different distances, among points on a small grid: the first subset counts."""
    x = np.random.default_rng(4).integers(0, 3, (24, 11, 2)).astype(np.float32)
    for f in (2, 5):
        rule = jax.jit(jax.vmap(lambda x, f=f: getattr(byzjax, name)(x, f=f)))
        for one, out in zip(x, rule(x)):
            expected = getattr(oracles, name)(one, f)
            np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_thirty_rows():
    """Twenty within a ball of radius 1, ten liars who are near each other, beyond it."""
    rng = np.random.default_rng(0)
    good = rng.normal(size=(20, 50))
    good /= np.linalg.norm(good, axis=1, keepdims=True)
    x = np.concatenate([np.full((10, 50), 0.25), good])
    out = jax.jit(lambda x: byzjax.minimum_diameter(x, f=10))(jnp.asarray(x, jnp.float32))
    rows, diameter = selected(((x[:, None] - x[None]) ** 2).sum(-1), 10)
    np.testing.assert_allclose(out, x[rows].mean(axis=0), atol=1e-6)
    assert diameter <= 4.0


@pytest.mark.parametrize("far", [1e3, 1e9, 1e15])
def test_scales_of_the_least_eigenvalue(far):
    """Rows that are far away do not blur the differences between the others."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(9, 6)).astype(np.float32)
    x[:2] *= far
    out = byzjax.minimum_eigenvalue(jnp.asarray(x), f=3)
    np.testing.assert_allclose(out, oracles.minimum_eigenvalue(x, 3), rtol=1e-5, atol=1e-6)
    small = byzjax.minimum_eigenvalue(jnp.asarray(x[2:] * 1e-12), f=3)
    np.testing.assert_allclose(1e12 * small, oracles.minimum_eigenvalue(x[2:], 3), rtol=1e-5)


def test_bounds_are_below_the_eigenvalues():
    rng = np.random.default_rng(2)
    for x in (rng.normal(size=(12, 200)), rng.normal(size=(12, 2)), np.eye(12, 40)):
        gram = jnp.asarray(x @ x.T, jnp.float32)
        left_out = jnp.asarray([(i, j, k) for i in range(12) for j in range(i) for k in range(j)])
        left_out = jnp.sort(left_out, axis=1).astype(jnp.int32)
        bounds = subsets._lower_bounds(gram, jnp.zeros(12, bool), left_out)
        values = subsets._eigenvalues(gram, subsets._rows_in(left_out, 12))
        assert (bounds <= values * (1 + 1e-5)).all()
        assert (bounds >= 0.5 * values).all()
