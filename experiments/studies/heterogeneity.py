"""How heterogeneous the data may be: Dirichlet alpha against f, with and without a mixing.

Claim (Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, Fixing by Mixing, AISTATS 2023,
arXiv:2302.01772): on heterogeneous data robust rules lose accuracy as f grows, and averaging each
update with its nearest neighbours before the rule recovers most of it.

    python -m experiments study heterogeneity --edition cpu

MNIST, MLP 784-100-10, n = 25, s = f, damped worker momentum of 0.9, step size 0.5. The CPU edition
has alpha in {0.1, 1, 10}, f in {2, 4, 6} (13 buckets allow no more), three rules, three mixings,
two attacks, batch 16, 200 steps and 2 seeds; it is expected to take less than half an hour on 2
cores. The full edition has six alphas, f in {1, 2, 4, 6}, four rules, four attacks, batch 32, 800
steps and 5 seeds.
"""

from typing import Any

from experiments.grid.config import Config


def _grids(alphas: tuple[float, ...], fs: tuple[int, ...], **more: Any) -> tuple[Config, ...]:
    return tuple(
        Config(
            study="heterogeneity",
            dataset="mnist",
            model="mlp",
            mixing=("none", "nearest_neighbors", "bucketing(s=2)"),
            n=25,
            f=f,
            s=(f,),
            learning_rate=0.5,
            partition=f"dirichlet({alpha:g})",
            **more,
        )
        for alpha in alphas
        for f in fs
    )


EDITIONS = {
    "full": _grids(
        (0.03, 0.1, 0.3, 1, 3, 10),
        (1, 2, 4, 6),
        rule=("median", "trimmed_mean", "aksel", "geometric_median"),
        attack=(
            "little_is_enough",
            "sign_flip",
            "inner_product_manipulation(epsilon=0.1)",
            "mimic",
        ),
        batch_size=32,
        steps=800,
        seeds=5,
    ),
    "cpu": _grids(
        (0.1, 1, 10),
        (2, 4, 6),
        rule=("median", "trimmed_mean", "aksel"),
        attack=("little_is_enough", "sign_flip"),
        batch_size=16,
        steps=200,
        seeds=2,
        eval_every=50,
    ),
}
