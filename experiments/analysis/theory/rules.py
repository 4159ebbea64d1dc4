"""The measured forms of rules, and the attacks on them."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import byzjax
from byzjax import attacks, theory
from byzjax.facts import FACTS


class Form(NamedTuple):
    """One form of a rule.

    Attributes:
      name: name of the rule.
      options: `(n, f, d)` -> its hyperparameters besides f.
      needs: (a, b) of n >= a f + b; None for those of the rule's facts.
      most_n: largest n at which it is measured, since some rules are too slow for more.
      mixing: name of a mixing before it; empty for none.
    """

    name: str
    options: Callable[[int, int, int], dict[str, Any]] = lambda n, f, d: {}
    needs: tuple[int, int] | None = None
    most_n: int = 401
    mixing: str = ""

    def most_faults(self, n: int) -> int:
        """The largest f that may be declared; negative if none."""
        a, b = self.needs or FACTS[self.name].needs
        return (n - b) // a if a else (n - 1) // 2

    def rule(self, n: int, f: int, d: int) -> Callable:
        """The server's aggregation, mixing included, `updates -> update`."""
        function = getattr(byzjax, self.name)
        takes_f = "f" in inspect.signature(function).parameters
        rule = partial(function, **({"f": f} if takes_f else {}), **self.options(n, f, d))
        if not self.mixing:
            return rule
        given = {"s": 2, "key": jax.random.key(0)} if self.mixing == "bucketing" else {"f": f}
        mixing = partial(getattr(byzjax, self.mixing), **given)
        return lambda updates: rule(mixing(updates))


FORMS: dict[str, Form] = {
    "mean": Form("mean"),
    "median": Form("median"),
    "trimmed_mean": Form("trimmed_mean"),
    "mean_around_median": Form("mean_around_median"),
    "phocas": Form("phocas"),
    "aksel": Form("aksel"),
    "aksel, n-f": Form("aksel", lambda n, f, d: {"mode": "n-f"}),
    "krum": Form("krum"),
    "multi_krum": Form("krum", lambda n, f, d: {"m": n - f - 2}),
    "bulyan": Form("bulyan", most_n=101),
    "minimum_diameter": Form("minimum_diameter", most_n=25),
    "minimum_eigenvalue": Form("minimum_eigenvalue", most_n=11),
    "covariance_filter": Form("covariance_filter", most_n=51),
    "spectral_filter": Form("spectral_filter", lambda n, f, d: {"key": jax.random.key(0)}),
    "geometric_median": Form("geometric_median"),
    "huber": Form("huber", lambda n, f, d: {"threshold": d**0.5}),
    "comparative_elimination": Form("comparative_elimination"),
    "nearest_to_pivot": Form("nearest_to_pivot"),
    "medoid": Form("medoid"),
    "sign_guard": Form("sign_guard", lambda n, f, d: {"key": jax.random.key(0)}),
}
# Forms in the search for the worst input.
SEARCHED: dict[str, Form] = {
    **{name: FORMS[name] for name in ("median", "trimmed_mean", "mean_around_median", "phocas")},
    "aksel": FORMS["aksel"],
    "aksel, n-f": FORMS["aksel, n-f"],
    "aksel, radius": Form("aksel", lambda n, f, d: {"mode": "radius"}),
    "krum": FORMS["krum"],
    "krum, n-f-1 neighbours": Form("krum", lambda n, f, d: {"neighbors": "n-f-1"}, needs=(2, 1)),
    "multi_krum, n-f-1 neighbours": Form(
        "krum", lambda n, f, d: {"neighbors": "n-f-1", "m": n - f}, needs=(2, 1)
    ),
    "geometric_median": FORMS["geometric_median"],
    "minimum_diameter": FORMS["minimum_diameter"],
    "minimum_eigenvalue": FORMS["minimum_eigenvalue"],
    "covariance_filter": FORMS["covariance_filter"],
    "medoid": FORMS["medoid"],
    "nearest_to_pivot": Form("nearest_to_pivot", lambda n, f, d: {"pivot": 0}),
    "nearest_neighbors + median": Form("median", mixing="nearest_neighbors"),
    "nearest_neighbors + trimmed_mean": Form("trimmed_mean", mixing="nearest_neighbors"),
    "bucketing + trimmed_mean": Form("trimmed_mean", needs=(4, 1), mixing="bucketing"),
    "adaptive_clipping + trimmed_mean": Form("trimmed_mean", mixing="adaptive_clipping"),
}
TRUSTED = {"nearest_to_pivot": 0}  # rows that are honest


def constants_of(name: str, n: int, f: int) -> tuple[theory.Constant, ...]:
    """The kappas of a form of `SEARCHED` without a mixing; none with one."""
    form = SEARCHED[name]
    if form.mixing:
        return ()
    return theory.constants("kappa", form.name, n, f, **form.options(n, f, 2))


def proved_kappa(name: str, n: int, f: int, tags: tuple[str, ...] = theory.HELD) -> float | None:
    """The best proved constant of a form of `SEARCHED`, its mixing included."""
    form = SEARCHED[name]
    if form.mixing == "bucketing":
        return theory.behind_bucketing(form.name, n, f, s=2)
    kappa = theory.proved("kappa", form.name, n, f, tags=tags, **form.options(n, f, 2))
    return kappa if kappa is None or not form.mixing else theory.AFTER[form.mixing](kappa, n, f)


def is_exact(name: str, n: int, f: int) -> bool:
    """Whether an input is known that attains the proved kappa of a form of `SEARCHED`."""
    if SEARCHED[name].mixing:
        return name in ("nearest_neighbors + trimmed_mean", "bucketing + trimmed_mean")
    return any(c.attained is not None and c.attained(n, f) for c in constants_of(name, n, f))


def is_quick(name: str, n: int, f: int) -> bool:
    """Whether it is searched at all pairs: forms with an exact constant, except for all subsets."""
    return name != "minimum_eigenvalue" and is_exact(name, n, f)


# Steps of the search for the worst input, for rules where 2,000 would take minutes.
FEWER_STEPS = {"geometric_median": 600, "minimum_eigenvalue": 300, "covariance_filter": 300}


def under_attack(rule: Callable, n: int, f: int) -> Callable:
    """The rule under the most damaging attack of `LISTED`, selected for every draw.

    The last f rows are Byzantine. Attack and rule form one function of the updates, so the rule is
    compiled once.
    """
    listed, byzantine = [attack(n) for attack in LISTED.values()], jnp.arange(n) >= n - f

    def aggregate(updates: jax.Array) -> jax.Array:
        sent = jnp.stack([attack(updates, byzantine) for attack in listed])
        mean = jnp.ones(n - f) @ updates[: n - f] / (n - f)
        out = jax.lax.map(rule, sent)
        away = jnp.sum((out - mean) ** 2, axis=1)
        return out[jnp.argmax(jnp.where(jnp.isfinite(away), away, jnp.inf))]

    return aggregate


LISTED: dict[str, Callable[[int], Callable]] = {
    "order_statistic": lambda n: attacks.order_statistic,
    "order_statistic, rank ceil(n/2)": lambda n: partial(
        attacks.order_statistic, rank=(n + 1) // 2
    ),
    "little_is_enough(z=0.5)": lambda n: partial(attacks.little_is_enough, z=0.5),
    "little_is_enough(z=1.5)": lambda n: partial(attacks.little_is_enough, z=1.5),
    "min_max(std)": lambda n: partial(attacks.min_max, direction="std"),
    "inner_product_manipulation(0.5)": lambda n: partial(
        attacks.inner_product_manipulation, epsilon=0.5
    ),
    "reversed_gradient(100)": lambda n: partial(attacks.reversed_gradient, kappa=100.0, of="mean"),
}


def white_box(rule: Callable) -> Callable:
    """Gradient ascent through a rule from `pushed`, the listed attacks and published strengths."""

    def attack(updates: jax.Array, byzantine: jax.Array) -> jax.Array:
        listed = [attack(len(updates)) for attack in LISTED.values()]
        listed += [partial(attacks.pushed, mode=mode) for mode in ("mid", "n-f")]
        starts = (*attacks.default_starts(), *listed)
        return attacks.gradient_attack(updates, byzantine, rule=rule, starts=starts, steps=60)

    return attack
