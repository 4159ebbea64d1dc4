"""What a study is: one frozen dataclass, which is also the command line."""

import dataclasses
from typing import Annotated

import tyro

from experiments import specs


@dataclasses.dataclass(frozen=True)
class Config:
    """Train one model for every (rule, attack, number of liars, seed) and compare.

    n workers send what they learnt from their own data to one server; s of them lie; the server
    aggregates with a rule that tolerates f. Without options this is the main job: digits, 25
    workers, f = 11. Results go to results/<study>/, and a second start continues with what is
    missing there.
    """

    study: str = "main"
    """Name of the study: results go to <results>/<study>/."""
    dataset: str = "digits"
    """digits (comes with scikit-learn), mnist, fashion_mnist or cifar10 (through TFDS)."""
    model: str = "mlp"
    """softmax (softmax regression), mlp (100 hidden units) or cnn (small)."""
    rule: tuple[str, ...] = ("mean", "median", "trimmed_mean", "krum", "multi_krum", "aksel")
    """Rules, with hyperparameters where wanted: aksel "krum(f=4, m=3)". The declared
    f is filled in."""
    attack: tuple[str, ...] = (
        "none",
        "sign_flip",
        "little_is_enough",
        "inner_product_manipulation",
        "non_finite",
    )
    """Attacks: none, sign_flip, "little_is_enough(z=1.5)", "inner_product_manipulation(epsilon=2)",
    "gaussian(sigma=1)", "non_finite(value=-inf)", flip_labels, strongest_alie, gradient_attack and
    the others of byzjax.attacks that have no memory. The declared f is filled in where an attack
    takes one, and the rule where it tries one."""
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
    """The server's step size (plain SGD)."""
    momentum: float = 0.9
    """beta of each worker's momentum m = beta m + (1 - beta) g; 0 sends gradients."""
    partition: str = "iid"
    """How samples are dealt out to workers: iid, "dirichlet(0.3)" or sorted (by label)."""
    eval_every: int = 25
    """Steps between evaluations on the full test set; divides the number of steps."""
    results: str = "results"
    """Folder of all studies."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """TFDS folder of prepared data sets; default $TFDS_DATA_DIR, then TFDS's own."""
    download: bool = False
    """Let TFDS download and prepare a data set that is missing (needs TensorFlow)."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Runs that train together in one program: one rule, one attack, several s and all seeds."""

    rule: specs.Spec
    attack: specs.Spec
    s: tuple[int, ...]


def plan(config: Config) -> list[Block]:
    """The blocks of a study, in the order in which they run.

    Raises:
      ValueError: a name, a number or a pair (n, f) is impossible.
      TypeError: a hyperparameter is unknown or missing.
    """
    _check_numbers(config)
    rules = [specs.parse("rule", text, f=config.f) for text in config.rule]
    wanted = [specs.parse("attack", text, f=config.f) for text in config.attack]
    for spec in (*rules, *wanted):
        specs.check(spec, config.n)
    for kind, found in (("rule", rules), ("attack", wanted)):
        names = [str(spec) for spec in found]
        if len(set(names)) < len(names):
            raise ValueError(f"a {kind} is given twice: {', '.join(names)}.")
    liars = tuple(s for s in config.s if s > 0)
    none = specs.parse("attack", "none", f=config.f)
    blocks = []
    for rule in rules:
        if 0 in config.s or none in wanted:
            blocks.append(Block(rule, none, (0,)))
        if liars:
            blocks += [Block(rule, attack, liars) for attack in wanted if attack != none]
    if not blocks:
        raise ValueError(f"nothing to run: s={config.s}, attack={config.attack}.")
    return blocks


def _check_numbers(config: Config) -> None:
    for name, least in (
        ("n", 1),
        ("f", 0),
        ("seeds", 1),
        ("steps", 1),
        ("batch_size", 1),
        ("eval_every", 1),
    ):
        value = getattr(config, name)
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
    if config.steps % config.eval_every:
        raise ValueError(
            f"eval_every must divide steps; got steps={config.steps}, "
            f"eval_every={config.eval_every}."
        )
    if not 0 <= config.momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1); got {config.momentum}.")
    if not config.s or len(set(config.s)) < len(config.s):
        raise ValueError(f"s needs one or more different numbers; got {config.s}.")
    for s in config.s:
        if not 0 <= s <= config.f:
            raise ValueError(f"s must lie in 0 .. f; got s={s}, f={config.f}.")
    if config.f >= config.n:
        raise ValueError(f"f must be below n; got n={config.n}, f={config.f}.")
