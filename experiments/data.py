"""Data sets as plain arrays, and how their samples are dealt out to the workers.

`digits` comes with scikit-learn. `mnist`, `fashion_mnist` and `cifar10` come from TensorFlow
Datasets (TFDS), and nothing is fetched from the network unless `download=True`.
"""

import ast
import dataclasses
import hashlib
import importlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TFDS_NAMES = ("mnist", "fashion_mnist", "cifar10")
NAMES = ("digits", *TFDS_NAMES)

Array = jax.Array | np.ndarray
_Arrays = dict[str, Any]  # a NumPy array for each of:
_FIELDS = ("train_x", "train_y", "test_x", "test_y")
_CHUNK = 5000  # examples decoded at a time
_MAX_DRAWS = 1000  # of Dirichlet shares


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set in memory.

    Images are float32 `[N, H, W, C]`, less the mean and divided by the standard deviation of the
    training pixels: one scalar for a data set of grey images, one per channel for cifar10.
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

    Raises:
      ValueError: the name is unknown.
      FileNotFoundError: the data are not prepared and `download` is false.
      ImportError: TensorFlow is needed and cannot be imported.
    """
    if name == "digits":
        raw = _read_digits()
    elif name in TFDS_NAMES:
        raw = _read_cached(name, _prepared_folder(name, data_dir, download))
    else:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(NAMES)}.")
    return _finish(name, raw)


def _finish(name: str, raw: _Arrays) -> Dataset:
    digest = hashlib.sha256()
    for field in _FIELDS:
        digest.update(raw[field].tobytes())
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
    return Dataset(name=name, num_classes=num_classes, checksum=digest.hexdigest()[:16], **raw)


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


def partition(
    labels: np.ndarray, num_workers: int, kind: str, *, seed: int
) -> tuple[np.ndarray, ...]:
    """Deals the samples out to the workers: one array of indices each, no sample twice.

    Kinds: `"iid"`, a random permutation, cut; `"sorted"`, by label, cut (no use of the seed);
    `"dirichlet(alpha)"`, each class shared out by weights ~ Dirichlet(alpha): small alpha, unlike
    workers. Cuts are into sizes that differ by at most one; every worker has at least one sample.

    Raises:
      ValueError: an unknown kind, too few samples, or no Dirichlet draw that serves everyone.
    """
    labels = np.asarray(labels)
    name, alpha = _parse_kind(kind)
    if not 1 <= num_workers <= len(labels):
        raise ValueError(
            f"a partition needs 1 <= workers <= samples; got {num_workers} workers,"
            f" {len(labels)} samples."
        )
    rng = np.random.default_rng(seed)
    if name == "dirichlet":
        return _dirichlet(labels, num_workers, alpha, rng)
    order = rng.permutation(len(labels)) if name == "iid" else np.argsort(labels, kind="stable")
    return tuple(np.array_split(order, num_workers))


def _parse_kind(kind: str) -> tuple[str, float]:
    """Returns the kind's name and its alpha (0 where there is none)."""
    try:
        match ast.parse(kind, mode="eval").body:
            case ast.Name(id=("iid" | "sorted") as name):
                return name, 0.0
            case ast.Call(
                func=ast.Name(id="dirichlet"),
                args=[ast.Constant(value=float() | int() as alpha)],
                keywords=[],
            ) if 0 < alpha < float("inf"):
                return "dirichlet", float(alpha)
    except (SyntaxError, ValueError, TypeError, OverflowError):
        pass
    known = "iid, dirichlet(alpha) with alpha > 0, sorted"
    raise ValueError(f"unknown kind of partition {kind!r}; known: {known}.")


def _dirichlet(
    labels: np.ndarray, num_workers: int, alpha: float, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    classes = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    sizes = np.array([len(c) for c in classes])
    for _ in range(_MAX_DRAWS):
        shares = rng.dirichlet(np.full(num_workers, alpha), size=len(classes))
        cuts = (np.cumsum(shares, axis=1)[:, :-1] * sizes[:, None]).astype(int)
        counts = np.diff(cuts, axis=1, prepend=0, append=sizes[:, None])
        if counts.sum(axis=0).min() >= 1:
            pieces = zip(*[np.split(c, cut) for c, cut in zip(classes, cuts)])
            return tuple(np.concatenate(worker) for worker in pieces)
    raise ValueError(
        f"dirichlet({alpha:g}) left some of {num_workers} workers without any of {len(labels)}"
        f" samples in each of {_MAX_DRAWS} draws; take a larger alpha or fewer workers."
    )


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
