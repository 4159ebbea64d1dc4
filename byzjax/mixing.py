"""Mixings: functions from stacked updates to stacked updates, applied before a rule."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import scores, stacked
from byzjax._checks import enough_workers, not_negative, positive, static_int
from byzjax._compiled import compiled
from byzjax._numerics.arrays import root, wide
from byzjax._numerics.noise import standard_normal
from byzjax.stacked import PyTree


@compiled
def nearest_neighbors(updates: PyTree, *, f: int, axis_name: str | None = None) -> PyTree:
    r"""Replaces each update by the mean of the n - f updates nearest to it (NNM).

    $$ y_i = \frac{1}{n - f} \sum_{j \in N_i} x_j $$

    where N_i holds the n - f rows nearest to x_i, itself included, ties to the lower index. A row
    that is not finite stays so; distances that overflow tie.

    Requirement: n >= 2f + 1. Promise: for a finite row, that of `nearest_to_pivot`.
    Cost: O(n^2 d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      Stacked updates of the same shapes and dtypes.

    Raises:
      ValueError: the leaves disagree on n, or n < 2f + 1.
      TypeError: f is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.nearest_neighbors(jnp.array([[0.0], [1.0], [9.0]]), f=1)
      Array([[0.5],
             [0.5],
             [5. ]], dtype=float32)

    Reference: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot and Stephan, Fixing by Mixing: A Recipe
    for Optimal Byzantine ML under Heterogeneity, AISTATS 2023 (arXiv:2302.01772).
    """
    n, f = enough_workers("nearest_neighbors", updates, f)
    distances = stacked.pairwise_squared_distances(lax.stop_gradient(updates), axis_name=axis_name)
    # Each row comes first for itself, even before an equal row of a lower index.
    distances = jnp.where(jnp.eye(n, dtype=bool), -1, distances)
    near = scores.lowest(distances, n - f)
    return stacked.combine(updates, near.astype(distances.dtype) / (n - f))


@compiled
def bucketing(updates: PyTree, *, s: int, key: jax.Array, axis_name: str | None = None) -> PyTree:
    r"""Means of s updates each, grouped at random.

    $$ y_k = \frac{1}{|B_k|} \sum_{i \in B_k} x_{\pi(i)} $$

    with a random permutation pi and buckets B_k of s consecutive places; the last one may be
    smaller. Up to f of the resulting ceil(n / s) rows are bad: the rule that follows takes the same
    f and checks its requirement with the new number of rows.

    Requirement: 1 <= s <= n. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      s: size of a bucket, a Python int.
      key: PRNG key that draws the order of the workers.
      axis_name: mesh axis over which the coordinates are sliced; makes no difference here if all
        devices have the same key.

    Returns:
      Stacked updates of ceil(n / s) rows; every leaf keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or s is out of range.
      TypeError: s is not a Python int.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0], [1.0], [2.0], [3.0], [4.0]])
      >>> byzjax.bucketing(updates, s=2, key=jax.random.key(0)).shape
      (3, 1)

    Reference: Karimireddy, He and Jaggi, Byzantine-Robust Learning on Heterogeneous Datasets via
    Bucketing, ICLR 2022 (arXiv:2006.09365).
    """
    del axis_name
    n, s = stacked.num_workers(updates), static_int("s", s, at_least=1)
    if s > n:
        raise ValueError(f"bucketing needs s <= n; got s={s}, n={n}.")
    place = jnp.argsort(jax.random.permutation(key, n))
    return stacked.group_means(updates, place // s, math.ceil(n / s))


@compiled(max_norm=positive)
def clip_norms(updates: PyTree, *, max_norm: float, axis_name: str | None = None) -> PyTree:
    r"""Clips each update to a maximum norm.

    $$ y_i = \min\Bigl(1, \frac{c}{\|x_i\|}\Bigr) x_i $$

    A row whose norm is not finite becomes 0.

    Requirement: n >= 1. Promise: finite. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      max_norm: c; may be traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      Stacked updates of the same shapes and dtypes.

    Raises:
      ValueError: the leaves disagree on n, or max_norm is not positive.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.clip_norms(jnp.array([[3.0, 4.0], [0.3, 0.4]]), max_norm=1.0)
      Array([[0.6, 0.8],
             [0.3, 0.4]], dtype=float32)

    Reference: as used by Allouah, Guerraoui, Gupta, Jellouli, Rizk and Stephan, Adaptive Gradient
    Clipping for Robust Federated Learning, ICLR 2025 (arXiv:2405.14432), "static clipping".
    """
    stacked.num_workers(updates)

    return _clip(updates, stacked.squared_norms(updates, axis_name=axis_name), max_norm)


@compiled(max_norm=positive, sigma=not_negative)
def weak_dp(
    updates: PyTree, *, max_norm: float, sigma: float, key: jax.Array, axis_name: str | None = None
) -> PyTree:
    r"""Clips each update to a maximum norm, and adds the server's noise (norm bounding, weak DP).

    $$ y_i = \min\Bigl(1, \frac{M}{\|x_i\|}\Bigr) x_i + \sigma \xi, \qquad \xi \sim N(0, I) $$

    with one $\xi$ for all rows: it passes unchanged through a rule that shifts with its rows, such
    as the mean, so the aggregate is that of the clipped rows plus noise. A row whose norm is not
    finite counts as 0. As in the paper, sigma is chosen to drown backdoors; privacy by this noise
    would need far more, from a server that everyone trusts. `byzjax.privacy` is for the workers.

    Requirement: n >= 1. Promise: finite. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      max_norm: M; may be traced.
      sigma: standard deviation of each coordinate of the noise, in the unit of updates; may be
        traced.
      key: PRNG key that draws the noise.
      axis_name: mesh axis over which the coordinates are sliced, if they are; each device draws the
        noise of its own slice.

    Returns:
      Stacked updates of the same shapes and dtypes.

    Raises:
      ValueError: the leaves disagree on n, max_norm is not positive, or sigma is negative.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> updates = jnp.array([[3.0, 4.0], [0.3, 0.4]])
      >>> y = byzjax.weak_dp(updates, max_norm=1.0, sigma=0.1, key=jax.random.key(0))
      >>> (y[0] - y[1]).round(6)  # (0.6, 0.8) - (0.3, 0.4)
      Array([0.3, 0.4], dtype=float32)

    Reference: Sun, Kairouz, Suresh and McMahan, Can You Really Backdoor Federated Learning?, 2019
    (arXiv:1911.07963), "norm thresholding of updates" and "(weak) differential privacy".
    """
    clipped = clip_norms(updates, max_norm=max_norm, axis_name=axis_name)
    noise = standard_normal(key, jax.tree.map(lambda leaf: leaf[0], clipped), axis_name)

    def noisy(leaf: jax.Array, noise: jax.Array) -> jax.Array:
        return (wide(leaf) + (sigma * noise).astype(noise.dtype)[None]).astype(leaf.dtype)

    return jax.tree.map(noisy, clipped, noise)


@compiled
def adaptive_clipping(updates: PyTree, *, f: int, axis_name: str | None = None) -> PyTree:
    r"""Clips each update to the norm of one of the longest (ARC).

    $$ y_i = \min\Bigl(1, \frac{c}{\|x_i\|}\Bigr) x_i, \qquad
       c = \|x\|_{[k+1]}, \quad k = \lfloor 2 (f / n) (n - f) \rfloor $$

    where c is the (k+1)-th largest norm. A row whose norm is not finite becomes 0.

    Requirement: n >= 2f + 1. Promise: finite. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      Stacked updates of the same shapes and dtypes.

    Raises:
      ValueError: the leaves disagree on n, or n < 2f + 1.
      TypeError: f is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> byzjax.adaptive_clipping(jnp.array([[3.0], [-2.0], [9.0]]), f=1)
      Array([[ 3.],
             [-2.],
             [ 3.]], dtype=float32)

    Reference: Allouah, Guerraoui, Gupta, Jellouli, Rizk and Stephan, Adaptive Gradient Clipping for
    Robust Federated Learning, ICLR 2025 (arXiv:2405.14432).
    """
    n, f = enough_workers("adaptive_clipping", updates, f)
    squares = stacked.squared_norms(updates, axis_name=axis_name)
    place = n - 1 - 2 * f * (n - f) // n
    limit = squares[jnp.argmax(scores.ranks(lax.stop_gradient(squares)) == place)]
    return _clip(updates, squares, root(limit))


def _clip(updates: PyTree, squares: jax.Array, norm: jax.Array | float) -> PyTree:
    """Clips rows with these squared norms to `norm`; rows without a finite one become 0."""
    norm = jnp.asarray(norm, squares.dtype)
    finite = jnp.isfinite(squares)
    longer = finite & (squares > norm**2)
    factors = jnp.where(longer, norm / jnp.sqrt(jnp.where(longer, squares, 1)), 1)
    return stacked.scale(updates, jnp.where(finite, factors, 0))
