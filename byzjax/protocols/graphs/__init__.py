"""Communication graphs: symmetric adjacency matrices without loops, as nested tuples of bool.

They are Python values, so that every neighbourhood is known at tracing time. The nodes are
0 .. n - 1. Random graphs are drawn from a seed by Python's generator.
"""

from byzjax._deprecated import renamed as _renamed
from byzjax.protocols.graphs._structure import Graph, connected, metropolis_weights, neighborhoods
from byzjax.protocols.graphs.drawn import erdos_renyi, random_regular, small_world
from byzjax.protocols.graphs.families import complete, dumbbell, ring, star, torus, two_cliques

__all__ = [
    "Graph",
    "complete",
    "connected",
    "dumbbell",
    "erdos_renyi",
    "metropolis_weights",
    "neighborhoods",
    "random_regular",
    "ring",
    "small_world",
    "star",
    "torus",
    "two_cliques",
]

__getattr__ = _renamed(__name__, {})
