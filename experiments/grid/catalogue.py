"""Rules, mixings and attacks by name."""

import functools
from collections.abc import Callable
from typing import Any

import jax

import byzjax
from byzjax import attacks, stacked


def multi_krum(updates: Any, *, f: int, axis_name: str | None = None) -> Any:
    """Multi-Krum with its largest selection, `krum` with m = n - f - 2."""
    m = max(1, stacked.num_workers(updates) - f - 2)
    return byzjax.krum(updates, f=f, m=m, axis_name=axis_name)


def _strongest(attack: Callable, strength: str, short: str) -> Callable:
    """An attack of the library at its most damaging strength against the deployed rule."""

    def best(
        updates: Any,
        byzantine: jax.Array,
        *,
        rule: Callable,
        low: float = 0.01,
        high: float = 100.0,
        objective: str = "distance",
    ) -> Any:
        return attacks.strongest(
            updates,
            byzantine,
            attack=attack,
            rule=rule,
            strength=strength,
            low=low,
            high=high,
            objective=objective,
        )

    best.__name__ = f"strongest_{short}"
    best.__doc__ = f"`{attack.__name__}` at its most damaging strength against the deployed server."
    return best


def no_attack(updates: Any, byzantine: jax.Array) -> Any:
    """No attack: all workers are honest, whatever `byzantine` says."""
    del byzantine
    return updates


def _honest_updates_of_flipped_labels(updates: Any, byzantine: jax.Array) -> Any:
    """Data poisoning: the training step flips the labels of the Byzantine workers."""
    del byzantine
    return updates


def alternating(
    updates: Any,
    byzantine: jax.Array,
    step: jax.Array,
    *,
    f: int,
    every: int = 1,
    epsilon: float = 0.5,
) -> Any:
    """`little_is_enough` and `inner_product_manipulation` in turns."""
    both = attacks.alternating(
        functools.partial(attacks.little_is_enough, f=f),
        functools.partial(attacks.inner_product_manipulation, epsilon=epsilon),
        every=every,
    )
    return both(updates, byzantine, step)


# Stateful rules, which are transformations.
REMEMBERING: dict[str, Callable] = {
    "centered_clipping": byzjax.centered_clipping,
    "concentration_filter": byzjax.concentration_filter,
    "foolsgold": byzjax.foolsgold,
    "safeguard": byzjax.safeguard,
}


# All rules that need only the workers' updates.
RULES: dict[str, Callable] = {
    "mean": byzjax.mean,
    "median": byzjax.median,
    "trimmed_mean": byzjax.trimmed_mean,
    "krum": byzjax.krum,
    "multi_krum": multi_krum,
    "aksel": byzjax.aksel,
    "bulyan": byzjax.bulyan,
    "comparative_elimination": byzjax.comparative_elimination,
    "covariance_filter": byzjax.covariance_filter,
    "flag": byzjax.flag,
    "geometric_median": byzjax.geometric_median,
    "geometric_median_of_means": byzjax.geometric_median_of_means,
    "huber": byzjax.huber,
    "majority_sign": byzjax.majority_sign,
    "mean_around_median": byzjax.mean_around_median,
    "mean_of_finite": byzjax.mean_of_finite,
    "medoid": byzjax.medoid,
    "minimum_diameter": byzjax.minimum_diameter,
    "minimum_eigenvalue": byzjax.minimum_eigenvalue,
    "nearest_to_pivot": byzjax.nearest_to_pivot,
    "phocas": byzjax.phocas,
    "sign_guard": byzjax.sign_guard,
    "spectral_filter": byzjax.spectral_filter,
    **REMEMBERING,
}


def no_mixing(updates: Any) -> Any:
    """No mixing before the rule."""
    return updates


MIXINGS: dict[str, Callable] = {
    "none": no_mixing,
    "nearest_neighbors": byzjax.nearest_neighbors,
    "bucketing": byzjax.bucketing,
    "clip_norms": byzjax.clip_norms,
    "adaptive_clipping": byzjax.adaptive_clipping,
}


# All attacks that need only the workers' updates and the deployed rule; stateful ones are
# transformations.
ATTACKS: dict[str, Callable] = {
    "none": no_attack,
    "sign_flip": attacks.sign_flip,
    "little_is_enough": attacks.little_is_enough,
    "inner_product_manipulation": attacks.inner_product_manipulation,
    "gaussian": attacks.gaussian,
    "non_finite": attacks.non_finite,
    "flip_labels": _honest_updates_of_flipped_labels,
    "alternating": alternating,
    "anti_cge": attacks.anti_cge,
    "constant": attacks.constant,
    "dissensus": attacks.dissensus,
    "copy_worker": attacks.copy_worker,
    "drop": attacks.drop,
    "fang_krum": attacks.fang_krum,
    "fang_trimmed_mean": attacks.fang_trimmed_mean,
    "flip_bits": attacks.flip_bits,
    "gambler": attacks.gambler,
    "gradient_attack": attacks.gradient_attack,
    "hidden_vulnerability": attacks.hidden_vulnerability,
    "lose_coordinates": attacks.lose_coordinates,
    "min_max": attacks.min_max,
    "min_sum": attacks.min_sum,
    "mimic": attacks.mimic,
    "omniscient": attacks.omniscient,
    "order_statistic": attacks.order_statistic,
    "reversed_gradient": attacks.reversed_gradient,
    "stale": attacks.stale,
    "strongest_alie": _strongest(attacks.little_is_enough, "z", "alie"),
    "strongest_ipm": _strongest(attacks.inner_product_manipulation, "epsilon", "ipm"),
    "zero": attacks.zero,
}


# Hyperparameters that may be traced: attacks that differ only in these share one branch of a
# compiled program.
STRENGTHS: dict[str, tuple[str, ...]] = {
    "alternating": ("epsilon",),
    "anti_cge": ("margin",),
    "constant": ("value",),
    "dissensus": ("epsilon",),
    "drop": ("probability", "value"),
    "fang_trimmed_mean": ("factor",),
    "gambler": ("factor", "probability"),
    "gaussian": ("sigma",),
    "hidden_vulnerability": ("gamma",),
    "inner_product_manipulation": ("epsilon",),
    "little_is_enough": ("z",),
    "lose_coordinates": ("share", "value"),
    "omniscient": ("factor",),
    "reversed_gradient": ("kappa",),
}


MOST_STRENGTHS = max(map(len, STRENGTHS.values()))


TABLES: dict[str, dict[str, Callable]] = {"rule": RULES, "mixing": MIXINGS, "attack": ATTACKS}
