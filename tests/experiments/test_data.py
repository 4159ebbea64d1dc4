import io
import json
import math
import os
import re
import socket
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import batches, datasets, histograms, partitions, prepared

LABELS = np.repeat(np.arange(10), [30, 31, 32, 33, 34, 35, 36, 37, 38, 39])[::-1].copy()  # 345


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def connect(*args):
        raise AssertionError(f"a test tried to reach the network: {args}")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "byzjax"


# Loading


@pytest.mark.smoke
def test_digits():
    digits = datasets.load("digits")
    assert digits.train_x.shape == (1437, 8, 8, 1)
    assert digits.test_x.shape == (360, 8, 8, 1)
    assert digits.train_x.dtype == digits.test_x.dtype == np.float32
    assert digits.train_y.dtype == digits.test_y.dtype == np.int32
    assert digits.num_classes == 10
    assert digits.checksum == "f618bea623765e9b"  # which also shows that the split is fixed
    counts = np.bincount(digits.train_y) + np.bincount(digits.test_y)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_normalization_uses_the_training_pixels():
    digits = datasets.load("digits")
    np.testing.assert_allclose(digits.train_x.mean(dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(digits.train_x.std(dtype=np.float64), 1, atol=1e-5)
    assert abs(digits.test_x.mean(dtype=np.float64)) > 1e-4
    assert np.unique(digits.train_x).size == 17  # grey levels 0 to 16


def test_normalization_is_per_channel():
    rng = np.random.default_rng(0)
    images = rng.integers(0, [100, 200, 256], size=(50, 4, 4, 3)).astype(np.uint8)
    labels = np.arange(50, dtype=np.int32) % 2
    raw = {"train_x": images, "train_y": labels, "test_x": images[:5] // 2, "test_y": labels[:5]}
    normalized = dict(raw)
    datasets._normalize_images(normalized)
    mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))
    np.testing.assert_allclose(normalized["train_x"], (images - mean) / std, atol=1e-5)
    np.testing.assert_allclose(normalized["test_x"], (raw["test_x"] - mean) / std, atol=1e-5)
    assert normalized["train_x"].dtype == np.float32


def test_unknown_name():
    known = "digits, mnist, fashion_mnist, cifar10, a9a, mushrooms, spambase, w8a, tiny_shakespeare"
    known += ", shakespeare_first_six, shakespeare_last_three"
    assert ", ".join(datasets.NAMES) == known
    shown = known.partition(", tiny")[0] + ", ... (`python -m experiments list` shows all 11)."
    with pytest.raises(ValueError, match=rf"^unknown data set 'wine'; known: {re.escape(shown)}$"):
        datasets.load("wine")
    with pytest.raises(ValueError, match=r"^unknown data set 'mnsit'; did you mean mnist\?$"):
        datasets.load("mnsit")


def test_missing_folder_stops_at_once(tmp_path, monkeypatch):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as by_argument:
        datasets.load("cifar10", data_dir=tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError) as by_environment:
        datasets.load("mnist")
    assert time.monotonic() - start < 1
    for error, folder in (
        (by_argument, tmp_path / "cifar10"),
        (by_environment, tmp_path / "elsewhere" / "mnist"),
    ):
        message = str(error.value)
        assert str(folder) in message
        assert "--download" in message
        assert "TFDS_DATA_DIR" in message
        assert "\n" not in message


def test_an_unfinished_preparation_is_not_data(tmp_path):
    folder = tmp_path / "mnist" / "incomplete.ABC_3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="mnist is not prepared"):
        datasets.load("mnist", data_dir=tmp_path)


def test_the_newest_version_is_read(tmp_path):
    for version in ("3.0.1", "3.0.10", "3.0.9"):
        folder = tmp_path / "mnist" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{}")
    assert prepared.prepared_folder("mnist", tmp_path, False).name == "3.0.10"


def test_what_needs_tensorflow_says_so(tmp_path, monkeypatch, cache_home):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r'downloading mnist .* pip install -e "\.\[download\]"'):
        datasets.load("mnist", data_dir=tmp_path, download=True)
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": "tfrecord"}))
    with pytest.raises(ImportError, match=r'TFRecord .* pip install -e "\.\[download\]"'):
        datasets.load("mnist", data_dir=tmp_path)


def prepare_tiny_mnist(data_dir):
    """Prepares an `mnist` of 23 + 7 one-coloured images as TFDS does, without TensorFlow."""
    image_module = pytest.importorskip("PIL.Image")
    pytest.importorskip("array_record")
    tfds = pytest.importorskip("tensorflow_datasets")

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "mnist"
        VERSION = tfds.core.Version("3.0.1")

        def _info(self):
            image = tfds.features.Image(shape=(28, 28, 1))
            label = tfds.features.ClassLabel(num_classes=10)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(23), "test": self._generate_examples(7)}

        def _generate_examples(self, count):
            for i in range(count):
                file = io.BytesIO()
                image_module.fromarray(np.full((28, 28), 10 * i, np.uint8)).save(file, "PNG")
                yield i, {"image": file.getvalue(), "label": i % 10}

    config = tfds.download.DownloadConfig(try_download_gcs=False)
    Tiny(data_dir=str(data_dir)).download_and_prepare(
        file_format="array_record", download_config=config
    )


def assert_is_tiny_mnist(dataset):
    assert dataset.train_x.shape == (23, 28, 28, 1)
    assert dataset.test_x.shape == (7, 28, 28, 1)
    assert dataset.train_y.dtype == np.int32
    assert dataset.num_classes == 10
    level = np.arange(23) * 10.0
    for x, y, count in (
        (dataset.train_x, dataset.train_y, 23),
        (dataset.test_x, dataset.test_y, 7),
    ):
        pixels = x[:, 0, 0, 0]
        np.testing.assert_array_equal(x, np.broadcast_to(pixels[:, None, None, None], x.shape))
        number = np.rint((pixels * level.std() + level.mean()) / 10).astype(int)
        assert sorted(number) == list(range(count))  # each once, in TFDS's shuffled order
        np.testing.assert_array_equal(y, number % 10)


def test_array_record_and_cache(tmp_path, cache_home, monkeypatch):
    prepare_tiny_mnist(tmp_path / "tfds")
    monkeypatch.setattr(prepared, "_CHUNK", 10)  # several chunks, the last one shorter
    splits, read = [], prepared._read_array_record

    def counted_read(folder, split):
        splits.append(split)
        return read(folder, split)

    monkeypatch.setattr(prepared, "_read_array_record", counted_read)

    def load():
        splits.clear()
        dataset = datasets.load("mnist", data_dir=tmp_path / "tfds")
        assert_is_tiny_mnist(dataset)
        return dataset

    first = load()
    assert splits == ["train", "test"]
    (cache,) = cache_home.iterdir()  # one file, and nothing temporary left
    assert cache.name.startswith("mnist-3.0.1-")
    assert cache.suffix == ".npz"
    again = load()
    assert splits == []
    assert again.checksum == first.checksum
    np.testing.assert_array_equal(again.train_x, first.train_x)

    whole = cache.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        b"",
        b"not a zip file",
        whole[:middle],
        whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
    ):
        cache.write_bytes(damaged)
        load()
        assert splits == ["train", "test"]
        assert cache.read_bytes() == whole

    # Another dataset_info.json is another data set.
    info = tmp_path / "tfds" / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(info.read_text() + "\n")
    load()
    assert splits == ["train", "test"]
    assert len(list(cache_home.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    prepare_tiny_mnist(tmp_path / "tfds")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_is_tiny_mnist(datasets.load("mnist", data_dir=tmp_path / "tfds"))


TRAIN_COUNTS = {
    "mnist": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "fashion_mnist": [6000] * 10,
    "cifar10": [5000] * 10,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAIN_COUNTS)
def test_real_images(name, cache_home):
    root = os.environ.get("TFDS_DATA_DIR")
    if not root or not list(Path(root).expanduser().glob(f"{name}/*/dataset_info.json")):
        pytest.skip(f"no prepared {name}: TFDS_DATA_DIR is {root or 'not set'}")
    dataset = datasets.load(name)
    image = (32, 32, 3) if name == "cifar10" else (28, 28, 1)
    assert dataset.train_x.shape == (sum(TRAIN_COUNTS[name]), *image)
    assert dataset.test_x.shape == (10_000, *image)
    assert np.bincount(dataset.train_y).tolist() == TRAIN_COUNTS[name]
    np.testing.assert_allclose(dataset.train_x.mean((0, 1, 2), dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(dataset.train_x.std((0, 1, 2), dtype=np.float64), 1, atol=1e-5)
    again = datasets.load(name)  # from the cache
    assert again.checksum == dataset.checksum
    np.testing.assert_array_equal(again.test_x, dataset.test_x)


# What workers hold


def tiny(train_y, shape=(3,)):
    train_y = np.asarray(train_y, np.int32)
    x = np.zeros((len(train_y), *shape), np.float32)
    return datasets.Dataset("tiny", x, train_y, x[:2], train_y[:2], 3, "0")


def test_label_histogram():
    labels = np.array([2, 0, 2, 1, 0, 2])
    parts = (np.array([0, 2, 4]), np.array([3]), np.array([], int))
    histogram = histograms.label_histogram(labels, parts, 4)
    assert histogram.tolist() == [[1, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert np.issubdtype(histogram.dtype, np.integer)
    assert histograms.label_histogram(labels, (), 4).shape == (0, 4)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 2]])
def test_label_histogram_wants_labels_of_the_classes(labels):
    message = rf"^labels must lie in 0 \.\. 2; got {labels[0]} \.\. {labels[1]}\.$"
    with pytest.raises(ValueError, match=message):
        histograms.label_histogram(np.array(labels), (np.array([0]),), 3)


def test_describe():
    dataset = tiny([0] * 12 + [2] * 2, shape=(2, 2, 1))
    text = histograms.describe(dataset, (np.arange(11), np.array([11, 13])))
    assert text.splitlines() == [
        "tiny: 14 + 2 samples of shape 2 x 2 x 1, 3 classes",
        "worker   0  1  2  total",
        "     0  11  0  0     11",
        "     1   1  0  1      2",
        "   all  12  0  1     13",
    ]


@pytest.mark.parametrize("num_workers", [30, 33])
def test_describe_shows_thirty_workers(num_workers):
    parts = np.array_split(np.arange(66), num_workers)
    *head, last = histograms.describe(tiny([1] * 66), parts).splitlines()
    assert last.split() == ["all", "0", "66", "0", "66"]
    assert [line.split()[0] for line in head[2:32]] == [str(i) for i in range(30)]
    more = ["... and 3 more workers, which are not shown"] if num_workers == 33 else []
    assert head[32:] == more


@pytest.mark.parametrize("num_workers", [1, 25, 60])
def test_histogram_figure(num_workers):
    histogram = np.arange(num_workers * 3).reshape(num_workers, 3)
    figure = histograms.histogram_figure(histogram, "a title")
    ax = figure.axes[0]
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("a title", "worker", "label")
    np.testing.assert_array_equal(ax.images[0].get_array(), histogram.T)
    numbers = {text.get_text() for text in ax.texts}
    shown = {str(count) for count in histogram.flat if count} | {""}
    assert numbers == (shown if num_workers <= 30 else set())
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")


# Batches


def test_pad_partition():
    indices, sizes = batches.pad_partition([np.array([4, 2, 7]), np.array([1]), np.array([9, 0])])
    assert indices.dtype == sizes.dtype == np.int32
    assert sizes.tolist() == [3, 1, 2]
    assert indices.tolist() == [[4, 2, 7], [1, 1, 1], [9, 0, 9]]


@pytest.mark.parametrize("parts", [[], [np.array([1]), np.array([], int)]])
def test_pad_partition_wants_samples_for_everyone(parts):
    with pytest.raises(ValueError, match="every worker needs at least one sample; got sizes"):
        batches.pad_partition(parts)


def test_equal_shares():
    parts = [np.array([4, 2, 7]), np.array([9, 0])]
    indices, sizes = batches.equal_shares(*batches.pad_partition(parts))
    assert indices.tolist() == [[4, 2], [9, 0]]
    assert sizes.tolist() == [2, 2]
    with pytest.raises(
        ValueError, match=r"workers with equally many samples; this partition gives them 2 to 4\."
    ):
        batches.equal_shares(*batches.pad_partition([*parts, np.arange(4)]))


def test_batches_hold_the_workers_own_samples():
    parts = partitions.partition(LABELS, 6, "dirichlet(0.3)", seed=0)
    indices, sizes = batches.pad_partition(parts)
    x = np.arange(len(LABELS), dtype=np.float32)[:, None] * np.ones(2, np.float32)
    draw = jax.jit(batches.sample_batch, static_argnums=5)
    batch = draw(jax.random.key(0), indices, sizes, x, LABELS, 2000)
    assert batch["x"].shape == (6, 2000, 2)
    assert batch["y"].shape == (6, 2000)
    for part, drawn, y in zip(parts, np.asarray(batch["x"])[..., 0].astype(int), batch["y"]):
        assert set(drawn) <= set(part)
        np.testing.assert_array_equal(LABELS[drawn], y)
        # Uniform, with replacement: within 6 deviations of 2000 / size.
        counts = np.bincount(drawn, minlength=len(LABELS))[part]
        mean = 2000 / len(part)
        assert np.abs(counts - mean).max() <= 6 * np.sqrt(mean)


def test_batches_without_replacement():
    """All sets of a worker's own samples, and as often."""
    parts = [np.array([3, 5, 8, 9]), np.array([0, 1, 2]), np.arange(10, 16)]
    indices, sizes = batches.pad_partition(parts)
    x = np.arange(20, dtype=np.float32)

    @jax.jit
    @jax.vmap
    def draw(key):
        return batches.sample_batch(key, indices, sizes, x, x, 3, replace=False)["x"]

    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 3000))).astype(int)
    for part, sets in zip(parts, drawn.transpose(1, 0, 2)):
        assert (np.diff(np.sort(sets, axis=1), axis=1) > 0).all()
        sets_drawn, counts = np.unique(np.sort(sets, axis=1), axis=0, return_counts=True)
        assert len(sets_drawn) == math.comb(len(part), 3)
        assert set(sets_drawn.ravel()) == set(part)
        mean = 3000 / len(sets_drawn)
        assert np.abs(counts - mean).max() <= 5 * np.sqrt(mean)
    with pytest.raises(ValueError, match=r"at most the 3 samples of worker 1; got 4\.$"):
        batches.check_sizes(sizes, 4)
    batches.check_sizes(sizes, 3)


def test_a_workers_batch_depends_on_its_index_and_the_key_only():
    indices = np.tile(np.arange(50, dtype=np.int32), (4, 1))
    x = np.arange(50, dtype=np.float32)

    def draw(key, n):
        return batches.sample_batch(key, indices[:n], np.full(n, 50, np.int32), x, x, 30)["x"]

    compiled, key = jax.jit(draw, static_argnums=1), jax.random.key(1)
    four = np.asarray(compiled(key, 4))
    np.testing.assert_array_equal(four[:2], compiled(key, 2))
    np.testing.assert_array_equal(four[:1], draw(key, 1))  # without jit
    assert len({row.tobytes() for row in four}) == 4
    assert (four != compiled(jax.random.key(2), 4)).any()


def test_batches_in_scan_and_vmap():
    indices, sizes = batches.pad_partition(partitions.partition(LABELS, 3, "iid", seed=0))
    x, y = np.eye(10, dtype=np.float32)[LABELS], LABELS

    def draw(key):
        return batches.sample_batch(key, indices, sizes, x, y, 4)

    def run(key):
        return jax.lax.scan(
            lambda carry, step: (carry, draw(jax.random.fold_in(key, step))), 0, jnp.arange(5)
        )[1]

    keys = jax.random.split(jax.random.key(0), 2)
    drawn = jax.device_get(jax.jit(jax.vmap(run))(keys))
    assert drawn["x"].shape == (2, 5, 3, 4, 10)
    np.testing.assert_array_equal(drawn["x"].argmax(-1), drawn["y"])
    one = jax.jit(lambda key: draw(jax.random.fold_in(key, 3)))(keys[1])
    np.testing.assert_array_equal(drawn["y"][1, 3], one["y"])
