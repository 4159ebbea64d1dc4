"""Attacks on the data: batches in which Byzantine workers have wrong labels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from byzjax import attacks
from experiments.grid import specs


def labels(
    batch: dict[str, Any],
    byzantine: jax.Array,
    choices: Sequence[specs.Spec],
    attack: jax.Array,
    num_classes: int,
) -> dict[str, Any]:
    """The batches under one of several attacks; those that change no labels leave them as they are.

    Args:
      batch: the workers' batches.
      byzantine: `bool[n]`.
      choices: the attacks.
      attack: index of the attack, which may be traced.
      num_classes: number of classes, or of characters.
    """
    flipping = jnp.asarray([spec.name == "flip_labels" for spec in choices])
    flipped = attacks.flip_labels(batch, byzantine, num_classes=num_classes)
    batch = batch | {"y": jnp.where(flipping[attack], flipped["y"], batch["y"])}
    shifts = [spec.given.get("by", 1) if spec.name == "shift_tokens" else 0 for spec in choices]
    if not any(shifts):
        return batch
    by = jnp.asarray(shifts)[attack]
    return attacks.shift_tokens(batch, byzantine, num_tokens=num_classes, by=by)
