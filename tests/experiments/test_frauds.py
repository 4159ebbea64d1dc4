"""Frauds that the verification of a submission must find, each in a small training of its own.

The training is gradient descent on a quadratic of 40 coordinates, so that a fraud shows in seconds:
accuracy is 1 / (1 + distance to the minimum of the honest workers).
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments.grid import calls, planning, specs
from experiments.grid import config as configs
from experiments.leaderboard import (
    editions,
    engine,
    held_out,
    score,
    sealed,
    submission,
    verification,
)

EDITION = editions.Edition(
    *(("digits",), 10, (3,), (0.9,), ("none",), 2, 12, 6, 2),
    ("mean",),
    ("zero", "little_is_enough", "inner_product_manipulation(epsilon=2.0)"),
)
D = 40
HONEST = """
import byzjax


def rule(updates, *, f):
    return byzjax.trimmed_mean(updates, f=f)
"""


@pytest.fixture(autouse=True)
def edition(monkeypatch):
    monkeypatch.setitem(editions.EDITIONS, "tiny", EDITION)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a module `fraud` and returns the name of its rule."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(source, name):
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)
        return f"{name}:rule"

    yield write
    for name in names:
        sys.modules.pop(name, None)


def positions(seed, s, n):
    """The Byzantine workers of a seed, as `training.runs` draws them."""
    order = jax.random.permutation(jax.random.fold_in(jax.random.key(seed), 1), n)
    return np.asarray(order) < s


def trained(grids):
    """The blocks of these grids on the quadratic."""
    blocks = []
    for grid in grids:
        for block in planning.plan(grid, D):
            rule = specs.transformation(block.rule, byzantine=None, key=None, n=grid.n)
            runs = [run_of(grid, block, rule, seed, s) for seed, s in block.runs]
            described = {**configs.identity(grid), "rule": str(block.rule)}
            described |= {"mixing": "none", "attack": str(block.attack), "runs": runs}
            blocks.append(described)
    return blocks


def run_of(grid, block, rule, seed, s):
    random = np.random.default_rng(seed)
    targets = jnp.asarray(1.0 + 0.3 * random.standard_normal((grid.n, D)), jnp.float32)
    byzantine = jnp.asarray(positions(seed, s, grid.n))
    attack = specs.transformation(block.attack, byzantine=byzantine, key=None, n=grid.n)
    best = jnp.mean(targets, axis=0, where=~byzantine[:, None])

    def step(carry, _):
        x, attacking, state = carry
        sent, attacking = attack.update({"w": x - targets}, attacking)
        update, state = rule.update(sent, state)
        return (x - 0.3 * update["w"], attacking, state), None

    @jax.jit
    def train():
        x = jnp.zeros(D)
        start = (x, attack.init({"w": x}), rule.init({"w": x}))
        (x, _, _), _ = jax.lax.scan(step, start, length=grid.steps)
        return 1 / (1 + jnp.linalg.norm(x - best))

    return {"seed": seed, "s": s, "accuracy": [round(float(train()), 6)]}


def params(grid):
    return {"w": jax.ShapeDtypeStruct((D,), jnp.float32)}


def submitted(name):
    entered = submission.entered(EDITION, "rule", name)
    grids = [g for g in editions.first(entered) if name in g.rule]
    first = trained(grids)
    stage = engine.second(entered, grids, first)
    lines = [score.lines(grids, first, stage.kept, "first")]
    lines.append(score.lines(stage.grids, trained(stage.grids), stage.kept, "last"))
    return submission.made(pd.concat(lines), "rule", name, "tiny")


def verified(made, salt="1"):
    told = []
    verification.verify(made, salt, trained, params, told.append)
    return told


# --- whole verifications --------------------------------------------------------------------------


def test_an_honest_rule_is_verified(written):
    told = verified(submitted(written(HONEST, "honest")))
    assert sum("not listed" in line for line in told) == held_out.COUNT
    assert len(told) == 1 + held_out.COUNT


def test_tampered_accuracies_are_found(written):
    made = submitted(written(HONEST, "tampered"))
    cells = [c | {"accuracies": [min(1.0, a + 0.2) for a in c["accuracies"]]} for c in made.cells]
    with pytest.raises(ValueError, match=r"reported 0\.\d+, trained again 0\.\d+"):
        verified(made._replace(cells=cells))


def test_a_rule_that_knows_where_the_byzantine_workers_are_is_found(written, monkeypatch):
    """Their places follow from the seeds, so a table of them needs no look at the mask."""
    where = np.flatnonzero(positions(0, 3, 10) | positions(1, 3, 10)).tolist()
    source = f"""
import jax
import jax.numpy as jnp


def rule(updates, *, f):
    rest = jnp.array([i for i in range(10) if i not in {where}])
    return jax.tree.map(lambda x: x[rest].mean(0), updates)
"""
    made = submitted(written(source, "places"))
    worst = min(np.mean(c["accuracies"]) for c in made.cells if c["stage"] == "last")
    assert worst > 0.4  # as submitted, no attack hurts it
    every = [dict(cell) for cell in made.cells]
    monkeypatch.setattr(verification, "drawn", lambda *_: every)
    with pytest.raises(ValueError, match=r"reported 0\.\d+, trained again 0\."):
        verified(made)


def test_a_rule_that_knows_the_listed_attacks_is_found(written):
    """Their rows are equal: it drops what occurs twice, and is the mean of the rest."""
    source = """
import jax
import jax.numpy as jnp


def rule(updates, *, f):
    def mean(x):
        equal = (x[:, None] == x[None]).reshape(len(x), len(x), -1).all(-1).sum(1) > 1
        return jnp.where(equal[:, None], 0, x).sum(0) / jnp.maximum((~equal).sum(), 1)

    return jax.tree.map(mean, updates)
"""
    made = submitted(written(source, "recognises"))
    with pytest.raises(ValueError, match=r"the worst reported is 0\.\d+, and an attack that is"):
        verified(made)


# --- the mask cannot be reached -------------------------------------------------------------------

REFUSED = {
    "frames": ("import sys\n", "line 1: imports sys"),
    "frames of functools": ("import functools\nx = functools.sys\n", "line 2: uses sys"),
    "garbage": ("from gc import get_objects\n", "line 1: imports gc"),
    "closures": ("def g(h):\n    return h.__closure__\n", "line 2: uses __closure__"),
    "globals": ("x = globals()\n", "line 1: uses globals"),
    "text as code": ("x = eval('1')\n", "line 1: uses eval"),
    "names as text": ("x = getattr(1, 'real')\n", "line 1: uses getattr"),
    "text with attributes": ("x = '{0.__class__}'.format(1)\n", "line 1: uses format"),
    "private modules": ("import jax._src.core\n", "line 1: uses _src"),
    "the laboratory": ("import experiments.training.runs\n", "imports experiments.training.runs"),
    "relative imports": ("from . import other\n", "line 1: imports"),
    "patches": ("import byzjax\nbyzjax.mean = 1\n", "line 2: assigns to the attribute mean"),
    "patched tables": (
        "import byzjax\nbyzjax.T['x'] = 1\n",
        "line 2: assigns into the attribute T",
    ),
    "derivatives": ("import jax\nf = jax.custom_jvp(abs)\n", "line 2: uses custom_jvp"),
    "callbacks": ("from jax.experimental import io_callback\n", "line 1: uses experimental"),
    "builtins": ("x = __builtins__\n", "line 1: uses __builtins__"),
    "exceptions": ("x = (1).tb_frame._x\n", "line 1: uses _x"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_sources_that_reach_beyond_the_updates_are_refused(way):
    source, message = REFUSED[way]
    with pytest.raises(
        ValueError, match="my_rule.py, " if "line" in message else "my_rule"
    ) as raised:
        sealed.scan(source, "my_rule.py")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_sources_of_the_pages_are_not_refused():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "own-rule.md").read_text()
    start = page.index("# my_rules.py")
    sealed.scan(page[start : page.index("```", start)], "my_rules.py")


SHAPES = [(2, jax.ShapeDtypeStruct((6, 3), jnp.float32))]


def test_after_it_is_sealed_no_code_of_a_rule_runs():
    calls = []

    def rule(updates, *, f):
        calls.append(f)
        return updates.mean(0)

    once = sealed.seal(rule, SHAPES, {}, seed=0)
    assert len(calls) == 1
    rows = jnp.arange(18.0).reshape(6, 3)
    for function in (once, jax.jit(once, static_argnames="f")):
        np.testing.assert_allclose(function(rows, f=2), rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda x: once(x, f=2))(rows[None])[0], rows.mean(0))
    np.testing.assert_allclose(
        jax.grad(lambda x: once(x, f=2).sum())(rows), np.full((6, 3), 1 / 6), rtol=1e-6
    )
    assert len(calls) == 1
    with pytest.raises(ValueError, match=r"not traced with \{'f': 1\} at shapes \(6, 3\)"):
        once(rows, f=1)


def test_a_sealed_rule_sees_the_workers_in_another_order_for_each_seed():
    rows = jnp.arange(18.0).reshape(6, 3)
    firsts = {
        float(sealed.seal(lambda updates, *, f: updates[0], SHAPES, {}, seed)(rows, f=2)[0])
        for seed in range(30)
    }
    assert firsts == set(np.asarray(rows[:, 0]).tolist())


def test_settings_and_keys_reach_a_sealed_rule():
    def rule(updates, *, f, key, scale=1.0):
        return updates.mean(0) * scale + f + 0 * jax.random.normal(key, (3,))

    shaken = sealed.seal(rule, SHAPES, {"scale": 2.0}, seed=0)
    rows = jnp.ones((6, 3))
    out = shaken(rows, f=2, key=jax.random.key(1), scale=2.0)
    np.testing.assert_allclose(out, np.full(3, 4.0))


def test_rules_that_call_back_or_take_the_mask_are_refused():
    def calling(updates, *, f):
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct((3,), jnp.float32), updates[0])

    def inside(updates, *, f):
        return jax.lax.cond(updates.sum() > 0, lambda x: calling(x, f=f), lambda x: x[0], updates)

    for rule in (calling, inside):
        with pytest.raises(ValueError, match=r"calls back .* by pure_callback"):
            sealed.seal(rule, SHAPES, {}, seed=0)
    with pytest.raises(ValueError, match="of the shapes of one row"):
        sealed.seal(lambda updates, *, f: updates, SHAPES, {}, seed=0)

    def told(updates, byzantine, *, f):
        return updates[0]

    def told_by_name(updates, *, f, byzantine):
        return updates[0]

    for rule in (told, told_by_name):
        with pytest.raises(ValueError, match="my:rule takes byzantine; expected updates, f, key"):
            sealed.check_signature(rule, "my:rule")
    with pytest.raises(ValueError, match="my:rule has a memory"):
        sealed.check_signature(lambda num_workers: None, "my:rule")


# --- attacks --------------------------------------------------------------------------------------


def test_an_attack_that_changes_honest_rows_is_refused(written, tmp_path):
    name = written(
        "def rule(updates, byzantine):\n    return -updates\n"
        "def fair(updates, byzantine):\n"
        "    return updates * (1 - 2 * byzantine[:, None])\n",
        "pushes",
    )
    with pytest.raises(ValueError, match=r"pushes:rule changes 7 of the honest rows"):
        verification.check_honest_rows(name, 10, 3)
    verification.check_honest_rows("pushes:fair", 10, 3)


def test_held_out_attacks_are_of_all_families_and_their_rows_differ():
    drawn = held_out.drawn(np.random.default_rng(0))
    assert drawn != held_out.drawn(np.random.default_rng(1))
    parsed = [calls.parse_call(text, "attack")[1] for text in drawn]
    assert [given["attack"] for given in parsed] == list(held_out.STRENGTHS)
    random = np.random.default_rng(2)
    rows = random.standard_normal((9, 50)).astype(np.float32)
    byzantine = np.arange(9) < 3
    for given in parsed:
        given |= {"strength": 2.0, "spread": 0.1}
        sent = held_out.disguised(
            {"w": jnp.asarray(rows)}, jnp.asarray(byzantine), jax.random.key(0), **given
        )
        sent = np.asarray(sent["w"])
        np.testing.assert_array_equal(sent[3:], rows[3:])
        mean, std = rows[3:].mean(0), rows[3:].std(0, ddof=0)
        expected = {
            "little_is_enough": mean - 2 * std,
            "inner_product_manipulation": -2 * mean,
            "between": (mean - 2 * std - 2 * mean) / 2,
        }[given["attack"]]
        noise = (sent[:3] - expected) / std
        assert 0.07 < noise.std() < 0.14
        assert len(np.unique(sent[:3], axis=0)) == 3
