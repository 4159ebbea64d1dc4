"""The minimiser of a logistic regression."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.analysis import choose
from experiments.data.datasets import Dataset
from experiments.execution import sweep
from experiments.grid import specs
from experiments.grid.config import Config
from experiments.grid.planning import plan
from experiments.models import zoo
from experiments.report import figures, tables
from experiments.training import optimum
from experiments.training import program as programs
from experiments.training.runs import block_runs


def made_up(classes=2):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    y = (x @ [1.0, -2.0, 0.5, 0.0] + rng.normal(size=200) > 0.3).astype(np.int32)
    return Dataset("made up", x, y, x[:50], y[:50], classes, "0")


def test_the_loss_with_its_decay_is_flat_there():
    """The mean of the workers' losses; one worker has many samples."""
    data, decay = made_up(), 0.02
    model = zoo.build("logistic", (4,), 2)
    workers = [np.arange(10), np.arange(10, 20), np.arange(20, 200)]
    best = optimum.logistic(data, decay, workers)

    def loss(params):
        shrunk = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
        each = [model.loss(params, {"x": data.train_x[w], "y": data.train_y[w]}) for w in workers]
        return sum(each) / 3 + decay / 2 * shrunk

    gradient = jax.jit(jax.grad(loss))(best)
    assert max(np.abs(s).max() for s in map(np.asarray, jax.tree.leaves(gradient))) < 1e-6


def test_training_converges_to_the_optimum():
    config = Config(
        dataset="a9a", model="logistic", n=5, f=1, s=(0,), seeds=1, steps=400, batch_size=200,
        eval_every=200, momentum=0.0, learning_rate=1.0, schedule="cosine", weight_decay=0.05,
        optimum=True, rule=("mean",), attack=("none",), partition="dirichlet(0.5)",
    )  # fmt: skip
    data = made_up()
    model = zoo.build("logistic", (4,), 2)
    chosen = (("rule", "mean"), ("mixing", "none"), ("attack", "none"))
    rule, mixing, attack = (specs.parse(*each, f=1) for each in chosen)
    program = programs.build(config, data, model, rule, mixing, [attack])
    runs = block_runs(config, data, [(0, 0)])
    states, far = program.start(jnp.int32(0), runs), []
    for step in (0, 200):
        states, _ = program.advance(states, jnp.int32(step), jnp.int32(0), runs)
        far.append(float(program.evaluate(states, True, runs).to_optimum[0]))
    assert far[1] < 0.02
    assert far[1] <= far[0]


def test_models_without_an_optimum():
    with pytest.raises(ValueError, match=r"two classes and weight_decay > 0; got 3 classes, weigh"):
        optimum.logistic(made_up(classes=3), 0.1, [np.arange(3)])
    with pytest.raises(
        ValueError, match=r"^optimum needs model logistic and weight_decay > 0; got"
    ):
        plan(dataclasses.replace(Config(), optimum=True))


def test_what_a_grid_asks_for_is_kept_and_drawn(tmp_path):
    """Distance to the optimum, and accuracy on held-out samples."""
    config = Config(
        dataset="a9a", model="logistic", n=5, f=1, s=(1,), seeds=1, steps=4, batch_size=8,
        eval_every=2, weight_decay=0.05, optimum=True, validation=20, rule=("mean",),
        attack=("sign_flip", "zero"),
    )  # fmt: skip
    tasks = sweep.tasks([config], tmp_path, lambda config: made_up())
    blocks = sweep.run(tasks, tmp_path, lambda config: made_up())
    assert len(blocks) == 2  # all in one program
    for block in blocks:
        (run,) = block["runs"]
        assert len(run["validation"]) == len(run["to_optimum"]) == 2
        assert all(0 < away < 10 for away in run["to_optimum"])
        assert all(0 <= right <= 1 for right in run["validation"])
    curves = tables.curves(blocks)
    assert list(curves["to_optimum"][:2]) == blocks[0]["runs"][0]["to_optimum"]
    assert "distance_to_optimum" in figures.make(curves, [config])
    (best,) = choose.best_settings(blocks)["worst held out"]
    assert best == min(block["runs"][0]["validation"][-1] for block in blocks)
