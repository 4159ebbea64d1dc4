"""Attacks against rules that average the updates nearest to the median."""

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._checks import one_of, static_int
from byzjax._compiled import compiled
from byzjax._numerics import order
from byzjax._numerics.arrays import root, wide
from byzjax.attacks import _rows
from byzjax.scores import ranks
from byzjax.stacked import PyTree


@compiled
def pushed(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    mode: str = "mid",
    f: int | None = None,
    direction: str = "plus",
    margin: float = 1e-3,
) -> PyTree:
    r"""All attackers move the median, and send a point beyond it, just near enough to be selected.

    $$ b = M + (1 - \epsilon) \, \rho \, w, \qquad
       w = \frac{e_+}{\|e_+\|}, \quad e = \frac{s M + \sum_{i \in B} x_i}{c} - \mu $$

    M is the coordinate-wise median that s attackers above it cause, an order statistic of the
    honest updates; c the number of updates that `aksel` selects; B the c - s honest updates
    nearest to M, and rho the distance of the next. Since b >= M, the median stays M and all
    attackers are selected with B. e is the error that M alone would cause (`order_statistic`), with
    the honest mean mu, and only its positive part is followed. The error grows by s/c rho in its
    own direction: b never does less than M. Without honest workers, b = 0. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      mode: that of the attacked `aksel`: `"mid"`, also for `"radius"`, or `"n-f"`.
      f: the declared number of faults, for `"n-f"`; None uses the number of attackers.
      direction: `"plus"`; `"minus"`, below the median; or `"against"` the sign of the honest mean
        in each coordinate, which hurts training most.
      margin: epsilon; may be traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or the mode or the direction is unknown.
      TypeError: f is not a Python int.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[0.0], [1.0], [3.0], [0.0], [0.0]])
      >>> byzantine = jnp.array([False, False, False, True, True])
      >>> attacks.pushed(updates, byzantine, margin=0.0)[3]  # M = 3, and the row at 1 is 2 away
      Array([5.], dtype=float32)

    Reference: derived, docs/bounds.md, Gaussian updates: the worst case of `aksel` up to lower
    orders.
    """
    byzantine = _rows.mask(updates, byzantine)
    one_of("mode", mode, ("mid", "n-f"))
    one_of("direction", direction, ("plus", "minus", "against"))
    n, liars = len(byzantine), jnp.sum(byzantine, dtype=jnp.int32)
    count = (n + 1) // 2 if mode == "mid" else n - (liars if f is None else static_int("f", f))
    mean = _rows.honest_mean(updates, byzantine)
    sign = jax.tree.map(lambda mu: _sign(mu, direction), mean)
    center = jax.tree.map(lambda x, s: _moved_median(x, byzantine, s), updates, sign)

    away = stacked.squared_distances(jax.tree.map(wide, updates), _rows.only(center))
    away = jnp.where(byzantine, jnp.inf, away)
    place = ranks(away)
    kept = jnp.maximum(count - liars, 0)
    reach = (place <= jnp.minimum(kept, n - liars - 1)) & jnp.isfinite(away)
    radius = root(jnp.max(jnp.where(reach, away, 0)))

    share = 1 / jnp.asarray(count, away.dtype)
    weights = jnp.where(~byzantine & (place < kept), share, 0)
    total = stacked.weighted_sum(jax.tree.map(wide, updates), weights)
    share = liars.astype(away.dtype) * share

    def ahead(of_chosen: jax.Array, m: jax.Array, mu: jax.Array, s: jax.Array) -> jax.Array:
        error = of_chosen[None] + share.astype(m.dtype) * m - mu
        return s * jnp.maximum(s * error, 0)

    unit = _rows.unit(jax.tree.map(ahead, total, center, mean, sign))
    return _rows.replace(updates, byzantine, _rows.plus(center, (1 - margin) * radius, unit))


def _sign(mean: jax.Array, direction: str) -> jax.Array:
    if direction == "against":
        return jnp.where(mean > 0, -1, 1).astype(mean.dtype)
    return jnp.full_like(mean, 1 if direction == "plus" else -1)


def _moved_median(x: jax.Array, byzantine: jax.Array, sign: jax.Array) -> jax.Array:
    """The median `[1, ...]` if all attackers are above it, or below it where the sign is -1."""
    n = x.shape[0]
    up = wide(x) * sign
    hidden = _rows.column(byzantine, x)
    most = jnp.max(jnp.where(hidden, -jnp.inf, up), axis=0)
    middle = [
        jnp.minimum(order.kth(jnp.where(hidden, jnp.inf, up), k), most)
        for k in ((n + 1) // 2, n // 2 + 1)
    ]
    value = middle[0] / 2 + middle[1] / 2
    return jnp.where(jnp.all(byzantine), 0, value)[None] * sign
