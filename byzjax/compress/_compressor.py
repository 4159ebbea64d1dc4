"""What all compressors are, the count of messages, and compression of malicious updates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from byzjax import _checks, stacked
from byzjax._compiled import taught
from byzjax.stacked import PyTree
from byzjax.transforms import per_worker

NUMBER = 32  # bits of a number in a message


class Compressor(optax.GradientTransformationExtraArgs):
    """A transformation of one update into what a receiver reads from a message of fewer bits.

    Attributes:
      init: as for all transformations of optax.
      update: as for all transformations of optax.
      bits: `bits(params)`: the bits of one message about a model of these shapes, a Python int.
    """

    bits: Callable[[PyTree], int]

    def __new__(cls, init: Callable, update: Callable, bits: Callable) -> "Compressor":
        self = super().__new__(cls, init, update)
        self.bits = bits
        return self


def must_compress(name: str, compressor: Any) -> None:
    """TypeError unless a compressor is given."""
    if not isinstance(compressor, Compressor):
        raise TypeError(
            f"{name} needs a compressor, such as byzjax.compress.top_k(0.01); got "
            f"{type(compressor).__name__}."
        )


def on_vector(function: Callable[[jax.Array], jax.Array], updates: PyTree) -> PyTree:
    """`function` of all coordinates as one vector `[d]`, at least float32, in the same trees."""
    vector, as_tree = ravel_pytree(stacked.widened(updates))
    return jax.tree.map(lambda x, u: x.astype(u.dtype), as_tree(function(vector)), updates)


class LedgerState(NamedTuple):
    """State of `ledger`.

    Attributes:
      messages: `int32`, number of messages so far.
      inner: state of the compressor.
    """

    messages: jax.Array
    inner: Any


@taught
def ledger(compressor: Compressor) -> Compressor:
    """Counts the messages of a compressor; the updates are its own.

    The bits so far are `compressor.bits(params)` times the count. Under `per_worker` each worker
    has a count: `optax.tree_utils.tree_get(state, "messages")` is `int32[n]`.

    Args:
      compressor: a compressor.

    Returns:
      A compressor.

    Raises:
      TypeError: it is not a compressor.

    Example:
      >>> import byzjax, jax.numpy as jnp, optax
      >>> compressor = byzjax.compress.ledger(byzjax.compress.top_k(1))
      >>> tx, params = byzjax.per_worker(compressor, 2), jnp.zeros(4)
      >>> _, state = tx.update(jnp.ones((2, 4)), tx.init(params))
      >>> optax.tree_utils.tree_get(state, "messages") * compressor.bits(params)
      Array([34, 34], dtype=int32)
    """
    must_compress("ledger", compressor)

    def init(params: PyTree) -> LedgerState:
        return LedgerState(jnp.int32(0), compressor.init(params))

    def update(updates, state, params=None, **extra_args):
        updates, inner = compressor.update(updates, state.inner, params, **extra_args)
        return updates, LedgerState(state.messages + 1, inner)

    return Compressor(init, update, compressor.bits)


@taught
def of_byzantine(
    compressor: Compressor, byzantine: jax.Array
) -> optax.GradientTransformationExtraArgs:
    """Compresses the rows of Byzantine workers; the others pass unchanged.

    After an attack, so that malicious updates obey the format too: with `top_k` they have at most
    k coordinates that are not zero, with `ef21` they change the receiver's estimate by one
    message. Give `rand_k(..., shared=True)` the key that honest workers have, and the coordinates
    are the same.

    Args:
      compressor: the one that honest workers use, without `error_feedback`, which is theirs.
      byzantine: `bool[n]`, mask of Byzantine workers.

    Returns:
      A transformation from stacked updates to stacked updates.

    Raises:
      TypeError: it is not a compressor.
      ValueError: byzantine is not a mask; or, at an update, the updates are not from n workers.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzantine = jnp.array([False, True])
      >>> tx = byzjax.compress.of_byzantine(byzjax.compress.top_k(1), byzantine)
      >>> tx.update(jnp.array([[0.0, 2.0], [-9.0, -3.0]]), tx.init(jnp.zeros(2)))[0]
      Array([[ 0.,  2.],
             [-9.,  0.]], dtype=float32)
    """
    must_compress("of_byzantine", compressor)
    _checks.mask_of_workers(byzantine)
    byzantine = jnp.asarray(byzantine)
    inner = per_worker(compressor, len(byzantine))

    def update(updates, state, params=None, **extra_args):
        compressed, state = inner.update(updates, state, params, **extra_args)
        senders = extra_args.get("senders")
        who = byzantine if senders is None else byzantine[jnp.asarray(senders)]

        def chosen(row: jax.Array, leaf: jax.Array) -> jax.Array:
            return jnp.where(who.reshape(-1, *[1] * (leaf.ndim - 1)), row, leaf)

        return jax.tree.map(chosen, compressed, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)
