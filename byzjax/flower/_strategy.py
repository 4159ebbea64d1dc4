"""The strategy."""

from __future__ import annotations  # the site is built without Flower

import logging
import math
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import optax
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from byzjax import _mistakes
from byzjax._checks import prng_key, right_verb, static_int
from byzjax._mistakes import is_transformation, name_of
from byzjax._signature import must_be_function
from byzjax.flower._aggregation import Stages
from byzjax.flower._collect import collect
from byzjax.flower._replies import Fault, absent, malformed
from byzjax.flower._server import Server

_log = logging.getLogger("flwr")
_PATIENCE = 1.0  # seconds between questions for connected nodes


class RobustStrategy(Strategy):
    r"""A strategy for Flower's Message API that trusts no client.

    In a round, with the model w, each of n nodes replies with a model w_i, and

    $$ x_i = w_i - w, \qquad g = -\operatorname{rule}(\operatorname{mixing}(x_1, \dots, x_m)),
       \qquad w \leftarrow w + \operatorname{optimizer}(g) $$

    over the m nodes that sent a well-formed reply. Of a reply only the arrays are used: no count,
    no metric, no identity that a client states.

    A *malformed* reply, which no honest client sends, is a fault of that node: the rule then
    tolerates f minus the number of such nodes among the others. An *absent* node (silent, crashed,
    disconnected, or replying with an error of its app) may be honest, so f stays. A round fails
    closed, with model, optimizer and memory unchanged, if more than f replies are malformed, if
    fewer than `min_replies` nodes replied, if the rule or mixing needs more rows, or if the new
    model is not finite. The log and the report say why.

    One program is compiled for each pair of m and f that occurs.

    Requirement: that of rule and mixing with m rows and the remaining f. Cost: that of the rule,
    of its gradient for the influence, and O(nd) memory for all replies at once.

    Args:
      rule: a rule, such as `byzjax.krum`, with hyperparameters other than f bound by
        `functools.partial`; or a transformation with memory, such as `byzjax.centered_clipping`.
      f: number of faulty nodes to tolerate among those asked, a Python int. Passed to rule and
        mixing if they take it.
      server_optimizer: an optax optimizer, which receives g; `optax.sgd(1.0)` by default.
      mixing: a mixing or a transformation, or None.
      worker: a transformation of each node's updates before the mixing, such as `optax.ema(0.9)`:
        its states are kept here, by node id, while a node is absent, too.
      min_replies: fewest nodes that reply, malformed replies included; 2f + 1 by default.
      min_nodes: nodes to wait for before a round; `min_replies` by default.
      wait: seconds to wait for them before the round begins without them.
      patience: once n - f nodes have replied, the others are waited for this multiple of the time
        that these took, so that a silent node does not cost the whole time-out of each round.
        Slow honest nodes are then absent; None waits for the time-out.
      num_workers: most nodes that ever take part, of which others are turned away. Required if rule
        or mixing is a transformation: the number that it was made for.
      key: PRNG key for a rule or mixing that takes one.
      data: `data(round, params)` returns further arguments of the rule by name, such as `trusted`.
      checkpoint: file of the server's state, written after each round; if it exists, `start`
        continues there.
      report: file to which each round adds a line of JSON.
      allow_repeats: accept a reply with the bits of an earlier one although the model has changed.
        By default that is malformed: an old reply again.
      arrayrecord_key: key of the record of arrays in messages.
      configrecord_key: key of the settings in messages.

    Raises:
      TypeError: an argument is not of its kind, or f is not a Python int.
      ValueError: a number is out of range.

    Example:
      >>> import byzjax, optax
      >>> from byzjax.flower import RobustStrategy
      >>> strategy = RobustStrategy(
      ...     byzjax.trimmed_mean,
      ...     f=1,
      ...     mixing=byzjax.nearest_neighbors,
      ...     server_optimizer=optax.sgd(1.0, momentum=0.5),
      ... )
      >>> strategy.min_replies
      3
    """

    def __init__(
        self,
        rule: Any,
        f: int,
        *,
        server_optimizer: optax.GradientTransformation | None = None,
        mixing: Any = None,
        worker: optax.GradientTransformation | None = None,
        min_replies: int | None = None,
        min_nodes: int | None = None,
        wait: float = 300.0,
        patience: float | None = None,
        num_workers: int | None = None,
        key: jax.Array | None = None,
        data: Callable[[int, dict[str, np.ndarray]], dict[str, Any]] | None = None,
        checkpoint: str | os.PathLike | None = None,
        report: str | os.PathLike | None = None,
        allow_repeats: bool = False,
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
    ) -> None:
        self.f = static_int("f", f)
        fewest = 2 * self.f + 1 if min_replies is None else min_replies
        self.min_replies = static_int("min_replies", fewest, at_least=1)
        first = self.min_replies if min_nodes is None else min_nodes
        self.min_nodes = static_int("min_nodes", first, at_least=1)
        if num_workers is not None:
            num_workers = static_int("num_workers", num_workers, at_least=1)
        optimizer = optax.sgd(1.0) if server_optimizer is None else server_optimizer
        _check(rule, mixing, worker, optimizer, num_workers)
        if key is not None:
            prng_key("key", key)
        self.wait, self.patience = wait, math.inf if patience is None else patience
        self.arrayrecord_key, self.configrecord_key = arrayrecord_key, configrecord_key
        self.server = Server(
            Stages(worker, mixing, rule, optimizer, key),
            self.f,
            min_replies=self.min_replies,
            num_workers=num_workers,
            data=data,
            checkpoint=None if checkpoint is None else pathlib.Path(checkpoint),
            report=None if report is None else pathlib.Path(report),
            allow_repeats=allow_repeats,
            key=arrayrecord_key,
        )
        self._asked: list[int] = []

    def summary(self) -> None:
        """Logs the settings."""
        server = self.server
        mixing = server.stages.mixing
        _log.info("\t├──> Rule: %s, f = %d", name_of(server.stages.rule), self.f)
        _log.info("\t├──> Mixing: %s", "none" if mixing is None else name_of(mixing))
        _log.info("\t├──> Fewest replies: %d", self.min_replies)
        _log.info("\t├──> Checkpoint: %s", server.checkpoint)
        _log.info("\t└──> Report: %s", server.report)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages to all connected nodes, each with a nonce, so that no node can guess its id."""
        if not self.server.params:
            self._begin(arrays)
        self._asked = _connected(grid, self.min_nodes, self.wait)
        return [
            Message(
                RecordDict(
                    {
                        self.arrayrecord_key: arrays,
                        self.configrecord_key: ConfigRecord(
                            {
                                **config,
                                "server-round": server_round,
                                "nonce": secrets.token_hex(16),
                            }
                        ),
                    }
                ),
                dst_node_id=node,
                message_type=MessageType.TRAIN,
                group_id=str(server_round),
            )
            for node in self._asked
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The new model, or None if the round failed, and the numbers of the round."""
        by_node: dict[int, Any] = {node: absent("no reply") for node in self._asked}
        for reply in replies:
            node = reply.metadata.src_node_id
            if node not in by_node:
                _log.warning("round %d: node %d was not asked, but replied", server_round, node)
            elif not (isinstance(by_node[node], Fault) and not by_node[node].malformed):
                by_node[node] = malformed("more than one reply")
            else:
                by_node[node] = absent("error") if reply.has_error() else reply
        numbers = self.server.aggregate(server_round, by_node)
        return self._arrays() if numbers["updated"] else None, MetricRecord(dict(numbers))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No messages: what clients say of the model is not used. See `evaluate_fn` of `start`."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """None."""
        return None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Runs the rounds up to `num_rounds`, from the checkpoint if there is one.

        Args:
          grid: the grid.
          initial_arrays: the first model.
          num_rounds: the last round.
          timeout: seconds to wait for the replies of a round.
          train_config: settings for the clients; the round and a nonce are added.
          evaluate_config: unused, since no client evaluates.
          evaluate_fn: evaluates a model on the server's own data.

        Returns:
          The final model and the numbers of each round since the start of this process.
        """
        del evaluate_config
        _log.info("Starting %s:", type(self).__name__)
        self.summary()
        result = Result()
        self._begin(initial_arrays)
        last = self.server.saved.round
        if last == 0 and evaluate_fn and (evaluation := evaluate_fn(0, self._arrays())):
            result.evaluate_metrics_serverapp[0] = evaluation
        settings = ConfigRecord() if train_config is None else train_config
        for server_round in range(last + 1, num_rounds + 1):
            _log.info("[ROUND %d/%d]", server_round, num_rounds)
            messages = list(self.configure_train(server_round, self._arrays(), settings, grid))
            for message in messages:
                message.metadata.ttl = timeout  # a node that returns later does not train for it
            enough = len(messages) - self.f
            replies = collect(grid, messages, timeout, enough, self.patience)
            numbers = self.server.aggregate(server_round, replies)
            result.train_metrics_clientapp[server_round] = MetricRecord(dict(numbers))
            if evaluate_fn and (evaluation := evaluate_fn(server_round, self._arrays())):
                _log.info("round %d: evaluation %s", server_round, dict(evaluation))
                result.evaluate_metrics_serverapp[server_round] = evaluation
                self.server.entry["evaluation"] = dict(evaluation)
            self.server.keep(server_round)
        result.arrays = self._arrays()
        return result

    def _begin(self, arrays: ArrayRecord) -> None:
        self.server.begin({name: array.numpy() for name, array in arrays.items()})

    def _arrays(self) -> ArrayRecord:
        params = self.server.params
        return ArrayRecord({name: Array(np.asarray(leaf)) for name, leaf in params.items()})


def _connected(grid: Grid, least: int, wait: float) -> list[int]:
    """The connected nodes, in order, once there are enough or the time is over."""
    deadline = time.monotonic() + wait
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= least:
            return nodes
        if time.monotonic() >= deadline:
            _log.warning("%d of %d nodes connected after %g s", len(nodes), least, wait)
            return nodes
        time.sleep(_PATIENCE)


def _check(rule: Any, mixing: Any, worker: Any, server: Any, num_workers: int | None) -> None:
    """Raises if a stage is not of its kind."""
    for name, value, write in (
        ("server_optimizer", server, "optax.sgd(1.0)"),
        ("worker", worker, "optax.ema(0.9)"),
    ):
        if value is None:
            continue
        if wrong := _mistakes.no_transformation("RobustStrategy", name, value, write):
            raise wrong
    for verb, value in (("mix", mixing), ("aggregate", rule)):
        if value is None and verb == "mix":
            continue
        if is_transformation(value):
            if num_workers is None:
                raise TypeError(
                    "RobustStrategy: a rule or mixing with memory needs num_workers=..., the "
                    "number of workers that it was made for."
                )
            continue
        must_be_function(verb, value)
        right_verb(verb, value)
