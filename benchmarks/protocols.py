"""Cost of a step of each protocol: `python -m benchmarks.protocols`, and `--write docs`.

The protocols are those of the study `protocols`, on an MLP 784-100-10 with synthetic batches of 16.
Time is that of a step in a scan of ten under sign_flip with f Byzantine workers, as a ratio to a
parameter server that takes the mean (plain SGD). For asynchronous protocols it is that of n
arrivals, which are n gradients. Messages and floats are those of a real deployment.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import timing
from benchmarks.pages import environment, markdown, write_csv, written
from byzjax import protocols as library
from byzjax._program import Parser
from experiments.grid import specs
from experiments.grid.config import Config
from experiments.models import zoo
from experiments.studies import protocols as study
from experiments.training import assemble

STEPS = 10


def steps_of(config: Config, times: int, batch: dict) -> tuple[Callable, library.Traffic]:
    """Ten steps as one call, and the traffic of one step."""
    model = zoo.build("mlp", (28, 28, 1), 10)
    rule = specs.parse("rule", config.rule[0], f=config.f)
    mixing, spec = specs.parse("mixing", "none", f=0), specs.parse("attack", "sign_flip", f=0)
    key, byzantine = jax.random.key(0), jnp.arange(config.n) >= config.n - config.f

    def attack(who: jax.Array, place: int, deployed: Callable, n: int) -> Any:
        return specs.transformation(spec, byzantine=who, key=key, rule=deployed, n=n)

    parts = assemble.Parts(config, model.loss, rule, mixing, attack, byzantine, key, None)
    protocol = assemble.build(parts)
    params = model.init(key)

    def one(state: Any, step: jax.Array) -> tuple[Any, None]:
        state, _ = protocol.step(state, batch, jax.random.fold_in(key, step))
        return state, None

    call = timing.compile_call(
        lambda state: lax.scan(one, state, jnp.arange(STEPS * times))[0],
        protocol.init(params, key),
    )
    traffic = protocol.traffic(params)
    return call.call, library.Traffic(times * traffic.messages, times * traffic.floats)


def measure(rounds: int) -> list[dict[str, Any]]:
    """One row per protocol."""
    rng = np.random.default_rng(0)
    batch = {
        "workers": {
            "x": jnp.asarray(rng.normal(size=(study.N, 16, 28, 28, 1)), jnp.float32),
            "y": jnp.asarray(rng.integers(0, 10, (study.N, 16)), jnp.int32),
        }
    }
    grids = study.EDITIONS["cpu"]
    plain = steps_of(Config(n=study.N, f=study.F, rule=("mean",), momentum=0.0), 1, batch)
    timed = {"parameter_server, mean": plain}
    for (name, rule, times), config in zip(study.PROTOCOLS, grids):
        timed[f"{name}, {rule}" if rule != "mean" else name] = steps_of(config, times, batch)
    seconds = timing.take_turns({name: call for name, (call, _) in timed.items()}, rounds)
    unit = seconds["parameter_server, mean"]
    return [
        {
            "protocol": name,
            "ms a step": 1e3 * seconds[name] / STEPS,
            "time over plain SGD": seconds[name] / unit,
            "messages": traffic.messages,
            "million floats": traffic.floats / 1e6,
        }
        for name, (_, traffic) in timed.items()
    ]


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--write", type=pathlib.Path, help="folder of protocols.md, for its table")
    options = parser.parse_args()
    timing.with_huge_pages("benchmarks.protocols")
    rows = measure(options.rounds)
    table = f"{environment()}\n\n{markdown(rows)}"
    print(table)
    if options.write:
        write_csv(options.write / "benchmarks", {"protocols": rows})
        page = options.write / "protocols.md"
        page.write_text(written(page.read_text(), "cost", table))


if __name__ == "__main__":
    main()
