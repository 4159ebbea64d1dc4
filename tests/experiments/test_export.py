"""Export of blocks to a file and back."""

import pytest

from experiments.execution import export, store


def block(rule):
    return {
        "rule": rule,
        "mixing": "none",
        "attack": 'a "quoted", one',
        "n": 5,
        "runs": [{"seed": 0, "accuracy": [0.125, 0.1 + 0.2], "loss": [None, 1e-7]}],
        "seconds": 1.5,
        "environment": {"jax": "0"},
    }


def test_there_and_back(tmp_path):
    blocks, folder = [block("median"), block("krum")], tmp_path / "results"
    folder.mkdir()
    (folder / "table.csv").write_text("rule\n")
    export.write(folder, blocks, tmp_path / "out")
    assert export.read(tmp_path / "out") == blocks
    assert (tmp_path / "out" / "table.csv").exists()
    assert export.bring_in(tmp_path / "out", folder) == 2
    assert export.bring_in(tmp_path / "out", folder) == 0
    described = {k: v for k, v in blocks[0].items() if k not in store.RESULTS}
    assert store.read_block(store.block_path(folder, described)) == blocks[0]


def test_missing_files_and_a_damaged_line(tmp_path):
    assert export.read(tmp_path) == []
    (tmp_path / export.FILE).write_text('hash,content\nabc,"{""rule"": "\n')
    with pytest.raises(ValueError, match=r"blocks\.csv, line 2 is damaged\.$"):
        export.read(tmp_path)
