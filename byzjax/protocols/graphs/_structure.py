"""Properties of a graph: neighbours, averaging weights, connectedness."""

import itertools
from collections.abc import Iterable
from typing import Any

from byzjax._mistakes import shown

Graph = tuple[tuple[bool, ...], ...]


def neighborhoods(graph: Any) -> tuple[tuple[int, ...], ...]:
    """The neighbours of each node, from any concrete and valid adjacency matrix.

    Args:
      graph: `bool[n, n]`, or zeros and ones: nested sequences or an array.

    Returns:
      For each node the indices of its neighbours in ascending order, without itself.

    Raises:
      ValueError: the matrix is not square, has other entries, is not symmetric, has a loop, or
        the graph is not connected.

    Example:
      >>> from byzjax.protocols import graphs
      >>> graphs.neighborhoods([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
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
    reached = count_reached(matrix)
    if reached < n:
        raise ValueError(
            f"a graph must be connected; got {n} nodes, of which {reached} are joined to node 0."
        )
    return tuple(tuple(j for j in range(n) if row[j]) for row in matrix)


def connected(graph: Any) -> bool:
    """Whether there is a path from every node to every other.

    Args:
      graph: `bool[n, n]`, symmetric: nested sequences or an array.

    Returns:
      A bool.

    Example:
      >>> from byzjax.protocols import graphs
      >>> graphs.connected(graphs.ring(4)), graphs.connected([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
      (True, False)
    """
    matrix = _entries(graph)
    return count_reached(matrix) == len(matrix)


def metropolis_weights(graph: Any) -> tuple[tuple[float, ...], ...]:
    r"""Weights for averaging with neighbours that preserve the average over all nodes.

    $$ w_{ij} = \frac{1}{1 + \max(d_i, d_j)} \;\text{ for neighbours}, \qquad
       w_{ii} = 1 - \sum_{j \ne i} w_{ij} $$

    where $d_i$ is the number of neighbours of node i. The weights are symmetric, w_ii is positive,
    and every row and column sums to 1.

    Args:
      graph: `bool[n, n]`, as for `neighborhoods`.

    Returns:
      `float[n, n]` as nested tuples; 0 between nodes that are not neighbours.

    Raises:
      ValueError: as `neighborhoods`.

    Example:
      >>> from byzjax.protocols import graphs
      >>> graphs.metropolis_weights(graphs.star(3))[1]
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
    """The matrix as nested lists, from nested sequences or arrays."""
    if callable(graph) or isinstance(graph, str):
        raise TypeError(
            f"a graph is a matrix, bool[n, n]; got {shown(graph)}: "
            "write protocols.graphs.ring(n), for example."
        )
    rows = graph.tolist() if hasattr(graph, "tolist") else graph
    return [list(row.tolist() if hasattr(row, "tolist") else row) for row in rows]


def edge(i: int, j: int) -> tuple[int, int]:
    """The edge, its lower node first."""
    return (i, j) if i < j else (j, i)


def graph_of(n: int, edges: Iterable[tuple[int, int]]) -> Graph:
    """The matrix of a graph from its edges, in either orientation."""
    joined = {edge(i, j) for i, j in edges}
    return tuple(tuple(edge(i, j) in joined for j in range(n)) for i in range(n))


def count_reached(matrix: list[list]) -> int:
    """The number of nodes reachable from node 0, itself included."""
    seen = {0} if matrix else set()
    left = list(seen)
    while left:
        row = matrix[left.pop()]
        new = [j for j, entry in enumerate(row) if entry and j not in seen]
        seen.update(new)
        left += new
    return len(seen)


def circulant(n: int, degree: int) -> list[tuple[int, int]]:
    """Edges that join each node of a ring to the nearest `degree`; if odd, also to the opposite."""
    near = [edge(i, (i + k) % n) for k in range(1, degree // 2 + 1) for i in range(n)]
    return near + [(i, i + n // 2) for i in range(n // 2) if degree % 2]
