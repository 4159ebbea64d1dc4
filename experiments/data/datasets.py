"""Data sets as plain arrays.

`digits` comes with scikit-learn. `mnist`, `fashion_mnist`, `cifar10` and the text
`tiny_shakespeare`, of which two data sets are parts, come from TensorFlow Datasets (TFDS), and
nothing is fetched from the network unless `download=True`. `a9a`, `mushrooms`,
`spambase` and `w8a` are read from their text files.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data import convex, language, prepared
from experiments.data.prepared import FIELDS, Arrays
from experiments.text import names

Array = jax.Array | np.ndarray


class Outline(NamedTuple):
    """What the blocks of a study depend on, known without the data themselves.

    Attributes:
      shape: of one sample.
      num_classes: number of classes.
      sizes: the numbers of samples for training and for testing.
      checksum: as in `Dataset`.
      vocabulary: as in `Dataset`.
    """

    shape: tuple[int, ...]
    num_classes: int
    sizes: tuple[int, int]
    checksum: str
    vocabulary: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set in memory.

    Images are float32 `[N, H, W, C]`, normalised by the mean and standard deviation of the training
    pixels: one scalar for greyscale images, one per channel for cifar10.
    Features are float32 `[N, d]`: those of a9a, mushrooms and w8a are 0 and 1 and stay unchanged,
    those of spambase are standardised, each by its training mean and standard deviation.
    Labels are int32 `[N]`.
    Of a text, samples are windows of characters, int32 `[N, T]` in the order of the text, and so
    are their labels, the characters that follow; both count from 0 in `vocabulary`, which is empty
    for all other data.
    `checksum` is the start of the sha256 of the raw arrays (before the normalisation).
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    num_classes: int
    checksum: str
    vocabulary: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.train_x.shape[1:]

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of samples for training and for testing."""
        return len(self.train_y), len(self.test_y)

    @property
    def outline(self) -> Outline:
        """What is known of these data without their arrays."""
        return Outline(self.shape, self.num_classes, self.sizes, self.checksum, self.vocabulary)


_SHAKESPEARE = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

OUTLINES = {
    "digits": Outline((8, 8, 1), 10, (1437, 360), "f618bea623765e9b"),
    "mnist": Outline((28, 28, 1), 10, (60_000, 10_000), "bd58c4704eea5663"),
    "fashion_mnist": Outline((28, 28, 1), 10, (60_000, 10_000), "75ab27f0b83cfe1c"),
    "cifar10": Outline((32, 32, 3), 10, (50_000, 10_000), "902bd0ce8e144b70"),
    "a9a": Outline((123,), 2, (32_561, 16_281), "c980176fbb6aba9c"),
    "mushrooms": Outline((112,), 2, (6499, 1625), "bd48fe28ae8b3733"),
    "spambase": Outline((57,), 2, (3680, 921), "f7e056cd76b491f6"),
    "w8a": Outline((300,), 2, (39_799, 9950), "4779673c0a73902c"),
    "tiny_shakespeare": Outline((64,), 65, (15_685, 1742), "25c17a49e3e06b9b", _SHAKESPEARE),
    "shakespeare_first_six": Outline(
        *((64,), 65, (11_899, 1322), "97e78295f8d83b61", _SHAKESPEARE)
    ),
    "shakespeare_last_three": Outline(*((64,), 65, (3785, 420), "f93b737c9cde711a", _SHAKESPEARE)),
}
"""The published data sets, so that finished blocks of them are recognised without the data."""


def load(name: str, *, data_dir: str | Path | None = None, download: bool = False) -> Dataset:
    """Returns the data set `name`, one of `NAMES`.

    Data prepared by TFDS are looked for in `data_dir`, else in `$TFDS_DATA_DIR`, else in the
    default of TFDS, `~/tensorflow_datasets`. If they are missing, `download` fetches and prepares
    them, which needs TensorFlow.

    The files of a9a, mushrooms, spambase and w8a are looked for in `data_dir`, else in
    `$BYZJAX_DATA_DIR`, else in `~/.cache/byzjax/convex`; they are never downloaded.

    Raises:
      ValueError: the name is unknown, or a file is damaged.
      MissingDataError: the data are not prepared and `download` is false, or a file is missing.
      ImportError: TensorFlow is needed and cannot be imported.
    """
    if name not in SOURCES:
        raise ValueError(names.unknown("data set", name, NAMES))
    source = SOURCES[name]
    raw = source.read(data_dir, download)
    if source.is_text:
        return of_text(name, raw, OUTLINES[name].vocabulary if source.is_part else None)
    checksum, num_classes = _checksum(raw), int(raw["train_y"].max()) + 1
    source.normalize(raw)
    return Dataset(name=name, num_classes=num_classes, checksum=checksum, **raw)


def of_text(name: str, raw: Arrays, vocabulary: str | None = None) -> Dataset:
    """The data set of some windows, as `language.arrays` makes them; modifies `raw` in place.

    Args:
      name: of the data set.
      raw: the windows.
      vocabulary: the characters, sorted; None for those of the text.
    """
    checksum, vocabulary = _checksum(raw), language.encode(raw, vocabulary)
    return Dataset(
        name=name, num_classes=len(vocabulary), checksum=checksum, vocabulary=vocabulary, **raw
    )


def _checksum(raw: Arrays) -> str:
    digest = hashlib.sha256()
    for field in FIELDS:
        digest.update(raw[field].tobytes())
    return digest.hexdigest()[:16]


def _normalize_images(raw: Arrays) -> None:
    # Integer sums are exact and need no float64 copy of the images (255**2 fits in uint16).
    train, axes = raw["train_x"], (0, 1, 2)
    count = train[..., 0].size
    mean = train.sum(axes, dtype=np.int64) / count
    squares = np.square(train, dtype=np.uint16).sum(axes, dtype=np.int64) / count
    mean, std = np.float32(mean), np.float32(np.sqrt(squares - mean**2))
    for field in ("train_x", "test_x"):
        raw[field] = raw[field] - mean
        raw[field] /= std


def _unchanged(raw: Arrays) -> None:
    del raw


def _read_digits() -> Arrays:
    """The 1,797 images of 8 x 8 in scikit-learn: 1,437 for training, 360 for testing."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    x, y = bunch["images"].astype(np.uint8)[..., None], bunch["target"].astype(np.int32)
    # The legacy generator has a frozen stream: the split is the same in every NumPy version.
    order = np.random.RandomState(0).permutation(len(y))
    train, test = order[:1437], order[1437:]
    return {"train_x": x[train], "train_y": y[train], "test_x": x[test], "test_y": y[test]}


class Source(NamedTuple):
    """Where a data set comes from.

    `read(data_dir, download)` returns the raw arrays, and `normalize` changes them in place;
    those of a text are windows, and are not normalized. A part of a text has the vocabulary of the
    whole.
    """

    description: str
    read: Callable[[str | Path | None, bool], Arrays]
    normalize: Callable[[Arrays], None] = _normalize_images
    is_text: bool = False
    is_part: bool = False


def _tfds(name: str, description: str, is_text: bool = False) -> Source:
    def read(data_dir: str | Path | None, download: bool) -> Arrays:
        folder = prepared.prepared_folder(name, data_dir, download)
        return prepared.read_cached(name, folder, prepared.text if is_text else prepared.images)

    return Source(f"{description}; through TFDS", read, is_text=is_text)


def _plays(first: int, last: int, description: str) -> Source:
    """Some plays of tiny_shakespeare, by the numbers of the first and of the one after the last."""

    def read(data_dir: str | Path | None, download: bool) -> Arrays:
        return language.plays(SOURCES["tiny_shakespeare"].read(data_dir, download), first, last)

    return Source(f"{description}; through TFDS", read, is_text=True, is_part=True)


def _file(name: str, description: str, normalize: Callable[[Arrays], None] = _unchanged) -> Source:
    return Source(description, lambda data_dir, _: convex.read(name, data_dir), normalize)


SOURCES = {
    "digits": Source(
        "1,797 images of 8 x 8, 10 classes; comes with scikit-learn", lambda *_: _read_digits()
    ),
    "mnist": _tfds("mnist", "70,000 images of 28 x 28, 10 classes"),
    "fashion_mnist": _tfds("fashion_mnist", "70,000 images of 28 x 28, 10 classes"),
    "cifar10": _tfds("cifar10", "60,000 images of 32 x 32 x 3, 10 classes"),
    "a9a": _file("a9a", "48,842 samples of 123 binary features, 2 classes; LIBSVM files"),
    "mushrooms": _file(
        "mushrooms", "8,124 samples of 112 binary features, 2 classes; a LIBSVM file"
    ),
    "spambase": _file(
        "spambase", "4,601 samples of 57 features, 2 classes; a CSV file", convex.standardize
    ),
    "w8a": _file("w8a", "49,749 samples of 300 binary features, 2 classes; a LIBSVM file"),
    "tiny_shakespeare": _tfds(
        "tiny_shakespeare", "17,427 windows of 64 characters, 65 of them different", is_text=True
    ),
    "shakespeare_first_six": _plays(
        *(0, 6), "13,221 windows of tiny_shakespeare: Coriolanus to The Winter's Tale"
    ),
    "shakespeare_last_three": _plays(
        *(6, 9), "4,205 windows of tiny_shakespeare: Measure for Measure to The Tempest"
    ),
}
"""All data sets."""

NAMES = tuple(SOURCES)
DESCRIPTIONS = {name: source.description for name, source in SOURCES.items()}
"""One line about each data set."""
