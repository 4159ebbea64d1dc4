"""Several hosts, as processes on one: their common results, and what happens when one dies."""

import atexit
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

from experiments.data import datasets
from experiments.execution import sweep
from experiments.grid.config import Config
from experiments.training import devices
from tests.experiments.one_of_several import watched

ROOT = pathlib.Path(__file__).parents[2]
CACHE = tempfile.mkdtemp(prefix="byzjax-xla-")  # compiled programs, for these tests only
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
# An attack that draws random numbers, and momenta: everything that a state may hold.
GRID = Config(
    model="softmax", n=5, f=1, s=(1,), seeds=1, steps=8, eval_every=2, batch_size=4,
    rule=("median",), attack=("gaussian(sigma=1.0)",),
)  # fmt: skip
WORDS = "--model softmax --n 5 --f 1 --s 1 --seeds 1 --steps 8 --eval-every 2 --batch-size 4"
WORDS += " --study main --rule median --attack gaussian(sigma=1.0)"
LIMIT = 120  # seconds after which a test fails and its processes are killed
CLUSTERS = ("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "JAX_COORDINATOR", "JAX_NUM_PROCESSES")


def free_port(least=0):
    """A free port."""
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", least))
        except OSError:
            return free_port(least + 1)
        return listener.getsockname()[1]


@pytest.fixture
def start(tmp_path):
    """Starts process i of two; each writes results to a folder, and bits and errors to files."""
    processes = []

    def start(i, port, options=(), then=(0, 0), **environment):
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(CLUSTERS)}
        ours = {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_COMPILATION_CACHE_DIR": CACHE,
            "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
        }
        words = ("-m", "tests.experiments.one_of_several", tmp_path / f"bits.{i}", *then)
        results = ("--results", tmp_path / f"results.{i}")
        with (tmp_path / f"errors.{i}").open("w") as errors:
            processes.append(
                subprocess.Popen(
                    [sys.executable, *map(str, (*words, *WORDS.split(), *options, *results))],
                    cwd=ROOT,
                    env=inherited | ours | environment,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )
            )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait(30)


def one_of_two(i, port):
    return (*f"--coordinator 127.0.0.1:{port} --num-processes 2 --process-id {i}".split(),)


def slurm(i, port):
    """SLURM's variables for a task; JAX derives the coordinator's port from the job's number."""
    return {
        "SLURM_JOB_ID": str(port - (65536 - 2**12)),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(i),
        "SLURM_LOCALID": "0",
    }


def said(tmp_path, i):
    return (tmp_path / f"errors.{i}").read_text()


def stopped_with_a_message(tmp_path, i):
    """The laboratory's message if the error reached it, JAX's if JAX ended the process."""
    text = said(tmp_path, i)
    return f"error: process {i} of 2 stopped: " in text or "another task died" in text


@pytest.mark.slow
def test_two_processes_reproduce_one_though_one_of_them_dies(start, tmp_path, monkeypatch):
    port = free_port()
    dying = start(1, port, one_of_two(1, port), then=(2, int(signal.SIGKILL)))
    other = start(0, port, one_of_two(0, port))
    assert dying.wait(LIMIT) == -signal.SIGKILL
    assert other.wait(LIMIT) != 0
    assert stopped_with_a_message(tmp_path, 0), said(tmp_path, 0)
    folder = tmp_path / "results.0" / "main"
    assert not list(folder.glob("blocks/*"))
    (kept,) = folder.glob("checkpoints/*/[0-9]*")
    assert kept.name in ("4", "6")

    # Restarted, as SLURM would.
    port = free_port(65536 - 2**12)
    pair = [start(i, port, ("--coordinator", "auto"), **slurm(i, port)) for i in (0, 1)]
    assert [process.wait(LIMIT) for process in pair] == [0, 0], said(tmp_path, 0)

    digits, alone = datasets.load("digits"), tmp_path / "alone"
    monkeypatch.setattr(devices, "equal_on_all", watched(tmp_path / "bits"))
    tasks = sweep.tasks([GRID], alone, lambda _: digits)
    (expected,) = sweep.run(tasks, alone, lambda _: digits, devices.mesh(2))
    (path,) = folder.glob("blocks/*")
    block = json.loads(path.read_text())
    assert path.name == tasks[0].path.name
    assert block["runs"] == expected["runs"]
    assert block["environment"]["device"] == expected["environment"]["device"]
    undisturbed = (tmp_path / "bits").read_text().split()
    assert len(set(undisturbed)) == 4
    for i in (0, 1):
        bits = (tmp_path / f"bits.{i}").read_text().split()
        before = len(bits) - (4 - int(kept.name) // 2)  # evaluations of the first start
        assert before in (2, 3)
        assert bits == undisturbed[:before] + undisturbed[int(kept.name) // 2 :]
    assert not (tmp_path / "results.1").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "sent"), [(0, signal.SIGKILL), (1, signal.SIGSTOP), (0, signal.SIGTERM)]
)
def test_no_process_waits_for_one_that_is_gone(start, tmp_path, victim, sent):
    """Also the first process, and one that is only silent for longer than a heartbeat may take."""
    port = free_port()
    then = {victim: (2, int(sent))}
    pair = [start(i, port, one_of_two(i, port), then.get(i, (0, 0))) for i in (0, 1)]
    assert pair[1 - victim].wait(LIMIT) != 0
    assert stopped_with_a_message(tmp_path, 1 - victim), said(tmp_path, 1 - victim)


@pytest.mark.slow
def test_processes_that_would_do_different_things_stop(start, tmp_path):
    port = free_port()
    pair = [start(i, port, (*one_of_two(i, port), "--learning-rate", f"0.{i + 1}")) for i in (0, 1)]
    assert [process.wait(60) for process in pair] == [2, 2]
    for i in (0, 1):
        last = said(tmp_path, i).strip().splitlines()[-1]
        assert "processes 1 plan different blocks than process 0; expected the same options" in last
        assert "Traceback" not in said(tmp_path, i)


@pytest.mark.parametrize("coordinator", ["auto", "127.0.0.1:1"])
def test_a_cluster_that_says_nothing_is_one_line(start, tmp_path, coordinator):
    assert start(0, 1, ("--coordinator", coordinator)).wait(LIMIT) == 2
    last = said(tmp_path, 0).strip().splitlines()[-1]
    assert last.startswith("error: no SLURM, TPU pod or Kubernetes environment detected; got coord")
