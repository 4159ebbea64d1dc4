"""Attacks: functions that replace Byzantine rows of stacked updates or poison their data."""

from byzjax._deprecated import renamed as _renamed
from byzjax.attacks.adaptive import default_starts, gradient_attack, strongest
from byzjax.attacks.around_median import pushed
from byzjax.attacks.backdoors import constrain_and_scale, model_replacement, neurotoxin
from byzjax.attacks.bounded import min_max, min_sum
from byzjax.attacks.data import add_trigger, distributed_trigger, flip_labels, shift_tokens
from byzjax.attacks.dissensus import dissensus
from byzjax.attacks.faults import drop, flip_bits, lose_coordinates, non_finite
from byzjax.attacks.over_time import alternating, copy_worker, mimic, rotating, sleeping, stale
from byzjax.attacks.simple import constant, gambler, gaussian, zero
from byzjax.attacks.sparse import hybrid_sparse, pruning_mask
from byzjax.attacks.statistical import (
    byz_mean,
    inner_product_manipulation,
    little_is_enough,
    little_is_enough_z,
    omniscient,
    relocated,
    reversed_gradient,
    sign_flip,
)
from byzjax.attacks.targeted import (
    anti_cge,
    fang_krum,
    fang_trimmed_mean,
    hidden_vulnerability,
    order_statistic,
)

__all__ = [
    "add_trigger",
    "alternating",
    "anti_cge",
    "byz_mean",
    "constant",
    "constrain_and_scale",
    "copy_worker",
    "default_starts",
    "dissensus",
    "distributed_trigger",
    "drop",
    "fang_krum",
    "fang_trimmed_mean",
    "flip_bits",
    "flip_labels",
    "gambler",
    "gaussian",
    "gradient_attack",
    "hidden_vulnerability",
    "hybrid_sparse",
    "inner_product_manipulation",
    "little_is_enough",
    "little_is_enough_z",
    "lose_coordinates",
    "mimic",
    "min_max",
    "min_sum",
    "model_replacement",
    "neurotoxin",
    "non_finite",
    "omniscient",
    "order_statistic",
    "pruning_mask",
    "pushed",
    "relocated",
    "reversed_gradient",
    "rotating",
    "shift_tokens",
    "sign_flip",
    "sleeping",
    "stale",
    "strongest",
    "zero",
]

__getattr__ = _renamed(__name__, {})
