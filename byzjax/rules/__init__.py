"""Aggregation rules: functions from stacked updates to one update."""

from byzjax._deprecated import renamed as _renamed
from byzjax.rules.aksel import aksel
from byzjax.rules.biweight import biweight_mean
from byzjax.rules.clipping import centered_clip
from byzjax.rules.coordinatewise import (
    majority_sign,
    mean,
    mean_around_median,
    mean_of_finite,
    median,
    phocas,
    trimmed_mean,
)
from byzjax.rules.filters import comparative_elimination, medoid, nearest_to_pivot
from byzjax.rules.flag import flag
from byzjax.rules.flame import flame
from byzjax.rules.geometric import geometric_median, geometric_median_of_means, huber
from byzjax.rules.gradient_splitting import gradient_splitting
from byzjax.rules.krum import bulyan, krum, multi_krum
from byzjax.rules.lasa import lasa
from byzjax.rules.robust_learning_rate import robust_learning_rate
from byzjax.rules.sign_guard import sign_guard
from byzjax.rules.spectral import covariance_filter, spectral_filter
from byzjax.rules.subsets import minimum_diameter, minimum_eigenvalue
from byzjax.rules.trust import fl_trust, zeno

__all__ = [
    "aksel",
    "biweight_mean",
    "bulyan",
    "centered_clip",
    "comparative_elimination",
    "covariance_filter",
    "fl_trust",
    "flag",
    "flame",
    "geometric_median",
    "geometric_median_of_means",
    "gradient_splitting",
    "huber",
    "krum",
    "lasa",
    "majority_sign",
    "mean",
    "mean_around_median",
    "mean_of_finite",
    "median",
    "medoid",
    "minimum_diameter",
    "minimum_eigenvalue",
    "multi_krum",
    "nearest_to_pivot",
    "phocas",
    "robust_learning_rate",
    "sign_guard",
    "spectral_filter",
    "trimmed_mean",
    "zeno",
]

__getattr__ = _renamed(__name__, {})
