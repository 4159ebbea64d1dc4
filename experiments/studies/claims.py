"""What AKSEL's abstract says, tested with pairs of runs that share everything but the rule.

Claim (Boussetta, El-Mhamdi, Guerraoui, Maurer, Rouault, AKSEL: Fast Byzantine SGD, OPODIS 2020,
abstract): AKSEL is the only rule that reaches top accuracy when there are none or few Byzantine
workers, while it maintains a good defence when s = f; and rules that work coordinate by coordinate
lose accuracy when s is much smaller than f. Also: where its mode `n-f` is better, and where `mid`.

    python -m experiments study claims --edition cpu

n = 25, f = 8 (the most with f / n below a third, so that every rule has its guarantee), s in {0, 1,
f / 4, f / 2, f}, damped worker momentum of 0.9, 10 seeds. All rules of a seed have the same initial
model, data, batches and Byzantine workers, so that their differences are paired. Samples are
partitioned among the honest workers: iid, by Dirichlet(0.3) and Dirichlet(0.1), and with one class
a worker. Rules: Aksel's three modes, mean, median, trimmed mean, Krum, Multi-Krum, MeaMed, Phocas,
geometric median, CGE, CAF, and the trimmed mean of nearest neighbours. Attacks: inner product
manipulation of 0.1 and 0.5, little_is_enough, sign flips, and `pushed` against each of Aksel's two
numbers of rows.

The full edition is MNIST (MLP and softmax), digits (MLP and softmax) and CIFAR-10, all with batch 1
and 16. The CPU edition is thinned to about 90 minutes on 2 cores: digits with an MLP and batch 16,
all partitions; digits with softmax and batch 1, iid and one class a worker; MNIST with softmax and
batch 16, one class a worker; and, for six rules and s in {0, f / 4, f}, MNIST with an MLP and
batch 16, Dirichlet(0.3). Only little_is_enough and inner product manipulation of 0.1 have s < f.

A rule reaches top accuracy in a cell if the 95 % interval of its accuracy, less that of the mean
without attackers at the same seed, lies above -1 point. This was fixed before any run.
"""

from collections.abc import Sequence
from typing import Any

from experiments.grid.config import Config

F = 8
PARTITIONS = ("iid", "dirichlet(0.3)", "dirichlet(0.1)", "one_class")
RULES = (
    *("aksel", "aksel(mode='n-f')", "aksel(mode='radius')", "mean", "median", "trimmed_mean"),
    *("krum", "multi_krum", "mean_around_median", "phocas", "geometric_median"),
    *("comparative_elimination", "covariance_filter"),
)
FEWER = ("aksel", "aksel(mode='n-f')", "mean", "median", "trimmed_mean", "multi_krum")
EVERY_S = ("little_is_enough", "inner_product_manipulation(epsilon=0.1)")
ALL_LIARS = (
    *("inner_product_manipulation(epsilon=0.5)", "sign_flip"),
    *("pushed(direction='against')", "pushed(mode='n-f', direction='against')"),
)
DATA: dict[str, dict[str, Any]] = {
    "digits, mlp": {"dataset": "digits", "model": "mlp", "learning_rate": 0.2, "steps": 200},
    "digits, softmax": {
        "dataset": "digits",
        "model": "softmax",
        "learning_rate": 0.2,
        "steps": 300,
    },
    "mnist, mlp": {"dataset": "mnist", "model": "mlp", "learning_rate": 0.5, "steps": 200},
    "mnist, softmax": {"dataset": "mnist", "model": "softmax", "learning_rate": 0.02, "steps": 200},
    "cifar10": {"dataset": "cifar10", "model": "cnn_cifar", "learning_rate": 0.05, "steps": 2000},
}


def _grids(
    data: str,
    batch: int,
    partitions: Sequence[str] = PARTITIONS,
    rules: Sequence[str] = RULES,
    few: tuple[int, ...] = (0, 1, F // 4, F // 2, F),
    thinned: bool = True,
) -> tuple[Config, ...]:
    """The grids of a data set and a batch size; without thinning, every attack has every s."""
    shared: dict[str, Any] = {
        **DATA[data],
        "study": "claims",
        "n": 25,
        "f": F,
        "seeds": 10,
        "batch_size": batch,
        "dealt_to": "honest",
        "eval_every": DATA[data]["steps"] // 4,
    }
    defences = [(tuple(rules), "none")]
    if "phocas" in rules:
        defences.append((("trimmed_mean",), "nearest_neighbors"))
    attacks = [(EVERY_S, few), (ALL_LIARS, (F,))] if thinned else [((*EVERY_S, *ALL_LIARS), few)]
    return tuple(
        Config(rule=names, mixing=(mixing,), attack=attack, s=s, partition=partition, **shared)
        for names, mixing in defences
        for attack, s in attacks
        for partition in partitions
    )


EDITIONS = {
    "full": tuple(
        grid for data in DATA for batch in (16, 1) for grid in _grids(data, batch, thinned=False)
    ),
    "cpu": (
        *_grids("digits, mlp", 16),
        *_grids("digits, softmax", 1, ("iid", "one_class")),
        *_grids("mnist, softmax", 16, ("one_class",)),
        *_grids("mnist, mlp", 16, ("dirichlet(0.3)",), FEWER, (0, F // 4, F)),
    ),
}
