"""Untrusted folders, damaged files, and settings that make no sense."""

import contextlib
import dataclasses
import json
import multiprocessing
import re
import shutil
import threading

import jax
import numpy as np
import pytest

from experiments.cli import commands
from experiments.data import datasets, partitions
from experiments.execution import checkpoint, locks, store, sweep
from experiments.grid import calls, planning, specs
from experiments.grid.config import Config
from experiments.training.program import Metrics

SMALL = Config(
    model="softmax", n=5, f=1, s=(1,), seeds=1, steps=2, eval_every=1, batch_size=2,
    rule=("median",), attack=("sign_flip",),
)  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def tasks_in(folder, digits, config=SMALL):
    return sweep.tasks([config], folder, lambda _: digits)


def written_by_a_stranger(folder, digits, rule):
    """A study's folder whose blocks belong to another rule."""
    tasks = tasks_in(folder, digits)
    blocks = sweep.run(tasks, folder, lambda _: digits)
    grid = dataclasses.asdict(dataclasses.replace(SMALL, rule=(rule,)))
    store.write_json(folder / "config.json", {"grids": [grid]})
    described = {k: v for k, v in blocks[0].items()} | {"rule": str(specs.read("rule", rule))}
    described |= {"code": calls.code([rule])} if ":" in rule else {}
    shutil.rmtree(folder / "blocks")
    store.write_json(folder / "blocks" / "0.json", described)


@pytest.mark.parametrize("command", ["report", "choose"])
def test_reading_results_imports_and_calls_nothing(tmp_path, monkeypatch, digits, capsys, command):
    trap = tmp_path / "trap.py"
    trap.write_text(f"import pathlib\npathlib.Path({str(tmp_path)!r}, 'imported').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for k, rule in enumerate((f"os:system(command='touch {tmp_path}/called')", "trap:rule")):
        folder = tmp_path / str(k)
        written_by_a_stranger(folder, digits, rule)
        if command == "report":
            assert commands.main([command, str(folder)]) == 0
            assert rule.partition("(")[0] in capsys.readouterr().out
        else:
            with contextlib.suppress(ValueError, SystemExit):  # `choose` has no candidates
                commands.main([command, str(folder)])
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    "name", ["os:system", "os:sep", "json:dumps", "builtins:print", "shutil:rmtree"]
)
def test_only_rules_are_called(name):
    with pytest.raises(ValueError, match=rf"^{name} is no rule: expected a function with a param"):
        specs.parse("rule", f"{name}(command='x')", f=1)


def test_user_defined_functions(tmp_path, monkeypatch):
    (tmp_path / "own_rules.py").write_text(
        "import optax\n"
        "def first(updates, *, f): return updates\n"
        "def memory(*, radius) -> optax.GradientTransformation: return optax.identity()\n"
        "def other(radius): return optax.identity()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert specs.parse("rule", "own_rules:memory(radius=1.0)", f=1).remembers
    assert specs.function("rule", "own_rules:first").__name__ == "first"
    with pytest.raises(ValueError, match="is no rule"):
        specs.function("rule", "own_rules:other")
    assert re.fullmatch(r"own_rules=[0-9a-f]{12}", calls.code(["own_rules:first"]))
    assert calls.code(["not_here:first"]) == "not_here=?"


@pytest.mark.parametrize("damage", ["{}", "[]", '"x"', "", "{", "[" * 30_000, b"\xff\xfe", None])
def test_a_damaged_block_is_named_and_trained_again(tmp_path, digits, capsys, damage):
    tasks = tasks_in(tmp_path, digits)
    (task,) = tasks
    task.path.parent.mkdir(parents=True)
    if damage is None:
        task.path.mkdir()
        (task.path / "inside").write_text("")
        assert store.read_block(task.path, store.PARTS) is None
        assert f"{task.path} is damaged" in capsys.readouterr().err
        return
    task.path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    (block,) = sweep.run(tasks, tmp_path, lambda _: digits)
    assert f"{task.path} is damaged; it counts as missing." in capsys.readouterr().err
    assert json.loads(task.path.read_text())["runs"] == block["runs"]


def test_a_damaged_checkpoint_is_set_aside(tmp_path, capsys):
    kept = checkpoint.Checkpoints(tmp_path / "block")
    states = {"w": jax.numpy.ones(3)}
    metrics = Metrics(*[np.zeros(1)] * len(Metrics._fields))
    diagnostics = {name: np.zeros(1) for name in checkpoint.diagnostics.NAMES}
    kept.save(2, states, [(metrics, diagnostics)])
    assert kept.restore(states)[0] == 2
    for part in sorted((tmp_path / "block").rglob("*")):
        if part.is_file():
            part.write_bytes(b"")
    assert kept.restore(states) is None
    said = capsys.readouterr().err
    assert f"the checkpoint {tmp_path / 'block'} cannot be read" in said
    assert (tmp_path / "block.damaged").is_dir()
    kept.save(1, states, [(metrics, diagnostics)])
    assert kept.restore(states)[0] == 1


def hold(path, ready, stop):
    with locks.alone(path, "a block"):
        ready.set()
        stop.wait(30)


def test_two_processes_do_not_train_one_block(tmp_path, digits, capsys):
    tasks = tasks_in(tmp_path / "one", digits)
    (block,) = sweep.run(tasks, tmp_path / "one", lambda _: digits)
    capsys.readouterr()
    (task,) = tasks_in(tmp_path / "two", digits)
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    lock = tmp_path / "two" / "locks" / task.path.stem
    other = context.Process(target=hold, args=(lock, ready, stop), daemon=True)
    other.start()
    try:
        assert ready.wait(60)
        store.write_json(task.path.with_suffix(".later"), block | {"seconds": 12345.0})
        timer = threading.Timer(
            0.5, lambda: (task.path.with_suffix(".later").rename(task.path), stop.set())
        )
        timer.start()
        (finished,) = sweep.run([task], tmp_path / "two", lambda _: digits)
        assert finished["seconds"] == 12345.0  # the block of the other
        told = capsys.readouterr()
        assert "two: median under sign_flip is being computed by another process; wait" in told.err
        assert "1 run was trained by another process at the same time." in told.out
        assert "programs" not in told.out
    finally:
        stop.set()
        other.join(30)


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    path = tmp_path / "block.json"
    with pytest.raises(OSError, match=r"block\.json cannot be written: No space left on device"):
        store.write_json(path, {"a": 1})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": float("nan")}, r"^learning_rate must be positive; got nan\."),
        ({"learning_rate": float("inf")}, r"^learning_rate must be finite; got inf\."),
        ({"weight_decay": float("nan")}, r"^weight_decay must be at least 0; got nan\."),
        ({"weight_decay": float("inf")}, r"^weight_decay must be finite; got inf\."),
        ({"batch_size": 10**12}, r"^batch_size must be at most 1000000; got 1000000000000\."),
        ({"n": 10**9}, r"^n must be at most 100000; got 1000000000\."),
        ({"seeds": 10**7}, r"^seeds must be at most 100000; got 10000000\."),
        ({"study": "../../x"}, r"^study must be the name of one folder; got '\.\./\.\./x'\."),
        ({"study": "a\0b"}, r"^study must be the name of one folder; got 'a\\x00b'\."),
        ({"rule": ("(" * 20_000,)}, r"^cannot read '\(+'\.\.\. of 20000 characters; expected"),
        ({"rule": (f"krum(m={'1' * 10**6})",)}, r"^cannot read 'krum\(m=1+'\.\.\. of 1000008 char"),
        ({"attack": ("(" * 900 + ")" * 900,)}, r"^cannot read '\("),
        ({"schedule": "steps(" + "(" * 900}, r"^cannot read schedule 'steps"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        planning.plan(dataclasses.replace(SMALL, **changes))
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 5000


def test_a_partition_of_nan_is_one_line():
    with pytest.raises(
        ValueError, match=r"^cannot read kind of partition 'dirichlet\(nan\)'; expected"
    ):
        partitions.partition(np.arange(4), 2, "dirichlet(nan)", seed=0)
