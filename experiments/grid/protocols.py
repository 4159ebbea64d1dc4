"""Protocols by name, as on the command line (`gossip(graph='ring')`), and what they support.

They are built in `experiments.training.assemble`.
"""

from typing import Any, NamedTuple

from experiments.grid import calls, catalogue, specs
from experiments.grid.config import DEFAULT_PROTOCOL, Config
from experiments.text import names

VARIANCE_REDUCED = "variance_reduced"
ESTIMATORS = {"marina": "p", "saga": None, "storm": "a"}
"""The estimators of `variance_reduced`, and the hyperparameter of each."""
DEFAULT_ESTIMATOR = "marina"


class Protocol(NamedTuple):
    """The parameters of a protocol, and what it can be combined with.

    Attributes:
      parameters: names of its hyperparameters.
      momentum: values of `--momentum-at` that it supports.
      one_model: whether all honest parties share one model.
      all_rows: whether the deployed rule sees the updates of all workers.
      clips: whether it supports gradient clipping.
      decays: whether it supports weight decay.
      compresses: whether workers may compress what they send.
      open_ended: whether it takes further hyperparameters, those of one of its parts.
    """

    parameters: tuple[str, ...]
    momentum: tuple[str, ...]
    one_model: bool = False
    all_rows: bool = False
    clips: bool = True
    decays: bool = True
    compresses: bool = False
    open_ended: bool = False


PROTOCOLS: dict[str, Protocol] = {
    DEFAULT_PROTOCOL: Protocol(
        parameters=(
            *("per_round", "local_steps", "local_rate", "local", "keep_local_state"),
            "whole_batch",
        ),
        momentum=("worker", "server", "update"),
        one_model=True,
        all_rows=True,
        compresses=True,
    ),
    "replicated_servers": Protocol(
        parameters=(
            *("num_servers", "f_servers", "pull", "contract", "every"),
            *("quorum_servers", "quorum_workers"),
        ),
        momentum=("worker", "update"),
        decays=False,  # the workers' models differ
        compresses=True,
    ),
    "replicated_state_machine": Protocol(
        parameters=("num_servers", "f_servers"),
        momentum=("worker", "update"),
        all_rows=True,
        compresses=True,
    ),
    "gossip": Protocol(
        parameters=("graph", "per_receiver", "local_steps"),
        momentum=("worker", "update"),
        open_ended=True,  # the parameters of the graph
    ),
    "asynchronous": Protocol(
        parameters=("judge", "damping", "buffers", "max_staleness", "max_read_age"),
        momentum=("update",),
        one_model=True,
        clips=False,
        decays=False,
    ),
    "redundant": Protocol(
        parameters=("s", "r", "code"),
        momentum=("update",),
        one_model=True,
        clips=False,
        decays=False,
    ),
    VARIANCE_REDUCED: Protocol(
        parameters=("estimator", "p", "a"),
        momentum=("update",),
        one_model=True,
        all_rows=True,
        clips=False,
    ),
}


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Name and hyperparameters of a protocol.

    Raises:
      ValueError: the name is unknown or the text cannot be parsed.
      TypeError: a hyperparameter is unknown.
    """
    name, given = calls.parse_call(text, "protocol")
    if name not in PROTOCOLS:
        raise ValueError(names.unknown("protocol", name, PROTOCOLS))
    known = PROTOCOLS[name]
    unknown = [key for key in given if key not in known.parameters]
    if known.open_ended:  # only what is nearly a parameter
        unknown = [key for key in unknown if names.nearest(key, known.parameters)]
    if unknown:
        raise TypeError(names.no_parameter(name, unknown, known.parameters))
    return name, given


def is_default(config: Config) -> bool:
    """Whether the protocol is one parameter server that hears all workers at every step."""
    return config.protocol == DEFAULT_PROTOCOL


def many_models(config: Config) -> bool:
    """Whether honest servers or nodes may hold different models."""
    return not PROTOCOLS[parse(config.protocol)[0]].one_model


def drawn(config: Config) -> int | None:
    """The number of workers drawn for each step; None if all of them take part."""
    name, given = parse(config.protocol)
    count = given.get("per_round") if name == DEFAULT_PROTOCOL else None
    return count if isinstance(count, int) and 1 <= count < config.n else None


def estimator(config: Config) -> str | None:
    """The estimator of `variance_reduced`, which draws from all samples of each worker.

    None for the other protocols, whose steps take a batch.
    """
    name, given = parse(config.protocol)
    return given.get("estimator", DEFAULT_ESTIMATOR) if name == VARIANCE_REDUCED else None


def batches(config: Config, samples: int) -> float:
    """The batches of which a worker computes gradients in a step, on average.

    Args:
      config: a run.
      samples: the number of samples of each worker.
    """
    chosen = estimator(config)
    if chosen == "marina":
        p = parse(config.protocol)[1].get("p", 0.1)
        return p * samples / config.batch_size + 2 * (1 - p)
    return 2 if chosen == "storm" else 1


def gradients(config: Config) -> int:
    """The number of gradients that one step computes."""
    name, given = parse(config.protocol)
    if name == "asynchronous":
        return 1
    return given.get("per_round") or config.n


def check_devices(config: Config, count: int) -> None:
    """Checks that the gradients of a step can be distributed over `count` devices.

    Raises:
      ValueError: there are fewer gradients than devices.
    """
    if count > 1 and (computed := gradients(config)) < count:
        some = names.counted(computed, "gradient")
        raise ValueError(
            f"{config.protocol} computes {some} a step, which cannot be spread over "
            f"{count} devices; expected at most {computed}."
        )


def check(config: Config, rule: specs.Spec, mixing: specs.Spec, attack: specs.Spec) -> None:
    """Checks that the protocol supports this rule, mixing, attack and these settings.

    Raises:
      ValueError: it does not.
      TypeError: a hyperparameter is unknown.
    """
    name, given = parse(config.protocol)
    known = PROTOCOLS[name]
    if config.momentum and config.momentum_at not in known.momentum:
        raise ValueError(
            f"{name} has momentum at {' or '.join(known.momentum)}, if any; got "
            f"momentum={config.momentum} at {config.momentum_at}. Add --momentum-at "
            f"{known.momentum[0]} or --momentum 0."
        )
    for option, works in (("clip", known.clips), ("weight_decay", known.decays)):
        value = getattr(config, option)
        if value and not works:
            raise ValueError(f"{name} has no {option}; got {option}={value}.")
    if name == VARIANCE_REDUCED:
        _check_estimator(config, given)
    unused = name == "asynchronous" and given.get("buffers") is None
    unused |= name == "redundant" and given.get("code") == "cyclic"
    if unused and (rule.name, mixing.name) != ("mean", "none"):
        raise ValueError(
            f"{config.protocol} has no rule; expected rule mean and mixing none, got {rule.name} "
            f"and {mixing.name}."
        )
    expected = f"expected protocol {DEFAULT_PROTOCOL}"
    if rule.remembers and not known.all_rows:
        raise ValueError(f"{rule.name} remembers each worker; {expected}.")
    if "rule" in specs.parameters_of(attack) and not known.all_rows:
        raise ValueError(f"{attack.name} tries the deployed rule; {expected}.")
    if attack.name in catalogue.POISONS and name == "redundant":
        raise ValueError(
            f"{attack.name} changes data that redundant nodes share; expected another attack."
        )


def _check_estimator(config: Config, given: dict[str, Any]) -> None:
    chosen = estimator(config)
    if chosen not in ESTIMATORS:
        raise ValueError(names.one_of("estimator", chosen, ESTIMATORS))
    own = ESTIMATORS[chosen]
    for name in ("p", "a"):
        if name in given and name != own:
            taken = own or "neither p nor a"
            raise ValueError(f"{chosen} takes {taken}; got {name}={given[name]}.")
    if chosen == "saga" and config.batch_size != 1:
        raise ValueError(f"saga draws one sample; add --batch-size 1; got {config.batch_size}.")
    if config.clip_examples:
        raise ValueError(
            f"{VARIANCE_REDUCED} subtracts gradients at two models, whose noise would be the same; "
            f"expected clip_examples=0, got {config.clip_examples}."
        )
    if config.dealt_to != "all":
        raise ValueError(
            f"{VARIANCE_REDUCED} needs workers with equally many samples; expected dealt_to all, "
            f"got {config.dealt_to}."
        )
