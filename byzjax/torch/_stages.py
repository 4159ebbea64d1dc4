"""The mixings, memories and the rule of an aggregator, as optax transformations."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax import _checks, _mistakes, memory, mixing, rules
from byzjax._compiled import static_key
from byzjax._mistakes import name_of
from byzjax._signature import signature
from byzjax.facts import FACTS
from byzjax.transforms import aggregate, mix


class Stage(NamedTuple):
    """One stage of an aggregator.

    Attributes:
      name: of its function, for errors.
      transformation: its form for optax, with its state.
      key: equal for stages that compute the same.
      data: names of the data that its function takes with each call, in order; None if unknown.
      missing: those of them that have no default.
      bound: data given once, which every call takes unless it has its own.
    """

    name: str
    transformation: optax.GradientTransformationExtraArgs
    key: Any
    data: tuple[str, ...] | None = None
    missing: tuple[str, ...] = ()
    bound: tuple[tuple[str, Any], ...] = ()


def stages_of(
    rule: Any, pre: Any, f: int | None, key: Any, hyperparameters: dict[str, Any]
) -> tuple[Stage, ...]:
    """The stages: all of `pre`, then the rule."""
    if isinstance(pre, str | Mapping) or callable(pre) or _mistakes.is_transformation(pre):
        raise TypeError("Aggregator: pre must be a list of mixings; write pre=[...].")
    functions = [function_of("mixing", each) for each in pre] + [function_of("rule", rule)]
    if f is not None and not any("f" in parameters_of(function) for function in functions):
        raise TypeError(f"Aggregator: {name_of(functions[-1])} takes no f; omit it.")
    stages = []
    for place, function in enumerate(functions):
        last = place == len(functions) - 1
        own = None if key is None else jax.random.fold_in(key, place)
        stages.append(stage_of(function, last, f, own, hyperparameters if last else {}))
    if key is not None and not any("key" in parameters_of(function) for function in functions):
        raise TypeError(f"Aggregator: {name_of(functions[-1])} takes no key; omit it.")
    return tuple(stages)


def function_of(kind: str, value: Any) -> Any:
    """The function that a name stands for; functions and transformations stay."""
    if not isinstance(value, str):
        if _mistakes.is_transformation(value):
            return value
        makes = callable(value) and _mistakes.makes_transformation(value)
        wrong = None if makes else _mistakes.no_function("Aggregator", kind, value)
        if wrong is not None:
            raise wrong
        return value
    known = [
        name for name, facts in FACTS.items() if (facts.kind == "mixing") == (kind == "mixing")
    ]
    if value in known:
        home = {"rule": rules, "mixing": mixing, "memory": memory}[FACTS[value].kind]
        return getattr(home, value)
    place = _mistakes.whereabouts("byzjax", value)
    meant = (place or "").removeprefix("byzjax.")
    if meant not in FACTS:
        meant = _mistakes.nearest(value, known) or ""
    if meant in known:
        raise ValueError(f"Aggregator: there is no {kind} {value!r}; did you mean {meant!r}?")
    other = f"; {meant} is {_mistakes.article(FACTS[meant].kind)}" if meant in FACTS else ""
    example = "'aksel'" if kind == "rule" else "'nearest_neighbors'"
    raise ValueError(f"Aggregator: there is no {kind} {value!r}{other}; one is {example}.")


def parameters_of(function: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function; none for a transformation."""
    if _mistakes.is_transformation(function):
        return {}
    return inspect.signature(function).parameters


def stage_of(
    function: Any, last: bool, f: int | None, key: Any, hyperparameters: dict[str, Any]
) -> Stage:
    """One stage: a rule if it is the last one, else a mixing."""
    if _mistakes.is_transformation(function):
        return _of_transformation(function, last, hyperparameters)
    given = dict(hyperparameters)
    if isinstance(function, functools.partial) and not function.args:
        given, function = {**function.keywords, **given}, function.func
    _right_kind(function, last)
    parameters = parameters_of(function)
    if f is not None and "f" in parameters:
        given.setdefault("f", f)
    first = given.get("key")
    if "key" in parameters:
        given.pop("key", None)
        first = key if first is None else prng_key(first)
        if first is None and parameters["key"].default is inspect.Parameter.empty:
            raise TypeError(
                f"Aggregator: {name_of(function)} draws random numbers; give a seed: key=0."
            )
    if _mistakes.makes_transformation(function):
        return _of_factory(function, given, first)
    return _of_function(function, last, given, first)


def prng_key(value: Any) -> Any:
    """A PRNG key; an int is its seed."""
    if isinstance(value, int) and not isinstance(value, bool):
        return jax.random.key(value)
    _checks.prng_key("key", value)
    return value


def _of_transformation(function: Any, last: bool, hyperparameters: dict) -> Stage:
    if hyperparameters:
        raise TypeError(
            f"Aggregator: {next(iter(hyperparameters))} has no place; a transformation has its "
            "hyperparameters already."
        )
    verb = getattr(function.update, "verb", None)
    if verb in ({"mix", "attack"} if last else {"aggregate"}):
        raise TypeError(
            f"Aggregator: {verb}(...) is no {'rule' if last else 'mixing'}; "
            + ("write pre=[...]." if last else "write Aggregator(rule, ...).")
        )
    name = _mistakes.article("transformation") if verb is None else verb
    return Stage(name, optax.with_extra_args_support(function), function)


def _of_factory(function: Callable, given: dict, first: Any) -> Stage:
    keyed = given if first is None else {**given, "key": first}
    made = optax.with_extra_args_support(function(**keyed))
    # Only `init` uses the key, and the program only `update`.
    return Stage(name_of(function), made, (function, *sorted(given.items()), first is None), None)


def _of_function(function: Callable, last: bool, given: dict, first: Any) -> Stage:
    names = [*given, *(() if first is None else ("key",))]
    if not last:
        _complete(function, given)
    spec = signature("Aggregator", function, names, skip=1)
    bound = {name: given.pop(name) for name in spec.data if name in given and _is_data(given[name])}
    verb = aggregate if last else mix
    made = verb(function, **given, **({} if first is None else {"key": first}))
    data = tuple(name for name in spec.data if name not in given and name != "key")
    missing = tuple(name for name in spec.missing if name != "key")
    key = (function, *sorted(given.items()), first is None)
    return Stage(spec.name, made, key, data, missing, tuple(bound.items()))


def _is_data(value: Any) -> bool:
    return not (value is None or callable(value) or isinstance(value, int | float | str))


def _right_kind(function: Callable, last: bool) -> None:
    """Raises for a mixing as the rule, and for a rule among the mixings."""
    name = name_of(function)
    ours = (getattr(function, "__module__", None) or "").startswith("byzjax.")
    if ours and name in FACTS and (FACTS[name].kind == "mixing") == last:
        write = f"pre=[{name}]" if last else f"Aggregator({name}, ...)"
        kind = _mistakes.article("mixing" if last else FACTS[name].kind)
        raise TypeError(f"Aggregator: {name} is {kind}; write {write}.")


def _complete(function: Callable, given: dict) -> None:
    """Raises if a mixing lacks a hyperparameter, which only a partial function can give it."""
    for name, parameter in parameters_of(function).items():
        required = parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY
        if required and name not in given and name != "key":
            write = f"functools.partial({name_of(function)}, {name}=...)"
            raise TypeError(f"Aggregator: {name_of(function)} needs {name}; write pre=[{write}].")


# --- the program ----------------------------------------------------------------------------------


class Recipe:
    """The stages of an aggregator; equal ones share a program."""

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        self.stages = stages
        self.key = static_key(*(stage.key for stage in stages))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.key == other.key

    def __deepcopy__(self, memo: dict) -> "Recipe":
        return self  # nothing in it changes

    def init(self, updates: Any) -> tuple:
        """The states before the first updates."""
        if isinstance(updates, tuple):
            one = jnp.zeros_like(updates[0])
        else:
            one = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), updates)
        return tuple(stage.transformation.init(one) for stage in self.stages)


@functools.lru_cache(maxsize=64)
def program(recipe: Recipe) -> Callable:
    """The stages as one compiled function: (updates, states, data) to (update, states).

    Updates are stacked, or a tuple of rows.
    """
    stages = recipe.stages

    def aggregation(sent: Any, states: tuple, data: dict[str, Any]) -> tuple[Any, tuple]:
        sent = jnp.stack(sent) if isinstance(sent, tuple) else sent
        updates, after, data = sent, [], dict(data)
        params = data.pop("params", None)
        for stage, state in zip(stages, states):
            updates, state = stage.transformation.update(updates, state, params, **data)
            after.append(state)
        _checks.reduced(stages[-1].name, sent, updates)
        return updates, tuple(after)

    return jax.jit(aggregation)
