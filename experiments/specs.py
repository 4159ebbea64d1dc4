"""Rules, mixings and attacks by name, as on the command line: `krum`, `krum(f=4, m=3)`.

Functions of one's own are named with their module, as Python finds it: `my_rules:nearest(k=3)`.
"""

import ast
import functools
import hashlib
import importlib
import inspect
import math
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import byzjax
from byzjax import attacks, stacked
from byzjax.facts import FACTS, Facts


def multi_krum(updates: Any, *, f: int, axis_name: str | None = None) -> Any:
    """Multi-Krum with its largest selection, `krum` with m = n - f - 2."""
    m = max(1, stacked.num_workers(updates) - f - 2)
    return byzjax.krum(updates, f=f, m=m, axis_name=axis_name)


def _strongest(attack: Callable, strength: str, short: str) -> Callable:
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

    best.__name__ = f"strongest_{short}"
    best.__doc__ = f"`{attack.__name__}` at the strength that hurts the deployed server most."
    return best


def no_attack(updates: Any, byzantine: jax.Array) -> Any:
    """Nobody lies, whatever `byzantine` says."""
    del byzantine
    return updates


def _honest_updates_of_flipped_labels(updates: Any, byzantine: jax.Array) -> Any:
    """The lie is in the data: the training step flips the liars' labels."""
    del byzantine
    return updates


def alternating(
    updates: Any,
    byzantine: jax.Array,
    step: jax.Array,
    *,
    f: int,
    every: int = 1,
    epsilon: float = 0.5,
) -> Any:
    """`little_is_enough` and `inner_product_manipulation` in turns."""
    both = attacks.alternating(
        functools.partial(attacks.little_is_enough, f=f),
        functools.partial(attacks.inner_product_manipulation, epsilon=epsilon),
        every=every,
    )
    return both(updates, byzantine, step)


# Rules that remember: transformations.
REMEMBERING: dict[str, Callable] = {
    "centered_clipping": byzjax.centered_clipping,
    "concentration_filter": byzjax.concentration_filter,
    "foolsgold": byzjax.foolsgold,
    "safeguard": byzjax.safeguard,
}
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
    **REMEMBERING,
}


def no_mixing(updates: Any) -> Any:
    """Nothing between the workers and the rule."""
    return updates


MIXINGS: dict[str, Callable] = {
    "none": no_mixing,
    "nearest_neighbors": byzjax.nearest_neighbors,
    "bucketing": byzjax.bucketing,
    "clip_norms": byzjax.clip_norms,
    "adaptive_clipping": byzjax.adaptive_clipping,
}
# All attacks that need nothing but what the workers send, and the deployed rule; those that
# remember are transformations.
ATTACKS: dict[str, Callable] = {
    "none": no_attack,
    "sign_flip": attacks.sign_flip,
    "little_is_enough": attacks.little_is_enough,
    "inner_product_manipulation": attacks.inner_product_manipulation,
    "gaussian": attacks.gaussian,
    "non_finite": attacks.non_finite,
    "flip_labels": _honest_updates_of_flipped_labels,
    "alternating": alternating,
    "anti_cge": attacks.anti_cge,
    "constant": attacks.constant,
    "dissensus": attacks.dissensus,
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
    "mimic": attacks.mimic,
    "omniscient": attacks.omniscient,
    "order_statistic": attacks.order_statistic,
    "reversed_gradient": attacks.reversed_gradient,
    "stale": attacks.stale,
    "strongest_alie": _strongest(attacks.little_is_enough, "z", "alie"),
    "strongest_ipm": _strongest(attacks.inner_product_manipulation, "epsilon", "ipm"),
    "zero": attacks.zero,
}


# Hyperparameters that are known only when a step runs: attacks that differ in nothing else are one
# branch of a compiled program.
STRENGTHS: dict[str, tuple[str, ...]] = {
    "alternating": ("epsilon",),
    "anti_cge": ("margin",),
    "constant": ("value",),
    "dissensus": ("epsilon",),
    "drop": ("probability", "value"),
    "fang_trimmed_mean": ("factor",),
    "gambler": ("factor", "probability"),
    "gaussian": ("sigma",),
    "hidden_vulnerability": ("gamma",),
    "inner_product_manipulation": ("epsilon",),
    "little_is_enough": ("z",),
    "lose_coordinates": ("share", "value"),
    "omniscient": ("factor",),
    "reversed_gradient": ("kappa",),
}
MOST_STRENGTHS = max(map(len, STRENGTHS.values()))

TABLES: dict[str, dict[str, Callable]] = {"rule": RULES, "mixing": MIXINGS, "attack": ATTACKS}


class Spec(NamedTuple):
    """A function of a table and its hyperparameters.

    Attributes:
      kind: `"rule"`, `"mixing"` or `"attack"`.
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
        return function(self.kind, self.name)

    @property
    def remembers(self) -> bool:
        """Whether it is a transformation with a memory, not a function of the updates."""
        return "updates" not in inspect.signature(self.function).parameters

    @property
    def strengths(self) -> dict[str, float]:
        """What was written of the hyperparameters that may be traced."""
        known = STRENGTHS.get(self.name, ()) if self.kind == "attack" else ()
        return {
            name: float(value)
            for name, value in self.given.items()
            if name in known and isinstance(value, int | float)
        }

    @property
    def family(self) -> str:
        """The same text for all that differ in nothing but the values of their strengths."""
        return str(self._replace(given=self.given | dict.fromkeys(self.strengths, ...)))

    def with_strengths(self, values: Any) -> "Spec":
        """The same with other strengths, in the order of `strengths`; what is too many is left."""
        return self._replace(
            hyperparameters=self.hyperparameters | dict(zip(self.strengths, values))
        )

    def __str__(self) -> str:
        """The specification as it is written on the command line."""
        if not self.given:
            return self.name
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.given.items())})"


def function(kind: str, name: str) -> Callable:
    """What a name stands for: an entry of the table, or of a module, `my_rules:nearest`.

    Raises:
      ValueError: there is no such name.
    """
    if ":" not in name:
        if name not in TABLES[kind]:
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(TABLES[kind])}.")
        return TABLES[kind][name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"unknown {kind} {name!r}: {error}.") from error
    if not _takes_updates(found):
        raise ValueError(
            f"{name} is no {kind}: expected a function with a parameter updates, or one that is "
            "annotated to return an optax.GradientTransformation."
        )
    return found


def _takes_updates(found: Any) -> bool:
    """Whether it may be called at all: what is named on a command line need not be a rule."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # nothing to call, or a built-in function
        return False
    made = inspect.get_annotations(found, eval_str=False).get("return")
    made = made if isinstance(made, str) else getattr(made, "__name__", "")
    return "updates" in signature.parameters or "GradientTransformation" in made


def facts_of(name: str) -> Facts | None:
    """What is known of a rule: those of one's own in the `FACTS` of their module."""
    if ":" not in name:
        return FACTS.get(name)
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), "FACTS", {}).get(attribute)


def code(texts: Iterable[str]) -> str:
    """The files that functions of one's own come from, by hash: who changes one gets new results.

    Files are read and not imported, so that results can be looked at without running anything. What
    such a file imports is not looked at; `?` stands for one that is not here.
    """
    names = {parse_call(text)[0].partition(":")[0] for text in texts if ":" in parse_call(text)[0]}
    found = []
    for name in sorted(names):
        source = _source(name)
        digest = "?" if source is None else hashlib.sha256(source.encode()).hexdigest()[:12]
        found.append(f"{name}={digest}")
    return " ".join(found)


def _source(module: str) -> str | None:
    """The text of a module's file, found as an import would find it."""
    parts = pathlib.PurePath(*module.split("."))
    for folder in sys.path:
        for path in (parts.with_suffix(".py"), parts / "__init__.py"):
            file = pathlib.Path(folder or ".", path)
            if file.is_file():
                return file.read_text()
    return None


LONGEST = 2000  # characters of one specification


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """`"krum(f=4)"` as `("krum", {"f": 4})`; values are literals, nan and inf.

    Raises:
      ValueError: the text is not of this form.
    """
    expected = 'expected a name or a call with keywords, such as "krum" or "krum(f=4, m=3)"'
    if len(text) > LONGEST:
        raise ValueError(f"cannot read {text[:40]!r}... of {len(text)} characters; {expected}.")
    name, bracket, rest = text.strip().partition("(")
    module, colon, name = name.rpartition(":")
    try:
        node = ast.parse(name + bracket + rest, mode="eval").body
        if colon and not all(part.isidentifier() for part in module.split(".")):
            raise SyntaxError(module)
        if isinstance(node, ast.Name):
            return module + colon + node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            given = {str(k.arg): _literal(k.value) for k in node.keywords if k.arg is not None}
            if len(given) == len(node.keywords):
                return module + colon + node.func.id, given
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    raise ValueError(f"cannot read {text!r}; {expected}.")


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_literal(node.operand)
    if isinstance(node, ast.Name) and node.id in ("nan", "inf"):
        return math.nan if node.id == "nan" else math.inf
    return ast.literal_eval(node)


def read(kind: str, text: str) -> Spec:
    """What was written, of results that may be anybody's: nothing is imported, looked up or called.

    Raises:
      ValueError: the text cannot be read.
    """
    name, given = parse_call(text)
    return Spec(kind, name, given, dict(given))


def parse(kind: str, text: str, *, f: int) -> Spec:
    """A rule, a mixing or an attack by what was written, with the declared f where it takes one.

    Raises:
      ValueError: the name is unknown or the text cannot be read.
      TypeError: a hyperparameter is unknown or missing.
    """
    name, given = parse_call(text)
    hyperparameters = dict(given)
    # little_is_enough takes its strength from f or from z, never from both.
    if "f" in inspect.signature(function(kind, name)).parameters and "z" not in given:
        hyperparameters.setdefault("f", f)
    spec = Spec(kind, name, given, hyperparameters)
    reserved = [name for name in given if name in _FROM_RUN]
    if reserved:
        raise TypeError(f"{name} is given {', '.join(reserved)} by the run; leave it out.")
    if spec.remembers:
        _check_arguments(spec)
    else:
        transformation(spec, byzantine=None, key=None)  # raises for a wrong hyperparameter
    return spec


def parameters_of(spec: Spec) -> tuple[str, ...]:
    """The names that its function takes."""
    return tuple(inspect.signature(spec.function).parameters)


# What functions are given by the run; all else is a hyperparameter.
_FROM_RUN = ("byzantine", "num_workers", "key", "axis_name", "rule", "updates", "step")


def _check_arguments(spec: Spec) -> None:
    parameters = inspect.signature(spec.function).parameters
    known = [name for name in parameters if name not in _FROM_RUN]
    unknown = [name for name in spec.given if name not in known]
    if unknown:
        raise TypeError(
            f"{spec.name} has no parameter {', '.join(unknown)}; it takes {', '.join(known)}."
        )
    missing = [
        name
        for name in known
        if name not in spec.given and parameters[name].default is inspect.Parameter.empty
    ]
    if missing:
        text = ", ".join(f"{name}=..." for name in missing)
        raise TypeError(f"{spec.name} needs {', '.join(missing)}; write {spec.name}({text}).")


def deployed(rule: Spec, mixing: Spec | None = None) -> Callable:
    """The mixing and the rule as an attack is given them, `updates -> update`.

    Of their keys a liar knows none. Of a rule that remembers it knows the first step.
    """
    stages = [spec for spec in (mixing, rule) if spec is not None]

    def server(updates: Any) -> Any:
        for spec in stages:
            n = stacked.num_workers(updates)
            tx = transformation(spec, byzantine=None, key=jax.random.key(0), n=n)
            like = jax.tree.map(lambda leaf: leaf[0], updates)
            updates, _ = tx.update(updates, tx.init(like))
        return updates

    return server


def transformation(
    spec: Spec, *, byzantine: Any, key: Any, rule: Callable = byzjax.mean, n: int | None = None
):
    """What was specified as an optax transformation.

    Args:
      spec: a rule, a mixing or an attack.
      byzantine: who lies, for an attack.
      key: where numbers are drawn; `jax.random.key(0)` where it is None.
      rule: what an attack may try, `updates -> update`.
      n: number of workers, for what remembers each of them.
    """
    parameters = parameters_of(spec)
    key = jax.random.key(0) if key is None else key
    kwargs: dict[str, Any] = dict(spec.hyperparameters)
    if "key" in parameters:
        kwargs["key"] = key
    if spec.kind == "attack" and "rule" in parameters:
        kwargs.setdefault("rule", rule)
    if spec.remembers:
        run = {"byzantine": byzantine, "num_workers": n}
        return spec.function(
            *[value for name, value in run.items() if name in parameters], **kwargs
        )
    verbs = {"rule": byzjax.aggregate, "mixing": byzjax.mix}
    if spec.kind in verbs:
        return verbs[spec.kind](spec.function, **kwargs)
    return byzjax.attack(spec.function, byzantine, **kwargs)


def check(spec: Spec, n: int, mixing: Spec | None = None) -> None:
    """Tries the shapes without computing anything: impossible (n, f) raises here.

    Behind a mixing a rule sees as many rows as that leaves.
    """

    def try_it(updates: Any, byzantine: jax.Array) -> Any:
        for each in (mixing, spec):
            if each is not None:
                rows = stacked.num_workers(updates)
                tx = transformation(each, byzantine=byzantine, key=None, n=rows)
                updates, _ = tx.update(updates, tx.init(updates[0]))
        return updates

    jax.eval_shape(try_it, jnp.zeros((n, 2)), jnp.zeros((n,), bool))
