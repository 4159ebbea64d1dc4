"""Attacks: functions that replace the liars' rows of stacked updates, and poison their data."""

from byzjax.attacks.data import flip_labels
from byzjax.attacks.faults import non_finite
from byzjax.attacks.statistical import (
    gaussian,
    inner_product_manipulation,
    little_is_enough,
    little_is_enough_z,
    sign_flip,
)

__all__ = [
    "flip_labels",
    "gaussian",
    "inner_product_manipulation",
    "little_is_enough",
    "little_is_enough_z",
    "non_finite",
    "sign_flip",
]
