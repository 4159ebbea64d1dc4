"""Helpers that check a clause of a contract and report its violation."""

import contextlib
import functools
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

PLATFORMS = ("cpu", "cuda", "tpu")


@contextlib.contextmanager
def clause(name: str, words: str) -> Iterator[None]:
    """Reports any failure inside with the rule's name and the clause."""
    try:
        yield
    except Exception as error:
        message = str(error).partition("\n")[0]  # JAX's messages may fill a page
        if not isinstance(error, AssertionError):
            message = f"{type(error).__name__}: {message}{_place(error)}"
        raise AssertionError(f"{name} breaks its contract, {words}: {message}") from error


_HERE = os.path.dirname(os.path.dirname(__file__))
_LIBRARIES = tuple(folder + os.sep for folder in (_HERE, os.path.dirname(os.__file__)))


def _place(error: Exception) -> str:
    """The line of the user's own code in which an error was raised, if any."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith(_LIBRARIES) and "site-packages" not in frame.filename
    ]
    return f" ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else ""


def brief(check: Callable) -> Callable:
    """A check whose failure shows its message, not the frames of the check or of JAX.

    The error with all frames is the `__context__` of what is raised.
    """

    @functools.wraps(check)
    def checked(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # of pytest
        try:
            return check(*args, **kwargs)
        except AssertionError as error:
            broken = error.with_traceback(None)
        raise broken from None

    return checked


def close(actual: Any, expected: Any, largest: float, eps: float, *, alike: bool = False) -> None:
    """Checks equality up to rounding; with `alike`, equal non-finite values pass too."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    with np.errstate(invalid="ignore"):
        near = np.abs(actual - expected) <= eps * (largest + np.abs(expected))
        near &= np.isfinite(actual) & np.isfinite(expected)
    if alike:
        near |= (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    if not near.all():
        raise AssertionError(f"{text(actual)} instead of {text(expected)}.")


def text(x: Any) -> str:
    return " ".join(np.array2string(np.asarray(x, np.float64), precision=6, threshold=8).split())


def same(actual: Any, expected: Any, rows: jax.Array) -> None:
    """Checks that these rows of every leaf are bitwise equal."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        for i in np.flatnonzero(rows):
            if np.asarray(a[i]).tobytes() != np.asarray(b[i]).tobytes():
                raise AssertionError(f"worker {i} sent {text(b[i])}; got {text(a[i])}.")
