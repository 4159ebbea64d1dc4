"""byzjax: Byzantine-robust gradient aggregation for JAX and optax."""

from byzjax import (
    attacks,
    compress,
    facts,
    order,
    privacy,
    protocols,
    rules,
    scores,
    stacked,
    theory,
)
from byzjax._checks import enough_workers
from byzjax._deprecated import renamed as _renamed
from byzjax._signature import per_row_inputs
from byzjax.collective import across_devices, all_aggregate, all_mix
from byzjax.influence import influence
from byzjax.iterates import polyak_averaging
from byzjax.memory import centered_clipping, concentration_filter, foolsgold, safeguard
from byzjax.mixing import adaptive_clipping, bucketing, clip_norms, nearest_neighbors, weak_dp
from byzjax.rules import *  # noqa: F403
from byzjax.sampling import faults_among
from byzjax.sharded import sharded
from byzjax.stacked import stack
from byzjax.transforms import aggregate, attack, mix, per_worker
from byzjax.weights import cap_weights

__version__ = "0.2.0"
__all__ = [
    "across_devices",
    "adaptive_clipping",
    "aggregate",
    "all_aggregate",
    "all_mix",
    "attack",
    "attacks",
    "bucketing",
    "cap_weights",
    "centered_clipping",
    "clip_norms",
    "compress",
    "concentration_filter",
    "enough_workers",
    "facts",
    "faults_among",
    "foolsgold",
    "influence",
    "mix",
    "nearest_neighbors",
    "order",
    "per_row_inputs",
    "per_worker",
    "polyak_averaging",
    "privacy",
    "protocols",
    "safeguard",
    "scores",
    "sharded",
    "stack",
    "stacked",
    "theory",
    "weak_dp",
]
__all__ += rules.__all__

__getattr__ = _renamed(__name__, {"of_each_row": "per_row_inputs"})
