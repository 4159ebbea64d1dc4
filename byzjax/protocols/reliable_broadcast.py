"""Bracha's reliable broadcast: nodes agree on what a sender sent, even if it equivocates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import static_int
from byzjax._compiled import compiled
from byzjax.protocols import _workers
from byzjax.stacked import PyTree


class Delivery(NamedTuple):
    """The result of `reliable_broadcast`.

    Attributes:
      updates: what each node delivers, stacked `[n, ...]`; NaN where it delivers nothing.
      delivered: `bool[n]`, the nodes that deliver an update.
    """

    updates: PyTree
    delivered: jax.Array


@compiled
def reliable_broadcast(
    updates: PyTree,
    byzantine: jax.Array,
    echoes: jax.Array | None = None,
    readies: jax.Array | None = None,
    *,
    f: int,
) -> Delivery:
    r"""What n nodes deliver of one broadcast, in which the sender and f nodes may equivocate.

    $$ \text{send } x_i \to \text{node } i, \qquad
       \text{echo } x_i, \qquad
       \text{ready } v: > \tfrac{n + f}{2} \text{ echoes or } > f \text{ readies of } v, \qquad
       \text{deliver } v: > 2 f \text{ readies} $$

    Node i receives row i from the sender, who sends the same to all if it is honest, and echoes it
    to all. An honest node says ready once, for one update. Updates are compared bit for bit, and
    messages arrive in rounds until nothing changes.

    With at most f Byzantine nodes: an honest sender's update is delivered by all honest nodes; no
    two honest nodes deliver different updates; and if one of them delivers, all do.

    Requirement: n >= 3f + 1. Breakdown: n > 3f. Cost: O(n^2 d) and O(n^4) here; on a network
    n + 2 n^2 messages, of which the readies need only a digest.

    Args:
      updates: what the sender sends to each node; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, the Byzantine nodes; may be traced.
      echoes: `int32[n, n]`, what each Byzantine node echoes to each node: the number of a row of
        `updates`, or -1 for nothing. None for no echo from them. Rows of honest nodes are ignored.
      readies: the same for what they say to be ready for.
      f: number of Byzantine nodes to tolerate, a Python int.

    Returns:
      A `Delivery`; rows of Byzantine nodes are those of a node that follows the protocol.

    Raises:
      ValueError: the leaves disagree on n, n < 3f + 1, or a mask or table has another shape.
      TypeError: f is not a Python int.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import protocols
      >>> nobody = jnp.zeros(4, bool)
      >>> mostly = jnp.array([[1.0], [1.0], [1.0], [2.0]])  # 3 of 4 echo 1
      >>> protocols.reliable_broadcast(mostly, nobody, f=1).updates.ravel()
      Array([1., 1., 1., 1.], dtype=float32)
      >>> halves = jnp.array([[1.0], [1.0], [2.0], [2.0]])
      >>> protocols.reliable_broadcast(halves, nobody, f=1).delivered
      Array([False, False, False, False], dtype=bool)

    Reference: Bracha, Asynchronous Byzantine Agreement Protocols, Information and Computation 75,
    1987; Schneider, ACM Computing Surveys 22(4), 1990, for what state machines need of it.
    """
    n, f = stacked.num_workers(updates), static_int("f", f)
    if n < 3 * f + 1:
        raise ValueError(f"reliable_broadcast needs n >= 3f + 1; got n={n}, f={f}.")
    byzantine = jnp.asarray(byzantine)
    if byzantine.shape != (n,) or byzantine.dtype != jnp.bool_:
        raise ValueError(
            f"byzantine must be bool[n] with n={n}; got {byzantine.dtype}{list(byzantine.shape)}."
        )
    values = jnp.argmax(equal_rows(updates), axis=1).astype(jnp.int32)  # the first equal row

    def claimed(name: str, rows: jax.Array | None) -> jax.Array:
        if rows is None:
            return jnp.full((n, n), -1, jnp.int32)
        rows = jnp.asarray(rows)
        if rows.shape != (n, n):
            raise ValueError(f"{name} has shape {rows.shape}; {n} nodes need shape ({n}, {n}).")
        return jnp.where(rows >= 0, values[rows], -1)

    def counts(honest: jax.Array, claims: jax.Array) -> jax.Array:
        """How many nodes say each value to node j, `int32[n, n]`, if honest nodes say one."""
        said = jnp.where(byzantine[:, None], claims, honest[:, None])
        return jnp.sum(said[:, :, None] == jnp.arange(n), axis=0, dtype=jnp.int32)

    def first_with(enough: jax.Array) -> jax.Array:
        return jnp.where(jnp.any(enough, axis=1), jnp.argmax(enough, axis=1), -1).astype(jnp.int32)

    said_ready = claimed("readies", readies)
    ready = first_with(2 * counts(values, claimed("echoes", echoes)) > n + f)

    def one_round(_, ready: jax.Array) -> jax.Array:
        return jnp.where(ready >= 0, ready, first_with(counts(ready, said_ready) > f))

    ready = lax.fori_loop(0, n, one_round, ready)
    result = first_with(counts(ready, said_ready) > 2 * f)
    delivered = result >= 0
    rows = stacked.take(updates, jnp.maximum(result, 0))
    here = _workers.broadcast_to_rows(delivered, rows)
    return Delivery(jax.tree.map(lambda d, x: jnp.where(d, x, jnp.nan), here, rows), delivered)


def equal_rows(updates: PyTree) -> jax.Array:
    """`bool[n, n]`: which rows are equal bit for bit: 0 is not -0, and a NaN equals itself.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]` and a float type.

    Returns:
      The matrix. Cost: O(n^2 d).

    Example:
      >>> import jax.numpy as jnp
      >>> equal_rows(jnp.array([[0.0], [-0.0], [0.0]]))[0]
      Array([ True, False,  True], dtype=bool)
    """
    n = stacked.num_workers(updates)
    equal = jnp.ones((n, n), bool)
    for leaf in jax.tree.leaves(updates):
        bits = _workers.bits(leaf).reshape(n, -1)
        equal &= jnp.all(bits[:, None] == bits[None], axis=-1)
    return equal
