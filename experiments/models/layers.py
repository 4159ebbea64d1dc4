"""Layers of the convolutional networks, in forms that are fast under per-worker gradients on CPU.

Comments give the timings behind each choice (2 CPU cores, JAX 0.10.2). Images have the shape
`[b, h, w, channels]` throughout.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


class Conv(nnx.Module):
    """A square convolution, as `nnx.Conv(cin, cout, (3, 3), strides, padding=padding)`.

    Computed as patches times a matrix. Per-worker gradients (vmap over the kernel) turn a regular
    convolution into a grouped one, which XLA runs slowly on CPU, but this into a batched matrix
    product. The kernel is initialized as in flax.

    Args:
      cin: channels of the input.
      cout: channels of the output.
      size: kernel size, `size` x `size` pixels.
      stride: pixels between outputs.
      padding: zeros on all four sides of the image: for a 3 x 3 kernel and stride 1, 1 keeps the
        size (flax's "SAME"); 0 is flax's "VALID".
      use_bias: whether a bias is added.
      rngs: flax's random keys.
    """

    # Gradients of 25 workers with 32 images each, of `CNNMNIST` without dropout, whose second
    # convolution accounts for nine tenths of the arithmetic (55 GFLOP in all):
    #                                                  lax.map over workers    vmap
    #   patches times a matrix, as here                      0.31 s           0.67 s, 1.4 GB
    #   nine shifted products, added                         0.46 s
    #   three products, patches along one axis               0.62 s
    #   Winograd's F(2 x 2, 3 x 3), F(4 x 4, 3 x 3)          0.81 s, 2.6 s    4.5 s
    #   lax.conv_general_dilated                            14.7 s
    # The last is fast in the forward pass (no patches) and slow in the gradient of its kernel.

    def __init__(
        self,
        cin: int,
        cout: int,
        *,
        size: int = 3,
        stride: int = 1,
        padding: int = 1,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, cin, cout), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(cout, jnp.float32)) if use_bias else None
        self.size = size
        self.stride = stride
        self.padding = padding

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, cin]` to `[b, (h + 2 padding - size) // stride + 1, ..., cout]`."""
        kernel, step, pad, size = self.kernel[...], self.stride, self.padding, range(self.size)
        padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        h, w = (side + 1 - len(size) for side in padded.shape[1:3])  # of the output at stride 1
        shifted = [padded[:, i : i + h : step, j : j + w : step] for i in size for j in size]
        patches = jnp.concatenate(shifted, axis=-1)  # [b, ., ., size^2 cin], as the kernel's rows
        out = patches @ kernel.reshape(-1, kernel.shape[-1])
        return out if self.bias is None else out + self.bias[...][None, None, None]


def group_norm(channels: int, *, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Group normalization with 8 groups of channels (Wu and He, 2018).

    It replaces the batch normalization of the papers' networks, whose running statistics are not
    part of a gradient and would have to be aggregated as well.
    """
    # The variance from differences costs as much as E[x^2] - E[x]^2, without cancellation.
    return nnx.GroupNorm(channels, num_groups=8, use_fast_variance=False, rngs=rngs)


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum of each 2 x 2 block; an odd last row or column is dropped.

    Uses reshapes, since the gradient of `nnx.max_pool` is a scatter. The gradient goes to the first
    maximum, by the comparison that selected it: that of `jnp.max` searches for entries equal to the
    maximum, and is NaN if XLA recomputes them with different rounding.
    """
    b, h, w, c = x.shape
    blocks = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    rows = _larger(blocks[:, :, 0], blocks[:, :, 1])
    return _larger(rows[:, :, :, 0], rows[:, :, :, 1])


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def dropout(x: jax.Array, rate: float, key: jax.Array | None, place: int) -> jax.Array:
    """Zeroes each entry with probability `rate` and scales the others to keep the mean.

    Args:
      x: any array.
      rate: rounded to a multiple of 1/256.
      key: PRNG key of the whole network; None returns `x` unchanged.
      place: index of this dropout in the network; each draws independently.

    Returns:
      An array like `x`.
    """
    if key is None:
        return x
    threshold = round(256 * rate)
    # Four entries per random word: a third of the time of `bernoulli`.
    words = jax.random.bits(jax.random.fold_in(key, place), (-(-x.size // 4),), jnp.uint32)
    draws = lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: x.size].reshape(x.shape)
    return jnp.where(draws >= threshold, x * (256 / (256 - threshold)), jnp.zeros_like(x))
