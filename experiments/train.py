"""Training as a program: all runs of a block, that is seeds and numbers of liars, at once.

The attack is chosen inside the program by an index that is not vmapped, so that one compiled
program of a rule serves every attack. A run's outer loop, over evaluations, stays on the host: it
moves the progress bar, and its boundaries are where a run can be looked at.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

import byzjax.protocols
from byzjax import attacks
from experiments import data, devices, diagnostics, models, optim, optimum, protocols, specs
from experiments.config import Config


class Runs(NamedTuple):
    """What tells the runs of a block apart; every array has the runs as its leading axis.

    Attributes:
      key: one for each run, the same for all rules, attacks and s of one seed.
      byzantine: `bool[runs, n]`, the liars; those of a small s also lie at a larger one.
      indices: `int32[runs, n, most]`, the samples of each worker.
      sizes: `int32[runs, n]`, how many they are.
      rate: `float32[runs]`, the step size at first.
      strengths: `float32[runs, MOST_STRENGTHS]`, of the attack; what it has not is not looked at.
      best: the minimiser of the honest workers' mean loss, a model, or None if nobody asked.
    """

    key: jax.Array
    byzantine: jax.Array
    indices: jax.Array
    sizes: jax.Array
    rate: jax.Array
    strengths: jax.Array
    best: Any = None


class State(NamedTuple):
    """What a run carries from one evaluation to the next.

    Attributes:
      protocol: state of the protocol.
      average: average of the models so far, stacked as they are, or None.
      count: how many they are.
    """

    protocol: Any
    average: Any
    count: jax.Array


class Metrics(NamedTuple):
    """An evaluation, one entry for each run; of several honest models it is their mean.

    Attributes:
      accuracy: share of samples whose largest logit is that of their label.
      loss: mean cross entropy.
      per_class: the accuracy on each class, `[runs, num_classes]`.
      finite: whether the model is.
      to_optimum: distance of the model to the minimiser; NaN where nobody asked for it.
      validation: accuracy on the samples that were held out; NaN where there are none.
      worst: accuracy of the worst of several honest models; NaN where there is one.
      spread: the largest distance between two of them, likewise.
    """

    accuracy: data.Array
    loss: data.Array
    per_class: data.Array
    finite: data.Array
    to_optimum: data.Array
    validation: data.Array
    worst: data.Array
    spread: data.Array


def runs(
    config: Config,
    dataset: data.Dataset,
    members: Sequence[tuple[int, int]],
    attack: specs.Spec | None = None,
) -> Runs:
    """The runs of a block.

    Args:
      config: its grid.
      dataset: where samples come from.
      members: (seed, s) of each run.
      attack: whose strengths they have; None where it has none.
    """
    dataset, _, _ = data.hold_out(dataset, config.validation)
    dealt: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    orders = {}
    for seed, s in members:
        if seed not in orders:
            drawn = jax.random.permutation(jax.random.fold_in(jax.random.key(seed), 1), config.n)
            orders[seed] = np.asarray(drawn)
        if (seed, s) not in dealt:
            parts = _deal(config, dataset.train_y, orders[seed] < s, seed)
            dealt[seed, s] = data.pad_partition(parts)
    most = max(indices.shape[1] for indices, _ in dealt.values())
    strengths = [] if attack is None else list(attack.strengths.values())
    strengths += [0.0] * (specs.MOST_STRENGTHS - len(strengths))
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
        return data.partition(labels, config.n, config.partition, seed=seed)
    honest = iter(data.partition(labels, int(np.sum(~byzantine)), config.partition, seed=seed))
    return [np.arange(len(labels)) if lies else next(honest) for lies in byzantine]


class Program(NamedTuple):
    """Compiled functions of a rule behind a mixing; states and runs are on each of its devices.

    Attributes:
      start: `start(attack, runs) -> states`.
      advance: `advance(states, step, attack, runs) -> (states, diagnostics)`, over `eval_every`
        steps; the diagnostics are of the last.
      evaluate: `evaluate(states, last, runs) -> metrics`, on all test samples if `last`.
      compiled: seconds spent compiling so far, a list.
    """

    start: Callable
    advance: Callable
    evaluate: Callable
    compiled: list[float]


def program(
    config: Config,
    dataset: data.Dataset,
    model: models.Model,
    rule: specs.Spec,
    mixing: specs.Spec,
    choices: Sequence[specs.Spec],
    over: Mesh | None = None,
) -> Program:
    """The program of one rule and mixing, in which `attack` is an index into `choices`.

    Args:
      config: its grid.
      dataset: where samples come from.
      model: what is trained.
      rule: how to aggregate.
      mixing: what stands before.
      choices: the attacks.
      over: the devices that the workers are spread over; None for one.
    """
    dataset, held_x, held_y = data.hold_out(dataset, config.validation)
    train = jnp.asarray(dataset.train_x), jnp.asarray(dataset.train_y)
    flipping = jnp.asarray([spec.name == "flip_labels" for spec in choices])
    # What a rule remembers or draws, and momenta that the server keeps, are not seen from outside.
    opaque = rule.remembers or optim.stages(config)["receive"] is not None
    opaque |= takes_key(rule) or takes_key(mixing) or not protocols.is_default(config)
    seen = None if opaque else specs.deployed(rule, mixing)
    # Under vmap over the weights a convolution is a grouped one: on CPU, one worker after another
    # takes half of the time and a twentieth of the memory (experiments/layers.py).
    convolutional = config.model in models.CONVOLUTIONAL
    at_once = 1 if convolutional and jax.default_backend() == "cpu" else None

    def protocol(run: Runs, attack: jax.Array) -> byzjax.protocols.Protocol:
        def chosen(byzantine: jax.Array, place: int, deployed: Callable, n: int) -> Any:
            key = jax.random.fold_in(run.key, place)
            mine = [spec.with_strengths(run.strengths) for spec in choices]
            return _one_of(mine, attack, byzantine, key, deployed, n)

        return protocols.build(
            protocols.Parts(
                config,
                model.loss,
                rule,
                mixing,
                chosen,
                run.byzantine,
                run.key,
                at_once,
                run.rate,
                None if over is None else devices.AXIS,
            )
        )

    def start(attack: jax.Array, run: Runs) -> State:
        params = model.init(jax.random.fold_in(run.key, 0))
        together = protocol(run, attack)
        state, average = together.init(params, run.key), None
        if config.average:
            average = jax.tree.map(jnp.zeros_like, together.models(state))
        return State(state, average, jnp.float32(0))

    def advance(state, first, attack, run, train_x, train_y):
        together = protocol(run, attack)

        def look(info: byzjax.protocols.Info) -> dict[str, jax.Array]:
            return diagnostics.of_step(info, run.byzantine, seen)

        def one(state: State, step: jax.Array):
            key = jax.random.fold_in(jax.random.fold_in(run.key, 4), step)
            batch = data.sample_batch(
                key, run.indices, run.sizes, train_x, train_y, config.batch_size
            )
            flipped = attacks.flip_labels(batch, run.byzantine, num_classes=dataset.num_classes)
            batch["y"] = jnp.where(flipping[attack], flipped["y"], batch["y"])
            # A stream of its own: `key` folded with a worker's number is where batches come from.
            own = jax.random.fold_in(jax.random.fold_in(run.key, 6), step)
            after, info = together.step(state.protocol, {"workers": batch}, own)
            count, average = state.count + 1, state.average
            if config.average:
                now = together.models(after)
                average = jax.tree.map(lambda a, p: a + (p - a) / count, average, now)
            # All runs of a block are at the same step, so this stays a conditional under vmap too.
            found = lax.cond(
                step == first + config.eval_every - 1,
                look,
                lambda info: dict.fromkeys(diagnostics.NAMES, jnp.float32(jnp.nan)),
                info,
            )
            return State(after, average, count), found

        state, found = lax.scan(one, state, first + jnp.arange(config.eval_every))
        return state, jax.tree.map(lambda values: values[-1], found)

    def evaluate(state: State, run: Runs, x, y, held_x, held_y) -> Metrics:
        now = protocol(run, jnp.int32(0)).models(state.protocol)
        now = state.average if config.average else now

        def of_model(params) -> Metrics:
            finite = jnp.all(jnp.asarray([jnp.isfinite(p).all() for p in jax.tree.leaves(params)]))
            away = held = unknown = jnp.float32(jnp.nan)
            if run.best is not None:
                away = optax.tree.norm(jax.tree.map(jnp.subtract, params, run.best))
            if config.validation:
                held = models.evaluate(model, params, held_x, held_y).accuracy
            found = models.evaluate(model, params, x, y)
            return Metrics(*found, finite, away, held, unknown, unknown)

        count = byzjax.stacked.num_workers(now)
        if count == 1:
            return of_model(jax.tree.map(lambda leaf: leaf[0], now))
        each = lax.map(of_model, now)
        means = jax.tree.map(lambda values: jnp.mean(values, axis=0), each)
        return means._replace(
            finite=jnp.all(each.finite),
            worst=jnp.min(each.accuracy),
            spread=byzjax.protocols.spread(now),
        )

    compiled: list[float] = []
    start_all = _timed(jax.vmap(start, in_axes=(None, 0)), compiled)
    advance_all = _timed(devices.spread(_over_runs(advance), over), compiled, donate_argnums=0)
    axes = (0, 0, None, None, None, None)
    evaluate_all = _timed(jax.vmap(evaluate, in_axes=axes), compiled)
    held = jnp.asarray(held_x), jnp.asarray(held_y)
    test = jnp.asarray(dataset.test_x), jnp.asarray(dataset.test_y)
    some = [a[: config.eval_samples] for a in test] if config.eval_samples else test
    train = devices.on_each(train, over)

    def start_here(attack, run):
        return devices.on_each(start_all(attack, devices.on_one(run, over)), over)

    def advance_everywhere(states, step, attack, run):
        return devices.alike(*advance_all(states, step, attack, run, *train))

    def evaluate_here(states, last, run):
        states, run = devices.on_one((states, run), over)
        return evaluate_all(states, run, *(test if last else some), *held)

    return Program(start_here, advance_everywhere, evaluate_here, compiled)


def _over_runs(advance: Callable) -> Callable:
    """`advance` of all runs: side by side, but on CPU one after another.

    There a run keeps all cores busy by itself, its conditionals stay conditionals, and its rows
    stay in the cache: MNIST, n = 51, little_is_enough, 47 ms a step of one of three runs side by
    side and 16 ms one after another for aksel, 64 and 33 for the median; digits, nine runs, 1.6 and
    0.7 ms.
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(advance, in_axes=(0, None, None, 0, None, None))

    def one_after_another(states, first, attack, run, train_x, train_y):
        def one(mine: tuple) -> tuple:
            state, own = mine
            return advance(state, first, attack, own, train_x, train_y)

        return lax.map(one, (states, run))

    return one_after_another


def takes_key(spec: specs.Spec) -> bool:
    """Whether it draws numbers."""
    return "key" in specs.parameters_of(spec)


def _one_of(
    choices: Sequence[specs.Spec],
    attack: jax.Array,
    byzantine: jax.Array,
    key: jax.Array,
    deployed: Callable,
    n: int,
) -> optax.GradientTransformationExtraArgs:
    """The attack with this index, chosen when it runs; the state is that of all of them."""
    stages = [
        optax.with_extra_args_support(
            specs.transformation(spec, byzantine=byzantine, key=key, rule=deployed, n=n)
        )
        for spec in choices
    ]

    def init(params: Any) -> tuple:
        return tuple(stage.init(params) for stage in stages)

    def update(updates, state, params=None, **extra_args):
        def branch(place: int) -> Callable:
            def run(updates, states):
                out, own = stages[place].update(updates, states[place], params, **extra_args)
                return out, (*states[:place], own, *states[place + 1 :])

            return run

        return lax.switch(attack, [branch(i) for i in range(len(stages))], updates, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _timed(function: Callable, compiled: list[float], **options: Any) -> Callable:
    """The compiled function; what compiling took, for each set of shapes, is appended."""
    jitted, programs = jax.jit(function, **options), {}

    def call(*args: Any) -> Any:
        shapes = str(jax.tree.map(jnp.shape, args))
        if shapes not in programs:
            begin = time.perf_counter()
            programs[shapes] = jitted.lower(*args).compile()
            compiled.append(time.perf_counter() - begin)
        return programs[shapes](*args)

    return call
