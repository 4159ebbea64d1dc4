"""States of all n workers, of which only some take part: the extra argument `senders`."""

from typing import Any

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.stacked import PyTree


def senders_of(name: str, updates: PyTree, n: int, extra_args: dict) -> Any:
    """The workers that sent the rows, `int32[k]`; None if all n workers did, in order.

    Raises:
      ValueError: there are fewer or more rows than workers and nobody names their senders, there is
        another number of names, or they are not different workers (which traced ones may be).
    """
    k, senders = stacked.num_workers(updates), extra_args.get("senders")
    if senders is None and k == n:
        return None
    if senders is None or k > n:
        hint = ": name them, update(..., senders=who)" * (k < n)
        raise ValueError(f"{name} was made for {n} workers; got updates of {k}{hint}.")
    if isinstance(senders, list | tuple):
        senders = jnp.array(senders)
    if jnp.shape(senders) != (k,):
        raise ValueError(
            f"{name} needs one of senders for each of {k} rows; got shape {jnp.shape(senders)}."
        )
    if not isinstance(senders, jax.core.Tracer):
        numbers = senders.tolist()
        if len(set(numbers)) < k or min(numbers) < 0 or max(numbers) >= n:
            some = ", ".join(map(str, numbers[:8])) + ", ..." * (k > 8)
            raise ValueError(f"senders must be different workers in 0 .. {n - 1}; got {some}.")
    return jnp.asarray(senders)


def row_weights(extra_args: dict) -> Any:
    """The weights of the rows, `[n]`, or None; in gossip, `weights` are those of the graph."""
    return None if extra_args.get("weights_of") == "graph" else extra_args.get("weights")


def rows_of(senders: Any, state: PyTree) -> PyTree:
    """The rows of the senders; absent workers keep their state, see `with_rows`."""
    return state if senders is None else jax.tree.map(lambda leaf: leaf[senders], state)


def with_rows(senders: Any, state: PyTree, rows: PyTree) -> PyTree:
    """The state with these rows for the senders."""
    if senders is None:
        return rows
    return jax.tree.map(lambda leaf, own: leaf.at[senders].set(own), state, rows)
