"""Workers over devices in the laboratory: results and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import commands
from experiments.data import datasets
from experiments.execution import block as blocks
from experiments.execution import sweep
from experiments.grid.config import Config
from experiments.training import devices
from tests.experiments.one_of_several import watched

SMALL = Config(
    model="softmax", n=7, f=2, s=(2,), seeds=2, steps=4, eval_every=2, batch_size=4,
    rule=("median",), attack=("gaussian(sigma=1.0)",),
)  # fmt: skip


@pytest.mark.slow  # tests/test_protocols_devices.py tests the same for single steps
def test_several_devices_end_where_one_does(tmp_path, monkeypatch, capsys):
    """Bit for bit here: the sums are the same, and 7 workers are no multiple of 3 devices.

    This is not promised for every model and rule: another program may sum in another order. So the
    number of devices is stored with a block, but is not part of its identity.
    """
    digits, over = datasets.load("digits"), devices.mesh(3)
    kind = jax.devices()[0].device_kind
    results, kept = [], []
    for mesh in (over, None):
        folder = tmp_path / str(devices.size(mesh))
        monkeypatch.setattr(
            devices, "equal_on_all", watched(tmp_path / f"bits.{devices.size(mesh)}")
        )
        tasks = sweep.tasks([SMALL], folder, lambda _: digits)
        results += sweep.run(tasks, folder, lambda _: digits, mesh)
        kept.append(blocks.checkpoints(tasks[0], folder, mesh).folder.name)
    bits = [(tmp_path / f"bits.{count}").read_text().split() for count in (3, 1)]
    assert len(set(bits[0])) == 2
    assert bits[0] == bits[1]
    assert results[0]["runs"] == results[1]["runs"]
    assert [block["environment"]["device"] for block in results] == [f"{kind} x 3", f"{kind} x 1"]

    assert [block.name for block in (tmp_path / "3" / "blocks").iterdir()] == [tasks[0].path.name]
    assert kept[0] != kept[1]  # but all digits of a block come from the same number of devices
    again = sweep.tasks([SMALL], tmp_path / "3", lambda _: digits)
    assert sweep.run(again, tmp_path / "3", lambda _: digits) == results[:1]
    said = capsys.readouterr().err
    assert f"finished blocks have device {kind} x 3, here it is {kind} x 1; results may" in said


def test_devices_that_part_are_found_out():
    over = devices.mesh(2)
    states = devices.on_each({"model": jnp.ones(3), "key": jax.random.key(0)}, over)

    def advance(states, lean):
        off = lean * jax.lax.axis_index(devices.AXIS)
        return states | {"model": states["model"] + off}, off

    advance_all = jax.jit(devices.shard_runs(advance, over))
    devices.equal_on_all(*advance_all(states, np.float32(0)))
    with pytest.raises(RuntimeError, match=r"^2 devices hold 2 different states, where all must "):
        devices.equal_on_all(*advance_all(states, np.float32(1e-7)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--devices 9",
            "devices must lie in 0 .. 8, the number available; JAX_NUM_CPU_DEVICES makes more",
        ),
        (
            "--devices -1",
            "devices must lie in 0 .. 8, the number available; JAX_NUM_CPU_DEVICES makes more",
        ),
        ("--devices 8 --n 7 --f 2 --s 0", "parameter_server computes 7 gradients a step, which "),
        (
            "--devices 2 --protocol asynchronous --momentum 0 --rule mean",
            "asynchronous computes 1 gradient a step, which cannot be spread over 2 devices; ",
        ),
        ("--num-processes 2", "num_processes and process_id need a coordinator; got "),
        ("--coordinator 127.0.0.1", "coordinator must be host:port, or auto; got '127.0.0.1'."),
        (
            "--coordinator 127.0.0.1:1 --num-processes 0",
            "num_processes must be at least 1; got 0.",
        ),
        (
            "--coordinator 127.0.0.1:1 --num-processes 2 --process-id 2",
            "process_id must lie in 0 .. num_processes - 1; got coordinator=127.0.0.1:1, "
            "num_processes=2, process_id=2.",
        ),
    ],
)
def test_errors_are_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commands, "_keep_compiled_programs", lambda: None)
    assert commands.main([*words.split(), "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())
