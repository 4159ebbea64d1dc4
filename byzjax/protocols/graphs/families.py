"""Deterministic graphs."""

import itertools

from byzjax._checks import static_int
from byzjax.protocols.graphs._structure import (
    Graph,
    circulant,
    graph_of,
)


def complete(n: int) -> Graph:
    """All pairs of nodes are joined.

    Args:
      n: number of nodes, a Python int.

    Returns:
      `bool[n, n]`, n (n - 1) / 2 edges.

    Raises:
      TypeError: n is not a Python int.
      ValueError: n is too small.

    Example:
      >>> from byzjax.protocols import graphs
      >>> graphs.complete(3)
      ((False, True, True), (True, False, True), (True, True, False))
    """
    n = static_int("n", n, at_least=1)
    return graph_of(n, itertools.combinations(range(n), 2))


def ring(n: int) -> Graph:
    """Node i is joined to i - 1 and i + 1, modulo n.

    Args:
      n: number of nodes, a Python int, at least 3.

    Returns:
      `bool[n, n]`, n edges.

    Raises:
      TypeError: n is not a Python int.
      ValueError: n is too small.

    Example:
      >>> from byzjax.protocols import graphs
      >>> graphs.neighborhoods(graphs.ring(4))
      ((1, 3), (0, 2), (1, 3), (0, 2))
    """
    n = static_int("n", n, at_least=3)
    return graph_of(n, circulant(n, 2))


def torus(rows: int, columns: int) -> Graph:
    """A grid with periodic boundaries; node (r, c) has index r columns + c.

    Args:
      rows: a Python int, at least 3.
      columns: a Python int, at least 3.

    Returns:
      `bool[n, n]` of n = rows columns nodes; every one has 4 neighbours.

    Raises:
      TypeError: an argument is not a Python int.
      ValueError: an argument is too small.

    Example:
      >>> from byzjax.protocols import graphs
      >>> graphs.neighborhoods(graphs.torus(3, 3))[4]
      (1, 3, 5, 7)
    """
    rows = static_int("rows", rows, at_least=3)
    columns = static_int("columns", columns, at_least=3)
    edges = []
    for r, c in itertools.product(range(rows), range(columns)):
        edges.append((r * columns + c, r * columns + (c + 1) % columns))
        edges.append((r * columns + c, (r + 1) % rows * columns + c))
    return graph_of(rows * columns, edges)


def star(n: int) -> Graph:
    """Node 0 is joined to all other nodes.

    Args:
      n: number of nodes, a Python int, at least 2.

    Returns:
      `bool[n, n]`, n - 1 edges.

    Raises:
      TypeError: n is not a Python int.
      ValueError: n is too small.

    Example:
      >>> from byzjax.protocols import graphs
      >>> graphs.neighborhoods(graphs.star(4))
      ((1, 2, 3), (0,), (0,), (0,))
    """
    n = static_int("n", n, at_least=2)
    return graph_of(n, [(0, i) for i in range(1, n)])


def two_cliques(n: int, bridges: int = 1) -> Graph:
    """Two complete halves, joined by a few edges without a common node.

    Args:
      n: number of nodes, a Python int; the first half has n // 2 of them.
      bridges: number of edges between the halves, a Python int from 1 to n // 2.

    Returns:
      `bool[n, n]`; edge k between the halves joins k and n // 2 + k.

    Raises:
      TypeError: an argument is not a Python int.
      ValueError: n or bridges is too small, or bridges > n // 2.

    Example:
      >>> from byzjax.protocols import graphs
      >>> graphs.neighborhoods(graphs.two_cliques(5))
      ((1, 2), (0,), (0, 3, 4), (2, 4), (2, 3))
    """
    n, bridges = static_int("n", n, at_least=2), static_int("bridges", bridges, at_least=1)
    half = n // 2
    if bridges > half:
        raise ValueError(f"two_cliques needs bridges <= n // 2; got n={n}, bridges={bridges}.")
    edges = [(k, half + k) for k in range(bridges)]
    edges += itertools.combinations(range(half), 2)
    return graph_of(n, [*edges, *itertools.combinations(range(half, n), 2)])


def dumbbell(clique: int, path: int) -> Graph:
    """Two cliques joined by a path, a long connection that a single node can cut.

    Args:
      clique: number of nodes of each clique, a Python int, at least 2.
      path: number of nodes between them, a Python int; 0 joins the cliques by an edge.

    Returns:
      `bool[n, n]` of n = 2 clique + path nodes: a clique, the path, the other clique.

    Raises:
      TypeError: an argument is not a Python int.
      ValueError: an argument is too small.

    Example:
      >>> from byzjax.protocols import graphs
      >>> graphs.neighborhoods(graphs.dumbbell(2, 1))
      ((1,), (0, 2), (1, 3), (2, 4), (3,))
    """
    clique, path = static_int("clique", clique, at_least=2), static_int("path", path)
    n = 2 * clique + path
    edges = [(i, i + 1) for i in range(clique - 1, clique + path)]
    edges += itertools.combinations(range(clique), 2)
    return graph_of(n, [*edges, *itertools.combinations(range(n - clique, n), 2)])
