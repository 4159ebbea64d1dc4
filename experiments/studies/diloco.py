"""Local steps under attack: a small language model by DiLoCo.

Claim (Douillard et al., DiLoCo: Distributed Low-Communication Training of Language Models, 2023,
arXiv:2311.08105): workers that take H steps of AdamW between two messages, and a server that takes
a step of Nesterov momentum along the mean of their differences, learn as well from the same text
with a fraction of the messages. Here some of them lie. Local steps make honest differences longer
and less alike, and leave the server fewer messages: does a robust rule in place of the mean keep
what the claim promises?

    python -m experiments study diloco --edition cpu

tiny_shakespeare, `gpt_nano` (205,440 parameters), n = 16, f = 3, s in {0, 3}; H in {1, 10, 50},
with the same text for each H. Rules: mean, median, trimmed mean, also after nearest neighbours,
geometric median, Aksel with n - f rows, and centered clipping, whose radius is about the distance
of honest differences to their mean. Attacks: sign flips, little_is_enough, inner product
manipulation, noise, and `sleeping`, workers that are honest until half of the rounds are over. What
counts is the loss on text that no worker holds. The workers' step size of each H is the best of
0.00003, 0.0001, 0.0003, 0.001 and 0.003 for the mean without attackers, by the loss on 780 windows
held out of the training text, with seed 0 and the text of the CPU edition.

The CPU edition has 3 seeds, and each worker has its own plays. It is thinned by the text alone: 200
local steps of one window of 64 characters for each worker, so that it is expected to take an hour
and a half on 2 cores. No run comes near convergence, and with H = 50 the server takes four steps.
The full edition has 3,000 local steps of 8 windows, 5 seeds, and plays dealt at random as well.
"""

from typing import Any

from experiments.grid.config import Config

LOCAL = {1: (0.001, 0.5), 10: (0.003, 2.0), 50: (0.003, 6.0)}
"""The workers' step size and the radius of centered clipping, by H."""


def _grids(local_steps: int, windows: int, evaluations: int, **more: Any) -> tuple[Config, ...]:
    out = []
    for h, (rate, radius) in LOCAL.items():
        rounds = local_steps // h
        rules = (
            *("mean", "median", "trimmed_mean", "geometric_median", "aksel(mode='n-f')"),
            f"centered_clipping(radius={radius})",
        )
        for some, mixing in ((rules, "none"), (("trimmed_mean",), "nearest_neighbors")):
            grid = Config(
                study="diloco",
                dataset="tiny_shakespeare",
                model="gpt_nano",
                rule=some,
                mixing=(mixing,),
                attack=(
                    *("none", "sign_flip", "little_is_enough(z=1.5)"),
                    *("inner_product_manipulation(epsilon=0.5)", "gaussian(sigma=1.0)"),
                    f"sleeping(until={rounds // 2}, epsilon=5.0)",
                ),
                protocol=f"parameter_server(local_steps={h}, local='adamw', local_rate={rate}, "
                "keep_local_state=True)",
                n=16,
                f=3,
                s=(0, 3),
                steps=rounds,
                batch_size=h * windows,
                learning_rate=0.7,
                momentum=0.9,
                momentum_at="update",
                momentum_kind="nesterov",
                eval_every=rounds // evaluations,
                **more,
            )
            out.append(grid)
    return tuple(out)


EDITIONS = {
    "full": tuple(
        grid
        for partition in ("contiguous", "iid")
        for grid in _grids(3000, 8, 10, partition=partition, seeds=5)
    ),
    "cpu": _grids(200, 1, 4, partition="contiguous", seeds=3, eval_samples=200),
}
