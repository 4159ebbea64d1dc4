"""Imports point one way, and every public name is documented."""

import ast
import importlib
import inspect
import pkgutil
import sys
import types
from pathlib import Path

import pytest

import byzjax
from byzjax._numerics import thresholds
from byzjax.facts import FACTS

ROOT = Path(byzjax.__file__).parent
# Modules that only re-export names of others.
FACES = {"byzjax", "experiments"} | {
    f"byzjax.{name}"
    for name in (
        *("stacked", "rules", "attacks", "protocols", "theory", "testing"),
        *("torch", "flower", "compress", "privacy"),
    )
}

# What each package's modules may import from byzjax.
MISTAKES = ["byzjax._mistakes"]
ALGEBRA = [
    *["byzjax._compiled", "byzjax._numerics", "byzjax.stacked", "byzjax.scores"],
    *MISTAKES,
]
CHECKS = ["byzjax._checks"]
ALLOWED = {
    "byzjax._mistakes": MISTAKES,
    "byzjax._program": MISTAKES,
    "byzjax._compiled": MISTAKES,
    "byzjax._deprecated": MISTAKES,
    "byzjax._numerics": ["byzjax._numerics", "byzjax._program"],
    "byzjax.order": [
        "byzjax._checks",
        "byzjax._compiled",
        "byzjax._deprecated",
        "byzjax._numerics",
    ],
    "byzjax.stacked": [
        "byzjax._compiled",
        "byzjax._deprecated",
        "byzjax._numerics",
        "byzjax.stacked",
        *MISTAKES,
    ],
    "byzjax.scores": [
        "byzjax._checks",
        "byzjax._compiled",
        "byzjax._deprecated",
        "byzjax._numerics",
    ],
    "byzjax.weights": ["byzjax._checks", "byzjax._compiled"],
    "byzjax.facts": ["byzjax._program"],
    "byzjax._checks": ["byzjax.facts", "byzjax.stacked", *MISTAKES],
    "byzjax._senders": ["byzjax.stacked"],
    "byzjax._signature": MISTAKES,
    "byzjax._slices": ["byzjax._numerics", "byzjax.stacked"],
    "byzjax.solvers": ["byzjax._numerics", "byzjax.stacked", "byzjax.solvers"],
    "byzjax.rules": [
        *["byzjax._deprecated", *ALGEBRA, *CHECKS, "byzjax._signature", "byzjax.solvers"],
        "byzjax.rules",
    ],
    "byzjax.influence": [
        "byzjax._checks",
        "byzjax._compiled",
        "byzjax._signature",
        "byzjax.stacked",
    ],
    "byzjax.sampling": CHECKS,
    "byzjax.memory": [*ALGEBRA, *CHECKS, "byzjax._senders", "byzjax.rules", "byzjax.memory"],
    "byzjax.mixing": [*ALGEBRA, *CHECKS],
    "byzjax.attacks": [
        *["byzjax._deprecated", *ALGEBRA, *CHECKS, "byzjax._program"],
        "byzjax.attacks",
    ],
    "byzjax.transforms": [
        *[*ALGEBRA, *CHECKS, "byzjax._senders", "byzjax._signature", "byzjax.rules"],
        "byzjax.mixing",
    ],
    "byzjax.iterates": [*ALGEBRA, *CHECKS],
    "byzjax.compress": [*ALGEBRA, *CHECKS, "byzjax.transforms", "byzjax.compress"],
    "byzjax.privacy": [
        *["byzjax._checks", "byzjax._compiled", "byzjax.rules", "byzjax.stacked"],
        *["byzjax.privacy", *MISTAKES],
    ],
    "byzjax.collective": [
        *["byzjax._slices", "byzjax._signature", "byzjax.stacked", "byzjax._compiled"],
        *MISTAKES,
    ],
    "byzjax.sharded": [
        *["byzjax._slices", "byzjax._signature", "byzjax.stacked", "byzjax._compiled"],
        *MISTAKES,
    ],
    "byzjax.protocols": [
        *[
            "byzjax._deprecated",
            *ALGEBRA,
            *CHECKS,
            "byzjax.rules",
            "byzjax.mixing",
            "byzjax.transforms",
            "byzjax.compress",
        ],
        "byzjax.protocols",
    ],
    "byzjax.torch": [
        *["byzjax._checks", "byzjax._compiled", "byzjax._numerics", "byzjax._signature"],
        *["byzjax.facts", "byzjax.memory", "byzjax.mixing", "byzjax.rules", "byzjax.transforms"],
        *["byzjax.torch", *MISTAKES],
    ],
    "byzjax.flower": [
        *["byzjax._signature", "byzjax.stacked", "byzjax.transforms", *CHECKS, *MISTAKES],
        "byzjax.flower",
    ],
    "byzjax.testing": [
        *["byzjax.facts", "byzjax.transforms", "byzjax._signature", "byzjax.testing"],
        *["byzjax._compiled", *MISTAKES],
    ],
    "byzjax.theory": [
        *[*ALGEBRA, *CHECKS, "byzjax.facts", "byzjax.rules", "byzjax.influence"],
        *["byzjax._deprecated", "byzjax._program"],
        "byzjax.theory",
    ],
}


def modules():
    yield "byzjax", ROOT / "__init__.py"
    for module in pkgutil.walk_packages([str(ROOT)], "byzjax."):
        yield module.name, Path(importlib.util.find_spec(module.name).origin)


MODULES = dict(modules())


def imports(path):
    """The full names of everything that a module imports, at any level."""
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


def test_every_module_is_listed():
    assert {"byzjax.stacked.layout", "byzjax.rules.krum", "byzjax.attacks._rows"} <= set(MODULES)
    assert len(MODULES) == len(list(ROOT.rglob("*.py")))


@pytest.mark.parametrize("module", MODULES)
def test_arrows(module):
    if module == "byzjax":
        return  # the top level re-exports everything
    (room,) = [room for room in ALLOWED if within(module, room)]
    for name in imports(MODULES[module]):
        if within(name, "byzjax"):
            assert any(within(name, allowed) for allowed in ALLOWED[room]), (
                f"{module} imports {name}; {room} may import {', '.join(ALLOWED[room])}"
            )


def names_in(path):
    """Names and attributes that a module uses."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr


@pytest.mark.parametrize("module", MODULES)
def test_platforms_are_distinguished_in_one_package(module):
    if not within(module, "byzjax._numerics"):
        assert not {"platform_dependent", "default_backend"} & set(names_in(MODULES[module]))


THRESHOLDS = {name for name in vars(thresholds) if name.isupper()}


@pytest.mark.parametrize("module", MODULES)
def test_thresholds_are_in_one_module(module):
    """A size from which another form is faster is defined there and nowhere else."""
    if module != "byzjax._numerics.thresholds":
        body = ast.parse(MODULES[module].read_text()).body
        written = {
            target.id
            for node in body
            if isinstance(node, ast.Assign)
            for target in ast.walk(node)
            if isinstance(target, ast.Name)
        }
        assert not THRESHOLDS & written


def arrows(packages):
    """For each module of these packages, the full names of its imports."""
    paths = {}
    for package in packages:
        root = ROOT.parent / package
        for path in root.rglob("*.py"):
            parts = path.relative_to(root.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            paths[name] = path
    return {
        name: {
            target
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
            for target in (f"{node.module}.{alias.name}", node.module)
            if target in paths and target != name
        }
        for name, path in paths.items()
    }


# The laboratory's packages by layer: each imports from lower layers and from itself.
FLOORS = (
    ("text",),
    ("grid", "data", "models"),
    ("training", "studies"),
    ("execution", "report"),
    ("analysis", "bridges"),
    ("leaderboard",),
    ("cli",),
)


def test_layers_of_the_laboratory():
    floors = {package: i for i, packages in enumerate(FLOORS) for package in packages}
    for name, others in arrows(("experiments",)).items():
        _, package, *_ = (*name.split("."), "")
        if package in ("", "__main__"):
            continue
        for other in others - {"experiments"}:
            theirs = other.split(".")[1]
            assert theirs == package or floors[theirs] < floors[package], f"{name}: {other}"


def test_no_import_cycle():
    """Each module can be read before those that import it, apart from packages' `__init__`."""
    waiting = {
        name: {other for other in others if other not in FACES}
        for name, others in arrows(("byzjax", "experiments")).items()
        if name not in FACES
    }
    while waiting:
        ready = {name for name, others in waiting.items() if not others & waiting.keys()}
        assert ready, f"a cycle among {sorted(waiting)}"
        for name in ready:
            del waiting[name]


@pytest.mark.parametrize("module", MODULES)
def test_only_jax_optax_and_the_standard_library(module):
    allowed = {"byzjax", "jax", "optax"}
    allowed |= {"numpy"} if within(module, "byzjax.testing") else set()
    allowed |= {"torch"} if within(module, "byzjax.torch") else set()
    allowed |= {"numpy", "flwr"} if within(module, "byzjax.flower") else set()
    allowed |= {"dp_accounting"} if within(module, "byzjax.privacy") else set()
    for name in imports(MODULES[module]):
        top = name.partition(".")[0]
        assert top in allowed or top in sys.stdlib_module_names, name


def test_the_top_level_has_no_logic():
    tree = ast.parse(MODULES["byzjax"].read_text())
    docstring, *rest = tree.body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom | ast.Assign | ast.AugAssign) for node in rest)
    assert len(set(byzjax.__all__)) == len(byzjax.__all__)
    public = {name for name in vars(byzjax) if not name.startswith("_")}
    # Submodules become attributes when imported; only listed names are public.
    assert {n for n in public if not isinstance(getattr(byzjax, n), types.ModuleType)} <= set(
        byzjax.__all__
    )


def public_functions():
    """Functions of byzjax that are reachable without an underscore."""
    for module_name in MODULES:
        if any(part.startswith("_") for part in module_name.split(".")):
            continue
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            ours = getattr(value, "__module__", None) == module_name
            if inspect.isfunction(value) and ours and not name.startswith("_"):
                yield f"{module_name}.{name}", value


FUNCTIONS = dict(public_functions())


def test_the_public_functions_are_listed():
    assert {"byzjax.rules.krum.krum", "byzjax.stacked.combinations.mean_selected"} <= set(FUNCTIONS)


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


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (byzjax, "of_each_row", "per_row_inputs"),
        (byzjax.stacked, "mean_of", "mean_selected"),
        (byzjax.protocols, "spread", "diameter"),
    ],
)
def test_old_names_warn(module, old, new):
    with pytest.warns(DeprecationWarning, match=rf"\.{old} is now .*\.{new}; the old name is"):
        assert getattr(module, old) is getattr(module, new)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    assert old not in module.__all__


@pytest.mark.parametrize("name", FACTS)
def test_facts_of_a_rule_are_stated_with_it(name):
    facts, text = FACTS[name], inspect.getdoc(getattr(byzjax, name))
    said = ["\n$$ ", "Requirement:", "Cost:", "Reference:" if facts.reference else ""]
    said += [] if facts.kind == "mixing" else ["Breakdown:", "Promise:"]
    assert [words for words in said if words not in text] == []
