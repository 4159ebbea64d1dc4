"""Krum, Multi-Krum and Bulyan: the updates that lie closest to their neighbours."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import scores, stacked
from byzjax._checks import enough_workers, one_of, static_int
from byzjax._compiled import compiled
from byzjax._numerics import order
from byzjax._numerics.arrays import varying_as
from byzjax.rules._select import mean_of_lowest
from byzjax.stacked import PyTree


@compiled
def krum(
    updates: PyTree,
    *,
    f: int,
    m: int = 1,
    neighbors: str = "n-f-2",
    squared: bool = True,
    axis_name: str | None = None,
) -> PyTree:
    r"""The update with the smallest sum of squared distances to its nearest neighbours.

    $$ \mathrm{score}(i) = \sum_{j \in N_i} \|x_i - x_j\|^2, \qquad
       F = \frac{1}{m} \sum_{i \in A} x_i $$

    where N_i holds the n - f - 2 updates nearest to x_i among the others, and A the m rows with the
    smallest score, ties to the lower index. `m = 1` is Krum; `multi_krum` has the largest m.

    Public code differs: `neighbors="n-f-1"` with m = n - f is Multi-Krum as ByzFL computes it (and
    "Krum*" of several papers), `neighbors="n-f-1", squared=False` with m = n - f - 2 that of
    ByzantineMomentum.

    A distance that is not finite is +inf. If fewer than m rows have a finite score, more than f of
    them are bad and the result is NaN.

    Requirement: n >= 2f + 3 and 1 <= m <= n - f - 2; with `neighbors="n-f-1"` n >= 2f + 1 and
    m <= n - f. Breakdown: n > 2f + 2.
    Promise: the distance to the honest mean is bounded by the honest diameter times a constant.
    Cost: O(n^2 d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      m: number of updates to average, a Python int.
      neighbors: `"n-f-2"` or `"n-f-1"`, how many neighbours a score counts.
      squared: whether a score adds squared distances or distances.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, n < 2f + 3, or m is out of range.
      TypeError: f or m is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0], [1.0], [1.6], [2.5], [90.0]])
      >>> byzjax.krum(updates, f=1)
      Array([1.6], dtype=float32)
      >>> byzjax.krum(updates, f=1, m=2)
      Array([1.3], dtype=float32)

    Reference: Blanchard, El-Mhamdi, Guerraoui and Stainer, Machine Learning with Adversaries:
    Byzantine Tolerant Gradient Descent, NeurIPS 2017 (arXiv:1703.02757).
    """
    return _by_krum("krum", updates, f, m, neighbors, squared, axis_name)


@compiled
def multi_krum(
    updates: PyTree,
    *,
    f: int,
    m: int | None = None,
    neighbors: str = "n-f-2",
    squared: bool = True,
    axis_name: str | None = None,
) -> PyTree:
    r"""The mean of the m updates with the smallest scores of Krum.

    $$ F = \frac{1}{m} \sum_{i \in A} x_i, \qquad
       \mathrm{score}(i) = \sum_{j \in N_i} \|x_i - x_j\|^2 $$

    as in `krum`, with all m that the paper allows by default: m = n - f - 2, or n - f with
    `neighbors="n-f-1"`. If fewer than m rows have a finite score, the result is NaN.

    Requirement: n >= 2f + 3 and 1 <= m <= n - f - 2; with `neighbors="n-f-1"` n >= 2f + 1 and
    m <= n - f. Breakdown: n > 2f + 2.
    Promise: the distance to the honest mean is bounded by the honest diameter times a constant.
    Cost: O(n^2 d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      m: number of updates to average, a Python int; None for the largest.
      neighbors: `"n-f-2"` or `"n-f-1"`, how many neighbours a score counts.
      squared: whether a score adds squared distances or distances.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, n < 2f + 3, or m is out of range.
      TypeError: f or m is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0], [1.0], [1.6], [2.5], [90.0]])
      >>> byzjax.multi_krum(updates, f=1)
      Array([1.3], dtype=float32)

    Reference: Blanchard, El-Mhamdi, Guerraoui and Stainer, Machine Learning with Adversaries:
    Byzantine Tolerant Gradient Descent, NeurIPS 2017 (arXiv:1703.02757), section 4.
    """
    return _by_krum("multi_krum", updates, f, m, neighbors, squared, axis_name)


def _by_krum(
    name: str,
    updates: PyTree,
    f: int,
    m: int | None,
    neighbors: str,
    squared: bool,
    axis_name: str | None,
) -> PyTree:
    """The mean of the m rows with the lowest scores; None for the largest m."""
    one_of("neighbors", neighbors, ("n-f-2", "n-f-1"))
    of_paper = neighbors == "n-f-2"
    n, f = enough_workers(name, updates, f, needs=None if of_paper else (2, 1))
    most = n - f - 2 if of_paper else n - f
    m = most if m is None else static_int("m", m, at_least=1)
    if m > most:
        bound = "n - f - 2" if of_paper else "n - f"
        raise ValueError(f"{name} needs m <= {bound} = {most}; got m={m}, n={n}, f={f}.")
    distances = _distances(updates, axis_name)
    distances = distances if squared else jnp.sqrt(distances)
    sums = scores.sum_of_lowest(distances, n - f - 2 if of_paper else n - f - 1)
    return mean_of_lowest(updates, sums, m)


MOST_WORKERS = 64  # limit of `bulyan` with an inner rule


@compiled
def bulyan(
    updates: PyTree, *, f: int, rule: Callable | None = None, axis_name: str | None = None
) -> PyTree:
    r"""Coordinate-wise mean around the median of the updates that a rule selects one by one.

    $$ F_j = \frac{1}{n - 4f} \sum_{i \in N_j} x_{ij} $$

    where S collects n - 2f updates: n - 2f times, the inner rule runs on the updates that remain,
    and the one nearest to its output moves to S. N_j holds the n - 4f values of coordinate j in S
    nearest to their median.

    The inner rule is Krum, rescored after every pick with max(1, n' - f - 2) neighbours for the n'
    updates that remain, since in the end fewer than Krum's 2f + 3 do; the update with the lowest
    score is the one nearest to Krum's output. If a row that is not finite must be picked, more than
    f rows are bad and the result is NaN.

    Requirement: n >= 4f + 3. Breakdown: n > 4f + 2.
    Promise: the distance to the honest mean is bounded by the honest diameter times a constant.
    Cost: O(n^2 d); another inner rule is called n - 2f times, each compiled for its own n'.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      rule: the inner rule, `rule(updates, f=f) -> update`, for as few as 2f + 1 updates; Krum by
        default.
      axis_name: mesh axis over which the coordinates are sliced, if they are; passed on to `rule`.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, n < 4f + 3, or n > 64 with another inner rule.
      TypeError: f is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [90.0]])
      >>> byzjax.bulyan(updates, f=1)
      Array([2.], dtype=float32)
      >>> byzjax.bulyan(updates, f=1, rule=byzjax.aksel)
      Array([2.], dtype=float32)

    Reference: El-Mhamdi, Guerraoui and Rouault, The Hidden Vulnerability of Distributed Learning in
    Byzantium, ICML 2018 (arXiv:1802.07927), section 4.
    """
    n, f = enough_workers("bulyan", updates, f)
    if rule is not None and n > MOST_WORKERS:
        raise ValueError(
            f"bulyan with an inner rule needs n <= {MOST_WORKERS}, since it is compiled for each "
            f"number of updates that remain; got n={n}."
        )
    if rule is None:
        picks, too_many_bad = _picks_by_krum(_distances(updates, axis_name), f, n - 2 * f)
    else:
        picks, too_many_bad = _picks_by_rule(updates, f, n - 2 * f, rule, axis_name)
    chosen = stacked.take(updates, picks)
    out = stacked.coordinatewise(lambda x: order.mean_around_median(x, n - 4 * f), chosen)
    return jax.tree.map(lambda leaf: jnp.where(too_many_bad, jnp.nan, leaf), out)


def _distances(updates: PyTree, axis_name: str | None) -> jax.Array:
    """Squared distances between rows; +inf on the diagonal."""
    distances = stacked.pairwise_squared_distances(lax.stop_gradient(updates), axis_name=axis_name)
    return jnp.where(jnp.eye(distances.shape[0], dtype=bool), jnp.inf, distances)


def _picks_by_krum(distances: jax.Array, f: int, count: int) -> tuple[jax.Array, jax.Array]:
    """Rows picked by lowest score, one after another, and whether one has no finite score."""
    n = distances.shape[0]
    order = jnp.argsort(distances, axis=1, stable=True)[:, : n - 1]
    in_order = jnp.take_along_axis(distances, order, axis=1)

    def pick(state, left):
        remain, too_many_bad = state
        neighbors = jnp.maximum(left - f - 2, 1)
        there = remain[order]
        counted = there & (jnp.cumsum(there, axis=1, dtype=jnp.int32) <= neighbors)
        sums = jnp.sum(jnp.where(counted, in_order, 0), axis=1)
        least = jnp.min(jnp.where(remain, sums, jnp.inf))
        chosen = jnp.argmax(remain & (sums == least)).astype(jnp.int32)
        return (
            remain & (jnp.arange(n, dtype=jnp.int32) != chosen),
            too_many_bad | jnp.isinf(least),
        ), chosen

    all_rows = varying_as(in_order, jnp.ones(n, bool))
    (_, too_many_bad), picks = lax.scan(
        pick, (all_rows, ~all_rows[0]), jnp.arange(n, n - count, -1, dtype=jnp.int32)
    )
    return picks, too_many_bad


def _picks_by_rule(
    updates: PyTree, f: int, count: int, rule: Callable, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
    """Rows picked as nearest to the rule's output, and whether one is infinitely far.

    A Python loop, since each pick leaves one row fewer.
    """
    detached = lax.stop_gradient(updates)
    remain = jnp.arange(stacked.num_workers(updates))
    options = {} if axis_name is None else {"axis_name": axis_name}
    picks, too_many_bad = [], jnp.zeros((), bool)
    for _ in range(count):
        rows = stacked.take(detached, remain)
        distances = stacked.squared_distances(
            rows, lax.stop_gradient(rule(rows, f=f, **options)), axis_name=axis_name
        )
        nearest = jnp.argmin(distances)
        picks.append(remain[nearest])
        too_many_bad = too_many_bad | jnp.isinf(distances[nearest])
        places = jnp.arange(remain.shape[0] - 1)
        remain = remain[places + (places >= nearest)]
    return jnp.stack(picks), too_many_bad
