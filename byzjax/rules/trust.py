"""Rules that use a trusted update or a trusted loss of the server."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import enough_workers
from byzjax._compiled import compiled
from byzjax._numerics.arrays import root
from byzjax._signature import per_row_inputs
from byzjax.rules._select import mean_of_lowest
from byzjax.stacked import PyTree


@compiled
def fl_trust(updates: PyTree, trusted: PyTree, *, axis_name: str | None = None) -> PyTree:
    r"""Mean of the updates, scaled to a trusted one's norm and weighted by their cosine with it.

    $$ F = \frac{1}{\sum_i t_i} \sum_i t_i \frac{\|g_0\|}{\|x_i\|} x_i, \qquad
       t_i = \max\Bigl(0, \frac{\langle x_i, g_0 \rangle}{\|x_i\| \|g_0\|}\Bigr) $$

    A row that is not finite, or 0, has t_i = 0. If no row is trusted the result is 0.

    Requirement: n >= 1. Breakdown: any number of attackers, provided `trusted` is correct.
    Promise: finite, and no longer than `trusted`. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      trusted: g_0, the server's own update; every leaf has shape `[...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or `trusted` does not have the shape of one update.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[2.0, 0.0], [0.0, 3.0], [-9.0, -9.0]])
      >>> byzjax.fl_trust(updates, jnp.array([1.0, 0.0]))
      Array([1., 0.], dtype=float32)

    Reference: Cao, Fang, Liu and Gong, FLTrust: Byzantine-robust Federated Learning via Trust
    Bootstrapping, NDSS 2021 (arXiv:2012.13995).
    """
    products = stacked.inner_products(updates, trusted, axis_name=axis_name)
    squares = stacked.squared_norms(updates, axis_name=axis_name)
    trusted_row = jax.tree.map(
        lambda leaf, x: jnp.asarray(leaf).astype(stacked.sum_dtype(x.dtype))[None],
        *(trusted, updates),
    )
    length = root(stacked.squared_norms(trusted_row, axis_name=axis_name)[0])
    known = jnp.isfinite(squares) & (squares > 0) & (length > 0)
    lengths = root(jnp.where(known, squares, 1))
    cosines = jnp.where(known, products, 0) / (lengths * jnp.where(length > 0, length, 1))
    trust = jnp.maximum(cosines, 0)
    total = jnp.sum(trust)
    weights = trust / jnp.where(total > 0, total, 1) * length / lengths
    return stacked.weighted_sum(updates, weights)


@compiled
def loss_decreases(
    updates: PyTree,
    params: PyTree,
    trusted_loss: Callable[[PyTree], jax.Array],
    *,
    learning_rate: float,
) -> jax.Array:
    """How much a step with each update lowers a loss, `L(w) - L(w - gamma x_i)`; no derivative.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      params: w; every leaf has shape `[...]`.
      trusted_loss: L, a function of the parameters alone.
      learning_rate: gamma; may be traced.

    Returns:
      `[n]`. Cost: n + 1 evaluations of the loss.

    Example:
      >>> import jax.numpy as jnp
      >>> updates, loss = jnp.array([[1.0], [-9.0]]), lambda w: jnp.sum(w**2)
      >>> loss_decreases(updates, jnp.array([1.0]), loss, learning_rate=0.5)
      Array([  0.75, -29.25], dtype=float32)
    """
    updates, params = lax.stop_gradient((updates, params))

    def moved(update: PyTree) -> PyTree:
        def step(w, x):
            w = jnp.asarray(w)
            return w - (jnp.asarray(learning_rate, x.dtype) * x).astype(w.dtype)

        return jax.tree.map(step, params, update)

    losses = jax.vmap(lambda update: trusted_loss(moved(update)))(updates)
    return lax.stop_gradient(trusted_loss(params) - losses)


@compiled
@per_row_inputs(decreases=loss_decreases)
def zeno(
    updates: PyTree,
    params: PyTree,
    trusted_loss: Callable[[PyTree], jax.Array],
    *,
    f: int,
    learning_rate: float,
    rho: float,
    decreases: jax.Array | None = None,
    axis_name: str | None = None,
) -> PyTree:
    r"""Average of the n - f updates that a trusted loss rates best.

    $$ \mathrm{score}(i) = L(w) - L(w - \gamma x_i) - \rho \|x_i\|^2, \qquad
       F = \frac{1}{n - f} \sum_{i \in A} x_i $$

    where A holds the n - f rows with the highest score, ties to the lower index. A score that is
    not finite counts as -inf; if such a row must be averaged, the result is NaN.

    In a chain, `params` are those passed to optax, and `trusted_loss` is passed with each update:
    `tx.update(updates, state, params, trusted_loss=lambda params: loss(params, batch))`.

    Requirement: n >= f + 1. Breakdown: n > f, provided the loss is correct. Promise: finite.
    Cost: O(nd), and n + 1 evaluations of the loss.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      params: w; every leaf has shape `[...]`.
      trusted_loss: L, a function of the parameters alone.
      f: number of faults to tolerate, a Python int.
      learning_rate: gamma, the step size with which updates are tried; may be traced.
      rho: weight of the squared norm; may be traced.
      decreases: L(w) - L(w - gamma x_i), `[n]`, if already known; then `trusted_loss` is not
        called.
      axis_name: mesh axis over which the coordinates are sliced, if they are; `trusted_loss` then
        sees slices and must return the whole loss.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or n < f + 1.
      TypeError: f is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates, params = jnp.array([[1.0], [2.0], [-9.0]]), jnp.array([1.0])
      >>> loss = lambda w: jnp.sum(w**2)
      >>> byzjax.zeno(updates, params, loss, f=1, learning_rate=0.1, rho=1e-3)
      Array([1.5], dtype=float32)

    Reference: Xie, Koyejo and Gupta, Zeno: Distributed Stochastic Gradient Descent with
    Suspicion-based Fault-tolerance, ICML 2019 (arXiv:1805.10032).
    """
    n, f = enough_workers("zeno", updates, f)
    detached = lax.stop_gradient(updates)
    if decreases is None:
        decreases = loss_decreases(detached, params, trusted_loss, learning_rate=learning_rate)
    norms = stacked.squared_norms(detached, axis_name=axis_name)
    costs = jnp.asarray(rho, norms.dtype) * norms - jnp.asarray(decreases).astype(norms.dtype)
    costs = jnp.where(jnp.isfinite(costs), costs, jnp.inf)
    return mean_of_lowest(updates, costs, n - f)
