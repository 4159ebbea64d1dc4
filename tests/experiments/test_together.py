"""Runs that are stored one by one, and the first seeds of a study."""

import dataclasses

import pytest

from experiments.data import datasets
from experiments.execution import sweep
from experiments.grid import planning
from experiments.grid.config import Config

GRID = Config(rule=("median",), attack=("zero",), n=7, f=2, s=(1, 2), seeds=3, model="softmax")


@pytest.mark.parametrize(("together", "sizes"), [(0, [6]), (4, [3, 3]), (1, [1] * 6), (9, [6])])
def test_a_block_has_at_most_so_many_runs(together, sizes):
    blocks = planning.plan(dataclasses.replace(GRID, together=together))
    assert [len(block.runs) for block in blocks] == sizes
    assert [run for block in blocks for run in block.runs] == [
        (seed, s) for seed in range(3) for s in (1, 2)
    ]


def test_a_run_alone_is_still_bounded_by_memory():
    of_one = dataclasses.replace(GRID, together=5)
    assert [len(block.runs) for block in planning.plan(of_one, 10**9)] == [1] * 6


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="together must be at least 0; got -1"):
        planning.plan(dataclasses.replace(GRID, together=-1))


def test_the_first_seeds_come_first(tmp_path):
    """With `--seeds`, of blocks that hold one run each."""
    grid = dataclasses.replace(GRID, together=1)
    tasks = sweep.tasks([grid], tmp_path, lambda _: datasets.OUTLINES["digits"])
    runs = {
        k: [run for task in sweep.of_first_seeds(tasks, k) for run in task.block.runs]
        for k in (0, 1, 2)
    }
    assert runs[1] == [(0, 1), (0, 2)]
    assert runs[2] == [*runs[1], (1, 1), (1, 2)]
    assert len(runs[0]) == 6
    (whole,) = sweep.tasks([GRID], tmp_path, lambda _: datasets.OUTLINES["digits"])
    assert sweep.of_first_seeds([whole], 2) == []  # its third seed trains with the others
