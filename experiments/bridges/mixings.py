"""Mixings that only other projects' files name."""

import inspect
from typing import Any

import jax

from experiments.grid.calls import parse_call
from experiments.grid.specs import function


def in_turn(updates: Any, *, stages: tuple[str, ...], f: int, key: jax.Array) -> Any:
    """Applies several mixings, each to the rows that the one before returns.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      stages: mixings as on the command line, such as `("clip_norms(max_norm=2.0)",
        "nearest_neighbors")`.
      f: declared number of faults, for those that take one.
      key: PRNG key, folded with the place of each mixing that draws.
    """
    for place, text in enumerate(stages):
        name, given = parse_call(text, "mixing")
        mixing = function("mixing", name)
        parameters = inspect.signature(mixing).parameters
        run = {"f": f, "key": jax.random.fold_in(key, place)}
        options = {k: value for k, value in run.items() if k in parameters}
        updates = mixing(updates, **options, **given)
    return updates
