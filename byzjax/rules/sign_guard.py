"""SignGuard: honest updates have similar norms and similar shares of positive coordinates."""

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import positive
from byzjax._compiled import compiled
from byzjax._numerics.arrays import varying_as
from byzjax._numerics.linalg import matmul
from byzjax._numerics.signs import signs_between
from byzjax.rules._clip import clipped_to_median
from byzjax.stacked import PyTree

_QUANTILE = 0.5  # of the public code; scikit-learn's own default is 0.3
_NEARER = 1e-6  # smaller differences of distances are ties
_MOST_SHIFTS = 300  # as in scikit-learn


@compiled(static=("share",), lower=positive, upper=positive)
def sign_guard(
    updates: PyTree,
    *,
    key: jax.Array,
    share: float = 0.1,
    lower: float = 0.1,
    upper: float = 3.0,
    axis_name: str | None = None,
) -> PyTree:
    r"""Mean of the clipped updates with typical norms and typical shares of signs.

    $$ F = \frac{1}{|A \cap B|} \sum_{i \in A \cap B} x_i \min\Bigl(1, \frac{M}{\|x_i\|}\Bigr),
       \qquad A = \{i : l M < \|x_i\| < u M\} $$

    where M is the median norm and B the largest cluster of the points (share of positive, zero,
    negative coordinates), counted in a randomly drawn window of consecutive coordinates. Clusters
    come from mean shift with a flat kernel, started at every point; the bandwidth is the mean
    distance of a point to its int(n / 2)-th nearest, itself included. If A and B are disjoint, B is
    ignored; if A is empty, the result is 0. Rows that are not finite have an infinite norm and no
    signs.

    Requirement: n >= 1. Breakdown: none proved. Promise: finite. Cost: O(nd + n^3).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      key: PRNG key that draws the window; unused if `share` is 1.
      share: fraction of the coordinates in the window; a Python number.
      lower: l; may be traced.
      upper: u; may be traced.
      axis_name: mesh axis over which the coordinates are sliced, if they are; each device then
        draws its own window.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, share is not in (0, 1], or a bound is not positive.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> updates = jnp.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0], [-2.0, -2.0], [900.0, 1.0]])
      >>> byzjax.sign_guard(updates, key=jax.random.key(0), share=1.0).round(3)
      Array([1.667, 1.667], dtype=float32)

    Reference: Xu, Huang, Song and Lan, Byzantine-robust Federated Learning through Collaborative
    Malicious Gradient Filtering, ICDCS 2022 (arXiv:2109.05872), Algorithm 2.
    """
    stacked.num_workers(updates)

    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1]; got share={share}.")
    norms, middle, factors = clipped_to_median(updates, axis_name)
    good = jnp.isfinite(norms)
    typical = (norms > lower * middle) & (norms < upper * middle)
    points = _sign_shares(lax.stop_gradient(updates), key, share, axis_name)
    both = typical & _largest_cluster(points, good)
    selected = jnp.where(jnp.any(both), both, typical)

    weights = jnp.where(selected, factors, 0)
    count = jnp.maximum(jnp.sum(selected, dtype=jnp.int32), 1)
    return stacked.weighted_sum(updates, weights / count.astype(weights.dtype))


def _sign_shares(updates: PyTree, key: jax.Array, share: float, axis_name: str | None) -> jax.Array:
    """`[n, 3]`: shares of the positive, zero and negative coordinates of a random window."""
    n = stacked.num_workers(updates)
    matrices = stacked.columns(updates)
    total = sum(matrix.shape[1] for matrix in matrices)
    size = max(1, int(share * total))
    start = jax.random.randint(key, (), 0, total - size + 1)
    counts, offset = jnp.zeros((3, n), jnp.int32), 0
    for matrix in matrices:
        width = matrix.shape[1]
        low, high = jnp.clip(start - offset, 0, width), jnp.clip(start + size - offset, 0, width)
        counts = counts + signs_between(matrix, low, high, min(size, width))
        offset += width
    if axis_name is not None:
        counts, size = lax.psum((counts, size), axis_name)
    return counts.T.astype(jnp.float32) / size


def _largest_cluster(points: jax.Array, good: jax.Array) -> jax.Array:
    """`bool[n]`: the largest cluster that mean shift finds among the good points."""
    n = len(points)
    pairs = good[:, None] & good[None]
    distances = jnp.where(pairs, _distances(points, points), jnp.inf)
    reach = jnp.sort(distances, axis=1)[:, max(1, n // 2) - 1]
    seen = good & jnp.isfinite(reach)
    bandwidth = jnp.sum(jnp.where(seen, reach, 0)) / jnp.maximum(
        jnp.sum(seen, dtype=jnp.int32), 1
    ).astype(reach.dtype)
    bandwidth = bandwidth + _NEARER

    def near(centers: jax.Array) -> jax.Array:
        return good[None] & (_distances(centers, points) <= bandwidth)

    def shift(state):
        centers, _, count = state
        around = near(centers).astype(points.dtype)
        sizes = jnp.sum(around, axis=1, keepdims=True)
        moved = jnp.where(sizes > 0, matmul(around, points) / jnp.maximum(sizes, 1), centers)
        moving = jnp.any(jnp.abs(moved - centers) > 1e-3 * bandwidth)
        return moved, moving, count + 1

    def going(state):
        return state[1] & (state[2] < _MOST_SHIFTS)

    start = (varying_as(good, points), jnp.any(good), 0)
    centers = lax.while_loop(going, shift, start)[0]

    # Centres, those with most near points first; one near an earlier centre is the same cluster.
    sizes = jnp.where(good, jnp.sum(near(centers), axis=1, dtype=jnp.int32), -1)
    order = jnp.argsort(-sizes, stable=True)
    centers, real = centers[order], good[order]
    close = _distances(centers, centers) <= bandwidth

    def keep(kept: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        return kept.at[i].set(real[i] & ~jnp.any(kept & close[i])), None

    kept, _ = lax.scan(keep, varying_as(real, jnp.zeros_like(real)), jnp.arange(n))
    to_centers = jnp.where(kept[None], _distances(points, centers), jnp.inf)
    nearest = jnp.min(to_centers, axis=1, keepdims=True)
    label = jnp.argmax(to_centers <= nearest + _NEARER, axis=1)
    inside = good & (nearest[:, 0] <= bandwidth)
    members = inside[:, None] & (label[:, None] == jnp.arange(n)[None])
    return members[:, jnp.argmax(jnp.sum(members, axis=0, dtype=jnp.int32))]


def _distances(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum((a[:, None] - b[None]) ** 2, axis=-1))
