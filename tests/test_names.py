"""Names and words that were replaced stay out of the code, the tests and the pages."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted(
    p for name in ("byzjax", "experiments", "benchmarks") for p in (ROOT / name).rglob("*.py")
)
TESTS = sorted({*(ROOT / "tests").rglob("*.py")} - {*(ROOT / "tests" / "mutants").rglob("*.py")})
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *(ROOT / "colab").glob("*.py")])
# Names that say nothing, or that mean something else in the field.
NAMES = {"found", "hopeless", "everybody", "everyone", "still", "wall", "walled", "slopes"}
WORDS = re.compile(
    r"\b(few\(|walls?\b(?!-clock)|hopeless|everybody|stands? still|without a slope|the house"
    r"|rooms? (holds?|of)|gone on from|is not looked at|blown up|turned round)",
    re.IGNORECASE,
)


def names_in(path):
    """Variables and functions, without fields of results, which are part of the interface."""
    tree = ast.parse(path.read_text())
    fields = {node.target for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node not in fields:
            yield node.id, node.lineno
        elif isinstance(node, ast.FunctionDef):
            yield node.name, node.lineno


def test_the_list_finds_what_it_names(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("found = 1\ndef wall(): pass\n")
    assert {name for name, _ in names_in(path) if name in NAMES} == {"found", "wall"}
    assert WORDS.search("behind a wall")
    assert not WORDS.search("wall-clock time")


@pytest.mark.parametrize("path", [*CODE, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_names_of_the_code(path):
    assert not [(name, line) for name, line in names_in(path) if name in NAMES]
    if path != Path(__file__):  # which holds the list
        assert not WORDS.findall(path.read_text())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_of_the_pages(path):
    assert not WORDS.findall(path.read_text())
