"""Who hears whom: adjacency matrices as nested tuples of bool, symmetric and without loops.

They are Python values, so that a program that is traced knows every neighbourhood. The nodes are
0 .. n - 1. Random graphs are drawn by Python's generator from a seed.
"""

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
