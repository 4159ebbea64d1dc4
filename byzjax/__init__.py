"""byzjax: train with optax when some of the workers lie."""

from byzjax import attacks, protocols, stacked
from byzjax.rules import aksel, krum, mean, median, trimmed_mean
from byzjax.transforms import aggregate, attack, mix, per_worker

__version__ = "0.1.0"
__all__ = [
    "aggregate",
    "aksel",
    "attack",
    "attacks",
    "krum",
    "mean",
    "median",
    "mix",
    "per_worker",
    "protocols",
    "stacked",
    "trimmed_mean",
]
