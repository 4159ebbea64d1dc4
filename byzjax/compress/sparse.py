"""Compressors that send some of the coordinates."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from byzjax import _checks
from byzjax._compiled import taught
from byzjax._numerics import arrays
from byzjax._numerics.largest import largest
from byzjax.compress._compressor import NUMBER, Compressor, on_vector
from byzjax.stacked import PyTree
from byzjax.transforms import KeyState


def _count(name: str, k: int | float, d: int) -> int:
    """The number of coordinates: k itself, or a part of all d, at least one."""
    if isinstance(k, int):
        if k > d > 0:
            raise ValueError(f"{name} needs k <= d coordinates; got k = {k}, d = {d}.")
        return k
    return max(1, math.ceil(k * d))


def _check_k(name: str, k: Any) -> None:
    if isinstance(k, bool) or not isinstance(k, int | float):
        raise TypeError(f"{name} needs k, a Python int or a float; got {type(k).__name__}.")
    if isinstance(k, int) and k < 1:
        raise ValueError(f"{name} needs k >= 1 coordinates; got k = {k}.")
    if isinstance(k, float) and not 0 < k <= 1:
        raise ValueError(f"{name} needs a part 0 < k <= 1.0 of the coordinates; got k = {k}.")


@taught
def top_k(k: int | float) -> Compressor:
    r"""Sends the k coordinates of largest magnitude.

    $$ C(x)_j = x_j \text{ if } |x_j| \text{ is one of the k largest, else } 0, \qquad
       \|C(x) - x\|^2 \le (1 - k / d) \|x\|^2 $$

    Of equal magnitudes the first are sent; NaN counts as larger than infinity. It is biased: use
    it within `error_feedback` or `ef21`. Across all leaves of the update together.

    Bits: k (32 + ⌈log2 d⌉), a number and its index each.
    Requirement: none. Cost: O(d) time, 33 passes over the magnitudes.

    Args:
      k: an int, the number of coordinates; or a float, the part of all coordinates, rounded up.

    Returns:
      A compressor.

    Raises:
      TypeError: k is neither a Python int nor a float.
      ValueError: k < 1, or as a float not in (0, 1]; or the model has fewer than k coordinates.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> compressor = byzjax.compress.top_k(2)
      >>> params = jnp.zeros(4)
      >>> compressor.update(jnp.array([1.0, -4.0, 0.5, 2.0]), compressor.init(params))[0]
      Array([ 0., -4.,  0.,  2.], dtype=float32)
      >>> compressor.bits(params)
      68

    Reference: Stich, Cordonnier and Jaggi, Sparsified SGD with Memory, NeurIPS 2018, section 2.
    """
    _check_k("top_k", k)

    def init(params: PyTree) -> optax.EmptyState:
        _count("top_k", k, optax.tree.size(params))
        return optax.EmptyState()

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        if not jax.tree.leaves(updates):
            return updates, state
        count = _count("top_k", k, optax.tree.size(updates))
        return on_vector(lambda x: jnp.where(largest(x, count), x, 0), updates), state

    def bits(params: PyTree) -> int:
        d = optax.tree.size(params)
        return _count("top_k", k, d) * (NUMBER + (d - 1).bit_length()) if d else 0

    return Compressor(init, update, bits)


@taught
def rand_k(
    k: int | float, key: jax.Array, *, shared: bool = False, unbiased: bool = True
) -> Compressor:
    r"""Sends k coordinates drawn at random.

    $$ C(x)_j = \frac{d}{k} x_j \text{ if j is drawn, else } 0, \qquad
       E[C(x)] = x, \quad E\|C(x) - x\|^2 = (d / k - 1) \|x\|^2 $$

    Draws are without replacement, from all leaves together. With `shared`, all workers under
    `per_worker` send the same coordinates: then a rule compares what honest workers sent, and not
    where (RoSDHB); all of them must take part in every step, since an absent worker's key stands
    still. Without it they are drawn by each worker.

    Bits: 32 k, and 64 for the key of a worker's own draw.
    Requirement: none. Cost: O(d) time, 33 passes over d random numbers.

    Args:
      k: an int, the number of coordinates; or a float, the part of all coordinates, rounded up.
      key: initial key, `jax.random.key(...)`.
      shared: whether the coordinates are the same for all workers.
      unbiased: whether what is sent is multiplied by d / k; not within `error_feedback` or `ef21`.

    Returns:
      A compressor.

    Raises:
      TypeError: k is neither a Python int nor a float, or the key is not one.
      ValueError: k < 1, or as a float not in (0, 1]; or the model has fewer than k coordinates.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> compressor = byzjax.compress.rand_k(2, jax.random.key(0))
      >>> out, _ = compressor.update(jnp.ones(4), compressor.init(jnp.zeros(4)))
      >>> sorted(out.tolist())
      [0.0, 0.0, 2.0, 2.0]

    Reference: Stich, Cordonnier and Jaggi, Sparsified SGD with Memory, NeurIPS 2018, section 2;
    shared coordinates under attack: Gupta, Honsell, Xu, Gupta and Neglia, AISTATS 2026.
    """
    _check_k("rand_k", k)
    _checks.prng_key("key", key)
    typed = jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)

    def init(params: PyTree) -> KeyState:
        _count("rand_k", k, optax.tree.size(params))
        # per_worker gives each worker a typed key of its own, and leaves numbers as they are.
        return KeyState(arrays.copied(jax.random.key_data(key) if shared and typed else key))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        if not jax.tree.leaves(updates):
            return updates, state
        d = optax.tree.size(updates)
        count = _count("rand_k", k, d)
        now = state.key
        if shared and typed:
            now = jax.random.wrap_key_data(now, impl=jax.random.key_impl(key))
        following, now = jax.random.split(now)
        drawn = largest(jax.random.uniform(now, (d,)), count)
        scale = d / count if unbiased else 1.0
        if shared and typed:
            following = jax.random.key_data(following)
        sent = on_vector(lambda x: jnp.where(drawn, x * scale, 0), updates)
        return sent, KeyState(following)

    def bits(params: PyTree) -> int:
        d = optax.tree.size(params)
        return _count("rand_k", k, d) * NUMBER + (0 if shared else 2 * NUMBER) if d else 0

    return Compressor(init, update, bits)
