"""What every protocol is: four functions, and what one step tells."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from byzjax.stacked import PyTree


class Info(NamedTuple):
    """What happened in one step; diagnostics are functions of it.

    Attributes:
      honest: stacked updates as their senders would have sent them honestly, `[k, ...]`.
      sent: stacked updates as they arrived, `[k, ...]`.
      aggregate: what came out, `[...]`.
      senders: `int32[k]`, whose rows these are.
    """

    honest: PyTree
    sent: PyTree
    aggregate: PyTree
    senders: jax.Array


class Traffic(NamedTuple):
    """What one step puts on the wire, on average; a broadcast to k receivers is k messages.

    Attributes:
      messages: how many.
      floats: how many numbers are in them.
    """

    messages: float
    floats: float


class Protocol(NamedTuple):
    """A way to train together.

    Attributes:
      init: `init(params, key) -> state`.
      step: `step(state, batch, key) -> (state, info)`; `batch` is a dict with `workers`, whose
        leaves have shape `[n, b, ...]`, and optionally `trusted`, a batch of the server's own.
      models: `models(state)` -> the honest models, stacked `[k, ...]`.
      traffic: `traffic(params) -> Traffic` of one step.
    """

    init: Callable
    step: Callable
    models: Callable
    traffic: Callable
