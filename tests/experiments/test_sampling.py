"""Client sampling in the laboratory: s and f, and rounds in which more attackers were drawn."""

import dataclasses
import pathlib
import re

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.data import datasets
from experiments.execution import checkpoint, store, sweep
from experiments.grid import protocols, sampling, specs
from experiments.grid.config import Config
from experiments.report import tables
from experiments.training import assemble, diagnostics
from experiments.training.program import Metrics

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "sampling.md").read_text()
DRAWN = "parameter_server(per_round=8)"
BASE = Config(
    model="softmax", rule=("trimmed_mean(f=1)",), attack=("sign_flip",), protocol=DRAWN, n=20, f=2,
    s=(6,), seeds=2, steps=30, batch_size=8, eval_every=10, momentum_at="server",
)  # fmt: skip


def lying(seed, s, step):
    """The attackers drawn for a step, by the keys of the run."""
    key = jax.random.key(seed)
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 1), BASE.n))
    own = jax.random.fold_in(jax.random.fold_in(key, 6), step)
    drawn = jax.random.permutation(jax.random.fold_in(own, BASE.n + 1), BASE.n)[:8]
    return int((order[np.asarray(drawn)] < s).sum())


def test_rounds_with_more_attackers_are_counted(tmp_path):
    """By the rule's own f, and with the momenta of a server, which are kept by worker."""
    digits = datasets.load("digits")
    todo = sweep.tasks([BASE], tmp_path, lambda config: digits)
    (block,) = sweep.run(todo, tmp_path, lambda config: digits)
    assert not list(store.failures(tmp_path))
    for run in block["runs"]:
        excess = np.cumsum([lying(run["seed"], 6, step) > 1 for step in range(30)])
        assert run["excess_rounds"] == excess[9::10].tolist()
        assert run["excess_share"] == [c / k for c, k in zip(excess[9::10], (10, 20, 30))]
        assert 0 < excess[-1] < 30
        assert run["accuracy"][-1] > 0.5
    (line,) = tables.table(tables.curves([block])).to_dict("records")
    assert line["excess_rounds"] == sum(run["excess_rounds"][-1] for run in block["runs"])


def block_of(rule, attack, s, counts, steps=(10, 20)):
    """A finished block of two seeds, with these numbers of rounds at the end."""
    runs = []
    for seed, count in enumerate(counts):
        run = {"seed": seed, "s": s, "step": list(steps), "finite": [True] * 2, "diverged": None}
        run |= dict.fromkeys(("accuracy", "loss", *diagnostics.NAMES), [0.5] * 2)
        if count is not None:
            run |= {"excess_rounds": [0, count], "excess_share": [0.0, count / steps[-1]]}
        runs.append(run)
    environment = {"date": "2026-11-29 10:00 UTC"}
    block = {"rule": rule, "mixing": "none", "attack": attack, "members": [[0, s], [1, s]]}
    return block | {"runs": runs, "seconds": 1.0, "environment": environment, "data": "0"}


def test_tables_and_report_say_it(tmp_path):
    blocks = [block_of("median", "none", 0, (0, 0)), block_of("median", "sign_flip", 6, (3, 0))]
    blocks.append(block_of("krum(f=1)", "sign_flip", 6, (9, 1)))
    grid = dataclasses.replace(BASE, rule=("median", "krum(f=1)"), steps=20)
    about = tables.About("Title.", "Claim.", "python")
    results = tables.write(tmp_path, blocks, [grid], about)
    written = pd.read_csv(tmp_path / "table.csv")
    for frame in (results, written):
        assert sorted(frame["excess_rounds"]) == [0, 3, 10]
        assert sorted(frame["excess_share"]) == [0, 0.075, 0.25]
    sentence = (
        "More Byzantine workers drawn than the rule was told to tolerate: in 13 rounds, 16.25 % of "
        "those with attackers; most with s = 6 (krum(f=1)): 25.00 %."
    )
    for text in (tables.text(results), (tmp_path / "table.md").read_text()):
        assert " ".join(text.split()).endswith(sentence)
    assert sentence in " ".join(tables.text(results, 70).split())
    page = (tmp_path / "index.html").read_text()
    assert "rounds with more than f" in page
    assert "10 (25.00 %)" in page
    assert "in 13 rounds" in page
    assert "excess_rounds" in (tmp_path / "curves.csv").read_text()


def test_where_all_take_part_nothing_is_said():
    blocks = [block_of("median", "sign_flip", 6, (None, None))]
    results = tables.table(tables.curves(blocks))
    assert not set(results) & {"excess_rounds", "excess_share"}
    assert "told to tolerate" not in tables.text(results)
    quiet = tables.table(tables.curves([block_of("median", "sign_flip", 6, (0, 0))]))
    assert tables.text(quiet).endswith(
        "in 0 rounds, 0.00\N{NO-BREAK SPACE}% of those with attackers."
    )


def test_a_checkpoint_keeps_the_counts(tmp_path):
    kept = checkpoint.Checkpoints(tmp_path / "block")
    values = np.ones(2, np.float32)
    seen = dict.fromkeys(diagnostics.NAMES, values) | {diagnostics.EXCESS: np.array([3, 0])}
    metrics = Metrics(*[values] * len(Metrics._fields))._replace(finite=values > 0)
    kept.save(2, {"w": values}, [(metrics, seen)])
    _, _, ((_, again),) = kept.restore({"w": values})
    assert again[diagnostics.EXCESS].tolist() == [3, 0]


# --- f and s -------------------------------------------------------------------------------------


def test_s_may_exceed_f_where_workers_are_drawn():
    assemble.plan(BASE)
    for protocol in ("parameter_server", "parameter_server(per_round=20)"):
        with pytest.raises(ValueError, match=r"^s must lie in 0 \.\. f; got s=6, f=2\."):
            assemble.plan(dataclasses.replace(BASE, protocol=protocol))
    with pytest.raises(ValueError, match=r"^s must lie in 0 \.\. n - 1; got s=20, n=20\.$"):
        assemble.plan(dataclasses.replace(BASE, s=(20,)))


def test_the_drawn_of_a_protocol():
    for protocol, count in (
        (DRAWN, 8),
        ("parameter_server(per_round=20)", None),
        ("parameter_server(local_steps=2, local_rate=0.1)", None),
        ("gossip", None),
    ):
        assert protocols.drawn(dataclasses.replace(BASE, protocol=protocol)) == count


def test_the_f_of_a_rule():
    for text, f in (("krum", 2), ("krum(f=1)", 1), ("median", 2)):
        assert sampling.told(specs.parse("rule", text, f=2), BASE) == f


def test_the_excess_is_that_of_scipy():
    for n, s, drawn, f in ((20, 6, 8, 2), (100, 10, 30, 5), (100, 10, 30, 10), (9, 5, 3, 0)):
        expected = stats.hypergeom.sf(f, n, s, drawn)
        assert sampling.excess(n, s, drawn, f) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_a_line_says_what_to_expect():
    config = dataclasses.replace(BASE, rule=("median", "krum(f=1)"))
    assert sampling.line(config) == (
        "8 of n = 20 workers are drawn for each round: more than f = 1 of s = 6 Byzantine ones in "
        "81 % of rounds; byzjax.faults_among gives 6, no minority."
    )
    assert sampling.line(dataclasses.replace(BASE, s=(0,))) is None
    assert sampling.line(dataclasses.replace(BASE, protocol="parameter_server")) is None
    (shown,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    config = Config(
        n=100, f=5, s=(0, 10), rule=("median", "aksel", "krum(f=8)"),
        protocol="parameter_server(per_round=30)",
    )  # fmt: skip
    assert sampling.line(config) == " ".join(shown.split())


def test_an_f_that_follows_n_is_explained():
    config = Config(n=25, protocol="parameter_server(per_round=10)")
    message = (
        "trimmed_mean needs n >= 2f + 1; got n=10, f=11. Of 25 workers 10 are drawn: the rules "
        "tolerate --f 3; byzjax.faults_among gives 10."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        assemble.plan(config)
    with pytest.raises(ValueError, match=r"^batch must|divide the batch; got .*\.$"):
        assemble.plan(
            dataclasses.replace(
                BASE, protocol="parameter_server(per_round=8, local_steps=3, local_rate=0.1)"
            )
        )
