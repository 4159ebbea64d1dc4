"""Distributions of honest updates: `(key, shape) -> values` of mean 0 and variance 1."""

import jax
import jax.numpy as jnp


def gaussian(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    r"""Independent standard normal values, $x \sim N(0, 1)$.

    Args:
      key: PRNG key.
      shape: shape of the values.

    Returns:
      The values.

    Example:
      >>> import jax
      >>> gaussian(jax.random.key(0), (2, 3)).shape
      (2, 3)
    """
    return jax.random.normal(key, shape)


def exponential(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    r"""Independent skewed values, $x + 1 \sim \mathrm{Exp}(1)$: the median is $\ln 2 - 1$.

    Args:
      key: PRNG key.
      shape: shape of the values.

    Returns:
      The values.

    Example:
      >>> import jax
      >>> bool((exponential(jax.random.key(0), (100,)) >= -1).all())
      True
    """
    return jax.random.exponential(key, shape) - 1


def sparse(key: jax.Array, shape: tuple[int, ...], *, density: float = 0.1) -> jax.Array:
    r"""Independent values, most of which are equal: few workers touch the coordinate.

    $$ x = \frac{b - p}{\sqrt{p (1 - p)}}, \qquad b \sim \mathrm{Bernoulli}(p) $$

    Skewed on purpose: for sparse values symmetric about 0 the median is exact.

    Args:
      key: PRNG key.
      shape: shape of the values.
      density: p, the share of workers that touch a coordinate; may be traced.

    Returns:
      The values.

    Example:
      >>> import jax
      >>> values = sparse(jax.random.key(0), (10_000,))
      >>> bool(abs((values > 0).mean() - 0.1) < 0.01)
      True
    """
    touched = jax.random.bernoulli(key, density, shape)
    return (touched - density) / jnp.sqrt(density * (1 - density))


def heavy_tailed(key: jax.Array, shape: tuple[int, ...], *, freedom: int = 5) -> jax.Array:
    r"""Independent values of Student's t distribution, divided by their standard deviation.

    $$ x = \sqrt{\frac{\nu - 2}{\nu}} \, \frac{z_0}{\sqrt{(z_1^2 + \dots + z_\nu^2) / \nu}} $$

    With more than four degrees of freedom the fourth moment is finite, which confidence intervals
    of squared errors need.

    Args:
      key: PRNG key.
      shape: shape of the values.
      freedom: degrees of freedom nu, a Python int above 2.

    Returns:
      The values.

    Example:
      >>> import jax
      >>> float(heavy_tailed(jax.random.key(0), (100_000,)).var().round(1))
      1.0
    """
    first, *others = jax.random.normal(key, (freedom + 1, *shape))
    return first * jnp.sqrt((freedom - 2) / sum(z**2 for z in others))
