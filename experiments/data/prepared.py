"""Images and texts prepared by TensorFlow Datasets (TFDS), as arrays."""

import hashlib
import importlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import cache, language
from experiments.data.cache import MissingDataError

Arrays = dict[str, Any]
"""A NumPy array for each of `FIELDS`."""

FIELDS = ("train_x", "train_y", "test_x", "test_y")

INSTALL = 'pip install -e ".[download]"'  # in a checkout; installs TensorFlow

_CHUNK = 5000  # examples decoded at a time


def root(data_dir: str | Path | None) -> Path:
    """The folder of all prepared data sets: `data_dir`, or $TFDS_DATA_DIR, or that of TFDS."""
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(given).expanduser()


def prepared_folder(name: str, data_dir: str | Path | None, download: bool) -> Path:
    """Returns `data_dir/name/version`, downloading it first if it is missing and `download`."""
    folder_of_all = root(data_dir)
    place = folder_of_all / name

    def newest() -> Path | None:
        infos = place.glob("*/dataset_info.json")
        folders = [i.parent for i in infos if re.fullmatch(r"\d+\.\d+\.\d+", i.parent.name)]
        return max(folders, key=lambda f: [int(k) for k in f.name.split(".")], default=None)

    folder = newest()
    if folder is None and download:
        _require_tensorflow(f"downloading {name} into {place}")
        import tensorflow_datasets as tfds

        builder = tfds.builder(name, data_dir=str(folder_of_all))
        builder.download_and_prepare(file_format="array_record")
        folder = newest()
    if folder is None:
        raise MissingDataError(
            f"{name} is not prepared in {place}: set TFDS_DATA_DIR, or {INSTALL}",
            fetchable=name,
        )
    return folder


def _require_tensorflow(what: str) -> None:
    try:
        importlib.import_module("tensorflow")
    except ImportError as error:
        raise ImportError(f"{what} needs TensorFlow: {INSTALL}, then the same again.") from error


def read_cached(name: str, folder: Path, read: Callable[[Path, bool], Arrays]) -> Arrays:
    """Reads a prepared folder, or the arrays that an earlier call cached.

    Args:
      name: of the data set.
      folder: the prepared folder.
      read: `images` or `text`, as a function of the folder and whether it is in ArrayRecord format.
    """
    info = (folder / "dataset_info.json").read_bytes()
    key = f"{name}-{folder.name}-{hashlib.sha256(info).hexdigest()[:16]}.npz"
    kept = cache.folder() / key
    try:
        with np.load(kept) as arrays:
            return {field: arrays[field] for field in FIELDS}
    except Exception:  # absent, or damaged in any way (zip checks its CRC)
        pass
    raw = read(folder, json.loads(info).get("fileFormat") == "array_record")
    _write_cache(kept, raw)
    return raw


def images(folder: Path, is_array_record: bool) -> Arrays:
    """The images and labels of the splits train and test."""
    read = _read_array_record if is_array_record else _read_tfrecord
    raw = {}
    for split in ("train", "test"):
        chunks = read(folder, split)
        raw[f"{split}_x"] = np.concatenate([x for x, _ in chunks])
        raw[f"{split}_y"] = np.concatenate([y for _, y in chunks]).astype(np.int32)
    return raw


def text(folder: Path, is_array_record: bool) -> Arrays:
    """Windows of a text: train to train on, validation and then test to test on.

    Both together are the last tenth of tiny_shakespeare, on which others report the loss.
    """
    if not is_array_record:
        _require_tensorflow(f"reading {folder}, which is in TFRecord format,")
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder))
    rows = builder.as_data_source if is_array_record else builder.as_dataset

    def joined(split: str) -> bytes:
        source: Any = rows(split=split)
        source = source if is_array_record else tfds.as_numpy(source)
        return b"".join(row["text"] for row in source)

    return language.arrays(joined("train"), joined("validation") + joined("test"))


def _read_array_record(folder: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    import tensorflow_datasets as tfds

    # Read from the folder: unlike `tfds.data_source`, this cannot access the network.
    source: Any = tfds.builder_from_directory(str(folder)).as_data_source(split=split)
    chunks = []
    for start in range(0, len(source), _CHUNK):
        rows = source.__getitems__(list(range(start, min(start + _CHUNK, len(source)))))
        chunks.append((np.stack([r["image"] for r in rows]), np.stack([r["label"] for r in rows])))
    return chunks


def _read_tfrecord(folder: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    _require_tensorflow(f"reading {folder}, which is in TFRecord format,")
    import tensorflow_datasets as tfds

    # One file at a time keeps the order of the files, as for array_record.
    dataset = tfds.builder_from_directory(str(folder)).as_dataset(
        split=split, batch_size=_CHUNK, read_config=tfds.ReadConfig(interleave_cycle_length=1)
    )
    return [(batch["image"], batch["label"]) for batch in tfds.as_numpy(dataset)]


def _write_cache(path: Path, raw: Arrays) -> None:
    """Writes the arrays atomically; a cache that cannot be written is not an error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            np.savez(Path(scratch) / path.name, **raw)
            os.replace(Path(scratch) / path.name, path)
    except OSError:
        pass
