"""Compressors that send few bits of each coordinate."""

import jax
import jax.numpy as jnp
import optax

from byzjax import _checks
from byzjax._checks import static_int
from byzjax._compiled import taught
from byzjax._numerics import arrays
from byzjax.compress._compressor import NUMBER, Compressor, on_vector
from byzjax.stacked import PyTree
from byzjax.transforms import KeyState


@taught
def quantize(bits: int, key: jax.Array) -> Compressor:
    r"""Rounds every coordinate at random to few levels of the norm (QSGD).

    $$ C(x)_j = \|x\| \operatorname{sign}(x_j) \frac{\xi_j}{s}, \qquad s = 2^{b - 1} - 1 $$

    where $\xi_j$ is one of the two integers next to $s |x_j| / \|x\|$, such that E[C(x)] = x. The
    expected squared error is at most $\min(d / s^2, \sqrt{d} / s) \|x\|^2$. The norm is that of
    the whole update, over all leaves. An update that is not finite becomes NaN.

    Bits: b d + 32, at a fixed length; the paper's code of variable length needs fewer.
    Requirement: none. Cost: O(d) time.

    Args:
      bits: b, bits per coordinate with its sign, a Python int from 2 to 16.
      key: initial key, `jax.random.key(...)`; under `per_worker` workers round independently.

    Returns:
      A compressor.

    Raises:
      TypeError: bits is not a Python int, or the key is not one.
      ValueError: bits is not between 2 and 16.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> compressor = byzjax.compress.quantize(2, jax.random.key(0))
      >>> params = jnp.zeros(2)
      >>> compressor.update(jnp.array([0.0, -3.0]), compressor.init(params))[0]
      Array([ 0., -3.], dtype=float32)

    Reference: Alistarh, Grubic, Li, Tomioka and Vojnovic, QSGD, NeurIPS 2017, section 3.1.
    """
    b = static_int("bits", bits, at_least=2)
    if b > 16:
        raise ValueError(f"quantize needs bits <= 16; got bits = {b}.")
    _checks.prng_key("key", key)
    levels = 2 ** (b - 1) - 1

    def init(params: PyTree) -> KeyState:
        del params
        return KeyState(arrays.copied(key))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        if not jax.tree.leaves(updates):
            return updates, state
        following, now = jax.random.split(state.key)

        def rounded(x: jax.Array) -> jax.Array:
            largest = jnp.max(jnp.abs(x), initial=0.0)
            scale = jnp.where(largest > 0, largest, 1)  # squares neither overflow nor vanish
            norm = jnp.sqrt(jnp.sum((x / scale) ** 2))
            part = jnp.abs(x / scale) / jnp.where(norm > 0, norm, 1) * levels
            level = jnp.floor(part + jax.random.uniform(now, x.shape, x.dtype))
            return jnp.sign(x) * (norm * jnp.minimum(level, levels) / levels) * scale

        return on_vector(rounded, updates), KeyState(following)

    def length(params: PyTree) -> int:
        d = optax.tree.size(params)
        return b * d + NUMBER if d else 0

    return Compressor(init, update, length)


@taught
def sign() -> Compressor:
    r"""Sends the signs and the mean magnitude.

    $$ C(x) = \frac{\|x\|_1}{d} \operatorname{sign}(x), \qquad
       \|C(x) - x\|^2 = \|x\|^2 - \|x\|_1^2 / d $$

    where the sign of 0 is 1, since a bit has two values. It is biased: use it within
    `error_feedback` or `ef21`. The mean is over all leaves of the update; an update that is not
    finite becomes infinite or NaN.

    Bits: d + 32.
    Requirement: none. Cost: O(d) time.

    Returns:
      A compressor.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> compressor = byzjax.compress.sign()
      >>> compressor.update(jnp.array([1.0, -4.0, 0.5, 2.5]), compressor.init(jnp.zeros(4)))[0]
      Array([ 2., -2.,  2.,  2.], dtype=float32)

    Reference: Karimireddy, Rebjock, Stich and Jaggi, Error Feedback Fixes SignSGD, ICML 2019.
    """

    def init(params: PyTree) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        if not jax.tree.leaves(updates):
            return updates, state

        def scaled(x: jax.Array) -> jax.Array:
            mean = jnp.sum(jnp.abs(x) / max(x.size, 1))
            return jnp.where(x < 0, -mean, mean)

        return on_vector(scaled, updates), state

    def bits(params: PyTree) -> int:
        d = optax.tree.size(params)
        return d + NUMBER if d else 0

    return Compressor(init, update, bits)
