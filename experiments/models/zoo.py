"""Classifiers and language models in Flax NNX, used through its functional API."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from experiments.models import initial, language
from experiments.models.layers import Conv, dropout, group_norm, max_pool
from experiments.models.lora import lora
from experiments.models.resnet import ResNet20
from experiments.text import names

Params = Any
"""A nested dict of arrays."""


class Model(NamedTuple):
    """A classifier as four pure functions.

    `init(key)` returns the parameters, a nested dict of arrays; it may be vmapped over keys.
    `apply(params, x)` maps images or features `[b, ...]` to logits `[b, num_classes]`, and windows
    of text `int[b, T]` to logits `[b, T, num_classes]`.
    `loss(params, batch, key=None)` is the mean cross entropy of `batch = {"x", "y"}`, in text over
    all characters; networks with dropout draw it from `key`, and apply none without a key.
    `accuracy(params, x, y)` is the share of samples, or of characters, whose largest logit is that
    of their label.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, jax.Array], jax.Array]
    loss: Callable[..., jax.Array]
    accuracy: Callable[[Params, jax.Array, jax.Array], jax.Array]


class Softmax(nnx.Module):
    """Softmax regression."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(math.prod(input_shape), num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Images or features `[b, ...]` to logits `[b, num_classes]`."""
        return self.linear(x.reshape(x.shape[0], -1))


class Logistic(nnx.Module):
    """Logistic regression for two classes: one weight vector and a bias."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs):
        del num_classes  # always two
        self.linear = nnx.Linear(math.prod(input_shape), 1, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Images or features `[b, ...]` to logits `[b, 2]`, which are (0, w.x + bias)."""
        logit = self.linear(x.reshape(x.shape[0], -1))
        return jnp.concatenate([jnp.zeros_like(logit), logit], axis=-1)


class MLP(nnx.Module):
    """One hidden layer of 100 ReLU units."""

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, units: int = 100, *, rngs: nnx.Rngs
    ):
        self.hidden = nnx.Linear(math.prod(input_shape), units, rngs=rngs)
        self.linear = nnx.Linear(units, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Images or features `[b, ...]` to logits `[b, num_classes]`."""
        return self.linear(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))


class CNN(nnx.Module):
    """Two 3 x 3 convolutions (16 and 32 channels), each with ReLU and pooling; a dense layer."""

    smallest: ClassVar[int] = 4

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs):
        h, w, channels = input_shape
        self.conv1 = Conv(channels, 16, rngs=rngs)
        self.conv2 = Conv(16, 32, rngs=rngs)
        self.linear = nnx.Linear((h // 4) * (w // 4) * 32, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Images `[b, h, w, channels]` to logits `[b, num_classes]`."""
        x = max_pool(nnx.relu(self.conv1(x)))
        x = max_pool(nnx.relu(self.conv2(x)))
        return self.linear(x.reshape(x.shape[0], -1))


class CNN5x5(nnx.Module):
    """Two 5 x 5 convolutions (20 and 50 channels), each with ReLU and pooling, then 500 units.

    conv 20 - relu - max pool 2 - conv 50 - relu - max pool 2 - dense 500 - relu - dense, no
    padding: `cnn_mnist` of ByzFL, for speed comparisons with it. 431,080 parameters for MNIST.
    """

    smallest: ClassVar[int] = 16

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs):
        h, w = (((side - 4) // 2 - 4) // 2 for side in input_shape[:2])
        self.conv1 = Conv(input_shape[2], 20, size=5, padding=0, rngs=rngs)
        self.conv2 = Conv(20, 50, size=5, padding=0, rngs=rngs)
        self.hidden = nnx.Linear(h * w * 50, 500, rngs=rngs)
        self.linear = nnx.Linear(500, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Images `[b, h, w, channels]` to logits `[b, num_classes]`."""
        x = max_pool(nnx.relu(self.conv1(x)))
        x = max_pool(nnx.relu(self.conv2(x)))
        x = nnx.relu(self.hidden(x.reshape(x.shape[0], -1)))
        return self.linear(x)


class LeNet(nnx.Module):
    """Two 5 x 5 convolutions (6 and 16 channels), each with ReLU and pooling; 120 and 84 units.

    conv 6 - relu - max pool 2 - conv 16 - relu - max pool 2 - dense 120 - relu - dense 84 - relu -
    dense, no padding, on images that are resized to 32 x 32 pixels: `lenet` of FLPoison, after
    LeCun, Bottou, Bengio and Haffner (Gradient-based learning applied to document recognition,
    1998). 61,706 parameters for MNIST.
    """

    smallest: ClassVar[int] = 1

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs):
        self.conv1 = Conv(input_shape[2], 6, size=5, padding=0, rngs=rngs)
        self.conv2 = Conv(6, 16, size=5, padding=0, rngs=rngs)
        self.hidden1 = nnx.Linear(5 * 5 * 16, 120, rngs=rngs)
        self.hidden2 = nnx.Linear(120, 84, rngs=rngs)
        self.linear = nnx.Linear(84, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Images `[b, h, w, channels]` to logits `[b, num_classes]`."""
        x = jax.image.resize(x, (x.shape[0], 32, 32, x.shape[3]), "linear")
        x = max_pool(nnx.relu(self.conv1(x)))
        x = max_pool(nnx.relu(self.conv2(x)))
        x = nnx.relu(self.hidden1(x.reshape(x.shape[0], -1)))
        return self.linear(nnx.relu(self.hidden2(x)))


class CNNMNIST(nnx.Module):
    """Two 3 x 3 convolutions (32 and 64 channels), pooled, then 128 units; with dropout.

    conv 32 - relu - conv 64 - relu - max pool 2 - dropout 1/4 - dense 128 - relu - dropout 1/2 -
    dense, no padding: PyTorch's MNIST example, used by Karimireddy, He and Jaggi (Byzantine-robust
    learning on heterogeneous datasets via bucketing, 2022). 1,199,882 parameters for MNIST.
    """

    smallest: ClassVar[int] = 6

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs):
        h, w, channels = input_shape
        self.conv1 = Conv(channels, 32, padding=0, rngs=rngs)
        self.conv2 = Conv(32, 64, padding=0, rngs=rngs)
        self.hidden = nnx.Linear(((h - 4) // 2) * ((w - 4) // 2) * 64, 128, rngs=rngs)
        self.linear = nnx.Linear(128, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Images `[b, h, w, channels]` to logits `[b, num_classes]`."""
        x = nnx.relu(self.conv1(x))
        x = max_pool(nnx.relu(self.conv2(x)))
        x = dropout(x, 0.25, key, 0).reshape(x.shape[0], -1)
        x = dropout(nnx.relu(self.hidden(x)), 0.5, key, 1)
        return self.linear(x)


class CNNCIFAR(nnx.Module):
    """Four 3 x 3 convolutions (64, 64, 128, 128 channels) with GroupNorm and dropout.

    (conv 64 - relu - norm) twice - max pool 2 - dropout 1/4 - (conv 128 - relu - norm) twice - max
    pool 2 - dropout 1/4 - dense 128 - relu - dropout 1/4 - dense; the hidden layer has 256 units
    for 100 classes or more. The network of El-Mhamdi, Guerraoui and Rouault (Distributed momentum
    for Byzantine-resilient stochastic gradient descent, 2021), with group normalization in place of
    batch normalization. 1,310,922 parameters for CIFAR-10.
    """

    smallest: ClassVar[int] = 4

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs):
        h, w, channels = input_shape
        units = 128 if num_classes < 100 else 256
        self.conv1 = Conv(channels, 64, rngs=rngs)
        self.norm1 = group_norm(64, rngs=rngs)
        self.conv2 = Conv(64, 64, rngs=rngs)
        self.norm2 = group_norm(64, rngs=rngs)
        self.conv3 = Conv(64, 128, rngs=rngs)
        self.norm3 = group_norm(128, rngs=rngs)
        self.conv4 = Conv(128, 128, rngs=rngs)
        self.norm4 = group_norm(128, rngs=rngs)
        self.hidden = nnx.Linear((h // 4) * (w // 4) * 128, units, rngs=rngs)
        self.linear = nnx.Linear(units, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Images `[b, h, w, channels]` to logits `[b, num_classes]`."""
        x = self.norm1(nnx.relu(self.conv1(x)))
        x = self.norm2(nnx.relu(self.conv2(x)))
        x = dropout(max_pool(x), 0.25, key, 0)
        x = self.norm3(nnx.relu(self.conv3(x)))
        x = self.norm4(nnx.relu(self.conv4(x)))
        x = dropout(max_pool(x), 0.25, key, 1).reshape(x.shape[0], -1)
        x = dropout(nnx.relu(self.hidden(x)), 0.25, key, 2)
        return self.linear(x)


MODELS: dict[str, Callable[..., nnx.Module]] = {
    "softmax": Softmax,
    "logistic": Logistic,
    "mlp": MLP,
    "cnn": CNN,
    "cnn_5x5": CNN5x5,
    "lenet": LeNet,
    "cnn_mnist": CNNMNIST,
    "cnn_cifar": CNNCIFAR,
    "resnet20": ResNet20,
    **language.MODELS,
}

CONVOLUTIONAL = ("cnn", "cnn_5x5", "lenet", "cnn_mnist", "cnn_cifar", "resnet20")
LANGUAGE = tuple(language.MODELS)
ONE_BY_ONE = (*CONVOLUTIONAL, *LANGUAGE)
"""On CPU the gradients of one worker after another take less time than those of all at once.

vmap over the weights makes a convolution grouped, which takes twice the time and twenty times the
memory (`layers.py`); of a language model, what one worker computes fits into the cache, and with
all of them it does not (`language.py`).
"""

DESCRIPTIONS: dict[str, str] = {
    name: (module.__doc__ or "").partition("\n")[0] for name, module in MODELS.items()
}
"""One line about each model."""


def build(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    text: bool = False,
    rank: int = 0,
    base: Params | None = None,
    init_as: str = "flax",
    **options: int,
) -> Model:
    """Returns the model `name`, one of `MODELS`.

    Args:
      name: name of the model.
      input_shape: shape of one sample: `[h, w, channels]`, `[d]` for features, `[T]` for text.
      num_classes: number of logits.
      text: whether samples are windows of T characters, which language models need.
      rank: of the adapters of all dense layers, which then are the only parameters (`lora`); 0 for
        none.
      base: trained weights to start from, as `init` of the model without adapters returns them;
        None to draw them, those beneath adapters from key 0.
      init_as: the distribution of the initial weights, one of `initial.INITS`; language models have
        their own.
      **options: of the network, such as `units` of `mlp`, the width of its hidden layer.

    Returns:
      The four functions.

    Raises:
      ValueError: the name is unknown, or the model does not support this kind of data, shape or
        number of classes.
    """
    if name not in MODELS:
        raise ValueError(names.unknown("model", name, MODELS))
    shape = tuple(input_shape)
    if text and name not in LANGUAGE:
        raise ValueError(
            f"{name} needs images or features; for text use {', '.join(LANGUAGE[:-1])} or "
            f"{LANGUAGE[-1]}."
        )
    if name in LANGUAGE and not text:
        raise ValueError(
            f"{name} needs text, such as tiny_shakespeare; got samples of shape {shape}."
        )
    smallest = getattr(MODELS[name], "smallest", None)  # a model without it takes any shape
    if smallest is not None and (len(shape) != 3 or min(shape[:2]) < smallest):
        raise ValueError(
            f"{name} needs images [h, w, channels] of at least {smallest} x {smallest} pixels; "
            f"got shape {shape}."
        )
    if name == "logistic" and num_classes != 2:
        raise ValueError(f"logistic needs num_classes = 2; got {num_classes}.")

    if init_as not in initial.INITS:
        raise ValueError(names.unknown("init", init_as, initial.INITS))
    if init_as == "torch" and (name in LANGUAGE or rank or base is not None):
        raise ValueError(f"init torch is for models of images and features; got {name}.")

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return MODELS[name](shape, num_classes, **options, rngs=rngs)

    graphdef, kind, fixed = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0)))), nnx.Param, []
    if rank:
        network = make(nnx.Rngs(0)) if base is None else nnx.merge(graphdef, base)
        kind = nnx.LoRAParam
        graphdef, _, *fixed = nnx.split(lora(network, rank, rngs=nnx.Rngs(0)), kind, ...)

    def init(key):
        if init_as == "torch":
            zeros = nnx.to_pure_dict(nnx.state(make(nnx.Rngs(0)), kind))
            return initial.like_torch(zeros, key)
        if rank:
            started = lora(make(nnx.Rngs(0)), rank, rngs=nnx.Rngs(key))
        elif base is not None:
            return jax.tree.map(jnp.array, base)
        else:
            started = make(nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(started, kind))

    def apply(params, x):
        return nnx.merge(graphdef, params, *fixed)(x)

    def loss(params, batch, key=None):
        logits = nnx.merge(graphdef, params, *fixed)(batch["x"], key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

    def accuracy(params, x, y):
        return jnp.mean(apply(params, x).argmax(axis=-1) == y)

    return Model(init, apply, loss, accuracy)


def size(model: Model) -> int:
    """The number of parameters of a model."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


class Evaluation(NamedTuple):
    """Metrics of a model on a data set.

    Attributes:
      accuracy: share of samples, or of characters, whose largest logit is that of their label.
      loss: mean cross entropy in nats, without dropout.
      per_class: the accuracy on each class, `[num_classes]`; NaN for a class without samples.
    """

    accuracy: jax.Array
    loss: jax.Array
    per_class: jax.Array


def evaluate(
    model: Model, params: Params, x: jax.Array, y: jax.Array, chunk: int = 100
) -> Evaluation:
    """`model.accuracy` and `model.loss` on a whole set, computed in chunks of `chunk` samples.

    All at once would take gigabytes: 1.3 MB per sample for `cnn_mnist`, 5 MB for `cnn_cifar`.

    Args:
      model: a result of `build`.
      params: its parameters.
      x: samples `[size, ...]`.
      y: their labels, `int[size]`, or `int[size, T]` for text.
      chunk: number of samples at a time; under vmap, per mapped element.

    Returns:
      Accuracy, loss, and the accuracy on each class.
    """

    def sums(samples):
        logits, labels = model.apply(params, samples[0]), samples[1].reshape(-1)
        logits = logits.reshape(labels.size, -1)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        of_class = labels[:, None] == jnp.arange(logits.shape[1])[None]
        right = of_class & (logits.argmax(axis=-1) == labels)[:, None]
        return jnp.sum(right, axis=0), jnp.sum(of_class, axis=0), jnp.sum(losses)

    whole = len(y) // chunk
    end = whole * chunk
    chunks = tuple(a[:end].reshape(whole, chunk, *a.shape[1:]) for a in (x, y))
    totals = jax.tree.map(lambda each: jnp.sum(each, axis=0), lax.map(sums, chunks))
    if end < len(y):
        totals = jax.tree.map(jnp.add, totals, sums((x[end:], y[end:])))
    right, count, losses = totals
    return Evaluation(jnp.sum(right) / y.size, losses / y.size, right / count)
