"""What a compressor leaves out is sent later."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._compiled import taught
from byzjax._numerics.arrays import wide
from byzjax.compress._compressor import Compressor, must_compress
from byzjax.stacked import PyTree


class FeedbackState(NamedTuple):
    """State of `error_feedback`.

    Attributes:
      error: what has not been sent yet, in the shapes of the model, at least float32.
      inner: state of the compressor.
    """

    error: PyTree
    inner: Any


class EstimateState(NamedTuple):
    """State of `ef21`.

    Attributes:
      estimate: what the receiver believes the update to be, at least float32.
      inner: state of the compressor.
    """

    estimate: PyTree
    inner: Any


def _zeros(params: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, stacked.widened(params))


def _finite(leaf: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(leaf), leaf, 0)


@taught
def error_feedback(compressor: Compressor) -> Compressor:
    r"""Adds what has not been sent to the next update.

    $$ p_t = x_t + e_t, \qquad e_{t+1} = p_t - C(p_t), \qquad e_0 = 0 $$

    and C(p_t) is sent. The learning rate is applied after it, by the server; the paper multiplies
    by it before. What is not finite is sent, and forgotten: a single NaN does not stay in the
    state. Errors are kept in at least float32.

    Bits: those of the compressor.
    Requirement: none; the compressor may be biased. Cost: O(d) time, and d numbers of state.

    Args:
      compressor: C.

    Returns:
      A compressor. Under `per_worker` every worker has an error of its own.

    Raises:
      TypeError: it is not a compressor.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> compressor = byzjax.compress.error_feedback(byzjax.compress.top_k(1))
      >>> state = compressor.init(jnp.zeros(2))
      >>> for _ in range(3):  # the second coordinate is sent once it has added up
      ...     out, state = compressor.update(jnp.array([3.0, 2.0]), state)
      ...     print(out)
      [3. 0.]
      [0. 4.]
      [6. 0.]

    Reference: Seide et al., Interspeech 2014; Karimireddy, Rebjock, Stich and Jaggi, Error
    Feedback Fixes SignSGD, ICML 2019, algorithm 2.
    """
    must_compress("error_feedback", compressor)

    def init(params: PyTree) -> FeedbackState:
        return FeedbackState(_zeros(params), compressor.init(params))

    def update(updates, state, params=None, **extra_args):
        whole = jax.tree.map(lambda u, e: wide(u) + e.astype(wide(u).dtype), updates, state.error)
        sent, inner = compressor.update(whole, state.inner, params, **extra_args)
        sent = jax.tree.map(lambda s, u: s.astype(u.dtype), sent, updates)
        error = jax.tree.map(
            lambda w, s, e: _finite(w - s.astype(w.dtype)).astype(e.dtype),
            whole,
            sent,
            state.error,
        )
        return sent, FeedbackState(error, inner)

    return Compressor(init, update, compressor.bits)


@taught
def ef21(compressor: Compressor) -> Compressor:
    r"""Sends compressed differences to what the receiver already has.

    $$ g_{t+1} = g_t + C(x_t - g_t), \qquad g_0 = 0 $$

    Sender and receiver both keep g; only C(...) is sent, and $g_{t+1}$ is the result. As updates
    settle, so do the differences, and with them the error of compression. What is not finite is in
    the result, but not in the next estimate.

    Bits: those of the compressor.
    Requirement: none; the compressor may be biased. Cost: O(d) time, and d numbers of state.

    Args:
      compressor: C.

    Returns:
      A compressor. Under `per_worker` there is an estimate of each worker.

    Raises:
      TypeError: it is not a compressor.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> compressor = byzjax.compress.ef21(byzjax.compress.top_k(1))
      >>> state = compressor.init(jnp.zeros(2))
      >>> for _ in range(2):
      ...     out, state = compressor.update(jnp.array([3.0, 2.0]), state)
      ...     print(out)
      [3. 0.]
      [3. 2.]

    Reference: Richtárik, Sokolov and Fatkhullin, EF21, NeurIPS 2021, algorithm 2.
    """
    must_compress("ef21", compressor)

    def init(params: PyTree) -> EstimateState:
        return EstimateState(_zeros(params), compressor.init(params))

    def update(updates, state, params=None, **extra_args):
        apart = jax.tree.map(
            lambda u, g: wide(u) - g.astype(wide(u).dtype), updates, state.estimate
        )
        sent, inner = compressor.update(apart, state.inner, params, **extra_args)
        whole = jax.tree.map(lambda g, s: g + s.astype(g.dtype), state.estimate, sent)
        estimate = jax.tree.map(
            lambda new, old: jnp.where(jnp.isfinite(new), new, old), whole, state.estimate
        )
        return (
            jax.tree.map(lambda w, u: w.astype(u.dtype), whole, updates),
            EstimateState(estimate, inner),
        )

    return Compressor(init, update, compressor.bits)
