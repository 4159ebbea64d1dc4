"""Who hears whom: adjacency matrices as nested tuples of bool, symmetric and without loops.

They are Python values, so that a program that is traced knows every neighbourhood. The nodes are
0 .. n - 1. Random graphs are drawn by Python's generator from a seed.
"""

import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

from byzjax._checks import static_int

Graph = tuple[tuple[bool, ...], ...]

DRAWS = 100  # of a random graph, until one is connected


def complete(n: int) -> Graph:
    """Everyone hears everyone.

    Args:
      n: number of nodes, a Python int.

    Returns:
      `bool[n, n]`, n (n - 1) / 2 edges.

    Raises:
      TypeError: n is not a Python int.
      ValueError: it is too small.

    Example:
      >>> complete(3)
      ((False, True, True), (True, False, True), (True, True, False))
    """
    n = static_int("n", n, at_least=1)
    return _graph(n, itertools.combinations(range(n), 2))


def ring(n: int) -> Graph:
    """Node i hears i - 1 and i + 1, around.

    Args:
      n: number of nodes, a Python int, at least 3.

    Returns:
      `bool[n, n]`, n edges.

    Raises:
      TypeError: n is not a Python int.
      ValueError: it is too small.

    Example:
      >>> neighborhoods(ring(4))
      ((1, 3), (0, 2), (1, 3), (0, 2))
    """
    n = static_int("n", n, at_least=3)
    return _graph(n, _circulant(n, 2))


def torus(rows: int, columns: int) -> Graph:
    """A grid that is closed around in both directions; node (r, c) has the number r columns + c.

    Args:
      rows: a Python int, at least 3.
      columns: a Python int, at least 3.

    Returns:
      `bool[n, n]` of n = rows columns nodes; every one has 4 neighbours.

    Raises:
      TypeError: an argument is not a Python int.
      ValueError: one is too small.

    Example:
      >>> neighborhoods(torus(3, 3))[4]
      (1, 3, 5, 7)
    """
    rows = static_int("rows", rows, at_least=3)
    columns = static_int("columns", columns, at_least=3)
    edges = []
    for r, c in itertools.product(range(rows), range(columns)):
        edges.append((r * columns + c, r * columns + (c + 1) % columns))
        edges.append((r * columns + c, (r + 1) % rows * columns + c))
    return _graph(rows * columns, edges)


def star(n: int) -> Graph:
    """Node 0 hears everyone, and everyone hears node 0.

    Args:
      n: number of nodes, a Python int, at least 2.

    Returns:
      `bool[n, n]`, n - 1 edges.

    Raises:
      TypeError: n is not a Python int.
      ValueError: it is too small.

    Example:
      >>> neighborhoods(star(4))
      ((1, 2, 3), (0,), (0,), (0,))
    """
    n = static_int("n", n, at_least=2)
    return _graph(n, [(0, i) for i in range(1, n)])


def random_regular(n: int, degree: int, seed: int) -> Graph:
    """A random graph in which all nodes have the same number of neighbours.

    It begins as a ring with chords. Two edges a-b and c-d that are drawn become a-d and c-b, where
    these are new; after 20 tries for each edge all such graphs are about equally likely.

    Args:
      n: number of nodes, a Python int.
      degree: number of neighbours, a Python int below n; n degree is even.
      seed: draws the graph, a Python int.

    Returns:
      `bool[n, n]`, connected, n degree / 2 edges.

    Raises:
      TypeError: an argument is not a Python int.
      ValueError: there is no such graph, or none of 100 draws is connected.

    Example:
      >>> [len(heard) for heard in neighborhoods(random_regular(6, 3, seed=0))]
      [3, 3, 3, 3, 3, 3]
    """
    n, degree = static_int("n", n, at_least=2), static_int("degree", degree, at_least=1)
    numbers = f"n={n}, degree={degree}"
    if degree >= n or n * degree % 2:
        raise ValueError(f"random_regular needs degree < n and n degree even; got {numbers}.")
    draw = random.Random(static_int("seed", seed))

    def drawn() -> Graph:
        edges = _circulant(n, degree)
        known = set(edges)
        for _ in range(20 * len(edges)):
            i, j = draw.randrange(len(edges)), draw.randrange(len(edges))
            (a, b), (c, d) = edges[i], edges[j]
            if draw.random() < 0.5:
                c, d = d, c
            first, second = _edge(a, d), _edge(c, b)
            if len({a, b, c, d}) == 4 and first not in known and second not in known:
                known.difference_update((edges[i], edges[j]))
                known.update((first, second))
                edges[i], edges[j] = first, second
        return _graph(n, edges)

    return _first_connected("random_regular", drawn, numbers)


def erdos_renyi(n: int, probability: float, seed: int) -> Graph:
    """Every pair of nodes is joined with the same probability; drawn again until connected.

    Args:
      n: number of nodes, a Python int.
      probability: of each edge, from 0 to 1.
      seed: draws the graph, a Python int.

    Returns:
      `bool[n, n]`, connected.

    Raises:
      TypeError: n or seed is not a Python int.
      ValueError: probability is not one, or none of 100 draws is connected.

    Example:
      >>> erdos_renyi(5, 1.0, seed=0) == complete(5)
      True

    Reference: Gilbert, Random Graphs, Annals of Mathematical Statistics 1959.
    """
    n, draw = static_int("n", n, at_least=1), random.Random(static_int("seed", seed))
    _probability(probability)

    def drawn() -> Graph:
        pairs = itertools.combinations(range(n), 2)
        return _graph(n, [pair for pair in pairs if draw.random() < probability])

    return _first_connected("erdos_renyi", drawn, f"n={n}, probability={probability}")


def small_world(n: int, neighbors: int, probability: float, seed: int) -> Graph:
    """A ring whose nodes hear the nearest few, of whose edges some are led elsewhere.

    One end of an edge stays. With the given probability the other moves to a node that is drawn
    among those to which there is no edge yet. Drawn again until connected.

    Args:
      n: number of nodes, a Python int.
      neighbors: of each node before, a Python int, even and below n.
      probability: that an edge is led elsewhere, from 0 to 1.
      seed: draws the graph, a Python int.

    Returns:
      `bool[n, n]`, connected, n neighbors / 2 edges.

    Raises:
      TypeError: n, neighbors or seed is not a Python int.
      ValueError: there is no such graph, or none of 100 draws is connected.

    Example:
      >>> small_world(5, 2, 0.0, seed=0) == ring(5)
      True

    Reference: Watts and Strogatz, Collective dynamics of "small-world" networks, Nature 1998.
    """
    n, neighbors = static_int("n", n, at_least=3), static_int("neighbors", neighbors, at_least=2)
    if neighbors % 2 or neighbors >= n:
        raise ValueError(
            f"small_world needs neighbors even and below n; got n={n}, neighbors={neighbors}."
        )
    _probability(probability)
    draw = random.Random(static_int("seed", seed))

    def drawn() -> Graph:
        edges = set(_circulant(n, neighbors))
        for k, i in itertools.product(range(1, neighbors // 2 + 1), range(n)):
            elsewhere = [j for j in range(n) if j != i and _edge(i, j) not in edges]
            if draw.random() < probability and elsewhere:
                edges.remove(_edge(i, (i + k) % n))
                edges.add(_edge(i, draw.choice(elsewhere)))
        return _graph(n, edges)

    numbers = f"n={n}, neighbors={neighbors}, probability={probability}"
    return _first_connected("small_world", drawn, numbers)


def two_cliques(n: int, bridges: int = 1) -> Graph:
    """Two halves in which everyone hears everyone, joined by a few edges without a common node.

    Args:
      n: number of nodes, a Python int; the first half has n // 2 of them.
      bridges: number of edges between the halves, a Python int from 1 to n // 2.

    Returns:
      `bool[n, n]`; edge k between the halves joins k and n // 2 + k.

    Raises:
      TypeError: an argument is not a Python int.
      ValueError: there are not so many edges.

    Example:
      >>> neighborhoods(two_cliques(5))
      ((1, 2), (0,), (0, 3, 4), (2, 4), (2, 3))
    """
    n, bridges = static_int("n", n, at_least=2), static_int("bridges", bridges, at_least=1)
    half = n // 2
    if bridges > half:
        raise ValueError(f"two_cliques needs bridges <= n // 2; got n={n}, bridges={bridges}.")
    edges = [(k, half + k) for k in range(bridges)]
    edges += itertools.combinations(range(half), 2)
    return _graph(n, [*edges, *itertools.combinations(range(half, n), 2)])


def dumbbell(clique: int, path: int) -> Graph:
    """Two cliques joined by a path: a long way for news, and one node can cut it.

    Args:
      clique: number of nodes of each clique, a Python int, at least 2.
      path: number of nodes between them, a Python int; 0 joins the cliques by an edge.

    Returns:
      `bool[n, n]` of n = 2 clique + path nodes: a clique, the path, the other clique.

    Raises:
      TypeError: an argument is not a Python int.
      ValueError: one is too small.

    Example:
      >>> neighborhoods(dumbbell(2, 1))
      ((1,), (0, 2), (1, 3), (2, 4), (3,))
    """
    clique, path = static_int("clique", clique, at_least=2), static_int("path", path)
    n = 2 * clique + path
    edges = [(i, i + 1) for i in range(clique - 1, clique + path)]
    edges += itertools.combinations(range(clique), 2)
    return _graph(n, [*edges, *itertools.combinations(range(n - clique, n), 2)])


def neighborhoods(graph: Any) -> tuple[tuple[int, ...], ...]:
    """The neighbours of each node, of any adjacency matrix that is known and sound.

    Args:
      graph: `bool[n, n]` or zeros and ones: nested sequences, or an array.

    Returns:
      For each node the numbers of its neighbours in ascending order, without itself.

    Raises:
      ValueError: the matrix is not square, holds other numbers, is not symmetric, has a loop, or
        the graph is not connected.

    Example:
      >>> neighborhoods([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
      ((1,), (0, 2), (1,))
    """
    matrix = _entries(graph)
    n = len(matrix)
    if n == 0:
        raise ValueError("a graph needs at least one node; got none.")
    for i, row in enumerate(matrix):
        if len(row) != n:
            raise ValueError(
                f"a graph needs a square matrix; got {n} rows, and {len(row)} entries in row {i}."
            )
        for j, entry in enumerate(row):
            if entry not in (0, 1):
                raise ValueError(f"a graph has entries 0 or 1; got {entry} in row {i}, column {j}.")
    for i, j in itertools.combinations_with_replacement(range(n), 2):
        if i == j and matrix[i][i]:
            raise ValueError(f"a graph has no loops; got one at node {i}.")
        if matrix[i][j] != matrix[j][i]:
            here, there = (i, j) if matrix[i][j] else (j, i)
            raise ValueError(
                f"a graph needs a symmetric matrix; got {here} to {there} without {there} to "
                f"{here}."
            )
    reached = _reached(matrix)
    if reached < n:
        raise ValueError(
            f"a graph must be connected; got {n} nodes, of which {reached} are joined to node 0."
        )
    return tuple(tuple(j for j in range(n) if row[j]) for row in matrix)


def connected(graph: Any) -> bool:
    """Whether there is a way from every node to every other.

    Args:
      graph: `bool[n, n]`, symmetric: nested sequences, or an array.

    Returns:
      A bool.

    Example:
      >>> connected(ring(4)), connected([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
      (True, False)
    """
    matrix = _entries(graph)
    return _reached(matrix) == len(matrix)


def metropolis_weights(graph: Any) -> tuple[tuple[float, ...], ...]:
    r"""Weights for averaging with neighbours, under which the average of all stays what it is.

    $$ w_{ij} = \frac{1}{1 + \max(d_i, d_j)} \;\text{ for neighbours}, \qquad
       w_{ii} = 1 - \sum_{j \ne i} w_{ij} $$

    with the number $d_i$ of neighbours of node i. They are symmetric, positive for i itself, and
    every row and column adds up to 1.

    Args:
      graph: `bool[n, n]`, as for `neighborhoods`.

    Returns:
      `float[n, n]` as nested tuples; 0 between nodes that are not neighbours.

    Raises:
      ValueError: as `neighborhoods`.

    Example:
      >>> metropolis_weights(star(3))[1]
      (0.3333333333333333, 0.6666666666666667, 0.0)

    Reference: Xiao, Boyd and Lall, A Scheme for Robust Distributed Sensor Fusion Based on Average
    Consensus, IPSN 2005.
    """
    heard = neighborhoods(graph)
    weights = []
    for i, near in enumerate(heard):
        row = [0.0] * len(heard)
        for j in near:
            row[j] = 1 / (1 + max(len(near), len(heard[j])))
        row[i] = 1 - sum(row)
        weights.append(tuple(row))
    return tuple(weights)


def _entries(graph: Any) -> list[list]:
    """The matrix as lists, of nested sequences or arrays."""
    rows = graph.tolist() if hasattr(graph, "tolist") else graph
    return [list(row.tolist() if hasattr(row, "tolist") else row) for row in rows]


def _edge(i: int, j: int) -> tuple[int, int]:
    return (i, j) if i < j else (j, i)


def _graph(n: int, edges: Iterable[tuple[int, int]]) -> Graph:
    """The matrix of a graph from its edges, either way round."""
    joined = {_edge(i, j) for i, j in edges}
    return tuple(tuple(_edge(i, j) in joined for j in range(n)) for i in range(n))


def _circulant(n: int, degree: int) -> list[tuple[int, int]]:
    """The edges of a ring whose nodes hear the nearest `degree`; if odd, also the opposite one."""
    near = [_edge(i, (i + k) % n) for k in range(1, degree // 2 + 1) for i in range(n)]
    return near + [(i, i + n // 2) for i in range(n // 2) if degree % 2]


def _reached(matrix: list[list]) -> int:
    """How many nodes there are ways to from node 0, itself among them."""
    seen = {0} if matrix else set()
    left = list(seen)
    while left:
        row = matrix[left.pop()]
        new = [j for j, entry in enumerate(row) if entry and j not in seen]
        seen.update(new)
        left += new
    return len(seen)


def _probability(value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"probability must be from 0 to 1; got probability={value}.")


def _first_connected(name: str, drawn: Callable[[], Graph], numbers: str) -> Graph:
    for _ in range(DRAWS):
        graph = drawn()
        if connected(graph):
            return graph
    raise ValueError(f"{name}: none of {DRAWS} draws is connected; got {numbers}.")
