"""Clipping about a centre, and to the median norm."""

from typing import Any

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._checks import static_int
from byzjax._numerics import order
from byzjax.solvers.span import Span, span_about
from byzjax.stacked import PyTree


def clipped_about(
    updates: PyTree,
    center: PyTree,
    radius: Any,
    iterations: int,
    axis_name: str | None,
    weights: jax.Array | None = None,
) -> PyTree:
    """`centered_clip` in the accumulation dtype."""
    stacked.num_workers(updates)
    shares = None if weights is None else weights / jnp.sum(weights)
    if static_int("iterations", iterations, at_least=1) == 1:
        distances = stacked.squared_distances(updates, center, axis_name=axis_name)
        factors = _shared(clip_factors(distances, radius), shares)
    else:
        span = span_about(updates, center, axis_name)
        factors = _factors_in_span(span, radius, iterations, shares)
    moved = stacked.weighted_sum(stacked.widened(updates), factors)
    rest = 1 - jnp.sum(factors)

    def add(leaf: jax.Array, start: jax.Array) -> jax.Array:
        return leaf + rest.astype(leaf.dtype) * jnp.asarray(start).astype(leaf.dtype)

    return jax.tree.map(add, moved, center)


def clip_factors(squared_distances: jax.Array, radius: jax.Array | float) -> jax.Array:
    """`min(1, tau / r)`, with zero gradient where r is 0 or not finite."""
    radius = jnp.asarray(radius, squared_distances.dtype)
    finite = jnp.isfinite(squared_distances)
    longer = finite & (squared_distances > radius**2)
    factors = radius / jnp.sqrt(jnp.where(longer, squared_distances, radius**2))
    return jnp.where(finite, factors, 0)


def _shared(factors: jax.Array, shares: jax.Array | None) -> jax.Array:
    return factors / len(factors) if shares is None else factors * shares.astype(factors.dtype)


def _factors_in_span(
    span: Span, radius: jax.Array | float, iterations: int, shares: jax.Array | None
) -> jax.Array:
    """The factors of v after the iterations; no x_i - center contributes more than the radius."""
    moved = jnp.zeros_like(span.gram[0])
    for _ in range(iterations):
        factors = _shared(clip_factors(span.squared_distances(moved), radius), shares)
        moved = (1 - jnp.sum(factors)) * moved + factors
    return moved


def clipped_to_median(
    updates: PyTree, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Norms `[n]`, +inf where they are not finite; their median M; the factors `min(1, M / norm)`.

    The factor of a row without a finite norm is 1.
    """
    squares = stacked.squared_norms(updates, axis_name=axis_name)
    good = jnp.isfinite(squares)
    long = good & (squares > 0)
    roots = jnp.where(long, jnp.sqrt(jnp.where(long, squares, 1)), 0)
    norms = jnp.where(good, roots, jnp.inf)
    middle = order.median(norms[:, None])[0]
    clipped = long & (norms > middle)
    return norms, middle, jnp.where(clipped, middle / jnp.where(clipped, roots, 1), 1)
