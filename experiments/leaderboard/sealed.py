"""Rules of others as programs of their updates: traced before any worker is Byzantine.

The source is read first: it may import nothing from which the mask of a run could be taken. Then
the rule is traced, and from there on its Python code is never run again: in training the
program stands in its place, on workers in another order.
"""

import ast
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun, jaxprs_in_params

from experiments.grid import calls, specs
from experiments.grid.config import Config

MODULES = (
    *("byzjax", "jax", "numpy", "optax", "functools", "itertools", "math", "typing"),
    *("collections", "dataclasses", "__future__"),
)
# Names that lead out of a function of its arguments, or into Python code that runs later.
NAMES = frozenset(
    {
        *("eval", "exec", "compile", "getattr", "setattr", "delattr", "globals", "locals", "vars"),
        *("open", "input", "breakpoint", "sys", "os", "io", "gc", "inspect", "builtins", "modules"),
        *("ctypes", "ctypeslib", "importlib", "load", "save", "fromfile", "tofile", "memmap"),
        *("loadtxt", "genfromtxt", "custom_jvp", "custom_vjp", "custom_batching", "defjvp"),
        *("experimental", "format", "format_map"),
    }
)
# Parameters that a run gives to a rule.
GIVEN = ("updates", "f", "key", "axis_name")


def scan(source: str, file: str) -> None:
    """Checks the source of a module, without running it.

    Raises:
      ValueError: it does what a function of the updates needs not do; the line is named.
    """

    def refuse(node: ast.AST, what: str) -> ValueError:
        return ValueError(f"{file}, line {getattr(node, 'lineno', 0)}: {what}.")

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            whole = [alias.name for alias in node.names]
            roots = whole if isinstance(node, ast.Import) else [node.module or ""]
            words = [word for name in (*whole, *roots) for word in name.split(".")]
            if getattr(node, "level", 0) or {r.split(".")[0] for r in roots} - {*MODULES}:
                known = ", ".join(MODULES[:-1])
                raise refuse(node, f"imports {', '.join(roots)}; expected only {known}")
            names = [word for word in words if word not in MODULES]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
            if not isinstance(node.ctx, ast.Load):
                raise refuse(node, f"assigns to the attribute {node.attr}")
        elif isinstance(node, ast.Name):
            names = [node.id] if node.id.startswith("__") or node.id in NAMES else []
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            names = []
            if isinstance(node.value, ast.Attribute):
                raise refuse(node, f"assigns into the attribute {node.value.attr}")
        else:
            names = []
        for name in names:
            if name in NAMES or name.startswith("_"):
                raise refuse(node, f"uses {name}, which a function of the updates needs not")


def check_signature(function: Callable, name: str) -> None:
    """Checks that a rule is a function of the updates and of settings.

    Raises:
      ValueError: it takes other data, or has a memory.
    """
    parameters = inspect.signature(function).parameters
    if "updates" not in parameters:
        raise ValueError(f"{name} has a memory; expected a function of updates.")
    for parameter in parameters.values():
        keyword = parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "byzantine"
        if parameter.name not in GIVEN and not keyword:
            raise ValueError(
                f"{name} takes {parameter.name}; expected {', '.join(GIVEN)} and settings as "
                "keywords."
            )


def shapes(grids: Sequence[Config], params: Callable[[Config], Any]) -> Iterator[tuple[int, Any]]:
    """What a rule gets in these grids: f and a tree of shapes `[rows, ...]`.

    Args:
      grids: the grids.
      params: the shapes of the parameters of a grid's model.
    """
    for grid in grids:
        (text,) = grid.mixing
        mixing = specs.parse("mixing", text, f=grid.f)

        def mixed(updates: Any, mixing: specs.Spec = mixing) -> Any:
            n = jax.tree.leaves(updates)[0].shape[0]
            tx = specs.transformation(mixing, byzantine=None, key=None, n=n)
            like = jax.tree.map(lambda leaf: leaf[0], updates)
            return tx.update(updates, tx.init(like))[0]

        for tree in (params(grid), jax.ShapeDtypeStruct((2,), jnp.float32)):
            rows = jax.tree.map(
                lambda leaf, n=grid.n: jax.ShapeDtypeStruct((n, *leaf.shape), leaf.dtype), tree
            )
            yield grid.f, jax.eval_shape(mixed, rows)


def seal(
    function: Callable, stacked: Iterable[tuple[int, Any]], settings: dict[str, Any], seed: int
) -> Callable:
    """The rule as programs, one for each f and shape, on rows in an order drawn by the seed.

    Args:
      function: the rule.
      stacked: those of `shapes`.
      settings: its hyperparameters, without f.
      seed: of the order of the workers.

    Raises:
      ValueError: the rule calls back into Python, or its result has another form.
    """
    parameters = inspect.signature(function).parameters
    programs: dict[tuple, Callable] = {}
    for f, tree in stacked:
        given = settings | ({"f": f} if "f" in parameters else {})
        if _key(tree, given) not in programs:
            programs[_key(tree, given)] = _traced(function, tree, given, "key" in parameters)

    def rule(updates: Any, **given: Any) -> Any:
        keys = [given.pop("key")] if "key" in given else []
        leaves, structure = jax.tree.flatten(updates)
        if _key(updates, given) not in programs:
            shown = ", ".join(str(leaf.shape) for leaf in leaves)
            raise ValueError(f"the rule was not traced with {given} at shapes {shown}.")
        places = np.random.default_rng(seed).permutation(leaves[0].shape[0])
        out = programs[_key(updates, given)](*(leaf[places] for leaf in leaves), *keys)
        return jax.tree.unflatten(structure, out)

    rule.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return rule


def _key(updates: Any, given: dict[str, Any]) -> tuple:
    leaves, structure = jax.tree.flatten(updates)
    forms = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
    return structure, forms, tuple(sorted(given.items()))


def _traced(function: Callable, tree: Any, given: dict[str, Any], draws: bool) -> Callable:
    """The program of a rule, on the leaves of the updates."""
    leaves, structure = jax.tree.flatten(tree)
    row = jax.tree.map(lambda leaf: leaf.shape[1:], tree)

    def call(*arguments: Any) -> list[Any]:
        updates = jax.tree.unflatten(structure, arguments[: len(leaves)])
        more = {"key": arguments[-1]} if draws else {}
        out = function(updates, **given, **more)
        if jax.tree.map(jnp.shape, out) != row:
            raise ValueError("a rule must return one update, of the shapes of one row.")
        return jax.tree.leaves(out)

    keys = [jax.eval_shape(lambda: jax.random.key(0))] if draws else []
    closed = jax.make_jaxpr(call)(*leaves, *keys)
    for name in _primitives(closed.jaxpr):
        if "callback" in name or name in ("ffi_call", "infeed", "outfeed"):
            raise ValueError(f"the rule calls back into Python or the host, by {name}.")
    return jaxpr_as_fun(closed)


def _primitives(jaxpr: Any) -> Iterator[str]:
    """The names of all primitives of a program, inner ones included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jaxprs_in_params(equation.params):
            yield from _primitives(inner)


def install(name: str, grids: Sequence[Config], params: Callable[[Config], Any], seed: int) -> None:
    """Puts the sealed rule in the place of its module, for all that runs afterwards.

    Args:
      name: the rule, `my_rules:nearest`.
      grids: those that will be trained.
      params: the shapes of the parameters of a grid's model.
      seed: of the order of the workers.

    Raises:
      ValueError: the rule is not a function of the updates alone.
    """
    spec = specs.parse("rule", name, f=grids[0].f)
    check_signature(spec.function, spec.name)
    sealed = seal(spec.function, shapes(grids, params), spec.given, seed)
    module, _, attribute = spec.name.partition(":")
    facts = getattr(importlib.import_module(module), "FACTS", {})
    stand_in = types.ModuleType(module)
    vars(stand_in).update({attribute: sealed, "FACTS": dict(facts)})
    sys.modules[module] = stand_in


def scan_module(name: str) -> None:
    """Checks the source of the module of a rule, `my_rules:nearest`, without importing it.

    Raises:
      ValueError: the module is missing, or its source is refused.
    """
    module = calls.parse_call(name)[0].partition(":")[0]
    source = calls.source(module)
    if source is None:
        raise ValueError(f"{module}.py is missing; expected it next to the submission.")
    scan(source, f"{module}.py")
