"""What honest updates look like: functions `(key, shape) -> values` of mean 0 and variance 1."""

import jax
import jax.numpy as jnp


def gaussian(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    r"""Independent standard normal values, $x \sim N(0, 1)$.

    Args:
      key: draws them.
      shape: theirs.

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
      key: draws them.
      shape: theirs.

    Returns:
      The values.

    Example:
      >>> import jax
      >>> bool((exponential(jax.random.key(0), (100,)) >= -1).all())
      True
    """
    return jax.random.exponential(key, shape) - 1


def sparse(key: jax.Array, shape: tuple[int, ...], *, density: float = 0.1) -> jax.Array:
    r"""Independent values that are 0 but for a share p, where $x \sim N(0, 1 / p)$.

    Args:
      key: draws them.
      shape: theirs.
      density: p, how many are not 0.

    Returns:
      The values.

    Example:
      >>> import jax
      >>> values = sparse(jax.random.key(0), (10_000,))
      >>> bool(abs((values != 0).mean() - 0.1) < 0.01)
      True
    """
    where, what = jax.random.split(key)
    values = jax.random.normal(what, shape) / jnp.sqrt(density)
    return jnp.where(jax.random.bernoulli(where, density, shape), values, 0)


def heavy_tailed(key: jax.Array, shape: tuple[int, ...], *, freedom: float = 5.0) -> jax.Array:
    r"""Independent values of Student's t distribution, divided by their deviation.

    With more than four degrees of freedom the fourth moment is finite, which confidence intervals
    of squared errors need.

    Args:
      key: draws them.
      shape: theirs.
      freedom: degrees of freedom, above 2.

    Returns:
      The values.

    Example:
      >>> import jax
      >>> float(heavy_tailed(jax.random.key(0), (100_000,)).var().round(1))
      1.0
    """
    return jax.random.t(key, freedom, shape) * jnp.sqrt((freedom - 2) / freedom)
