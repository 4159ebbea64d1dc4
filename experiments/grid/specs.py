"""Rules, mixings and attacks by name, as on the command line: `krum`, `krum(f=4, m=3)`.

User-defined functions are named with their importable module: `my_rules:nearest(k=3)`.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import byzjax
from byzjax import stacked
from byzjax.facts import FACTS, Facts
from experiments.grid import catalogue
from experiments.grid.calls import parse_call, written
from experiments.grid.catalogue import FROM_RUN, STRENGTHS, TABLES, takes_updates
from experiments.text import names


class Spec(NamedTuple):
    """A function of a table and its hyperparameters.

    Attributes:
      kind: `"rule"`, `"mixing"` or `"attack"`.
      name: its name in the table.
      given: the hyperparameters as written, `{"m": 3}`.
      hyperparameters: those it is called with: the given, and the declared f where it takes one;
        of a backdoor, `then` is the spec of the attack on the updates.
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
    def sender(self) -> "Spec":
        """What changes the updates: the attack after a backdoor, if it has one, else the spec."""
        then = self.hyperparameters.get("then")
        return then if isinstance(then, Spec) else self

    @property
    def remembers(self) -> bool:
        """Whether it is a stateful transformation, not a function of the updates."""
        return "updates" not in parameters_of(self)

    @property
    def strengths(self) -> dict[str, float]:
        """The given hyperparameters that may be traced."""
        known = STRENGTHS.get(self.name, ()) if self.kind == "attack" else ()
        return {
            name: float(value)
            for name, value in self.given.items()
            if name in known and isinstance(value, int | float)
        }

    @property
    def family(self) -> str:
        """A text that is equal for specs that differ only in the values of their strengths."""
        return str(self._replace(given=self.given | dict.fromkeys(self.strengths, ...)))

    def with_strengths(self, values: Any) -> "Spec":
        """The spec with other strengths, in the order of `strengths`; extra values are ignored."""
        return self._replace(
            hyperparameters=self.hyperparameters | dict(zip(self.strengths, values))
        )

    def __str__(self) -> str:
        """The specification as it is written on the command line."""
        return written(self.name, self.given)


def function(kind: str, name: str) -> Callable:
    """The function of a name: an entry of the table, or of a module, `my_rules:nearest`.

    Raises:
      ValueError: there is no such name.
    """
    if ":" not in name:
        if name not in TABLES[kind]:
            raise ValueError(catalogue.unknown(kind, name))
        return TABLES[kind][name]
    module, _, attribute = name.partition(":")
    try:
        candidate = getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"unknown {kind} {name!r}: {error}.") from error
    if not takes_updates(candidate):
        raise ValueError(
            f"{name} is no {kind}: expected a function with a parameter updates, or one that is "
            "annotated to return an optax.GradientTransformation."
        )
    return candidate


def facts_of(name: str) -> Facts | None:
    """The facts of a rule; for a user-defined rule, from `FACTS` of its module."""
    if ":" not in name:
        return FACTS.get(name)
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), "FACTS", {}).get(attribute)


def read(kind: str, text: str) -> Spec:
    """A spec from untrusted results: nothing is imported, looked up or called.

    Raises:
      ValueError: the text cannot be parsed.
    """
    name, given = parse_call(text, kind)
    return Spec(kind, name, given, dict(given))


def parse(kind: str, text: str, *, f: int) -> Spec:
    """Parses a rule, a mixing or an attack; the declared f is filled in where it takes one.

    Raises:
      ValueError: the name is unknown or the text cannot be parsed.
      TypeError: a hyperparameter is unknown or missing.
    """
    name, given = parse_call(text, kind)
    hyperparameters = dict(given)
    # little_is_enough takes its strength from f or from z, never from both.
    if "f" in inspect.signature(function(kind, name)).parameters and "z" not in given:
        hyperparameters.setdefault("f", f)
    spec = Spec(kind, name, given, hyperparameters)
    reserved = [name for name in given if name in FROM_RUN]
    if reserved:
        raise TypeError(f"{name} is given {', '.join(reserved)} by the run; leave it out.")
    _check_arguments(spec)
    if kind == "attack" and name in catalogue.BACKDOORS and given.get("then") is not None:
        spec = spec._replace(hyperparameters=given | {"then": _then(name, given["then"], f)})
    if not spec.remembers:
        transformation(spec, byzantine=None, key=None)  # raises for a wrong hyperparameter
    return spec


def _then(name: str, text: Any, f: int) -> Spec:
    """The attack on the updates that follows a backdoor."""
    if isinstance(text, str) and ":" not in text:
        spec = parse("attack", text, f=f)
        if spec.name not in ("none", *catalogue.POISONS):
            return spec
    raise ValueError(
        f"{name} needs an attack of the library on updates; got then={text!r}. Write "
        "then='model_replacement'."
    )


def parameters_of(spec: Spec) -> tuple[str, ...]:
    """The parameter names of the function that changes the updates."""
    return tuple(inspect.signature(spec.sender.function).parameters)


def _check_arguments(spec: Spec) -> None:
    parameters = inspect.signature(spec.function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    data = () if spec.remembers else catalogue.needed(spec.function)
    known = [name for name in parameters if name not in FROM_RUN and name not in data]
    unknown = [name for name in spec.given if name not in known]
    if unknown:
        raise TypeError(names.no_parameter(spec.name, unknown, known))
    missing = [
        name
        for name in known
        if name not in spec.hyperparameters and parameters[name].default is parameters[name].empty
    ]
    if missing:
        text = ", ".join(f"{name}=..." for name in missing)
        raise TypeError(f"{spec.name} needs {', '.join(missing)}; write {spec.name}({text}).")


def deployed(rule: Spec, mixing: Spec | None = None) -> Callable:
    """The mixing and the rule as an attack sees them, `updates -> update`.

    Attackers do not know the server's PRNG keys. Of a stateful rule they see the first step.
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
    """A spec as an optax transformation.

    Args:
      spec: a rule, a mixing or an attack.
      byzantine: mask of the Byzantine workers, for an attack.
      key: PRNG key of randomized functions; None for `jax.random.key(0)`.
      rule: the deployed server that an attack may query, `updates -> update`.
      n: number of workers, for functions that keep state for each of them.
    """
    spec = spec.sender
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


_passed: set[tuple] = set()  # by `check`


def check(spec: Spec, n: int, mixing: Spec | None = None) -> None:
    """Traces shapes without computing anything: an invalid (n, f) raises here.

    After a mixing, a rule sees as many rows as the mixing returns. What has passed is not traced
    again: grids of many rows share their attacks.
    """
    stages = [each for each in (mixing, spec) if each is not None]
    key = (n, *((each.function, repr(sorted(each.hyperparameters.items()))) for each in stages))
    if key in _passed:
        return

    def try_it(updates: Any, byzantine: jax.Array) -> Any:
        for each in stages:
            rows = stacked.num_workers(updates)
            tx = transformation(each, byzantine=byzantine, key=None, n=rows)
            updates, _ = tx.update(updates, tx.init(updates[0]))
        return updates

    jax.eval_shape(try_it, jnp.zeros((n, 2)), jnp.zeros((n,), bool))
    _passed.add(key)
