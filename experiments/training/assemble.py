"""Builds a run from a model, a rule, a mixing, an attack and a protocol.

Each protocol function takes the parts of a run, then its own hyperparameters, which may be given in
the specification; those that are omitted come from the run.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import byzjax
from byzjax import compress, protocols
from experiments.data.datasets import Dataset, Outline
from experiments.grid import compressors, planning, sampling, specs
from experiments.grid import config as configs
from experiments.grid import protocols as names
from experiments.grid.config import Config
from experiments.models import zoo
from experiments.text import names as texts
from experiments.training import graphs, optim


def network(
    config: Config, dataset: Dataset | Outline, base: zoo.Params | None = None
) -> zoo.Model:
    """The model of a grid.

    Args:
      config: the grid.
      dataset: its data set, or the outline of it.
      base: trained weights to start from; None to draw them.
    """
    return zoo.build(
        config.model,
        dataset.shape,
        dataset.num_classes,
        text=bool(dataset.vocabulary),
        rank=config.lora,
        base=base,
        init_as=config.init,
    )


_COMPRESSION = 11  # the place of its key among those of a run


class Parts(NamedTuple):
    """The parts of a run.

    Attributes:
      config: the settings of the run.
      loss: `loss_fn(params, batch, key=None)`.
      rule: the aggregation rule.
      mixing: the mixing before the rule.
      attack: `attack(byzantine, place, rule, n)` -> transformation of the stacked updates of n.
      byzantine: `bool[n]`.
      key: the PRNG key of the run.
      at_once: number of workers whose gradients are computed in parallel.
      rate: the initial step size, which may be traced; None for that of the config.
      axis: the mapped axis over which gradients are distributed; None for one device.
      samples: the number of samples of each worker, if each step takes all of them.
    """

    config: Config
    loss: Callable
    rule: specs.Spec
    mixing: specs.Spec
    attack: Callable
    byzantine: jax.Array
    key: jax.Array
    at_once: int | None
    rate: Any = None
    axis: str | None = None
    samples: int | None = None

    def fold(self, place: int) -> jax.Array:
        """A PRNG key derived from the run's for one purpose."""
        return jax.random.fold_in(self.key, place)

    def of_workers(self) -> optax.GradientTransformation:
        """The attack on the stacked updates of all workers."""
        deployed = specs.deployed(self.rule, self.mixing)
        attack = self.attack(self.byzantine, 2, deployed, self.config.n)
        compression = compressors.parse(self.config.compressor)
        if compression is None or not compression.byzantine:
            return attack
        form = compression.of_byzantine(self.fold(_COMPRESSION))
        return optax.chain(attack, compress.of_byzantine(form, self.byzantine))

    def stages(self) -> dict[str, Any]:
        """The optimizer's parts, `send`, `receive` and `server`: see `optim.stages`."""
        draws = self.config.compressor != configs.NO_COMPRESSOR
        return optim.stages(self.config, self.rate, self.fold(_COMPRESSION) if draws else None)

    def aggregate(self, rows: int) -> optax.GradientTransformation:
        """The mixing and the rule for `rows` stacked updates."""
        rule = specs.transformation(self.rule, byzantine=None, key=self.fold(3), n=rows)
        if self.mixing.name == "none":
            return rule
        mixing = specs.transformation(self.mixing, byzantine=None, key=self.fold(5), n=rows)
        return optax.chain(mixing, rule)

    def named(self, text: str, f: int, place: int) -> optax.GradientTransformation:
        """Another rule, parsed from its specification."""
        rule = specs.parse("rule", text, f=f)
        return specs.transformation(rule, byzantine=None, key=self.fold(place))

    def servers(self, count: int, f: int) -> tuple[jax.Array, optax.GradientTransformation]:
        """The mask of f Byzantine servers (none without Byzantine workers) and their attack."""
        order = jax.random.permutation(self.fold(7), count)
        lying = (order < f) & jnp.any(self.byzantine)
        return lying, self.attack(lying, 8, byzjax.median, count)


def parameter_server(
    parts: Parts,
    *,
    per_round: int | None = None,
    local_steps: int = 1,
    local_rate: float | None = None,
    local: str | None = None,
    keep_local_state: bool = False,
    whole_batch: bool = False,
) -> protocols.Protocol:
    """Workers send updates to one server, which aggregates them and takes a step.

    With `local`, the name of an optimizer, they take local steps of size `local_rate` by it and
    send pseudo-gradients.
    """
    stages, n = parts.stages(), parts.config.n
    mix = specs.transformation(parts.mixing, byzantine=None, key=parts.fold(5), n=n)
    if stages["receive"] is not None:
        mix = optax.chain(stages["receive"], mix)
    return protocols.parameter_server(
        parts.loss,
        send=stages["send"],
        attack=parts.of_workers(),
        mix=mix,
        rule=specs.transformation(parts.rule, byzantine=None, key=parts.fold(3), n=n),
        server=stages["server"],
        num_workers=n,
        per_round=per_round,
        local_steps=local_steps,
        local_rate=local_rate if local is None else None,
        local=None if local is None else optim.local(local, local_rate),
        keep_local_state=keep_local_state,
        whole_batch=whole_batch,
        workers_at_once=parts.at_once,
        workers_axis=parts.axis,
    )


def replicated_servers(
    parts: Parts,
    *,
    num_servers: int = 5,
    f_servers: int = 1,
    pull: str = "median",
    contract: str = "median",
    every: int = 1,
    quorum_servers: int | None = None,
    quorum_workers: int | None = None,
) -> protocols.Protocol:
    """Several servers, some Byzantine; workers and servers aggregate what arrives (ByzSGD)."""
    stages, config = parts.stages(), parts.config
    lying, attack_models = parts.servers(num_servers, f_servers)
    return protocols.replicated_servers(
        parts.loss,
        num_servers=num_servers,
        num_workers=config.n,
        f_servers=f_servers,
        f_workers=config.f,
        pull=parts.named(pull, f_servers, 9),
        contract=parts.named(contract, f_servers, 10),
        rule=parts.aggregate(quorum_workers or config.n - config.f),
        server=stages["server"],
        send=stages["send"],
        attack=parts.of_workers(),
        attack_models=attack_models,
        byzantine_servers=lying,
        every=every,
        quorum_servers=quorum_servers,
        quorum_workers=quorum_workers,
        workers_at_once=parts.at_once,
        workers_axis=parts.axis,
    )


def replicated_state_machine(
    parts: Parts, *, num_servers: int = 4, f_servers: int = 1
) -> protocols.Protocol:
    """Identical replicas of one server; workers take the model that f + 1 of them agree on."""
    stages, config = parts.stages(), parts.config
    lying, attack_models = parts.servers(num_servers, f_servers)
    return protocols.replicated_state_machine(
        parts.loss,
        num_servers=num_servers,
        num_workers=config.n,
        f_servers=f_servers,
        rule=parts.aggregate(config.n),
        server=stages["server"],
        send=stages["send"],
        attack=parts.of_workers(),
        attack_models=attack_models,
        byzantine_servers=lying,
        workers_at_once=parts.at_once,
        workers_axis=parts.axis,
    )


def gossip(
    parts: Parts,
    *,
    graph: str = "complete",
    per_receiver: bool = False,
    local_steps: int = 1,
    **shape: int | float,
) -> protocols.Protocol:
    """Peer to peer over a graph: each node aggregates what its neighbours send."""
    config = parts.config
    return protocols.gossip(
        parts.loss,
        graph=graphs.of_name(graph, config.n, shape),
        rule=parts.aggregate(config.n),
        optimizer=optim.of_one(config, parts.rate),
        byzantine=parts.byzantine,
        f=config.f,
        attack=parts.of_workers(),
        per_receiver=per_receiver,
        local_steps=local_steps,
        workers_at_once=parts.at_once,
        workers_axis=parts.axis,
    )


def asynchronous(
    parts: Parts,
    *,
    judge: str = "none",
    damping: str = "inverse",
    buffers: int | None = None,
    max_staleness: int | None = None,
    max_read_age: int = 0,
) -> protocols.Protocol:
    """A step for each arriving gradient that the judges accept, however stale (Kardam)."""
    config = parts.config
    judges: dict[str, Callable] = {
        "none": lambda: (),
        "kardam": lambda: protocols.kardam(f=config.f),
        "lipschitz": lambda: (protocols.lipschitz(f=config.f),),
        "frequency": lambda: (protocols.frequency(f=config.f),),
    }
    dampings = {
        "none": protocols.constant_damping,
        "inverse": protocols.inverse_damping,
        "exponential": protocols.exponential_damping,
    }
    for name, value, known in (("judge", judge, judges), ("damping", damping, dampings)):
        if value not in known:
            raise ValueError(texts.one_of(name, value, known))
    return protocols.asynchronous(
        parts.loss,
        num_workers=config.n,
        server=parts.stages()["server"],
        judge=judges[judge](),
        damping=dampings[damping](),
        buffers=buffers,
        rule=None if buffers is None else parts.aggregate(buffers),
        attack=parts.of_workers(),
        max_staleness=max_staleness,
        max_read_age=max_read_age,
    )


def redundant(
    parts: Parts, *, s: int | None = None, r: int | None = None, code: str = "repetition"
) -> protocols.Protocol:
    """Nodes compute redundant gradients; the server decodes (DRACO), then aggregates (DETOX)."""
    config = parts.config
    s = config.f if s is None else s
    repeats = code == "repetition"
    return protocols.redundant(
        parts.loss,
        num_workers=config.n,
        s=s,
        r=r,
        code=code,
        rule=parts.aggregate(config.n // (r or 2 * s + 1)) if repeats else None,
        server=parts.stages()["server"],
        attack=parts.of_workers(),
        workers_at_once=parts.at_once,
        workers_axis=parts.axis,
    )


def variance_reduced(
    parts: Parts, *, estimator: str = names.DEFAULT_ESTIMATOR, p: float = 0.1, a: float = 0.1
) -> protocols.Protocol:
    """Workers draw from all their samples, and estimate gradients with vanishing variance."""
    config = parts.config
    made: dict[str, Callable] = {
        "marina": lambda: protocols.marina(p, batch_size=config.batch_size),
        "saga": lambda: protocols.saga(parts.samples),
        "storm": lambda: protocols.storm(a, batch_size=config.batch_size),
    }

    def decayed(params: Any, batch: Any, key: Any = None) -> jax.Array:
        decay = config.weight_decay / 2 * optax.tree.norm(params, squared=True)
        return parts.loss(params, batch, key=key) + decay

    of_workers = config.weight_decay and config.weight_decay_at == "worker"
    mix = specs.transformation(parts.mixing, byzantine=None, key=parts.fold(5), n=config.n)
    return protocols.variance_reduced(
        decayed if of_workers else parts.loss,
        estimator=made[estimator](),
        rule=specs.transformation(parts.rule, byzantine=None, key=parts.fold(3), n=config.n),
        mix=mix,
        server=parts.stages()["server"],
        attack=parts.of_workers(),
        num_workers=config.n,
        workers_at_once=parts.at_once,
        workers_axis=parts.axis,
    )


PROTOCOLS: dict[str, Callable] = {
    configs.DEFAULT_PROTOCOL: parameter_server,
    "replicated_servers": replicated_servers,
    "replicated_state_machine": replicated_state_machine,
    "gossip": gossip,
    "asynchronous": asynchronous,
    "redundant": redundant,
    names.VARIANCE_REDUCED: variance_reduced,
}


def build(parts: Parts) -> protocols.Protocol:
    """The protocol of a run."""
    name, given = names.parse(parts.config.protocol)
    return PROTOCOLS[name](parts, **given)


def plan(config: Config, parameters: int = 0) -> list[planning.Block]:
    """The blocks of a grid, after tracing one step of a small model; nothing is computed.

    Args:
      config: the grid.
      parameters: number of model parameters, which decides how many runs train together.

    Raises:
      ValueError: a setting is invalid, or the protocol does not support these rules, mixings,
        attacks, n and f.
      TypeError: a hyperparameter is unknown or missing.
    """
    blocks = planning.plan(config, parameters)
    if not names.is_default(config):
        for rule, mixing, attack in planning.combinations(config):
            try:
                jax.eval_shape(lambda *_, parts=(rule, mixing, attack): _one_step(config, *parts))
            except ValueError as error:
                raise ValueError(f"{error}{sampling.hint(config)}") from error
    return blocks


def _one_step(config: Config, rule: specs.Spec, mixing: specs.Spec, tried: specs.Spec) -> Any:
    def loss(params: Any, batch: Any, key: Any = None) -> jax.Array:
        del key
        return jnp.sum(batch["x"] @ params)

    def attack(byzantine: Any, place: int, rule: Callable, count: int) -> Any:
        key = jax.random.key(place)
        return specs.transformation(tried, byzantine=byzantine, key=key, rule=rule, n=count)

    n, key = config.n, jax.random.key(0)
    # A compressor may need more coordinates than this model has; `compressors.check` looks at it.
    config = dataclasses.replace(config, compressor=configs.NO_COMPRESSOR)
    parts = Parts(config, loss, rule, mixing, attack, jnp.zeros(n, bool), key, None)
    parts = parts._replace(samples=config.batch_size)
    protocol = build(parts)
    batch = {"x": jnp.zeros((n, config.batch_size, 2))}
    state, info = protocol.step(protocol.init(jnp.zeros(2), key), {"workers": batch}, key)
    return protocol.models(state), info
