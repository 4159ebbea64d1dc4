"""`byzjax.torch` inside of ByzFL: its own training loop, unchanged."""

import importlib
import importlib.util
import struct

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from tests.test_torch import Aggregator, agree, drawn  # noqa: E402


@pytest.fixture(scope="module")
def byzfl():
    """The package. It imports torchvision, whose package for CUDA lacks its operators on CPU.

    Two are declared here, so that the import goes through; ByzFL uses none of them.
    """
    for name in ("byzfl", "torchvision"):
        if importlib.util.find_spec(name) is None:
            pytest.skip("ByzFL is not installed")
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        DECLARED.append(library)
    return importlib.import_module("byzfl")


DECLARED = []  # as long as this process lives


def write_idx(folder, images, labels):
    """Made-up digits in the files of MNIST that torchvision reads."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (raw / f"{name}-{kind}-ubyte").write_bytes(head + array.tobytes())
            (raw / f"{name}-{kind}-ubyte.gz").write_bytes(b"")  # of which only the name is read


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 600).astype(np.uint8)
    shapes = rng.integers(0, 256, (10, 28, 28))
    images = np.clip(shapes[labels] + rng.normal(0, 40, (600, 28, 28)), 0, 255).astype(np.uint8)
    write_idx(folder, images, labels)
    return folder


def byzfl_training(data, folder, aggregator, pre, attack, algorithm=None):
    """The accuracies that ByzFL's own loop stores."""
    train = importlib.import_module("byzfl.benchmark.train")
    algorithm = algorithm or {"name": "DSGD", "parameters": {}}
    train.start_training(
        {
            "benchmark_config": {
                "device": "cpu",
                "training_seed": 0,
                "nb_workers": 7,
                "nb_honest_clients": 5,
                "f": 2,
                "tolerated_f": 2,
                "size_train_set": 0.9,
                "data_distribution_seed": 0,
                "data_distribution": {"name": "iid", "distribution_parameter": None},
                "training_algorithm": algorithm,
                "nb_steps": 12,
            },
            "model": {
                "name": "fc_mnist",
                "dataset_name": "mnist",
                "nb_labels": 10,
                "loss": "NLLLoss",
                "learning_rate": 0.1,
                "learning_rate_decay": 1.0,
                "milestones": [],
            },
            "aggregator": aggregator,
            "pre_aggregators": pre,
            "honest_clients": {"momentum": 0.9, "weight_decay": 1e-4, "batch_size": 25},
            "attack": {"name": attack, "parameters": {}},
            "evaluation_and_results": {
                "evaluation_delta": 4,
                "batch_size_evaluation": 60,
                "evaluate_on_test": True,
                "store_per_client_metrics": False,
                "store_models": False,
                "data_folder": str(data),
                "results_directory": str(folder),
            },
        }
    )
    (losses,) = folder.rglob("train_loss_tr_seed*.txt")
    (accuracies,) = folder.rglob("test_accuracy_tr_seed*.txt")
    return np.loadtxt(losses, delimiter=","), np.loadtxt(accuracies, delimiter=",")


# Attacks of ByzFL: of a fixed strength, searched through the deployed aggregator, on labels.
ATTACKS = ["SignFlipping", "Optimal_InnerProductManipulation", "LabelFlipping"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_byzfl_trains_with_it_as_with_its_own(byzfl, digits, tmp_path, monkeypatch, attack):
    module = importlib.import_module("byzfl.aggregators.aggregators")
    monkeypatch.setattr(module, "Byzjax", Aggregator, raising=False)
    ours = {
        "name": "Byzjax",
        "parameters": {"rule": "trimmed_mean", "f": 2, "pre": ["nearest_neighbors"]},
    }
    theirs = {"name": "TrMean", "parameters": {"f": 2}}
    mixing = [{"name": "NNM", "parameters": {"f": 2}}]
    losses, accuracies = byzfl_training(digits, tmp_path / "a", ours, [], attack)
    expected = byzfl_training(digits, tmp_path / "b", theirs, mixing, attack)
    np.testing.assert_allclose(losses, expected[0], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(accuracies, expected[1], atol=0.02)
    assert losses[-1] < losses[0]


def test_byzfl_averages_models_with_it(byzfl, digits, tmp_path, monkeypatch):
    module = importlib.import_module("byzfl.aggregators.aggregators")
    monkeypatch.setattr(module, "Byzjax", Aggregator, raising=False)
    parameters = {"proportion_selected_clients": 1.0, "local_steps_per_client": 2}
    algorithm = {"name": "FedAvg", "parameters": parameters}
    ours = {"name": "Byzjax", "parameters": {"rule": "median"}}
    losses, _ = byzfl_training(digits, tmp_path / "a", ours, [], "SignFlipping", algorithm)
    theirs = {"name": "Median", "parameters": {}}
    expected, _ = byzfl_training(digits, tmp_path / "b", theirs, [], "SignFlipping", algorithm)
    np.testing.assert_allclose(losses, expected, rtol=2e-3, atol=2e-3)


def test_an_instance_stands_where_byzfls_does(byzfl):
    """`server.robust_aggregator`, and a plain call."""
    x = drawn(7, 5)
    ours = Aggregator("trimmed_mean", f=2)
    info = {"name": "TrMean", "parameters": {"f": 2}}
    for updates in (x, list(x)):
        agree(ours(updates), byzfl.TrMean(f=2)(updates))
        theirs = byzfl.RobustAggregator(info)
        agree(ours.aggregate_vectors(updates), theirs.aggregate_vectors(updates))
