"""Proved constants of rules, errors by Monte Carlo, and searches for worst cases."""

from byzjax._deprecated import renamed as _renamed
from byzjax.theory.breakdown import Breakdown, breakdown_search
from byzjax.theory.constants import (
    AFTER,
    HELD,
    KINDS,
    after_adaptive_clipping,
    after_nearest_neighbors,
    behind_bucketing,
    constants,
    eta_of_kappa,
    lambda_of_kappa,
    lower_bound,
    proved,
    sine_of_alpha,
)
from byzjax.theory.distributions import exponential, gaussian, heavy_tailed, sparse
from byzjax.theory.errors import (
    AngularError,
    Estimate,
    angular_error,
    efficiency,
    estimate,
    selection_probability,
)
from byzjax.theory.kappa import Worst, kappa_search, worst_input
from byzjax.theory.laws import (
    Gumbel,
    acceptance_probability,
    largest_of,
    largest_probability,
    squared_distance_probability,
)
from byzjax.theory.table import TAGS, Constant
from byzjax.theory.weights import proved_by_weight

__all__ = [
    "AFTER",
    "HELD",
    "KINDS",
    "TAGS",
    "AngularError",
    "Breakdown",
    "Constant",
    "Estimate",
    "Gumbel",
    "Worst",
    "acceptance_probability",
    "after_adaptive_clipping",
    "after_nearest_neighbors",
    "angular_error",
    "behind_bucketing",
    "breakdown_search",
    "constants",
    "efficiency",
    "estimate",
    "eta_of_kappa",
    "exponential",
    "gaussian",
    "heavy_tailed",
    "kappa_search",
    "lambda_of_kappa",
    "largest_of",
    "largest_probability",
    "lower_bound",
    "proved",
    "proved_by_weight",
    "selection_probability",
    "sine_of_alpha",
    "sparse",
    "squared_distance_probability",
    "worst_input",
]

__getattr__ = _renamed(__name__, {})
