"""A function of each worker, side by side or one after another."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

PyTree = Any


def each(function: Callable, *args: PyTree, at_once: int | None) -> PyTree:
    """`jax.vmap(function)(*args)`, so many at once; all for None."""
    if at_once is None:
        return jax.vmap(function)(*args)
    return lax.map(lambda one: function(*one), args, batch_size=None if at_once == 1 else at_once)


def each_receiver(function: Callable, *args: PyTree, at_once: int | None) -> PyTree:
    """Like `each`, for receivers that gather rows of their own; None on CPU is one after another.

    There, rows gathered for all receivers at once leave the cache: 15 nodes that each take aksel of
    all, MLP 784-100-10, 21.6 ms side by side and 3.6 ms one after another.
    """
    if at_once is not None:
        return each(function, *args, at_once=at_once)
    return lax.platform_dependent(
        *args,
        cpu=functools.partial(each, function, at_once=1),
        default=functools.partial(each, function, at_once=None),
    )
