"""`--log`: the curves of runs in TensorBoard's files and in the calls of Weights & Biases."""

import importlib.util
import json
import shlex
import struct
import sys
import types

import numpy as np
import pytest

from experiments.cli import commands
from experiments.execution import store, tracking
from experiments.grid.config import Config
from experiments.training import assemble

OPTIONS = "--model softmax --n 5 --f 1 --s 1 --seeds 2 --steps 4 --eval-every 2 --batch-size 4"
OPTIONS += " --rule median --attack sign_flip --study logged"
with_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboardX") is None, reason="needs tensorboardX"
)


@pytest.fixture
def task(tmp_path):
    config = Config(n=5, f=1, s=(1,), seeds=2, rule=("median",), attack=("sign_flip",))
    (block,) = assemble.plan(config)
    described = store.identity(config, block, "")
    return store.Task(config, block, described, store.block_path(tmp_path, described))


def scalars(folder):
    """The scalars of the event files below a folder: `{run: {tag: [(step, value), ...]}}`."""
    from tensorboardX.proto import event_pb2

    logged = {}
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        data, place = path.read_bytes(), 0
        tags = logged.setdefault(str(path.parent.relative_to(folder)), {})
        while place < len(data):
            (length,) = struct.unpack("<Q", data[place : place + 8])
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            place += 12 + length + 4
            for value in event.summary.value:
                tags.setdefault(value.tag, []).append((event.step, value.simple_value))
    return logged


@with_tensorboard
def test_tensorboard_shows_what_is_stored_and_changes_no_bit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "_write_report", lambda *_, **__: "")
    runs = []
    for more in ("", " --log tensorboard"):
        folder = tmp_path / more.strip(" -") / "logged"
        line = f"{OPTIONS}{more} --results {shlex.quote(str(folder.parent))}"
        assert commands.main(shlex.split(line)) == 0, capsys.readouterr().err
        (path,) = (folder / "blocks").glob("*.json")
        runs.append(json.loads(path.read_text())["runs"])
        assert (folder / "tensorboard").exists() == bool(more)
    plain, stored = runs
    assert stored == plain

    logged, block = scalars(folder / "tensorboard"), f"median_under_sign_flip-{path.name[:8]}"
    assert logged.keys() == {f"{block}/s=1,seed={seed}" for seed in (0, 1)}
    for run in stored:
        tags = logged[f"{block}/s={run['s']},seed={run['seed']}"]
        for what in ("accuracy", "loss"):
            steps, values = zip(*tags[what])
            assert list(steps) == run["step"] == [2, 4]
            np.testing.assert_allclose(values, run[what], rtol=1e-5)


@pytest.fixture
def wandb(monkeypatch):
    """The part of the API of wandb that is used; it keeps the calls."""
    runs = []

    def init(**settings):
        lines, ended = [], []
        runs.append((settings, lines, ended))
        log = lambda values, step: lines.append((step, values))  # noqa: E731
        return types.SimpleNamespace(log=log, finish=lambda: ended.append(True))

    fake = types.ModuleType("wandb")
    fake.__spec__ = importlib.util.spec_from_loader("wandb", None)
    fake.init, fake.Settings = init, lambda **given: given
    monkeypatch.setitem(sys.modules, "wandb", fake)
    fake.runs = runs
    return fake


def test_wandb_has_a_run_for_each_seed(wandb, task, tmp_path):
    folder = tmp_path / "study"
    with tracking.Tracker("wandb").block(task, folder) as add:
        assert not wandb.runs
        add(25, np.float32([0.25, 0.5]), np.float32([2, np.nan]))
        add(50, np.float32([0.5, 0.75]), np.float32([1, 0.5]))
    assert len(wandb.runs) == 2
    block = f"median_under_sign_flip-{task.path.stem[:8]}"
    for place, (settings, lines, ended) in enumerate(wandb.runs):
        assert settings["name"] == f"{block}/s=1,seed={place}"
        assert (settings["project"], settings["group"]) == ("study", block)
        assert settings["config"] == task.described
        assert settings["dir"] == str(folder)
        assert folder.is_dir()
        assert settings["reinit"] == "create_new"
        assert [step for step, _ in lines] == [25, 50]
        assert [values["accuracy"] for _, values in lines] == [
            0.25 * (1 + place),
            0.5 + 0.25 * place,
        ]
        assert ended == [True]
    np.testing.assert_equal([values["loss"] for _, values in wandb.runs[1][1]], [np.nan, 0.5])


def test_a_writer_that_fails_ends_the_logs_and_not_the_block(wandb, task, tmp_path, capsys):
    calls = []

    def failing(**settings):
        calls.append(settings)
        raise OSError("no connection\nto the server")

    wandb.init = failing
    tracker = tracking.Tracker("wandb")
    for step in (25, 50):
        with tracker.block(task, tmp_path) as add:
            add(step, np.float32([0.25, 0.5]), np.float32([2, 1]))
    assert capsys.readouterr().err == "No more logs: no connection to the server\n"
    assert len(calls) == 1


@pytest.mark.parametrize("kind", tracking.KINDS)
def test_the_error_names_the_extra(kind, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert commands.main(["--log", kind]) == 2
    package = tracking.KINDS[kind].package
    line = f"--log {kind} needs {package}: pip install -e '.[experiments,{kind}]' in this checkout."
    assert capsys.readouterr().err == f"error: {line}\n"


def test_an_unknown_log_is_one_line(capsys):
    assert commands.main(["--log", "tensorbord"]) == 2
    assert capsys.readouterr().err == "error: unknown log 'tensorbord'; did you mean tensorboard?\n"


def test_long_names_are_cut(task):
    described = task.described | {"rule": f"my_rules:nearest(k={'1' * 300}, of='a/b')"}
    path = task.path.with_name("0123456789abcdef.json")
    one, other = tracking.run_names(task._replace(described=described, path=path))
    assert one.startswith("my_rules_nearest(k=111")
    assert one.endswith("1-01234567/s=1,seed=0")
    assert (len(one), one.count("/")) == (len(other), 1)
    assert len(one) < 128
