"""Rules that average the best of all subsets of n - f updates."""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import enough_workers
from byzjax._compiled import compiled
from byzjax._kernels import varying_as
from byzjax._lapack import largest_eigenvalue, times
from byzjax.rules._select import mean_of_selected
from byzjax.rules._span import median_of, span_about
from byzjax.stacked import PyTree

# --- the subset of least diameter ----------------------------------------------------------------

MOST_FAULTS = 32  # of `minimum_diameter`; see its docstring


@compiled
def minimum_diameter(updates: PyTree, *, f: int, axis_name: str | None = None) -> PyTree:
    r"""Mean of the n - f updates with the least diameter (MDA, also called Brute).

    $$ F = \frac{1}{n - f} \sum_{i \in S^*} x_i, \qquad
       S^* = \arg\min_{|S| = n - f} \max_{i, j \in S} \|x_i - x_j\| $$

    the lexicographically first S on a tie. Exact, without enumeration (the search is ours): the
    least diameter is found by bisection over the sorted distances. Pairs that are farther apart
    than a candidate are the edges of a graph, and a subset exists if f vertices cover them all. A
    branching search decides that: a vertex of the highest degree, or all of its neighbours, are in
    the cover; vertices of degree above what is left must be, neighbours of leaves may be, and a
    graph with more edges than that many vertices can have is given up. At the least diameter, rows
    join S in order as long as a subset with them exists. Subsets with an infinite distance do not
    count; if there is no other, more than f rows are bad and the result is NaN.

    Requirement: n >= 2f + 1, and f <= 32: the search takes time exponential in f at worst. Of the
    graphs tried, the worst takes 0.03 s at f = 24, 1.2 s at f = 32 and 5 s at f = 40 on a CPU core,
    but distances of Gaussian updates 3 ms at f = 24. Breakdown: n > 2f.
    Promise: the distance to the honest mean is at most 2f / (n - f) times the honest diameter.
    Cost: O(n^2 d), and a search that is exponential in f at worst.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, n < 2f + 1, or f > 32.
      TypeError: f is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [10.0, -10.0]])
      >>> byzjax.minimum_diameter(updates, f=1)
      Array([0.5, 0.5], dtype=float32)

    Reference: El-Mhamdi, Guerraoui and Rouault, The Hidden Vulnerability of Distributed Learning in
    Byzantium, ICML 2018 (arXiv:1802.07927), "Brute"; after Rousseeuw 1985.
    """
    n, f = enough_workers("minimum_diameter", updates, f)
    if f > MOST_FAULTS:
        raise ValueError(f"minimum_diameter needs f <= {MOST_FAULTS}; got f={f}, n={n}.")
    squares = stacked.pairwise_squared_distances(lax.stop_gradient(updates), axis_name=axis_name)
    selected, diameter = _least_diameter(squares, f)
    scores = jnp.where(jnp.isfinite(diameter), jnp.zeros(n), jnp.inf)
    return mean_of_selected(updates, selected, scores)


def _least_diameter(distances: jax.Array, f: int) -> tuple[jax.Array, jax.Array]:
    """(the first subset of n - f with the least diameter as `bool[n]`, that diameter)."""
    n = distances.shape[0]
    m = n - f
    candidates = jnp.sort(distances.reshape(-1))
    radii = jnp.sort(distances, axis=1)[:, m - 1]
    # Each of m rows has m - 1 others within the diameter; the smallest ball holds a subset.
    ball = distances[jnp.argmin(radii)] <= jnp.min(radii)
    low = jnp.searchsorted(candidates, jnp.sort(radii)[m - 1])
    high = jnp.searchsorted(candidates, _diameter(distances, ball))

    everybody = ball | True

    def narrower(state):
        low, high, found = state
        middle = (low + high) // 2
        exists, subset = _independent(distances > candidates[middle], everybody, True, f)
        reached = jnp.searchsorted(candidates, _diameter(distances, subset))
        high = jnp.where(exists, reached, high)
        return jnp.where(exists, low, middle + 1), high, jnp.where(exists, subset, found)

    _, high, found = lax.while_loop(lambda state: state[0] < state[1], narrower, (low, high, ball))
    least = candidates[jnp.minimum(high, n * n - 1)]
    return _first_subset(distances > least, found, f), least


def _diameter(distances: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.max(jnp.where(rows[:, None] & rows[None], distances, 0))


def _first_subset(edges: jax.Array, found: jax.Array, f: int) -> jax.Array:
    """The lexicographically first n - f rows without an edge, given some that have none.

    Row by row: one that is in the subset at hand stays, another one joins if a subset with it and
    all rows before it exists.
    """
    n = edges.shape[0]
    places = jnp.arange(n)

    def next_row(state):
        found, refused = state
        return jnp.argmax(~found & ~refused)

    def going(state):
        found, refused = state
        before = jnp.sum(found & (places < next_row(state)), dtype=jnp.int32)
        return jnp.any(~found & ~refused) & (before < n - f)

    def try_next(state):
        found, refused = state
        i = next_row(state)
        joined = (found & (places < i)) | (places == i)
        clashing = jnp.any(edges & joined[None], axis=1)
        out = refused | clashing
        exists, subset = _independent(edges, ~out, ~jnp.any(clashing & joined), f)
        refused = jnp.where(exists, out, refused | (places == i))
        return jnp.where(exists, subset, found), refused

    found, _ = lax.while_loop(going, try_next, (found, found & False))
    return found & (jnp.cumsum(found, dtype=jnp.int32) <= n - f)


def _independent(
    edges: jax.Array, rows: jax.Array, possible: jax.Array | bool, f: int
) -> tuple[jax.Array, jax.Array]:
    """(whether n - f of these rows have no edge between them, such rows).

    Depth first over a stack of the rows that are left, each level of which takes one of them away.
    """
    n = edges.shape[0]
    matrix = edges.astype(jnp.float32)  # counts of rows are exact
    first_of_pair = jnp.tril(matrix, -1)

    def explore(state):
        stack, size, _, _ = state
        left = stack[size - 1]
        degrees = left * times(left, matrix)
        spare = jnp.sum(left) - (n - f)  # so many may still be taken away
        most = jnp.max(degrees)
        done = (most == 0) & (spare >= 0)
        alive = (most > 0) & (spare > 0)

        # More neighbours than may be taken away: the row itself has to go.
        crowded = degrees > spare
        # Each leaf's neighbour goes, of two leaves on one edge the later.
        leaves = (degrees == 1).astype(jnp.float32)
        by_leaf = times(leaves, matrix) > 0
        pruned = (left > 0) & by_leaf & ((leaves == 0) | (times(leaves, first_of_pair.T) > 0))
        fullest = jnp.arange(n) == jnp.argmax(degrees)
        take = jnp.where(jnp.any(leaves > 0), pruned, fullest)
        take = jnp.where(jnp.any(crowded), crowded, take)
        # Without leaves and with degrees of 2 all are cycles, of which any row may go.
        branches = alive & ~jnp.any(crowded) & ~jnp.any(leaves > 0) & (most > 2)
        enough = jnp.sum(degrees) <= 2 * spare * most
        alive = alive & (enough | jnp.any(crowded))

        without = jnp.where(take, 0, left)
        without_neighbours = left * (1 - matrix[jnp.argmax(degrees)])
        base = size - 1
        stack = stack.at[base].set(without_neighbours)
        top = base + (branches & alive).astype(jnp.int32)
        stack = stack.at[top].set(jnp.where(alive, without, stack[top]))
        size = jnp.where(done, 0, jnp.where(alive, top + 1, base))
        return stack, size, done, left

    start = rows.astype(jnp.float32)
    stack = jnp.zeros((f + 3, n), jnp.float32).at[0].set(start)
    size = jnp.where(possible, 1, 0).astype(jnp.int32)
    state = varying_as(edges, (stack, size, jnp.zeros((), bool), start))
    _, _, found, left = lax.while_loop(lambda state: state[1] > 0, explore, state)
    return found, left > 0


# --- the subset of least variance in its worst direction -----------------------------------------

MOST_SUBSETS = 100_000  # of `minimum_eigenvalue`
_BLOCK = 1024  # subsets whose bounds are computed together
_CHUNK = 16  # subsets that are decomposed together
_KRYLOV = 6  # steps of Lanczos' iteration
_TIE = 4e-6  # eigenvalues this near, relatively, are equal
_FAR = 1e9  # a row this much farther than n - f others, squared, is in no best subset


@compiled
def minimum_eigenvalue(updates: PyTree, *, f: int, axis_name: str | None = None) -> PyTree:
    r"""Mean of the n - f updates whose covariance has the smallest largest eigenvalue (SMEA).

    $$ F = \frac{1}{n - f} \sum_{i \in S^*} x_i, \qquad
       S^* = \arg\min_{|S| = n - f} \lambda_{\max}\Bigl(\frac{1}{|S|}
       \sum_{i \in S} (x_i - \bar x_S)(x_i - \bar x_S)^\top\Bigr) $$

    the lexicographically first S on a tie (to 4e-6). Exact: each subset gets a lower bound from a
    few steps of Lanczos' iteration, and eigenvalues are computed in the order of these bounds,
    until no bound is below the least of them. They are those of the Gram matrix, of size n - f.
    Subsets with a row that is not finite do not count; if there is no other, more than f rows are
    bad and the result is NaN.

    Requirement: n >= 2f + 1, and at most 100,000 subsets of n - f. Breakdown: n > 2f.
    Promise: the squared distance to the honest mean is at most 4f / (n - 2f) times the largest
    eigenvalue of the honest covariance (ours: docs/bounds.md).
    Cost: O(n^2 d), and O(n^2) for each of the C(n, f) subsets.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      f: number of faults to tolerate, a Python int.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      One update; every leaf has shape `[...]` and keeps its dtype.

    Raises:
      ValueError: the leaves disagree on n, n < 2f + 1, or there are too many subsets.
      TypeError: f is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> updates = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [10.0, -10.0]])
      >>> byzjax.minimum_eigenvalue(updates, f=1)
      Array([0.5, 0.5], dtype=float32)

    Reference: Farhadkhani, Guerraoui, Gupta, Hoang, Pinot and Stephan, Robust Collaborative
    Learning with Linear Gradient Overhead, ICML 2023, and Allouah et al., On the
    Privacy-Robustness-Utility Trilemma in Distributed Learning, ICML 2023 (arXiv:2302.04787).
    """
    n, f = enough_workers("minimum_eigenvalue", updates, f)
    count = math.comb(n, f)
    if count > MOST_SUBSETS:
        raise ValueError(
            f"minimum_eigenvalue tries at most {MOST_SUBSETS} subsets; "
            f"n={n}, f={f} have C(n, f) = {count}."
        )
    still = lax.stop_gradient(updates)
    span = span_about(still, median_of(still), axis_name)
    selected, known = _least_eigenvalue(span.gram, span.bad, f)
    return mean_of_selected(updates, selected, jnp.where(known, jnp.zeros(n), jnp.inf))


def _least_eigenvalue(gram: jax.Array, bad: jax.Array, f: int) -> tuple[jax.Array, jax.Array]:
    """(the best subset as `bool[n]`, whether there is one)."""
    n = gram.shape[0]
    lengths = jnp.where(bad, jnp.inf, jnp.diagonal(gram))
    usual = jnp.sort(lengths)[n - f - 1]
    bad = bad | (lengths > _FAR * usual)
    unit = jnp.where(jnp.isfinite(usual) & (usual > 0), usual, 1)
    gram = jnp.where(bad[:, None] | bad[None], 0, gram / unit)

    # The rows left out, the lexicographically first subset first.
    count = math.comb(n, f)
    left_out = jnp.array([*itertools.combinations(range(n), f)][::-1], jnp.int32)
    left_out = left_out.reshape(count, f)
    block = min(_BLOCK, count)
    padded = jnp.concatenate([left_out, jnp.broadcast_to(left_out[-1:], (-count % block, f))])
    blocks = padded.reshape(-(-count // block), block, f)
    bounds = lax.map(lambda block: _lower_bounds(gram, bad, block), blocks).reshape(-1)[:count]

    order = jnp.argsort(bounds)
    order = jnp.concatenate([order, jnp.broadcast_to(order[-1:], (-count % _CHUNK,))])

    def going(state):
        start, _, least = state
        best_left = bounds[order[jnp.minimum(start, count - 1)]]
        return (start < count) & (best_left * (1 - 1e-4) < least)

    def decompose(state):
        start, values, least = state
        subsets = lax.dynamic_slice(order, (start,), (_CHUNK,))
        found = jnp.where(
            jnp.isfinite(bounds[subsets]),
            _eigenvalues(gram, _rows_in(left_out[subsets], n)),
            jnp.inf,
        )
        return start + _CHUNK, values.at[subsets].set(found), jnp.minimum(least, jnp.min(found))

    values = jnp.full(count, jnp.inf, gram.dtype)
    begun = varying_as(gram, (jnp.int32(0), values, values[0]))
    _, values, least = lax.while_loop(going, decompose, begun)
    best = jnp.argmax(values <= least * (1 + _TIE))
    selected = jnp.all(jnp.arange(n, dtype=jnp.int32)[:, None] != left_out[best][None], axis=1)
    return selected, jnp.isfinite(least)


def _rows_in(left_out: jax.Array, n: int) -> jax.Array:
    """`[b, n - f]`: the rows of subsets from those that are left out, both in order."""
    f = left_out.shape[1]
    places = jnp.arange(n - f, dtype=jnp.int32)
    before = left_out - jnp.arange(f, dtype=jnp.int32)[None]
    skipped = jnp.sum(before[:, None] <= places[None, :, None], axis=2, dtype=jnp.int32)
    return places[None] + skipped


def _eigenvalues(gram: jax.Array, rows: jax.Array) -> jax.Array:
    """Largest eigenvalue of each subset's centred Gram matrix."""
    part = gram[rows[:, :, None], rows[:, None, :]]
    part = part - jnp.mean(part, axis=1, keepdims=True)
    part = part - jnp.mean(part, axis=2, keepdims=True)
    return jax.vmap(largest_eigenvalue)(part)


def _lower_bounds(gram: jax.Array, bad: jax.Array, left_out: jax.Array) -> jax.Array:
    """A lower bound of each subset's largest eigenvalue, +inf if it has a bad row.

    The largest Ritz value of some steps of Lanczos' iteration with the centred Gram matrix, for all
    subsets side by side: vectors are columns `[n, b]`, 0 in the rows left out.
    """
    n, f = gram.shape[0], left_out.shape[1]
    inside = jnp.all(jnp.arange(n, dtype=jnp.int32)[:, None, None] != left_out.T[None], axis=1)
    inside = inside.astype(gram.dtype)

    def centered(x: jax.Array) -> jax.Array:
        return inside * (x - (jnp.sum(x * inside, axis=0) / (n - f))[None])

    def unit(x: jax.Array, at_least: jax.Array | float) -> tuple[jax.Array, jax.Array]:
        length = jnp.sqrt(jnp.sum(x * x, axis=0))
        some = length > at_least
        return jnp.where(some, length, 0), jnp.where(
            some[None], x / jnp.where(some, length, 1)[None], 0
        )

    start = jnp.sin(1.0 + jnp.arange(n, dtype=gram.dtype) ** 2)  # along no particular direction
    _, vector = unit(centered(centered(start[:, None] * inside)), 0.0)
    before, beta, top = jnp.zeros_like(vector), jnp.zeros_like(vector[0]), jnp.zeros_like(vector[0])
    alphas, betas = [], []
    for _ in range(_KRYLOV):
        image = centered(times(gram, vector)) - beta[None] * before
        alpha = jnp.sum(image * vector, axis=0)
        alphas.append(alpha)
        top = jnp.maximum(top, alpha)
        before, image = vector, centered(image - alpha[None] * vector)
        beta, vector = unit(image, 1e-3 * top)  # shorter is rounding
        betas.append(beta)
    bounds = _largest_ritz_value(alphas, betas[:-1])
    return jnp.where(jnp.any((inside > 0) & bad[:, None], axis=0), jnp.inf, bounds)


def _largest_ritz_value(alphas: list[jax.Array], betas: list[jax.Array]) -> jax.Array:
    """Just below the largest eigenvalue of tridiagonal matrices, by bisection.

    All pivots of x - T are positive where x is above it.
    """
    low = jnp.max(jnp.stack(alphas), axis=0)
    zero = [jnp.zeros_like(low)]
    high = jnp.max(
        jnp.stack([a + b + c for a, b, c in zip(alphas, zero + betas, betas + zero)]), axis=0
    )

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        pivot = middle - alphas[0]
        above = pivot > 0
        for alpha, beta in zip(alphas[1:], betas):
            pivot = middle - alpha - beta**2 / pivot
            above = above & (pivot > 0)
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    return lax.fori_loop(0, 14, halve, (low, high))[0]
