"""Language models of characters: small GPTs in Flax NNX.

Comments give the timings behind each choice: gradients of 16 workers with 8 windows of 64
characters each, `GPTNano`, 10 GFLOP in all, JAX 0.10.2, on 2 CPU cores that other processes used
as well, so only times of one comment can be compared. One worker after another they take 0.74 s
and 17 MiB, under vmap over the workers 1.03 s and 324 MiB; from a model of each worker's own, as
after local steps, 0.69 s and 1.44 s.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

_STD = 0.02  # of the initial weights


def _linear(rows: int, columns: int, std: float, rngs: nnx.Rngs) -> nnx.Linear:
    init = nnx.initializers.normal(std)
    return nnx.Linear(rows, columns, use_bias=False, kernel_init=init, rngs=rngs)


def _norm(width: int, rngs: nnx.Rngs) -> nnx.RMSNorm:
    # 0.88 s, and 7 s to compile; with LayerNorm 1.15 s and 13 s.
    return nnx.RMSNorm(width, use_fast_variance=False, rngs=rngs)


class Block(nnx.Module):
    """Causal self-attention, then two dense layers; each normalized, and beside an identity.

    Args:
      width: d.
      heads: number of heads, of d / heads entries each.
      std: standard deviation of the initial weights of the layers that are added to the identity.
      rngs: flax's random keys.
    """

    def __init__(self, width: int, heads: int, std: float, *, rngs: nnx.Rngs):
        self.norm1 = _norm(width, rngs)
        self.qkv = _linear(width, 3 * width, _STD, rngs)
        self.out = _linear(width, width, std, rngs)
        self.norm2 = _norm(width, rngs)
        self.up = _linear(width, 4 * width, _STD, rngs)
        self.down = _linear(4 * width, width, std, rngs)
        self.heads = heads

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, T, d]` to `[b, T, d]`; position t depends on the positions up to t."""
        b, length, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(b, length, 3, self.heads, width // self.heads)
        q, k, v = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
        # 0.84 s in all under vmap, as with products of matrices [T, d / heads] and an additive mask
        # (0.83 s); with einsum and `where` 1.59 s.
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.reshape(x.shape))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class GPT(nnx.Module):
    r"""A causal transformer of characters, with learned positions and without dropout.

    From $h_0 = E_x + P$ each block computes $h \leftarrow h + \mathrm{attention}(\mathrm{norm}(h))$
    and $h \leftarrow h + W_2\, \mathrm{gelu}(W_1\, \mathrm{norm}(h))$; the logits are
    $\mathrm{norm}(h) E^\top$. The architecture is that of Radford, Wu, Child, Luan, Amodei and
    Sutskever (Language Models are Unsupervised Multitask Learners, 2019, section 2.3), without
    biases, and with the normalization of Zhang and Sennrich (Root Mean Square Layer Normalization,
    2019) in place of LayerNorm. Weights start from N(0, 0.02^2), those of the layers that are added
    to the identity divided by the square root of their number.

    Args:
      input_shape: `(T,)`, the length of a window.
      num_classes: V, the number of characters.
      tied: whether the last layer shares its weights with the embedding (Press and Wolf, 2017).
      rngs: flax's random keys.
    """

    layers: ClassVar[int]
    width: ClassVar[int]
    heads: ClassVar[int]

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, tied: bool = True, *, rngs: nnx.Rngs
    ):
        (length,), width = input_shape, self.width
        init = nnx.initializers.normal(_STD)
        self.tokens = nnx.Param(init(rngs.params(), (num_classes, width), jnp.float32))
        self.positions = nnx.Param(init(rngs.params(), (length, width), jnp.float32))
        for i in range(self.layers):
            std = _STD / math.sqrt(2 * self.layers)
            setattr(self, f"block{i}", Block(width, self.heads, std, rngs=rngs))
        self.norm = _norm(width, rngs)
        self.head = None if tied else _linear(width, num_classes, _STD, rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Characters `int[b, T]` to the logits `[b, T, V]` of those that follow each of them."""
        h = self.tokens[...][x] + self.positions[...][None, : x.shape[1]]
        for i in range(self.layers):
            h = getattr(self, f"block{i}")(h)
        h = self.norm(h)
        return h @ self.tokens[...].T if self.head is None else self.head(h)


class GPTNano(GPT):
    """GPT of 4 layers, 4 heads and width 64; 0.2 million parameters.

    205,440 parameters for 65 characters and windows of 64.
    """

    layers, width, heads = 4, 64, 4


class GPTMicro(GPT):
    """GPT of 4 layers, 4 heads and width 128; 0.8 million parameters.

    The size that nanoGPT recommends for a CPU (Karpathy, 2022): 804,096 parameters for 65
    characters and windows of 64.
    """

    layers, width, heads = 4, 128, 4


class GPTMini(GPT):
    """GPT of 6 layers, 6 heads and width 384; 10.7 million parameters.

    The size of nanoGPT's `train_shakespeare_char` (Karpathy, 2022): 10,671,360 parameters for 65
    characters and windows of 64.
    """

    layers, width, heads = 6, 384, 6


MODELS: dict[str, type[GPT]] = {"gpt_nano": GPTNano, "gpt_micro": GPTMicro, "gpt_mini": GPTMini}
"""The language models, which take text and nothing else."""
