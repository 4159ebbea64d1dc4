"""Attacks against rules that average the updates nearest to the median."""

import jax
import jax.numpy as jnp
from jax import lax

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

    $$ b = u + t w, \quad w \ge 0, \qquad \|b - M\| = (1 - \epsilon) \rho $$

    M is the coordinate-wise median that s attackers above it cause, and u the least b that causes
    it, both order statistics of the honest updates (u = M for odd n); of the c updates that `aksel`
    selects, c - s are honest, those nearest to M, and rho is the distance of the next: all
    attackers are selected with them. The unit vector w is along the positive part of the error that
    u alone causes, along that of M less the honest mean, or along (1, ..., 1). These three and
    `order_statistic` of rank ceil(n / 2) and of the largest are compared by the distance of
    Aksel's result to the honest mean, and the most damaging is sent. Without honest workers, b = 0.
    Cost: O(nd), that of five medians.

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
    n, attackers = len(byzantine), jnp.sum(byzantine, dtype=jnp.int32)
    count = (n + 1) // 2 if mode == "mid" else n - (attackers if f is None else static_int("f", f))
    rows = jax.tree.map(wide, updates)
    mean = _rows.honest_mean(updates, byzantine)
    sign = jax.tree.map(lambda mu: _sign(mu, direction), mean)
    low, high, top = (
        jax.tree.map(lambda x, s, k=k: _statistic(x, byzantine, s, k), rows, sign)
        for k in ((n + 1) // 2, n // 2 + 1, n)
    )
    center = jax.tree.map(lambda a, b: a / 2 + b / 2, low, high)

    away = stacked.squared_distances(rows, _rows.only(center))
    away = jnp.where(byzantine, jnp.inf, away)
    place, kept = ranks(away), jnp.maximum(count - attackers, 0)
    reach = (place <= jnp.minimum(kept, n - attackers - 1)) & jnp.isfinite(away)
    square = ((1 - margin) ** 2) * jnp.max(jnp.where(reach, away, 0))

    each = 1 / jnp.asarray(count, away.dtype)
    total = _row(rows, jnp.where(~byzantine & (place < kept), each, 0))
    share = attackers.astype(away.dtype) * each
    error = _rows.plus(_rows.plus(total, share, high), -1, mean)
    ahead = [error, _rows.plus(center, -1, mean), sign]
    gap = _rows.plus(high, -1, center)

    def pushed_along(direction: PyTree) -> PyTree:
        unit = _rows.unit(jax.tree.map(lambda v, s: s * jnp.maximum(s * v, 0), direction, sign))
        along = stacked.inner_products(gap, _rows.only(unit))[0]
        room = square - stacked.squared_norms(gap)[0]
        length = root(jnp.maximum(along**2 + room, 0)) - along
        return _rows.plus(high, jnp.maximum(length, 0), unit)

    candidates = [*map(pushed_along, ahead), low, top]
    tried = jax.tree.map(lambda *leaves: jnp.stack(leaves), *candidates)

    def damage(row: PyTree) -> jax.Array:
        sent = _rows.replace(rows, byzantine, row)
        to_median = stacked.rowwise(order.squares_to_median, sent)
        chosen = jnp.where(ranks(to_median) < count, each, 0)
        moved = _rows.plus(mean, -1, _row(sent, chosen))
        value = stacked.squared_norms(moved)[0]
        return jnp.where(jnp.isfinite(value), value, -1)

    best = jnp.argmax(lax.map(damage, tried))
    lie = jax.tree.map(lambda leaf: jnp.where(jnp.all(byzantine), 0, leaf[best]), tried)
    return _rows.replace(updates, byzantine, lie)


def _row(rows: PyTree, weights: jax.Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[None], stacked.weighted_sum(rows, weights))


def _sign(mean: jax.Array, direction: str) -> jax.Array:
    if direction == "against":
        return jnp.where(mean > 0, -1, 1).astype(mean.dtype)
    return jnp.full_like(mean, 1 if direction == "plus" else -1)


def _statistic(x: jax.Array, byzantine: jax.Array, sign: jax.Array, rank: int) -> jax.Array:
    """The honest value `[1, ...]` of a rank, times a sign; the largest, if there are fewer."""
    hidden, up = _rows.column(byzantine, x), x * sign
    value = jnp.max(jnp.where(hidden, -jnp.inf, up), axis=0)
    if rank < x.shape[0]:
        value = jnp.minimum(value, order.kth(jnp.where(hidden, jnp.inf, up), rank))
    return jnp.where(jnp.all(byzantine), 0, value)[None] * sign
