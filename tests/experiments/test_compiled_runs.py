"""Programs of single runs, several at once, and programs that rules share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import datasets
from experiments.grid import specs
from experiments.models import zoo
from experiments.training import compiled
from experiments.training import program as programs
from experiments.training.runs import block_runs
from tests.experiments.test_laboratory import SMALL


def advance(state, first, attack, run, data):
    """A stand-in for training: 40 products of the state with the data."""

    def step(x, _):
        return jnp.tanh(x @ data + run + first + attack), jnp.sum(x)

    return jax.lax.scan(step, state, None, 40)


def decomposing(state, first, attack, run, data):
    """The same, with a decomposition."""
    values, _ = jnp.linalg.eigh(data + data.T)
    return advance(state + values, first, attack, run, data)


def arguments(count, size=24):
    """States, the first step, the attack, runs and data."""
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.random.normal(keys[0], (count, size))
    runs, data = jnp.arange(count) / 7, jax.random.normal(keys[1], (size, size))
    return states, np.int32(3), np.int32(1), runs, data


@pytest.fixture
def many_cores(monkeypatch):
    monkeypatch.setattr(compiled.os, "sched_getaffinity", lambda _: range(4))


@pytest.mark.smoke
def test_runs_at_once_equal_runs_alone_bit_for_bit(many_cores):
    del many_cores
    states, first, attack, runs, data = arguments(5)
    made = []
    over_runs = compiled.OneByOne(advance, made, {})
    after, seen = over_runs(jnp.copy(states), first, attack, runs, data)
    assert list(over_runs.alone.values()) == [False]  # in threads
    for i in range(5):
        one, values = over_runs(states[i : i + 1] + 0, first, attack, runs[i : i + 1], data)
        np.testing.assert_array_equal(after[i : i + 1], one)
        np.testing.assert_array_equal(seen[i : i + 1], values)
    assert len(made) == 3  # the run, the split and the join, for any number of runs


def test_large_runs_and_decompositions_run_one_after_another(many_cores, monkeypatch):
    del many_cores
    pools = []

    class Pool(compiled.concurrent.futures.ThreadPoolExecutor):
        def __init__(self, count):
            pools.append(count)
            super().__init__(count)

    monkeypatch.setattr(compiled.concurrent.futures, "ThreadPoolExecutor", Pool)
    compiled.OneByOne(advance, [], {})(*arguments(3))
    assert pools == [3]
    compiled.OneByOne(decomposing, [], {})(*arguments(3))
    assert pools == [3]
    monkeypatch.setattr(compiled, "AT_ONCE", 10)
    compiled.OneByOne(advance, [], {})(*arguments(3))
    assert pools == [3]


def test_rules_share_the_programs_that_do_not_depend_on_them():
    digits = datasets.load("digits")
    model = zoo.build("softmax", digits.train_x.shape[1:], digits.num_classes)
    mixing, attack = (specs.parse(kind, "none", f=2) for kind in ("mixing", "attack"))
    shared: dict = {}
    made = {}
    for name in ("mean", "median", "centered_clipping(radius=1.0)"):
        rule = specs.parse("rule", name, f=2)
        args = (SMALL, digits, model, rule, mixing, [attack])
        made[name] = programs.build(*args, shared=shared)
        runs = block_runs(SMALL, digits, [(0, 0), (1, 0)])
        made[name].evaluate(made[name].start(np.int32(0), runs), True, runs)
    plain, median, remembers = ([each.executable for each in p.compiled] for p in made.values())
    assert len(plain) == 2
    assert all(a is b for a, b in zip(plain, median, strict=True))
    assert not any(a is b for a, b in zip(plain, remembers, strict=True))


def test_equal_texts_with_other_trees_are_not_shared():
    shared: dict = {}

    def functions():
        def step(x):
            return x, ((), ())

        yield step

        def step(x):
            return x, ((),)

        yield step

    first, second = (compiled.Timed(f, [], shared)(jnp.ones(2)) for f in functions())
    assert first[1] == ((), ())
    assert second[1] == ((),)
    assert len(shared) == 2
