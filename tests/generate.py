"""Writes what is derived from the code: lists of imports, of the README, generated pages.

    python -m tests.generate

Run it after adding a rule, a mixing or an attack. Tests compare the files.
"""

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parent.parent


def functions_of(package: str) -> dict[str, list[str]]:
    """The public functions that each public module of a package defines, read without imports."""
    defined = {}
    for path in sorted((ROOT / package).glob("[!_]*.py")):
        body = ast.parse(path.read_text()).body
        names = [node.name for node in body if isinstance(node, ast.FunctionDef)]
        defined[path.stem] = sorted(name for name in names if name[0] != "_")
    return defined


def imports(package: str, keep: Callable[[str], bool]) -> str:
    """The package's `__init__.py`: an import for each module, `__all__`, hints for other names."""
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))
    modules = {
        module: [name for name in names if keep(name)]
        for module, names in functions_of(package).items()
    }
    lines = [f'"""{docstring}"""', "", "from byzjax._deprecated import renamed as _renamed"]
    for module, names in modules.items():
        line = f"from {package.replace('/', '.')}.{module} import {', '.join(names)}"
        if len(line) > 100:
            head = line.partition(" import ")[0]
            line = f"{head} import (\n" + "".join(f"    {name},\n" for name in names) + ")"
        lines += [line] if names else []
    everything = sorted(name for names in modules.values() for name in names)
    lines += ["", "__all__ = [", *(f'    "{name}",' for name in everything), "]"]
    lines += ["", "__getattr__ = _renamed(__name__, {})"]
    return "\n".join(lines) + "\n"


def packages() -> dict[str, str]:
    """The text of the `__init__.py` that lists the rules, and of that which lists the attacks."""
    from byzjax.facts import FACTS

    return {
        "byzjax/rules/__init__.py": imports("byzjax/rules", lambda name: name in FACTS),
        "byzjax/attacks/__init__.py": imports("byzjax/attacks", lambda name: True),
    }


def between(text: str, mark: str, content: str) -> str:
    """The text with this content between the mark and its end."""
    pattern = rf"(<!-- {mark} -->\n+).*?(\n+<!-- end of {mark} -->)"
    assert re.search(pattern, text, re.DOTALL), mark
    return re.sub(pattern, lambda match: match[1] + content + match[2], text, flags=re.DOTALL)


def pages() -> dict[str, str]:
    """The README and the pages that are generated."""
    from byzjax import facts
    from byzjax._numerics import table as numerics
    from byzjax.attacks import __main__ as attacks
    from byzjax.theory import comparison, exact

    readme = (ROOT / "README.md").read_text()
    for mark, kind in (("rules", "rule"), ("memory", "memory"), ("mixings", "mixing")):
        readme = between(readme, mark, facts.names(kind))
    readme = between(readme, "attacks", attacks.names())
    numbers = (ROOT / "docs" / "numerics.md").read_text()
    return {
        "README.md": readme,
        "docs/rules.md": facts.page(),
        "docs/attacks.md": attacks.page(),
        "docs/comparison.md": comparison.page(),
        "docs/kappa.md": exact.page(),
        "docs/numerics.md": between(numbers, "forms", numerics.table()),
    }


def write(texts: dict[str, str]) -> None:
    """Writes the files that differ, and names them."""
    for name, text in texts.items():
        path = ROOT / name
        if path.read_text() != text:
            path.write_text(text)
            print(f"wrote {name}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--packages"]:
        write(packages())
    else:  # a new process imports what the lists now name
        subprocess.run([sys.executable, "-m", "tests.generate", "--packages"], check=True)
        from tests import mistakes

        write(pages() | {"docs/mistakes.md": mistakes.page()})
