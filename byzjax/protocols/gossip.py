"""Peer-to-peer training: no server, and each node hears only its neighbours in a graph."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax._checks import static_int
from byzjax._compiled import taught
from byzjax._numerics.arrays import copied
from byzjax._numerics.maps import each_receiver
from byzjax.protocols import _workers, graphs
from byzjax.protocols._protocol import Info, Protocol, Traffic
from byzjax.stacked import PyTree
from byzjax.transforms import per_worker


class GossipState(NamedTuple):
    """A model for each node, and the state of each stage.

    Attributes:
      params: the models, `[n, ...]`.
      optimizer: states of the optimizer, one for each node.
      attack: state of the attack; with `per_receiver` one for each node.
      rule: states of the rule, one for each node.
    """

    params: PyTree
    optimizer: PyTree
    attack: PyTree
    rule: PyTree


class _Degree(NamedTuple):
    """The nodes that have k - 1 neighbours.

    Attributes:
      nodes: `int32[m]`, their indices.
      heard: `int32[m, k]`, the senders of the rows of each node, itself first.
      weights: `[m, k]`, the Metropolis weights of these rows.
    """

    nodes: jax.Array
    heard: jax.Array
    weights: jax.Array


@taught
def gossip(
    loss_fn: Callable,
    *,
    graph: Any,
    rule: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
    byzantine: jax.Array | None = None,
    f: int = 0,
    attack: optax.GradientTransformation | None = None,
    per_receiver: bool = False,
    local_steps: int = 1,
    workers_at_once: int | None = None,
    workers_axis: str | None = None,
) -> Protocol:
    r"""Every node takes a local step, then aggregates its model with those of its neighbours.

    $$ y_i = x_i + u_i, \qquad x_i \leftarrow F(y_i, \; y_j : j \in N_i) $$

    where u_i is the update of node i's optimizer for the gradient at x_i, and N_i are its
    neighbours in the graph. The rows of F are node i's own half step y_i, which no attack alters,
    followed by what its neighbours sent, in the order of their indices. The rule may take the extra
    arguments `center`, y_i, and `weights`, the Metropolis weights of the rows. So

    * `byzjax.aggregate(byzjax.nearest_to_pivot, f=f)` is MoNNA: row 0 is the pivot;
    * `byzjax.aggregate(byzjax.centered_clip, radius=r)` clips about y_i, all weights 1 / k;
    * `byzjax.aggregate(protocols.clipped_gossip, radius=r)` does so with the Metropolis weights;
    * `byzjax.aggregate(byzjax.stacked.weighted_mean)` is plain gossip.

    Requirement: that of the rule, where n counts a node and its neighbours, and f the Byzantine
    ones among them. A rule may need more here than at one server, since errors carry over to the
    next step: with three rows and f = 1, a malicious model closer than the honest neighbour makes
    MoNNA diverge. Cost: one gradient and one call of the rule per node.

    Args:
      loss_fn: `loss_fn(params, batch, key=None) -> scalar`, of one node's batch.
      graph: `bool[n, n]`, the adjacency matrix of a connected graph, such as `graphs.ring(n)`.
      rule: stacked half steps of a neighbourhood -> one model, such as `byzjax.aggregate(...)`;
        each node has its own state.
      optimizer: optimizer of one node, such as `optax.sgd(0.1, momentum=0.9)`; each node has its
        own state.
      byzantine: `bool[n]`, nodes that `models` and `Info.aggregate` leave out; may be traced; None
        for none.
      f: largest number of Byzantine nodes in total, a Python int.
      attack: the attack on the half steps `[n, ...]`, the same for all receivers, such as
        `byzjax.attack(attacks.sign_flip, byzantine)`.
      per_receiver: whether the attack instead runs once for each node, on the rows `[k, ...]` that
        this node hears, with the extra arguments `senders` (their indices), `center` and `weights`.
        It then has a state for each node.
      local_steps: how many steps of its optimizer a node takes before it sends, a Python int that
        divides the batch; the j-th one is on the j-th part of its batch.
      workers_at_once: how many nodes are computed at once, a Python int; None for all of them, with
        a copy of a model for each edge and direction.
      workers_axis: a mapped axis (`jax.shard_map`, `jax.pmap`) whose devices share the gradient
        computation; all else, arguments included, is replicated. None for one device.

    Returns:
      A `Protocol`. Node i's loss key is `fold_in(key, i)`; `models` returns n - f models. In `Info`
      the updates are half steps, and `aggregate` is the mean of the honest nodes' new models; with
      `per_receiver`, `sent` is what the first honest node hears, and the half steps of nodes that
      it does not hear.

    Raises:
      TypeError: f or workers_at_once is not a Python int.
      ValueError: the graph is invalid or not connected, f >= n, `byzantine` is not `bool[n]`, the
        rule needs larger neighbourhoods, or, at a step, the batch is not one of n nodes.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp, optax
      >>> from byzjax import protocols
      >>> from byzjax.protocols import graphs
      >>> def loss_fn(params, batch, key=None):
      ...     return jnp.mean((params - batch["x"]) ** 2)
      >>> peers = protocols.gossip(loss_fn, graph=graphs.ring(4), optimizer=optax.sgd(0.5),
      ...     rule=byzjax.aggregate(byzjax.median))
      >>> key = jax.random.key(0)
      >>> batch = {"workers": {"x": jnp.array([[1.0], [2.0], [3.0], [99.0]])}}
      >>> state, info = peers.step(peers.init(jnp.zeros(()), key), batch, key)
      >>> peers.models(state)
      Array([2., 2., 3., 3.], dtype=float32)

    Reference: for half step and rule, He, Karimireddy and Jaggi, Byzantine-Robust Decentralized
    Learning via ClippedGossip, 2022 (arXiv:2202.01545), and Farhadkhani et al., Robust
    Collaborative Learning with Linear Gradient Overhead, ICML 2023 (arXiv:2209.10931).
    """
    if workers_at_once is not None:
        workers_at_once = static_int("workers_at_once", workers_at_once, at_least=1)
    local_steps = static_int("local_steps", local_steps, at_least=1)
    heard = graphs.neighborhoods(graph)
    n, f = len(heard), static_int("f", f)
    if f >= n:
        raise ValueError(f"gossip needs f < n; got n={n}, f={f}.")
    byzantine = jnp.zeros(n, bool) if byzantine is None else jnp.asarray(byzantine)
    if byzantine.shape != (n,) or byzantine.dtype != jnp.bool_:
        raise ValueError(
            f"byzantine must be bool[n] with n={n}; got {byzantine.dtype}{list(byzantine.shape)}."
        )
    rule, optimizer, attack = _workers.supported(
        "gossip", loss_fn, rule=rule, optimizer=optimizer, attack=attack
    )
    for size in sorted({1 + len(near) for near in heard}):
        _workers.try_rule(
            rule, size, "in gossip these are a node and its neighbours", "center", "weights"
        )
    degrees = _degrees(heard, graphs.metropolis_weights(graph))
    in_order = jnp.argsort(jnp.concatenate([group.nodes for group in degrees]))
    made = _Gossip(
        loss_fn,
        rule,
        optimizer,
        byzantine,
        f,
        attack,
        per_receiver,
        local_steps,
        workers_at_once,
        workers_axis,
        degrees,
        heard,
        in_order,
        n,
    )
    return Protocol(made.init, made.step, made.models, made.traffic)


@dataclasses.dataclass(frozen=True)
class _Gossip:
    """The functions of `gossip`, bound to its checked arguments."""

    loss_fn: Callable
    rule: optax.GradientTransformationExtraArgs
    optimizer: optax.GradientTransformationExtraArgs
    byzantine: jax.Array
    f: int
    attack: optax.GradientTransformationExtraArgs
    per_receiver: bool
    local_steps: int
    workers_at_once: int | None
    workers_axis: str | None
    degrees: list
    heard: tuple
    in_order: jax.Array
    n: int

    def init(self, params: PyTree, key: jax.Array) -> GossipState:
        del key  # random transformations received their keys when they were created
        attacking = per_worker(self.attack, self.n) if self.per_receiver else self.attack
        state = GossipState(
            _workers.copies(params, self.n),
            per_worker(self.optimizer, self.n).init(params),
            attacking.init(params),
            per_worker(self.rule, self.n).init(params),
        )
        return copied(state)

    def step(self, state: GossipState, batch: dict, key: jax.Array) -> tuple[GossipState, Info]:
        models, of_workers = state.params, _workers.batches(batch, key)
        count = stacked.num_workers(of_workers)
        if count != self.n:
            raise ValueError(f"expected batches of the graph's {self.n} nodes; got {count}.")
        half, optimizing = _workers.shard_workers(
            functools.partial(self.half_steps, key),
            *(models, state.optimizer, of_workers, jnp.arange(self.n)),
            axis=self.workers_axis,
        )
        sent, attacking, to_each = half, state.attack, ()
        if self.per_receiver:
            attacking, to_each = (), state.attack
        else:
            sent, attacking = self.attack.update(half, attacking, models)

        # Own and sent half steps in one array, so that a receiver's rows take one gather.
        with jax.named_scope("send"):
            both = jax.tree.map(lambda *parts: jnp.concatenate(parts), half, sent)

        def meet(senders: jax.Array, weights: jax.Array, to_one: PyTree, ruling: PyTree) -> tuple:
            own = stacked.take(half, senders[0])
            given = {"center": own, "weights": weights, "weights_of": "graph"}
            if self.per_receiver:
                rows, those = stacked.take(half, senders), stacked.take(models, senders)
                rows, to_one = self.attack.update(rows, to_one, those, senders=senders, **given)
                rows = told = jax.tree.map(lambda x, mine: x.at[0].set(mine), rows, own)
            else:
                with jax.named_scope("send"):
                    rows, told = stacked.take(both, (senders + self.n).at[0].add(-self.n)), ()
            model, ruling = self.rule.update(
                rows, ruling, stacked.take(models, senders[0]), **given
            )
            return (model, to_one, ruling), told

        outcomes, told = [], []
        for group in self.degrees:
            states = jax.tree.map(lambda x, of=group.nodes: x[of], (to_each, state.rule))
            outcome, rows = each_receiver(
                meet, group.heard, group.weights, *states, at_once=self.workers_at_once
            )
            outcomes.append(outcome)
            told.append(rows)
        new, to_each, ruling = jax.tree.map(
            lambda *parts: jnp.concatenate(parts)[self.in_order], *outcomes
        )
        if self.per_receiver:
            attacking, sent = (
                to_each,
                _as_heard_by(jnp.argmin(self.byzantine), self.degrees, told, half),
            )
        info = Info(half, sent, stacked.mean_selected(new, ~self.byzantine), jnp.arange(self.n))
        return GossipState(new, optimizing, attacking, ruling), info

    def half_steps(
        self, key: jax.Array, models: PyTree, states: PyTree, batch: PyTree, nodes: jax.Array
    ) -> tuple[PyTree, PyTree]:
        """The models after the nodes' own steps, and the states of their optimizers."""
        options = {"at_once": self.workers_at_once, "workers": nodes}
        return _workers.trained(
            *(self.loss_fn, self.optimizer, models, states, batch, key),
            steps=self.local_steps,
            **options,
        )

    def models(self, state: GossipState) -> PyTree:
        return _workers.honest_rows(state.params, self.byzantine, self.n - self.f)

    def traffic(self, params: PyTree) -> Traffic:
        messages = sum(len(near) for near in self.heard)
        return Traffic(messages, messages * optax.tree.size(params))


def _degrees(heard: tuple, weights: tuple) -> list[_Degree]:
    """The nodes grouped by number of neighbours, fewest first."""
    groups = []
    for degree in sorted({len(near) for near in heard}):
        nodes = [i for i, near in enumerate(heard) if len(near) == degree]
        rows = [(i, *heard[i]) for i in nodes]
        shares = [[weights[i][j] for j in row] for i, row in zip(nodes, rows)]
        groups.append(_Degree(jnp.asarray(nodes), jnp.asarray(rows), jnp.asarray(shares)))
    return groups


def _as_heard_by(node: jax.Array, degrees: list[_Degree], told: list, half: PyTree) -> PyTree:
    """The n rows as one node sees them: what it received, and the half steps of the rest."""

    def of_degree(out: PyTree, group: _Degree, rows: PyTree) -> PyTree:
        here = group.nodes == node
        place = jnp.argmax(here)
        senders = group.heard[place]

        def leaf(x: jax.Array, row: jax.Array) -> jax.Array:
            return x.at[senders].set(jnp.where(jnp.any(here), row[place], x[senders]))

        return jax.tree.map(leaf, out, rows)

    for group, rows in zip(degrees, told):
        half = of_degree(half, group, rows)
    return half
