"""Options for momentum and step sizes, and their checks."""

import ast
import math

from experiments.grid.config import Config
from experiments.text import names

PLACES = ("worker", "server", "update")
DECAY_PLACES = ("worker", "server")
KINDS = ("damped", "undamped", "nesterov")
SCHEDULES = {
    "constant": "constant",
    "hyperbolic": "hyperbolic(k) with k > 0",
    "cosine": "cosine",
    "steps": "steps(a, b, ...)",
}
"""How each schedule is written."""


def check(config: Config) -> None:
    """Raises a `ValueError` for an option that does not exist or a number out of range."""
    for name, known in (
        ("momentum_at", PLACES),
        ("momentum_kind", KINDS),
        ("weight_decay_at", DECAY_PLACES),
    ):
        if getattr(config, name) not in known:
            raise ValueError(names.one_of(name, getattr(config, name), known))
    if not 0 <= config.momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1); got {config.momentum}.")
    for name in ("weight_decay", "clip", "clip_examples", "noise_multiplier"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must be at least 0; got {getattr(config, name)}.")
    for name in ("weight_decay", "noise_multiplier"):
        if getattr(config, name) == math.inf:
            raise ValueError(f"{name} must be finite; got inf.")
    if config.noise_multiplier and not 0 < config.clip_examples < math.inf:
        raise ValueError(
            f"noise_multiplier={config.noise_multiplier} is in units of clip_examples, which must "
            f"be positive and finite; got clip_examples={config.clip_examples}."
        )
    parse_schedule(config.schedule)


def parse_schedule(text: str) -> tuple[str, tuple[float, ...]]:
    """Name and numbers of a schedule: `"hyperbolic(10)"` is `("hyperbolic", (10,))`.

    Raises:
      ValueError: the text cannot be parsed.
    """
    try:
        match ast.parse(text, mode="eval").body:
            case ast.Name(id="constant" | "cosine" as name):
                return name, ()
            case ast.Call(
                func=ast.Name(id="hyperbolic"), args=[ast.Constant(value=int() | float() as k)]
            ) if k > 0:
                return "hyperbolic", (k,)
            case ast.Call(func=ast.Name(id="steps"), args=[_, *_] as args):
                steps = [ast.literal_eval(arg) for arg in args]
                if all(isinstance(step, int) and step > 0 for step in steps):
                    return "steps", tuple(steps)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    raise ValueError(names.wrong_form("schedule", text, SCHEDULES))
