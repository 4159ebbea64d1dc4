"""Redundant computation of gradients, from which a server detects Byzantine nodes."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from byzjax import rules, stacked
from byzjax._checks import one_of, static_int
from byzjax._compiled import compiled, taught
from byzjax._numerics.arrays import copied
from byzjax.protocols import _workers, codes
from byzjax.protocols._protocol import Info, Protocol, Traffic
from byzjax.stacked import PyTree
from byzjax.transforms import aggregate


class RedundantState(NamedTuple):
    """The model, and the state of each stage.

    Attributes:
      params: the model.
      stages: states of the stages attack, rule and server, in this order.
    """

    params: PyTree
    stages: tuple


@compiled
def vote(updates: PyTree, *, r: int, axis_name: str | None = None) -> PyTree:
    r"""The majority of each group of r consecutive workers, leaf by leaf.

    $$ y_k = x_{i^*}, \qquad
       i^* = \arg\max_{i \in G_k} \, \bigl|\{ j \in G_k : x_j = x_i \}\bigr|,
       \quad G_k = \{kr, \dots, kr + r - 1\} $$

    for each leaf separately; ties go to the lower index. Rows are compared bitwise: NaN may win the
    vote, and 0 is not -0. A leaf that more than r / 2 rows of the group share is returned bitwise,
    whatever the others sent.

    Requirement: r divides n. Cost: O(n r d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      r: size of a group, a Python int.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      Stacked updates of n / r rows; every leaf keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or r does not divide it.
      TypeError: r is not a Python int.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import protocols
      >>> updates = jnp.array([[9.0], [1.0], [1.0], [2.0], [2.0], [jnp.nan]])
      >>> protocols.vote(updates, r=3)
      Array([[1.],
             [2.]], dtype=float32)

    Reference: Chen, Wang, Charles and Papailiopoulos, DRACO: Byzantine-resilient Distributed
    Training via Redundant Gradients, ICML 2018 (arXiv:1803.09877), the repetition code.
    """
    n, r = stacked.num_workers(updates), static_int("r", r, at_least=1)
    if n % r:
        raise ValueError(f"vote needs r to divide n; got r={r}, n={n}.")

    def leaf_voted(leaf: jax.Array) -> jax.Array:
        rows = leaf.reshape(n // r, r, -1)
        bits = _workers.bits(lax.stop_gradient(rows))
        differ = jnp.any(bits[:, :, None] != bits[:, None], axis=3)
        if axis_name is not None:
            differ = lax.psum(differ.astype(jnp.int32), axis_name) > 0
        chosen = jnp.argmin(jnp.sum(differ, axis=2, dtype=jnp.int32), axis=1)
        voted = jnp.take_along_axis(rows, chosen[:, None, None], axis=1)
        return voted.reshape(n // r, *leaf.shape[1:])

    return jax.tree.map(leaf_voted, updates)


@taught
def redundant(
    loss_fn: Callable,
    *,
    num_workers: int,
    s: int,
    server: optax.GradientTransformation,
    r: int | None = None,
    code: str = "repetition",
    rule: optax.GradientTransformation | None = None,
    attack: optax.GradientTransformation | None = None,
    workers_at_once: int | None = None,
    workers_axis: str | None = None,
) -> Protocol:
    r"""Every batch goes to r nodes, whose redundancy reveals Byzantine nodes (DRACO, DETOX).

    With the repetition code, the P nodes form P / r groups of consecutive nodes. All nodes of a
    group send the same value, the mean over the group's r batches, and the server takes the
    majority of each group:

    $$ x_i = \frac{1}{r} \sum_{j \in G_k} \nabla \ell_j(x), \quad i \in G_k, \qquad
       y_k = \mathrm{vote}\{x_i : i \in G_k\} $$

    With at most s Byzantine nodes in a group, y_k is bitwise what it would be without any. The step
    follows the mean of all y_k (DRACO), or a robust rule of them (DETOX): then a few groups may
    have more than s Byzantine nodes.

    With the cyclic code, node i sends one complex combination of the gradients of the batches i,
    ..., i + 2s, and the server decodes the mean of all P gradients, up to rounding, whichever s
    nodes are Byzantine: `codes.encode` and `codes.decode`.

    Requirement: r >= 2s + 1 and r divides P; for the cyclic code P >= 2s + 1, and at most 5000
    sets of s nodes. Cost: every node computes r gradients; here each is computed once and
    copied. The vote takes O(P r d).

    Args:
      loss_fn: `loss_fn(params, batch, key=None) -> scalar`, of one batch.
      num_workers: P, the number of nodes and of batches, a Python int.
      s: number of Byzantine nodes to tolerate, a Python int: in each group for the repetition
        code, in total for the cyclic code.
      server: the server's optimizer, such as `optax.sgd(0.1)`.
      r: how many nodes compute each gradient, a Python int; None for 2s + 1, the only value for the
        cyclic code.
      code: `"repetition"` or `"cyclic"`.
      rule: aggregates the groups' votes, stacked `[P / r, ...]` -> one update, such as
        `byzjax.aggregate(byzjax.geometric_median)`; None for their mean. Not for the cyclic code.
      attack: the attack on the messages, such as `byzjax.attack(attacks.constant, byzantine)`.
        Messages of the cyclic code are a dict of two trees, `re` and `im`.
      workers_at_once: how many batches' gradients are computed at once, a Python int; None for all
        of them.
      workers_axis: a mapped axis (`jax.shard_map`, `jax.pmap`) whose devices share the gradient
        computation; all else, arguments included, is replicated. None for one device.

    Returns:
      A `Protocol`; `batch["workers"]` holds one batch for each node. Batch i's loss key is
      `fold_in(key, i)`; the gradient of a `trusted` batch becomes the extra argument `trusted`. For
      the cyclic code, `honest` and `sent` are real parts. `models` returns one model.

    Raises:
      TypeError: an argument that must be a Python int is not.
      ValueError: a requirement is not met, the code is unknown, the cyclic code is given a rule or
        another r, or, at a step, there are not P batches.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp, optax
      >>> from byzjax import attacks, protocols
      >>> def loss_fn(params, batch, key=None):
      ...     return jnp.mean((params - batch["x"]) ** 2)
      >>> attack = byzjax.attack(attacks.constant, jnp.array([0, 1, 0, 0, 0, 1], bool))
      >>> draco = protocols.redundant(
      ...     loss_fn, num_workers=6, s=1, attack=attack, server=optax.sgd(0.5))
      >>> key = jax.random.key(0)
      >>> batch = {"workers": {"x": jnp.arange(6.0)[:, None]}}
      >>> state, info = draco.step(draco.init(jnp.zeros(()), key), batch, key)
      >>> info.sent
      Array([  -2., -100.,   -2.,   -8.,   -8., -100.], dtype=float32)
      >>> draco.models(state)
      Array([2.5], dtype=float32)

      DETOX, where the last of five groups is Byzantine:

      >>> attack = byzjax.attack(attacks.constant, jnp.arange(15) >= 12)
      >>> detox = protocols.redundant(
      ...     loss_fn, num_workers=15, s=1, attack=attack, server=optax.sgd(0.5),
      ...     rule=byzjax.aggregate(byzjax.median))
      >>> batch = {"workers": {"x": jnp.arange(15.0)[:, None]}}
      >>> state, info = detox.step(detox.init(jnp.zeros(()), key), batch, key)
      >>> protocols.vote(info.sent, r=3)
      Array([  -2.,   -8.,  -14.,  -20., -100.], dtype=float32)
      >>> info.aggregate
      Array(-14., dtype=float32)

    Reference: Chen, Wang, Charles and Papailiopoulos, DRACO: Byzantine-resilient Distributed
    Training via Redundant Gradients, ICML 2018 (arXiv:1803.09877); Rajput, Wang, Charles and
    Papailiopoulos, DETOX: A Redundancy-based Framework for Faster and More Robust Gradient
    Aggregation, NeurIPS 2019 (arXiv:1907.12205).
    """
    one_of("code", code, ("repetition", "cyclic"))
    nodes, s = static_int("num_workers", num_workers, at_least=1), static_int("s", s)
    r = 2 * s + 1 if r is None else static_int("r", r, at_least=1)
    if workers_at_once is not None:
        workers_at_once = static_int("workers_at_once", workers_at_once, at_least=1)
    cyclic = code == "cyclic"
    if cyclic:
        codes.enough_nodes(nodes, s)
        if r != 2 * s + 1:
            raise ValueError(f"the cyclic code has r = 2s + 1; got r={r}, s={s}.")
        if rule is not None:
            raise ValueError("the cyclic code takes no rule: it decodes one mean.")
    elif r < 2 * s + 1:
        raise ValueError(f"redundant needs r >= 2s + 1; got r={r}, s={s}.")
    elif nodes % r:
        raise ValueError(
            f"redundant needs r to divide num_workers; got r={r}, num_workers={nodes}."
        )
    rule = rule or aggregate(rules.mean)
    stages = _workers.supported("redundant", loss_fn, attack=attack, rule=rule, server=server)
    attack, rule, server = stages
    made = _Redundant(
        loss_fn, s, server, r, rule, attack, workers_at_once, workers_axis, cyclic, nodes, stages
    )
    return Protocol(made.init, made.step, made.models, made.traffic)


@dataclasses.dataclass(frozen=True)
class _Redundant:
    """The functions of `redundant`, bound to its checked arguments."""

    loss_fn: Callable
    s: int
    server: optax.GradientTransformationExtraArgs
    r: int
    rule: optax.GradientTransformationExtraArgs
    attack: optax.GradientTransformationExtraArgs
    workers_at_once: int | None
    workers_axis: str | None
    cyclic: bool
    nodes: int
    stages: tuple

    def message(self, params: PyTree) -> PyTree:
        """A tree with the structure of one node's message."""
        return {"re": params, "im": params} if self.cyclic else params

    def messages(self, gradients: PyTree) -> PyTree:
        """What honest nodes send, stacked."""
        return codes.encode(gradients, s=self.s) if self.cyclic else _of_groups(gradients, self.r)

    def shown(self, messages: PyTree) -> PyTree:
        """The part of the messages that `Info` holds."""
        return messages["re"] if self.cyclic else messages

    def init(self, params: PyTree, key: jax.Array) -> RedundantState:
        del key  # random transformations received their keys when they were created
        trees = (self.message(params), params, params)
        return copied(
            RedundantState(params, tuple(x.init(tree) for x, tree in zip(self.stages, trees)))
        )

    def step(
        self, state: RedundantState, batch: dict, key: jax.Array
    ) -> tuple[RedundantState, Info]:
        params, (attacking, ruling, serving) = state.params, state.stages
        n = self.nodes
        of_workers = _workers.batches(batch, key)
        _workers.check_batch(of_workers, n)
        extra_args = _workers.trusted(self.loss_fn, params, batch, key, n)
        options = {"at_once": self.workers_at_once, "axis": self.workers_axis}
        gradients = _workers.gradients(self.loss_fn, params, of_workers, key, **options)
        with jax.named_scope("send"):
            honest = self.messages(gradients)
        sent, attacking = self.attack.update(honest, attacking, self.message(params), **extra_args)
        if self.cyclic:
            with jax.named_scope("aggregate"):
                total = codes.decode(sent, s=self.s, key=jax.random.fold_in(key, n + 1))
                aggregated = jax.tree.map(lambda g, p: (g / n).astype(p.dtype), total, params)
        else:
            with jax.named_scope("aggregate"):
                votes = vote(sent, r=self.r)
            aggregated, ruling = self.rule.update(votes, ruling, params, **extra_args)
        step_taken, serving = self.server.update(aggregated, serving, params, **extra_args)
        after = RedundantState(_workers.stepped(params, step_taken), (attacking, ruling, serving))
        return after, Info(self.shown(honest), self.shown(sent), aggregated, jnp.arange(n))

    def models(self, state: RedundantState) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[None], state.params)

    def traffic(self, params: PyTree) -> Traffic:
        up = 2 if self.cyclic else 1
        return Traffic(2 * self.nodes, (1 + up) * self.nodes * optax.tree.size(params))


def _of_groups(updates: PyTree, r: int) -> PyTree:
    """For each row the mean of its group of r consecutive rows.

    Computed once and then copied behind a barrier, and on CPU behind a matrix product, which is not
    fused with anything: recomputed for each row, equal rows might differ in a bit.
    """
    n = stacked.num_workers(updates)
    group = jnp.arange(n) // r
    means = lax.optimization_barrier(stacked.group_means(updates, group, n // r))
    return stacked.take(means, group)
