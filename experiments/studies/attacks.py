"""Which attack is most damaging to which rule in training.

Claim: none beforehand; attacks are ranked by the remaining accuracy. On single aggregations,
without training, `python -m experiments worst-case` ranks them.

    python -m experiments study attacks --edition cpu

MNIST, MLP 784-100-10, n = 25, s = f = 11, damped worker momentum of 0.9, step size 0.5. The CPU
edition has batch 16, 200 steps and 3 seeds, and is expected to take less than an hour on 2 cores,
much of it compilation. The full edition has nine rules, each also after nearest_neighbors, batch
83, 600 steps and 5 seeds, and a white-box attack: in every training step `gradient_attack` takes
three steps, one along the gradient, one random and one outward, from its best start, from random
rows, and from combinations of its starts (3 s per step on 2 cores).
"""

from typing import Any

from experiments.grid.config import Config

_ATTACKS = (
    *("none", "sign_flip", "reversed_gradient", "gaussian(sigma=1.0)", "zero", "non_finite"),
    *("flip_bits", "flip_labels", "mimic", "stale(delay=10)", "anti_cge"),
    *("little_is_enough", "little_is_enough(z=1.5)", "strongest_alie"),
    *("inner_product_manipulation(epsilon=0.1)", "inner_product_manipulation(epsilon=0.5)"),
    *("strongest_ipm", "alternating", "min_max", "min_sum", "fang_krum", "fang_trimmed_mean"),
    "hidden_vulnerability(gamma=1.0)",
)


def _grid(**more: Any) -> Config:
    return Config(
        study="attacks",
        dataset="mnist",
        model="mlp",
        n=25,
        f=11,
        s=(0, 11),
        learning_rate=0.5,
        **more,
    )


_RULES = ("median", "krum", "trimmed_mean", "aksel", "geometric_median")

EDITIONS = {
    "full": (
        _grid(
            attack=(*_ATTACKS, "gradient_attack(steps=3, ascents=1)"),
            rule=("mean", *_RULES, "multi_krum", "mean_around_median", "covariance_filter"),
            mixing=("none", "nearest_neighbors"),
            batch_size=83,
            steps=600,
            seeds=5,
        ),
    ),
    "cpu": (_grid(attack=_ATTACKS, rule=_RULES, batch_size=16, steps=200, seeds=3),),
}
