"""Client sampling: what f means if only some of the n workers are drawn for a round."""

import math

import byzjax
from experiments.grid import protocols, specs
from experiments.grid.config import Config, default_f


def told(rule: specs.Spec, config: Config) -> int:
    """The number of Byzantine workers that a rule is told to tolerate: its own f, or the grid's."""
    return rule.hyperparameters.get("f", config.f)


def excess(n: int, s: int, drawn: int, f: int) -> float:
    """The probability that more than f of s Byzantine workers are among the drawn of n."""
    sets = sum(math.comb(s, i) * math.comb(n - s, drawn - i) for i in range(f + 1, drawn + 1))
    return sets / math.comb(n, drawn)


def line(config: Config) -> str | None:
    """How many Byzantine workers to expect among the drawn; None if all n or none are."""
    drawn, s = protocols.drawn(config), max(config.s)
    if drawn is None or s == 0:
        return None
    f = min(told(specs.parse("rule", rule, f=config.f), config) for rule in config.rule)
    needed = byzjax.faults_among(config.n, s, drawn, rounds=config.steps)
    minority = "" if drawn > 2 * needed else ", no minority"
    return (
        f"{drawn} of n = {config.n} workers are drawn for each round: more than f = {f} of s = {s} "
        f"Byzantine ones in {100 * excess(config.n, s, drawn, f):.2g} % of rounds; "
        f"byzjax.faults_among gives {needed}{minority}."
    )


def hint(config: Config) -> str:
    """What to add to the error of a rule that sees fewer rows than n; empty if f is no cause."""
    drawn = protocols.drawn(config)
    if drawn is None or config.f <= (most := default_f(drawn, config.rule)):
        return ""
    needed = byzjax.faults_among(config.n, max(config.s), drawn, rounds=config.steps)
    return (
        f" Of {config.n} workers {drawn} are drawn: the rules tolerate --f {most}; "
        f"byzjax.faults_among gives {needed}."
    )
