"""The optimizer of a run: momentum and where it stands, the step size, decay and clipping."""

import ast
import math
from typing import TYPE_CHECKING, Any

import optax

import byzjax

if TYPE_CHECKING:
    from experiments.config import Config

PLACES = ("worker", "server", "update")
KINDS = ("damped", "undamped", "nesterov")


def check(config: "Config") -> None:
    """Raises a `ValueError` for an option that does not exist or a number out of range."""
    for name, known in (("momentum_at", PLACES), ("momentum_kind", KINDS)):
        if getattr(config, name) not in known:
            raise ValueError(
                f"{name} must be one of {', '.join(known)}; got {getattr(config, name)!r}."
            )
    if not 0 <= config.momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1); got {config.momentum}.")
    for name in ("weight_decay", "clip"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must be at least 0; got {getattr(config, name)}.")
    if config.weight_decay == math.inf:
        raise ValueError("weight_decay must be finite; got inf.")
    schedule(config)


def schedule(config: "Config", rate: Any = None) -> optax.Schedule | float:
    """The step size: a number, or a function of the step.

    Args:
      config: a run.
      rate: the step size at first, which may be traced; None for that of the config.

    Raises:
      ValueError: the schedule cannot be read.
    """
    rate, text = config.learning_rate if rate is None else rate, config.schedule
    try:
        match ast.parse(text, mode="eval").body:
            case ast.Name(id="constant"):
                return rate
            case ast.Name(id="cosine"):
                return optax.cosine_decay_schedule(rate, config.steps)
            case ast.Call(
                func=ast.Name(id="hyperbolic"), args=[ast.Constant(value=int() | float() as k)]
            ) if k > 0:
                return lambda step: rate / (1 + step / k)
            case ast.Call(func=ast.Name(id="steps"), args=[_, *_] as args):
                places = [ast.literal_eval(arg) for arg in args]
                if all(isinstance(place, int) and place > 0 for place in places):
                    return optax.piecewise_constant_schedule(rate, dict.fromkeys(places, 0.1))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    known = "constant, hyperbolic(k) with k > 0, cosine, steps(a, b, ...)"
    raise ValueError(f"unknown schedule {text!r}; known: {known}.")


def stages(config: "Config", rate: Any = None) -> dict[str, Any]:
    """What an honest worker, and the server, make of what they get: `send`, `receive`, `server`.

    `send` and `receive` map stacked updates to stacked updates (`receive` stands behind the
    attack), or are None; `server` maps the aggregate to a step.
    """
    send, momentum, receive, server = _before(config), _momentum(config), None, []
    if momentum is not None and config.momentum_at == "worker":
        send.append(momentum)
    elif momentum is not None and config.momentum_at == "server":
        receive = byzjax.per_worker(momentum, config.n)
    elif momentum is not None:
        server.append(momentum)
    return {
        "send": byzjax.per_worker(optax.chain(*send), config.n) if send else None,
        "receive": receive,
        "server": optax.chain(*server, optax.scale_by_learning_rate(schedule(config, rate))),
    }


def of_one(config: "Config", rate: Any = None) -> optax.GradientTransformation:
    """The whole optimizer of a node that trains a model of its own."""
    momentum = _momentum(config)
    chain = [*_before(config), *([] if momentum is None else [momentum])]
    return optax.chain(*chain, optax.scale_by_learning_rate(schedule(config, rate)))


def _before(config: "Config") -> list[optax.GradientTransformation]:
    """What a worker does to its gradient before momentum."""
    out: list[optax.GradientTransformation] = []
    if config.weight_decay:
        out.append(optax.add_decayed_weights(config.weight_decay))
    if config.clip:
        out.append(optax.clip_by_global_norm(config.clip))
    return out


def _momentum(config: "Config") -> optax.GradientTransformation | None:
    if not config.momentum:
        return None
    if config.momentum_kind == "damped":
        return optax.ema(config.momentum, debias=False)
    return optax.trace(config.momentum, nesterov=config.momentum_kind == "nesterov")
