"""Rules that filter along the direction in which the updates vary most."""

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import scores, stacked
from byzjax._checks import enough_workers, static_int
from byzjax._compiled import compiled
from byzjax._numerics.linalg import matmul, top_eigenpair
from byzjax.rules._select import mean_of_selected
from byzjax.solvers.span import Span, median_of, span_about
from byzjax.stacked import PyTree

_ROUNDING = 4e-6  # of a float32 projection


@compiled
def covariance_filter(updates: PyTree, *, f: int, axis_name: str | None = None) -> PyTree:
    r"""Mean with weights that are lowered along the top direction of the covariance (CAF).

    Starting from c_i = 1, while the sum of c exceeds n - 2f,

    $$ \mu_c = \frac{\sum_i c_i x_i}{\sum_i c_i}, \quad (\lambda, v) = \text{top eigenpair of }
       \frac{1}{\sum_i c_i} \sum_i c_i (x_i - \mu_c)(x_i - \mu_c)^\top, \quad
       c_i \leftarrow c_i \Bigl(1 - \frac{\langle x_i - \mu_c, v \rangle^2}
       {\max_{j: c_j > 0} \langle x_j - \mu_c, v \rangle^2}\Bigr) $$

    The result is the mu_c with the smallest lambda. Eigenpairs are computed exactly, from the n x n
    Gram matrix. Rows that are not finite start with c_i = 0; if that leaves fewer than n - f, more
    than f rows are bad and the result is NaN.

    Requirement: n >= 2f + 1. Breakdown: n > 2f. Promise: finite.
    Cost: O(n^2 d), and at most 2f eigendecompositions of n x n.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int; f = 0 gives the mean.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, or n < 2f + 1.
      TypeError: f is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [10.0, -10.0]])
      >>> byzjax.covariance_filter(updates, f=1).round(4)
      Array([0.5079, 0.4913], dtype=float32)

    Reference: Allouah, Guerraoui and Stephan, Towards Trustworthy Federated Learning with Untrusted
    Participants, 2025 (arXiv:2505.01874).
    """
    n, f = enough_workers("covariance_filter", updates, f)
    span = span_about(updates, median_of(updates), axis_name)
    weights = _filtered_weights(span, f)
    good = jnp.sum(~span.bad, dtype=jnp.int32)
    return stacked.weighted_mean(updates, jnp.where(good >= n - f, weights, 0))


def _filtered_weights(span: Span, f: int) -> jax.Array:
    """The weights c with the smallest top eigenvalue."""
    n, all_good = span.gram.shape[0], jnp.where(span.bad, 0, jnp.ones_like(span.gram[0]))

    def step(state, _):
        def filtered(state):
            weights, best, least, _ = state
            top, spread = _top_direction(span, weights / jnp.sum(weights))
            better = top < least
            best, least = jnp.where(better, weights, best), jnp.where(better, top, least)
            most = jnp.max(jnp.where(weights > 0, spread, 0))
            share = spread / jnp.where(most > 0, most, 1)
            # A weight within rounding of 0 becomes 0: its row may be very far away.
            share = jnp.where(share > 1 - _ROUNDING, 1, share)
            weights = jnp.where(weights > 0, weights * (1 - share), 0)
            return weights, best, least, (most > 0) & (jnp.sum(weights) > n - 2 * f)

        return lax.cond(state[3], filtered, lambda state: state, state), None

    infinite = jnp.inf + 0 * span.gram[0, 0]
    going = jnp.sum(all_good) > n - 2 * f
    state = (all_good, all_good, infinite, going)
    (_, best, _, _), _ = lax.scan(step, state, None, length=2 * f)
    return best


def _top_direction(span: Span, shares: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(lambda, <x_i - mu, v>^2 up to a factor) of the covariance with these shares, of sum 1.

    Scaled by about the norm of the longest row with a share: squares of rows of norm 1e19 would
    overflow, and once such a row has lost its share it must not set the scale. Rows without a share
    get 0.
    """
    present = shares > 0
    roots = jnp.where(present, jnp.sqrt(jnp.where(present, shares, 1)), 0)
    most = lax.stop_gradient(jnp.max(jnp.where(present, jnp.diagonal(span.gram), 0)))
    # A power of two loses no digits. Rows and columns are multiplied separately: XLA would merge
    # two divisions into one by the product, and multiply by its reciprocal, which underflows.
    half = jnp.frexp(jnp.where(most > 0, most, 1))[1] // 2
    factor = jnp.where(present, jnp.ldexp(jnp.ones_like(most), -half), 0)
    scaled = factor[:, None] * span.gram * factor[None]
    gram = Span(scaled, span.bad | ~present).moved_to(shares).gram
    top, vector = top_eigenpair(roots[:, None] * gram * roots[None])
    projections = matmul(gram, roots * vector)
    spread = jnp.where(top > 0, projections**2 / jnp.where(top > 0, top, 1), 0)
    return jnp.ldexp(top, 2 * half), spread


@compiled(static=("remove",))
def spectral_filter(
    updates: PyTree,
    *,
    f: int,
    key: jax.Array,
    coordinates: int = 10_000,
    iterations: int = 5,
    remove: float = 1.0,
    axis_name: str | None = None,
) -> PyTree:
    r"""Average of the updates with the smallest projections on the top singular direction (DnC).

    Each iteration samples coordinates at random. With the mean mu of the sampled rows and the top
    right singular vector v of the centred rows,

    $$ s_i = \langle x_i - \mu, v \rangle^2 $$

    and the int(c f) rows with the largest s_i are dropped, ties from the higher index down. The
    result is the mean of the rows that were never dropped; if there is none, the row that survived
    most often, the lowest index on a tie. Singular vectors are computed exactly, from the n x n
    Gram matrix of the sampled coordinates. Rows with a coordinate that is not finite, sampled or
    not, are dropped first and not counted in mu.

    Requirement: n >= 2f + 1 and c f < n. Breakdown: none proved; two attackers in two directions,
    one farther away than the other, move it arbitrarily, since only the top direction is inspected.
    Promise: only finite.
    Cost: O(nd) to detect rows that are not finite, O(n^2 b) for each sample of b coordinates.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      key: PRNG key that draws the coordinates; unused if `coordinates` >= d.
      coordinates: b, how many coordinates are drawn, without replacement; a Python int.
      iterations: number of samples, a Python int; one suffices if `coordinates` >= d.
      remove: c, how many rows each iteration drops, in multiples of f; a Python number.
      axis_name: mesh axis over which the coordinates are sliced, if they are; each device then
        draws its share.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, n < 2f + 1, or c f >= n.
      TypeError: f, coordinates or iterations is not a Python int.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [10.0, -10.0]])
      >>> byzjax.spectral_filter(updates, f=1, key=jax.random.key(0))
      Array([0.5, 0.5], dtype=float32)

    Reference: Shejwalkar and Houmansadr, Manipulating the Byzantine: Optimizing Model Poisoning
    Attacks and Defenses for Federated Learning, NDSS 2021, Algorithm 2.
    """
    n, f = enough_workers("spectral_filter", updates, f)
    coordinates = static_int("coordinates", coordinates, at_least=1)
    iterations = static_int("iterations", iterations, at_least=1)
    dropped = int(remove * f)
    if not 0 <= dropped < n:
        raise ValueError(
            f"spectral_filter needs 0 <= remove * f < n; got remove={remove}, f={f}, n={n}."
        )
    detached = lax.stop_gradient(updates)
    good = jnp.isfinite(stacked.squared_norms(detached, axis_name=axis_name))

    def survivors(rows: PyTree) -> jax.Array:
        outlying = _outlier_scores(rows, good, axis_name)
        return (scores.ranks(outlying) < n - dropped).astype(jnp.int32)

    if coordinates < stacked.num_coordinates(detached, axis_name=axis_name):
        keys = jax.random.split(key, iterations)

        def of_sample(key: jax.Array) -> jax.Array:
            return survivors(stacked.sample(detached, coordinates, key, axis_name=axis_name))

        survived = jnp.sum(lax.map(of_sample, keys), axis=0, dtype=jnp.int32)
    else:
        iterations, survived = 1, survivors(detached)
    always = survived == iterations
    selected = jnp.where(jnp.any(always), always, jnp.arange(n) == jnp.argmax(survived))
    return mean_of_selected(updates, selected, jnp.where(good, 0, jnp.inf))


def _outlier_scores(rows: PyTree, good: jax.Array, axis_name: str | None) -> jax.Array:
    """Squared projections on the top singular direction of the good rows about their mean."""
    span = span_about(rows, median_of(rows), axis_name)
    shares = good.astype(span.gram.dtype)
    shares = shares / jnp.maximum(jnp.sum(shares), 1)
    _, spread = _top_direction(span, shares)
    return jnp.where(good, spread, jnp.inf)
