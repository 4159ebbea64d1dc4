"""Gradients of many workers at the same parameters, at several stages of a training."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from experiments.models.zoo import Model

TOGETHER = 64  # training samples of a step: 8 honest workers with 8 each
LEARNING_RATE = 0.1
CHUNK = 500  # samples at a time, for the gradient over all of them


class Stage(NamedTuple):
    """A model during training.

    Attributes:
      step: steps taken.
      loss: the mean cross entropy of all samples.
      gradient: the gradient of that loss, `[d]`.
      rows: by batch size, the gradients `[workers, d]` of workers with batches of their own.
    """

    step: int
    loss: float
    gradient: np.ndarray
    rows: dict[int, np.ndarray]


def stages(
    model: Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    steps: tuple[int, ...],
    batches: tuple[int, ...],
    workers: int,
    seed: int,
) -> Iterator[Stage]:
    """Trains with the mean of honest workers, and yields what `workers` others send at `steps`.

    Every batch is drawn from all samples, uniformly and with replacement.
    """
    key, rng = jax.random.key(seed), np.random.default_rng(seed)

    @jax.jit
    def descend(params: Any, x: jax.Array, y: jax.Array, begin: int, end: int) -> Any:
        def step(i: jax.Array, params: Any) -> Any:
            chosen = jax.random.randint(jax.random.fold_in(key, i), (TOGETHER,), 0, len(y))
            gradient = jax.grad(model.loss)(params, {"x": x[chosen], "y": y[chosen]})
            return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradient)

        return lax.fori_loop(begin, end, step, params)

    each = jax.jit(lambda params, x, y: _each(model, params, x, y))
    params, before = model.init(key), 0
    for after in steps:
        params, before = descend(params, x, y, before, after), after
        loss, gradient = _of_all(each, params, x, y)
        rows = {}
        for batch in batches:
            chosen = rng.integers(len(y), size=(workers, batch))
            rows[batch] = np.asarray(each(params, x[chosen], y[chosen])[1])
        yield Stage(after, loss, gradient, rows)


def _of_all(each: Callable, params: Any, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss and gradient `[d]` of all samples, whose number is a multiple of `CHUNK`."""
    losses, gradients = each(params, *(a.reshape(-1, CHUNK, *a.shape[1:]) for a in (x, y)))
    return float(losses.mean()), np.asarray(gradients).mean(axis=0)


def _each(model: Model, params: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Losses `[k]` and gradients `[k, d]` of k batches, one after another."""

    def one(samples: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        own = {"x": samples[0], "y": samples[1]}
        loss, gradient = jax.value_and_grad(model.loss)(params, own)
        return loss, ravel_pytree(gradient)[0]

    return lax.map(one, (x, y))
