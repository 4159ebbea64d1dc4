"""Graphs against known properties: degrees, diameters, spanning trees, spectra."""

import collections
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from byzjax.protocols import graphs


def matrix(graph):
    return np.array(graph, dtype=int)


def diameter(graph):
    """The largest distance, by powers of the matrix."""
    a, steps = matrix(graph) + np.eye(len(graph), dtype=int), 0
    reach = np.eye(len(graph), dtype=int)
    while not reach.all():
        reach, steps = np.minimum(reach @ a, 1), steps + 1
    return steps


def spanning_trees(graph):
    """Kirchhoff: a minor of the Laplacian."""
    a = matrix(graph)
    return round(np.linalg.det((np.diag(a.sum(axis=1)) - a)[1:, 1:]))


# graph, nodes, edges, number of nodes of each degree, diameter, spanning trees if a formula is
# known: Cayley's n^(n-2) for a clique, and products of these over bridges.
KNOWN = [
    (graphs.complete(1), 1, 0, {0: 1}, 0, None),
    (graphs.complete(5), 5, 10, {4: 5}, 1, 5**3),
    (graphs.ring(3), 3, 3, {2: 3}, 1, 3),
    (graphs.ring(8), 8, 8, {2: 8}, 4, 8),
    (graphs.ring(9), 9, 9, {2: 9}, 4, 9),
    (graphs.torus(3, 3), 9, 18, {4: 9}, 2, 11664),
    (graphs.torus(3, 5), 15, 30, {4: 15}, 3, None),
    (graphs.torus(4, 6), 24, 48, {4: 24}, 5, None),
    (graphs.star(2), 2, 1, {1: 2}, 1, 1),
    (graphs.star(7), 7, 6, {6: 1, 1: 6}, 2, 1),
    (graphs.random_regular(10, 9, seed=0), 10, 45, {9: 10}, 1, 10**8),
    (graphs.random_regular(20, 3, seed=1), 20, 30, {3: 20}, None, None),
    (graphs.random_regular(21, 6, seed=2), 21, 63, {6: 21}, None, None),
    (graphs.small_world(12, 4, 0.0, seed=0), 12, 24, {4: 12}, 3, None),
    (graphs.two_cliques(8), 8, 13, {3: 6, 4: 2}, 3, 4**2 * 4**2),
    (graphs.two_cliques(9), 9, 17, {3: 3, 4: 5, 5: 1}, 3, 4**2 * 5**3),
    (graphs.two_cliques(8, bridges=4), 8, 16, {4: 8}, 2, None),
    (graphs.dumbbell(4, 0), 8, 13, {3: 6, 4: 2}, 3, 4**2 * 4**2),
    (graphs.dumbbell(4, 3), 11, 16, {3: 6, 4: 2, 2: 3}, 6, 4**2 * 4**2),
]


@pytest.mark.parametrize(("graph", "n", "edges", "degrees", "far", "trees"), KNOWN)
def test_known_graphs(graph, n, edges, degrees, far, trees):
    a = matrix(graph)
    assert a.shape == (n, n)
    assert a.sum() == 2 * edges
    assert collections.Counter(a.sum(axis=1).tolist()) == degrees
    assert (a == a.T).all()
    assert not a.diagonal().any()
    assert all(type(entry) is bool for row in graph for entry in row)
    assert graphs.connected(graph)
    assert far is None or diameter(graph) == far
    assert trees is None or spanning_trees(graph) == trees


def test_known_spectra():
    """Eigenvalues of the adjacency matrix: cosines for a circle, sums of cosines for a torus."""

    def circle(n):
        return 2 * np.cos(2 * np.pi * np.arange(n) / n)

    for graph, expected in (
        (graphs.ring(7), circle(7)),
        (graphs.torus(3, 5), np.add.outer(circle(3), circle(5)).ravel()),
        (graphs.complete(6), [5, -1, -1, -1, -1, -1]),
        (graphs.star(5), [2, -2, 0, 0, 0]),
    ):
        eigenvalues = np.linalg.eigvalsh(matrix(graph))
        np.testing.assert_allclose(eigenvalues, np.sort(expected), atol=1e-12)


def test_neighborhoods():
    assert graphs.neighborhoods(graphs.torus(3, 4))[0] == (1, 3, 4, 8)
    lists = [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    for given in (lists, np.array(lists), jnp.array(lists, bool), [np.array(r) for r in lists]):
        assert graphs.neighborhoods(given) == ((1, 2), (0,), (0,))
        assert graphs.connected(given)


def test_connected():
    apart = np.zeros((5, 5), int)
    apart[0, 1] = apart[1, 0] = apart[2, 3] = apart[3, 2] = apart[3, 4] = apart[4, 3] = 1
    assert not graphs.connected(apart)
    apart[1, 4] = apart[4, 1] = 1
    assert graphs.connected(apart)


# --- random graphs --------------------------------------------------------------------------------

DRAWN = [
    lambda seed: graphs.random_regular(12, 3, seed),
    lambda seed: graphs.random_regular(11, 4, seed),
    lambda seed: graphs.erdos_renyi(12, 0.4, seed),
    lambda seed: graphs.small_world(12, 4, 0.3, seed),
]


@pytest.mark.parametrize("draw", DRAWN)
def test_a_seed_decides_the_graph(draw):
    drawn = [draw(seed) for seed in range(20)]
    assert drawn == [draw(seed) for seed in range(20)]
    assert len(set(drawn)) == 20
    for graph in drawn:
        graphs.neighborhoods(graph)  # symmetric, no loop, connected


def test_random_regular_draws_all_graphs_about_equally_often():
    """There are 70 cubic graphs on 6 labelled nodes, all connected: 10 K(3,3) and 60 prisms."""
    drawn = collections.Counter(graphs.random_regular(6, 3, seed) for seed in range(2100))
    assert len(drawn) == 70
    counts = np.array(list(drawn.values()))
    chi_square = ((counts - 30) ** 2 / 30).sum()
    assert 69 - 5 * 11.7 < chi_square < 69 + 5 * 11.7  # mean and deviation at 69 degrees of freedom


def test_edges_of_erdos_renyi():
    """20 nodes have 190 pairs: 95 edges on average, deviation 6.9, equally many at each node."""
    drawn = np.array([matrix(graphs.erdos_renyi(20, 0.5, seed)) for seed in range(100)])
    edges = drawn.sum(axis=(1, 2)) / 2
    assert edges.mean() == pytest.approx(95, abs=4 * 6.9 / 10)
    assert edges.std() == pytest.approx(6.9, rel=0.3)
    assert np.abs(drawn.sum(axis=(0, 2)) / 100 - 9.5).max() < 4.5 * np.sqrt(4.75 / 100)


def test_erdos_renyi_draws_until_connected():
    """At np = 1.5 most draws of 12 nodes are disconnected; the returned ones are connected."""
    for seed in range(20):
        graphs.neighborhoods(graphs.erdos_renyi(12, 0.16, seed))


def test_small_worlds():
    """Edges are rewired, none is removed; paths become shorter."""
    circle = matrix(graphs.small_world(60, 4, 0.0, seed=0))
    for probability in (0.1, 1.0):
        drawn = [graphs.small_world(60, 4, probability, seed) for seed in range(20)]
        kept = np.mean([(matrix(graph) * circle).sum() / circle.sum() for graph in drawn])
        assert kept == pytest.approx(1 - probability * (1 - 4 / 59), abs=0.03)
        assert all(matrix(graph).sum() == 240 for graph in drawn)
        assert all(matrix(graph).sum(axis=1).min() >= 2 for graph in drawn)  # the endpoint kept
        assert max(diameter(graph) for graph in drawn) < 15 == diameter(circle.tolist())


def test_no_connected_draw():
    for draw, message in (
        (
            lambda: graphs.erdos_renyi(20, 0.01, seed=0),
            "erdos_renyi: none of 100 draws is connected; got n=20, probability=0.01.",
        ),
        (
            lambda: graphs.random_regular(6, 1, seed=0),
            "random_regular: none of 100 draws is connected; got n=6, degree=1.",
        ),
    ):
        with pytest.raises(ValueError, match=r".") as error:
            draw()
        assert str(error.value) == message


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "graph",
    [
        graphs.complete(6),
        graphs.star(6),
        graphs.two_cliques(9),
        graphs.dumbbell(4, 2),
        graphs.erdos_renyi(12, 0.3, seed=3),
    ],
)
def test_metropolis_weights(graph):
    weights, a = np.array(graphs.metropolis_weights(graph)), matrix(graph)
    degrees, n = a.sum(axis=1), len(graph)
    for i, j in itertools.product(range(n), range(n)):
        if i != j:
            expected = a[i, j] / (1 + max(degrees[i], degrees[j]))
            assert weights[i, j] == pytest.approx(expected, rel=1e-15)
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-14)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-14)
    assert (weights.diagonal() >= 1 / (1 + degrees) - 1e-15).all()
    second = np.sort(np.abs(np.linalg.eigvalsh(weights)))[-2]
    assert second < 1 - 1e-3  # averaging converges to agreement
    np.testing.assert_allclose(np.linalg.matrix_power(weights, 10_000), 1 / n, atol=1e-4)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ([], "a graph needs at least one node; got none."),
        (
            [[0, 1, 0], [1, 0], [0, 0, 0]],
            "a graph needs a square matrix; got 3 rows, and 2 entries in row 1.",
        ),
        ([[0, 0.5], [0.5, 0]], "a graph has entries 0 or 1; got 0.5 in row 0, column 1."),
        ([[0, 1], [1, 1]], "a graph has no loops; got one at node 1."),
        (
            [[0, 1, 0], [1, 0, 0], [0, 1, 0]],
            "a graph needs a symmetric matrix; got 2 to 1 without 1 to 2.",
        ),
        (
            np.kron(np.eye(2, dtype=int), 1 - np.eye(3, dtype=int)),
            "a graph must be connected; got 6 nodes, of which 3 are joined to node 0.",
        ),
    ],
)
def test_errors_of_matrices(graph, message):
    with pytest.raises(ValueError, match=r".") as error:
        graphs.neighborhoods(graph)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: graphs.complete(0), "n must be at least 1; got n=0."),
        (lambda: graphs.ring(2), "n must be at least 3; got n=2."),
        (lambda: graphs.torus(2, 5), "rows must be at least 3; got rows=2."),
        (lambda: graphs.torus(3, 2), "columns must be at least 3; got columns=2."),
        (lambda: graphs.star(1), "n must be at least 2; got n=1."),
        (
            lambda: graphs.random_regular(5, 3, seed=0),
            "random_regular needs degree < n and n degree even; got n=5, degree=3.",
        ),
        (
            lambda: graphs.random_regular(4, 4, seed=0),
            "random_regular needs degree < n and n degree even; got n=4, degree=4.",
        ),
        (
            lambda: graphs.erdos_renyi(5, 1.5, seed=0),
            "probability must be from 0 to 1; got probability=1.5.",
        ),
        (
            lambda: graphs.small_world(6, 3, 0.1, seed=0),
            "small_world needs neighbors even and below n; got n=6, neighbors=3.",
        ),
        (
            lambda: graphs.two_cliques(7, bridges=4),
            "two_cliques needs bridges <= n // 2; got n=7, bridges=4.",
        ),
        (lambda: graphs.dumbbell(1, 3), "clique must be at least 2; got clique=1."),
    ],
)
def test_errors_of_sizes(make, message):
    with pytest.raises(ValueError, match=r".") as error:
        make()
    assert str(error.value) == message


def test_sizes_are_python_ints():
    with pytest.raises(TypeError, match=r"^n must be a Python int; got float"):
        graphs.ring(5.0)
    with pytest.raises(TypeError, match=r"^seed must be a Python int; got str"):
        graphs.random_regular(6, 3, "0")
