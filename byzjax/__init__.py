"""byzjax: Byzantine-robust gradient aggregation for JAX and optax."""

from byzjax import attacks, facts, order, protocols, scores, stacked, theory
from byzjax._checks import enough_workers
from byzjax._deprecated import renamed as _renamed
from byzjax._signature import per_row_inputs
from byzjax.collective import across_devices, all_aggregate, all_mix
from byzjax.influence import influence
from byzjax.memory import centered_clipping, concentration_filter, foolsgold, safeguard
from byzjax.mixing import adaptive_clipping, bucketing, clip_norms, nearest_neighbors
from byzjax.rules import (
    aksel,
    bulyan,
    centered_clip,
    comparative_elimination,
    covariance_filter,
    fl_trust,
    flag,
    geometric_median,
    geometric_median_of_means,
    huber,
    krum,
    majority_sign,
    mean,
    mean_around_median,
    mean_of_finite,
    median,
    medoid,
    minimum_diameter,
    minimum_eigenvalue,
    nearest_to_pivot,
    phocas,
    sign_guard,
    spectral_filter,
    trimmed_mean,
    zeno,
)
from byzjax.sharded import sharded
from byzjax.stacked import stack
from byzjax.transforms import aggregate, attack, mix, per_worker

__version__ = "0.1.0"
__all__ = [
    "across_devices",
    "adaptive_clipping",
    "aggregate",
    "aksel",
    "all_aggregate",
    "all_mix",
    "attack",
    "attacks",
    "bucketing",
    "bulyan",
    "centered_clip",
    "centered_clipping",
    "clip_norms",
    "comparative_elimination",
    "concentration_filter",
    "covariance_filter",
    "enough_workers",
    "facts",
    "fl_trust",
    "flag",
    "foolsgold",
    "geometric_median",
    "geometric_median_of_means",
    "huber",
    "influence",
    "krum",
    "majority_sign",
    "mean",
    "mean_around_median",
    "mean_of_finite",
    "median",
    "medoid",
    "minimum_diameter",
    "minimum_eigenvalue",
    "mix",
    "nearest_neighbors",
    "nearest_to_pivot",
    "order",
    "per_row_inputs",
    "per_worker",
    "phocas",
    "protocols",
    "safeguard",
    "scores",
    "sharded",
    "sign_guard",
    "spectral_filter",
    "stack",
    "stacked",
    "theory",
    "trimmed_mean",
    "zeno",
]

__getattr__ = _renamed(__name__, {"of_each_row": "per_row_inputs"})
