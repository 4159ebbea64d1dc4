"""What differential privacy of the workers' data costs under attack: noise, rules and attackers.

Claim (Allouah, Guerraoui, Gupta, Pinot, Stephan, On the Privacy-Robustness-Utility Trilemma in
Distributed Learning, ICML 2023, arXiv:2302.04787): privacy and robustness together cost more than
each alone, since noise is variance to hide in; of the rules, SMEA (`minimum_eigenvalue`) suffers
least, as its error grows with the largest eigenvalue of that variance, not with its trace.

    python -m experiments study privacy --edition cpu

MNIST, softmax regression, n = 11, f = 3, s in {0, 1, 3}, damped worker momentum of 0.9 (with SMEA:
SAFE-DSHB), step size 0.5; the gradient of each example is clipped at 1, and the noise multiplier is
0, 1, 3 or 10. A worker has 5,454 samples, and draws batches without replacement. For delta 1e-4,
`byzjax.privacy.epsilon` of the CPU edition, 400 steps of batches of 64, is 13.8, 1.34 and 0.30 for
multipliers of 1, 3 and 10. Rules are the mean, the median, the trimmed mean, also after nearest
neighbours, and SMEA; attacks are little_is_enough, sign_flip and inner product manipulation. The
CPU edition has 2 seeds and is expected to take 45 minutes on 2 cores; the full edition has the MLP,
batches of 128, 1,000 steps, six multipliers and 5 seeds.
"""

from typing import Any

from experiments.grid.config import Config

_FORMS = (
    (("mean", "median", "trimmed_mean", "minimum_eigenvalue"), "none"),
    (("trimmed_mean",), "nearest_neighbors"),
)


def _grids(noise: tuple[float, ...], **more: Any) -> tuple[Config, ...]:
    return tuple(
        Config(
            study="privacy",
            dataset="mnist",
            rule=rules,
            mixing=(mixing,),
            attack=(
                "none",
                "little_is_enough",
                "sign_flip",
                "inner_product_manipulation(epsilon=0.5)",
            ),
            n=11,
            f=3,
            s=(0, 1, 3),
            learning_rate=0.5,
            clip_examples=1.0,
            noise_multiplier=z,
            **more,
        )
        for z in noise
        for rules, mixing in _FORMS
    )


EDITIONS = {
    "full": _grids(
        (0.0, 0.5, 1.0, 2.0, 4.0, 8.0),
        model="mlp",
        batch_size=128,
        steps=1000,
        seeds=5,
        eval_every=50,
    ),
    "cpu": _grids(
        (0.0, 1.0, 3.0, 10.0),
        model="softmax",
        batch_size=64,
        steps=400,
        seeds=2,
        eval_every=100,
    ),
}
