"""Training as a program: all runs of a block (seeds and numbers of Byzantine workers) at once.

The attack is selected inside the program by an index that is not vmapped, so one compiled program
of a rule serves every attack. The outer loop over evaluations stays on the host: it updates the
progress bar, evaluates, and saves checkpoints.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

import byzjax.protocols
from experiments.data import batches, datasets
from experiments.grid import catalogue, protocols, sampling, specs
from experiments.grid.config import Config
from experiments.models import zoo
from experiments.training import assemble, devices, diagnostics, optim, poisoning, texts
from experiments.training.compiled import Compiled, OneByOne, Timed
from experiments.training.runs import Runs


class State(NamedTuple):
    """What a run carries from one evaluation to the next.

    Attributes:
      protocol: state of the protocol.
      average: state of `byzjax.polyak_averaging` of the stacked models, or None.
    """

    protocol: Any
    average: Any


class Metrics(NamedTuple):
    """An evaluation, one entry per run; with several honest models, their mean.

    Attributes:
      accuracy: share of samples whose largest logit is that of their label.
      loss: mean cross entropy.
      per_class: the accuracy on each class, `[runs, num_classes]`.
      finite: whether the model is finite.
      to_optimum: distance from the model to the minimiser; NaN unless `config.optimum`.
      validation: accuracy on the held-out samples; NaN without any.
      worst: accuracy of the worst of several honest models; NaN for a single model.
      spread: the largest distance between two of them; NaN for a single model.
      success: the attack success rate; NaN unless the attack is a backdoor, and if a model is not
        finite.
    """

    accuracy: datasets.Array
    loss: datasets.Array
    per_class: datasets.Array
    finite: datasets.Array
    to_optimum: datasets.Array
    validation: datasets.Array
    worst: datasets.Array
    spread: datasets.Array
    success: datasets.Array


class Program(NamedTuple):
    """Compiled functions of a rule after a mixing; states and runs are replicated on its devices.

    Attributes:
      start: `start(attack, runs) -> states`.
      advance: `advance(states, step, attack, runs) -> (states, diagnostics)`, over `eval_every`
        steps; the diagnostics are of the last.
      evaluate: `evaluate(states, last, runs) -> metrics`, on all test samples if `last`.
      success: `success(states, last, runs, attack) -> rates`, the attack success rates on these
        samples; None if the attack is no backdoor.
      write: `write(states, place, runs) -> characters` that the model of one run writes, as places
        in the vocabulary; only for text.
      model: `(states, runs) -> params`, the model of the first run; of several honest models, the
        first.
      compiled: the compilations so far; in a profile, `CALL` gives the index of the program called.
    """

    start: Callable
    advance: Callable
    evaluate: Callable
    success: Callable
    write: Callable
    model: Callable
    compiled: list[Compiled]


def build(
    config: Config,
    dataset: datasets.Dataset,
    model: zoo.Model,
    rule: specs.Spec,
    mixing: specs.Spec,
    choices: Sequence[specs.Spec],
    over: Mesh | None = None,
    shared: dict[str, jax.stages.Compiled] | None = None,
) -> Program:
    """The program of one rule and mixing, in which `attack` is an index into `choices`.

    Args:
      config: the grid.
      dataset: the data set.
      model: the model to train.
      rule: the aggregation rule.
      mixing: the mixing before the rule.
      choices: the attacks.
      over: the devices that the workers are distributed over; None for one.
      shared: executables by their text, from which programs of other rules take those that do not
        depend on the rule, and to which this one adds its own.
    """
    dataset, held_x, held_y = batches.hold_out(dataset, config.validation)
    is_backdoor = [spec.name in catalogue.BACKDOORS for spec in choices]
    brightest = float(dataset.train_x.max()) if any(is_backdoor) else 0.0
    parts = config, dataset.num_classes, model, rule, mixing, choices, brightest
    run = _Run(*parts, over is not None)
    compiled: list[Compiled] = []
    shared = {} if shared is None else shared
    start_all = Timed(jax.vmap(run.start, in_axes=(None, 0)), compiled, shared)
    advance_all = _over_runs(run.advance, over, compiled, shared)
    axes = (0, 0, None, None, None, None)
    evaluate_all = Timed(jax.vmap(run.evaluate, in_axes=axes), compiled, shared)
    train = jnp.asarray(dataset.train_x), jnp.asarray(dataset.train_y)
    held = jnp.asarray(held_x), jnp.asarray(held_y)
    test = jnp.asarray(dataset.test_x), jnp.asarray(dataset.test_y)
    some = [a[: config.eval_samples] for a in test] if config.eval_samples else test
    train = devices.on_each(train, over)

    def start_here(attack, runs):
        return devices.on_each(start_all(attack, devices.on_one(runs, over)), over)

    def advance_everywhere(states, step, attack, runs):
        return devices.equal_on_all(*advance_all(states, step, attack, runs, *train))

    def evaluate_here(states, last, runs):
        states, runs = devices.on_one((states, runs), over)
        return evaluate_all(states, runs, *(test if last else some), *held)

    success_all = Timed(jax.vmap(run.success, in_axes=(0, 0, None, None)), compiled, shared)

    @functools.cache
    def triggered(attack: int, count: int) -> tuple[jax.Array, jax.Array]:
        x, y = dataset.test_x[:count], dataset.test_y[:count]
        return poisoning.triggered(choices[attack], x, y, brightest)

    def success_here(states, last, runs, attack):
        if not is_backdoor[attack]:
            return None
        count = len(test[1] if last else some[1])
        states, runs = devices.on_one((states, runs), over)
        return success_all(states, runs, *triggered(int(attack), count))

    write_one = Timed(functools.partial(run.write, length=dataset.shape[0]), compiled, shared)

    def write_here(states, place, runs):
        return write_one(*devices.on_one((states, runs), over), np.int32(place))

    def model_here(states, runs):
        state, own = jax.tree.map(lambda leaf: leaf[0], devices.on_one((states, runs), over))
        return jax.tree.map(lambda leaf: leaf[0], run.models(state, own))

    evaluations = evaluate_here, success_here
    return Program(start_here, advance_everywhere, *evaluations, write_here, model_here, compiled)


@dataclasses.dataclass(frozen=True)
class _Run:
    """The functions of one run, to be mapped over all runs of a block and compiled.

    Attributes:
      brightest: value of the pixels of a trigger, the largest of the training images.
      spread: whether the workers are distributed over devices.
    """

    config: Config
    num_classes: int
    model: zoo.Model
    rule: specs.Spec
    mixing: specs.Spec
    choices: Sequence[specs.Spec]
    brightest: float
    spread: bool

    def protocol(self, run: Runs, attack: jax.Array) -> byzjax.protocols.Protocol:
        """The protocol with the attack of this index."""

        def chosen(byzantine: jax.Array, place: int, deployed: Callable, n: int) -> Any:
            key = jax.random.fold_in(run.key, place)
            mine = [spec.with_strengths(run.strengths) for spec in self.choices]
            return _one_of(mine, attack, byzantine, key, deployed, n)

        # The gradients of single examples too: 24 ms instead of 81 (softmax, n = 11, batch 64).
        one_by_one = self.config.model in zoo.ONE_BY_ONE or self.config.clip_examples
        at_once = 1 if one_by_one and jax.default_backend() == "cpu" else None
        parts = assemble.Parts(
            *(self.config, optim.loss(self.config, self.model.loss)),
            *(self.rule, self.mixing, chosen),
            *(run.byzantine, run.key, at_once, run.rate),
            devices.AXIS if self.spread else None,
            run.indices.shape[1],
        )
        return assemble.build(parts)

    @functools.cached_property
    def observed(self) -> Callable | None:
        """The server's aggregation as a function of the updates; None if it is not one.

        It is not if the rule has state or randomness, or if the server keeps momenta.
        """
        opaque = self.rule.remembers or optim.stages(self.config)["receive"] is not None
        opaque |= takes_key(self.rule) or takes_key(self.mixing)
        opaque |= not protocols.is_default(self.config)
        return None if opaque else specs.deployed(self.rule, self.mixing)

    def start(self, attack: jax.Array, run: Runs) -> State:
        """The state before the first step."""
        params = self.model.init(jax.random.fold_in(run.key, 0))
        protocol = self.protocol(run, attack)
        state, average = protocol.init(params, run.key), None
        if self.config.average:
            average = byzjax.polyak_averaging().init(protocol.models(state))
        return State(state, average)

    def advance(self, state, first, attack, run, train_x, train_y):
        """`eval_every` steps from step `first`: the state, and diagnostics of the last one.

        With client sampling also the number of these steps for which more Byzantine workers were
        drawn than the rule was told to tolerate.
        """
        config, of_all = self.config, run
        everything = protocols.estimator(config) is not None
        if everything:
            of_workers = {"x": train_x[run.indices], "y": train_y[run.indices]}

        def one(state: State, step: jax.Array):
            # The mask of a step: XLA would hoist what follows from one mask out of the loop, which
            # carries some hundred numbers then, and takes twice as long to compile.
            run = of_all._replace(byzantine=of_all.byzantine & (step >= 0))
            protocol = self.protocol(run, attack)

            def look(info: byzjax.protocols.Info) -> dict[str, jax.Array]:
                return diagnostics.of_step(info, run.byzantine, self.observed)

            with jax.named_scope("batch"):
                key = jax.random.fold_in(jax.random.fold_in(run.key, 4), step)
                if everything:
                    batch = of_workers
                else:
                    batch = batches.sample_batch(
                        *(key, run.indices, run.sizes, train_x, train_y, config.batch_size),
                        replace=not config.noise_multiplier,
                    )
                batch = poisoning.poisoned(
                    *(batch, run.byzantine, self.choices, attack, self.num_classes),
                    self.brightest,
                )
            # A separate stream: `key` folded with a worker's index draws the batches.
            own = jax.random.fold_in(jax.random.fold_in(run.key, 6), step)
            after, info = protocol.step(state.protocol, {"workers": batch}, own)
            average = state.average
            if config.average:
                now = protocol.models(after)
                unchanged = jax.tree.map(jnp.zeros_like, now)
                _, average = byzjax.polyak_averaging().update(unchanged, average, now)
            # All runs of a block are at the same step, so this stays a conditional under vmap too.
            excess = {}
            if protocols.drawn(config) is not None:
                lying = jnp.sum(run.byzantine[info.senders], dtype=jnp.int32)
                excess = {diagnostics.EXCESS: lying > sampling.told(self.rule, config)}
            with jax.named_scope("diagnostics"):
                seen = lax.cond(
                    step == first + config.eval_every - 1,
                    look,
                    lambda info: dict.fromkeys(diagnostics.NAMES, jnp.float32(jnp.nan)),
                    info,
                )
            return State(after, average), (seen, excess)

        state, (seen, excess) = lax.scan(one, state, first + jnp.arange(config.eval_every))
        counts = {name: jnp.sum(values, dtype=jnp.int32) for name, values in excess.items()}
        return state, jax.tree.map(lambda values: values[-1], seen) | counts

    def models(self, state: State, run: Runs) -> zoo.Params:
        """The stacked honest models, or their averages so far."""
        now = self.protocol(run, jnp.int32(0)).models(state.protocol)
        return state.average.average if self.config.average else now

    @jax.named_scope("evaluate")
    def write(self, states: State, runs: Runs, place: jax.Array, length: int) -> jax.Array:
        """The text of one of several runs; of several honest models, that of the first."""
        state, run = jax.tree.map(lambda leaf: leaf[place], (states, runs))
        params = jax.tree.map(lambda leaf: leaf[0], self.models(state, run))
        return texts.write(self.model, params, jax.random.fold_in(run.key, 12), length)

    @jax.named_scope("evaluate")
    def evaluate(self, state: State, run: Runs, x, y, held_x, held_y) -> Metrics:
        """The metrics of the model, or of the average of all models so far."""
        now = self.models(state, run)

        def of_model(params) -> Metrics:
            away = held = unknown = jnp.float32(jnp.nan)
            if run.best is not None:
                away = optax.tree.norm(jax.tree.map(jnp.subtract, params, run.best))
            if self.config.validation:
                held = zoo.evaluate(self.model, params, held_x, held_y).accuracy
            metrics = zoo.evaluate(self.model, params, x, y)
            return Metrics(*metrics, _is_finite(params), away, held, *[unknown] * 3)

        count = byzjax.stacked.num_workers(now)
        if count == 1:
            return of_model(jax.tree.map(lambda leaf: leaf[0], now))
        each = lax.map(of_model, now)
        means = jax.tree.map(lambda values: jnp.mean(values, axis=0), each)
        return means._replace(
            finite=jnp.all(each.finite),
            worst=jnp.min(each.accuracy),
            spread=byzjax.protocols.diameter(now),
        )

    @jax.named_scope("evaluate")
    def success(self, state: State, run: Runs, x: jax.Array, y: jax.Array) -> jax.Array:
        """The share of triggered test images that get the target label, mean over the models."""

        def of_model(params) -> jax.Array:
            rate = zoo.evaluate(self.model, params, x, y).accuracy
            return jnp.where(_is_finite(params), rate, jnp.nan)

        return jnp.mean(lax.map(of_model, self.models(state, run)))


def _is_finite(params: zoo.Params) -> jax.Array:
    return jnp.all(jnp.asarray([jnp.isfinite(p).all() for p in jax.tree.leaves(params)]))


def _over_runs(
    advance: Callable,
    over: Mesh | None,
    compiled: list[Compiled],
    shared: dict[str, jax.stages.Compiled],
) -> Callable:
    """`advance` of all runs: vmapped, but one program for each run on CPU."""
    if jax.default_backend() != "cpu":
        mapped = jax.vmap(advance, in_axes=(0, None, None, 0, None, None))
    elif over is None:
        return OneByOne(advance, compiled, shared)
    else:

        def mapped(states, first, attack, run, train_x, train_y):
            def one(mine: tuple) -> tuple:
                state, own = mine
                return advance(state, first, attack, own, train_x, train_y)

            return lax.map(one, (states, run))

    return Timed(devices.shard_runs(mapped, over), compiled, donate_argnums=0)


def takes_key(spec: specs.Spec) -> bool:
    """Whether the function is randomized."""
    return "key" in specs.parameters_of(spec)


def _one_of(
    choices: Sequence[specs.Spec],
    attack: jax.Array,
    byzantine: jax.Array,
    key: jax.Array,
    deployed: Callable,
    n: int,
) -> optax.GradientTransformationExtraArgs:
    """The attack of this index, selected at run time; the state holds that of every attack."""
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
