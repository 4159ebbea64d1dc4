"""The laboratory from end to end, on small studies of the digits."""

import csv
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments.cli import commands
from experiments.data import datasets
from experiments.execution import block as blocks
from experiments.execution import store, sweep
from experiments.grid import catalogue, specs
from experiments.grid.config import IDENTITY, Config
from experiments.grid.planning import Block
from experiments.models import zoo
from experiments.report import figures
from experiments.training import program as programs

ROOT = pathlib.Path(__file__).parents[2]
SMALL = Config(model="softmax", n=7, f=2, s=(0, 1, 2), seeds=2, steps=6, eval_every=3, batch_size=4)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def options(results, *more):
    words = "--study main --model softmax --n 7 --f 2 --s 0 1 2 --seeds 2 --steps 6 --eval-every 3"
    words += " --batch-size 4 --rule median krum --attack none sign_flip little_is_enough"
    return [*words.split(), "--results", str(results), *more]


def start(arguments, **kwargs):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def run(arguments):
    process = start(arguments)
    try:
        out, err = process.communicate(timeout=600)  # only so that no test hangs forever
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.fixture
def told(capsys):
    """`run` in this process."""

    def run_here(arguments):
        status = commands.main(arguments)
        return status, *capsys.readouterr()

    return run_here


def results_of(folder):
    """The contents of the blocks, without times."""
    runs = {}
    for path in sorted((folder / "blocks").glob("*.json")):
        content = json.loads(path.read_text())
        runs[path.name] = content["runs"]
    return runs


@pytest.fixture(scope="module")
def built():
    """The programs built so far, by everything they depend on."""
    return {}


@pytest.fixture
def programs_are_kept(built, monkeypatch):
    """Reuses a program that another sweep has built; building one takes half a second."""
    build = programs.build

    def kept(config, dataset, model, rule, mixing, choices, over, shared):
        assert over is None
        settings = str([getattr(config, name) for name in IDENTITY])
        chain = str(rule), str(mixing), tuple(map(str, choices))
        key = (settings, dataset.checksum, *chain)
        if key not in built:
            built[key] = build(config, dataset, model, rule, mixing, choices, over, shared)
        return built[key]

    monkeypatch.setattr(programs, "build", kept)


def swept(config, dataset):
    folder = pathlib.Path(config.results) / config.study
    load = lambda _: dataset  # noqa: E731
    return sweep.run(sweep.tasks([config], folder, load), folder, load)


def test_a_model_that_is_not_finite_is_a_result(digits, tmp_path):
    config = Config(
        model="softmax", n=7, f=2, s=(1,), seeds=1, steps=2, eval_every=1, rule=("mean",),
        attack=("non_finite",), results=str(tmp_path),
    )  # fmt: skip
    (block,) = swept(config, digits)
    (run_of_block,) = block["runs"]
    assert run_of_block["finite"] == [False, False]
    assert run_of_block["loss"] == [None, None]
    assert run_of_block["diverged"] == 1
    assert run_of_block["distance"] == [None, None]


def test_the_identity_of_a_block_is_what_decides_its_numbers():
    words = (("rule", "krum"), ("mixing", "none"), ("attack", "sign_flip"))
    spec = [specs.parse(*each, f=2) for each in words]
    block = Block(*spec, ((0, 1), (0, 2)))
    same = store.identity(SMALL, block, "data")
    folder = pathlib.Path()
    assert store.block_path(folder, same) == store.block_path(folder, dict(reversed(same.items())))
    for other in (
        store.identity(SMALL, block, "other data"),
        store.identity(SMALL, Block(*spec, ((0, 1),)), "data"),
        store.identity(dataclasses.replace(SMALL, clip=1.0), block, "data"),
        store.identity(Config(), block, "data"),
    ):
        assert store.block_path(folder, same) != store.block_path(folder, other)


def test_every_setting_but_where_things_lie_is_part_of_the_identity():
    words = (("rule", "krum"), ("mixing", "none"), ("attack", "sign_flip"))
    block = Block(*(specs.parse(*each, f=2) for each in words), ((0, 1),))
    of_blocks = {"rule", "mixing", "attack", "s", "seeds", "together"}
    places = {"study", "results", "data_dir"}
    elsewhere = of_blocks | places | {"download"}
    same = store.identity(SMALL, block, "data")
    for name in (field.name for field in dataclasses.fields(Config)):
        match getattr(SMALL, name):
            case bool(value):
                other = not value
            case int(value) | float(value):
                other = value + 1
            case tuple(value):
                other = (*value, "more")
            case _ if name == "base":  # its weights are part of the identity, so it must exist
                other = "gpt_micro"
            case value:
                other = f"{value} more"
        changed = store.identity(dataclasses.replace(SMALL, **{name: other}), block, "data")
        assert (changed == same) == (name in elsewhere), name


def test_a_half_written_file_is_never_found(tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    store.write_json(old, {"finished": True})
    for path in (old, new):
        with pytest.raises(TypeError):  # after the first half
            store.write_json(path, {"first half": 1, "second half": object()})
    assert store.read_block(old) == {"finished": True}
    assert not new.exists()


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_study_writes_what_it_promises_and_continues_with_what_is_missing(
    tmp_path, told, programs_are_kept, monkeypatch
):
    # Two rules that other tests compile as well.
    command = options(tmp_path / "results", "--rule", "median", "mean")
    status, out, err = told(command)
    assert status == 0, err
    folder = tmp_path / "results" / "main"
    for name in ("table.csv", "curves.csv", "table.md", "config.json"):
        assert (folder / name).stat().st_size > 0
    for name in ("accuracy_against_s", "accuracy_against_step"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{name}.svg").read_text()
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (1 + 2 * 2)
    assert {row["seeds"] for row in rows} == {"2"}
    with (folder / "curves.csv").open() as file:
        curves = list(csv.DictReader(file))
    assert len(curves) == 2 * (1 + 2 * 2) * 2 * 2  # rules, (attack, s), seeds, evaluations
    config = json.loads((folder / "config.json").read_text())
    assert config["grids"][0]["n"] == 7
    assert config["jax"] == jax.__version__
    assert "| median" in out
    assert "s = 2 liars" in out
    assert "step/s" in err  # the progress bar

    before = results_of(folder)
    assert len(before) == 6
    victim = folder / "blocks" / sorted(before)[0]
    victim.unlink()
    (folder / "blocks" / sorted(before)[1]).write_text('{"half": ')  # a damaged file
    monkeypatch.setattr(figures, "make", lambda *_: {})  # they have been read
    status, out, err = told(command)
    assert status == 0, err
    assert "4 of 6 blocks are in" in out
    assert results_of(folder) == before


@pytest.mark.slow
def test_killed_half_way_it_keeps_what_was_finished(tmp_path):
    folder = tmp_path / "results" / "main"
    process = start(options(tmp_path / "results"))
    try:
        end = time.monotonic() + 600
        while not list((folder / "blocks").glob("*.json")) and time.monotonic() < end:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate(timeout=30)
    kept = results_of(folder)
    assert 1 <= len(kept) < 6

    status, out, err = run(options(tmp_path / "results"))
    assert status == 0, err
    assert f"{len(kept)} of 6 blocks are in" in out
    after = results_of(folder)
    assert {name: after[name] for name in kept} == kept
    undisturbed = tmp_path / "undisturbed"
    assert run(options(undisturbed))[0] == 0
    assert after == results_of(undisturbed / "main")


@pytest.mark.slow
def test_killed_ten_times_it_ends_as_if_nothing_had_happened(tmp_path):
    folder, rng = tmp_path / "results" / "main", np.random.default_rng(0)
    more = ("--steps", "60", "--eval-every", "3")
    for _ in range(10):
        process = start(options(tmp_path / "results", *more))
        try:
            process.communicate(timeout=float(rng.uniform(2, 6)))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.communicate(timeout=30)
        results_of(folder)  # raises if a file is half-written
    status, _, err = run(options(tmp_path / "results", *more))
    assert status == 0, err
    undisturbed = tmp_path / "undisturbed"
    assert run(options(undisturbed, *more))[0] == 0
    assert results_of(folder) == results_of(undisturbed / "main")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rule", "krumm"], "unknown rule 'krumm'; did you mean krum?"),
        (["--attack", "lie"], "unknown attack 'lie'; did you mean little_is_enough?"),
        (["--dataset", "emnist"], "emnist"),
        (["--model", "vgg"], "vgg"),
        (["--partition", "zipf"], "zipf"),
        (["--n", "6"], "krum needs n >= 2f + 3; got n=6, f=2."),
        (["--dataset", "mnist", "--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_a_users_error_is_one_line(tmp_path, told, more, message):
    status, out, err = told(options(tmp_path / "results", *more))
    assert status == 2
    lines = err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert out == ""
    assert not (tmp_path / "results").exists()


def test_a_process_ends_with_it(tmp_path):
    status, out, err = run(options(tmp_path / "results", "--rule", "krumm"))
    assert status == 2
    assert out == ""
    assert err.splitlines()[-1].startswith("error: unknown rule 'krumm'; did you mean krum?")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["studdy"], "unknown command 'studdy'; did you mean study?"),
        (["study", "aksell"], "unknown study 'aksell'; did you mean aksel?"),
        (
            ["study", "aksel", "--edition", "gpu"],
            "study aksel has no edition 'gpu'; it has full, cpu.",
        ),
        (["study", "aksel", "--shard", "3/2"], "shard must be i/N with 1 <= i <= N; got '3/2'."),
        (
            ["study", "bucketing", "--fresh", "--results", "/no", "--data-dir", "nowhere"],
            "mnist is not prepared in nowhere/mnist: set TFDS_DATA_DIR, or "
            'pip install -e ".[download]", then python -m experiments study bucketing --fresh '
            "--results /no --data-dir nowhere --download",
        ),
        (["report", "nowhere"], "nowhere has no config.json; expected the folder of a study."),
        (["choose", "nowhere"], "nowhere has no config.json; expected the folder of a study."),
        (["--validation", "2000"], "validation must be below the 1437 training samples; got 2000."),
        (["data", "--partition", "zipf"], "unknown kind of partition 'zipf'"),
        (["list", "everything"], "unknown kind 'everything'; known: all, rules,"),
    ],
)
def test_a_wrong_command_is_one_line(told, arguments, message):
    status, out, err = told(arguments)
    assert status == 2
    assert message in err.strip().splitlines()[-1]
    assert out == ""


def test_results_that_cannot_be_written(told):
    status, _, err = told(options("/dev/null/here"))
    assert status == 2
    assert "Not a directory" in err.strip().splitlines()[-1]


def test_what_there_is(told):
    status, out, _ = told(["list"])
    assert status == 0
    for table in (
        catalogue.RULES,
        catalogue.MIXINGS,
        catalogue.ATTACKS,
        zoo.MODELS,
        datasets.NAMES,
    ):
        for name in table:
            assert re.search(rf"^  {name}\s+\S", out, re.MULTILINE), name


def test_labels_of_the_workers(tmp_path, told):
    drawn = tmp_path / "labels.png"
    status, out, err = told(
        ["data", "--n", "5", "--partition", "pathological(2)", "--figure", str(drawn)]
    )
    assert status == 0, err
    assert len(out.splitlines()) >= 7
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_shards_are_the_whole_study(digits, tmp_path, programs_are_kept):
    folder = tmp_path / "study"
    config = dataclasses.replace(
        SMALL, rule=("median", "mean"), attack=("sign_flip", "little_is_enough")
    )

    def load(_):
        return digits

    tasks = sweep.tasks([config, config], folder, load)
    assert len(tasks) == 6  # the second grid is the same
    shards = [sweep.stretch(tasks, i, 4) for i in (1, 2, 3, 4)]
    assert [task for part in shards for task in part] == tasks
    assert [len(sweep.run(part, folder, load)) for part in shards] == [1, 2, 1, 2]
    assert {task.path for task in tasks} == set((folder / "blocks").iterdir())


def test_a_long_block_goes_on_from_its_checkpoint(digits, tmp_path, monkeypatch, programs_are_kept):
    monkeypatch.setattr(blocks, "CHECKPOINT_SECONDS", 0.0)
    # Attacks with memory and random numbers, and a momentum: everything that a state may hold.
    config = dataclasses.replace(
        SMALL, rule=("median",), attack=("mimic", "gaussian(sigma=1.0)"), s=(1, 2), eval_every=2,
        validation=100, average=True,
    )  # fmt: skip
    undisturbed = swept(dataclasses.replace(config, results=str(tmp_path / "one")), digits)
    folder = tmp_path / "two" / "main"
    tasks = sweep.tasks([config], folder, lambda _: digits)
    logged, calls = blocks._log, []

    def killed(*args: object) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        logged(*args)

    monkeypatch.setattr(blocks, "_log", killed)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(tasks, folder, lambda _: digits)
    assert len(list((folder / "checkpoints").iterdir())) == 1
    steps = []
    monkeypatch.setattr(blocks, "_log", lambda task, step, *rest: steps.append(step))
    resumed = sweep.run(tasks, folder, lambda _: digits)
    assert steps == [6, 2, 4, 6]  # the first block resumes after its fourth step
    assert [block["runs"] for block in resumed] == [block["runs"] for block in undisturbed]
    assert not list((folder / "checkpoints").iterdir())


def test_what_fails_is_written_down_and_does_not_stop_the_rest(digits, tmp_path, monkeypatch):
    folder = tmp_path / "study"
    config = dataclasses.replace(SMALL, rule=("median", "mean"), attack=("none",))
    tasks = sweep.tasks([config], folder, lambda _: digits)
    build = programs.build

    def failing(config, dataset, model, rule, *more):
        if rule.name == "median":
            raise RuntimeError("no such luck\nand more")
        return build(config, dataset, model, rule, *more)

    monkeypatch.setattr(programs, "build", failing)
    assert [b["rule"] for b in sweep.run(tasks, folder, lambda _: digits)] == ["mean"]
    (failure,) = store.failures(folder)
    assert failure["error"] == "RuntimeError: no such luck"
    assert failure["rule"] == "median"
    monkeypatch.undo()
    assert len(sweep.run(tasks, folder, lambda _: digits)) == 2
    assert not list(store.failures(folder))


def test_a_study_that_has_changed_leaves_no_run_twice(digits, tmp_path, programs_are_kept):
    folder = tmp_path / "study"
    before = dataclasses.replace(SMALL, rule=("mean", "median"), attack=("none",), s=(0,), seeds=2)
    after = dataclasses.replace(before, rule=("median",), seeds=3)
    for config in (before, after):
        sweep.run(sweep.tasks([config], folder, lambda _: digits), folder, lambda _: digits)
    assert len(list((folder / "blocks").iterdir())) == 3
    finished = {str(c.rule): store.finished([c], folder) for c in (before, after)}
    assert [b["rule"] for b in finished[str(before.rule)]] == ["mean", "median"]
    (both,) = finished[str(after.rule)]
    assert both["members"] == [[0, 0], [1, 0], [2, 0]]


def test_results_of_another_version_are_told(digits, tmp_path, capsys, programs_are_kept):
    folder = tmp_path / "study"
    config = dataclasses.replace(SMALL, rule=("mean",), attack=("none",))
    tasks = sweep.tasks([config], folder, lambda _: digits)
    (block,) = sweep.run(tasks, folder, lambda _: digits)
    store.write_json(tasks[0].path, block | {"environment": block["environment"] | {"jax": "0.1"}})
    sweep.run(tasks, folder, lambda _: digits)
    assert f"finished blocks have jax 0.1, here it is {jax.__version__};" in capsys.readouterr().err


def test_help_tells_every_option():
    status, out, _ = run(["--help"])
    assert status == 0
    for name in Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in out
    assert "--profile DIR" in out


@pytest.mark.slow
def test_aksel_learns_mnist(tmp_path):
    folder = os.environ.get("TFDS_DATA_DIR", "")
    if not (pathlib.Path(folder) / "mnist").is_dir():
        pytest.skip("needs a TFDS folder with mnist in $TFDS_DATA_DIR")
    words = "--dataset mnist --model mlp --rule aksel --attack none --s 0 --seeds 1 --steps 1000"
    words += " --batch-size 32 --learning-rate 0.5 --eval-every 250 --study main"
    status, _, err = run([*words.split(), "--results", str(tmp_path)])
    assert status == 0, err
    with (tmp_path / "main" / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["mean"]) >= 0.95


@pytest.mark.slow
def test_the_main_job_is_as_published(tmp_path):
    """Some cells trained anew, with other rounding, lie within the published intervals."""
    words = ["--rule", "median", "aksel", "--attack", "none", "sign_flip", "--s", "0", "11"]
    status = commands.main([*words, "--study", "again", "--results", str(tmp_path)])
    assert status == 0
    with (tmp_path / "again" / "table.csv").open() as file:
        again = {tuple(map(row.get, ("rule", "attack", "s"))): row for row in csv.DictReader(file)}
    with (ROOT / "docs" / "main-job" / "table.csv").open() as file:
        for row in csv.DictReader(file):
            cell = tuple(map(row.get, ("rule", "attack", "s")))
            if cell in again:
                mean = float(again.pop(cell)["mean"])
                assert float(row["low"]) <= mean <= float(row["high"]), cell
    assert not again
