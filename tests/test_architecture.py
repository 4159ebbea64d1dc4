"""Arrows of the house run one way, and every public name is documented."""

import ast
import importlib
import inspect
import pkgutil
import sys
import types
from pathlib import Path

import pytest

import byzjax
from byzjax.facts import FACTS

ROOT = Path(byzjax.__file__).parent

# What the modules of each room may import of byzjax. A room that does not exist yet waits here.
ALGEBRA = [
    *["byzjax._compiled", "byzjax._kernels", "byzjax._order", "byzjax.stacked", "byzjax.scores"]
]
CHECKS = ["byzjax._checks"]
ALLOWED = {
    "byzjax._compiled": [],
    "byzjax._kernels": [],
    "byzjax.stacked": ["byzjax._compiled", "byzjax._kernels"],
    "byzjax._order": ["byzjax._kernels", "byzjax._order"],
    "byzjax._pallas": ["byzjax._kernels", "byzjax._order"],
    "byzjax.scores": ["byzjax._compiled", "byzjax._order"],
    "byzjax.facts": [],
    "byzjax._checks": ["byzjax.facts", "byzjax.stacked"],
    "byzjax._signature": [],
    "byzjax._slices": ["byzjax.stacked"],
    "byzjax._lapack": [],
    "byzjax._spectral": ["byzjax._lapack"],
    "byzjax.rules": [
        *[*ALGEBRA, *CHECKS, "byzjax._lapack", "byzjax._spectral", "byzjax._signature"],
        "byzjax.rules",
    ],
    "byzjax.influence": ["byzjax._compiled", "byzjax.stacked"],
    "byzjax.memory": [*ALGEBRA, *CHECKS, "byzjax.rules"],
    "byzjax.mixing": [*ALGEBRA, *CHECKS],
    "byzjax.attacks": [*ALGEBRA, *CHECKS, "byzjax.attacks"],
    "byzjax.transforms": [*ALGEBRA, *CHECKS, "byzjax._signature", "byzjax.rules", "byzjax.mixing"],
    "byzjax.collective": [
        *["byzjax._slices", "byzjax._signature", "byzjax.stacked"],
    ],
    "byzjax.sharded": ["byzjax._slices", "byzjax._signature", "byzjax.stacked"],
    "byzjax.protocols": [
        *[*ALGEBRA, *CHECKS, "byzjax.rules", "byzjax.mixing", "byzjax.transforms"],
        "byzjax.protocols",
    ],
    "byzjax.testing": [
        *["byzjax.facts", "byzjax.transforms", "byzjax._signature", "byzjax.testing"],
    ],
    "byzjax.theory": [
        *[*ALGEBRA, *CHECKS, "byzjax.facts", "byzjax.rules", "byzjax.influence"],
        "byzjax.theory",
    ],
}


def modules():
    yield "byzjax", ROOT / "__init__.py"
    for module in pkgutil.walk_packages([str(ROOT)], "byzjax."):
        yield module.name, Path(importlib.util.find_spec(module.name).origin)


MODULES = dict(modules())


def imports(path):
    """The full names of all that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def within(name, room):
    return name == room or name.startswith(room + ".")


def test_every_module_is_found():
    assert {"byzjax.stacked", "byzjax.rules.krum", "byzjax.attacks._rows"} <= set(MODULES)
    assert len(MODULES) == len(list(ROOT.rglob("*.py")))


@pytest.mark.parametrize("module", MODULES)
def test_arrows(module):
    if module == "byzjax":
        return  # the face re-exports everything
    (room,) = [room for room in ALLOWED if within(module, room)]
    for name in imports(MODULES[module]):
        if within(name, "byzjax"):
            assert any(within(name, allowed) for allowed in ALLOWED[room]), (
                f"{module} imports {name}; {room} may import {', '.join(ALLOWED[room])}"
            )


@pytest.mark.parametrize("module", MODULES)
def test_only_jax_optax_and_the_standard_library(module):
    allowed = {"byzjax", "jax", "optax"} | (
        {"numpy"} if within(module, "byzjax.testing") else set()
    )
    for name in imports(MODULES[module]):
        top = name.partition(".")[0]
        assert top in allowed or top in sys.stdlib_module_names, name


def test_the_face_has_no_logic():
    tree = ast.parse(MODULES["byzjax"].read_text())
    docstring, *rest = tree.body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom | ast.Assign) for node in rest)
    assert sorted(byzjax.__all__) == byzjax.__all__
    public = {name for name in vars(byzjax) if not name.startswith("_")}
    # Submodules become attributes when they are imported; what is listed is the face.
    assert {n for n in public if not isinstance(getattr(byzjax, n), types.ModuleType)} <= set(
        byzjax.__all__
    )


def public_functions():
    """What can be reached without an underscore, and is ours."""
    for module_name in MODULES:
        if any(part.startswith("_") for part in module_name.split(".")):
            continue
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            ours = getattr(value, "__module__", None) == module_name
            if inspect.isfunction(value) and ours and not name.startswith("_"):
                yield f"{module_name}.{name}", value


FUNCTIONS = dict(public_functions())


def test_the_public_functions_are_found():
    assert {"byzjax.rules.krum.krum", "byzjax.stacked.mean_of"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented(name):
    function = FUNCTIONS[name]
    text = inspect.getdoc(function)
    assert text, f"{name} has no docstring"
    sections = ["Args:"] if inspect.signature(function).parameters else []
    for section in (*sections, "Returns:", "Example:"):
        assert f"\n{section}\n" in text, f"{name}: no section {section}"
    described = text.partition("\nArgs:\n")[2].partition("\nReturns:\n")[0]
    for parameter in inspect.signature(function).parameters.values():
        prefix = {parameter.VAR_KEYWORD: "**", parameter.VAR_POSITIONAL: "*"}.get(
            parameter.kind, ""
        )
        assert f"  {prefix}{parameter.name}:" in described, f"{name}: {parameter.name} is missing"
    raised = {"ValueError", "TypeError"} if within(name, "byzjax.rules") else set()
    if "f" in inspect.signature(function).parameters and raised:
        assert all(error in text.partition("\nRaises:\n")[2] for error in raised)


@pytest.mark.parametrize("name", FACTS)
def test_what_is_known_of_a_rule_is_said_where_it_stands(name):
    facts, text = FACTS[name], inspect.getdoc(getattr(byzjax, name))
    said = ["\n$$ ", "Requirement:", "Cost:", "Reference:" if facts.reference else ""]
    said += [] if facts.kind == "mixing" else ["Breakdown:", "Promise:"]
    assert [words for words in said if words not in text] == []
