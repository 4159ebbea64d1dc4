"""What a private run releases, in the terms of `byzjax.privacy.epsilon`."""

import math
from typing import NamedTuple

from experiments.grid import protocols

SAMPLES = "samples"
"""Key of a private run: the number of samples of the worker that has the fewest."""


class Release(NamedTuple):
    """The gradients that a worker sends in a run.

    Attributes:
      noise_multiplier: of each, as `byzjax.privacy.epsilon` takes it.
      steps: how many, each of a batch drawn anew.
    """

    noise_multiplier: float
    steps: int


def release(protocol: str, noise_multiplier: float, steps: int) -> Release | None:
    r"""What one worker releases; None for a protocol in which others release its samples, too.

    In a round with H local steps, its batch is drawn once. If each step takes another part of it, a
    sample changes one gradient alone, so the round counts as one Gaussian mechanism; with
    `whole_batch` it changes H of them, which together are one of noise $z / \sqrt H$. Workers that
    take part in some of the rounds count as if they took part in all.

    Args:
      protocol: as on the command line.
      noise_multiplier: z.
      steps: of the run.
    """
    name, given = protocols.parse(protocol)
    if name == "redundant":
        return None
    local = given.get("local_steps", 1) if given.get("whole_batch") else 1
    return Release(noise_multiplier / math.sqrt(local), steps)


def delta(samples: int) -> float:
    """The largest power of ten below one over the number of samples."""
    return 10.0 ** -(math.floor(math.log10(samples)) + 1)
