"""Accuracy against bits: compressed updates under attack.

Claim (RoSDHB: Gupta, Honsell, Xu, Gupta and Neglia, AISTATS 2026): robust rules withstand attacks
on compressed updates if all workers send the same coordinates. With top_k each worker sends others,
and most values of a coordinate are zero, so that a median is zero too; few levels of quantization
(QSGD: Alistarh et al., NeurIPS 2017) round most of them to zero as well. Error feedback
(Karimireddy, Rebjock, Stich and Jaggi, ICML 2019) sends later what is left out. What does a bit
buy, with and without liars?

    python -m experiments study compression --edition cpu

MNIST, MLP 784-100-10 (79,510 parameters), n = 16, f = 3, s in {0, 3}, momentum at the workers,
batch 32, 300 steps; what liars send has the honest workers' format. Compressors: none; the largest
1 % with error feedback (1.5 % of the bits); a tenth of the coordinates, drawn anew in each step
and shared by all (10 %); 4 bits a coordinate (12.5 %); signs (3.1 %) with error feedback. The CPU
edition has 2 seeds and is expected to take less than an hour on 2 cores; the full edition has
5 seeds, more rules, coordinates of each worker's own, EF21, and data by Dirichlet(0.3) as well.
"""

from typing import Any

from experiments.grid.config import Config

_COMPRESSORS = (
    "none",
    "top_k(k=0.01, feedback='error_feedback', byzantine=True)",
    "rand_k(k=0.1, shared=True, byzantine=True)",
    "quantize(bits=4, byzantine=True)",
    "sign(feedback='error_feedback', byzantine=True)",
)
_MORE = (
    "rand_k(k=0.1, feedback='error_feedback', byzantine=True)",
    "top_k(k=0.01, feedback='ef21', byzantine=True)",
    "top_k(k=0.1, feedback='error_feedback', byzantine=True)",
)
_RULES = ("mean", "median", "trimmed_mean", "aksel(mode='n-f')")
_ATTACKS = ("none", "sign_flip", "little_is_enough", "inner_product_manipulation(epsilon=0.5)")


def _grids(compressors: tuple[str, ...], **more: Any) -> tuple[Config, ...]:
    return tuple(
        Config(
            study="compression",
            dataset="mnist",
            model="mlp",
            attack=_ATTACKS,
            compressor=compressor,
            n=16,
            f=3,
            s=(0, 3),
            steps=300,
            batch_size=32,
            eval_every=50,
            **more,
        )
        for compressor in compressors
    )


EDITIONS = {
    "full": tuple(
        grid
        for partition in ("iid", "dirichlet(0.3)")
        for grid in _grids(
            (*_COMPRESSORS, *_MORE),
            rule=(*_RULES, "geometric_median", "krum", "phocas"),
            mixing=("none", "nearest_neighbors"),
            partition=partition,
            seeds=5,
        )
    ),
    "cpu": _grids(_COMPRESSORS, rule=_RULES, seeds=2, eval_samples=2000),
}
