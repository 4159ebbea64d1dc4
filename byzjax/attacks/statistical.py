"""Attacks made from the mean and the standard deviation of the honest updates.

Each takes `byzantine: bool[n]`, which may be traced, and returns the honest rows bitwise unchanged.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from byzjax import stacked
from byzjax._checks import one_of, static_int
from byzjax.attacks import _rows
from byzjax.stacked import PyTree


def sign_flip(updates: PyTree, byzantine: jax.Array) -> PyTree:
    r"""Every liar sends the negative of what it should have sent, $b_i = -x_i$.

    Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, who attacks; may be traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> attacks.sign_flip(jnp.array([[1.0], [2.0]]), jnp.array([False, True]))
      Array([[ 1.],
             [-2.]], dtype=float32)

    Reference: in common use; the "bit-flip" of Karimireddy, He and Jaggi, Learning from History for
    Byzantine Robust Optimization, ICML 2021 (arXiv:2012.10333).
    """
    byzantine = _rows.mask(updates, byzantine)
    return _rows.replace(updates, byzantine, jax.tree.map(jnp.negative, updates))


def inner_product_manipulation(
    updates: PyTree, byzantine: jax.Array, *, epsilon: float = 0.1
) -> PyTree:
    r"""All liars send $b = -\epsilon \mu$, with the mean $\mu$ of the honest updates.

    A small epsilon slips past distances and medians; epsilon > (n - s) / s turns the plain mean
    around when s workers lie. Also known as "fall of empires". Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, who attacks; may be traced.
      epsilon: strength; may be traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0], [3.0], [7.0]])
      >>> attacks.inner_product_manipulation(
      ...     updates, jnp.array([False, False, True]), epsilon=0.5)
      Array([[ 1.],
             [ 3.],
             [-1.]], dtype=float32)

    Reference: Xie, Koyejo and Gupta, Fall of Empires: Breaking Byzantine-tolerant SGD by Inner
    Product Manipulation, UAI 2019 (arXiv:1903.03936).
    """
    byzantine = _rows.mask(updates, byzantine)
    mean = _rows.honest_mean(updates, byzantine)
    lie = jax.tree.map(lambda mu: -jnp.asarray(epsilon, mu.dtype) * mu, mean)
    return _rows.replace(updates, byzantine, lie)


def little_is_enough_z(n: int, f: int | jax.Array) -> jax.Array:
    r"""The strength z of `little_is_enough` for n workers of which f lie.

    $$ s = \lfloor n/2 + 1 \rfloor - f, \qquad
       z = \Phi^{-1}\!\left(\frac{n - f - s}{n - f}\right) $$

    Args:
      n: number of workers.
      f: number of liars that the formula counts with; may be traced.

    Returns:
      A float32 scalar.

    Example:
      >>> round(float(little_is_enough_z(25, 11)), 3)
      1.068

    Reference: Baruch, Baruch and Goldberg, NeurIPS 2019 (arXiv:1902.06156), section 3.1, in the
    form of its public implementations; the text of the first arXiv version divides by n.
    """
    supporters = n // 2 + 1 - f
    share = jnp.asarray(n - f - supporters, jnp.float32) / jnp.asarray(n - f, jnp.float32)
    return ndtri(share)


def little_is_enough(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    f: int | None = None,
    z: float | jax.Array | None = None,
    direction: str = "minus",
    ddof: int = 1,
) -> PyTree:
    r"""All liars send $b = \mu - z\sigma$ (or $\mu + z\sigma$), just inside the honest spread.

    $\mu$ and $\sigma$ are the mean and the standard deviation of the honest updates per
    coordinate. Known as ALIE. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, who attacks; may be traced.
      f: the declared number of faults, from which z follows by `little_is_enough_z`; None takes
        the number of liars.
      z: strength, if given instead; may be traced.
      direction: `"minus"` as in the paper's own code, or `"plus"` as in several libraries.
      ddof: 1 for the sample standard deviation, 0 for the population's.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, f is not below n, both f and z are given, or the
        direction is unknown.
      TypeError: f is not a Python int.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0], [2.0], [3.0], [9.0]])
      >>> byzantine = jnp.array([False, False, False, True])
      >>> attacks.little_is_enough(updates, byzantine, z=1.5)[3]
      Array([0.5], dtype=float32)

    Reference: Baruch, Baruch and Goldberg, A Little Is Enough: Circumventing Defenses For
    Distributed Learning, NeurIPS 2019 (arXiv:1902.06156).
    """
    byzantine = _rows.mask(updates, byzantine)
    one_of("direction", direction, ("minus", "plus"))
    n = stacked.num_workers(updates)
    if f is not None and z is not None:
        raise ValueError(f"little_is_enough takes f or z, not both; got f={f}, z={z}.")
    if f is not None and static_int("f", f) >= n:
        raise ValueError(f"little_is_enough needs f < n; got n={n}, f={f}.")
    if z is None:
        z = little_is_enough_z(n, jnp.sum(byzantine) if f is None else f)
    sign = -1 if direction == "minus" else 1
    mean = _rows.honest_mean(updates, byzantine)
    std = _rows.honest_std(updates, byzantine, mean, ddof)
    lie = jax.tree.map(lambda mu, sd: mu + sign * jnp.asarray(z, mu.dtype) * sd, mean, std)
    return _rows.replace(updates, byzantine, lie)


def gaussian(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    sigma: float = 200.0,
    key: jax.Array,
) -> PyTree:
    r"""Every liar sends noise of its own, $b_i \sim N(0, \sigma^2 I)$.

    Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, who attacks; may be traced.
      sigma: standard deviation of each coordinate; may be traced.
      key: a key of `jax.random.key`; the same key gives the same noise.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> noisy = attacks.gaussian(
      ...     jnp.zeros((3, 4)), jnp.array([True, True, False]), key=jax.random.key(0))
      >>> bool((noisy[0] != noisy[1]).all()), noisy[2]
      (True, Array([0., 0., 0., 0.], dtype=float32))

    Reference: Blanchard et al., NeurIPS 2017 (arXiv:1703.02757), section 6, with sigma = 200.
    """
    byzantine = _rows.mask(updates, byzantine)
    leaves, structure = jax.tree.flatten(updates)
    noise = [
        jnp.asarray(sigma, leaf.dtype) * jax.random.normal(k, leaf.shape, leaf.dtype)
        for k, leaf in zip(jax.random.split(key, len(leaves)), leaves)
    ]
    return _rows.replace(updates, byzantine, jax.tree.unflatten(structure, noise))
