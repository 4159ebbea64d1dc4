"""The subset of n - f rows whose covariance has the least largest eigenvalue."""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics.arrays import varying_as
from byzjax._numerics.linalg import largest_eigenvalue, matmul

_BLOCK = 1024  # subsets whose bounds are computed together

_CHUNK = 16  # subsets that are decomposed together

_KRYLOV = 6  # Lanczos steps

_TIE = 4e-6  # eigenvalues with a smaller relative difference are equal

_FAR = 1e9  # a row farther than n - f others by this factor, squared, is in no best subset


def least_eigenvalue(gram: jax.Array, bad: jax.Array, f: int) -> tuple[jax.Array, jax.Array]:
    """The subset of n - f rows whose covariance has the least largest eigenvalue.

    Args:
      gram: `[n, n]`, inner products of the rows about some centre.
      bad: `bool[n]`, rows that are in no subset.
      f: how many rows are left out, a Python int.

    Returns:
      The subset as `bool[n]`, and whether there is one. Cost: O(n^2) for each of C(n, f) subsets.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[0.0], [1.0], [7.0]])
      >>> least_eigenvalue(x @ x.T, jnp.zeros(3, bool), 1)
      (Array([ True,  True, False], dtype=bool), Array(True, dtype=bool))
    """
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
        eigenvalues = jnp.where(
            jnp.isfinite(bounds[subsets]),
            _eigenvalues(gram, _rows_in(left_out[subsets], n)),
            jnp.inf,
        )
        values = values.at[subsets].set(eigenvalues)
        return start + _CHUNK, values, jnp.minimum(least, jnp.min(eigenvalues))

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

    The largest Ritz value after a few Lanczos steps with the centred Gram matrix, for all subsets
    at once: vectors are columns `[n, b]`, 0 in the rows left out.
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

    start = jnp.sin(1.0 + jnp.arange(n, dtype=gram.dtype) ** 2)  # in no particular direction
    _, vector = unit(centered(centered(start[:, None] * inside)), 0.0)
    before, beta, top = jnp.zeros_like(vector), jnp.zeros_like(vector[0]), jnp.zeros_like(vector[0])
    alphas, betas = [], []
    for _ in range(_KRYLOV):
        image = centered(matmul(gram, vector)) - beta[None] * before
        alpha = jnp.sum(image * vector, axis=0)
        alphas.append(alpha)
        top = jnp.maximum(top, alpha)
        before, image = vector, centered(image - alpha[None] * vector)
        beta, vector = unit(image, 1e-3 * top)  # shorter is rounding
        betas.append(beta)
    bounds = _largest_ritz_value(alphas, betas[:-1])
    return jnp.where(jnp.any((inside > 0) & bad[:, None], axis=0), jnp.inf, bounds)


def _largest_ritz_value(alphas: list[jax.Array], betas: list[jax.Array]) -> jax.Array:
    """A value just below the largest eigenvalue of tridiagonal matrices, by bisection.

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
