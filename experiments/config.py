"""What a grid of runs is: one frozen dataclass, which is also the command line, and its blocks."""

import dataclasses
import itertools
import math
import shlex
from collections.abc import Iterator
from typing import Annotated, Any

import tyro

from experiments import optim, protocols, specs

# Bytes that the runs of one block may hold at once, by the estimate of `block_bytes`. A number of
# the plan, not of the machine: which runs train together is part of a block's identity, since the
# same run in a batch of another size differs in bits.
BUDGET = 2 * 2**30


@dataclasses.dataclass(frozen=True)
class Config:
    """Train one model for every (rule, mixing, attack, number of liars, seed) and compare.

    n workers send what they learnt from their own data to one server; s of them lie; the server
    aggregates with a rule that tolerates f. Without options this is the main job: digits, 25
    workers, f = 11. Results go to results/<study>/, and a second start continues with what is
    missing there.
    """

    study: str = "main"
    """Name of the study: results go to <results>/<study>/."""
    dataset: str = "digits"
    """digits (comes with scikit-learn), mnist, fashion_mnist or cifar10 (through TFDS), a9a,
    mushrooms, spambase or w8a (from files)."""
    model: str = "mlp"
    """softmax, logistic (two classes), mlp (100 hidden units), cnn (small), cnn_5x5, cnn_mnist,
    cnn_cifar or resnet20."""
    rule: tuple[str, ...] = ("mean", "median", "trimmed_mean", "krum", "multi_krum", "aksel")
    """Rules, with hyperparameters where wanted: aksel "krum(f=4, m=3)". The declared
    f is filled in. A rule of your own: my_rules:nearest, from my_rules.py in this folder; likewise
    mixings and attacks."""
    mixing: tuple[str, ...] = ("none",)
    """What stands in front of the rule: none, nearest_neighbors, "bucketing(s=2)",
    "clip_norms(max_norm=1)", adaptive_clipping."""
    attack: tuple[str, ...] = (
        "none",
        "sign_flip",
        "little_is_enough",
        "inner_product_manipulation",
        "non_finite",
    )
    """Attacks: none, sign_flip, "little_is_enough(z=1.5)", "inner_product_manipulation(epsilon=2)",
    "gaussian(sigma=1)", "non_finite(value=-inf)", flip_labels, strongest_alie, gradient_attack,
    mimic and the others of byzjax.attacks. The declared f is filled in where an attack takes one,
    and mixing and rule where it tries them."""
    protocol: str = protocols.DEFAULT
    """Who talks to whom: parameter_server, "parameter_server(per_round=5)",
    "replicated_servers(num_servers=5)", replicated_state_machine, "gossip(graph='ring')",
    "asynchronous(judge='kardam')" or "redundant(r=3, s=1)"."""
    n: int = 25
    """Number of workers."""
    f: int = 11
    """Number of faults that the rules are declared to tolerate."""
    s: tuple[int, ...] = (0, 1, 5, 11)
    """Numbers of workers that really lie, each at most f. With s = 0 there is no attack: that runs
    once for each rule."""
    seeds: int = 3
    """Number of seeds; a seed decides the model's start, the liars, the partition and batches."""
    steps: int = 300
    """Training steps."""
    batch_size: int = 16
    """Samples that a worker draws, with replacement from its own, for each gradient."""
    learning_rate: float = 0.5
    """The server's step size at first."""
    schedule: str = "constant"
    """How the step size goes on: constant, "hyperbolic(k)" (lr / (1 + t / k)), cosine, or
    "steps(a, b)" (a tenth from step a, a hundredth from step b)."""
    momentum: float = 0.9
    """beta of the momentum; 0 for none."""
    momentum_at: str = "worker"
    """worker (each keeps its own and sends it), server (which keeps one for each worker, of what
    it received) or update (of what the rule returned)."""
    momentum_kind: str = "damped"
    """damped (m = beta m + (1 - beta) g), undamped (m = beta m + g) or nesterov (undamped)."""
    weight_decay: float = 0.0
    """lambda: each worker's gradient gains lambda times the parameters."""
    clip: float = 0.0
    """Largest norm of a worker's gradient, which is clipped before momentum; 0 for any."""
    average: bool = False
    """Evaluate the average of all models since the start (Polyak), not the last one."""
    optimum: bool = False
    """Also measure how far the model is from the minimiser of the training loss, of which weight
    decay is a part; for the model logistic."""
    partition: str = "iid"
    """How samples are dealt out to workers: iid, "dirichlet(0.3)", sorted, "pathological(2)",
    "gamma_similarity(0.5)", "long_tail(0.5)" or "unequal(1)"."""
    dealt_to: str = "all"
    """Among whom: all n workers, or honest ones only, and the liars draw from all samples."""
    validation: int = 0
    """Training samples that no worker gets: the accuracy on them is what settings are chosen by
    (`python -m experiments choose`)."""
    eval_every: int = 25
    """Steps between evaluations on the test set; divides the number of steps."""
    eval_samples: int = 0
    """Test samples of an evaluation before the last, the first ones; 0 for all. The last one is on
    all of them."""
    results: str = "results"
    """Folder of all studies."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Folder of prepared data sets; default $TFDS_DATA_DIR, then TFDS's own, and for the convex
    sets $BYZJAX_DATA_DIR."""
    download: bool = False
    """Let TFDS download and prepare a data set that is missing (needs TensorFlow)."""

    @property
    def code(self) -> str:
        """The files that rules, mixings and attacks of one's own come from; else empty."""
        return specs.code((*self.rule, *self.mixing, *self.attack))


# What says where things lie, or which other blocks there are: not what a block's numbers come from.
_ELSEWHERE = ("study", "rule", "mixing", "attack", "s", "seeds", "results", "data_dir", "download")
IDENTITY = (
    *(field.name for field in dataclasses.fields(Config) if field.name not in _ELSEWHERE),
    "code",
)


# Settings that came later: a block names them where they are not the only ones that there were.
_LATER = {"protocol": protocols.DEFAULT, "dealt_to": "all", "code": ""}


def setting(block: dict[str, Any], name: str) -> Any:
    """A setting of a finished block; what it does not name had its default, or had no name yet."""
    return block.get(name, _LATER.get(name))


def identity(config: Config) -> dict[str, Any]:
    """The settings that decide a block's numbers; what came later is named if it is not default."""
    named = {name: getattr(config, name) for name in IDENTITY}
    return {name: value for name, value in named.items() if _LATER.get(name) != value}


@dataclasses.dataclass(frozen=True)
class Block:
    """Runs that train together in one program: one rule behind one mixing, under one attack.

    Attributes:
      runs: (seed, s) of each run.
    """

    rule: specs.Spec
    mixing: specs.Spec
    attack: specs.Spec
    runs: tuple[tuple[int, int], ...]


def options(config: Config) -> str:
    """What was written on the command line, where it is not the default."""
    words = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            words.append(f"--{field.name.replace('_', '-')}")
            if value is not True:
                words += map(str, value) if isinstance(value, tuple) else [str(value)]
    return shlex.join(words)


def program(config: Config, block: Block) -> tuple:
    """Blocks with the same, of as many runs, are served by one compiled program.

    Its arguments are the seeds, the liars, the attack's number and strengths, and the step size.
    """
    shared = {name: getattr(config, name) for name in IDENTITY if name != "learning_rate"}
    among = tuple(spec.family for spec in choices(config, block))
    return (*shared.items(), config.data_dir), str(block.rule), str(block.mixing), among


def choices(config: Config, block: Block) -> list[specs.Spec]:
    """The attacks among which a block's program chooses, one of each family."""
    if block.attack.name == "none":
        return [block.attack]
    found: dict[str, specs.Spec] = {}
    for spec in attacks(config):
        found.setdefault(spec.family, spec)
    return list(found.values())


def plan(config: Config, parameters: int = 0) -> list[Block]:
    """The blocks of a grid, in the order in which they run.

    Args:
      config: the grid.
      parameters: numbers in the model, which decide how many runs train together.

    Raises:
      ValueError: a name, a number or a pair (n, f) is impossible.
      TypeError: a hyperparameter is unknown or missing.
    """
    _check_numbers(config)
    optim.check(config)
    rules = _parsed("rule", config.rule, config.f)
    mixings = _parsed("mixing", config.mixing, config.f)
    wanted = _parsed("attack", config.attack, config.f)
    _check_together(config, rules, mixings, wanted)
    liars = tuple(s for s in config.s if s > 0)
    none = specs.parse("attack", "none", f=config.f)
    most = max(1, BUDGET // max(1, run_bytes(config, parameters)))
    blocks = []
    for rule, mixing in itertools.product(rules, mixings):
        if 0 in config.s or none in wanted:
            blocks += _cut(rule, mixing, none, _runs(config, (0,)), most)
        for attack in wanted:
            if attack != none and liars:
                blocks += _cut(rule, mixing, attack, _runs(config, liars), most)
    if not blocks:
        raise ValueError(f"nothing to run: s={config.s}, attack={config.attack}.")
    return blocks


def recorded(config: Config) -> Iterator[Block]:
    """The blocks of a grid whose results are read: nothing is imported, called or checked."""
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


def _check_together(config: Config, rules: list, mixings: list, wanted: list) -> None:
    """Each rule behind each mixing, and each attack, in this protocol."""
    if protocols.is_default(config):
        for mixing in mixings:
            specs.check(mixing, config.n)
            for rule in rules:
                specs.check(rule, config.n, mixing)
        for attack in wanted:
            specs.check(attack, config.n)
        return
    for rule, mixing in itertools.product(rules, mixings):
        protocols.check(config, rule, mixing, wanted[0])
    for attack in wanted[1:]:
        protocols.check(config, rules[0], mixings[0], attack)


def attacks(config: Config) -> list[specs.Spec]:
    """The attacks of a grid: all but none."""
    return [spec for spec in _parsed("attack", config.attack, config.f) if spec.name != "none"]


def run_bytes(config: Config, parameters: int) -> int:
    """About what one run holds: momenta, gradients, lies and some copies, in float32.

    What searching attacks try at once, and what layers of convolutions hold, is not in it.
    """
    return 4 * parameters * config.n * 5


def _runs(config: Config, liars: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(seed, s) for seed in range(config.seeds) for s in liars]


def _cut(rule, mixing, attack, runs: list[tuple[int, int]], most: int) -> list[Block]:
    """Blocks of at most so many runs, of sizes as equal as can be."""
    pieces = -(-len(runs) // most)
    ends = [len(runs) * i // pieces for i in range(pieces + 1)]
    return [Block(rule, mixing, attack, tuple(runs[i:j])) for i, j in itertools.pairwise(ends)]


def _parsed(kind: str, texts: tuple[str, ...], f: int) -> list[specs.Spec]:
    found = [specs.parse(kind, text, f=f) for text in texts]
    names = [str(spec) for spec in found]
    if len(set(names)) < len(names):
        raise ValueError(f"a {kind} is given twice: {', '.join(names)}.")
    return found


def _check_numbers(config: Config) -> None:
    if config.study in ("", ".", "..") or any(c in config.study for c in "/\\\0"):
        raise ValueError(f"study must be the name of one folder; got {config.study!r}.")
    for name, least, most in (
        ("n", 1, 10**5),
        ("f", 0, 10**5),
        ("seeds", 1, 10**5),
        ("steps", 1, 10**9),
        ("batch_size", 1, 10**6),
        ("eval_every", 1, 10**9),
        ("eval_samples", 0, 10**9),
        ("validation", 0, 10**9),
    ):
        value = getattr(config, name)
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
        if value > most:
            raise ValueError(f"{name} must be at most {most}; got {value}.")
    if config.steps % config.eval_every:
        raise ValueError(
            f"eval_every must divide steps; got steps={config.steps}, "
            f"eval_every={config.eval_every}."
        )
    if config.dealt_to not in ("all", "honest"):
        raise ValueError(f"dealt_to must be all or honest; got {config.dealt_to!r}.")
    if not config.s or len(set(config.s)) < len(config.s):
        raise ValueError(f"s needs one or more different numbers; got {config.s}.")
    if config.optimum and (config.model != "logistic" or config.weight_decay <= 0):
        raise ValueError(
            "optimum needs model logistic and weight_decay > 0; got "
            f"{config.model}, weight_decay={config.weight_decay}."
        )
    for s in config.s:
        if not 0 <= s <= config.f:
            raise ValueError(f"s must lie in 0 .. f; got s={s}, f={config.f}.")
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
