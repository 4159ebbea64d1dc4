"""The parts of a run, and the sizes at which they measure."""

import importlib
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.accelerator.budget import Clock, Part, Record

# In the order in which they run; the first has time for a slow start, and the last one can use all
# that the others leave.
PARTS = {
    "copy": Part(45, "the bandwidth of a copy, and the name of the device"),
    "kernels": Part(70, "each Pallas kernel beside XLA's form"),
    "smoke": Part(80, "the contract's smoke tier on the device"),
    "training": Part(70, "training loops of MLP and CNN, and a vmapped grid of 64 runs"),
    "direct": Part(60, "direct calls beside jax.jit"),
    "rules": Part(150, "all rules, as a share of the bandwidth of a copy and beside PyTorch"),
}


class Sizes(NamedTuple):
    """What is measured.

    Attributes:
      shapes: (n, d) of all rules; a d that does not fit into memory is halved until it does.
      kernels: (n, d) of the kernels.
      copies: numbers that are copied.
      direct: d of direct calls.
      steps: training steps per call, by network.
      training: (network, runs at once).
      rounds: timed rounds.
      tests: files of tests.
    """

    shapes: tuple[tuple[int, int], ...]
    kernels: tuple[tuple[int, int], ...]
    copies: tuple[int, ...]
    direct: tuple[int, ...]
    steps: dict[str, int]
    training: tuple[tuple[str, int], ...]
    rounds: int
    tests: tuple[str, ...]


TESTS = (
    *("tests/test_contract_rules.py", "tests/test_attacks.py", "tests/test_attacks_one_by_one.py"),
    *("tests/test_mixing.py", "tests/test_memory.py", "tests/test_order.py"),
    *("tests/test_scores.py", "tests/test_stacked.py"),
)

WHOLE = Sizes(
    shapes=(
        *((25, 10**6), (25, 10**8), (8, 10**6), (64, 10**6)),
        *((64, 10**8), (8, 10**8), (256, 10**6), (256, 10**8)),
    ),
    kernels=tuple((n, d) for d in (10**6, 10**8) for n in (25, 8, 64)),
    copies=(10**6, 10**7, 10**8, 10**9),
    direct=(1000, 10**6),
    steps={"mlp": 50, "cnn_5x5": 10},
    training=(("mlp", 1), ("mlp", 64), ("cnn_5x5", 1), ("cnn_5x5", 64)),
    rounds=5,
    tests=TESTS,
)

SMALL = Sizes(
    shapes=((25, 10**5), *((n, 10**4) for n in (8, 25, 64, 256))),
    kernels=((8, 1000), (25, 1000)),
    copies=(10**5, 10**6),
    direct=(1000,),
    steps={"mlp": 10, "cnn_5x5": 2},
    training=(("mlp", 1), ("mlp", 4), ("cnn_5x5", 1)),
    rounds=3,
    tests=TESTS[:1],
)


def records(part: str, clock: Clock, sizes: Sizes, platform: str) -> Iterator[Record]:
    """What this part measures, in this process."""
    module = importlib.import_module(f"benchmarks.accelerator.part_{part}")
    return module.records(clock, sizes, platform)
