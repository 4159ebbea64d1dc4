"""Small classifiers in Flax NNX, used through its functional API."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

Params = Any
"""A nested dict of arrays."""


class Model(NamedTuple):
    """A classifier as four pure functions.

    `init(key)` returns the parameters, a nested dict of arrays; it may be vmapped over keys.
    `apply(params, x)` maps images `[b, ...]` to logits `[b, num_classes]`.
    `loss(params, batch, key=None)` is the mean cross entropy of `batch = {"x", "y"}`.
    `accuracy(params, x, y)` is the share of samples whose largest logit is that of their label.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, jax.Array], jax.Array]
    loss: Callable[..., jax.Array]
    accuracy: Callable[[Params, jax.Array, jax.Array], jax.Array]


class Softmax(nnx.Module):
    """Softmax regression."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(math.prod(input_shape), num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images `[b, ...]` to logits `[b, num_classes]`."""
        return self.linear(x.reshape(x.shape[0], -1))


class MLP(nnx.Module):
    """One hidden layer of 100 rectified units."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(math.prod(input_shape), 100, rngs=rngs)
        self.linear = nnx.Linear(100, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images `[b, ...]` to logits `[b, num_classes]`."""
        return self.linear(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))


class Conv3x3(nnx.Module):
    """A 3 x 3 convolution with zero padding: what `nnx.Conv(cin, cout, (3, 3))` computes.

    Written as patches times a matrix. Per-worker gradients (vmap over the kernel) turn a
    convolution proper into a grouped one, which XLA runs slowly on CPU, but this into one
    batched product.
    """

    def __init__(self, cin: int, cout: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, cin, cout), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(cout, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[b, h, w, cin]` to `[b, h, w, cout]`."""
        kernel, bias = self.kernel[...], self.bias[...]
        h, w = x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
        patches = jnp.concatenate(shifted, axis=-1)  # [b, h, w, 9 cin], as the kernel's rows
        return patches @ kernel.reshape(-1, kernel.shape[-1]) + bias[None, None, None]


def max_pool(x: jax.Array) -> jax.Array:
    """Largest of each 2 x 2 block; an odd last row or column is left out.

    By reshaping, since the gradient of `nnx.max_pool` is a scatter.
    """
    b, h, w, c = x.shape
    blocks = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    return blocks.max(axis=(2, 4))


class CNN(nnx.Module):
    """Two 3 x 3 convolutions (16 and 32 channels), each rectified and pooled, and a dense layer."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs):
        h, w, channels = input_shape
        self.conv1 = Conv3x3(channels, 16, rngs=rngs)
        self.conv2 = Conv3x3(16, 32, rngs=rngs)
        self.linear = nnx.Linear((h // 4) * (w // 4) * 32, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images `[b, h, w, channels]` to logits `[b, num_classes]`."""
        x = max_pool(nnx.relu(self.conv1(x)))
        x = max_pool(nnx.relu(self.conv2(x)))
        return self.linear(x.reshape(x.shape[0], -1))


MODELS: dict[str, Callable[..., nnx.Module]] = {"softmax": Softmax, "mlp": MLP, "cnn": CNN}


def build(name: str, input_shape: tuple[int, ...], num_classes: int) -> Model:
    """Returns the model `name`, one of `MODELS`, for images of shape `[h, w, channels]`."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}.")

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return MODELS[name](tuple(input_shape), num_classes, rngs=rngs)

    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def init(key):
        return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), nnx.Param))

    def apply(params, x):
        return nnx.merge(graphdef, params)(x)

    def loss(params, batch, key=None):
        del key  # nothing here is random
        logits = apply(params, batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

    def accuracy(params, x, y):
        return jnp.mean(apply(params, x).argmax(axis=-1) == y)

    return Model(init, apply, loss, accuracy)
