"""Prints docs/attacks.md, from the docstrings; with `names`, the README's list of attacks."""

import importlib
import inspect
import re
from collections.abc import Callable
from types import ModuleType

from byzjax import attacks
from byzjax._program import prints

SECTIONS = {
    "From honest statistics": "statistical",
    "On few coordinates": "sparse",
    "Bounded by honest distances": "bounded",
    "Against one rule": "targeted",
    "Against rules around the median": "around_median",
    "Against the deployed rule": "adaptive",
    "Over time": "over_time",
    "On gossip": "dissensus",
    "Without knowledge of others": "simple",
    "Faults": "faults",
    "In the data": "data",
    "With the attackers' own updates": "backdoors",
}
MODULES = {
    title: importlib.import_module(f"byzjax.attacks.{name}") for title, name in SECTIONS.items()
}
HELPERS = {"default_starts", "little_is_enough_z", "pruning_mask"}  # what other attacks use


def _of(module: ModuleType) -> dict[str, Callable]:
    """The attacks that a module defines, in its own order."""
    public = set(attacks.__all__) - HELPERS
    functions = {name: value for name, value in vars(module).items() if name in public}
    return {name: f for name, f in functions.items() if f.__module__ == module.__name__}


def _table(module: ModuleType) -> str:
    lines = ["| attack | what it does | reference |", "| --- | --- | --- |"]
    for name, function in _of(module).items():
        text = inspect.getdoc(function) or ""
        first = text.partition("\n")[0].partition(". ")[0].rstrip(".")
        reference = re.search(r"^Reference: (.*?)\.?$(?=\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
        source = " ".join(reference[1].split()) if reference else ""
        lines.append(f'| <a id="{name}"></a>`{name}` | {first} | {source} |')
    return "\n".join(lines)


def page() -> str:
    """All attacks as a Markdown page, `docs/attacks.md`."""
    sections = "\n\n".join(
        f"## {title}\n\n{(module.__doc__ or '').partition(chr(10))[0]}\n\n{_table(module)}"
        for title, module in MODULES.items()
    )
    return f"""# Attacks

Generated from the docstrings of `byzjax.attacks`: `python -m byzjax.attacks`. They also have each
attack's equation, hyperparameters and an example.

An attack goes into a chain as `byzjax.attack(attacks.little_is_enough, byzantine, f=f)` and
replaces the rows of Byzantine workers; honest rows stay as they are, bit for bit. `byzantine` may
also be a function of the step, such as `attacks.sleeping` and `attacks.rotating` return.
`attacks.mimic`, `attacks.stale` and `attacks.neurotoxin` have memory and replace
`byzjax.attack`. Attacks against the deployed rule call it, mixings included: `strongest` searches
for the most damaging strength of any attack, in 20 calls; `gradient_attack` ascends the damage by
its gradient through the rule.
`flip_labels`, `shift_tokens`, `add_trigger` and `distributed_trigger` change a batch before its
gradient is computed; [backdoors](backdoors.md) shows them in training. `pruning_mask` returns the
coordinates that `hybrid_sparse` attacks.

How far each attack moves each rule: [worst-case](worst-case/README.md). The attacks that hurt each
rule most in training: [studies](studies/README.md). Their cost: [attack-cost.md](attack-cost.md).
Names elsewhere: [glossary](glossary.md). Your own: [own-attack.md](own-attack.md).

{sections}
"""


def names() -> str:
    """The names of all attacks, with links, as the README lists them."""
    listed = [name for module in MODULES.values() for name in _of(module)]
    return ", ".join(f"[`{name}`](docs/attacks.md#{name})" for name in listed)


if __name__ == "__main__":
    prints(
        "Prints docs/attacks.md, from the docstrings; with names, the README's list of attacks.",
        {"page": page, "names": names},
    )
