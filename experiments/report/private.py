"""The epsilon of private runs, as sentences."""

import functools
from collections.abc import Sequence
from typing import Any

from byzjax import privacy
from experiments.grid import config as configs
from experiments.grid import private


def sentences(blocks: Sequence[dict[str, Any]]) -> list[str]:
    """The epsilon of one sample of one worker in one run, for each noise multiplier and setting.

    Args:
      blocks: finished blocks.

    Returns:
      One sentence; none if no run is private.
    """
    tried: dict[tuple[str, float, int, int], int] = {}
    for block in blocks:
        names = ("protocol", "noise_multiplier", "steps", "batch_size")
        protocol, z, steps, batch = (configs.setting(block, name) for name in names)
        for run in block["runs"]:
            if private.SAMPLES in run:
                key, samples = (protocol, z, steps, batch), run[private.SAMPLES]
                tried[key] = min(samples, tried.get(key, samples))
    if not tried:
        return []
    parts = "; ".join(_one(*key, samples) for key, samples in sorted(tried.items()))
    return [
        "Privacy of one sample: of the worker with the fewest samples, against whoever sees all "
        f"that it sends in one run, {parts}."
    ]


def _one(protocol: str, z: float, steps: int, batch: int, samples: int) -> str:
    where = f"noise multiplier {z:g}, {steps:,} steps of batches of {batch} among {samples:,}"
    released = private.release(protocol, z, steps)
    if released is None:
        return f"none is stated for {protocol} ({where})"
    delta = private.delta(samples)
    try:
        epsilon = _epsilon(released.noise_multiplier, batch, samples, released.steps, delta)
    except ImportError:
        return f'epsilon needs pip install "byzjax[privacy]" ({where})'
    return f"epsilon {epsilon:.3g} at delta {delta:.0e} ({where})"


@functools.cache
def _epsilon(z: float, batch: int, samples: int, steps: int, delta: float) -> float:
    return privacy.epsilon(
        noise_multiplier=z, batch_size=batch, samples=samples, steps=steps, delta=delta
    )
