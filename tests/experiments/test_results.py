"""Results are never lost or changed in silence: folders, data, damaged files, the cache."""

import dataclasses
import fcntl
import json
import math
import pathlib
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from experiments import studies
from experiments.analysis import damage
from experiments.analysis.theory import run as theory
from experiments.analysis.worst_case import WorstCase
from experiments.cli import commands
from experiments.data import cache, datasets
from experiments.execution import checkpoint, claims, export, locks, store, strict, sweep
from experiments.grid import naming
from experiments.grid.config import Config
from experiments.report import figures
from experiments.training.program import Metrics

SHIPPED = pathlib.Path(__file__).parents[2] / "docs" / "studies"
SMALL = Config(
    model="softmax", n=5, f=1, s=(0, 1), seeds=1, steps=2, eval_every=1, batch_size=2,
    rule=("mean", "median"), attack=("sign_flip",),
)  # fmt: skip
WORDS = "--model softmax --n 5 --f 1 --s 0 1 --seeds 1 --steps 2 --eval-every 1 --batch-size 2"
WORDS = [*WORDS.split(), "--rule", "mean", "median", "--attack", "sign_flip"]


@pytest.fixture
def told(capsys, monkeypatch):
    """Runs a command in this process, without figures."""
    monkeypatch.setattr(figures, "make", lambda *_: {})

    def run_here(*arguments):
        status = commands.main([str(word) for word in arguments])
        return status, *capsys.readouterr()

    return run_here


@pytest.fixture
def without_data(tmp_path, monkeypatch):
    """A machine that has no data, and nothing in its home."""
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in ("TFDS_DATA_DIR", "BYZJAX_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(empty))
    return empty


def finish(folder, config):
    """Writes made-up results of all blocks of a grid, as if they had been trained."""
    for task in sweep.tasks([config], folder, lambda _: datasets.OUTLINES["digits"]):
        curves = {"step": [1, 2], "accuracy": [0.5, 0.625], "loss": [1.0, None]}
        runs = [
            {"seed": seed, "s": s, **curves, "finite": [True, False]} for seed, s in task.block.runs
        ]
        more = {"runs": runs, "seconds": 1.0, "environment": store.environment()}
        store.write_json(task.path, task.described | more)


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- a folder belongs to its settings ------------------------------------------------------------


def test_other_settings_have_another_folder(tmp_path, told):
    results = tmp_path / "results"
    small, slower = (dataclasses.replace(SMALL, learning_rate=rate) for rate in (0.2, 0.1))
    places = [results / naming.folder_name("main", config) for config in (small, slower)]
    for place, config in zip(places, (small, slower)):
        finish(place, config)
    assert told(*WORDS, "--results", results)[0] == 0
    before = contents(places[0])
    assert {"config.json", "index.html", "table.csv"} <= {path.name for path in before}
    status, out, _ = told(*WORDS, "--learning-rate", 0.1, "--results", results)
    assert status == 0
    assert f"into {places[1]}." in out
    assert f"Results: {places[1]}: index.html" in out
    assert contents(places[0]) == before
    assert json.loads((places[1] / "config.json").read_text())["grids"][0]["learning_rate"] == 0.1


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "main"),
        ({"results": "elsewhere", "data_dir": "x", "download": True}, "main"),
        ({"learning_rate": 0.1}, "learning-rate-0.1"),
        ({"rule": ("krum(f=4, m=3)",), "steps": 600}, "rule-krum-f-4-m-3_steps-600"),
        ({"rule": ("../../my rules:a",)}, "rule-..-..-my-rules-a"),
    ],
)
def test_the_name_of_a_folder_says_what_differs(changes, name):
    given = naming.folder_name("main", dataclasses.replace(Config(), **changes))
    assert given.replace("=", "-") == name
    assert "/" not in given


def test_long_names_end_and_differ():
    many = [Config(rule=tuple("abcdefghijklmnopqrstuvwxyz"), steps=25 * k) for k in (1, 2)]
    many.append(dataclasses.replace(many[0], attack=("zero", "none") * 9))
    names = {naming.folder_name("main", config) for config in many}
    assert len(names) == 3
    assert all(len(name) <= naming.LONGEST for name in names)


def test_a_study_of_that_name_is_not_replaced(tmp_path, told):
    folder = tmp_path / "mine"
    finish(folder, SMALL)
    mine = (*WORDS, "--study", "mine", "--results", tmp_path)
    assert told(*mine)[0] == 0
    before = contents(folder)
    for more, message in (
        (["--learning-rate", 0.1], "--learning-rate 0.2 (here 0.1); add --study mine_learning-ra"),
        (["--rule", "median"], "--rule mean (missing here); add them to extend it, or add --stud"),
        (["--steps", 4, "--n", 7], "--n 5 (here 7), --steps 2 (here 4); add --study mine_n-7_st"),
        (["--partition", "sorted"], "--partition iid (here sorted); add --study mine_partition-s"),
    ):
        status, out, err = told(*mine, *more)
        assert status == 2
        assert out == ""
        assert f"{folder} was made with {message}" in err.strip().splitlines()[-1]
        assert len(err.strip().splitlines()[-1].replace(str(tmp_path), "")) <= 200
        assert contents(folder) == before
    assert told(*mine)[0] == 0  # the same command continues


def test_more_of_the_same_extends_a_study(tmp_path, told):
    folder = tmp_path / "mine"
    wider = dataclasses.replace(SMALL, rule=("median", "krum(m=1)", "mean"), n=5)
    finish(folder, SMALL)
    finish(folder, wider)
    mine = (*WORDS, "--study", "mine", "--results", tmp_path)
    assert told(*mine)[0] == 0
    status, _, err = told(*mine, "--rule", "median", "krum(m=1)", "mean")
    assert (status, err) == (0, "")
    assert set(pd.read_csv(folder / "table.csv")["rule"]) == {"mean", "median", "krum(m=1)"}


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, None),
        ({"results": "elsewhere", "data_dir": "x"}, None),
        ({"seeds": 2}, None),
        ({"s": (1, 0)}, None),
        ({"rule": ("median()", "krum", "mean")}, None),
        ({"attack": ("none", "sign_flip")}, None),
        ({"seeds": 0}, r"--seeds 1 \(here 0\); add --study "),
        ({"s": (1,)}, r"--s 0 \(missing here\); add them to extend it, or add --study a_s-1 for"),
        ({"mixing": ("bucketing",)}, r"--mixing none \(missing here\); add them"),
        ({"clip": 1.0}, r"--clip 0.0 \(here 1.0\); add --study a_clip-1.0 for another folder\.$"),
    ],
)
def test_what_a_folder_accepts(tmp_path, changes, refused):
    folder = tmp_path / "a"
    finish(folder, SMALL)
    store.write_config([SMALL], folder)
    new = dataclasses.replace(SMALL, **changes)
    if refused is None:
        claims.check(folder, [new], "add --study {} for another folder")
    else:
        with pytest.raises(ValueError, match=refused):
            claims.check(folder, [new], "add --study {} for another folder")


def test_each_grid_of_a_study_must_stay(tmp_path):
    one, two = (dataclasses.replace(SMALL, learning_rate=rate) for rate in (0.2, 0.1))
    finish(tmp_path, one)
    store.write_config([one, two], tmp_path, study="x", edition="cpu")
    of_x = {"study": "x", "edition": "cpu"}
    claims.check(tmp_path, [two, dataclasses.replace(one, seeds=3)], "move it", **of_x)
    with pytest.raises(ValueError, match=r"made with --learning-rate 0.2 \(here 0.1\); move it\."):
        claims.check(tmp_path, [two], "move it", **of_x)
    for more, whose in (
        ({}, "python -m experiments"),
        ({"study": "y"}, "the study y, edition cpu"),
    ):
        with pytest.raises(ValueError, match=f"to the study x, edition cpu, not to {whose}; mo"):
            claims.check(tmp_path, [one, two], "move it", **more)


def test_a_folder_without_results_is_free_unless_somebody_trains_there(tmp_path):
    store.write_config([SMALL], tmp_path)
    other = [dataclasses.replace(SMALL, clip=1.0)]
    claims.check(tmp_path, other, "wait")
    (tmp_path / "locks").mkdir()
    with (tmp_path / "locks" / "a").open("a") as file:
        claims.check(tmp_path, other, "wait")
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(
            ValueError, match=r"here 1.0\); another process is training there; wait"
        ):
            claims.check(tmp_path, other, "wait")


def test_other_commands_have_their_folders(tmp_path, told):
    config = WorstCase(results=str(tmp_path), data=("gaussian",))
    assert damage.folder_of(WorstCase()) == pathlib.Path("results/worst-case")
    assert damage.folder_of(config) == tmp_path / "worst-case-data-gaussian"
    for name, folder, settings in (
        ("worst-case", damage.folder_of(config), naming.decisive(config)),
        ("theory", tmp_path / "theory", {"quick": False}),
    ):
        claims.write_command(folder, name, settings)
        before = contents(folder)
        claims.write_command(folder, name, settings)  # continues
        assert contents(folder) == before
        with pytest.raises(ValueError, match=r"was made with .* \(here 7\).*; add --results wi"):
            claims.write_command(folder, name, dict.fromkeys(settings, 7))
        status, _, err = told(*WORDS, "--study", folder.name, "--results", tmp_path)
        assert status == 2
        assert f"{folder} belongs to python -m experiments {name}, not to" in err
        status, _, err = told("report", folder)
        assert status == 2
        assert f"{folder} is not the folder of a study: its config.json has no grids;" in err
    with pytest.raises(ValueError, match="belongs to python -m experiments worst-case, not to pyt"):
        claims.write_command(damage.folder_of(config), "theory", {"quick": False})


def test_an_export_loses_no_block(tmp_path):
    finish(tmp_path / "all", SMALL)
    blocks = store.every(tmp_path / "all")
    export.write(tmp_path / "all", blocks, tmp_path / "out")
    export.write(tmp_path / "all", blocks, tmp_path / "out")
    with pytest.raises(ValueError, match=r"blocks\.csv has 1 block that .*all lacks; nothing is"):
        export.write(tmp_path / "all", blocks[1:], tmp_path / "out")
    assert export.read(tmp_path / "out") == blocks


def test_a_quick_table_replaces_no_long_one(tmp_path):
    short, long = pd.DataFrame({"n": [1]}), pd.DataFrame({"n": [1, 2]})
    long.to_csv(tmp_path / "kappa.csv", index=False)
    theory._check_out({"kappa": long, "growth": short}, tmp_path)
    with pytest.raises(ValueError, match=r"kappa\.csv has 2 lines and would be replaced by 1;"):
        theory._check_out({"kappa": short}, tmp_path)


# --- without data --------------------------------------------------------------------------------


def test_the_outline_of_a_data_set_is_that_of_its_samples():
    assert list(datasets.OUTLINES) == list(datasets.NAMES)
    assert datasets.OUTLINES["digits"] == datasets.load("digits").outline
    for folder in SHIPPED.glob("*-cpu"):
        for block in export.read(folder):
            assert datasets.OUTLINES[block["dataset"]].checksum == block["data"]


@pytest.mark.slow
@pytest.mark.parametrize("name", datasets.NAMES)
def test_outlines_of_the_data_that_are_here(name):
    try:
        dataset = datasets.load(name)
    except cache.MissingDataError as error:
        pytest.skip(str(error))
    assert datasets.OUTLINES[name] == dataset.outline


QUICK = "bucketing"  # few blocks
# Defined, and run in part or not at all; their page says so.
UNFINISHED = ("mimic",)
FINISHED = [name for name in studies.names() if name not in UNFINISHED]


@pytest.mark.parametrize(
    "name", [n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FINISHED]
)
def test_shipped_studies_need_no_data(name, tmp_path, told, without_data):
    results = tmp_path / "results"
    status, out, err = told("study", name, "--dry-run", "--results", results)
    assert (status, err) == (0, "")
    assert "Nothing is missing." in out
    assert not results.exists()
    status, out, err = told("study", name, "--results", results)
    assert status == 0
    assert f"Results: {results / name}-cpu: index.html" in out
    shown = pd.read_csv(results / f"{name}-cpu" / "table.csv")
    assert len(shown) == len(pd.read_csv(SHIPPED / f"{name}-cpu" / "table.csv"))
    assert told("report", results / f"{name}-cpu")[0] == 0


def test_a_shipped_study_is_reported_elsewhere(tmp_path, told, without_data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = contents(SHIPPED / "bucketing-cpu")
    status, out, _ = told("report", SHIPPED / "bucketing-cpu")
    assert status == 0
    assert "holds exported blocks; the report goes to results/bucketing-cpu." in out
    assert (tmp_path / "results" / "bucketing-cpu" / "index.html").exists()
    assert contents(SHIPPED / "bucketing-cpu") == before
    assert told("study", "bucketing", "--dry-run")[0] == 0


@pytest.mark.parametrize("name", UNFINISHED)
def test_an_unfinished_study_says_how_far_it_is(name):
    """Its shipped blocks, if any, are its own, and the page counts them."""
    grids, blocks = studies.grids(name, "cpu"), export.read(SHIPPED / f"{name}-cpu")
    assert len(store.belonging(grids, blocks)) == len(blocks)
    assert all(store._has_curves(block) for block in blocks)
    missing, planned = store.unfinished(grids, blocks)
    assert 0 < missing <= planned
    section = (SHIPPED / "README.md").read_text().split(f"## {name}, CPU edition")[1]
    assert f"{planned - missing:,} of {planned:,} runs so far." in section.split("\n## ")[0]


@pytest.mark.parametrize("name", FINISHED)
def test_shipped_folders_belong_to_their_studies(name, tmp_path):
    """A study continues from its shipped blocks and config.json."""
    folder = tmp_path / f"{name}-cpu"
    folder.mkdir()
    shutil.copy(SHIPPED / folder.name / "config.json", folder)
    (folder / "table.csv").touch()
    edition = {"study": name, "edition": "cpu"}
    grids = studies.grids(name, "cpu")
    claims.check(folder, grids, "move it", **edition)
    blocks = export.read(SHIPPED / folder.name)
    assert store.unfinished(grids, store.belonging(grids, blocks))[0] == 0
    assert all(store._has_curves(block) for block in blocks)
    changed = [dataclasses.replace(grid, clip=7.0) for grid in grids]
    with pytest.raises(ValueError, match=r"was made with --clip \d.* \(here 7\.0\); move it\."):
        claims.check(folder, changed, "move it", **edition)


def test_what_must_be_trained_needs_data_and_says_how(tmp_path, told, without_data):
    results = tmp_path / "r"
    words = ("study", "bucketing", "--fresh", "--results", results)
    status, out, err = told(*words, "--dry-run")
    assert (status, err) == (0, "")
    assert "minutes on 2 CPU cores" in out
    assert "Before they can be trained: mnist is not prepared in" in out
    status, out, err = told(*words)
    assert (status, out) == (2, "")
    install = 'pip install -e ".[download]"'
    assert f"set TFDS_DATA_DIR, or {install}, then python -m experiments " in err
    assert err.strip().endswith(" --download")
    assert not results.exists()


def test_the_command_that_would_work():
    error = cache.MissingDataError("mnist is nowhere", "mnist")
    say = error.text
    assert say("python -m experiments study x") == (
        "mnist is nowhere, then python -m experiments study x --download"
    )
    general = "mnist is nowhere, then python -m experiments data --dataset mnist --download"
    assert say("python -m experiments " + "x" * 180) == general == str(error)
    assert cache.MissingDataError("no a9a").text("python -m experiments") == "no a9a"


@pytest.mark.parametrize(
    "words",
    [
        ["--dataset", "mnist"],
        ["--dataset", "a9a", "--model", "logistic"],
        ["worst-case"],
        ["data", "--dataset", "cifar10"],
        ["data", "--dataset", "w8a"],
    ],
)
def test_missing_data_are_one_line(words, told, without_data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, out, err = told(*words)
    assert (status, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert len(line.replace(str(without_data), "")) <= 200
    assert "download" in line
    assert not (tmp_path / "results").exists()


def test_wrong_settings_are_found_without_data(told, without_data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (["--partition", "zipf"], "unknown kind of partition 'zipf'"),
        (["--validation", "60000"], "validation must be below the 60000 training samples"),
        (["--model", "vgg"], "vgg"),
    ):
        status, _, err = told("--dataset", "mnist", *words)
        assert status == 2
        assert message in err


# --- damaged files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"grids": [', r"config\.json is damaged \(line 1\); remove it and repeat the command"),
        ("", r"config\.json is damaged \(line 1\)"),
        ("[]", r"config\.json is damaged \(no object\)"),
        ('{"grids": 3}', r"config\.json is damaged \(grids is no list\)"),
        ('{"grids": [3]}', r"config\.json is damaged \(a grid is no object\)"),
        ('{"grids": [{"n": "5"}]}', r"config\.json is damaged \(n is '5'\)"),
        ('{"grids": [{"n": null}]}', r"config\.json is damaged \(n is None\)"),
        ('{"grids": [{"rule": [1]}]}', r"config\.json is damaged \(rule is \(1,\)\)"),
        ('{"grids": [{"rule": "krum"}]}', r"config\.json is damaged \(rule is 'krum'\)"),
        ('{"grids": [{"workers": 5}]}', r"has a setting 'workers' that this version of byzjax do"),
        (b"\xff\xfe", r"config\.json is damaged \(not JSON\)"),
        ("[" * 30_000, r"config\.json is damaged \(not JSON\)"),
        ('{"grids": []}', r"is not the folder of a study: its config\.json has no grids"),
        ("{}", r"is not the folder of a study: its config\.json has no grids"),
        (None, r"has no config\.json; expected the folder of a study\."),
    ],
)
def test_a_damaged_config_is_one_line(tmp_path, told, content, message):
    if content is not None:
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "config.json").write_bytes(raw)
    for command in ("report", "choose"):
        status, out, err = told(command, tmp_path)
        assert (status, out) == (2, "")
        (line,) = err.strip().splitlines()
        assert re.search(message, line)
        assert len(line.replace(str(tmp_path), "")) <= 200


def test_a_damaged_config_is_not_overwritten(tmp_path, told):
    finish(tmp_path / "mine", SMALL)
    path = tmp_path / "mine" / "config.json"
    path.write_text('{"grids": [')
    mine = (*WORDS, "--study", "mine", "--results", tmp_path)
    assert told(*mine)[0] == 2
    assert path.read_text() == '{"grids": ['
    path.unlink()  # as the message says
    status, out, _ = told(*mine)
    assert status == 0
    assert "4 of 4 blocks are in" in out


def damaged(block, how):
    runs = block["runs"]
    return {
        "cut": None,
        "no runs": block | {"runs": []},
        "a run too many": block | {"runs": [*runs, *runs]},
        "a curve is short": block | {"runs": [{**runs[0], "loss": [1.0]}]},
        "no curve": block | {"runs": [{k: v for k, v in runs[0].items() if k != "finite"}]},
        "text": block | {"runs": [{**runs[0], "accuracy": ["0.5", "0.6"]}]},
        "no list": block | {"runs": 3},
        "no environment": {k: v for k, v in block.items() if k != "environment"},
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        *("cut", "no runs", "a run too many", "a curve is short", "no curve", "text", "no list"),
        "no environment",
    ],
)
def test_a_damaged_block_is_named_in_the_report(tmp_path, told, how):
    finish(tmp_path, SMALL)
    store.write_config([SMALL], tmp_path)
    path = sorted((tmp_path / "blocks").iterdir())[0]
    if (content := damaged(json.loads(path.read_text()), how)) is None:
        path.write_text(path.read_text()[:300])
    else:
        store.write_json(path, content)
    status, out, err = told("report", tmp_path)
    assert status == 0
    assert f"warning: {path} is damaged; it counts as missing." in err.splitlines()
    assert "note: 3 of 4 runs are here; the command that trained them continues with the" in err
    page = (tmp_path / "index.html").read_text().replace("<wbr>", "")
    assert f"{path} is damaged" in page
    assert "1 block failed" in (tmp_path / "index.html").read_text()
    assert "| mean" in out


def test_blocks_of_other_settings_are_counted(tmp_path, told):
    finish(tmp_path, SMALL)
    finish(tmp_path, dataclasses.replace(SMALL, clip=1.0))
    store.write_config([SMALL], tmp_path)
    status, _, err = told("report", tmp_path)
    assert status == 0
    assert err == f"note: 4 blocks of other settings in {tmp_path / 'blocks'}, not shown.\n"


def test_why_a_block_failed_is_said_in_one_line(tmp_path, told, monkeypatch, capsys):
    digits = datasets.load("digits")
    reasons = iter([RuntimeError("RESOURCE_EXHAUSTED: Out of memory " + "x" * 300), MemoryError()])

    def fails(*_):
        raise next(reasons)

    config = dataclasses.replace(SMALL, rule=("mean",))
    monkeypatch.setattr(sweep._Trainer, "_run", fails)
    tasks = sweep.tasks([config], tmp_path, lambda _: digits)
    assert sweep.run(tasks, tmp_path, lambda _: digits) == []
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("failed: ")]
    start = "failed: mean under none: RuntimeError: RESOURCE_EXHAUSTED: Out of memory xx"
    assert lines[0].startswith(start)
    assert lines[0].endswith(f"...; {tmp_path / 'failed' / tasks[0].path.name}")
    assert len(lines[0]) <= 200
    assert lines[1].startswith("failed: mean under sign_flip: MemoryError: out of memory; ")
    assert "2 blocks failed; see" in err
    assert "Traceback" not in err
    # And again by a report of the others.
    finish(tmp_path, dataclasses.replace(config, s=(0,)))
    store.write_config([config], tmp_path)
    status, _, err = told("report", tmp_path)
    assert status == 0
    assert [line for line in err.splitlines() if "failed" in line] == lines[1:]


# --- two runs at once ----------------------------------------------------------------------------


def test_a_folder_without_locks_is_said_once(tmp_path, monkeypatch, capsys):
    def refuses(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuses)
    for name in "ab":
        with locks.alone(tmp_path / "study" / "locks" / name, "a block"):
            pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"warning: {tmp_path / 'study'} has no locks (No locks available): two runs at once would "
        "compute every block twice."
    )


# --- the cache -----------------------------------------------------------------------------------


def test_the_cache_is_shown_and_cleared(without_data, told, monkeypatch):
    own = without_data / ".cache" / "byzjax"
    (own / "xla" / "host").mkdir(parents=True)
    (own / "convex").mkdir()
    for path, size in (("xla/host/program", 1_500_000), ("mnist-3.npz", 2000), ("convex/a9a", 7)):
        (own / path).write_bytes(b"x" * size)
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # as if it were not set
    status, out, _ = told("cache")
    assert status == 0
    for shown in (f"{own}/xla", "compiled programs, 1.5 MB", f"{own}/convex", "arrays, 2.0 kB"):
        assert shown in out
    status, out, _ = told("data", "--n", 2)
    assert status == 0
    line = f"Cache: {own}, 1.5 MB; python -m experiments cache --clear removes it."
    assert out.splitlines()[-1] == line
    status, out, _ = told("cache", "--clear")
    assert (status, out) == (0, f"Removed 1.5 MB from {own}.\n")
    assert [path.name for path in own.rglob("*") if path.is_file()] == ["a9a"]  # the user's
    shutil.rmtree(own / "convex")
    assert told("cache", "--clear")[0] == 0
    assert not own.exists()


# --- JSON ----------------------------------------------------------------------------------------


def strictly(text):
    def no(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=no)


def test_json_is_strict(tmp_path):
    content = {"a": [math.nan, math.inf, (-math.inf, 1.5)], "b": {"c": np.float64("nan")}, "d": "x"}
    path = tmp_path / "a.json"
    store.write_json(path, content)
    assert strictly(path.read_text()) == strictly(strict.dumps(content))
    read = {"a": [None, math.inf, [-math.inf, 1.5]], "b": {"c": None}, "d": "x"}
    assert store.read_block(path) == strict.loads(path.read_text()) == read
    path.write_text('{"a": [NaN, Infinity, -Infinity]}')  # by a former version
    (values,) = store.read_block(path).values()
    np.testing.assert_array_equal(values, [math.nan, math.inf, -math.inf])


def test_an_exported_block_is_strict(tmp_path):
    finish(tmp_path / "a", dataclasses.replace(SMALL, rule=("mean",), s=(0,)))
    (block,) = store.every(tmp_path / "a")
    block["runs"][0]["loss"] = [math.nan, math.inf]
    export.write(tmp_path / "a", [block], tmp_path / "out")
    assert "NaN" not in (tmp_path / "out" / export.FILE).read_text()
    assert export.read(tmp_path / "out")[0]["runs"][0]["loss"] == [None, math.inf]


def test_a_checkpoint_is_strict_and_exact(tmp_path):
    kept = checkpoint.Checkpoints(tmp_path / "block")
    values = np.asarray([[0.1, np.nan, np.inf, -np.inf]], np.float32)
    metrics = Metrics(*[values] * len(Metrics._fields))._replace(finite=values > 0)
    seen = {name: values[0] for name in checkpoint.diagnostics.NAMES}
    states = {"w": np.ones(2, np.float32)}
    kept.save(2, states, [(metrics, seen)])
    _, _, ((metrics_again, seen_again),) = kept.restore(states)
    np.testing.assert_array_equal(metrics_again.loss, values)
    np.testing.assert_array_equal(metrics_again.finite, values > 0)
    for name in seen:
        np.testing.assert_array_equal(seen_again[name], values[0])
    texts = [path.read_text() for path in (tmp_path / "block").glob("2/curves/*")]
    (written,) = [text for text in texts if "loss" in text]
    assert "null" in json.dumps(strictly(written))
