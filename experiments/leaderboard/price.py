"""The price of an edition in hours of two cores, by what its rows cost when they were measured.

`cost.estimate` counts gradients only, and every program as 9 s; here most of the time is spent on
compiling programs of many attacks, and on the searches of some.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments.execution import cost
from experiments.execution.sweep import Task
from experiments.grid import planning, protocols
from experiments.grid.config import Config

# Core-seconds, on an AMD EPYC (Turin) with JAX 0.10.2: of a program, of each attack in it, of a
# step beside its gradients, and a factor of the gradients (attack and rule grow with them).
PROGRAM = 5.0
ATTACK = 1.9
STEP = 0.002
GRADIENTS = 3.0
# Steps of attacks that try the rule many times cost as much more.
SEARCHES = {"gradient_attack": 20.0, "strongest_alie": 3.0, "strongest_ipm": 3.0}
CORES = 2


class Price(NamedTuple):
    """What some blocks cost.

    Attributes:
      blocks: their number.
      runs: the number of runs.
      programs: the number of programs.
      compiling: core-seconds of compiling.
      training: core-seconds of training.
    """

    blocks: int
    runs: int
    programs: int
    compiling: float
    training: float

    @property
    def hours(self) -> float:
        """On two cores, each with a shard of its own."""
        return (self.compiling + self.training) / CORES / 3600

    def __str__(self) -> str:
        """In one line."""
        minutes = round(60 * self.hours)
        time = f"{minutes} minutes" if minutes < 60 else f"{self.hours:.1f} hours"
        share = self.compiling / max(1e-9, self.compiling + self.training)
        return (
            f"{self.blocks:,} blocks, {self.runs:,} runs, {self.programs:,} programs: about "
            f"{time} on {CORES} cores, {100 * share:.0f} % of them compiling."
        )


def of(tasks: Sequence[Task], describe: Callable[[Config], Any]) -> Price:
    """The price of some blocks."""
    flops: dict[tuple, float] = {}
    programs: dict[tuple, int] = {}
    training, runs = 0.0, 0
    for config, block, *_ in tasks:
        kind = config.dataset, config.model, config.batch_size
        if kind not in flops:
            flops[kind] = cost.gradient_flops(config, describe(config))
        gradients = flops[kind] * protocols.gradients(config) / cost.GFLOPS["2 CPU cores"] / 1e9
        step = (STEP + GRADIENTS * gradients) * SEARCHES.get(block.attack.name, 1.0)
        training += step * config.steps * len(block.runs)
        runs += len(block.runs)
        programs[planning.program(config, block)] = len(planning.choices(config, block))
    compiling = sum(PROGRAM + ATTACK * count for count in programs.values())
    return Price(len(tasks), runs, len(programs), compiling, training)
