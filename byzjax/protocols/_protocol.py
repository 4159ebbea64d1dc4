"""The protocol interface: four functions, and the information that a step returns."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from byzjax.stacked import PyTree


class Info(NamedTuple):
    """What happened in one step; the input of diagnostics.

    Attributes:
      honest: stacked updates that the senders would send if all were honest, `[k, ...]`.
      sent: stacked updates as received, `[k, ...]`.
      aggregate: the result of the aggregation, `[...]`.
      senders: `int32[k]`, the sender of each row.
    """

    honest: PyTree
    sent: PyTree
    aggregate: PyTree
    senders: jax.Array


class Traffic(NamedTuple):
    """Average communication of one step; a broadcast to k receivers counts as k messages.

    Attributes:
      messages: number of messages.
      floats: total number of floats in them.
    """

    messages: float
    floats: float


class Protocol(NamedTuple):
    """A distributed training protocol.

    Attributes:
      init: `init(params, key) -> state`.
      step: `step(state, batch, key) -> (state, info)`; `batch` is a dict with `workers`, whose
        leaves have shape `[n, b, ...]`, and optionally `trusted`, a batch of the server's own data.
      models: `models(state)` -> the honest models, stacked `[k, ...]`.
      traffic: `traffic(params) -> Traffic` of one step.
    """

    init: Callable
    step: Callable
    models: Callable
    traffic: Callable
