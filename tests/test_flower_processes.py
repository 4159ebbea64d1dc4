"""The example with real processes: SuperLink and SuperNodes over TLS, each node with its key."""

import contextlib
import json
import os
import pathlib
import re
import signal
import sys
import time

import numpy as np
import optax
import pytest

pytest.importorskip("flwr", reason="needs byzjax[flower]")

import byzjax
from byzjax.flower import RobustStrategy
from tests.flower_grid import LocalGrid, answer, record, values_of

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "flower"
sys.path.insert(0, str(EXAMPLE))

from digits import task, training  # noqa: E402
from federation import Federation  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
LIMIT = 900  # seconds, for a loaded machine


@contextlib.contextmanager
def federation(folder, lies):
    """A federation of nodes that lie like this, which ends with all its processes in any case."""

    def too_long(*_):
        raise TimeoutError(f"more than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT)
    try:
        with Federation(folder) as made:
            made.environment["JAX_PLATFORMS"] = "cpu"
            made.environment.pop("XLA_FLAGS", None)
            made.superlink()
            made.supernodes([{"library": "numpy", "lies": text} for text in lies])
            yield made
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        left = end_all(folder)
    assert not left


def end_all(folder):
    """Ends the processes that Flower itself has detached; those that remain after 20 s."""
    deadline = time.monotonic() + 20
    while (left := pids_of(folder, "")) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    return left


def pids_of(folder, program):
    """Processes of this federation, by its folder in their environment."""
    mine, found_pids = f"FLWR_HOME={folder.resolve()}/home\0".encode(), []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if mine in (process / "environ").read_bytes() and program.encode() in command:
                found_pids.append(int(process.name))
    return found_pids


def settings(folder, **more):
    return {"nodes": 5, "timeout": 400.0, "folder": folder, **more}


def read_report(folder):
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return {line["round"]: line | {"of": {n["node"]: n for n in line["nodes"]}} for line in lines}


def undisturbed(ids, folder):
    """The same run within the process, without silence and without a restart."""

    def client(part, lies):
        x, y = task.share(part, 5)

        def reply(message, server_round):
            sent = values_of(message)
            trained = training.with_numpy(sent, x, y)
            if lies:
                trained = {k: sent[k] - 10 * (trained[k] - sent[k]) for k in sent}
            return answer(message, record(**trained))

        return reply

    clients = {int(node): client(part, part == 0) for part, node in enumerate(ids) if part != 1}
    clients[int(ids[1])] = lambda message, server_round: None
    strategy = RobustStrategy(
        byzjax.trimmed_mean,
        f=1,
        mixing=byzjax.nearest_neighbors,
        server_optimizer=optax.sgd(1.0, momentum=0.5),
        checkpoint=folder / "undisturbed.npz",
    )
    strategy.start(LocalGrid(clients), record(**task.model()), num_rounds=3, timeout=0.0)


def test_three_rounds_with_a_silent_and_a_lying_client_and_a_killed_server(tmp_path):
    with federation(tmp_path, ["reversed", "silence", "", "", ""]) as made:
        for text in made.lines(settings(tmp_path, rounds=3, f=1)):
            if "round 1: evaluation" in text:
                break
        deadline = time.monotonic() + 60
        while 1 not in (read_report(tmp_path) if (tmp_path / "rounds.jsonl").exists() else {}):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (server,) = pids_of(tmp_path, "flwr-serverapp")
        os.kill(server, signal.SIGKILL)
        said = "".join(made.lines(settings(tmp_path, rounds=3, f=1)))
    assert "continuing after round" in said
    report = read_report(tmp_path)
    assert sorted(report) == [1, 2, 3], said
    liar, silent, *honest = made.ids
    for line in report.values():
        assert line["updated"], line
        assert line["of"][silent]["status"] == "absent"
        assert line["of"][liar]["influence"] < 0.1
        assert [line["of"][node]["status"] for node in honest] == ["used"] * 3
    assert report[3]["evaluation"]["accuracy"] > 0.85
    assert f"round 3: node {silent} absent: no reply within" in said
    undisturbed(made.ids, tmp_path)
    with np.load(tmp_path / "server.npz") as one, np.load(tmp_path / "undisturbed.npz") as other:
        assert set(one) == set(other)
        for name in one:
            if "seen" not in name:  # digests, which one different bit changes
                np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)
    log = (tmp_path / "superlink.log").read_text()
    assert "HTTPS" in log or "https://" in log


# By round, what two clients send, and what the server's log says of them.
MENU = [
    ("nan", "malformed: .*NaN or inf", "old", None),
    ("inf", "malformed: .*NaN or inf", "id", "calls itself node '1': ignored"),
    ("1e38", "influence 0.000", "signed", "malformed: signed as node '1'"),
    ("shape", "malformed: .*announced shape", "huge", "reports num-examples='1000.*': ignored"),
    ("dtype", "malformed: .*dtype 'float64'", "negative", "reports num-examples='-5': ignored"),
    ("fewer", "malformed: 1 arrays", "10GB", "malformed: .*shape"),
    ("more", "malformed: 3 arrays", "old", "malformed: its reply of round 1 again"),
    ("objects", "malformed: .*dtype 'object'", "twice", None),
    ("empty", "malformed: .*got none", "crash", "absent: "),
]


def test_what_hostile_clients_send(tmp_path):
    lies = ["+".join(row[0] for row in MENU), "+".join(row[2] for row in MENU), "", "", ""]
    with federation(tmp_path, lies) as made:
        run = settings(tmp_path, rounds=len(MENU), f=2)
        said = re.sub(r"\x1b\[\d+m", "", "".join(made.lines(run)))
    report = read_report(tmp_path)
    assert sorted(report) == list(range(1, len(MENU) + 1)), said
    for server_round, (_, first, _, second) in enumerate(MENU, 1):
        for node, expected in zip(made.ids, (first, second)):
            if expected is not None:
                assert re.search(f"round {server_round}: node {node} {expected}", said), said
        assert report[server_round]["updated"], report[server_round]["reason"]
    assert report[len(MENU)]["evaluation"]["accuracy"] > 0.85
    # The second of two replies reaches the SuperLink, which refuses it and names the node.
    assert report[8]["of"][made.ids[1]]["status"] == "used"
    assert (tmp_path / "node1.log").read_text().count("ROUND 8]") == 3  # one in, two out
    log = (tmp_path / "superlink.log").read_text()
    assert log.count(f"Push replies from node_id={made.ids[1]}") == len(MENU)  # not the crash
    assert re.search("duplicate reply|Message with ID .* does not exist", log)
