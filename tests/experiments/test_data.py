import io
import json
import os
import socket
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data

LABELS = np.repeat(np.arange(10), [30, 31, 32, 33, 34, 35, 36, 37, 38, 39])[::-1].copy()  # 345


def class_counts(parts, labels=LABELS):
    return np.array([np.bincount(labels[part], minlength=10) for part in parts])


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


def test_digits():
    digits = data.load("digits")
    assert digits.train_x.shape == (1437, 8, 8, 1)
    assert digits.test_x.shape == (360, 8, 8, 1)
    assert digits.train_x.dtype == digits.test_x.dtype == np.float32
    assert digits.train_y.dtype == digits.test_y.dtype == np.int32
    assert digits.num_classes == 10
    assert digits.checksum == "f618bea623765e9b"  # also says that the split is fixed
    counts = np.bincount(digits.train_y) + np.bincount(digits.test_y)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_normalization_uses_the_training_pixels():
    digits = data.load("digits")
    np.testing.assert_allclose(digits.train_x.mean(dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(digits.train_x.std(dtype=np.float64), 1, atol=1e-5)
    assert abs(digits.test_x.mean(dtype=np.float64)) > 1e-4
    assert np.unique(digits.train_x).size == 17  # grey levels 0 to 16


def test_normalization_is_per_channel():
    rng = np.random.default_rng(0)
    images = rng.integers(0, [100, 200, 256], size=(50, 4, 4, 3)).astype(np.uint8)
    labels = np.arange(50, dtype=np.int32) % 2
    raw = {"train_x": images, "train_y": labels, "test_x": images[:5] // 2, "test_y": labels[:5]}
    dataset = data._finish("colours", dict(raw))
    mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))
    np.testing.assert_allclose(dataset.train_x, (images - mean) / std, atol=1e-5)
    np.testing.assert_allclose(dataset.test_x, (raw["test_x"] - mean) / std, atol=1e-5)
    assert dataset.train_x.dtype == np.float32


def test_unknown_name():
    message = r"^unknown data set 'mnsit'; known: digits, mnist, fashion_mnist, cifar10\.$"
    with pytest.raises(ValueError, match=message):
        data.load("mnsit")


def test_missing_folder_stops_at_once(tmp_path, monkeypatch):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as by_argument:
        data.load("cifar10", data_dir=tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError) as by_environment:
        data.load("mnist")
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
        data.load("mnist", data_dir=tmp_path)


def test_the_newest_version_is_read(tmp_path):
    for version in ("3.0.1", "3.0.10", "3.0.9"):
        folder = tmp_path / "mnist" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{}")
    assert data._prepared_folder("mnist", tmp_path, False).name == "3.0.10"


def test_what_needs_tensorflow_says_so(tmp_path, monkeypatch, cache_home):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"downloading mnist .* pip install 'byzjax\[download\]'"):
        data.load("mnist", data_dir=tmp_path, download=True)
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": "tfrecord"}))
    with pytest.raises(ImportError, match=r"TFRecord .* pip install 'byzjax\[download\]'"):
        data.load("mnist", data_dir=tmp_path)


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
    monkeypatch.setattr(data, "_CHUNK", 10)  # several chunks, the last one shorter
    splits, read = [], data._read_array_record

    def counted_read(folder, split):
        splits.append(split)
        return read(folder, split)

    monkeypatch.setattr(data, "_read_array_record", counted_read)

    def load():
        splits.clear()
        dataset = data.load("mnist", data_dir=tmp_path / "tfds")
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
    assert_is_tiny_mnist(data.load("mnist", data_dir=tmp_path / "tfds"))


TRAIN_COUNTS = {
    "mnist": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "fashion_mnist": [6000] * 10,
    "cifar10": [5000] * 10,
}


@pytest.mark.parametrize("name", TRAIN_COUNTS)
def test_real_images(name, cache_home):
    root = os.environ.get("TFDS_DATA_DIR")
    if not root or not list(Path(root).expanduser().glob(f"{name}/*/dataset_info.json")):
        pytest.skip(f"no prepared {name}: TFDS_DATA_DIR is {root or 'not set'}")
    dataset = data.load(name)
    image = (32, 32, 3) if name == "cifar10" else (28, 28, 1)
    assert dataset.train_x.shape == (sum(TRAIN_COUNTS[name]), *image)
    assert dataset.test_x.shape == (10_000, *image)
    assert np.bincount(dataset.train_y).tolist() == TRAIN_COUNTS[name]
    np.testing.assert_allclose(dataset.train_x.mean((0, 1, 2), dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(dataset.train_x.std((0, 1, 2), dtype=np.float64), 1, atol=1e-5)
    again = data.load(name)  # from the cache
    assert again.checksum == dataset.checksum
    np.testing.assert_array_equal(again.test_x, dataset.test_x)


# Partitions


@pytest.mark.parametrize("kind", ["iid", "sorted", "dirichlet(0.3)", "dirichlet(100)"])
@pytest.mark.parametrize("num_workers", [1, 2, 7, 20])
def test_every_sample_is_dealt_out_once(kind, num_workers):
    parts = data.partition(LABELS, num_workers, kind, seed=3)
    assert len(parts) == num_workers
    assert sorted(np.concatenate(parts)) == list(range(len(LABELS)))
    assert all(np.issubdtype(part.dtype, np.integer) and part.size for part in parts)
    if "dirichlet" not in kind:
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("kind", ["iid", "dirichlet(0.3)"])
def test_partition_follows_the_seed(kind):
    def dealt(seed):
        return [part.tolist() for part in data.partition(LABELS, 5, kind, seed=seed)]

    assert dealt(1) == dealt(1)
    assert dealt(1) != dealt(2)


def test_sorted_gives_few_classes_to_each():
    labels = np.tile(np.arange(10), 6)
    parts = data.partition(labels, 5, "sorted", seed=0)
    expected = np.kron(np.eye(5, dtype=int), [6, 6])  # 60 samples: two whole classes each
    np.testing.assert_array_equal(class_counts(parts, labels), expected)


def test_a_smaller_alpha_is_more_skewed():
    def largest_share(kind):
        counts = class_counts(data.partition(LABELS, 8, kind, seed=0))
        return (counts.max(axis=1) / counts.sum(axis=1)).mean()

    skew = [largest_share(f"dirichlet({alpha})") for alpha in (0.1, 1, 1000)]
    assert skew[0] > skew[1] + 0.1
    assert skew[1] > skew[2] + 0.1
    assert skew[2] < 0.2  # nearly even: a tenth each


def test_dirichlet_shares_have_the_moments_of_the_law():
    labels, n, alpha = np.repeat(np.arange(10), 1000), 4, 0.5
    shares = np.concatenate(
        [
            class_counts(data.partition(labels, n, f"dirichlet({alpha})", seed=s), labels).T / 1000
            for s in range(200)
        ]
    )
    np.testing.assert_allclose(shares.mean(0), 1 / n, atol=0.03)
    # Var = (1/n)(1 - 1/n) / (n alpha + 1) = 0.0625, over 2000 draws.
    np.testing.assert_allclose(shares.var(0), 0.0625, atol=0.008)


@pytest.mark.parametrize(
    "kind",
    [
        "idd",
        "",
        "dirichlet",
        "dirichlet()",
        "dirichlet(0)",
        "dirichlet(-1)",
        "dirichlet(1e999)",
        "dirichlet(1" + "0" * 400 + ")",
        "dirichlet('a')",
        "dirichlet(1, 2)",
        "dirichlet(0.3, beta=2)",
        "sorted(2)",
        "iid; iid",
        "__import__('os').getcwd()",
        None,
    ],
)
def test_unknown_kinds(kind):
    known = r"known: iid, dirichlet\(alpha\) with alpha > 0, sorted\.$"
    with pytest.raises(ValueError, match=known) as error:
        data.partition(LABELS, 5, kind, seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["iid", "sorted", "dirichlet(1)"])
@pytest.mark.parametrize("num_workers", [0, 4])
def test_too_few_samples(kind, num_workers):
    with pytest.raises(ValueError, match=rf"1 <= workers <= samples; got {num_workers} workers, 3"):
        data.partition(np.array([0, 1, 1]), num_workers, kind, seed=0)


def test_dirichlet_gives_up_with_the_numbers():
    message = r"^dirichlet\(0\.001\) left some of 300 workers without any of 345 samples"
    with pytest.raises(ValueError, match=message):
        data.partition(LABELS, 300, "dirichlet(0.001)", seed=0)


# Batches


def test_pad_partition():
    indices, sizes = data.pad_partition([np.array([4, 2, 7]), np.array([1]), np.array([9, 0])])
    assert indices.dtype == sizes.dtype == np.int32
    assert sizes.tolist() == [3, 1, 2]
    assert indices.tolist() == [[4, 2, 7], [1, 1, 1], [9, 0, 9]]


@pytest.mark.parametrize("parts", [[], [np.array([1]), np.array([], int)]])
def test_pad_partition_wants_samples_for_everyone(parts):
    with pytest.raises(ValueError, match="every worker needs at least one sample; got sizes"):
        data.pad_partition(parts)


def test_batches_hold_the_workers_own_samples():
    parts = data.partition(LABELS, 6, "dirichlet(0.3)", seed=0)
    indices, sizes = data.pad_partition(parts)
    x = np.arange(len(LABELS), dtype=np.float32)[:, None] * np.ones(2, np.float32)
    batch = data.sample_batch(jax.random.key(0), indices, sizes, x, LABELS, 2000)
    assert batch["x"].shape == (6, 2000, 2)
    assert batch["y"].shape == (6, 2000)
    for part, drawn, y in zip(parts, np.asarray(batch["x"])[..., 0].astype(int), batch["y"]):
        assert set(drawn) <= set(part)
        np.testing.assert_array_equal(LABELS[drawn], y)
        # Uniform, with replacement: within 6 deviations of 2000 / size.
        counts = np.bincount(drawn, minlength=len(LABELS))[part]
        mean = 2000 / len(part)
        assert np.abs(counts - mean).max() <= 6 * np.sqrt(mean)


def test_a_workers_batch_depends_on_its_index_and_the_key_only():
    indices = np.tile(np.arange(50, dtype=np.int32), (4, 1))
    x = np.arange(50, dtype=np.float32)

    def draw(key, n):
        return data.sample_batch(key, indices[:n], np.full(n, 50, np.int32), x, x, 30)["x"]

    key = jax.random.key(1)
    four = draw(key, 4)
    np.testing.assert_array_equal(four[:2], draw(key, 2))
    np.testing.assert_array_equal(four, jax.jit(draw, static_argnums=1)(key, 4))
    assert len({row.tobytes() for row in np.asarray(four)}) == 4
    assert (four != draw(jax.random.key(2), 4)).any()


def test_batches_in_scan_and_vmap():
    indices, sizes = data.pad_partition(data.partition(LABELS, 3, "iid", seed=0))
    x, y = jnp.asarray(np.eye(10, dtype=np.float32)[LABELS]), jnp.asarray(LABELS)

    def draw(key):
        return data.sample_batch(key, indices, sizes, x, y, 4)

    def run(key):
        return jax.lax.scan(
            lambda carry, step: (carry, draw(jax.random.fold_in(key, step))), 0, jnp.arange(5)
        )[1]

    keys = jax.random.split(jax.random.key(0), 2)
    batches = jax.jit(jax.vmap(run))(keys)
    assert batches["x"].shape == (2, 5, 3, 4, 10)
    np.testing.assert_array_equal(batches["x"].argmax(-1), batches["y"])
    one = draw(jax.random.fold_in(keys[1], 3))
    np.testing.assert_array_equal(batches["y"][1, 3], one["y"])
