"""The blocks of a grid: which runs train together, and checks of their settings."""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator

from experiments.grid import compressors, optimizers, protocols, specs
from experiments.grid.config import IDENTITY, Config
from experiments.text import names

# Bytes that the runs of one block may use, as estimated by `run_bytes`. It does not depend on the
# machine: which runs train together is part of a block's identity, since the same run in a batch
# of another size differs in bits.
BUDGET = 2 * 2**30


@dataclasses.dataclass(frozen=True)
class Block:
    """Runs that train together in one program: one rule after one mixing, under one attack.

    Attributes:
      runs: (seed, s) of each run.
    """

    rule: specs.Spec
    mixing: specs.Spec
    attack: specs.Spec
    runs: tuple[tuple[int, int], ...]


def program(config: Config, block: Block) -> tuple:
    """The key of a compiled program: blocks with equal keys and numbers of runs share it.

    Its arguments are the seeds, the Byzantine workers, the attack's index and strengths, and the
    step size.
    """
    shared = {name: getattr(config, name) for name in IDENTITY if name != "learning_rate"}
    among = tuple(spec.family for spec in choices(config, block))
    return (*shared.items(), config.data_dir), str(block.rule), str(block.mixing), among


def choices(config: Config, block: Block) -> list[specs.Spec]:
    """The attacks that a block's program can select, one of each family."""
    if block.attack.name == "none":
        return [block.attack]
    by_family: dict[str, specs.Spec] = {}
    for spec in attacks(config):
        by_family.setdefault(spec.family, spec)
    return list(by_family.values())


def plan(config: Config, parameters: int = 0) -> list[Block]:
    """The blocks of a grid, in the order in which they run.

    Args:
      config: the grid.
      parameters: number of model parameters, which decides how many runs train together.

    Raises:
      ValueError: a name, a number or a pair (n, f) is invalid.
      TypeError: a hyperparameter is unknown or missing.
    """
    _check_numbers(config)
    optimizers.check(config)
    compressors.check(config, parameters)
    rules = _parsed("rule", config.rule, config.f)
    mixings = _parsed("mixing", config.mixing, config.f)
    wanted = _parsed("attack", config.attack, config.f)
    _check_together(config, rules, mixings, wanted)
    liars = tuple(s for s in config.s if s > 0)
    none = specs.parse("attack", "none", f=config.f)
    most = max(1, BUDGET // max(1, run_bytes(config, parameters)))
    most = min(most, config.together or most)
    blocks = []
    for rule, mixing in itertools.product(rules, mixings):
        if 0 in config.s or none in wanted:
            blocks += _cut(rule, mixing, none, _runs(config, (0,)), most)
        for attack in wanted:
            if attack != none and liars:
                blocks += _cut(rule, mixing, attack, _runs(config, liars), most)
    if not blocks:
        if not rules or not mixings:
            raise ValueError(f"nothing to run: no {'mixing' if rules else 'rule'} is given.")
        raise ValueError(
            f"nothing to run: no attack for s={config.s}; add --attack sign_flip, or 0 to --s."
        )
    return blocks


def recorded(config: Config) -> Iterator[Block]:
    """The blocks of a grid, for reading results: nothing is imported, called or checked."""
    kinds = {"rule": config.rule, "mixing": config.mixing, "attack": config.attack}
    rules, mixings, wanted = (
        [specs.read(kind, text) for text in texts] for kind, texts in kinds.items()
    )
    none = specs.read("attack", "none")
    liars = tuple(s for s in config.s if s > 0)
    for rule, mixing in itertools.product(rules, mixings):
        if 0 in config.s or none in wanted:
            yield Block(rule, mixing, none, tuple(_runs(config, (0,))))
        for attack in wanted:
            if attack != none and liars:
                yield Block(rule, mixing, attack, tuple(_runs(config, liars)))


def combinations(config: Config) -> list[tuple[specs.Spec, specs.Spec, specs.Spec]]:
    """Combinations to check: each rule after each mixing, and each attack."""
    rules, mixings, attacks = (
        _parsed(kind, getattr(config, kind), config.f) for kind in ("rule", "mixing", "attack")
    )
    pairs = [(rule, mixing, attacks[0]) for rule, mixing in itertools.product(rules, mixings)]
    return pairs + [(rules[0], mixings[0], attack) for attack in attacks[1:]]


def _check_together(config: Config, rules: list, mixings: list, wanted: list) -> None:
    """Checks each rule after each mixing, and each attack, in this protocol."""
    if not protocols.is_default(config):
        for rule, mixing, attack in combinations(config):
            protocols.check(config, rule, mixing, attack)
        return
    for mixing in mixings:
        specs.check(mixing, config.n)
        for rule in rules:
            specs.check(rule, config.n, mixing)
    for attack in wanted:
        if "weights" in specs.parameters_of(attack):
            raise ValueError(f"{attack.name} needs peers; expected --protocol gossip.")
        specs.check(attack, config.n)


def attacks(config: Config) -> list[specs.Spec]:
    """The attacks of a grid: all but none."""
    return [spec for spec in _parsed("attack", config.attack, config.f) if spec.name != "none"]


def run_bytes(config: Config, parameters: int) -> int:
    """Approximate memory of one run: momenta, gradients, malicious updates and copies, in float32.

    Excludes the candidates of searching attacks and the activations of convolutions. A run with a
    gradient for each sample, as SAGA has, trains alone.
    """
    if protocols.estimator(config) == "saga":
        return BUDGET
    return 4 * parameters * config.n * 5


def _runs(config: Config, liars: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(seed, s) for seed in range(config.seeds) for s in liars]


def _cut(rule, mixing, attack, runs: list[tuple[int, int]], most: int) -> list[Block]:
    """Blocks of at most `most` runs, of sizes as equal as possible."""
    pieces = -(-len(runs) // most)
    ends = [len(runs) * i // pieces for i in range(pieces + 1)]
    return [Block(rule, mixing, attack, tuple(runs[i:j])) for i, j in itertools.pairwise(ends)]


@functools.lru_cache(maxsize=1024)
def _of_library(kind: str, text: str, f: int) -> specs.Spec:
    """`specs.parse` of a name of the tables, unchanging and parsed many times."""
    return specs.parse(kind, text, f=f)


def _parsed(kind: str, texts: tuple[str, ...], f: int) -> list[specs.Spec]:
    parsed = [
        specs.parse(kind, text, f=f) if ":" in text else _of_library(kind, text, f)
        for text in texts
    ]
    written = [str(spec) for spec in parsed]
    twice = [text for text, count in collections.Counter(written).items() if count > 1]
    if twice:
        article = "an" if kind == "attack" else "a"
        raise ValueError(f"{article} {kind} is given twice: {', '.join(twice)}.")
    return parsed


def _check_numbers(config: Config) -> None:
    if config.study in ("", ".", "..") or any(c in config.study for c in "/\\\0"):
        raise ValueError(f"study must be the name of one folder; got {config.study!r}.")
    for name, least, most in (
        ("n", 1, 10**5),
        ("f", 0, 10**5),
        ("seeds", 1, 10**5),
        ("together", 0, 10**5),
        ("steps", 1, 10**9),
        ("batch_size", 1, 10**6),
        ("eval_every", 1, 10**9),
        ("eval_samples", 0, 10**9),
        ("validation", 0, 10**9),
        ("lora", 0, 10**5),
    ):
        value = getattr(config, name)
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
        if value > most:
            raise ValueError(f"{name} must be at most {most}; got {value}.")
    if config.steps % config.eval_every:
        raise ValueError(
            f"eval_every must divide steps; got steps={config.steps}, "
            f"eval_every={config.eval_every}. Without --eval-every a divisor is chosen."
        )
    if config.lora and not config.weights:
        raise ValueError(f"lora={config.lora} needs trained weights; expected --base gpt_micro.")
    if config.dealt_to not in ("all", "honest"):
        raise ValueError(names.one_of("dealt_to", config.dealt_to, ("all", "honest")))
    if not config.s or len(set(config.s)) < len(config.s):
        raise ValueError(f"s needs one or more different numbers; got {config.s}.")
    if config.optimum and (config.model != "logistic" or config.weight_decay <= 0):
        raise ValueError(
            "optimum needs model logistic and weight_decay > 0; got "
            f"{config.model}, weight_decay={config.weight_decay}."
        )
    sampled = protocols.drawn(config) is not None  # then s of all n, and f of the drawn
    for s in config.s:
        if sampled and not 0 <= s < config.n:
            raise ValueError(f"s must lie in 0 .. n - 1; got s={s}, n={config.n}.")
        if not sampled and not 0 <= s <= config.f:
            raise ValueError(
                f"s must lie in 0 .. f; got s={s}, f={config.f}. Give a smaller --s or larger --f."
            )
    if not config.learning_rate > 0:
        raise ValueError(f"learning_rate must be positive; got {config.learning_rate}.")
    if config.learning_rate == math.inf:
        raise ValueError("learning_rate must be finite; got inf.")
    if config.momentum and config.momentum_at == "server":
        searching = [a.name for a in attacks(config) if "rule" in specs.parameters_of(a)]
        if searching:
            raise ValueError(
                f"{', '.join(searching)} cannot try a server that keeps momenta; expected "
                "momentum_at worker or update."
            )
    if config.f >= config.n:
        raise ValueError(f"f must be below n; got n={config.n}, f={config.f}.")
