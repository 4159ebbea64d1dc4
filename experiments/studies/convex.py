"""Logistic regression: how close to the optimum training gets, with and without attackers.

Claim (On the Tension between Byzantine Robustness and No-Attack Accuracy, ICML 2025): a rule that
tolerates f of n Byzantine workers has a cost without any. For every such rule there are honest
updates whose mean it misses by a squared distance of f / (n - f) times their variance; so on
heterogeneous data training stops away from the optimum with s = 0, whatever the number of steps.

    python -m experiments study convex --edition cpu

a9a and mushrooms, partitioned by Dirichlet(0.3), n = 25, f in {5, 11}, s in {0, f}; l2 0.01, batch
64, cosine step size from 0.5 to zero, damped worker momentum of 0.9. The optimum is that of the
mean of the honest workers' losses and the l2 term, with equal weight per worker; the column
`to_optimum` is the distance to it. The CPU edition has 1,000 steps and 3 seeds, and is expected to
take less than ten minutes on 2 cores; the full edition has 10,000 steps, 10 seeds, and spambase.
"""

from typing import Any

from experiments.grid.config import Config


def _grids(datasets: tuple[str, ...], **more: Any) -> tuple[Config, ...]:
    return tuple(
        Config(
            study="convex",
            dataset=dataset,
            model="logistic",
            rule=("mean", "median", "trimmed_mean", "aksel", "aksel(mode='n-f')", "krum"),
            attack=(
                *("none", "sign_flip", "little_is_enough"),
                "inner_product_manipulation(epsilon=0.5)",
            ),
            n=25,
            f=f,
            s=(0, f),
            batch_size=64,
            learning_rate=0.5,
            schedule="cosine",
            weight_decay=0.01,
            partition="dirichlet(0.3)",
            optimum=True,
            **more,
        )
        for dataset in datasets
        for f in (5, 11)
    )


EDITIONS = {
    "full": _grids(("a9a", "mushrooms", "spambase"), steps=10_000, eval_every=500, seeds=10),
    "cpu": _grids(("a9a", "mushrooms"), steps=1000, eval_every=100, seeds=3),
}
