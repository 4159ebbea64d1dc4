"""Parses names with hyperparameters: `krum`, `krum(f=4, m=3)`, `my_rules:nearest`."""

import ast
import hashlib
import math
import pathlib
import re
import sys
from collections.abc import Iterable
from typing import Any


def code(texts: Iterable[str]) -> str:
    """Hashes of the source files of user-defined functions: a changed file gives new results.

    Files are read, not imported, so results can be read without running any code. Modules that such
    a file imports are not hashed; `?` stands for a missing file.
    """
    names = {parse_call(text)[0].partition(":")[0] for text in texts if ":" in parse_call(text)[0]}
    digests = []
    for name in sorted(names):
        text = source(name)
        digest = "?" if text is None else hashlib.sha256(text.encode()).hexdigest()[:12]
        digests.append(f"{name}={digest}")
    return " ".join(digests)


def source(module: str) -> str | None:
    """The source of a module, located as an import would; None if there is no file."""
    parts = pathlib.PurePath(*module.split("."))
    for folder in sys.path:
        for path in (parts.with_suffix(".py"), parts / "__init__.py"):
            file = pathlib.Path(folder or ".", path)
            if file.is_file():
                return file.read_text()
    return None


LONGEST = 2000  # characters of one specification


# A call of each kind, for errors.
EXAMPLES = {
    "rule": "krum(f=4, m=3)",
    "mixing": "bucketing(s=2)",
    "attack": "little_is_enough(z=1.5)",
    "protocol": "gossip(graph='ring')",
    "compressor": "top_k(k=0.01)",
}


def parse_call(text: str, kind: str = "rule") -> tuple[str, dict[str, Any]]:
    """Parses `"krum(f=4)"` as `("krum", {"f": 4})`; values are literals, nan or inf.

    Args:
      text: a name, or a call with keywords.
      kind: what is named, for the error: a key of `EXAMPLES`.

    Raises:
      ValueError: the text does not have this form.
    """
    call = EXAMPLES[kind]
    example = f'"{call.partition("(")[0]}" or "{call}"'
    expected = f"expected a name or a call with keywords, such as {example}"
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
    if re.fullmatch(r"[A-Za-z]\w*(-\w+)+", text.strip()):
        return text.strip(), {}  # no name either, but near to one with underscores
    shown = text if len(text) <= 60 else f"{text[:56]}..."
    raise ValueError(f"cannot read {shown!r}; {_unquoted(text) or expected}.")


def written(name: str, given: dict[str, Any]) -> str:
    """What `parse_call` reads: `written("krum", {"m": 3})` is `krum(m=3)`."""
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in given.items())})" if given else name


def _unquoted(text: str) -> str | None:
    """What to write if a value is a word without quotes: `mode='mid'` for `mode=mid`."""
    word = re.search(r"(\w+)\s*=\s*([A-Za-z][\w-]*)\s*[,)]", text)
    if word is None or word[2] in ("nan", "inf", "True", "False", "None") or "'" in text:
        return None
    return f"a word needs quotes: {word[1]}='{word[2]}'"


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_literal(node.operand)
    if isinstance(node, ast.Name) and node.id in ("nan", "inf"):
        return math.nan if node.id == "nan" else math.inf
    return ast.literal_eval(node)
