import gzip
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from experiments.data import convex, datasets

WIDTHS = {"a9a": 123, "mushrooms": 112, "spambase": 57, "w8a": 300}
FILES = {
    "a9a": ["a9a", "a9a.t"],
    "mushrooms": ["mushrooms"],
    "spambase": ["spambase.data"],
    "w8a": ["w8a"],
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def connect(*args):
        raise AssertionError(f"a test tried to reach the network: {args}")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, request):
    if "real" not in request.node.name:
        monkeypatch.delenv("BYZJAX_DATA_DIR", raising=False)


def write(path, text, compressed=False):
    content = text.encode("latin1")
    if compressed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def mushrooms(count=10):
    """Sample i has feature 1 + i, and label 1 if i is even, else 2."""
    return "".join(f"{1 + i % 2} {1 + i}:1 112:1 \n" for i in range(count))


def spambase(count=10):
    """Feature 1 is i, feature 2 is 5, the others 0; the label is that of odd i."""
    return "".join(f"{i},5,{','.join(['0'] * 55)},{i % 2}\r\n" for i in range(count))


# Reading


@pytest.mark.parametrize("compressed", [False, True])
def test_a9a_has_a_test_file(tmp_path, compressed):
    write(tmp_path / "a9a", "-1 3:1 123:1 \n+1 1:1\n-1 \n", compressed)
    write(tmp_path / "a9a.t", "1 122:1 # a comment\n\n-1 2:0.5\n", compressed)
    dataset = datasets.load("a9a", data_dir=tmp_path)
    expected = np.zeros((3, 123), np.float32)
    expected[[0, 0, 1], [2, 122, 0]] = 1
    np.testing.assert_array_equal(dataset.train_x, expected)
    expected = np.zeros((2, 123), np.float32)
    expected[[0, 1], [121, 1]] = [1, 0.5]
    np.testing.assert_array_equal(dataset.test_x, expected)
    assert dataset.train_y.tolist() == [0, 1, 0]
    assert dataset.test_y.tolist() == [1, 0]
    assert dataset.num_classes == 2
    assert dataset.train_x.dtype == dataset.test_x.dtype == np.float32
    assert dataset.train_y.dtype == dataset.test_y.dtype == np.int32


def test_a_single_file_is_split_in_a_frozen_order(tmp_path):
    write(tmp_path / "mushrooms", mushrooms())
    dataset = datasets.load("mushrooms", data_dir=tmp_path)
    order = [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]  # of RandomState(0), in every NumPy
    x = np.eye(10, 112, dtype=np.float32)
    x[:, 111] = 1
    np.testing.assert_array_equal(dataset.train_x, x[order[:8]])
    np.testing.assert_array_equal(dataset.test_x, x[order[8:]])
    assert dataset.train_y.tolist() == [i % 2 for i in order[:8]]
    assert dataset.test_y.tolist() == [0, 1]
    write(tmp_path / "mushrooms", mushrooms(9))
    assert len(datasets.load("mushrooms", data_dir=tmp_path).train_y) == 7


def test_spambase_is_standardized_by_the_training_samples(tmp_path):
    write(tmp_path / "spambase.data", spambase())
    dataset = datasets.load("spambase", data_dir=tmp_path)
    train, test = np.array([2.0, 8, 4, 9, 1, 6, 7, 3]), np.array([0.0, 5])
    mean, std = train.mean(), train.std()
    np.testing.assert_allclose(dataset.train_x[:, 0], (train - mean) / std, rtol=1e-6)
    np.testing.assert_allclose(dataset.test_x[:, 0], (test - mean) / std, rtol=1e-6)
    assert not dataset.train_x[:, 1:].any()  # constant features
    assert not dataset.test_x[:, 1:].any()
    np.testing.assert_array_equal(dataset.train_y, train % 2)
    assert dataset.train_x.dtype == dataset.test_x.dtype == np.float32


def test_a_constant_feature_is_only_shifted():
    value = np.float32(0.1)  # of which 1,000 have a mean that is not exactly 0.1
    raw = {"train_x": np.full((1000, 1), value), "test_x": np.array([[value], [1.1]], np.float32)}
    convex.standardize(raw)
    np.testing.assert_allclose(raw["train_x"], 0, atol=1e-6)
    np.testing.assert_allclose(raw["test_x"], [[0], [1]], atol=1e-6)


def test_checksum_is_of_the_content(tmp_path):
    def checksum(text, compressed):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        write(folder / "spambase.data", text, compressed)
        return datasets.load("spambase", data_dir=folder).checksum

    first = checksum(spambase(), False)
    assert checksum(spambase(), True) == first
    assert checksum(spambase().replace("\r\n", "\n"), False) == first
    assert checksum(spambase().replace("9,5", "9,6"), False) != first


# Finding files


def test_order_of_the_folders(tmp_path, monkeypatch):
    def num_samples(data_dir=None):
        return len(datasets.load("mushrooms", data_dir=data_dir).train_y)

    given, environment = tmp_path / "given", tmp_path / "environment"
    home = tmp_path / "home"
    cache = home / ".cache" / "byzjax" / "convex"
    xdg = tmp_path / "xdg" / "byzjax" / "convex"
    for folder, count in ((given, 5), (environment, 10), (xdg, 15), (cache, 20)):
        folder.mkdir(parents=True)
        write(folder / "mushrooms", mushrooms(count))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert num_samples() == 16
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert num_samples() == 12
    monkeypatch.setenv("BYZJAX_DATA_DIR", str(environment))
    assert num_samples() == 8
    assert num_samples(given) == num_samples(str(given)) == 4
    # A plain file takes precedence.
    write(given / "mushrooms", mushrooms(10), compressed=True)
    assert num_samples(given) == 4


@pytest.mark.parametrize("name", convex.NAMES)
@pytest.mark.parametrize("download", [False, True])
def test_a_missing_file_stops_at_once(name, download, tmp_path, monkeypatch):
    monkeypatch.setenv("BYZJAX_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        datasets.load(name, download=download)
    message = str(error.value)
    wanted = " and no ".join(f"{file}[.gz]" for file in FILES[name])
    assert message.startswith(f"{name}: no {wanted} in {tmp_path}; download it there from ")
    assert ("archive.ics.uci.edu" if name == "spambase" else "/~cjlin/libsvmtools/") in message
    assert message.endswith(", or set BYZJAX_DATA_DIR.")
    assert len(message.replace(str(tmp_path), "")) < 150
    assert "\n" not in message


def test_only_what_is_missing_is_named(tmp_path):
    write(tmp_path / "a9a", "1 1:1\n", compressed=True)
    (tmp_path / "a9a.t").mkdir()  # not a file
    with pytest.raises(FileNotFoundError) as error:
        datasets.load("a9a", data_dir=tmp_path)
    assert str(error.value).startswith(f"a9a: no a9a.t[.gz] in {tmp_path}; download it")


# Damaged files

LIBSVM = "expected a label 1 or 2, then index:value with rising indices in 1 .. 112"
CSV = "expected 57 finite numbers and a label 0 or 1, with commas between"
BAD_LIBSVM = [
    "3 1:1",  # another label
    "1.5 1:1",
    "nan 1:1",
    "spam 1:1",
    "1,2 1:1",
    "1 0:1",
    "1 -1:1",
    "1 113:1",
    "1 99999999999:1",
    "1 99999999999999999999999:1",
    "1 2:1 1:1",
    "1 2:1 2:1",
    "1 2:",
    "1 2",
    "1 2:x",
    "1 x:1",
    "1 2:1 7",
    "1 2:nan",
    "1 2:inf",
    "1 2:1e39",
    "\xff\xfe\0",
    "<html>",
]


@pytest.mark.parametrize("bad", BAD_LIBSVM)
@pytest.mark.parametrize("where", [0, 4, 10])
def test_a_damaged_line_is_named(bad, where, tmp_path):
    lines = mushrooms().splitlines()
    lines.insert(where, bad)
    lines.insert(1, "")  # which counts as a line
    write(tmp_path / "mushrooms", "\n".join(lines) + "\n")
    number = 1 if where == 0 else where + 2
    with pytest.raises(ValueError, match="expected") as error:
        datasets.load("mushrooms", data_dir=tmp_path)
    message = str(error.value)
    assert message == f"{tmp_path / 'mushrooms'}, line {number}: {LIBSVM}; got {bad!r}."


ZEROS = ",".join(["0"] * 56)


@pytest.mark.parametrize(
    "bad",
    [
        f"{ZEROS},1",  # one number missing
        f"{ZEROS},0,0,1",
        f"{ZEROS},0,2",
        f"{ZEROS},x,1",
        f"{ZEROS},,1",
        f"{ZEROS},nan,1",
        f"{ZEROS},1e39,1",
        "# a comment",
        "<html>",
    ],
)
@pytest.mark.parametrize("where", [0, 4, 10])
def test_a_damaged_line_of_numbers_is_named(bad, where, tmp_path):
    lines = spambase().splitlines()
    lines.insert(where, bad)
    write(tmp_path / "spambase.data", "\n".join(lines), compressed=True)
    with pytest.raises(ValueError, match="expected") as error:
        datasets.load("spambase", data_dir=tmp_path)
    path = tmp_path / "spambase.data.gz"
    assert str(error.value) == f"{path}, line {where + 1}: {CSV}; got {bad[:40]!r}."


def test_the_first_of_several_damaged_lines_is_named(tmp_path):
    write(tmp_path / "a9a", "1 1:1\n" * 5 + "2 1:1\n" + "1 1:1\n" * 5 + "x\n")
    write(tmp_path / "a9a.t", "x\n")
    with pytest.raises(ValueError, match=r"a9a, line 6: expected a label -1 or 1, .*; got '2 1:1'"):
        datasets.load("a9a", data_dir=tmp_path)


def test_the_test_file_is_checked_too(tmp_path):
    write(tmp_path / "a9a", "1 1:1\n")
    write(tmp_path / "a9a.t", "1 1:1\n1 124:1\n")
    with pytest.raises(ValueError, match=r"a9a\.t, line 2: .* in 1 \.\. 123; got '1 124:1'"):
        datasets.load("a9a", data_dir=tmp_path)


@pytest.mark.parametrize("damage", ["not gzip", "cut", "changed", "empty"])
def test_a_damaged_gzip_file_is_named(damage, tmp_path):
    whole = gzip.compress(mushrooms(100).encode())
    middle = len(whole) // 2
    content = {
        "not gzip": mushrooms().encode(),
        "cut": whole[:middle],
        "changed": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
        "empty": b"",
    }[damage]
    (tmp_path / "mushrooms.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"mushrooms\.gz is damaged|needs samples") as error:
        datasets.load("mushrooms", data_dir=tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", convex.NAMES)
@pytest.mark.parametrize("text", ["", "\n \n"])
def test_files_without_samples(name, text, tmp_path):
    for file in FILES[name]:
        write(tmp_path / file, text)
    message = rf"^{name} needs samples to train and to test; its files in .* give 0 and 0\.$"
    with pytest.raises(ValueError, match=message):
        datasets.load(name, data_dir=tmp_path)


def test_one_sample_cannot_be_split(tmp_path):
    write(tmp_path / "mushrooms", mushrooms(1))
    with pytest.raises(ValueError, match=r"mushrooms needs samples .* give 0 and 1\.$"):
        datasets.load("mushrooms", data_dir=tmp_path)


# The published files

PUBLISHED = {  # samples of label 0 and of label 1, to train and to test; checksum
    "a9a": ([24720, 7841], [12435, 3846], "c980176fbb6aba9c"),
    "mushrooms": ([3134, 3365], [782, 843], "bd48fe28ae8b3733"),
    "spambase": ([2205, 1475], [583, 338], "f7e056cd76b491f6"),
    "w8a": ([38613, 1186], [9657, 293], "4779673c0a73902c"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_files(name):
    folder = os.environ.get("BYZJAX_DATA_DIR")
    if not folder:
        pytest.skip("BYZJAX_DATA_DIR is not set: no published files")
    names = [(file, f"{file}.gz") for file in FILES[name]]
    if not all(any((Path(folder) / f).is_file() for f in pair) for pair in names):
        pytest.skip(f"no {name} in BYZJAX_DATA_DIR, {folder}")
    dataset = datasets.load(name)
    train, test, checksum = PUBLISHED[name]
    assert dataset.train_x.shape == (sum(train), WIDTHS[name])
    assert dataset.test_x.shape == (sum(test), WIDTHS[name])
    assert np.bincount(dataset.train_y).tolist() == train
    assert np.bincount(dataset.test_y).tolist() == test
    assert dataset.checksum == checksum
    if name == "spambase":
        np.testing.assert_allclose(dataset.train_x.mean(0, dtype=np.float64), 0, atol=1e-6)
        np.testing.assert_allclose(dataset.train_x.std(0, dtype=np.float64), 1, atol=1e-5)
    else:
        assert set(np.unique(dataset.train_x)) == {0, 1}
