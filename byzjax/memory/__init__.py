"""Stateful aggregations: optax transformations used in place of `aggregate`."""

from byzjax.memory.clipping import CenterState, centered_clipping
from byzjax.memory.concentration import ConcentrationState, concentration_filter
from byzjax.memory.foolsgold import HistoryState, foolsgold
from byzjax.memory.safeguard import SafeguardState, safeguard

__all__ = [
    "CenterState",
    "ConcentrationState",
    "HistoryState",
    "SafeguardState",
    "centered_clipping",
    "concentration_filter",
    "foolsgold",
    "safeguard",
]
