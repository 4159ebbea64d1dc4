"""Aksel and contemporary rules, with no, few and f Byzantine workers.

Claims (the abstract of AKSEL: Fast Byzantine SGD, OPODIS 2020; no other number of the paper is
available to us): Aksel is the only rule that reaches top accuracy with no or few Byzantine workers,
while it remains a good defence against as many as are tolerated (s = f).

    python -m experiments study aksel --edition cpu

The settings are those of code by the same authors from the same year (Distributed Momentum,
arXiv:2003.00010): MNIST and Fashion-MNIST, MLP 784-100-10, n = 51, f in {12, 24}, 300 steps, l2
1e-4, clipping at 2; in the full edition batch 83, s in {0, 1, f/4, f/2, f}, momentum at worker and
at update, 5 seeds, and CIFAR-10 with n = 25, f in {5, 11}, 3,000 steps, step size 0.01, GroupNorm
in place of BatchNorm; it needs an accelerator. All momentum is undamped; of the two step sizes in
the code for each data set, the smaller one is used. The CPU edition has MNIST only, batch 16,
worker momentum, s in {0, f/2, f} and for f = 12 four rules also at s in {1, f/4}, 3 seeds; it is
expected to take less than an hour on 2 cores.
"""

from typing import Any

from experiments.grid.config import Config

_AKSEL = ("aksel", "aksel(mode='n-f')", "aksel(mode='radius')")
_RIVALS = (
    *("mean", "median", "trimmed_mean", "mean_around_median", "phocas"),
    *("krum", "multi_krum", "geometric_median"),
)
_ATTACKS = (
    *("none", "little_is_enough(z=1.5)", "inner_product_manipulation(epsilon=0.1)"),
    *("sign_flip", "flip_labels"),
)


def _grid(f: int, s: tuple[int, ...], rules: tuple[str, ...], **more: Any) -> Config:
    """One grid; Bulyan is added if n allows."""
    settings: dict[str, Any] = {
        "n": 51,
        "model": "mlp",
        "steps": 300,
        "schedule": "hyperbolic(300)",
        "clip": 2.0,
    }
    settings |= {"weight_decay": 1e-4, "momentum": 0.9} | more
    if rules != _FEW and settings["n"] >= 4 * f + 3:
        rules = (*rules, "bulyan")
    return Config(study="aksel", rule=rules, f=f, s=s, **settings)


_FEW = ("aksel", "median", "krum", "trimmed_mean")
_CPU: dict[str, Any] = {
    "dataset": "mnist",
    "attack": _ATTACKS,
    "batch_size": 16,
    "learning_rate": 0.02,
    "momentum_kind": "undamped",
    "seeds": 3,
    "eval_every": 25,
}


def _full(dataset: str, f: int, place: str, **more: Any) -> Config:
    s = tuple(sorted({0, 1, f // 4, f // 2, f}))
    attacks = (*_ATTACKS, "hidden_vulnerability(gamma=1.0)")
    return _grid(
        f,
        s,
        _AKSEL + _RIVALS,
        dataset=dataset,
        attack=attacks,
        momentum_at=place,
        momentum_kind="undamped",
        seeds=5,
        **more,
    )


_IMAGES: dict[str, Any] = {"batch_size": 83, "learning_rate": 0.02, "eval_every": 5}
_CIFAR: dict[str, Any] = {
    "n": 25,
    "model": "cnn_cifar",
    "batch_size": 50,
    "steps": 3000,
    "learning_rate": 0.01,
    "schedule": "hyperbolic(167)",
    "momentum": 0.99,
    "weight_decay": 1e-2,
    "clip": 5.0,
    "eval_every": 100,
}

EDITIONS = {
    "full": (
        *(
            _full(dataset, f, place, **_IMAGES)
            for dataset in ("mnist", "fashion_mnist")
            for f in (12, 24)
            for place in ("worker", "update")
        ),
        *(_full("cifar10", f, place, **_CIFAR) for f in (5, 11) for place in ("worker", "update")),
    ),
    "cpu": (
        *(_grid(f, (0, f // 2, f), _AKSEL + _RIVALS, **_CPU) for f in (12, 24)),
        _grid(12, (1, 3), _FEW, **_CPU),
    ),
}
