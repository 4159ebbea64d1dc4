"""Mixings that only other projects' files name."""

from typing import Any

import jax

from experiments.grid import specs


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
        spec = specs.parse("mixing", text, f=f)
        draws = "key" in specs.parameters_of(spec)
        drawn = {"key": jax.random.fold_in(key, place)} if draws else {}
        updates = spec.function(updates, **spec.hyperparameters, **drawn)
    return updates
