"""The laboratory on several devices: `python -m benchmarks.devices`, and `--write docs`.

Steps per second, and the distance of the final states from those of one device: n = 24 or 25
workers under little_is_enough with f = 5, batch 25, on synthetic images of the size of MNIST. A CPU
is split into eight simulated devices, which share its cores.
"""

import os
import pathlib
from typing import Any, NamedTuple

if "JAX_NUM_CPU_DEVICES" not in os.environ:
    os.environ["JAX_NUM_CPU_DEVICES"] = "8"  # before anything imports jax

import jax
import numpy as np

from benchmarks import timing, training
from benchmarks.pages import environment, markdown, write_csv, written
from byzjax._program import Parser
from experiments.data import datasets
from experiments.grid import specs
from experiments.grid.config import Config
from experiments.models import zoo
from experiments.training import devices
from experiments.training import program as programs
from experiments.training.runs import Runs, block_runs

# Steps per call, and steps after which states are compared.
STEPS, FAR = {"mlp": 20, "cnn_mnist": 2}, {"mlp": 100, "cnn_mnist": 4}
COUNTS = (1, 2, 8)


class Job(NamedTuple):
    """A run on a number of devices.

    Attributes:
      program: the compiled program of its rule.
      runs: the one run.
      steps: steps per call.
    """

    program: programs.Program
    runs: Runs
    steps: int

    def after(self, calls: int) -> Any:
        """The states after this many calls."""
        states = self.program.start(np.int32(0), self.runs)
        for call in range(calls):
            first = np.int32(call * self.steps)
            states, _ = self.program.advance(states, first, np.int32(0), self.runs)
        return states


def job(model: str, rule: str, n: int, count: int, dataset: datasets.Dataset) -> Job:
    """One run on `count` devices."""
    config = Config(
        model=model, n=n, f=5, s=(5,), seeds=1, steps=STEPS[model], eval_every=STEPS[model],
        batch_size=25, learning_rate=0.1, rule=(rule,), attack=("little_is_enough",),
    )  # fmt: skip
    over, shape = devices.mesh(count), dataset.train_x.shape[1:]
    kinds = (("rule", rule), ("mixing", "none"), ("attack", "little_is_enough"))
    how, mixing, attack = (specs.parse(kind, text, f=config.f) for kind, text in kinds)
    built = zoo.build(model, shape, dataset.num_classes)
    program = programs.build(config, dataset, built, how, mixing, [attack], over)
    runs = devices.on_each(block_runs(config, dataset, [(0, 5)]), over)
    return Job(program, runs, STEPS[model])


def speed(rounds: int, counts: list[int], dataset: datasets.Dataset) -> list[dict[str, Any]]:
    """Steps per second of aksel, one row for each model and number of devices."""
    rows = []
    for model in STEPS:
        jobs = {str(count): job(model, "aksel", 24, count, dataset) for count in counts}
        calls = {
            name: lambda it=it: jax.block_until_ready(it.after(1)) for name, it in jobs.items()
        }
        seconds = timing.take_turns(calls, rounds)
        rows += [
            {
                "model": model,
                "devices": count,
                "workers a device": 24 // count,
                "steps a second": STEPS[model] / seconds[str(count)],
                "times as fast as one": seconds["1"] / seconds[str(count)],
            }
            for count in counts
        ]
    return rows


def differences(counts: list[int], dataset: datasets.Dataset) -> list[dict[str, Any]]:
    """Distance of states from those of one device, relative to the largest entry of each array."""
    rows = []
    for model, rules in (
        ("mlp", ("median", "aksel", "krum", "geometric_median")),
        ("cnn_mnist", ("aksel",)),
    ):
        calls = FAR[model] // STEPS[model]
        for rule in rules:
            one, *others = (job(model, rule, 25, count, dataset).after(calls) for count in counts)
            row: dict[str, str | int] = {"model": model, "rule": rule, "steps": FAR[model]}
            for count, other in zip(counts[1:], others):
                row[f"on {count}"] = f"{_apart(one, other):.0e}"
            rows.append(row)
    return rows


def _apart(a: programs.State, b: programs.State) -> float:
    pairs = zip(jax.tree.leaves(a.protocol.params), jax.tree.leaves(b.protocol.params))
    return max(
        float(np.abs(np.asarray(x) - np.asarray(y)).max() / np.abs(x).max()) for x, y in pairs
    )


def main() -> None:
    """Measures, prints, and with `--write` updates the page."""
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    parser.add_argument("--write", type=pathlib.Path, help="folder of scaling.md, for its tables")
    options = parser.parse_args()
    timing.with_huge_pages("benchmarks.devices")
    counts = [count for count in COUNTS if count <= jax.local_device_count()]
    dataset = training.made_up()
    tables = {
        "devices": speed(options.rounds, counts[:2], dataset),
        "devices_bits": differences(counts, dataset),
    }
    for name, rows in tables.items():
        print(f"{environment()}\n\n{markdown(rows)}\n")
        if options.write:
            page = options.write / "scaling.md"
            page.write_text(written(page.read_text(), name, f"{environment()}\n\n{markdown(rows)}"))
    if options.write:
        write_csv(options.write / "benchmarks", tables)


if __name__ == "__main__":
    main()
