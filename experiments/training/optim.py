"""The optimizer of a run: momentum and where it is kept, the step size, decay and clipping."""

from collections.abc import Callable
from typing import Any

import jax
import optax

import byzjax
from experiments.grid import compressors, optimizers
from experiments.grid.config import Config
from experiments.text import names

LOCAL: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "adam": optax.adam,
    "adamw": optax.adamw,
}
"""Optimizers with which workers take local steps."""


def schedule(config: Config, rate: Any = None) -> optax.Schedule | float:
    """The step size: a number, or a function of the step.

    Args:
      config: a run.
      rate: the initial step size, which may be traced; None for that of the config.

    Raises:
      ValueError: the schedule cannot be parsed.
    """
    rate = config.learning_rate if rate is None else rate
    name, numbers = optimizers.parse_schedule(config.schedule)
    if name == "cosine":
        return optax.cosine_decay_schedule(rate, config.steps)
    if name == "hyperbolic":
        return lambda step: rate / (1 + step / numbers[0])
    if name == "steps":
        return optax.piecewise_constant_schedule(rate, dict.fromkeys(map(int, numbers), 0.1))
    return rate


def loss(config: Config, loss_fn: Callable) -> Callable:
    """The loss whose gradients workers take: private, if the gradients of examples are clipped."""
    if not config.clip_examples:
        return loss_fn
    return byzjax.privacy.private(
        loss_fn, clip_norm=config.clip_examples, noise_multiplier=config.noise_multiplier
    )


def stages(config: Config, rate: Any = None, key: jax.Array | None = None) -> dict[str, Any]:
    """The transformations of the honest workers and of the server: `send`, `receive`, `server`.

    `send` and `receive` map stacked updates to stacked updates (`receive` comes after the attack),
    or are None; `server` maps the aggregate to a step.

    Args:
      config: a run.
      rate: the initial step size, which may be traced; None for that of the config.
      key: PRNG key of a compressor that draws; None for `jax.random.key(0)`.
    """
    send, server = _before(config), _decay(config, "server")
    momentum, receive = _momentum(config), None
    if momentum is not None and config.momentum_at == "worker":
        send.append(momentum)
    elif momentum is not None and config.momentum_at == "server":
        receive = byzjax.per_worker(momentum, config.n)
    elif momentum is not None:
        server.append(momentum)
    compression = compressors.parse(config.compressor)
    if compression is not None:
        send.append(compression.of_honest(jax.random.key(0) if key is None else key))
    return {
        "send": byzjax.per_worker(optax.chain(*send), config.n) if send else None,
        "receive": receive,
        "server": optax.chain(*server, optax.scale_by_learning_rate(schedule(config, rate))),
    }


def of_one(config: Config, rate: Any = None) -> optax.GradientTransformation:
    """The complete optimizer of a node that trains its own model."""
    momentum = _momentum(config)
    chain = [*_before(config), *_decay(config, "server"), *([] if momentum is None else [momentum])]
    return optax.chain(*chain, optax.scale_by_learning_rate(schedule(config, rate)))


def local(name: str, rate: float | None) -> optax.GradientTransformation:
    """A worker's own optimizer for its local steps.

    Raises:
      ValueError: the name is unknown, or there is no step size.
    """
    if name not in LOCAL:
        raise ValueError(names.unknown("local optimizer", name, LOCAL))
    if rate is None:
        raise ValueError(f"local={name!r} needs local_rate, its step size; got none.")
    return LOCAL[name](rate)


def _before(config: Config) -> list[optax.GradientTransformation]:
    """What a worker applies to its gradient before momentum."""
    out = _decay(config, "worker")
    if config.clip:
        out.append(optax.clip_by_global_norm(config.clip))
    return out


def _decay(config: Config, place: str) -> list[optax.GradientTransformation]:
    """Weight decay, if it is applied at this place."""
    if config.weight_decay and config.weight_decay_at == place:
        return [optax.add_decayed_weights(config.weight_decay)]
    return []


def _momentum(config: Config) -> optax.GradientTransformation | None:
    if not config.momentum:
        return None
    if config.momentum_kind == "damped":
        return optax.ema(config.momentum, debias=False)
    return optax.trace(config.momentum, nesterov=config.momentum_kind == "nesterov")
