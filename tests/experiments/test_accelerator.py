"""The run on an accelerator: its budget, its page, and its parts at tiny sizes."""

import contextlib
import csv
import os
import pathlib
import re
import sys
import threading
import types

import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from benchmarks import direct, every_rule, pages, training
from benchmarks import peers as torch_of
from benchmarks.accelerator import __main__ as program
from benchmarks.accelerator import (
    budget,
    measure,
    part_copy,
    part_direct,
    part_kernels,
    part_rules,
    part_smoke,
    part_training,
    parts,
    peers,
    running,
)
from benchmarks.accelerator.budget import Clock, Part, missing, row
from benchmarks.accelerator.report import Report
from tests.helpers import compiled

ROOT = pathlib.Path(__file__).parents[2]
TINY = parts.SMALL._replace(
    shapes=((5, 60),),
    kernels=((5, 200),),
    copies=(100,),
    direct=(1000,),
    training=(("mlp", 1), ("mlp", 4)),
    rounds=1,
)
THREE = {name: Part(share, f"all of {name}") for name, share in (("a", 1), ("b", 1), ("c", 2))}


class Time:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def launcher(time, plan):
    """Each part takes these seconds, yields these records, and raises if the last is an error."""

    def launch(name, seconds, report):
        taken, *records = plan[name]
        time.now += min(taken, seconds)
        for record in records:
            if isinstance(record, Exception):
                raise record
            yield record

    return launch


def absent(report):
    """(part, why) of all that was not measured."""
    return [(line["part"], line["why"]) for line in report.not_measured()]


# --- the budget ----------------------------------------------------------------------------------


def test_a_part_gets_its_share_and_what_earlier_ones_leave():
    time, report = Time(), Report(THREE)
    plan = {"a": (10, row("copy", x=1)), "b": (1,), "c": (400, row("copy", x=2))}
    running.run(THREE, 100, launcher(time, plan), report, lambda: None, time)
    assert [report.parts[name]["of"] for name in THREE] == [25, 30, 89]
    assert [report.parts[name]["outcome"] for name in THREE] == ["done"] * 3
    assert report.tables == {"copy": [{"x": 1}, {"x": 2}]}
    assert absent(report) == []


def test_a_part_without_time_is_left_out_and_said():
    time, report = Time(), Report(THREE)
    launched = []

    def launch(name, seconds, report):
        launched.append(name)
        time.now += 96  # longer than its time, as if it had not been stopped
        yield row("copy", x=1)

    running.run(THREE, 100, launch, report, lambda: None, time)
    assert launched == ["a"]
    assert absent(report) == [("b", budget.NO_TIME), ("c", budget.NO_TIME)]
    assert "| b | all of b | too little time was left |" in report.page("command")


def test_a_part_that_raises_is_reported_and_the_others_run(tmp_path):
    time, report = Time(), Report(THREE)
    plan = {
        "a": (1, row("copy", x=1), running.PartError("stopped after its 25 s")),
        "b": (1, RuntimeError("out of\nmemory")),
        "c": (1, row("training", x=2)),
    }
    saved = []

    def save():
        report.write(tmp_path, "command")
        saved.append((tmp_path / "accelerator.md").read_text())

    running.run(THREE, 100, launcher(time, plan), report, save, time)
    assert report.parts["c"]["outcome"] == "done"
    assert "| a | the rest of: all of a | stopped after its 25 s |" in saved[-1]
    assert "| b | all of b | RuntimeError: out of |" in saved[-1]
    # The page is written after the first record, when the other parts have not begun.
    assert "| a | the rest of: all of a | begun, not ended |" in saved[1]
    assert "## Copies" in saved[1]
    assert "| c | all of c | not begun |" in saved[1]
    assert "begun" not in saved[-1]
    with (tmp_path / "benchmarks" / "accelerator_copy.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"x": "1"}]


def test_the_longest_step_has_to_fit():
    time = Time()
    clock = Clock(10, time)
    assert clock.allows()
    time.now = 4
    assert clock.allows()  # 6 left, and the longest took 4
    time.now = 7
    assert not clock.allows()
    assert clock.left() == 3
    time.now = 20
    assert clock.left() == 0


def test_the_page_of_a_cpu_says_so_and_old_tables_go(tmp_path):
    old = tmp_path / "benchmarks" / "accelerator_training.csv"
    old.parent.mkdir()
    old.write_text("x\n1\n")
    report = Report(parts.PARTS)
    report.take("copy", {"about": {"environment": "two cores", "platform": "cpu"}})
    report.take("copy", missing("a copy", "a | b"))
    report.write(tmp_path, "command")
    page = (tmp_path / "accelerator.md").read_text()
    assert page.startswith("# On an accelerator\n\nMade by `command` on two cores.")
    assert "No accelerator has been measured" in page
    assert "goals of an accelerator do not apply to a CPU" in page
    assert "| copy | a copy | a / b |" in page
    for part in parts.PARTS.values():
        assert part.what in page
    assert not old.exists()
    report.about["platform"] = "gpu"
    assert "No accelerator" not in report.page("command")


# --- processes -----------------------------------------------------------------------------------

PRINTS = """
import sys, time
print('words'); print('record: {"missing": "x", "why": "y"}', flush=True)
"""


def records_of(script, seconds):
    """The records that came, and the error that ended them."""
    got = []
    try:
        for record in running.records_of([sys.executable, "-S", "-c", script], seconds):
            got.append(record)
    except running.PartError as error:
        return got, str(error)
    return got, None


def test_records_of_a_process(capfd):
    record = {"missing": "x", "why": "y"}
    assert records_of(PRINTS, 20) == ([record], None)
    assert capfd.readouterr().out == "words\n"
    assert records_of(PRINTS + "time.sleep(60)", 0.6) == ([record], "stopped after its 1 s")
    assert records_of(PRINTS + "sys.exit('no\\nmemory')", 20) == ([record], "memory")
    crash = "import os; os.kill(os.getpid(), 11)"
    assert records_of(PRINTS + crash, 20) == ([record], "SIGSEGV;")


def test_the_command_of_a_part():
    report = Report(parts.PARTS)
    command = running.command_of("rules", 12.34, report, small=True)
    assert command[1:] == ["-m", "benchmarks.accelerator", "--part", "rules", "--seconds", "12.3",
                           "--small"]  # fmt: skip
    report.about = {"platform": "gpu"}
    assert running.command_of("rules", 1, report, small=False)[-2:] == ["--platform", "gpu"]


def test_a_part_that_raises_ends_its_process_with_the_reason(monkeypatch, capsys):
    def fails(part, clock, sizes, platform):
        yield missing("x", "y")
        raise MemoryError("of the device")

    def ends(status):
        raise SystemExit(status)

    monkeypatch.setattr(parts, "records", fails)
    monkeypatch.setattr(os, "_exit", ends)
    monkeypatch.setattr(sys, "argv", ["accelerator", "--part", "rules", "--platform", "gpu"])
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert out == running.MARK + '{"missing": "x", "why": "y"}\n'
    assert err.splitlines()[-1] == "MemoryError: of the device"


@pytest.mark.slow
def test_a_part_in_its_process():
    command = running.command_of("copy", 60, Report(parts.PARTS), small=True)
    about, *rows = running.records_of(command, 60)
    assert about["about"]["platform"] == "cpu"
    assert [line["row"]["numbers"] for line in rows] == list(parts.SMALL.copies)


# --- parts ---------------------------------------------------------------------------------------


def rows_of(records, table):
    """The rows of one table, and everything else."""
    records = list(records)
    rows = [record["row"] for record in records if record.get("table") == table]
    return rows, [record for record in records if record.get("table") != table]


def test_copies():
    (line,), (about,) = rows_of(part_copy.records(Clock(60), TINY, "cpu"), "copy")
    assert about["about"] == {"environment": pages.environment(), "platform": "cpu"}
    assert line["numbers"] == 100
    assert line["GB/s"] == pytest.approx(800 / (line["ms"] / 1e3) / 1e9)
    too_large = TINY._replace(copies=(10**15,))
    rows, others = rows_of(part_copy.records(Clock(60), too_large, "cpu"), "copy")
    assert not rows
    assert others[1]["why"] == "it does not fit into memory"


def test_rules_and_what_they_leave_out(monkeypatch):
    monkeypatch.setattr(every_rule, "NAMES", ["mean", "median", "bulyan", "huber"])
    monkeypatch.setattr(torch_of, "torch", None)

    def broken(n, d):
        raise MemoryError("d is large\nand so on")

    chosen = every_rule.with_faults
    monkeypatch.setattr(
        every_rule,
        "with_faults",
        lambda name, n, d: broken if name == "huber" else chosen(name, n, d),
    )
    rows, others = rows_of(part_rules.records(Clock(60), TINY, "cpu"), "rules")
    assert [(line["n"], line["d"], line["rule"]) for line in rows] == [
        (5, 60, "mean"),
        (5, 60, "median"),
    ]
    for line in rows:
        assert line["ms"] > 0
        assert line["share of a copy's bandwidth"] > 0
        assert line["PyTorch ms"] is None
    assert [(record["missing"], record["why"].partition(":")[0]) for record in others] == [
        ("PyTorch", "it is not installed"),
        ("bulyan at n = 5", "it tolerates no fault there"),
        ("huber at n = 5, d = 60", "TypeError"),
    ]


@pytest.mark.parametrize(
    ("part", "first"),
    [
        (part_rules, "all rules at n = 5, d = 60"),
        (part_copy, "a copy of 100 numbers"),
        (part_direct, "direct calls of mean, median"),
        (part_training, "mlp, 1 at once"),
        (part_kernels, "kernels at n = 5, d = 200"),
    ],
)
def test_a_part_whose_time_is_over_says_what_it_leaves_out(part, first):
    records = [r for r in part.records(Clock(0), TINY, "cpu") if "about" not in r]
    late = [r for r in records if r.get("why") == budget.NO_TIME]
    assert late[0]["missing"].startswith(first)
    assert not [r for r in records if "row" in r]


def test_a_group_of_rules_that_does_not_fit_is_said(monkeypatch):
    time = Time()
    monkeypatch.setattr(every_rule, "NAMES", ["mean", "median", "majority_sign"])
    monkeypatch.setattr(torch_of, "torch", None)
    monkeypatch.setattr(measure, "GROUP", 1)

    def taken(calls, rounds, depth):
        time.now += 40
        return dict.fromkeys(calls, 1.0)

    monkeypatch.setattr(measure, "timed", taken)
    rows, others = rows_of(part_rules.records(Clock(100, time), TINY, "cpu"), "rules")
    assert [line["rule"] for line in rows] == ["mean", "median"]  # 20 s are left, and one takes 40
    assert missing("majority_sign at n = 5, d = 60", budget.NO_TIME) in others


def test_a_shape_that_raises_does_not_end_the_others(monkeypatch):
    monkeypatch.setattr(every_rule, "NAMES", ["mean"])
    monkeypatch.setattr(torch_of, "torch", None)
    random = measure.random

    def fails_for_five(n, d):
        if n == 5:
            raise MemoryError("no room")
        return random(n, d)

    monkeypatch.setattr(measure, "random", fails_for_five)
    sizes = TINY._replace(shapes=((5, 60), (8, 60)))
    rows, others = rows_of(part_rules.records(Clock(60), sizes, "cpu"), "rules")
    assert [line["n"] for line in rows] == [8]
    assert missing("all rules at n = 5, d = 60", "MemoryError: no room") in others


def test_what_is_not_compiled_in_time_loses_nothing_else():
    end = threading.Event()

    def fails():
        raise MemoryError("too large")

    tasks = {"good": lambda: 1, "slow": end.wait, "bad": fails}
    results = measure.each(tasks, Clock(0.6))
    end.set()
    assert results["good"] == 1
    assert measure.reason_of(results["slow"]).startswith("TimeoutError: not compiled in half")
    assert measure.reason_of(results["bad"]) == "MemoryError: too large"


def test_what_is_too_large_is_halved():
    limit = measure.largest(1, 2**60)
    assert measure.largest(1, 100) == 100
    assert 2**60 % limit == 0
    assert measure.largest(8, 2**60) in (limit // 16, limit // 8, limit // 4)


def test_pytorch_beside(monkeypatch):
    called = []
    torch = types.SimpleNamespace(
        from_dlpack=np.asarray,
        device=lambda name: contextlib.nullcontext(),
        cuda=types.SimpleNamespace(is_available=lambda: False),
    )
    monkeypatch.setattr(torch_of, "torch", torch)

    def out_of_memory(t):
        raise RuntimeError("out of memory")

    tables = {
        "mean": {"mean": lambda t: called.append(t.mean(0)), "no": out_of_memory},
        "median": {"no": out_of_memory},
        "phocas": {},
    }
    monkeypatch.setattr(peers, "expressions", lambda name, n: tables[name])
    chosen, failed = peers.fastest(tables, jnp.ones((4, 3)), "cpu", depth=2)
    assert {name: label for name, (label, _) in chosen.items()} == {"mean": "mean"}
    assert list(failed) == ["median"]
    called.clear()
    chosen["mean"][1]()
    assert len(called) == 2
    assert peers.absent("gpu") == "it does not see the device (gpu)"


def test_expressions_of_pytorch_are_those_of_rules():
    names = [name for name in every_rule.NAMES if peers.expressions(name, 25)]
    assert {"mean", "median", "trimmed_mean", "krum", "aksel"} <= set(names)


def test_direct_calls(monkeypatch):
    functions = {"mean": byzjax.mean, "broken": lambda x: x.nothing}
    monkeypatch.setattr(direct, "functions", lambda x: functions.items())
    (line,), (other,) = rows_of(part_direct.records(Clock(60), TINY, "cpu"), "direct")
    assert line["function"] == "mean"
    assert line["ratio"] == pytest.approx(line["direct (ms)"] / line["jit (ms)"])
    assert other["missing"] == "a direct call of broken, d = 1,000"


def test_training(monkeypatch):
    def rate(config, dataset, rounds):
        if config.seeds == 4:
            raise MemoryError("four")
        assert (config.eval_every, rounds, dataset.train_x.shape[1:]) == (10, 1, (28, 28, 1))
        return 7.0 * config.seeds

    monkeypatch.setattr(training, "our_steps", rate)
    sizes = TINY._replace(training=(("mlp", 1), ("mlp", 4), ("mlp", 2)))
    rows, others = rows_of(part_training.records(Clock(60), sizes, "cpu"), "training")
    assert [line["over one"] for line in rows] == [1, 2]
    assert others == [missing("mlp, 4 at once", "MemoryError: four")]


def test_kernels_beside_the_rules():
    rows, (interpreted,) = rows_of(part_kernels.records(Clock(60), TINY, "cpu"), "kernels")
    assert interpreted["missing"] == "times of the kernels"
    assert [line["rule"] for line in rows] == ["median", "trimmed_mean", "aksel"]
    for line in rows:
        assert line["XLA ms"] > 0
        assert line["Pallas ms"] is line["goal"] is None
        assert float(line["difference"]) < 1e-6


def test_the_row_of_a_kernel_on_an_accelerator():
    results = {"median XLA": 4.0, "median Pallas": 2.0, "copy": 16 / 9 * 1.8}
    programs = dict.fromkeys(results, RuntimeError())
    line = part_kernels.compared("median", 8, 9, results, programs, jnp.ones((8, 9)), "gpu")["row"]
    assert line["XLA over Pallas"] == 2
    assert line["share, Pallas"] == pytest.approx(0.9)
    assert (line["goal"], line["reached"], line["difference"]) == (">= 0.8", "yes", None)


def test_aksel_on_the_kernel_is_aksel():
    x = np.random.default_rng(0).normal(size=(11, 700)).astype(np.float32)
    x[2, 5] = np.nan
    x[7] *= 1e3
    expected = compiled(byzjax.aksel, f=5)(x)
    for target in ("cuda", "tpu"):
        actual = compiled(part_kernels.aksel, interpret=target)(x)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def test_a_share_of_one_is_the_bandwidth_of_a_copy():
    # A copy of 8 rows moves 16 rows; a median that moves 9 at that speed takes 9/16 of the time.
    assert part_kernels.share("median", 8, 9.0, 16.0) == pytest.approx(1)
    assert part_kernels.share("aksel", 8, 36.0, 16.0) == pytest.approx(0.5)


# --- the smoke tier ------------------------------------------------------------------------------

OUTPUT = """\
..F.                                                                     [100%]
=== short test summary info ===
FAILED tests/test_order.py::test_x[a|b] - AssertionError: 1 != 2
1 failed, 3 passed in 2.50s
"""


def smoke(script, seconds):
    """The records of a stub of pytest."""
    words = [sys.executable, "-S", "-c", script]
    return list(part_smoke.outcome(words, {"JAX_PLATFORMS": "cuda,cpu"}, seconds))


def test_the_result_and_the_failures_of_the_smoke_tier():
    result, failure = smoke(f"print({OUTPUT!r}); raise SystemExit(1)", 20)
    assert result["row"]["result"] == "1 failed, 3 passed in 2.50s"
    assert result["row"]["exit status"] == 1
    assert result["row"]["platforms"] == "cuda,cpu"
    assert failure["row"] == {
        "test": "tests/test_order.py::test_x[a/b]",
        "why": "AssertionError: 1 != 2",
    }


def test_the_smoke_tier_ends_at_its_time():
    late, result = smoke("import time; print('..s.', flush=True); time.sleep(60)", 0.6)
    assert late["why"] == "stopped after 1 s, when 3 tests had passed"
    assert result["row"]["result"] == "stopped; 3 passed"


def test_where_the_smoke_tier_runs():
    assert part_smoke.environment("gpu")["JAX_PLATFORMS"] == "cuda,cpu"
    assert part_smoke.environment("tpu")["JAX_PLATFORMS"] == "tpu,cpu"
    words = part_smoke.command(parts.TESTS, "tpu")
    assert words[words.index("-n") + 1] == "0"
    for path in parts.TESTS:
        assert re.search(r"mark\.smoke|smoke=True", (ROOT / path).read_text()), path
