"""The runs of a block: what distinguishes them, as arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import batches, datasets, partitions
from experiments.grid import catalogue, protocols, specs
from experiments.grid.config import Config
from experiments.training import optimum


class Runs(NamedTuple):
    """What distinguishes the runs of a block; the leading axis of every array is the run.

    Attributes:
      key: one key per run, the same for all rules, attacks and s of one seed.
      byzantine: `bool[runs, n]`, the Byzantine workers; a larger s only adds to those of a smaller.
      indices: `int32[runs, n, most]`, the samples of each worker.
      sizes: `int32[runs, n]`, the number of samples of each worker.
      rate: `float32[runs]`, the initial step size.
      strengths: `float32[runs, MOST_STRENGTHS]`, of the attack; unused entries are ignored.
      best: the model that minimises the honest workers' mean loss; None unless `config.optimum`.
    """

    key: jax.Array
    byzantine: jax.Array
    indices: jax.Array
    sizes: jax.Array
    rate: jax.Array
    strengths: jax.Array
    best: Any = None


def block_runs(
    config: Config,
    dataset: datasets.Dataset,
    members: Sequence[tuple[int, int]],
    attack: specs.Spec | None = None,
) -> Runs:
    """The runs of a block.

    Args:
      config: the grid.
      dataset: the data set.
      members: (seed, s) of each run.
      attack: the attack whose strengths are used; None for no strengths.
    """
    dataset, _, _ = batches.hold_out(dataset, config.validation)
    dealt: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    orders = {}
    for seed, s in members:
        if seed not in orders:
            drawn = jax.random.permutation(jax.random.fold_in(jax.random.key(seed), 1), config.n)
            orders[seed] = np.asarray(drawn)
        if (seed, s) not in dealt:
            parts = _deal(config, dataset.train_y, orders[seed] < s, seed)
            dealt[seed, s] = batches.pad_partition(parts)
            if protocols.estimator(config) is not None:
                dealt[seed, s] = batches.equal_shares(*dealt[seed, s])
            if config.noise_multiplier:
                batches.check_sizes(dealt[seed, s][1], config.batch_size)
    most = max(indices.shape[1] for indices, _ in dealt.values())
    strengths = [] if attack is None else list(attack.strengths.values())
    strengths += [0.0] * (catalogue.MOST_STRENGTHS - len(strengths))
    out = []
    for seed, s in members:
        key, order = jax.random.key(seed), orders[seed]
        indices, sizes = dealt[seed, s]
        best = None
        if config.optimum:
            honest = [row[:size] for row, size in zip(indices[order >= s], sizes[order >= s])]
            best = optimum.logistic(dataset, config.weight_decay, honest)
        indices = np.pad(indices, ((0, 0), (0, most - indices.shape[1])))
        out.append(
            Runs(
                key,
                jnp.asarray(order < s),
                jnp.asarray(indices),
                jnp.asarray(sizes),
                jnp.float32(config.learning_rate),
                jnp.asarray(strengths, jnp.float32),
                best,
            )
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *out)


def _deal(
    config: Config, labels: np.ndarray, byzantine: np.ndarray, seed: int
) -> Sequence[np.ndarray]:
    """The samples of each worker."""
    if config.dealt_to == "all":
        return partitions.partition(labels, config.n, config.partition, seed=seed)
    honest = iter(
        partitions.partition(labels, int(np.sum(~byzantine)), config.partition, seed=seed)
    )
    return [np.arange(len(labels)) if lies else next(honest) for lies in byzantine]
