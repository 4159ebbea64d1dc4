"""Training programs of the laboratory against plain loops, on the digits."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from experiments.data import batches, datasets, partitions
from experiments.execution import sweep
from experiments.grid import specs
from experiments.grid.config import Config
from experiments.models import zoo
from experiments.training import program as programs
from experiments.training.runs import block_runs
from tests.experiments.test_laboratory import SMALL

MEAN_ALONE = (("rule", "mean"), ("mixing", "none"), ("attack", "none"))


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def softmax(digits):
    return zoo.build("softmax", digits.train_x.shape[1:], digits.num_classes)


@pytest.mark.smoke
def test_runs_lie_as_many_as_they_should_and_the_same_ones(digits):
    runs = block_runs(SMALL, digits, [(0, 1), (0, 2), (1, 1), (1, 2)])
    liars = np.asarray(runs.byzantine).reshape(2, 2, 7)
    assert (liars.sum(axis=2) == [[1, 2], [1, 2]]).all()
    assert (liars[:, 0] <= liars[:, 1]).all()
    assert (liars[0] != liars[1]).any()  # another seed, other Byzantine workers
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


def test_private_training_is_the_loop(digits, softmax):
    """One step: different samples, clipped one by one, with noise by worker and step."""
    config = Config(
        model="softmax", n=3, f=0, s=(0,), seeds=1, steps=1, eval_every=1, batch_size=8,
        learning_rate=1.0, momentum=0.0, clip_examples=0.5, noise_multiplier=2.0,
    )  # fmt: skip
    mean, none, attack = (specs.parse(kind, name, f=0) for kind, name in MEAN_ALONE)
    program = programs.build(config, digits, softmax, mean, none, [attack])
    runs = block_runs(config, digits, [(0, 0)])
    states = program.start(jnp.int32(0), runs)
    before = jax.device_get(of_run(states.protocol.params, 0))
    states, _ = program.advance(states, jnp.int32(0), jnp.int32(0), runs)
    after = jax.device_get(of_run(states.protocol.params, 0))
    run = of_run(runs, 0)
    key, own = (jax.random.fold_in(jax.random.fold_in(run.key, part), 0) for part in (4, 6))
    drawn = batches.sample_batch(
        *(key, run.indices, run.sizes, digits.train_x, digits.train_y, 8), replace=False
    )
    structure, steps = jax.tree.structure(before), []
    for i in range(3):
        _, *keys = jax.random.split(jax.random.fold_in(own, i), len(jax.tree.leaves(before)) + 1)
        total = [
            2.0 * 0.5 * np.asarray(jax.random.normal(k, leaf.shape))
            for k, leaf in zip(keys, jax.tree.leaves(before))
        ]
        for j in range(8):
            one = {name: leaf[i, j : j + 1] for name, leaf in drawn.items()}
            g = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.grad(softmax.loss)(before, one))]
            norm = math.sqrt(sum((leaf.astype(float) ** 2).sum() for leaf in g))
            total = [t + leaf * min(1, 0.5 / norm) for t, leaf in zip(total, g)]
        steps.append([t / 8 for t in total])
    mean_step = jax.tree.unflatten(structure, [sum(leaf) / 3 for leaf in zip(*steps)])
    assert_same_model(after, jax.tree.map(lambda p, g: p - g, before, mean_step))
    with pytest.raises(ValueError, match="must be at most the 479 samples of worker"):
        block_runs(dataclasses.replace(config, batch_size=500), digits, [(0, 0)])


@pytest.mark.parametrize(
    ("text", "made", "b", "place"),
    [
        ("marina', p=0.5", lambda m: byzjax.protocols.marina(0.5, batch_size=2), 2, "worker"),
        pytest.param("saga'", byzjax.protocols.saga, 1, "worker", marks=pytest.mark.slow),
        ("storm', a=0.3", lambda m: byzjax.protocols.storm(0.3, batch_size=2), 2, "server"),
    ],
    ids=["marina", "saga", "storm"],
)
def test_variance_reduced_training_is_the_protocol_on_all_samples(
    digits, softmax, text, made, b, place
):
    """Three steps, with decay and momentum; the liar flips its labels."""
    config = Config(
        model="softmax", n=3, f=1, s=(1,), seeds=1, steps=3, eval_every=3, batch_size=b,
        learning_rate=0.5, momentum=0.5, momentum_at="update", momentum_kind="nesterov",
        weight_decay=0.1, weight_decay_at=place, protocol=f"variance_reduced(estimator='{text})",
    )  # fmt: skip
    few = dataclasses.replace(digits, train_x=digits.train_x[:20], train_y=digits.train_y[:20])
    kinds = (("rule", "median"), ("mixing", "none"), ("attack", "flip_labels"))
    median, none, attack = (specs.parse(*each, f=1) for each in kinds)
    program = programs.build(config, few, softmax, median, none, [attack])
    runs = block_runs(config, few, [(0, 1)])
    states = program.start(jnp.int32(0), runs)
    params = jax.device_get(of_run(states.protocol.params, 0))
    states, _ = program.advance(states, jnp.int32(0), jnp.int32(0), runs)
    shares = [part[:6] for part in partitions.partition(few.train_y, 3, "iid", seed=0)]
    x, y = few.train_x[np.stack(shares)], few.train_y[np.stack(shares)]
    run = of_run(runs, 0)
    y = np.where(np.asarray(run.byzantine)[:, None], 9 - y, y)

    def loss(params, batch, key=None):
        decay = 0.05 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return softmax.loss(params, batch) + (decay if place == "worker" else 0)

    server = [optax.add_decayed_weights(0.1)] if place == "server" else []
    protocol = byzjax.protocols.variance_reduced(
        loss,
        estimator=made(6),
        num_workers=3,
        rule=byzjax.aggregate(byzjax.median),
        server=optax.chain(*server, optax.trace(0.5, nesterov=True), optax.sgd(0.5)),
    )
    state, one_step = protocol.init(params, run.key), jax.jit(protocol.step)
    for step in range(3):
        own = jax.random.fold_in(jax.random.fold_in(run.key, 6), step)
        state, _ = one_step(state, {"workers": {"x": x, "y": y}}, own)
    assert_same_model(of_run(states.protocol.params, 0), state.params)


def test_strengths_and_step_sizes_share_one_program(digits, tmp_path, monkeypatch):
    short = dataclasses.replace(
        SMALL,
        rule=("median",),
        s=(2,),
        seeds=1,
        attack=("gaussian(sigma=1.0)", "gaussian(sigma=9.0)"),
    )
    grids = [dataclasses.replace(short, learning_rate=rate) for rate in (0.1, 0.5)]
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
        (once,) = sweep.run(sweep.tasks([alone], tmp_path / str(i), load), tmp_path / str(i), load)
        assert once["runs"][0]["loss"] == pytest.approx(together[i]["runs"][0]["loss"], rel=1e-6)


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
        model, _ = final(together, runs, i)
        for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(expected)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        seen.append(np.concatenate([np.ravel(p) for p in jax.tree.leaves(model)]))
    for i in range(len(seen)):
        for j in range(i):
            assert not np.allclose(seen[i], seen[j], atol=1e-4), (texts[i], texts[j])


WATCHED = dataclasses.replace(
    SMALL, steps=4, eval_every=2, momentum=0.0, average=True, validation=100, eval_samples=50
)


class Watched(NamedTuple):
    """The metrics of an evaluation of `WATCHED`."""

    model: Any
    average: Any
    metrics: programs.Metrics
    diagnostics: dict[str, Any]


def of_run(tree, *place):
    return jax.tree.map(lambda leaf: leaf[place], tree)


@pytest.fixture(scope="module")
def watched(digits, softmax):
    """The runs of `WATCHED` under the mean, and both evaluations.

    The first has no attack; in the second two workers flip their labels.
    """
    mean, mixing, none = (specs.parse(*words, f=2) for words in MEAN_ALONE)
    flip = specs.parse("attack", "flip_labels", f=2)
    runs = block_runs(WATCHED, digits, [(0, 0), (0, 2)])
    program = programs.build(WATCHED, digits, softmax, mean, mixing, [none, flip])
    states, evaluations = program.start(jnp.int32(1), runs), []
    for step in (0, 2):
        states, diagnostics = program.advance(states, jnp.int32(step), jnp.int32(1), runs)
        held = jax.device_get(
            (states.protocol.params, states.average.average)
        )  # states are donated
        metrics = program.evaluate(states, step == 2, runs)
        evaluations.append(Watched(*held, *jax.device_get((metrics, diagnostics))))
    return runs, evaluations


@pytest.fixture(scope="module")
def by_hand(digits, softmax, watched):
    """The models and gradients of these two runs, by a loop of SGD on the union batch."""
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


def assert_same_model(model, expected):
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("r", [0, 1], ids=["nobody lies", "flipped labels"])
def test_training_is_plain_sgd_on_the_union_batch(r, watched, by_hand):
    each, _ = by_hand[r]
    for evaluation, expected in zip(watched[1], each[1::2], strict=True):
        assert_same_model(of_run(evaluation.model, r), expected)


def test_the_average_is_that_of_all_models_so_far(watched, by_hand):
    for r, (each, _) in enumerate(by_hand):
        for evaluation, count in zip(watched[1], (2, 4), strict=True):
            expected = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *each[:count])
            assert_same_model(of_run(evaluation.average, r, 0), expected)


def test_diagnostics_are_of_the_last_step_before_an_evaluation(watched, by_hand):
    _, gradients = by_hand[0]
    for evaluation, gradient in zip(watched[1], gradients[1::2], strict=True):
        norm = math.sqrt(sum(float(np.sum(g**2)) for g in jax.tree.leaves(gradient)))
        assert float(evaluation.diagnostics["honest_norm"][0]) == pytest.approx(norm, rel=1e-4)


def test_which_samples_an_evaluation_is_on(digits, softmax, watched):
    """The first 50, at the end all 360, and both times the 100 that were held out."""
    _, *held = batches.hold_out(digits, 100)
    accuracy = jax.jit(softmax.accuracy)
    for evaluation, count in zip(watched[1], (50, 360), strict=True):
        for r in range(2):
            average = of_run(evaluation.average, r, 0)
            right = accuracy(average, digits.test_x[:count], digits.test_y[:count])
            assert float(evaluation.metrics.accuracy[r]) == pytest.approx(float(right))
            right = accuracy(average, *held)
            assert float(evaluation.metrics.validation[r]) == pytest.approx(float(right))


def test_what_a_loss_draws_is_not_what_chose_its_batch():
    """Otherwise dropout would be correlated with the samples.

    This loss draws samples as batches are drawn; the step marks where both agree.
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
