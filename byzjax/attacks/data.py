"""Data poisoning: changes to the batches on which attackers compute honest gradients."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from byzjax._checks import one_of, static_int
from byzjax._compiled import compiled
from byzjax.attacks import _rows


def flip_labels(
    batch: Mapping[str, Any],
    byzantine: jax.Array,
    *,
    num_classes: int,
    label: str = "y",
    to: str = "reverse",
    source: int | None = None,
    target: int | None = None,
    key: jax.Array | None = None,
) -> dict[str, Any]:
    r"""Changes the attackers' labels: reversed, random, or one class replaced by another.

    $y \mapsto C - 1 - y$ (`"reverse"`); y uniform among the other C - 1 classes (`"random"`); the
    target where y is the source (`"target"`), or everywhere without a source. Cost: O(nb).

    Args:
      batch: the workers' batches, every leaf of shape `[n, b, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      num_classes: C, a Python int.
      label: the batch entry that holds the labels, integers in 0 .. C-1.
      to: `"reverse"`, `"random"` or `"target"`.
      source: the class to relabel, with `"target"`; None for all classes.
      target: the new class, with `"target"`.
      key: PRNG key for the labels, with `"random"`.

    Returns:
      A new dict; everything but the attackers' labels is unchanged.

    Raises:
      KeyError: the batch has no such entry.
      TypeError: num_classes, source or target is not a Python int.
      ValueError: `byzantine` does not match the labels, `to` is unknown, a class is out of range,
        or the target or the key is missing.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> batch = {"x": jnp.zeros((2, 3, 1)), "y": jnp.array([[0, 1, 9], [0, 1, 9]])}
      >>> byzantine = jnp.array([False, True])
      >>> attacks.flip_labels(batch, byzantine, num_classes=10)["y"]
      Array([[0, 1, 9],
             [9, 8, 0]], dtype=int32)
      >>> attacks.flip_labels(
      ...     batch, byzantine, num_classes=10, to="target", source=1, target=7)["y"][1]
      Array([0, 7, 9], dtype=int32)

    Reference: Tolpegin, Truex, Gursoy and Liu, Data Poisoning Attacks Against Federated Learning
    Systems, ESORICS 2020 (arXiv:2007.08432), for source and target; C - 1 - y is the usual form
    in the field.
    """
    y, byzantine = _labels(batch, byzantine, label)
    c = static_int("num_classes", num_classes, at_least=2)
    one_of("to", to, ("reverse", "random", "target"))
    if to == "random" and key is None:
        raise ValueError('flip_labels(to="random") needs a key.')
    if to == "target":
        if target is None:
            raise ValueError('flip_labels(to="target") needs a target.')
        target = _class("target", target, c)
        source = None if source is None else _class("source", source, c)
    key = key if to == "random" else None
    return {**batch, label: _flipped(y, byzantine, c, to, source, target, key)}


@compiled
def _flipped(
    y: jax.Array,
    byzantine: jax.Array,
    c: int,
    to: str,
    source: int | None,
    target: int | None,
    key: jax.Array | None,
) -> jax.Array:
    """The labels, those of attackers flipped as in `flip_labels`."""
    if to == "reverse":
        wrong = c - 1 - y
    elif key is not None:
        wrong = (y + jax.random.randint(key, y.shape, 1, c, y.dtype)) % c
    else:
        new = jnp.full_like(y, 0 if target is None else target)
        wrong = new if source is None else jnp.where(y == source, new, y)
    return _rows.replace(y, byzantine, wrong)


def shift_tokens(
    batch: Mapping[str, Any],
    byzantine: jax.Array,
    *,
    num_tokens: int,
    by: int | jax.Array = 1,
    label: str = "y",
) -> dict[str, Any]:
    r"""Shifts the tokens that the attackers' models are to predict, cyclically.

    $y \mapsto (y + k) \bmod V$: a language model learns to continue each text with the successors
    of the right tokens, a consistent mistake as label flipping is for images. The inputs stay
    unchanged. Cost: O(nb) for b labels each.

    Args:
      batch: the workers' batches, every leaf of shape `[n, b, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      num_tokens: V, a Python int.
      by: k, an integer of any sign; may be traced. With 0 nothing changes.
      label: the batch entry that holds the labels `[n, ...]`, integers in 0 .. V-1.

    Returns:
      A new dict; everything but the attackers' labels is unchanged.

    Raises:
      KeyError: the batch has no such entry.
      TypeError: num_tokens is not a Python int, or k is not an integer.
      ValueError: `byzantine` does not match the labels.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> batch = {"x": jnp.array([[5, 0], [5, 0]]), "y": jnp.array([[0, 9], [0, 9]])}
      >>> attacks.shift_tokens(batch, jnp.array([False, True]), num_tokens=10)["y"]
      Array([[0, 9],
             [1, 0]], dtype=int32)

    Reference: for text, in analogy to the label flipping of Tolpegin, Truex, Gursoy and Liu, Data
    Poisoning Attacks Against Federated Learning Systems, ESORICS 2020 (arXiv:2007.08432).
    """
    y, byzantine = _labels(batch, byzantine, label)
    by = jnp.asarray(by)
    if not jnp.issubdtype(by.dtype, jnp.integer):
        raise TypeError(f"shift_tokens needs an integer by; got {by.dtype}.")
    size = static_int("num_tokens", num_tokens, at_least=2)
    return {**batch, label: _shifted(y, byzantine, size, by)}


@compiled
def _shifted(y: jax.Array, byzantine: jax.Array, size: int, by: jax.Array) -> jax.Array:
    """The labels, those of attackers shifted as in `shift_tokens`."""
    wide = jnp.promote_types(y.dtype, jnp.int32)  # a small type might overflow
    wrong = (y.astype(wide) + by.astype(wide) % size) % size
    return _rows.replace(y, byzantine, wrong.astype(y.dtype))


def add_trigger(
    batch: Mapping[str, Any],
    byzantine: jax.Array,
    *,
    target: int,
    share: float = 0.5,
    size: int = 3,
    value: float = 1.0,
    image: str = "x",
    label: str = "y",
) -> dict[str, Any]:
    """A backdoor: adds a small bright square to attackers' images, with the target label.

    The first images of each attacker's batch get a square in the lower right corner. To measure
    the success of the backdoor, call this on test images with `share=1.0`. Cost: a copy of the
    images.

    Args:
      batch: the workers' batches; images `[n, b, height, width]`, or with trailing channels.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      target: the label of images with the trigger, a Python int.
      share: fraction of each batch that gets it, rounded to whole images; a Python number.
      size: side of the square in pixels, a Python int.
      value: value of its pixels; may be traced.
      image: the batch entry that holds the images.
      label: the entry that holds the labels.

    Returns:
      A new dict; everything but those images and labels is unchanged.

    Raises:
      KeyError: the batch has no such entry.
      TypeError: target or size is not a Python int.
      ValueError: `byzantine` does not match the labels, the images have too few dimensions or
        are smaller than the square, or the share is not between 0 and 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> batch = {"x": jnp.zeros((1, 2, 3, 3)), "y": jnp.array([[4, 5]])}
      >>> out = attacks.add_trigger(batch, jnp.array([True]), target=0, size=1)
      >>> out["x"][0, 0, 2], out["y"]
      (Array([0., 0., 1.], dtype=float32), Array([[0, 5]], dtype=int32))

    Reference: Gu, Dolan-Gavitt and Garg, BadNets: Identifying Vulnerabilities in the Machine
    Learning Model Supply Chain, 2017 (arXiv:1708.06733).
    """
    y, byzantine = _labels(batch, byzantine, label)
    x = _entry(batch, image)
    target, size = static_int("target", target), static_int("size", size, at_least=1)
    if not 0 <= share <= 1:
        raise ValueError(f"add_trigger needs a share from 0 to 1; got share={share}.")
    if x.ndim < 4 or min(x.shape[2:4]) < size:
        raise ValueError(
            f"add_trigger needs images [n, b, height >= {size}, width >= {size}]; got {x.shape}."
        )
    count = round(share * x.shape[1])
    x, y = _marked(x, y, byzantine, count, ((-size, -size, size, size),), target, value)
    return {**batch, image: x, label: y}


def distributed_trigger(
    batch: Mapping[str, Any],
    byzantine: jax.Array,
    *,
    target: int,
    share: float = 0.5,
    size: int = 3,
    gap: int = 1,
    place: int = 0,
    value: float = 1.0,
    whole: bool = False,
    image: str = "x",
    label: str = "y",
) -> dict[str, Any]:
    """A backdoor whose trigger is split: each attacker adds one of four bright bars (DBA).

    The whole trigger consists of two rows of two bars, each one pixel high, near the upper left
    corner. The first images of the batch of the attackers with numbers 0, 4, 8, ... get the first
    bar, those of 1, 5, 9, ... the second, and so on, all with the target label. To measure the
    success of the backdoor, call this on test images with `share=1.0, whole=True`. Cost: a copy of
    the images.

    Args:
      batch: the workers' batches; images `[n, b, height, width]`, or with trailing channels.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      target: the label of images with the trigger, a Python int.
      share: fraction of each batch that gets it, rounded to whole images; a Python number.
      size: length of a bar in pixels, a Python int.
      gap: pixels between the two rows, and between the bars of a row; a Python int.
      place: distance of the trigger from the upper and from the left edge, a Python int.
      value: value of its pixels; may be traced.
      whole: whether every attacker adds all four bars.
      image: the batch entry that holds the images.
      label: the entry that holds the labels.

    Returns:
      A new dict; everything but those images and labels is unchanged.

    Raises:
      KeyError: the batch has no such entry.
      TypeError: target, size, gap or place is not a Python int.
      ValueError: `byzantine` does not match the labels, the images have too few dimensions or
        are smaller than the trigger, or the share is not between 0 and 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> batch = {"x": jnp.zeros((2, 1, 3, 5), int), "y": jnp.array([[4], [5]])}
      >>> out = attacks.distributed_trigger(
      ...     batch, jnp.array([True, True]), target=0, share=1.0, size=2)
      >>> out["x"][:, 0, 0], out["y"][:, 0]
      (Array([[1, 1, 0, 0, 0],
             [0, 0, 0, 1, 1]], dtype=int32), Array([0, 0], dtype=int32))

    Reference: Xie, Huang, Chen and Li, DBA: Distributed Backdoor Attacks against Federated
    Learning, ICLR 2020, with size 4 and gap 2 on MNIST, 6 and 3 on CIFAR-10.
    """
    y, byzantine = _labels(batch, byzantine, label)
    x = _entry(batch, image)
    target, size = static_int("target", target), static_int("size", size, at_least=1)
    gap, place = static_int("gap", gap), static_int("place", place)
    if not 0 <= share <= 1:
        raise ValueError(f"distributed_trigger needs a share from 0 to 1; got share={share}.")
    height, width = place + gap + 2, place + gap + 2 * size
    if x.ndim < 4 or x.shape[2] < height or x.shape[3] < width:
        raise ValueError(
            f"distributed_trigger needs images [n, b, height >= {height}, width >= {width}]; got "
            f"{x.shape}."
        )
    rows, columns = (place, place + 1 + gap), (place, place + size + gap)
    bars = tuple((row, column, 1, size) for row in rows for column in columns)
    count = round(share * x.shape[1])
    x, y = _marked(x, y, byzantine, count, bars, target, value, whole)
    return {**batch, image: x, label: y}


@compiled
def _marked(
    x: jax.Array,
    y: jax.Array,
    byzantine: jax.Array,
    count: int,
    parts: tuple[tuple[int, int, int, int], ...],
    target: int,
    value: float,
    whole: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Images and labels; the first `count` of each attacker with its part and the target label.

    Args:
      x: the images.
      y: their labels.
      byzantine: `bool[n]`.
      count: number of images of each attacker.
      parts: row, column, height and width of the rectangles of the trigger.
      target: the label.
      value: of the pixels.
      whole: whether every attacker adds all parts, and not one, in turn.
    """
    places = jnp.zeros((len(parts), *x.shape[2:4]), bool)
    for i, (row, column, height, width) in enumerate(parts):
        row, column = row % x.shape[2], column % x.shape[3]
        places = places.at[i, row : row + height, column : column + width].set(True)
    turn = (jnp.cumsum(byzantine, dtype=jnp.int32) - 1) % len(parts)
    pixels = jnp.any(places, axis=0, keepdims=True) if whole else places[turn]
    first = jnp.arange(x.shape[1]) < count
    inside = first[None, :, None, None] & pixels[:, None]
    inside = inside.reshape(*inside.shape, *[1] * (x.ndim - 4))
    marked = jnp.where(inside, jnp.asarray(value, x.dtype), x)
    named = jnp.where(first[None], jnp.full_like(y, target), y)
    return _rows.replace(x, byzantine, marked), _rows.replace(y, byzantine, named)


def _labels(
    batch: Mapping[str, Any], byzantine: jax.Array, label: str
) -> tuple[jax.Array, jax.Array]:
    y, byzantine = _entry(batch, label), jnp.asarray(byzantine)
    if byzantine.shape != y.shape[:1]:
        raise ValueError(
            f"byzantine has shape {byzantine.shape}; labels of shape {y.shape} need {y.shape[:1]}."
        )
    return y, byzantine


def _entry(batch: Mapping[str, Any], name: str) -> jax.Array:
    if name not in batch:
        raise KeyError(f"the batch has no entry {name!r}; it has {', '.join(map(str, batch))}.")
    return jnp.asarray(batch[name])


def _class(name: str, value: int, num_classes: int) -> int:
    value = static_int(name, value)
    if value >= num_classes:
        raise ValueError(f"flip_labels needs {name} < {num_classes}; got {name}={value}.")
    return value
