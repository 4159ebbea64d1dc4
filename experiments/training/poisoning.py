"""Attacks on the data: batches in which Byzantine workers have wrong labels or a trigger."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from byzjax import attacks
from experiments.data.datasets import Dataset, Outline
from experiments.grid import specs
from experiments.grid.catalogue import BACKDOORS

Batch = dict[str, Any]


def poisoned(
    batch: Batch,
    byzantine: jax.Array,
    choices: Sequence[specs.Spec],
    attack: jax.Array,
    num_classes: int,
    brightest: float,
) -> Batch:
    """The batches under one of several attacks; those on the updates leave them as they are.

    Args:
      batch: the workers' batches.
      byzantine: `bool[n]`.
      choices: the attacks.
      attack: index of the attack, which may be traced.
      num_classes: number of classes, or of characters.
      brightest: value of a trigger's pixels, unless the attack gives one.
    """
    batch = labels(batch, byzantine, choices, attack, num_classes)
    if not any(spec.name in BACKDOORS for spec in choices):
        return batch

    def branch(spec: specs.Spec) -> Callable[[Batch], Batch]:
        if spec.name not in BACKDOORS:
            return lambda batch: batch
        return lambda batch: _with_trigger(spec, batch, byzantine, brightest)

    return lax.switch(attack, [branch(spec) for spec in choices], batch)


def labels(
    batch: Batch,
    byzantine: jax.Array,
    choices: Sequence[specs.Spec],
    attack: jax.Array,
    num_classes: int,
) -> Batch:
    """The batches with the labels of `flip_labels` and `shift_tokens`, as in `poisoned`."""
    flipping = jnp.asarray([spec.name == "flip_labels" for spec in choices])
    flipped = attacks.flip_labels(batch, byzantine, num_classes=num_classes)
    batch = batch | {"y": jnp.where(flipping[attack], flipped["y"], batch["y"])}
    shifts = [spec.given.get("by", 1) if spec.name == "shift_tokens" else 0 for spec in choices]
    if not any(shifts):
        return batch
    by = jnp.asarray(shifts)[attack]
    return attacks.shift_tokens(batch, byzantine, num_tokens=num_classes, by=by)


def triggered(
    spec: specs.Spec, x: np.ndarray, y: np.ndarray, brightest: float
) -> tuple[jax.Array, jax.Array]:
    """The test images of other classes than the target, all with the trigger, and the target.

    The accuracy on these is the attack success rate.

    Args:
      spec: a backdoor.
      x: the test images.
      y: their labels.
      brightest: as in `poisoned`.
    """
    others = y != _hyperparameters(spec)["target"]
    batch = {"x": x[others][None], "y": y[others][None]}
    parts = "whole" in inspect.signature(BACKDOORS[spec.name]).parameters
    instead = {"share": 1.0} | ({"whole": True} if parts else {})
    out = _with_trigger(spec, batch, jnp.ones(1, bool), brightest, **instead)
    return out["x"][0], out["y"][0]


def check(wanted: Sequence[specs.Spec], dataset: Dataset | Outline) -> None:
    """Raises a `ValueError` if a backdoor does not fit the images or the classes of the data."""
    for spec in wanted:
        if spec.name not in BACKDOORS:
            continue
        target = _hyperparameters(spec)["target"]
        if target >= dataset.num_classes:
            raise ValueError(
                f"{spec.name} needs target < {dataset.num_classes}; got target={target}."
            )
        batch = {"x": jnp.zeros((1, 1, *dataset.shape)), "y": jnp.zeros((1, 1), jnp.int32)}
        added = functools.partial(_with_trigger, spec, brightest=1.0)
        jax.eval_shape(added, batch, jnp.ones(1, bool))


def _hyperparameters(spec: specs.Spec) -> dict[str, Any]:
    parameters = inspect.signature(spec.function).parameters.values()
    named = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return {p.name: spec.given.get(p.name, p.default) for p in named}


def _with_trigger(
    spec: specs.Spec, batch: Batch, byzantine: Any, brightest: float, **instead: Any
) -> Batch:
    """The batches with the trigger of a backdoor; `instead` replaces hyperparameters."""
    given = _hyperparameters(spec) | instead
    del given["then"]
    if given["value"] is None:
        given["value"] = brightest
    return BACKDOORS[spec.name](batch, byzantine, **given)
