"""`byzjax.flower` with clients within the process; see test_flower_processes.py for real ones."""

import functools
import json
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax

pytest.importorskip("flwr", reason="needs byzjax[flower]")

from byzjax.flower import RobustStrategy
from tests.flower_grid import (
    ABSENT,
    MALFORMED,
    STATEMENTS,
    LocalGrid,
    answer,
    moves,
    record,
    values_of,
    whole,
)

TIMES = {"num_rounds": 1, "timeout": 0.0}


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO, "flwr")


@functools.cache
def trimming(f):
    """A strategy for many tests, which compiles each program once; `start` begins anew."""
    return RobustStrategy(byzjax.trimmed_mean, f=f)


@functools.cache
def averaging():
    return RobustStrategy(byzjax.mean, f=0)


def steps(node):
    """The change that a client makes in each round: another one for each node, array and round."""

    def step(server_round):
        rng = np.random.default_rng((node, server_round))
        return {"w": rng.normal(size=2), "b": rng.normal()}

    return step


def honest(nodes):
    return {node: moves(steps(node)) for node in nodes}


def run(strategy, clients, rounds=1, start=None):
    grid = LocalGrid(clients)
    initial = whole(0.0) if start is None else start
    result = strategy.start(grid, initial, num_rounds=rounds, timeout=0.0)
    return {name: array.numpy() for name, array in result.arrays.items()}, result


def close(model, expected):
    for name in expected:
        np.testing.assert_allclose(model[name], expected[name], rtol=2e-6, atol=1e-6)


def test_the_rounds_of_a_strategy_are_those_of_the_loop():
    """Trimmed mean of updates, momentum of the server: in NumPy."""
    strategy = RobustStrategy(
        byzjax.trimmed_mean, f=1, server_optimizer=optax.sgd(0.5, momentum=0.9)
    )
    model, result = run(strategy, honest([3, 11, 7, 5]), rounds=4)
    expected, velocity = {"w": np.zeros(2), "b": 0.0}, {"w": np.zeros(2), "b": 0.0}
    for server_round in range(1, 5):
        rows = [steps(node)(server_round) for node in (3, 5, 7, 11)]
        for name in expected:
            ordered = np.sort([row[name] for row in rows], axis=0)
            velocity[name] = 0.9 * velocity[name] + ordered[1:-1].mean(0)
            expected[name] = expected[name] + 0.5 * velocity[name]
    close(model, expected)
    assert sorted(result.train_metrics_clientapp) == [1, 2, 3, 4]
    assert result.train_metrics_clientapp[4]["updated"] == 1


@pytest.mark.parametrize("server_round", [1, 2])
def test_influence_and_distance(server_round):
    strategy = RobustStrategy(functools.partial(byzjax.krum, m=2), f=1)
    _, result = run(strategy, honest([1, 2, 3, 4, 5]), rounds=2)
    rows = [steps(node)(server_round) for node in (1, 2, 3, 4, 5)]
    matrix = np.stack([np.append(row["w"], row["b"]) for row in rows]).astype("f4")
    out = np.asarray(byzjax.krum(jnp.asarray(matrix), f=1, m=2))
    shares = byzjax.influence(byzjax.krum, jnp.asarray(matrix), f=1, m=2)
    metrics = result.train_metrics_clientapp[server_round]
    for i, node in enumerate((1, 2, 3, 4, 5)):
        assert metrics[f"influence/{node}"] == pytest.approx(float(shares[i]), abs=1e-5)
        distance = np.linalg.norm(matrix[i] - out)
        assert metrics[f"distance/{node}"] == pytest.approx(distance, rel=1e-4)
        assert metrics[f"malformed/{node}"] == 0


def test_a_worker_keeps_its_state_while_it_is_absent():
    """Worker momentum at the server, mixed, then the median: in NumPy."""
    away = {(2, 5), (3, 5), (3, 2)}  # (round, node)

    def client(node):
        inner = moves(steps(node))
        return lambda m, r: None if (r, node) in away else inner(m, r)

    strategy = RobustStrategy(
        byzjax.median,
        f=1,
        mixing=byzjax.nearest_neighbors,
        worker=optax.ema(0.6, debias=False),
    )
    model, _ = run(strategy, {node: client(node) for node in (2, 3, 5, 8, 9)}, rounds=4)
    expected, momenta = np.zeros(3), {node: np.zeros(3) for node in (2, 3, 5, 8, 9)}
    for server_round in range(1, 5):
        there = [node for node in momenta if (server_round, node) not in away]
        for node in there:
            step = steps(node)(server_round)
            momenta[node] = 0.6 * momenta[node] + 0.4 * np.append(step["w"], step["b"])
        rows = np.stack([momenta[node] for node in there])
        mixed = []
        for row in rows:
            near = np.argsort(np.linalg.norm(rows - row, axis=1), kind="stable")[: len(rows) - 1]
            mixed.append(rows[near].mean(0))
        expected = expected + np.median(mixed, axis=0)
    close(model, {"w": expected[:2], "b": expected[2]})


def test_memory_of_a_rule_follows_the_node():
    """FoolsGold's histories, with a node that joins late and one that leaves."""

    def client(node):
        inner = moves(steps(node))
        return lambda m, r: None if (r, node) in ((1, 4), (2, 1), (3, 6)) else inner(m, r)

    strategy = RobustStrategy(
        byzjax.foolsgold(5), f=0, num_workers=5, min_replies=2, server_optimizer=optax.sgd(1.0)
    )
    nodes = (1, 4, 6, 9, 12)
    model, _ = run(strategy, {node: client(node) for node in nodes}, rounds=3)
    places = {1: 0, 6: 1, 9: 2, 12: 3, 4: 4}  # node 4 came last
    tx = byzjax.foolsgold(5)
    params = jnp.zeros(3)
    state = tx.init(params)
    for r, there in ((1, (1, 6, 9, 12)), (2, (6, 9, 12, 4)), (3, (1, 9, 12, 4))):
        rows = [np.append(steps(node)(r)["w"], steps(node)(r)["b"]) for node in there]
        senders = jnp.array([places[node] for node in there])
        rows = jnp.asarray(np.stack(rows), jnp.float32)
        update, state = tx.update(rows, state, params, senders=senders)
        params = params + update
    close(model, {"w": np.asarray(params[:2]), "b": np.asarray(params[2])})


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_reply_is_a_fault_of_its_node(name, caplog):
    make, reason = MALFORMED[name]
    clients = honest([1, 2, 3, 4, 6]) | {5: lambda m, r: make(m)}
    model, result = run(trimming(2), clients)
    fewer, _ = run(trimming(1), honest([1, 2, 3, 4, 6]))
    (message,) = [m for m in caplog.messages if m.startswith("round 1: node 5 malformed: ")]
    assert re.search(reason, message)
    assert "\n" not in message
    metrics = result.train_metrics_clientapp[1]
    assert (metrics["malformed"], metrics["malformed/5"], metrics["rows"]) == (1, 1, 5)
    assert "influence/5" not in metrics
    for key in model:  # the others, with f - 1
        np.testing.assert_array_equal(model[key], fewer[key])


@pytest.mark.parametrize("name", ABSENT)
def test_absence_does_not_lower_f(name, caplog):
    make, reason = ABSENT[name]
    clients = honest([1, 2, 3, 4, 6]) | {5: lambda m, r: make(m)}
    model, result = run(trimming(2), clients)
    alone, _ = run(trimming(2), honest([1, 2, 3, 4, 6]))
    assert re.search(f"node 5 absent: .*{reason}", caplog.text), caplog.text
    assert result.train_metrics_clientapp[1]["absent"] == 1
    for key in model:
        np.testing.assert_array_equal(model[key], alone[key])


@pytest.mark.parametrize("name", STATEMENTS)
def test_what_a_client_says_of_itself_is_not_used(name, caplog):
    records, text = STATEMENTS[name]

    def client(message, server_round):
        reply = moves(steps(2))(message, server_round)
        reply.content["more"] = records
        return reply

    model, _ = run(averaging(), honest([1, 3]) | {2: client})
    plain, _ = run(averaging(), honest([1, 2, 3]))
    assert f"node 2 {'calls' if name == 'node id' else 'reports'} " in caplog.text
    assert text in caplog.text
    for key in model:
        np.testing.assert_array_equal(model[key], plain[key])


def test_an_old_reply_again(caplog):
    kept = {}

    def replays(message, server_round):
        kept.setdefault("arrays", values_of(moves(steps(5))(message, server_round)))
        return answer(message, record(**kept["arrays"]))

    clients = honest([1, 2, 3, 4]) | {5: replays}
    _, result = run(RobustStrategy(byzjax.median, f=1), clients, rounds=3)
    faults = [result.train_metrics_clientapp[r]["malformed/5"] for r in (1, 2, 3)]
    assert faults == [0, 1, 1]
    assert caplog.text.count("node 5 malformed: its reply of round 1 again") == 2
    strategy = RobustStrategy(byzjax.median, f=1, allow_repeats=True)
    _, result = run(strategy, clients, rounds=2)
    assert result.train_metrics_clientapp[2]["malformed"] == 0


def test_the_same_reply_to_the_same_model_is_honest():
    """After a round that failed, an honest client that uses all its data sends the same bits."""
    same = {n: moves(lambda r, n=n: {"w": np.full(2, n), "b": n}) for n in (1, 2, 3)}
    same[3] = lambda m, r, inner=same[3]: None if r == 1 else inner(m, r)
    _, result = run(RobustStrategy(byzjax.median, f=1), same, rounds=2)
    assert result.train_metrics_clientapp[1]["updated"] == 0
    assert result.train_metrics_clientapp[2]["malformed"] == 0
    assert result.train_metrics_clientapp[2]["updated"] == 1


def silent(message, server_round):
    return None


@pytest.mark.parametrize(
    ("rule", "f", "clients", "reason"),
    [
        (byzjax.median, 1, honest([1, 2]) | {3: silent}, "2 replies, min_replies = 3"),
        (byzjax.krum, 1, honest([1, 2, 3, 4]), "krum needs n >= 2f + 3; got n=4, f=1."),
        (
            byzjax.median,
            1,
            honest([1, 2, 3]) | {n: lambda m, r: answer(m, whole(np.nan)) for n in (4, 5)},
            "2 malformed replies, f = 1",
        ),
        (
            byzjax.mean,
            0,
            {n: lambda m, r: answer(m, whole(3e38)) for n in (1, 2)},
            "the new model is not finite",
        ),
        (byzjax.median, 0, {1: silent}, "0 replies, min_replies = 1"),
    ],
)
def test_a_round_without_enough_rows_fails_closed(rule, f, clients, reason, caplog, tmp_path):
    optimizer = optax.sgd(2.0, momentum=0.9)
    path = tmp_path / "report.jsonl"
    strategy = RobustStrategy(rule, f, server_optimizer=optimizer, min_nodes=1, report=path)
    model, result = run(strategy, clients, start=whole(1.0))
    close(model, {"w": np.ones(2), "b": 1.0})
    assert f"round 1 failed, the model stays: {reason}" in caplog.text
    assert result.train_metrics_clientapp[1]["updated"] == 0
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["updated"], line["reason"]) == (False, reason)
    for leaf in jax.tree.leaves(strategy.server.saved.state.server):
        assert not np.any(leaf)


def test_values_of_1e38_are_rows_that_a_rule_resists():
    clients = honest([1, 2, 3, 4]) | {5: lambda m, r: answer(m, whole(1e38))}
    model, result = run(RobustStrategy(byzjax.median, f=1), clients)
    assert np.all(np.abs(model["w"]) < 10)
    metrics = result.train_metrics_clientapp[1]
    assert (metrics["malformed"], metrics["influence/5"]) == (0, 0)
    assert metrics["distance/5"] == pytest.approx(np.sqrt(3) * 1e38, rel=1e-3)


def test_no_bits_of_the_others_change_when_one_fails():
    """A reply that raises inside of Flower loses no other reply."""
    clients = honest([1, 2, 3]) | {0: lambda m, r: [RecursionError()]}
    model, _ = run(RobustStrategy(byzjax.median, f=1), clients)
    expected, _ = run(RobustStrategy(byzjax.median, f=0), honest([1, 2, 3]))
    np.testing.assert_array_equal(model["w"], expected["w"])


def test_more_nodes_than_the_memory_has_places_for(caplog):
    strategy = RobustStrategy(byzjax.foolsgold(3), f=0, num_workers=3)
    _, result = run(strategy, honest([1, 2, 3, 4]))
    assert "node 4 absent: turned away: there are 3 nodes already" in caplog.text
    assert result.train_metrics_clientapp[1]["rows"] == 3


def about_zero(updates):
    center = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), updates)
    return byzjax.centered_clip(updates, center, radius=2.0)


@pytest.mark.parametrize(
    "rule",
    [
        about_zero,
        functools.partial(byzjax.geometric_median, iterations=8),
        byzjax.bulyan,
        byzjax.biweight_mean,
        byzjax.minimum_diameter,
    ],
    ids=lambda rule: getattr(rule, "func", rule).__name__,
)
def test_any_rule(rule):
    strategy = RobustStrategy(rule, f=1)
    model, result = run(strategy, honest(range(1, 8)))
    assert result.train_metrics_clientapp[1]["updated"] == 1
    assert np.any(model["w"])
    assert "influence/1" in result.train_metrics_clientapp[1]


def test_a_key_and_the_server_s_own_data():
    def trusted(server_round, params):
        return {"trusted": {"w": np.ones(2, "f4") * server_round, "b": np.float32(1)}}

    strategy = RobustStrategy(
        byzjax.fl_trust,
        f=2,
        mixing=functools.partial(byzjax.bucketing, s=2),
        key=jax.random.key(3),
        data=trusted,
        min_replies=2,
    )
    model, result = run(strategy, honest([1, 2, 3, 4]), rounds=2)
    assert result.train_metrics_clientapp[2]["updated"] == 1
    assert np.linalg.norm(np.append(model["w"], model["b"])) <= np.sqrt(3) + 3


# --- checkpoints ----------------------------------------------------------------------------------


def everything(folder):
    return RobustStrategy(
        byzjax.trimmed_mean,
        f=1,
        mixing=functools.partial(byzjax.bucketing, s=2),
        worker=optax.ema(0.9),
        server_optimizer=optax.adam(0.1),
        key=jax.random.key(0),
        checkpoint=folder / "server.npz",
        report=folder / "rounds.jsonl",
    )


def liar(message, server_round):
    return answer(message, whole(np.nan)) if server_round % 2 else None


CLIENTS = honest([1, 2, 3, 4, 5, 6]) | {7: liar}


def same_checkpoint(one, other):
    with np.load(one) as a, np.load(other) as b:
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_restarted_server_ends_where_an_undisturbed_one_ends(tmp_path):
    run(everything(tmp_path / "one"), CLIENTS, rounds=5)
    for rounds in (2, 3, 5):
        run(everything(tmp_path / "other"), CLIENTS, rounds=rounds)
    same_checkpoint(tmp_path / "one" / "server.npz", tmp_path / "other" / "server.npz")
    one, other = ((tmp_path / n / "rounds.jsonl").read_text() for n in ("one", "other"))
    assert one == other
    lines = [json.loads(line) for line in one.splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5]
    assert {node["node"] for node in lines[0]["nodes"]} == set("1234567")


def test_half_a_line_and_lines_of_repeated_rounds_are_removed(tmp_path):
    run(everything(tmp_path), CLIENTS, rounds=2)
    path = tmp_path / "rounds.jsonl"
    whole_lines = path.read_text()
    path.write_text(whole_lines + '{"round": 3, "updated": true}\n{"round": 3, "upd')
    everything(tmp_path).start(LocalGrid(CLIENTS), whole(0.0), num_rounds=2)
    assert path.read_text() == whole_lines


@pytest.mark.parametrize("damage", ["cut", "other model", "other optimizer"])
def test_a_checkpoint_that_does_not_fit_is_not_continued(tmp_path, damage):
    run(everything(tmp_path), CLIENTS, rounds=1)
    path, strategy, start = tmp_path / "server.npz", everything(tmp_path), whole(0.0)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "other model":
        start = record(w=np.zeros(3, "f4"), b=np.float32(0))
    else:
        strategy = RobustStrategy(byzjax.mean, f=0, checkpoint=path)
    with pytest.raises(ValueError, match=r"checkpoint server\.npz") as error:
        strategy.start(LocalGrid(CLIENTS), start, **TIMES)
    assert len(str(error.value)) <= 200
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_kill_and_restart(tmp_path):
    """The process is killed three times, at any point; what it leaves is a whole checkpoint."""
    program = (
        "import pathlib, sys; from tests.test_flower import *\n"
        "run(everything(pathlib.Path(sys.argv[1])), CLIENTS, rounds=40)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "killed")]
    root = pathlib.Path(__file__).parents[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    report = tmp_path / "killed" / "rounds.jsonl"
    for rounds in (2, 11, 23):
        process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL)
        try:
            for _ in range(1200):
                lines = report.read_text().count("\n") if report.exists() else 0
                if lines >= rounds or process.poll() is not None:
                    break
                time.sleep(0.05)
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=30)
    subprocess.run(command, cwd=root, env=environment, check=True, timeout=120)
    run(everything(tmp_path / "undisturbed"), CLIENTS, rounds=40)
    for name in ("killed", "undisturbed"):
        assert len((tmp_path / name / "rounds.jsonl").read_text().splitlines()) == 40
    same_checkpoint(tmp_path / "killed" / "server.npz", tmp_path / "undisturbed" / "server.npz")


# --- construction ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((byzjax.median, 1.5), TypeError, "f must be"),
        ((byzjax.median, -1), ValueError, "f must be at least 0"),
        (("median", 1), TypeError, "rule"),
        ((byzjax.nearest_neighbors, 1), TypeError, "is a mixing"),
        ((byzjax.foolsgold(3), 1), TypeError, "needs num_workers"),
        ((byzjax.zeno, 1), TypeError, "zeno needs"),
    ],
)
def test_arguments_are_checked_at_once(arguments, error, text):
    with pytest.raises(error, match=text) as raised:
        RobustStrategy(*arguments)
    assert len(str(raised.value)) <= 200


def test_models_of_other_dtypes_are_refused():
    for array, text in ((np.arange(2), "models are of floats"), (np.ones(2), "send float32")):
        with pytest.raises(TypeError, match=text):
            run(RobustStrategy(byzjax.median, f=0), {}, start=record(w=array))


def test_each_message_has_a_nonce_and_the_round():
    grid = LocalGrid(honest([1, 2]))
    RobustStrategy(byzjax.median, f=0).start(grid, whole(0.0), num_rounds=2, timeout=0.0)
    settings = [message.content["config"] for message in grid.sent]
    assert [s["server-round"] for s in settings] == [1, 1, 2, 2]
    assert len({s["nonce"] for s in settings}) == 4


def test_the_loop_of_flower_itself(caplog):
    """`configure_train` and `aggregate_train` as Flower's own `start` calls them."""
    from flwr.app import ConfigRecord

    def run_once(clients):
        strategy, grid = RobustStrategy(byzjax.median, f=1), LocalGrid(clients)
        messages = strategy.configure_train(1, whole(0.0), ConfigRecord(), grid)
        arrays, metrics = strategy.aggregate_train(1, grid.send_and_receive(messages))
        return strategy, {name: array.numpy() for name, array in arrays.items()}, metrics

    twice = lambda m, r: [answer(m, whole(1.0)), answer(m, whole(1.0))]  # noqa: E731
    _, model, metrics = run_once(honest([1, 2, 3]) | {4: twice})
    _, expected, _ = run_once(honest([1, 2, 3]))
    assert metrics["malformed/4"] == 1
    assert "node 4 malformed: more than one reply" in caplog.text
    np.testing.assert_array_equal(model["w"], expected["w"])


def test_the_page_s_server_runs(tmp_path, monkeypatch):
    page = (pathlib.Path(__file__).parents[1] / "docs" / "flower.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(block, names)
    monkeypatch.chdir(tmp_path)

    def client(message, server_round):
        model = {name: value + np.float32(0.1) for name, value in values_of(message).items()}
        return answer(message, record(**model))

    names["main"](LocalGrid({node: client for node in range(1, 6)}), None)
    report = (tmp_path / "results" / "flower" / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["updated"] for line in report] == [True] * 20
