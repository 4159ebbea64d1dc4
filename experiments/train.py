"""Training as a program: all runs of a block, that is all seeds and all s, in one vmap.

The attack is chosen inside the program by an index that is not vmapped, so that one compiled
program of a rule serves every attack. A run's outer loop, over evaluations, stays on the host: it
moves the progress bar, and its boundaries are where a run can be looked at.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import byzjax
from byzjax import attacks, protocols
from experiments import data, models, specs
from experiments.config import Config


class Runs(NamedTuple):
    """What tells the runs of a block apart; every array has the runs as its leading axis.

    Attributes:
      key: one for each run, the same for all rules, attacks and s of one seed.
      byzantine: `bool[runs, n]`, the liars; those of a small s also lie at a larger one.
      indices: `int32[runs, n, most]`, the samples of each worker.
      sizes: `int32[runs, n]`, how many they are.
    """

    key: jax.Array
    byzantine: jax.Array
    indices: jax.Array
    sizes: jax.Array


class Metrics(NamedTuple):
    """Evaluation on the full test set, one entry for each run."""

    accuracy: jax.Array
    loss: jax.Array
    finite: jax.Array


def runs(config: Config, labels: np.ndarray, s: Sequence[int]) -> Runs:
    """The runs of a block, seed by seed and, in a seed, by s."""
    dealt = []
    for seed in range(config.seeds):
        parts = data.partition(labels, config.n, config.partition, seed=seed)
        dealt.append(data.pad_partition(parts))
    most = max(indices.shape[1] for indices, _ in dealt)
    out = []
    for seed, (indices, sizes) in enumerate(dealt):
        key = jax.random.key(seed)
        order = jax.random.permutation(jax.random.fold_in(key, 1), config.n)
        indices = np.pad(indices, ((0, 0), (0, most - indices.shape[1])))
        out += [Runs(key, order < liars, jnp.asarray(indices), jnp.asarray(sizes)) for liars in s]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *out)


class Program(NamedTuple):
    """Two compiled functions.

    Attributes:
      start: `start(attack, runs) -> states`.
      advance: `advance(states, step, attack, runs) -> (states, metrics)`, over `eval_every` steps.
    """

    start: Any
    advance: Any


def program(
    config: Config,
    dataset: data.Dataset,
    model: models.Model,
    rule: specs.Spec,
    choices: Sequence[specs.Spec],
) -> Program:
    """The program of one rule, in which `attack` is an index into `choices`."""
    arrays = tuple(
        jnp.asarray(a) for a in (dataset.train_x, dataset.train_y, dataset.test_x, dataset.test_y)
    )
    flipping = jnp.asarray([spec.name == "flip_labels" for spec in choices])

    def chosen(updates, byzantine, *, attack, key):
        branches = [_branch(spec, specs.deployed(rule)) for spec in choices]
        return lax.switch(attack, branches, updates, byzantine, key)

    def protocol(run: Runs, attack: jax.Array) -> protocols.Protocol:
        momentum = optax.ema(config.momentum, debias=False)
        lie = byzjax.attack(
            chosen, run.byzantine, attack=attack, key=jax.random.fold_in(run.key, 2)
        )
        return protocols.parameter_server(
            model.loss,
            send=byzjax.per_worker(momentum, config.n) if config.momentum else None,
            attack=lie,
            rule=specs.transformation(rule, byzantine=None, key=jax.random.fold_in(run.key, 3)),
            server=optax.sgd(config.learning_rate),
        )

    def start(attack, run):
        params = model.init(jax.random.fold_in(run.key, 0))
        return protocol(run, attack).init(params, run.key)

    def advance(state, first, attack, run, train_x, train_y, test_x, test_y):
        server = protocol(run, attack)

        def one(state, step):
            key = jax.random.fold_in(jax.random.fold_in(run.key, 4), step)
            batch = data.sample_batch(
                key, run.indices, run.sizes, train_x, train_y, config.batch_size
            )
            flipped = attacks.flip_labels(batch, run.byzantine, num_classes=dataset.num_classes)
            batch["y"] = jnp.where(flipping[attack], flipped["y"], batch["y"])
            state, _ = server.step(state, {"workers": batch}, jax.random.fold_in(key, 1))
            return state, None

        state, _ = lax.scan(one, state, first + jnp.arange(config.eval_every))
        params = jax.tree.map(lambda leaf: leaf[0], server.models(state))
        finite = jnp.all(jnp.asarray([jnp.isfinite(p).all() for p in jax.tree.leaves(params)]))
        loss = model.loss(params, {"x": test_x, "y": test_y})
        return state, Metrics(model.accuracy(params, test_x, test_y), loss, finite)

    start = jax.jit(jax.vmap(start, in_axes=(None, 0)))
    each = jax.vmap(advance, in_axes=(0, None, None, 0, None, None, None, None))
    each = jax.jit(each, donate_argnums=0)
    return Program(start, lambda state, step, attack, run: each(state, step, attack, run, *arrays))


def _branch(spec: specs.Spec, rule: Callable):
    """An attack as a branch of a switch: `(updates, byzantine, key) -> updates`."""

    def branch(updates, byzantine, key):
        tx = specs.transformation(spec, byzantine=byzantine, key=key, rule=rule)
        return tx.update(updates, tx.init(updates))[0]

    return branch
