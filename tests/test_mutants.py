"""The mutants can be applied, so that a survivor means a missing test."""

import pathlib
import shlex

import pytest

from tests.mutants import MUTANTS
from tests.mutants import __main__ as program

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what.replace(" ", "_"))
def test_its_line_is_there_once(mutant):
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old
    for word in shlex.split(mutant.tests):
        if word.startswith("tests/"):
            assert (ROOT / word.split("::")[0]).exists()


def test_names_are_unique():
    names = [mutant.what for mutant in MUTANTS]
    assert len(set(names)) == len(names)


def test_a_line_that_is_gone_is_said(tmp_path):
    mutant = MUTANTS[0]._replace(file="file.py", old="is gone")
    (tmp_path / "file.py").write_text("there = 1\n")
    outcome, _, tail = program.tried_with(mutant, "default", tmp_path)
    assert (outcome, tail) == ("not applied", "'is gone' occurs 0 times.")
