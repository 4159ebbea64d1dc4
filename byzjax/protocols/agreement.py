"""One round of approximate agreement: how a receiver combines the values that it received.

Like rules, these are functions of stacked updates that `byzjax.aggregate` accepts. Instead of the
distance to the honest mean, they bound the distance between receivers that were sent different
values. docs/agreement.md has proofs and measurements.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from byzjax import stacked
from byzjax._checks import enough_workers, static_int
from byzjax._compiled import compiled
from byzjax._numerics import order
from byzjax.stacked import PyTree

# Limits of `safe_area_average`: subsets, and pairs of lines in total (0.3 s on a CPU core).
MOST_SUBSETS, MOST_PAIRS = 100_000, 100_000_000
_AT_ONCE = 2**18  # pairs of lines that are intersected at once


@compiled
def mid_extremes(updates: PyTree, *, axis_name: str | None = None) -> PyTree:
    r"""The midpoint of the two updates that are farthest apart (MidExtremes).

    $$ F = \frac{x_a + x_b}{2}, \qquad (a, b) = \arg\max_{i \le j} \|x_i - x_j\| $$

    Ties go to the lexicographically first pair. Rows without a finite norm are ignored, so NaN can
    mark a missing message. NaN if no row is left.

    Agreement: if any two receivers hear from a common worker (non-split rounds) and no worker is
    Byzantine, one round multiplies the diameter of all values by at most sqrt(7/8), in any
    dimension.

    Requirement: n >= 1. Breakdown: one Byzantine worker moves it anywhere. Cost: O(n^2 d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n.

    Example:
      >>> import jax.numpy as jnp
      >>> mid_extremes(jnp.array([[0.0, 0.0], [1.0, 1.0], [4.0, 0.0], [jnp.nan, 9.0]]))
      Array([2., 0.], dtype=float32)

    Reference: Fuegger and Nowak, Fast Multidimensional Asymptotic and Approximate Consensus,
    DISC 2018 (arXiv:1805.04923).
    """
    detached = lax.stop_gradient(updates)
    heard = jnp.isfinite(stacked.squared_norms(detached, axis_name=axis_name))
    squares = stacked.pairwise_squared_distances(detached, axis_name=axis_name)
    n = heard.shape[0]
    pair = jnp.argmax(jnp.where(heard[:, None] & heard[None], squares, -1))
    one, other = stacked.take(updates, pair // n), stacked.take(updates, pair % n)
    some = jnp.any(heard)
    return jax.tree.map(lambda a, b: jnp.where(some, _midpoint(a, b), jnp.nan), one, other)


@compiled
def approach_extreme(updates: PyTree, center: PyTree, *, axis_name: str | None = None) -> PyTree:
    r"""The midpoint of the receiver's own value and the update farthest from it (ApproachExtreme).

    $$ F = \frac{c + x_b}{2}, \qquad b = \arg\max_i \|x_i - c\| $$

    Ties go to the lowest index. Rows without a finite norm are ignored, so NaN can mark a missing
    message; a receiver without any message keeps its own value.

    Agreement: if any two receivers hear from a common worker (non-split rounds) and no worker is
    Byzantine, one round multiplies the diameter of all values by at most sqrt(31/32), in any
    dimension.

    Requirement: n >= 1. Breakdown: one Byzantine worker moves it anywhere. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      center: c, the receiver's own value, one update; every leaf has shape `[...]`.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and the dtype of the updates.

    Raises:
      ValueError: the leaves disagree on n, or `center` does not have the shape of one update.

    Example:
      >>> import jax.numpy as jnp
      >>> approach_extreme(jnp.array([[0.0, 0.0], [4.0, 0.0], [jnp.nan, 9.0]]), jnp.ones(2))
      Array([2.5, 0.5], dtype=float32)

    Reference: Fuegger and Nowak, Fast Multidimensional Asymptotic and Approximate Consensus,
    DISC 2018 (arXiv:1805.04923).
    """
    detached, own = lax.stop_gradient((updates, center))
    heard = jnp.isfinite(stacked.squared_norms(detached, axis_name=axis_name))
    squares = stacked.squared_distances(detached, own, axis_name=axis_name)
    farthest = stacked.take(updates, jnp.argmax(jnp.where(heard, squares, -1)))
    some = jnp.any(heard)

    def approached(c: jax.Array, b: jax.Array) -> jax.Array:
        c = jnp.asarray(c).astype(b.dtype)
        return jnp.where(some, _midpoint(c, b), c)

    return jax.tree.map(approached, center, farthest)


@compiled
def trimmed_agreement(updates: PyTree, *, f: int, axis_name: str | None = None) -> PyTree:
    r"""Coordinate-wise midpoint of the extremes without the f smallest and the f largest values.

    $$ F_j = \frac{x_{(f+1)j} + x_{(n-f)j}}{2} $$

    where $x_{(1)j} \le \dots \le x_{(n)j}$. NaN counts as an extreme value.

    Agreement: two receivers of the same honest values, each with up to f arbitrary other values,
    differ in each coordinate by at most 1/2 of its honest range, and this is attained. For
    `byzjax.trimmed_mean` the factor is f / (n - 2f), which is less if n > 4f.

    Requirement: n >= 3f + 1. Breakdown: n > 3f.
    Promise: every coordinate stays within the honest range.
    Cost: O(nd) by selection; here sorting networks, O(n log^2 n d).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      axis_name: mesh axis over which the coordinates are sliced; has no effect here.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or n < 3f + 1.
      TypeError: f is not a Python int, or a leaf is not of a float type.

    Example:
      >>> import jax.numpy as jnp
      >>> trimmed_agreement(jnp.array([[0.0], [1.0], [5.0], [jnp.inf]]), f=1)
      Array([3.], dtype=float32)

    Reference: Dolev, Lynch, Pinter, Stark and Weihl, Reaching Approximate Agreement in the Presence
    of Faults, Journal of the ACM 33, 1986; the midpoint of the extremes as in Lundelius Welch and
    Lynch, A New Fault-Tolerant Algorithm for Clock Synchronization, Information and Computation 77,
    1988.
    """
    del axis_name
    _, f = enough_workers("trimmed_agreement", updates, f, needs=(3, 1))
    return stacked.coordinatewise(lambda x: _middle_of_trimmed(x, f), updates)


@compiled
def safe_area_average(updates: PyTree, *, f: int) -> PyTree:
    r"""Average over all subsets of n - f updates of a point of their safe area, for d <= 2.

    $$ F = \binom{n}{f}^{-1} \sum_{|Y| = n - f} z(Y), \qquad
       z(Y) \in \bigcap_{T \subset Y,\ |T| = n - 2f} \operatorname{conv}(T) $$

    z(Y) is the centre of the bounding box of the safe area, which for d <= 2 lies in the area
    (docs/agreement.md). A point is in the safe area if every half-plane that contains it contains
    more than f rows: for d = 1 an interval, for d = 2 a polygon whose edges lie on lines through
    two of the rows. A non-finite row counts as the coordinate-wise median; NaN if more than f rows
    are non-finite.

    Agreement: two receivers of the same honest values, each with up to f arbitrary other values,
    differ in each coordinate by at most 1 - 1/C(n, f) of its honest range, and in distance by at
    most the same fraction of the honest diameter.

    Requirement: n >= (d + 2)f + 1, d <= 2, at most 100,000 subsets, and for d = 2 at most
    100,000,000 pairs of lines, ((n - f)(n - f - 1) + 4)^2 for each subset.
    Breakdown: n > (d + 2)f. Promise: it stays within the convex hull of the honest updates, up to
    rounding. Cost: O(C(n, f) n^4) for d = 2 (n = 17, f = 4: 0.2 s on a CPU core).

    Args:
      updates: stacked updates of at most two coordinates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, d is not 1 or 2, n < (d + 2)f + 1, or there are too
        many subsets or pairs of lines.
      TypeError: f is not a Python int.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0], [1.0, 9.0]])
      >>> [round(float(value), 4) for value in safe_area_average(x, f=1)]
      [1.0, 1.72]

    Reference: Mendes, Herlihy, Vaidya and Garg, Multidimensional Agreement in Byzantine Systems,
    Distributed Computing 28, 2015.
    """
    n, f = stacked.num_workers(updates), static_int("f", f)
    one, as_update = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], updates))
    d, m, subsets = one.size, n - f, math.comb(n, f)
    if d not in (1, 2):
        raise ValueError(f"safe_area_average needs one or two coordinates; got d={d}.")
    if n < (d + 2) * f + 1:
        raise ValueError(
            f"safe_area_average needs n >= (d + 2)f + 1 = {(d + 2) * f + 1}; "
            f"got n={n}, f={f}, d={d}."
        )
    pairs = (m * (m - 1) + 4) ** 2 if d == 2 else 0
    if subsets > MOST_SUBSETS or subsets * pairs > MOST_PAIRS:
        raise ValueError(
            f"safe_area_average takes at most {MOST_SUBSETS:,} subsets and {MOST_PAIRS:,} pairs of "
            f"lines; n={n}, f={f} have C(n, f) = {subsets:,}, and {pairs:,} pairs in each."
        )
    x = jax.vmap(lambda update: ravel_pytree(update)[0])(updates)
    x = x.astype(stacked.sum_dtype(x.dtype))
    bad = ~jnp.all(jnp.isfinite(x), axis=1)
    x = jnp.where(bad[:, None], _median(x)[None], x)
    point = _middle_of_trimmed if d == 1 else _middle_of_safe_area
    points = lax.map(
        lambda rows: point(x[rows], f) / subsets,  # divided first to avoid overflow
        jnp.array([*itertools.combinations(range(n), m)], jnp.int32),
        batch_size=max(1, _AT_ONCE // max(m, pairs)),
    )
    too_many_bad = jnp.sum(bad, dtype=jnp.int32) > f
    average = jnp.where(too_many_bad, jnp.nan, jnp.sum(points, axis=0))
    return as_update(average.astype(one.dtype))


def _midpoint(a: jax.Array, b: jax.Array) -> jax.Array:
    """(a + b) / 2 without overflow; XLA would compile a / 2 + b / 2 as (a + b) / 2."""
    wide = stacked.sum_dtype(a.dtype)
    low, high = a.astype(wide), b.astype(wide)
    return jnp.where((low < 0) == (high < 0), low + 0.5 * (high - low), 0.5 * (low + high)).astype(
        a.dtype
    )


def _middle_of_trimmed(x: jax.Array, f: int) -> jax.Array:
    """The midpoint of the extremes of each column of `x: [n, c]` without f values at each end."""
    low, high = (order.kth(x, k) for k in (f + 1, x.shape[0] - f))
    return _midpoint(low, high)


def _median(x: jax.Array) -> jax.Array:
    return _middle_of_trimmed(x, (x.shape[0] - 1) // 2)


def _middle_of_safe_area(points: jax.Array, f: int) -> jax.Array:
    """The centre of the bounding box of the safe area of the points `[m, 2]`.

    For every direction a, a.x is at most the (m - f)-th lowest value among the points. The normals
    of lines through two points suffice; the axes do if all points lie on one line. On each boundary
    line the other bounds leave a segment; segment ends that satisfy all bounds are the corners.
    """
    m, eps = points.shape[0], jnp.finfo(points.dtype).eps
    y, origin, unit, factor = _local(points, f)
    size = jnp.max(jnp.abs(y), axis=1)
    i, j = jnp.array([*itertools.combinations(range(m), 2)], jnp.int32).T
    across = y[i] - y[j]
    square = jnp.sum(across**2, axis=1)
    apart = (square > 0)[:, None]
    length = jnp.sqrt(jnp.where(square > 0, square, 1))[:, None]
    normals = jnp.where(apart, _turned(across) / length, jnp.array([1, 0], y.dtype))
    values = _products(normals, y)
    # Both points of a pair lie on its line; the nearer one defines it, with less rounding error.
    pair = jnp.arange(len(i)), jnp.where(size[i] <= size[j], i, j)
    number = jnp.arange(m, dtype=jnp.int32)[None]
    on_line = (number == i[:, None]) | (number == j[:, None])
    values = jnp.where(on_line, values[pair][:, None], values)

    values = jnp.sort(jnp.concatenate([values, y.T]), axis=1)
    normals = jnp.concatenate([normals, jnp.eye(2, dtype=y.dtype)])
    normals = jnp.concatenate([normals, -normals])
    bounds = jnp.concatenate([values[:, m - f - 1], -values[:, f]])

    # Line k is { bounds_k normal_k + t along_k }.
    along = _turned(normals)
    tangent = _products(along, normals)
    gap = bounds[None] - bounds[:, None] * _products(normals, normals)
    meets = jnp.abs(tangent) > 8 * eps
    t = gap / jnp.where(meets, tangent, 1)
    low = -_least(jnp.where(meets & (tangent < 0), -t, jnp.inf).T)
    high = _least(jnp.where(meets & (tangent > 0), t, jnp.inf).T)
    middle = 0.5 * (low + high)
    empty = low > high
    t = jnp.stack([jnp.where(empty, middle, low), jnp.where(empty, middle, high)])
    ends = (bounds[:, None] * normals)[None] + t[:, :, None] * along[None]
    ends = ends.reshape(-1, 2)
    excess = jnp.max(_products(ends, normals) - bounds[None], axis=1)
    # With the fewest rows the area is usually one point, which meets its bounds only to rounding.
    corner = (excess <= jnp.maximum(32 * eps, jnp.min(excess)))[:, None]
    least = _least(jnp.where(corner, ends, jnp.inf))
    most = -_least(jnp.where(corner, -ends, jnp.inf))
    return (origin + unit * (0.5 * (least + most))) / factor


def _least(x: jax.Array) -> jax.Array:
    """`jnp.min(x, axis=0)`, with the gradient of the first minimum.

    The gradient of `jnp.min` compares entries with the result; if the compiler computes the two
    with different rounding, no entry is equal, and the gradient is NaN.
    """
    places = jnp.argmin(lax.stop_gradient(x), axis=0)
    return jnp.take_along_axis(x, places[None], axis=0)[0]


def _local(points: jax.Array, f: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(y, origin, unit, factor): points = (origin + unit y) / factor, m - f of the y of size <= 1.

    Points beyond 1 / eps are pulled towards the origin; seen from the others, their direction is
    unchanged up to rounding. The factor keeps differences of large points from overflowing.
    """
    detached, limits = lax.stop_gradient(points), jnp.finfo(points.dtype)
    factor = jnp.where(jnp.max(jnp.abs(detached)) > limits.max / 4, 0.25, 1).astype(points.dtype)
    origin = factor * _median(detached)
    from_origin = factor * points - origin[None]
    size = jnp.max(jnp.abs(lax.stop_gradient(from_origin)), axis=1, keepdims=True)
    unit = jnp.sort(size, axis=0)[points.shape[0] - f - 1]
    far = jnp.maximum(unit[None], size * limits.eps)
    y = jnp.where(far > 0, from_origin / jnp.where(far > 0, far, 1), 0)
    return y, origin, unit, factor


def _turned(vectors: jax.Array) -> jax.Array:
    """Vectors of the plane, rotated left by 90 degrees."""
    return jnp.stack([-vectors[:, 1], vectors[:, 0]], axis=1)


def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    """Inner products `[p, q]` of vectors of the plane, in full precision on every platform."""
    return a[:, None, 0] * b[None, :, 0] + a[:, None, 1] * b[None, :, 1]
