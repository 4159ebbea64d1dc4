"""The laboratory from end to end, on small studies of the digits."""

import csv
import dataclasses
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import commands
from experiments.data import batches, datasets
from experiments.execution import block as blocks
from experiments.execution import store, sweep
from experiments.grid import catalogue, specs
from experiments.grid.config import IDENTITY, Config
from experiments.grid.planning import Block
from experiments.models import zoo
from experiments.report import figures
from experiments.training import program as programs
from experiments.training.runs import block_runs

ROOT = pathlib.Path(__file__).parents[2]
SMALL = Config(model="softmax", n=7, f=2, s=(0, 1, 2), seeds=2, steps=6, eval_every=3, batch_size=4)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def softmax(digits):
    return zoo.build("softmax", digits.train_x.shape[1:], digits.num_classes)


def options(results, *more):
    words = "--model softmax --n 7 --f 2 --s 0 1 2 --seeds 2 --steps 6 --eval-every 3"
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
        out, err = process.communicate(timeout=600)  # only so that nothing hangs forever
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.fixture
def told(capsys):
    """The same as `run`, in this process."""

    def run_here(arguments):
        status = commands.main(arguments)
        return status, *capsys.readouterr()

    return run_here


def results_of(folder):
    """What the blocks say, without times."""
    found = {}
    for path in sorted((folder / "blocks").glob("*.json")):
        content = json.loads(path.read_text())
        found[path.name] = content["runs"]
    return found


@pytest.fixture(scope="module")
def built():
    """The programs so far, by all that they are made of."""
    return {}


@pytest.fixture
def programs_are_kept(built, monkeypatch):
    """A program that another sweep has built is used again; building one takes half a second."""
    build = programs.build

    def kept(config, dataset, model, rule, mixing, choices, over):
        assert over is None
        settings = str([getattr(config, name) for name in IDENTITY])
        chain = str(rule), str(mixing), tuple(map(str, choices))
        key = (settings, dataset.checksum, *chain)
        if key not in built:
            built[key] = build(config, dataset, model, rule, mixing, choices, over)
        return built[key]

    monkeypatch.setattr(programs, "build", kept)


# --- runs and programs ---------------------------------------------------------------------------


MEAN_ALONE = (("rule", "mean"), ("mixing", "none"), ("attack", "none"))


def swept(config, dataset):
    folder = pathlib.Path(config.results) / config.study
    load = lambda _: dataset  # noqa: E731
    return sweep.run(sweep.tasks([config], folder, load), folder, load)


@pytest.mark.smoke
def test_runs_lie_as_many_as_they_should_and_the_same_ones(digits):
    runs = block_runs(SMALL, digits, [(0, 1), (0, 2), (1, 1), (1, 2)])
    liars = np.asarray(runs.byzantine).reshape(2, 2, 7)
    assert (liars.sum(axis=2) == [[1, 2], [1, 2]]).all()
    assert (liars[:, 0] <= liars[:, 1]).all()
    assert (liars[0] != liars[1]).any()  # another seed, other liars
    keys = jax.random.key_data(runs.key).reshape(2, 2, -1)
    assert (keys[:, 0] == keys[:, 1]).all()
    assert (keys[0] != keys[1]).any()


def test_data_dealt_to_honest_workers_alone(digits):
    config = dataclasses.replace(SMALL, partition="sorted", dealt_to="honest")
    runs = block_runs(config, digits, [(0, 0), (0, 2)])
    everything = len(digits.train_y)
    for byzantine, indices, sizes in zip(*map(np.asarray, runs[1:4])):
        assert (sizes[byzantine] == everything).all()
        honest = [row[:size] for row, size in zip(indices, sizes)]
        honest = np.concatenate([row for row, lies in zip(honest, byzantine) if not lies])
        assert sorted(honest) == list(range(everything))
        labels = digits.train_y[honest]
        assert (np.diff(labels) >= 0).all()  # in their order, sorted by label


def test_strengths_and_step_sizes_share_one_program(digits, tmp_path, monkeypatch):
    few = dataclasses.replace(
        SMALL,
        rule=("median",),
        s=(2,),
        seeds=1,
        attack=("gaussian(sigma=1.0)", "gaussian(sigma=9.0)"),
    )
    grids = [dataclasses.replace(few, learning_rate=rate) for rate in (0.1, 0.5)]
    built, build = [], programs.build

    def counted(*args):
        built.append(build(*args))
        return built[-1]

    monkeypatch.setattr(programs, "build", counted)
    load = lambda _: digits  # noqa: E731
    tasks = sweep.tasks(grids, tmp_path, load)
    together = sweep.run(tasks, tmp_path, load)
    assert len(built) == 1
    losses = [block["runs"][0]["loss"][-1] for block in together]
    assert len(set(losses)) == 4
    for i, task in enumerate(tasks):
        alone = dataclasses.replace(task.config, attack=(str(task.block.attack),))
        (found,) = sweep.run(sweep.tasks([alone], tmp_path / str(i), load), tmp_path / str(i), load)
        assert found["runs"][0]["loss"] == pytest.approx(together[i]["runs"][0]["loss"], rel=1e-6)


def final(program, runs, attack, config=SMALL):
    """The model and its evaluation at the end."""
    states = program.start(jnp.int32(attack), runs)
    for step in range(0, config.steps, config.eval_every):
        states, _ = program.advance(states, jnp.int32(step), jnp.int32(attack), runs)
    return states.protocol.params, program.evaluate(states, True, runs)


@pytest.mark.slow
def test_the_switch_runs_the_attack_that_was_chosen(digits, softmax):
    rule, mixing = specs.parse("rule", "median", f=2), specs.parse("mixing", "none", f=2)
    texts = (
        *("gaussian(sigma=5.0)", "flip_labels", "mimic(warmup=2)"),
        *("stale(delay=2)", "alternating"),
    )
    attacks = [specs.parse("attack", text, f=2) for text in texts]
    runs = block_runs(SMALL, digits, [(0, 2), (1, 2)])
    together = programs.build(SMALL, digits, softmax, rule, mixing, attacks)
    seen = []
    for i, attack in enumerate(attacks):
        alone = programs.build(SMALL, digits, softmax, rule, mixing, [attack])
        expected, _ = final(alone, runs, 0)
        found, _ = final(together, runs, i)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        seen.append(np.concatenate([np.ravel(p) for p in jax.tree.leaves(found)]))
    for i in range(len(seen)):
        for j in range(i):
            assert not np.allclose(seen[i], seen[j], atol=1e-4), (texts[i], texts[j])


WATCHED = dataclasses.replace(
    SMALL, steps=4, eval_every=2, momentum=0.0, average=True, validation=100, eval_samples=50
)


class Watched(NamedTuple):
    """What is found at an evaluation of `WATCHED`."""

    model: Any
    average: Any
    metrics: programs.Metrics
    diagnostics: dict[str, Any]


def of_run(tree, *place):
    return jax.tree.map(lambda leaf: leaf[place], tree)


@pytest.fixture(scope="module")
def watched(digits, softmax):
    """The runs of `WATCHED` under the mean, and both evaluations.

    In the first nobody lies, in the second two workers flip their labels.
    """
    mean, mixing, none = (specs.parse(*words, f=2) for words in MEAN_ALONE)
    flip = specs.parse("attack", "flip_labels", f=2)
    runs = block_runs(WATCHED, digits, [(0, 0), (0, 2)])
    program = programs.build(WATCHED, digits, softmax, mean, mixing, [none, flip])
    states, found = program.start(jnp.int32(1), runs), []
    for step in (0, 2):
        states, diagnostics = program.advance(states, jnp.int32(step), jnp.int32(1), runs)
        held = jax.device_get((states.protocol.params, states.average))  # states are given away
        metrics = program.evaluate(states, step == 2, runs)
        found.append(Watched(*held, *jax.device_get((metrics, diagnostics))))
    return runs, found


@pytest.fixture(scope="module")
def by_hand(digits, softmax, watched):
    """The models and gradients of the same two runs, by a loop of SGD on the union batch."""
    rest, _, _ = batches.hold_out(digits, WATCHED.validation)
    runs = watched[0]
    starts = jax.jit(jax.vmap(lambda key: softmax.init(jax.random.fold_in(key, 0))))(runs.key)

    @jax.jit
    def gradient(params, run, step):
        key = jax.random.fold_in(jax.random.fold_in(run.key, 4), step)
        batch = batches.sample_batch(
            key, run.indices, run.sizes, rest.train_x, rest.train_y, WATCHED.batch_size
        )
        batch["y"] = jnp.where(run.byzantine[:, None], 9 - batch["y"], batch["y"])
        union = {name: leaf.reshape(-1, *leaf.shape[2:]) for name, leaf in batch.items()}
        return jax.grad(softmax.loss)(params, union)

    out = []
    for r in range(2):
        run, each, gradients = of_run(runs, r), [jax.device_get(of_run(starts, r))], []
        for step in range(4):
            gradients.append(jax.device_get(gradient(each[-1], run, step)))
            each.append(
                jax.tree.map(lambda p, g: p - WATCHED.learning_rate * g, each[-1], gradients[-1])
            )
        out.append((each[1:], gradients))
    return out


def assert_same_model(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("r", [0, 1], ids=["nobody lies", "flipped labels"])
def test_training_is_plain_sgd_on_the_union_batch(r, watched, by_hand):
    each, _ = by_hand[r]
    for found, expected in zip(watched[1], each[1::2], strict=True):
        assert_same_model(of_run(found.model, r), expected)


def test_the_average_is_that_of_all_models_so_far(watched, by_hand):
    for r, (each, _) in enumerate(by_hand):
        for found, count in zip(watched[1], (2, 4), strict=True):
            expected = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *each[:count])
            assert_same_model(of_run(found.average, r, 0), expected)


def test_diagnostics_are_of_the_last_step_before_an_evaluation(watched, by_hand):
    _, gradients = by_hand[0]
    for found, gradient in zip(watched[1], gradients[1::2], strict=True):
        norm = math.sqrt(sum(float(np.sum(g**2)) for g in jax.tree.leaves(gradient)))
        assert float(found.diagnostics["honest_norm"][0]) == pytest.approx(norm, rel=1e-4)


def test_which_samples_an_evaluation_is_on(digits, softmax, watched):
    """The first 50, at the end all 360, and each time the 100 that were held out."""
    _, *held = batches.hold_out(digits, 100)
    accuracy = jax.jit(softmax.accuracy)
    for found, count in zip(watched[1], (50, 360), strict=True):
        for r in range(2):
            average = of_run(found.average, r, 0)
            right = accuracy(average, digits.test_x[:count], digits.test_y[:count])
            assert float(found.metrics.accuracy[r]) == pytest.approx(float(right))
            right = accuracy(average, *held)
            assert float(found.metrics.validation[r]) == pytest.approx(float(right))


def test_what_a_loss_draws_is_not_what_chose_its_batch():
    """Otherwise dropout would depend on the samples.

    This loss draws samples in the way in which batches are drawn; the step marks where both agree.
    """
    config = Config(
        n=1, f=0, s=(0,), seeds=1, steps=1, eval_every=1, batch_size=64, momentum=0.0,
        learning_rate=1.0,
    )  # fmt: skip
    x, y = np.arange(100, dtype=np.float32)[:, None], np.zeros(100, np.int32)
    numbers = datasets.Dataset("numbers", x, y, x, y, 2, "0")
    runs = block_runs(config, numbers, [(0, 0)])

    def loss(params, batch, key=None):
        again = runs.indices[0, 0][jax.random.randint(key, (64,), 0, 100)]
        return params @ (again == batch["x"][:, 0]).astype(jnp.float32)

    model = zoo.Model(lambda key: jnp.zeros(64), None, loss, None)
    mean, mixing, none = (specs.parse(*words, f=0) for words in MEAN_ALONE)
    program = programs.build(config, numbers, model, mean, mixing, [none])
    zero = jnp.int32(0)
    states, _ = program.advance(program.start(zero, runs), zero, zero, runs)
    assert np.count_nonzero(states.protocol.params) < 10  # 0.64 are expected


def test_a_model_that_is_not_finite_is_a_result(digits, softmax, tmp_path):
    config = Config(
        model="softmax", n=7, f=2, s=(1,), seeds=1, steps=2, eval_every=1, rule=("mean",),
        attack=("non_finite",), results=str(tmp_path),
    )  # fmt: skip
    (block,) = swept(config, digits)
    (found,) = block["runs"]
    assert found["finite"] == [False, False]
    assert found["loss"] == [None, None]
    assert found["diverged"] == 1
    assert found["distance"] == [None, None]


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
    of_blocks, places = {"rule", "mixing", "attack", "s", "seeds"}, {"study", "results", "data_dir"}
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
    # Two rules that other tests have compiled as well.
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
    assert "step/s" in err  # the bar

    before = results_of(folder)
    assert len(before) == 6
    victim = folder / "blocks" / sorted(before)[0]
    victim.unlink()
    (folder / "blocks" / sorted(before)[1]).write_text('{"half": ')  # a damaged file
    monkeypatch.setattr(figures, "make", lambda *_: {})  # they have been looked at
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
    undisturbed = tmp_path / "undisturbed"
    assert run(options(undisturbed))[0] == 0
    assert results_of(folder) == results_of(undisturbed / "main")


@pytest.mark.slow
def test_killed_ten_times_it_ends_as_if_nothing_had_happened(tmp_path):
    folder, rng = tmp_path / "results" / "main", np.random.default_rng(0)
    more = ("--steps", "60", "--eval-every", "3")
    for _ in range(10):
        process = start(options(tmp_path / "results", *more))
        try:
            process.communicate(timeout=float(rng.uniform(3, 8)))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.communicate(timeout=30)
        results_of(folder)  # raises where a file is half-written
    status, _, err = run(options(tmp_path / "results", *more))
    assert status == 0, err
    undisturbed = tmp_path / "undisturbed"
    assert run(options(undisturbed, *more))[0] == 0
    assert results_of(folder) == results_of(undisturbed / "main")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rule", "krumm"], "unknown rule 'krumm'; known: mean,"),
        (["--attack", "lie"], "unknown attack 'lie'; known: none,"),
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
    assert err.splitlines()[-1].startswith("error: unknown rule 'krumm'; known: mean,")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["studdy"],
            "unknown command 'studdy'; known: run, study, report, choose,",
        ),
        (["study", "aksell"], "unknown study 'aksell'; known: aksel,"),
        (
            ["study", "aksel", "--edition", "gpu"],
            "study aksel has no edition 'gpu'; it has full, cpu.",
        ),
        (["study", "aksel", "--shard", "3/2"], "shard must be i/N with 1 <= i <= N; got '3/2'."),
        (["study", "bucketing", "--data-dir", "nowhere"], "mnist is not prepared in nowhere"),
        (["report", "nowhere"], "nowhere has no config.json; expected the folder of a study."),
        (["choose", "nowhere"], "nowhere has no config.json; expected the folder of a study."),
        (["--validation", "2000"], "validation must be below the 1437 training samples; got 2000."),
        (["data", "--partition", "zipf"], "unknown kind of partition 'zipf'"),
        (["list", "everything"], "list takes no options; got everything."),
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
    # Attacks that remember and draw numbers, and a momentum: all that a state may hold.
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
    found = sweep.run(tasks, folder, lambda _: digits)
    assert steps == [6, 2, 4, 6]  # the first block goes on after its fourth step
    assert [block["runs"] for block in found] == [block["runs"] for block in undisturbed]
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
    few = dataclasses.replace(SMALL, rule=("mean", "median"), attack=("none",), s=(0,), seeds=2)
    more = dataclasses.replace(few, rule=("median",), seeds=3)
    for config in (few, more):
        sweep.run(sweep.tasks([config], folder, lambda _: digits), folder, lambda _: digits)
    assert len(list((folder / "blocks").iterdir())) == 3
    found = {str(c.rule): store.finished([c], folder) for c in (few, more)}
    assert [b["rule"] for b in found[str(few.rule)]] == ["mean", "median"]
    (both,) = found[str(more.rule)]
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
    words += " --batch-size 32 --learning-rate 0.5 --eval-every 250"
    status, _, err = run([*words.split(), "--results", str(tmp_path)])
    assert status == 0, err
    with (tmp_path / "main" / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["mean"]) >= 0.95
