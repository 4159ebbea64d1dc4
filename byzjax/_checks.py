"""What every rule checks before it computes anything."""

import numbers
from typing import Any

from byzjax import stacked


def static_int(name: str, value: Any, *, at_least: int = 0) -> int:
    """`value` as a Python int: hyperparameters such as f are known when a program is traced."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a Python int; got {type(value).__name__}.")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}; got {name}={value}.")
    return int(value)


def enough_workers(rule: str, updates: Any, f: Any, *, twice: int, plus: int) -> tuple[int, int]:
    """(n, f), with n >= twice * f + plus."""
    f, n = static_int("f", f), stacked.num_workers(updates)
    if n < twice * f + plus:
        raise ValueError(f"{rule} needs n >= {twice}f + {plus}; got n={n}, f={f}.")
    return n, f


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Checks an option that is a word."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")
