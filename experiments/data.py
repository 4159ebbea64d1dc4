"""Data sets as plain arrays, what the workers hold of them, and batches.

`digits` comes with scikit-learn. `mnist`, `fashion_mnist` and `cifar10` come from TensorFlow
Datasets (TFDS), and nothing is fetched from the network unless `download=True`. `a9a`,
`mushrooms`, `spambase` and `w8a` are read from their text files.
"""

import dataclasses
import hashlib
import importlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import convex
from experiments.partitions import partition as partition

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TFDS_NAMES = ("mnist", "fashion_mnist", "cifar10")
NAMES = ("digits", *TFDS_NAMES, *convex.NAMES)
DESCRIPTIONS = {
    "digits": "1,797 images of 8 x 8, 10 classes; comes with scikit-learn",
    "mnist": "70,000 images of 28 x 28, 10 classes; through TFDS",
    "fashion_mnist": "70,000 images of 28 x 28, 10 classes; through TFDS",
    "cifar10": "60,000 images of 32 x 32 x 3, 10 classes; through TFDS",
    "a9a": "48,842 samples of 123 binary features, 2 classes; LIBSVM files",
    "mushrooms": "8,124 samples of 112 binary features, 2 classes; a LIBSVM file",
    "spambase": "4,601 samples of 57 features, 2 classes; a CSV file",
    "w8a": "49,749 samples of 300 binary features, 2 classes; a LIBSVM file",
}
"""One line about each data set."""

Array = jax.Array | np.ndarray
_Arrays = dict[str, Any]  # a NumPy array for each of:
_FIELDS = ("train_x", "train_y", "test_x", "test_y")
_CHUNK = 5000  # examples decoded at a time
_MAX_LINES = 30  # workers in a printed table


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set in memory.

    Images are float32 `[N, H, W, C]`, less the mean and divided by the standard deviation of the
    training pixels: one scalar for a data set of grey images, one per channel for cifar10.
    Features are float32 `[N, d]`: those of a9a, mushrooms and w8a are 0 and 1 and stay so, those
    of spambase are standardised, each by its training mean and standard deviation.
    Labels are int32 `[N]`.
    `checksum` is the start of the sha256 of the raw arrays (before the normalisation).
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    num_classes: int
    checksum: str


def load(name: str, *, data_dir: str | Path | None = None, download: bool = False) -> Dataset:
    """Returns the data set `name`, one of `NAMES`.

    TFDS's prepared data are looked for in `data_dir`, else in `$TFDS_DATA_DIR`, else in TFDS's own
    default, `~/tensorflow_datasets`. If they are missing, `download` fetches and prepares them,
    which needs TensorFlow.

    The files of a9a, mushrooms, spambase and w8a are looked for in `data_dir`, else in
    `$BYZJAX_DATA_DIR`, else in `~/.cache/byzjax/convex`; they are never downloaded.

    Raises:
      ValueError: the name is unknown, or a file is damaged.
      FileNotFoundError: the data are not prepared and `download` is false, or a file is missing.
      ImportError: TensorFlow is needed and cannot be imported.
    """
    if name == "digits":
        raw = _read_digits()
    elif name in TFDS_NAMES:
        raw = _read_cached(name, _prepared_folder(name, data_dir, download))
    elif name in convex.NAMES:
        raw = convex.read(name, data_dir)
        checksum = _checksum(raw)
        if name == "spambase":
            convex.standardize(raw)
        return Dataset(name=name, num_classes=2, checksum=checksum, **raw)
    else:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(NAMES)}.")
    return _finish(name, raw)


def _checksum(raw: _Arrays) -> str:
    digest = hashlib.sha256()
    for field in _FIELDS:
        digest.update(raw[field].tobytes())
    return digest.hexdigest()[:16]


def _finish(name: str, raw: _Arrays) -> Dataset:
    checksum = _checksum(raw)
    # Integer sums: exact, and without a float64 copy of the images (255**2 fits in uint16).
    train, axes = raw["train_x"], (0, 1, 2)
    count = train[..., 0].size
    mean = train.sum(axes, dtype=np.int64) / count
    squares = np.square(train, dtype=np.uint16).sum(axes, dtype=np.int64) / count
    mean, std = np.float32(mean), np.float32(np.sqrt(squares - mean**2))
    for field in ("train_x", "test_x"):
        raw[field] = raw[field] - mean
        raw[field] /= std
    num_classes = int(raw["train_y"].max()) + 1
    return Dataset(name=name, num_classes=num_classes, checksum=checksum, **raw)


def _read_digits() -> _Arrays:
    """The 1,797 images of 8 x 8 that scikit-learn carries: 1,437 to train, 360 to test."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    x, y = bunch["images"].astype(np.uint8)[..., None], bunch["target"].astype(np.int32)
    # The legacy generator, since its stream is frozen: the split is the same in every NumPy.
    order = np.random.RandomState(0).permutation(len(y))
    train, test = order[:1437], order[1437:]
    return {"train_x": x[train], "train_y": y[train], "test_x": x[test], "test_y": y[test]}


def _prepared_folder(name: str, data_dir: str | Path | None, download: bool) -> Path:
    """Returns `data_dir/name/version`, after downloading if it is missing and that is allowed."""
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = Path(data_dir).expanduser() / name

    def newest() -> Path | None:
        infos = root.glob("*/dataset_info.json")
        folders = [i.parent for i in infos if re.fullmatch(r"\d+\.\d+\.\d+", i.parent.name)]
        return max(folders, key=lambda f: [int(k) for k in f.name.split(".")], default=None)

    folder = newest()
    if folder is None and download:
        _require_tensorflow(f"downloading {name} into {root}")
        import tensorflow_datasets as tfds

        builder = tfds.builder(name, data_dir=str(root.parent))
        builder.download_and_prepare(file_format="array_record")
        folder = newest()
    if folder is None:
        raise FileNotFoundError(
            f"{name} is not prepared in {root}; set TFDS_DATA_DIR to the folder that has it,"
            " or allow the download: --download."
        )
    return folder


def _require_tensorflow(what: str) -> None:
    try:
        importlib.import_module("tensorflow")
    except ImportError as error:
        raise ImportError(f"{what} needs TensorFlow: pip install 'byzjax[download]'.") from error


def _read_cached(name: str, folder: Path) -> _Arrays:
    """Reads a prepared folder, or the arrays that an earlier call kept of it."""
    info = (folder / "dataset_info.json").read_bytes()
    key = f"{name}-{folder.name}-{hashlib.sha256(info).hexdigest()[:16]}.npz"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "byzjax" / key
    try:
        with np.load(cache) as arrays:
            return {field: arrays[field] for field in _FIELDS}
    except Exception:  # absent, or damaged in any way (zip checks its CRC)
        pass
    is_array_record = json.loads(info).get("fileFormat") == "array_record"
    read = _read_array_record if is_array_record else _read_tfrecord
    raw = {}
    for split in ("train", "test"):
        chunks = read(folder, split)
        raw[f"{split}_x"] = np.concatenate([x for x, _ in chunks])
        raw[f"{split}_y"] = np.concatenate([y for _, y in chunks]).astype(np.int32)
    _write_cache(cache, raw)
    return raw


def _read_array_record(folder: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    import tensorflow_datasets as tfds

    # From the folder itself: unlike `tfds.data_source`, this has no way to the network.
    source: Any = tfds.builder_from_directory(str(folder)).as_data_source(split=split)
    chunks = []
    for start in range(0, len(source), _CHUNK):
        rows = source.__getitems__(list(range(start, min(start + _CHUNK, len(source)))))
        chunks.append((np.stack([r["image"] for r in rows]), np.stack([r["label"] for r in rows])))
    return chunks


def _read_tfrecord(folder: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    _require_tensorflow(f"reading {folder}, which is in TFRecord form,")
    import tensorflow_datasets as tfds

    # One file at a time, so that the order is that of the files, as in array_record form.
    dataset = tfds.builder_from_directory(str(folder)).as_dataset(
        split=split, batch_size=_CHUNK, read_config=tfds.ReadConfig(interleave_cycle_length=1)
    )
    return [(batch["image"], batch["label"]) for batch in tfds.as_numpy(dataset)]


def _write_cache(path: Path, raw: _Arrays) -> None:
    """Writes the arrays in one step; a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            np.savez(Path(scratch) / path.name, **raw)
            os.replace(Path(scratch) / path.name, path)
    except OSError:
        pass


def label_histogram(
    labels: np.ndarray, parts: Sequence[np.ndarray], num_classes: int
) -> np.ndarray:
    """Counts the labels that each worker holds.

    Args:
      labels: `int[N]`, each in 0 .. `num_classes` - 1.
      parts: a partition, the indices of each of n workers.
      num_classes: C.

    Returns:
      `int[n, C]`.

    Raises:
      ValueError: a label is not below `num_classes`.
    """
    labels = np.asarray(labels)
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels must lie in 0 .. {num_classes - 1}; got {labels.min()} .. {labels.max()}."
        )
    counts = [np.bincount(labels[part], minlength=num_classes) for part in parts]
    return np.array(counts, int).reshape(len(parts), num_classes)


def describe(dataset: Dataset, parts: Sequence[np.ndarray]) -> str:
    """Returns a text table of the training labels that each worker holds, and their sums.

    One line for each of the first 30 workers; a line says how many more there are.
    """
    histogram = label_histogram(dataset.train_y, parts, dataset.num_classes)
    header = ["worker", *map(str, range(dataset.num_classes)), "total"]
    named = [(str(worker), counts) for worker, counts in enumerate(histogram[:_MAX_LINES])]
    named.append(("all", histogram.sum(axis=0)))
    rows = [header, *([name, *map(str, counts), str(counts.sum())] for name, counts in named)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths)) for row in rows]
    if len(parts) > _MAX_LINES:
        lines.insert(-1, f"... and {len(parts) - _MAX_LINES} more workers, which are not shown")
    shape = " x ".join(map(str, dataset.train_x.shape[1:]))
    samples = f"{len(dataset.train_y)} + {len(dataset.test_y)} samples of shape {shape}"
    return "\n".join([f"{dataset.name}: {samples}, {dataset.num_classes} classes", *lines])


def histogram_figure(histogram: np.ndarray, title: str) -> "Figure":
    """Draws a histogram of labels `[n, C]` as a heatmap, workers from left to right."""
    from matplotlib.figure import Figure  # only here: it takes a second to import
    from matplotlib.ticker import MaxNLocator

    n, classes = histogram.shape
    size = (2.5 + min(12.0, max(3.0, 0.4 * n)), 1.5 + min(12.0, max(1.0, 0.32 * classes)))
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(histogram.T, aspect="auto", origin="lower", cmap="Blues", vmin=0)
    figure.colorbar(image, ax=ax, label="training samples")
    if n <= _MAX_LINES and classes <= 10:
        middle = histogram.max() / 2
        for (worker, label), count in np.ndenumerate(histogram):
            color = "white" if count > middle else "black"
            text = str(count) if count else ""
            ax.text(worker, label, text, ha="center", va="center", fontsize=7, color=color)
    ax.set(title=title, xlabel="worker", ylabel="label")
    for axis, count in ((ax.xaxis, n), (ax.yaxis, classes)):
        axis.set_major_locator(MaxNLocator(min(count, 20), integer=True))
    return figure


def hold_out(dataset: Dataset, samples: int) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """The data set with fewer training samples, and those that were held out, `(x, y)`.

    Which ones is the same for all seeds. The checksum stays that of the whole.

    Raises:
      ValueError: nothing would be left to train on.
    """
    size = len(dataset.train_y)
    if not samples:
        return dataset, dataset.train_x[:0], dataset.train_y[:0]
    if samples >= size:
        raise ValueError(f"validation must be below the {size} training samples; got {samples}.")
    order = np.random.RandomState(0).permutation(size)
    held, rest = np.sort(order[:samples]), np.sort(order[samples:])
    x, y = dataset.train_x, dataset.train_y
    return dataclasses.replace(dataset, train_x=x[rest], train_y=y[rest]), x[held], y[held]


def pad_partition(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stacks a partition as `(indices int32 [n, max], sizes int32 [n])`, to live on the device.

    A shorter row is filled up with its own samples, over again.
    """
    sizes = np.array([len(part) for part in parts], np.int32)
    if not sizes.size or not sizes.all():
        raise ValueError(f"every worker needs at least one sample; got sizes {sizes.tolist()}.")
    return np.stack([np.resize(p, sizes.max()) for p in parts]).astype(np.int32), sizes


def sample_batch(
    key: jax.Array, indices: Array, sizes: Array, x: Array, y: Array, batch_size: int
) -> dict[str, jax.Array]:
    """Draws each worker's batch from its own samples, uniformly and with replacement.

    `indices` and `sizes` are those of `pad_partition`. Worker i draws from `fold_in(key, i)`.

    Returns:
      `{"x": [n, batch_size, ...], "y": [n, batch_size]}`.
    """

    def draw(worker, row, size):
        return row[jax.random.randint(jax.random.fold_in(key, worker), (batch_size,), 0, size)]

    sizes = jnp.asarray(sizes)
    chosen = jax.vmap(draw)(jnp.arange(sizes.shape[0]), jnp.asarray(indices), sizes)
    return {"x": jnp.asarray(x)[chosen], "y": jnp.asarray(y)[chosen]}
