"""The rows and columns of the leaderboard, taken from the tables of rules, mixings and attacks.

A rule, mixing or attack that is added to the library is listed without an edit here, unless it has
hyperparameters without defaults.
"""

import functools
from typing import NamedTuple

from experiments.grid import catalogue, specs

# Hyperparameters that have no default (docs/leaderboard.md says which are their authors').
SETTINGS: dict[str, str] = {
    "bucketing": "bucketing(s=2)",
    "centered_clipping": "centered_clipping(radius=10.0, iterations=3)",
    "clip_norms": "clip_norms(max_norm=2.0)",
    "huber": "huber(threshold=0.5)",
    "hidden_vulnerability": "hidden_vulnerability(gamma=1.0)",
    "robust_learning_rate": "robust_learning_rate(threshold=8)",
    "gradient_attack": "gradient_attack(steps=3, ascents=1)",
}
# Rules with more than one form.
MORE_RULES = (
    *("aksel(mode='n-f')", "aksel(mode='radius')", "krum(m=5)"),
    "geometric_median_of_means(k=21)",
)
# Mixings that change nothing, or nearly nothing, for a rule.
POINTLESS: dict[str, tuple[str, ...]] = {
    "majority_sign": ("adaptive_clipping", "clip_norms"),
    "centered_clipping": ("adaptive_clipping", "clip_norms"),
    "sign_guard": ("adaptive_clipping", "clip_norms"),
    "mean_of_finite": ("adaptive_clipping", "clip_norms", "nearest_neighbors", "bucketing"),
}
# Attacks that a paper uses with more than one strength, and those that follow a backdoor.
MORE_ATTACKS = (
    "inner_product_manipulation(epsilon=0.5)",
    "little_is_enough(z=1.5)",
    "gaussian(sigma=1.0)",
    "stale(delay=10)",
    *(
        f"add_trigger(then='{name}')"
        for name in ("model_replacement", "constrain_and_scale", "neurotoxin")
    ),
)
# What is left out although a run could use it.
LEFT_OUT: dict[str, str] = {
    "concentration_filter": "needs bounds of the honest deviation and of the diameter of the "
    "models, which differ between scenes",
    "safeguard": "needs thresholds in the unit of the updates, which differ between scenes",
    "weak_dp": "adds noise for privacy; none of its own against attacks",
    "minimum_eigenvalue": "searches all subsets: 53,130 for f = 5 of 25",
    "shift_tokens": "poisons text",
    **dict.fromkeys(
        ("model_replacement", "constrain_and_scale", "neurotoxin"),
        "carries what poisoned data taught, so it follows add_trigger",
    ),
    "sleeping": "is inner_product_manipulation from a later step on",
    "dissensus": "needs peers",
}


class Defence(NamedTuple):
    """A row of the leaderboard: a rule and the mixing before it, as on the command line."""

    rule: str
    mixing: str


def written(kind: str) -> list[str]:
    """The rules, mixings or attacks of the library that a leaderboard can have."""
    names = [name for name in catalogue.TABLES[kind] if name not in LEFT_OUT and name != "none"]
    texts = [SETTINGS.get(name, name) for name in names]
    if kind == "mixing":
        return ["none", *texts]
    return [*texts, *(MORE_ATTACKS if kind == "attack" else MORE_RULES)]


@functools.cache
def reason(rule: str, mixing: str, n: int, f: int) -> str | None:
    """Why a rule behind a mixing is left out at n and f; None if it is a row."""
    if mixing.partition("(")[0] in POINTLESS.get(rule.partition("(")[0], ()):
        return "the mixing changes nothing, or nearly nothing, for this rule"
    try:
        before = specs.parse("mixing", mixing, f=f)
        parsed = specs.parse("rule", rule, f=f)
        specs.check(before, n)
        specs.check(parsed, n, before)
    except (ValueError, TypeError) as error:
        return str(error)
    return None


@functools.cache
def attack_reason(attack: str, n: int, f: int) -> str | None:
    """Why an attack is left out at n and f; None if it is a column."""
    try:
        specs.check(specs.parse("attack", attack, f=f), n)
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def left_out(n: int, f: int, mixings: tuple[str, ...]) -> dict[str, str]:
    """What the library has and the leaderboard lacks at n and f, and why."""
    reasons = dict(LEFT_OUT)
    for kind in catalogue.TABLES:
        reasons |= catalogue.not_offered(kind)
    for rule in written("rule"):
        for mixing in mixings:
            if (why := reason(rule, mixing, n, f)) is not None:
                reasons[rule if mixing == "none" else f"{mixing} + {rule}"] = why
    for attack in written("attack"):
        if (why := attack_reason(attack, n, f)) is not None:
            reasons[attack] = why
    return reasons
