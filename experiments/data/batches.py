"""Batches of each worker's own samples, and held-out samples."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.datasets import Array, Dataset


def hold_out(dataset: Dataset, samples: int) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """The data set without the held-out training samples, and these samples, `(x, y)`.

    The split is the same for all seeds. The checksum stays that of the whole data set.

    Raises:
      ValueError: no samples would be left for training.
    """
    size = len(dataset.train_y)
    if not samples:
        return dataset, dataset.train_x[:0], dataset.train_y[:0]
    check_hold_out(size, samples)
    order = np.random.RandomState(0).permutation(size)
    held, rest = np.sort(order[:samples]), np.sort(order[samples:])
    x, y = dataset.train_x, dataset.train_y
    return dataclasses.replace(dataset, train_x=x[rest], train_y=y[rest]), x[held], y[held]


def check_hold_out(size: int, samples: int) -> None:
    """Raises a `ValueError` if no samples would be left for training."""
    if samples >= size:
        raise ValueError(f"validation must be below the {size} training samples; got {samples}.")


def pad_partition(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stacks a partition as `(indices int32 [n, max], sizes int32 [n])`, to be kept on the device.

    A shorter row is padded by repeating its own samples.
    """
    sizes = np.array([len(part) for part in parts], np.int32)
    if not sizes.size or not sizes.all():
        raise ValueError(f"every worker needs at least one sample; got sizes {sizes.tolist()}.")
    return np.stack([np.resize(p, sizes.max()) for p in parts]).astype(np.int32), sizes


def equal_shares(indices: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first m samples of each worker, m the number that all of them have.

    Args:
      indices: those of `pad_partition`.
      sizes: likewise.

    Returns:
      `(indices int32 [n, m], sizes int32 [n])`.

    Raises:
      ValueError: the numbers of samples differ by more than one.
    """
    few, many = sizes.min(), sizes.max()
    if many - few > 1:
        raise ValueError(
            "variance_reduced needs workers with equally many samples; this partition gives them "
            f"{few} to {many}. Expected another one, such as iid or sorted."
        )
    return indices[:, :few], np.full_like(sizes, few)


def check_sizes(sizes: np.ndarray, batch_size: int) -> None:
    """Raises a `ValueError` if a worker has too few samples for a batch without replacement."""
    if sizes.min() < batch_size:
        raise ValueError(
            "with noise_multiplier, batches are drawn without replacement, so batch_size must be "
            f"at most the {sizes.min()} samples of worker {sizes.argmin()}; got {batch_size}."
        )


def sample_batch(
    key: jax.Array,
    indices: Array,
    sizes: Array,
    x: Array,
    y: Array,
    batch_size: int,
    replace: bool = True,
) -> dict[str, jax.Array]:
    """Draws each worker's batch from its own samples, uniformly, with or without replacement.

    `indices` and `sizes` are those of `pad_partition`. Worker i draws from `fold_in(key, i)`.
    Without replacement, every worker must have `batch_size` samples: see `check_sizes`.

    Returns:
      `{"x": [n, batch_size, ...], "y": [n, batch_size]}`; of text, y as x.
    """

    def different(worker, row, size):
        places = jnp.arange(row.shape[0])
        drawn = jax.random.uniform(jax.random.fold_in(key, worker), places.shape)
        _, chosen = jax.lax.top_k(jnp.where(places < size, drawn, -1), batch_size)
        return row[chosen]

    def draw(worker, row, size):
        if not replace:
            return different(worker, row, size)
        return row[jax.random.randint(jax.random.fold_in(key, worker), (batch_size,), 0, size)]

    sizes = jnp.asarray(sizes)
    chosen = jax.vmap(draw)(jnp.arange(sizes.shape[0]), jnp.asarray(indices), sizes)
    return {"x": jnp.asarray(x)[chosen], "y": jnp.asarray(y)[chosen]}
