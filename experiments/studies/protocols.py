"""Comparison of communication protocols under the same attacks.

Claim: replacing the trusted server costs messages and time, not accuracy. Replicated servers and
gossip tolerate Byzantine servers or peers (El-Mhamdi et al., Genuinely Distributed Byzantine
Machine Learning, PODC 2020: about a third more steps than plain SGD); redundant gradients correct
up to s Byzantine workers per group exactly (Chen et al., DRACO, ICML 2018); Kardam tolerates a
third of the workers without waiting for any (Damaskinos et al., ICML 2018).

    python -m experiments study protocols --edition cpu

MNIST, MLP 784-100-10, n = 15, of which 4 are Byzantine, and one server in five if there are
several; no momentum, step size 0.1, batch 16, 450 steps. A step of an asynchronous protocol is one
gradient, so those take 15 times as many, with damping 1 / (1 + tau), tau about 14. Aksel aggregates
everywhere but in Kardam, which filters, and in DRACO, which decodes. The CPU edition has 3 seeds
and is expected to take less than half an hour on 2 cores; the full edition has 10 seeds and twice
the steps.
"""

from typing import Any

from experiments.grid.config import Config

N, F = 15, 4
# Protocol, rule, and its steps per parameter-server step for an equal number of gradients.
PROTOCOLS = (
    ("parameter_server", "aksel", 1),
    ("replicated_servers(num_servers=5, f_servers=1, pull='aksel', contract='aksel')", "aksel", 1),
    ("replicated_state_machine(num_servers=5, f_servers=1)", "aksel", 1),
    ("gossip(graph='complete')", "aksel", 1),
    ("gossip(graph='random_regular', degree=10, seed=0)", "aksel", 1),
    ("redundant(code='cyclic')", "mean", 1),
    ("redundant(r=3, s=1)", "aksel(f=2)", 1),
    ("asynchronous", "mean", N),
    ("asynchronous(judge='kardam')", "mean", N),
    ("asynchronous(buffers=9)", "aksel", N),
)


def _grids(steps: int, **shared: Any) -> tuple[Config, ...]:
    return tuple(
        Config(
            study="protocols",
            dataset="mnist",
            model="mlp",
            protocol=protocol,
            rule=(rule,),
            attack=(
                "none",
                "sign_flip",
                "little_is_enough",
                "inner_product_manipulation(epsilon=0.5)",
                "gaussian(sigma=200)",
                "reversed_gradient(kappa=100)",
            ),
            n=N,
            f=F,
            s=(0, F),
            momentum=0.0,
            learning_rate=0.1,
            steps=steps * times,
            eval_every=steps * times // 9,
            eval_samples=2000,
            **shared,
        )
        for protocol, rule, times in PROTOCOLS
    )


EDITIONS = {"full": _grids(900, seeds=10), "cpu": _grids(450, seeds=3)}
