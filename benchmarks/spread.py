"""Distance between honest models: `python -m benchmarks.spread`, and `--write docs` for the page.

Least squares in 20 dimensions, where each worker has its own point; the distance is the largest
between two honest models over the last 20 of 100 steps, the largest under any of the attacks.
Replicated servers: n_ps = 6, f_ps = 1, quorums of 4 and 5, and up to 3 Byzantine servers. Gossip:
trimmed_mean with the largest f that the smallest neighbourhood allows, with at most f Byzantine
nodes in any neighbourhood, and then with f + 1 around one node.
"""

import itertools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

import byzjax
from benchmarks.pages import environment, markdown, write_csv, written
from byzjax import attacks, protocols
from byzjax._program import Parser
from byzjax.protocols import graphs

DIM, STEPS, LAST = 20, 100, 20
KEY = jax.random.key(0)


def loss_fn(params: jax.Array, batch: jax.Array, key: Any = None) -> jax.Array:
    """Half the squared distance to the only point of the batch."""
    del key
    return 0.5 * jnp.sum((params - batch[0]) ** 2)


def model_attacks(byzantine: jax.Array) -> dict[str, optax.GradientTransformation]:
    """Attacks on models."""
    return {
        "reversed_gradient(kappa=10)": byzjax.attack(
            attacks.reversed_gradient, byzantine, kappa=10.0
        ),
        "inner_product_manipulation(epsilon=3)": byzjax.attack(
            attacks.inner_product_manipulation, byzantine, epsilon=3.0
        ),
        "little_is_enough(z=3)": byzjax.attack(attacks.little_is_enough, byzantine, z=3.0),
        "gaussian(sigma=10)": byzjax.attack(attacks.gaussian, byzantine, sigma=10.0, key=KEY),
        "constant(value=1e30)": byzjax.attack(attacks.constant, byzantine, value=1e30),
        "non_finite": byzjax.attack(attacks.non_finite, byzantine),
    }


def farthest(make: Callable, byzantine: jax.Array, attack: Any, n: int) -> float:
    """The largest distance between honest models in the last steps."""
    points = jax.random.normal(jax.random.key(1), (n, 1, DIM))
    honest = jnp.flatnonzero(~byzantine)

    @jax.jit
    def run() -> jax.Array:
        protocol = make(byzantine, attack)

        def step(state: Any, k: jax.Array) -> tuple[Any, jax.Array]:
            state, _ = protocol.step(state, {"workers": points}, jax.random.fold_in(KEY, k))
            return state, protocols.diameter(state.params[honest])

        start = protocol.init(jnp.zeros(DIM), KEY)
        return jnp.max(lax.scan(step, start, jnp.arange(STEPS))[1][-LAST:])

    distance = float(run())
    return math.inf if math.isnan(distance) else distance


def said(distance: float) -> str:
    """The distance as printed; NaN counts as infinite."""
    return f"{distance:.2f}" if distance < 1e4 else f"{distance:.0e}"


def servers(pull: Callable, **hyper: Any) -> Callable:
    """Six servers that use five of seven gradients each."""

    def make(byzantine: jax.Array, attack: Any) -> protocols.Protocol:
        aggregate = byzjax.aggregate(pull, **hyper)
        return protocols.replicated_servers(
            loss_fn,
            num_servers=6,
            num_workers=7,
            f_servers=1,
            f_workers=2,
            pull=aggregate,
            contract=aggregate,
            rule=byzjax.aggregate(byzjax.median),
            server=optax.sgd(0.1),
            attack_models=attack,
            byzantine_servers=byzantine,
            quorum_servers=4,
        )

    return make


def measure_servers() -> list[dict[str, Any]]:
    """One row for each rule and attack."""
    rows = []
    for name, make in (
        ("median", servers(byzjax.median)),
        ("aksel", servers(byzjax.aksel, f=1)),
        ("mid_extremes", servers(protocols.mid_extremes)),
    ):
        honest = farthest(make, jnp.zeros(6, bool), None, 7)
        for attack in model_attacks(jnp.zeros(6, bool)):
            row: dict[str, Any] = {"pull and contract": name, "attack on models": attack}
            row["no liar"] = said(honest)
            for count in (1, 2, 3):
                byzantine = jnp.arange(6) < count
                row[f"{count} lying"] = said(
                    farthest(make, byzantine, model_attacks(byzantine)[attack], 7)
                )
            rows.append(row)
    return rows


GRAPHS = {
    "complete(10)": graphs.complete(10),
    "ring(9)": graphs.ring(9),
    "torus(3, 4)": graphs.torus(3, 4),
    "star(9)": graphs.star(9),
    "random_regular(16, 6)": graphs.random_regular(16, 6, 0),
    "erdos_renyi(16, 0.5)": graphs.erdos_renyi(16, 0.5, 0),
    "small_world(16, 6, 0.2)": graphs.small_world(16, 6, 0.2, 0),
    "two_cliques(12, 2)": graphs.two_cliques(12, 2),
    "dumbbell(6, 1)": graphs.dumbbell(6, 1),
}


def placed(heard: tuple[tuple[int, ...], ...], f: int) -> set[int]:
    """The most Byzantine nodes, chosen by index, with at most f in any neighbourhood."""
    chosen: set[int] = set()
    for node in range(len(heard)):
        wider = chosen | {node}
        around = [len(wider & {i, *near}) for i, near in enumerate(heard)]
        if max(around) <= f and len(wider) < len(heard) - 1:
            chosen = wider
    return chosen


def measure_gossip() -> list[dict[str, Any]]:
    """One row per graph."""
    rows = []
    for name, graph in GRAPHS.items():
        n, heard = len(graph), graphs.neighborhoods(graph)
        f = min(map(len, heard)) // 2

        def make(byzantine: jax.Array, attack: Any, graph=graph, f=f) -> protocols.Protocol:
            per_receiver, of_models = attack or (False, None)
            return protocols.gossip(
                loss_fn,
                graph=graph,
                rule=byzjax.aggregate(byzjax.trimmed_mean, f=f),
                optimizer=optax.sgd(0.1),
                byzantine=byzantine,
                attack=of_models,
                per_receiver=per_receiver,
            )

        def worst(nodes: set[int], n=n, make=make) -> tuple[float, str]:
            byzantine = jnp.isin(jnp.arange(n), jnp.array(sorted(nodes), jnp.int32))
            tried = {a: (False, attack) for a, attack in model_attacks(byzantine).items()}
            tried["dissensus"] = (True, byzjax.attack(attacks.dissensus, byzantine))
            return max((farthest(make, byzantine, attack, n), a) for a, attack in tried.items())

        # f + 1 neighbours of one node: the first node with the smallest neighbourhood.
        node = min(range(n), key=lambda i, heard=heard: (len(heard[i]), i))
        around = set(itertools.islice(heard[node], f + 1))
        within = placed(heard, f)
        row = {"graph": name, "smallest neighbourhood": len(heard[node]) + 1, "f": f}
        row["no liar"] = said(farthest(make, jnp.zeros(n, bool), None, n))
        row["liars, at most f around each"] = len(within)
        distance, attack = worst(within) if within else (0.0, "")
        row["distance"], row["under"] = said(distance) if within else "", attack
        distance, attack = worst(around)
        row["f + 1 around one"], row["under it"] = said(distance), attack
        rows.append(row)
    return rows


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--write", type=pathlib.Path, help="folder of protocols.md, for its tables")
    options = parser.parse_args()
    tables = {"spread_servers": measure_servers(), "spread_gossip": measure_gossip()}
    text = "\n\n".join([environment(), *map(markdown, tables.values())])
    print(text)
    if options.write:
        write_csv(options.write / "benchmarks", tables)
        page = options.write / "protocols.md"
        page.write_text(written(page.read_text(), "spread", text))


if __name__ == "__main__":
    main()
