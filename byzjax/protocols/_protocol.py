"""What every protocol is: three functions, and what one step tells."""

from collections.abc import Callable
from typing import NamedTuple

from byzjax.stacked import PyTree


class Info(NamedTuple):
    """What happened in one step; diagnostics are functions of it.

    Attributes:
      honest: stacked updates as every worker would have sent them honestly, `[n, ...]`.
      sent: stacked updates as they arrived, `[n, ...]`.
      aggregate: what came out, `[...]`.
    """

    honest: PyTree
    sent: PyTree
    aggregate: PyTree


class Protocol(NamedTuple):
    """A way to train together.

    Attributes:
      init: `init(params, key) -> state`.
      step: `step(state, batch, key) -> (state, info)`; `batch` is a dict with `workers`, whose
        leaves have shape `[n, b, ...]`, and optionally `trusted`, a batch of the server's own.
      models: `models(state)` -> the honest models, stacked `[k, ...]`.
    """

    init: Callable
    step: Callable
    models: Callable
