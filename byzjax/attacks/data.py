"""Data poisoning: functions of the batch from which a liar computes an honest gradient."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from byzjax._checks import static_int
from byzjax.attacks import _rows


def flip_labels(
    batch: Mapping[str, Any], byzantine: jax.Array, *, num_classes: int, label: str = "y"
) -> dict[str, Any]:
    r"""The liars' labels turned round, $y \mapsto C - 1 - y$.

    Args:
      batch: the workers' batches, every leaf of shape `[n, b, ...]`.
      byzantine: `bool[n]`, who attacks; may be traced.
      num_classes: C, a Python int.
      label: the entry of the batch that holds the labels, integers in 0 .. C-1.

    Returns:
      A new dict; everything but the liars' labels is unchanged.

    Raises:
      KeyError: the batch has no such entry.
      TypeError: num_classes is not a Python int.
      ValueError: `byzantine` does not fit the labels.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> batch = {"x": jnp.zeros((2, 3, 1)), "y": jnp.array([[0, 1, 9], [0, 1, 9]])}
      >>> attacks.flip_labels(batch, jnp.array([False, True]), num_classes=10)["y"]
      Array([[0, 1, 9],
             [9, 8, 0]], dtype=int32)

    Reference: Tolpegin, Truex, Gursoy and Liu, Data Poisoning Attacks Against Federated Learning
    Systems, ESORICS 2020 (arXiv:2007.08432), for the idea; C - 1 - y is the field's usual form.
    """
    if label not in batch:
        raise KeyError(f"the batch has no entry {label!r}; it has {', '.join(map(str, batch))}.")
    num_classes = static_int("num_classes", num_classes, at_least=2)
    y, byzantine = jnp.asarray(batch[label]), jnp.asarray(byzantine)
    if byzantine.shape != y.shape[:1]:
        raise ValueError(
            f"byzantine has shape {byzantine.shape}; labels of shape {y.shape} need {y.shape[:1]}."
        )
    return {**batch, label: _rows.replace(y, byzantine, num_classes - 1 - y)}
