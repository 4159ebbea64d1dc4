"""Random graphs, drawn from a seed until one is connected."""

import itertools
import random
from collections.abc import Callable

from byzjax._checks import static_int
from byzjax.protocols.graphs._structure import (
    Graph,
    circulant,
    connected,
    edge,
    graph_of,
)

DRAWS = 100  # largest number of draws until one is connected


def random_regular(n: int, degree: int, seed: int) -> Graph:
    """A random graph in which all nodes have the same number of neighbours.

    It starts as a ring with chords. Two random edges a-b and c-d are replaced by a-d and c-b if
    these are new; after 20 tries for each edge all such graphs are about equally likely.

    Args:
      n: number of nodes, a Python int.
      degree: number of neighbours, a Python int below n; n degree must be even.
      seed: seed of the draw, a Python int.

    Returns:
      `bool[n, n]`, connected, n degree / 2 edges.

    Raises:
      TypeError: an argument is not a Python int.
      ValueError: there is no such graph, or none of 100 draws is connected.

    Example:
      >>> from byzjax.protocols import graphs
      >>> [len(heard) for heard in graphs.neighborhoods(graphs.random_regular(6, 3, seed=0))]
      [3, 3, 3, 3, 3, 3]
    """
    n, degree = static_int("n", n, at_least=2), static_int("degree", degree, at_least=1)
    numbers = f"n={n}, degree={degree}"
    if degree >= n or n * degree % 2:
        raise ValueError(f"random_regular needs degree < n and n degree even; got {numbers}.")
    draw = random.Random(static_int("seed", seed))

    def drawn() -> Graph:
        edges = circulant(n, degree)
        known = set(edges)
        for _ in range(20 * len(edges)):
            i, j = draw.randrange(len(edges)), draw.randrange(len(edges))
            (a, b), (c, d) = edges[i], edges[j]
            if draw.random() < 0.5:
                c, d = d, c
            first, second = edge(a, d), edge(c, b)
            if len({a, b, c, d}) == 4 and first not in known and second not in known:
                known.difference_update((edges[i], edges[j]))
                known.update((first, second))
                edges[i], edges[j] = first, second
        return graph_of(n, edges)

    return _first_connected("random_regular", drawn, numbers)


def erdos_renyi(n: int, probability: float, seed: int) -> Graph:
    """Every pair of nodes is joined with the same probability; redrawn until connected.

    Args:
      n: number of nodes, a Python int.
      probability: of each edge, from 0 to 1.
      seed: seed of the draw, a Python int.

    Returns:
      `bool[n, n]`, connected.

    Raises:
      TypeError: n or seed is not a Python int.
      ValueError: probability is not from 0 to 1, or none of 100 draws is connected.

    Example:
      >>> from byzjax.protocols import graphs
      >>> graphs.erdos_renyi(5, 1.0, seed=0) == graphs.complete(5)
      True

    Reference: Gilbert, Random Graphs, Annals of Mathematical Statistics 1959.
    """
    n, draw = static_int("n", n, at_least=1), random.Random(static_int("seed", seed))
    _probability(probability)

    def drawn() -> Graph:
        pairs = itertools.combinations(range(n), 2)
        return graph_of(n, [pair for pair in pairs if draw.random() < probability])

    return _first_connected("erdos_renyi", drawn, f"n={n}, probability={probability}")


def small_world(n: int, neighbors: int, probability: float, seed: int) -> Graph:
    """A ring lattice with some edges rewired at random.

    One end of an edge is kept. With the given probability the other end moves to a random node not
    yet joined to the first. Redrawn until connected.

    Args:
      n: number of nodes, a Python int.
      neighbors: neighbours of each node before rewiring, a Python int, even and below n.
      probability: that an edge is rewired, from 0 to 1.
      seed: seed of the draw, a Python int.

    Returns:
      `bool[n, n]`, connected, n neighbors / 2 edges.

    Raises:
      TypeError: n, neighbors or seed is not a Python int.
      ValueError: there is no such graph, or none of 100 draws is connected.

    Example:
      >>> from byzjax.protocols import graphs
      >>> graphs.small_world(5, 2, 0.0, seed=0) == graphs.ring(5)
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
        edges = set(circulant(n, neighbors))
        for k, i in itertools.product(range(1, neighbors // 2 + 1), range(n)):
            elsewhere = [j for j in range(n) if j != i and edge(i, j) not in edges]
            if draw.random() < probability and elsewhere:
                edges.remove(edge(i, (i + k) % n))
                edges.add(edge(i, draw.choice(elsewhere)))
        return graph_of(n, edges)

    numbers = f"n={n}, neighbors={neighbors}, probability={probability}"
    return _first_connected("small_world", drawn, numbers)


def _probability(value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"probability must be from 0 to 1; got probability={value}.")


def _first_connected(name: str, drawn: Callable[[], Graph], numbers: str) -> Graph:
    for _ in range(DRAWS):
        graph = drawn()
        if connected(graph):
            return graph
    raise ValueError(f"{name}: none of {DRAWS} draws is connected; got {numbers}.")
