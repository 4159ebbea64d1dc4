"""Two-class data sets of plain features, read from the text files of their original hosts.

They are used in convex experiments: softmax regression on them is a convex problem.
"""

import bisect
import gzip
import io
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data import cache

Arrays = dict[str, Any]  # a NumPy array for each of train_x, train_y, test_x, test_y

_LIBSVM_PAGE = "www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary.html"


class _Source(NamedTuple):
    """The files of a data set.

    Attributes:
      files: one file, which is split, or two: training and test set.
      width: d, the number of features.
      labels: the labels in the file, which become 0 and 1.
      host: where the files come from.
      csv: comma-separated with the label last, instead of the LIBSVM format.
    """

    files: tuple[str, ...]
    width: int
    labels: tuple[int, int]
    host: str = _LIBSVM_PAGE
    csv: bool = False


_SOURCES = {
    "a9a": _Source(("a9a", "a9a.t"), 123, (-1, 1)),
    "mushrooms": _Source(("mushrooms",), 112, (1, 2)),
    "spambase": _Source(
        ("spambase.data",),
        57,
        (0, 1),
        host="archive.ics.uci.edu/dataset/94/spambase",
        csv=True,
    ),
    "w8a": _Source(("w8a",), 300, (-1, 1)),
}
NAMES = tuple(_SOURCES)


def read(name: str, data_dir: str | Path | None = None) -> Arrays:
    """Reads one of `NAMES` from its files, plain or compressed as .gz; nothing is downloaded.

    The files are looked for in `data_dir`, else in `$BYZJAX_DATA_DIR`, else in
    `~/.cache/byzjax/convex` (below `$XDG_CACHE_HOME` if it is set). a9a has a test file; of the
    others, a fixed random 80 % of the samples are for training.

    Returns:
      `train_x`, `test_x`: float32 `[N, d]` as in the file; `train_y`, `test_y`: int32 `[N]`, 0 for
      the lower of the two labels of the file and 1 for the higher.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged; the message names the line.
    """
    source, folder = _SOURCES[name], _folder(data_dir)
    parts = [_read_file(path, source) for path in _find(name, source, folder)]
    if len(parts) == 1:
        ((x, y),) = parts
        # The legacy generator has a frozen stream: the split is the same in every NumPy version.
        order = np.random.RandomState(0).permutation(len(y))
        train, test = np.split(order, [len(y) * 4 // 5])
        parts = [(x[train], y[train]), (x[test], y[test])]
    (train_x, train_y), (test_x, test_y) = parts
    if not len(train_y) or not len(test_y):
        raise ValueError(
            f"{name} needs samples to train and to test; its files in {folder} give"
            f" {len(train_y)} and {len(test_y)}."
        )
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


def standardize(raw: Arrays) -> None:
    """Subtracts each feature's training mean and divides by its training standard deviation.

    Modifies `raw` in place. A feature that is constant in training is only shifted.
    """
    train = raw["train_x"]
    mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    std[np.ptp(train, axis=0) == 0] = 1  # not `std == 0`: rounding may leave 1e-17
    for field in ("train_x", "test_x"):
        raw[field] = ((raw[field] - mean) / std).astype(np.float32)


def _folder(data_dir: str | Path | None) -> Path:
    own = cache.folder() / "convex"
    return Path(data_dir or os.environ.get("BYZJAX_DATA_DIR") or own).expanduser()


def _find(name: str, source: _Source, folder: Path) -> list[Path]:
    """Returns the path of each file, the uncompressed one if both exist."""
    paths = {}
    for file in source.files:
        candidates = (folder / file, folder / f"{file}.gz")
        paths[file] = next((path for path in candidates if path.is_file()), None)
    missing = [f"{file}[.gz]" for file, path in paths.items() if path is None]
    if missing:
        raise cache.MissingDataError(
            f"{name}: no {' and no '.join(missing)} in {folder}; download it there from "
            f"{source.host}, or set BYZJAX_DATA_DIR."
        )
    return [path for path in paths.values() if path is not None]


def _read_file(path: Path, source: _Source) -> tuple[np.ndarray, np.ndarray]:
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged or not a gzip file: {error}.") from error
    lines = content.splitlines()
    parse = _parse_csv if source.csv else _parse_libsvm

    def fails(count: int) -> bool:
        try:
            parse(lines[:count], source)
        except (ValueError, OverflowError):
            return True
        return False

    try:
        return parse(lines, source)
    except (ValueError, OverflowError):
        # The parser does not report the line: it is the last one of the shortest prefix that fails.
        number = 1 + bisect.bisect_left(range(1, len(lines)), True, key=fails)
    labels = " or ".join(map(str, source.labels))
    expected = (
        f"{source.width} finite numbers and a label {labels}, with commas between"
        if source.csv
        else f"a label {labels}, then index:value with rising indices in 1 .. {source.width}"
    )
    start = lines[number - 1][:40].decode("latin1")
    raise ValueError(f"{path}, line {number}: expected {expected}; got {start!r}.")


def _parse_libsvm(lines: list[bytes], source: _Source) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_svmlight_file

    loaded: Any = load_svmlight_file(
        io.BytesIO(b"\n".join(lines)),
        n_features=source.width,
        zero_based=False,
    )
    x, labels = loaded
    return _checked(x.toarray(), labels, source)


def _parse_csv(lines: list[bytes], source: _Source) -> tuple[np.ndarray, np.ndarray]:
    rows = [line for line in lines if line.strip()]
    width = source.width + 1
    table = (
        np.loadtxt(rows, delimiter=",", comments=None, ndmin=2) if rows else np.empty((0, width))
    )
    if table.shape[1] != width:
        raise ValueError(f"expected {width} columns; got {table.shape[1]}.")
    return _checked(table[:, :-1], table[:, -1], source)


def _checked(x: np.ndarray, labels: np.ndarray, source: _Source) -> tuple[np.ndarray, np.ndarray]:
    """Features as float32, labels as 0 and 1."""
    with np.errstate(over="ignore"):  # overflow is detected in the next line
        x = x.astype(np.float32)
    if not np.isfinite(x).all() or not np.isin(labels, source.labels).all():
        raise ValueError("a feature is not finite, or a label is neither of the two.")
    return x, (labels == source.labels[1]).astype(np.int32)
