"""Momentum at the workers, compared with momentum of the update.

Claim (El-Mhamdi, Guerraoui, Rouault, Distributed Momentum for Byzantine-resilient SGD, ICLR 2021,
arXiv:2003.00010): with momentum at the workers, which lowers the variance of the updates relative
to their norm, robust rules withstand little_is_enough and inner product manipulation better than
with the classical momentum of the update.

    python -m experiments study momentum --edition cpu

MNIST, MLP 784-100-10, n = 51, f in {12, 24}, s in {0, f}; undamped momentum of 0.9 (m = 0.9 m + g)
at both places, so that step sizes are comparable; l2 1e-4, gradients clipped at 2, 300 steps. The
full edition has the paper's batch of 83, step sizes 0.5 and 0.02, and 5 seeds; Aksel and the
geometric median are added, Nesterov's momentum and Bulyan are omitted. The CPU edition has batch
16, step size 0.02 and 3 seeds, and is expected to take less than half an hour on 2 cores.
"""

from typing import Any

from experiments.grid.config import Config

_RULES = ("median", "trimmed_mean", "krum", "aksel", "mean_around_median", "phocas")
# mu - 1.5 sigma, and -0.1 mu, as in the paper's commands.
_ATTACKS = ("none", "little_is_enough(z=1.5)", "inner_product_manipulation(epsilon=0.1)")


def _grids(places: tuple[str, ...], rates: tuple[float, ...], **shared: Any) -> tuple[Config, ...]:
    return tuple(
        Config(
            study="momentum",
            dataset="mnist",
            model="mlp",
            attack=_ATTACKS,
            n=51,
            f=f,
            s=(0, f),
            momentum=0.9,
            momentum_at=place,
            momentum_kind="undamped",
            learning_rate=rate,
            schedule="hyperbolic(300)",
            weight_decay=1e-4,
            clip=2.0,
            steps=300,
            **shared,
        )
        for f in (12, 24)
        for place in places
        for rate in rates
    )


EDITIONS = {
    "full": _grids(
        ("worker", "update"),
        (0.5, 0.02),
        rule=(*_RULES, "geometric_median"),
        batch_size=83,
        seeds=5,
        eval_every=5,
    ),
    "cpu": _grids(
        ("worker", "update"),
        (0.02,),
        rule=_RULES[:4],
        batch_size=16,
        seeds=3,
        eval_every=25,
    ),
}
