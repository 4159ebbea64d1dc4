"""Graphs of gossip by name, as on the command line (`gossip(graph='ring')`)."""

import inspect
from typing import Any

from byzjax.protocols import graphs
from experiments.text import names as texts


def of_name(name: str, n: int, shape: dict[str, Any]) -> graphs.Graph:
    """A graph of n nodes by name; `shape` holds the other parameters of its function.

    Raises:
      ValueError: the graph is unknown, or does not have n nodes.
      TypeError: a parameter is unknown or missing.
    """
    known = ("complete", "ring", "torus", "star", "random_regular", "erdos_renyi", "small_world")
    known = (*known, "two_cliques", "dumbbell")
    if name not in known:
        raise ValueError(texts.unknown("graph", name, known))
    function = getattr(graphs, name)
    parameters = inspect.signature(function).parameters
    given = ({"n": n} if "n" in parameters else {}) | shape
    wrong = [key for key in given if key not in parameters]
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in given]
    if wrong or missing:
        needed = ", ".join(key for key in parameters if key != "n") or "nothing more"
        raise TypeError(f"graph {name} takes {needed}; got {', '.join(shape) or 'nothing'}.")
    graph = function(**given)
    if len(graph) != n:
        raise ValueError(f"graph {name} has {len(graph)} nodes; expected n={n}.")
    return graph
