"""The server's side of a round, apart from Flower: replies in, a model and a report out."""

import logging
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byzjax._mistakes import name_of
from byzjax.flower import _aggregation, _report
from byzjax.flower._checkpoint import Saved, load, save
from byzjax.flower._replies import Fault, Row, absent, digest_of, malformed, read
from byzjax.flower._report import Node

_log = logging.getLogger("flwr")
_REMEMBERED = 64  # replies of a node whose repetition is noticed


class Server:
    """Model, optimizer and memories, and the rounds that change them.

    Attributes:
      saved: the state; its `round` is the last one that was kept.
      nodes: what is reported of each node in the last round.
    """

    def __init__(
        self,
        stages: _aggregation.Stages,
        f: int,
        *,
        min_replies: int,
        num_workers: int | None,
        data: Callable[[int, dict[str, np.ndarray]], dict[str, Any]] | None,
        checkpoint: pathlib.Path | None,
        report: pathlib.Path | None,
        allow_repeats: bool,
        key: str,
    ) -> None:
        self.stages, self.f, self.key, self.data = stages, f, key, data
        self.min_replies, self.num_workers = min_replies, num_workers
        self.checkpoint, self.report, self.allow_repeats = checkpoint, report, allow_repeats
        self.saved = Saved(0, _aggregation.State({}, None, None), {}, [], {})
        self.nodes: dict[int, Node] = {}
        self.entry: dict[str, Any] = {}
        self._differentiable = True
        self._programs: dict[tuple[int, bool], Callable] = {}
        _aggregation.combination(stages, f)  # names a missing hyperparameter now

    @property
    def params(self) -> dict[str, np.ndarray]:
        return self.saved.state.params

    def begin(self, params: dict[str, np.ndarray]) -> None:
        """A new state, or that of the checkpoint."""
        for name, leaf in params.items():
            _check_leaf(name, leaf)
        state = _aggregation.start(self.stages, self.f, params)
        self.saved = Saved(0, state, {}, [], {})
        if self.checkpoint is not None and self.checkpoint.exists():
            self.saved = load(self.checkpoint, state, self._new_worker(params))
            _log.info("continuing after round %d of %s", self.saved.round, self.checkpoint)
        if self.report is not None:
            _report.cut(self.report, self.saved.round)

    def keep(self, server_round: int) -> None:
        """The report before the checkpoint: a restart removes lines of rounds that it repeats."""
        if self.report is not None:
            _report.append(self.report, self.entry)
        self.saved = self.saved._replace(round=server_round)
        if self.checkpoint is not None:
            save(self.checkpoint, self.saved)

    def aggregate(self, server_round: int, replies: dict[int, Any]) -> dict[str, int | float]:
        """Changes the model, unless the round fails; never raises for what a client sent.

        Args:
          server_round: the round.
          replies: for each node that was asked, its message or a `Fault`.

        Returns:
          The numbers of the round.
        """
        rows, faults = self._rows(server_round, replies)
        count = sum(fault.malformed for fault in faults.values())
        outcome, reason = self._outcome(server_round, rows, self.f - count, count)
        self.nodes = {}
        for node in sorted(replies):
            if node in faults:
                status = "malformed" if faults[node].malformed else "absent"
                self.nodes[node] = Node(status, faults[node].reason)
            else:
                status = "unused" if outcome is None else "used"
                self.nodes[node] = Node(status, notes=rows[node].notes)
        if outcome is not None:
            self._accept(rows, outcome)
        self._log_round(server_round, reason)
        updated = outcome is not None
        self.entry = _report.line(
            server_round,
            self.nodes,
            updated=updated,
            reason=reason,
            asked=len(replies),
            rows=len(rows),
            f=self.f - count,
        )
        return _report.metrics(self.nodes, updated)

    def _new_worker(self, params: Any) -> Any:
        return None if self.stages.worker is None else self.stages.worker.init(params)

    def _rows(
        self, server_round: int, replies: dict[int, Any]
    ) -> tuple[dict[int, Row], dict[int, Fault]]:
        """Well-formed replies in the order of the nodes' places, and the others' faults."""
        sent = {name: np.asarray(leaf) for name, leaf in self.params.items()}
        model, slots = digest_of(sent), self.saved.slots
        rows: dict[int, Row] = {}
        faults: dict[int, Fault] = {}
        for node, reply in sorted(replies.items()):
            if not isinstance(reply, Fault):
                reply = read(reply, node, sent, self.key, str(server_round))
            if isinstance(reply, Row):
                reply = self._first_time(server_round, node, reply, model)
            if isinstance(reply, Fault):
                faults[node] = reply
            elif node not in slots and len(slots) == self.num_workers:
                faults[node] = absent(f"turned away: there are {len(slots)} nodes already")
            else:
                if node not in slots:
                    slots[node] = len(slots)
                    self.saved.workers.append(self._new_worker(self.params))
                rows[node] = reply
        return {node: rows[node] for node in slots if node in rows}, faults

    def _first_time(self, server_round: int, node: int, row: Row, model: bytes) -> Row | Fault:
        """The row, unless the node sent the same bits for another model before."""
        seen = self.saved.seen.setdefault(node, {})
        before = seen.pop(row.digest, None)
        if len(seen) >= _REMEMBERED:
            del seen[next(iter(seen))]
        seen[row.digest] = (server_round, model) if before is None else before
        if before is None or before[1] == model or self.allow_repeats:
            return row
        return malformed(f"its reply of round {before[0]} again")

    def _outcome(
        self, server_round: int, rows: dict[int, Row], f: int, count: int
    ) -> tuple[_aggregation.Outcome | None, str | None]:
        """What the round gives, or why it fails."""
        if f < 0:
            return None, f"{count} malformed replies, f = {self.f}"
        if len(rows) + count < self.min_replies:
            return None, f"{len(rows) + count} replies, min_replies = {self.min_replies}"
        if not rows:
            return None, "no well-formed reply"
        arguments = self._arguments(server_round, rows)
        try:
            jax.eval_shape(self._program(f, False), *arguments)
        except ValueError as error:  # of a requirement on n and f
            return None, str(error).partition("\n")[0]
        outcome = self._differentiated(f, arguments)(*arguments)
        return (outcome, None) if bool(outcome.finite) else (None, "the new model is not finite")

    def _arguments(self, server_round: int, rows: dict[int, Row]) -> tuple:
        """Those of `_aggregation.program`."""
        updates = [row.update for row in rows.values()]
        stacked = {name: np.stack([update[name] for update in updates]) for name in self.params}
        places = [self.saved.slots[node] for node in rows]
        workers = None
        if self.stages.worker is not None:
            states = [self.saved.workers[place] for place in places]
            workers = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
        data = {} if self.data is None else self.data(server_round, dict(self.params))
        return self.saved.state, workers, stacked, np.array(places, np.int32), data

    def _program(self, f: int, differentiable: bool) -> Callable[..., _aggregation.Outcome]:
        if (f, differentiable) not in self._programs:
            made = _aggregation.program(self.stages, f, differentiable)
            self._programs[f, differentiable] = made
        return self._programs[f, differentiable]

    def _differentiated(self, f: int, arguments: tuple) -> Callable[..., _aggregation.Outcome]:
        """The program with the influence, or that without it, which is logged once."""
        if self._differentiable:
            try:
                jax.eval_shape(self._program(f, True), *arguments)
            except Exception as error:  # whatever JAX raises for what has no derivative
                self._differentiable = False
                text = str(error).partition("\n")[0]
                _log.warning("no influence of %s: %s", name_of(self.stages.rule), text)
        return self._program(f, self._differentiable)

    def _accept(self, rows: dict[int, Row], outcome: _aggregation.Outcome) -> None:
        params = {name: np.asarray(leaf) for name, leaf in outcome.state.params.items()}
        self.saved = self.saved._replace(state=outcome.state._replace(params=params))
        for i, node in enumerate(rows):
            if self.stages.worker is not None:
                own = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), outcome.workers)
                self.saved.workers[self.saved.slots[node]] = own
            share = None if outcome.influence is None else float(outcome.influence[i])
            distance = float(outcome.distances[i])
            self.nodes[node] = self.nodes[node]._replace(influence=share, distance=distance)

    def _log_round(self, server_round: int, reason: str | None) -> None:
        for node, entry in self.nodes.items():
            where = f"round {server_round}: node {node}"
            if entry.reason is not None:
                _log.warning("%s %s: %s", where, entry.status, entry.reason)
            for note in entry.notes:
                _log.warning("%s %s: ignored", where, note)
            if entry.distance is not None:
                share = math.nan if entry.influence is None else entry.influence
                _log.info("%s influence %.3f, distance %.3g", where, share, entry.distance)
        if reason is not None:
            _log.error("round %d failed, the model stays: %s", server_round, reason)


def _check_leaf(name: str, leaf: np.ndarray) -> None:
    if not np.issubdtype(leaf.dtype, np.floating):
        raise TypeError(
            f"RobustStrategy: array {name} is {leaf.dtype}, but models are of floats: keep "
            "counters at the clients."
        )
    if leaf.dtype.itemsize > jnp.result_type(float).itemsize:
        raise TypeError(
            f"RobustStrategy: array {name} is {leaf.dtype}; send float32, or set jax_enable_x64."
        )
