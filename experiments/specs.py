"""Rules and attacks by name, as written on the command line: `krum`, `krum(f=4, m=3)`."""

import ast
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import byzjax
from byzjax import attacks, stacked


def multi_krum(updates: Any, *, f: int, axis_name: str | None = None) -> Any:
    """Multi-Krum with its largest selection, `krum` with m = n - f - 2."""
    m = max(1, stacked.num_workers(updates) - f - 2)
    return byzjax.krum(updates, f=f, m=m, axis_name=axis_name)


def _strongest(attack: Callable, strength: str) -> Callable:
    """An attack of the library at the strength that hurts the deployed rule most."""

    def best(
        updates: Any,
        byzantine: jax.Array,
        *,
        rule: Callable,
        low: float = 0.01,
        high: float = 100.0,
        objective: str = "distance",
    ) -> Any:
        return attacks.strongest(
            updates,
            byzantine,
            attack=attack,
            rule=rule,
            strength=strength,
            low=low,
            high=high,
            objective=objective,
        )

    best.__name__ = f"strongest_{attack.__name__}"
    return best


def no_attack(updates: Any, byzantine: jax.Array) -> Any:
    """Nobody lies, whatever `byzantine` says."""
    del byzantine
    return updates


def _honest_updates_of_flipped_labels(updates: Any, byzantine: jax.Array) -> Any:
    """The lie is in the data: the training step flips the liars' labels."""
    del byzantine
    return updates


# All rules that need nothing but what the workers sent.
RULES: dict[str, Callable] = {
    "mean": byzjax.mean,
    "median": byzjax.median,
    "trimmed_mean": byzjax.trimmed_mean,
    "krum": byzjax.krum,
    "multi_krum": multi_krum,
    "aksel": byzjax.aksel,
    "bulyan": byzjax.bulyan,
    "comparative_elimination": byzjax.comparative_elimination,
    "covariance_filter": byzjax.covariance_filter,
    "flag": byzjax.flag,
    "geometric_median": byzjax.geometric_median,
    "geometric_median_of_means": byzjax.geometric_median_of_means,
    "huber": byzjax.huber,
    "majority_sign": byzjax.majority_sign,
    "mean_around_median": byzjax.mean_around_median,
    "mean_of_finite": byzjax.mean_of_finite,
    "medoid": byzjax.medoid,
    "minimum_diameter": byzjax.minimum_diameter,
    "minimum_eigenvalue": byzjax.minimum_eigenvalue,
    "nearest_to_pivot": byzjax.nearest_to_pivot,
    "phocas": byzjax.phocas,
    "sign_guard": byzjax.sign_guard,
    "spectral_filter": byzjax.spectral_filter,
}
# All attacks without a memory that need nothing but what the workers send, and the deployed rule.
ATTACKS: dict[str, Callable] = {
    "none": no_attack,
    "sign_flip": attacks.sign_flip,
    "little_is_enough": attacks.little_is_enough,
    "inner_product_manipulation": attacks.inner_product_manipulation,
    "gaussian": attacks.gaussian,
    "non_finite": attacks.non_finite,
    "flip_labels": _honest_updates_of_flipped_labels,
    "anti_cge": attacks.anti_cge,
    "constant": attacks.constant,
    "copy_worker": attacks.copy_worker,
    "drop": attacks.drop,
    "fang_krum": attacks.fang_krum,
    "fang_trimmed_mean": attacks.fang_trimmed_mean,
    "flip_bits": attacks.flip_bits,
    "gambler": attacks.gambler,
    "gradient_attack": attacks.gradient_attack,
    "hidden_vulnerability": attacks.hidden_vulnerability,
    "lose_coordinates": attacks.lose_coordinates,
    "min_max": attacks.min_max,
    "min_sum": attacks.min_sum,
    "omniscient": attacks.omniscient,
    "reversed_gradient": attacks.reversed_gradient,
    "strongest_alie": _strongest(attacks.little_is_enough, "z"),
    "strongest_ipm": _strongest(attacks.inner_product_manipulation, "epsilon"),
    "zero": attacks.zero,
}


class Spec(NamedTuple):
    """A function of a table and its hyperparameters.

    Attributes:
      kind: `"rule"` or `"attack"`.
      name: its name in the table.
      given: what was written, `{"m": 3}`.
      hyperparameters: what it is called with: the given, and the declared f where it takes one.
    """

    kind: str
    name: str
    given: dict[str, Any]
    hyperparameters: dict[str, Any]

    @property
    def function(self) -> Callable:
        """The function itself."""
        return (RULES if self.kind == "rule" else ATTACKS)[self.name]

    def __str__(self) -> str:
        """The specification as it is written on the command line."""
        if not self.given:
            return self.name
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.given.items())})"


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """`"krum(f=4)"` as `("krum", {"f": 4})`; values are literals, nan and inf.

    Raises:
      ValueError: the text is not of this form.
    """
    expected = 'expected a name or a call with keywords, such as "krum" or "krum(f=4, m=3)"'
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            given = {str(k.arg): _literal(k.value) for k in node.keywords if k.arg is not None}
            if len(given) == len(node.keywords):
                return node.func.id, given
    except (SyntaxError, ValueError):
        pass
    raise ValueError(f"cannot read {text!r}; {expected}.")


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_literal(node.operand)
    if isinstance(node, ast.Name) and node.id in ("nan", "inf"):
        return math.nan if node.id == "nan" else math.inf
    return ast.literal_eval(node)


def parse(kind: str, text: str, *, f: int) -> Spec:
    """A rule or an attack by what was written, with the declared f where it takes one.

    Raises:
      ValueError: the name is unknown or the text cannot be read.
      TypeError: a hyperparameter is unknown or missing.
    """
    table = RULES if kind == "rule" else ATTACKS
    name, given = parse_call(text)
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(table)}.")
    hyperparameters = dict(given)
    # little_is_enough takes its strength from f or from z, never from both.
    if "f" in inspect.signature(table[name]).parameters and "z" not in given:
        hyperparameters.setdefault("f", f)
    spec = Spec(kind, name, given, hyperparameters)
    transformation(spec, byzantine=None, key=None)  # raises for a wrong hyperparameter
    return spec


def deployed(rule: Spec) -> Callable:
    """The rule as an attack is given it, `updates -> update`; of its keys a liar knows none."""
    takes_key = "key" in inspect.signature(rule.function).parameters
    key = {"key": jax.random.key(0)} if takes_key else {}
    return functools.partial(rule.function, **rule.hyperparameters, **key)


def transformation(spec: Spec, *, byzantine: Any, key: Any, rule: Callable = byzjax.mean):
    """The rule or the attack as an optax transformation; `rule` is what an attack may try."""
    parameters = inspect.signature(spec.function).parameters
    takes_key = "key" in parameters
    if takes_key and key is None:
        key = jax.random.key(0)
    kwargs: dict[str, Any] = dict(spec.hyperparameters)
    if takes_key:
        kwargs["key"] = key
    if spec.kind == "attack" and "rule" in parameters:
        kwargs.setdefault("rule", rule)
    if spec.kind == "rule":
        return byzjax.aggregate(spec.function, **kwargs)
    return byzjax.attack(spec.function, byzantine, **kwargs)


def check(spec: Spec, n: int) -> None:
    """Tries the shapes without computing anything: impossible (n, f) raises here."""

    def try_it(updates, byzantine):
        tx = transformation(spec, byzantine=byzantine, key=None)
        return tx.update(updates, tx.init(updates))[0]

    jax.eval_shape(try_it, jnp.zeros((n, 2)), jnp.zeros((n,), bool))
