"""Rules and attacks by name, and the plan of a study."""

import dataclasses
import functools
import math
import shlex

import jax
import numpy as np
import pytest

import byzjax
from byzjax import attacks
from experiments.grid import calls, catalogue, specs
from experiments.grid.config import Config, identity, options
from experiments.grid.planning import BUDGET, plan, run_bytes
from experiments.text import arguments
from tests.helpers import compiled


@pytest.mark.parametrize(
    ("text", "name", "given"),
    [
        ("krum", "krum", {}),
        ("krum()", "krum", {}),
        (" krum(f=4, m=3) ", "krum", {"f": 4, "m": 3}),
        ("aksel(mode='n-f')", "aksel", {"mode": "n-f"}),
        ("non_finite(value=-inf)", "non_finite", {"value": -math.inf}),
        ("little_is_enough(z=-1.5)", "little_is_enough", {"z": -1.5}),
    ],
)
def test_parse_call(text, name, given):
    assert calls.parse_call(text) == (name, given)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "krum(",
        "krum(4)",
        "krum(f=g())",
        "a.b",
        "krum(**{})",
        "krum(f=1)(m=2)",
        "1",
        "f=3",
        "a(b=-'c')",
    ],
)
def test_invalid_specs(text):
    with pytest.raises(ValueError, match=r'cannot read .* such as "krum"') as error:
        calls.parse_call(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("rule", "krum"),
        ("rule", "krum(f=4, m=3)"),
        ("rule", "aksel(mode='radius')"),
        ("attack", "little_is_enough(z=1.5, direction='plus')"),
        ("attack", "non_finite(value=inf)"),
    ],
)
def test_a_spec_reads_as_it_was_written(kind, text):
    spec = specs.parse(kind, text, f=5)
    assert str(spec) == text
    assert specs.parse(kind, str(spec), f=5) == spec


@pytest.mark.parametrize(("name", "strengths"), catalogue.STRENGTHS.items())
def test_a_strength_may_be_traced_and_says_so(name, strengths):
    said = " ".join((catalogue.ATTACKS[name].__doc__ or "").split())
    spec = specs.parse("attack", f"{name}({', '.join(f'{s}=0.5' for s in strengths)})", f=1)
    assert spec.strengths == dict.fromkeys(strengths, 0.5)
    updates = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    byzantine = np.arange(5) < 1

    told = {}
    if name == "dissensus":
        told = {"center": np.zeros(7, np.float32), "weights": np.ones(5, np.float32)}

    def sent(spec):
        tx = specs.transformation(spec, byzantine=byzantine, key=None, n=5)
        return tx.update(updates, tx.init(updates[0]), **told)[0]

    traced = jax.jit(lambda values: sent(spec.with_strengths(values)))
    choices = (0.5, 0.5), (0.25, 0.75)
    plain = [
        f"{name}({', '.join(f'{s}={value}' for s, value in zip(strengths, values))})"
        for values in choices
    ]
    expected = jax.jit(lambda: [sent(specs.parse("attack", text, f=1)) for text in plain])()
    for values, lies in zip(choices, expected, strict=True):
        np.testing.assert_allclose(traced(np.float32(values)), lies, rtol=1e-5, atol=1e-6)
    if name not in ("alternating", "sleeping"):  # which take it from the attacks that they call
        for strength in strengths:
            assert "may be traced" in said.partition(f"{strength}: ")[2]


def test_sleeping_workers_are_honest_until_they_wake():
    updates = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    byzantine = np.arange(5) < 2
    spec = specs.parse("attack", "sleeping(until=2, epsilon=3.0)", f=2)
    tx = specs.transformation(spec, byzantine=byzantine, key=None, n=5)
    state = tx.init(updates[0])
    awake = updates.copy()
    awake[byzantine] = -3 * updates[~byzantine].mean(axis=0)
    for expected in (updates, updates, awake, awake):
        sent, state = tx.update(updates, state)
        np.testing.assert_allclose(sent, expected, rtol=1e-5)


def test_attacks_that_differ_in_strengths_alone_are_one_family():
    def family(text):
        return specs.parse("attack", text, f=2).family

    assert family("gaussian(sigma=1)") == family("gaussian(sigma=200.0)") != family("gaussian")
    assert family("little_is_enough(z=1)") == family("little_is_enough(z=2)")
    assert family("little_is_enough(z=1)") != family("little_is_enough")
    assert family("little_is_enough(z=1)") != family("little_is_enough(z=1, ddof=0)")
    assert family("constant(value=inf)") == family("constant(value=-3)")
    assert family("lose_coordinates(share=0.5)") != family("lose_coordinates(value=0.5)")


@pytest.mark.smoke
def test_the_declared_f_is_filled_in_where_it_is_taken():
    assert specs.parse("rule", "krum", f=5).hyperparameters == {"f": 5}
    assert specs.parse("rule", "krum(f=4)", f=5).hyperparameters == {"f": 4}
    assert specs.parse("rule", "median", f=5).hyperparameters == {}
    assert specs.parse("attack", "little_is_enough", f=5).hyperparameters == {"f": 5}
    assert specs.parse("attack", "little_is_enough(z=1.0)", f=5).hyperparameters == {"z": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": ("krumm",)}, "unknown rule 'krumm'; did you mean krum?"),
        ({"attack": ("flip",)}, "unknown attack 'flip'; did you mean sign_flip?"),
        ({"rule": ("krum(g=1)",)}, "krum has no parameter g; it takes f, m"),
        ({"attack": ("gaussian(mu=1)",)}, "gaussian has no parameter mu; it takes sigma."),
        ({"n": 24}, "krum needs n >= 2f + 3; got n=24, f=11."),
        ({"rule": ("krum(m=13)",)}, "krum needs m <= n - f - 2 = 12; got m=13, n=25, f=11."),
        ({"rule": ("multi_krum",), "n": 12}, "multi_krum needs n >= 2f + 3; got n=12, f=11."),
        ({"rule": ("aksel(mode='best')",)}, "mode must be one of mid, n-f, radius; got 'best'."),
        ({"s": (12,)}, "s must lie in 0 .. f; got s=12, f=11."),
        ({"s": ()}, "s needs one or more different numbers; got ()."),
        ({"steps": 30}, "eval_every must divide steps; got steps=30, eval_every=25."),
        ({"seeds": 0}, "seeds must be at least 1; got 0."),
        ({"momentum": 1.0}, "momentum must lie in [0, 1); got 1.0."),
        ({"momentum_at": "home"}, "momentum_at must be one of worker, server, update; got 'home'."),
        ({"momentum_kind": "heavy"}, "momentum_kind must be one of damped, undamped, nester"),
        ({"clip": -1.0}, "clip must be at least 0; got -1.0."),
        ({"clip_examples": -1.0}, "clip_examples must be at least 0; got -1.0."),
        ({"noise_multiplier": -1.0}, "noise_multiplier must be at least 0; got -1.0."),
        ({"noise_multiplier": math.inf}, "noise_multiplier must be finite; got inf."),
        (
            {"noise_multiplier": 2.0},
            "noise_multiplier=2.0 is in units of clip_examples, which must be positive and finite; "
            "got clip_examples=0.0.",
        ),
        ({"schedule": "linear"}, "unknown schedule 'linear'; known: constant, hyperbolic, cosine"),
        ({"schedule": "steps()"}, "cannot read schedule 'steps()'; expected steps(a, b, ...)."),
        ({"rule": ("krum(axis_name='i')",)}, "krum is given axis_name by the run; leave it out."),
        ({"dealt_to": "liars"}, "dealt_to must be all or honest; got 'liars'."),
        ({"learning_rate": -1.0}, "learning_rate must be positive; got -1.0."),
        (
            {"attack": ("min_max", "strongest_ipm"), "momentum_at": "server"},
            "strongest_ipm cannot try a server that keeps momenta; expected momentum_at worker or",
        ),
        ({"mixing": ("nnm",)}, "unknown mixing 'nnm'; did you mean nearest_neighbors?"),
        ({"mixing": ("bucketing(s=2)",)}, "trimmed_mean needs n >= 2f + 1; got n=13, f=11."),
        ({"rule": ("centered_clipping",)}, "centered_clipping needs radius; write centered_clip"),
        ({"rule": ("centered_clipping(tau=1)",)}, "centered_clipping has no parameter tau; it"),
        ({"attack": ("stale(delay=0)",)}, "delay must be at least 1; got delay=0."),
        ({"rule": ("krum", "krum()")}, "a rule is given twice: krum."),
        ({"n": 5, "f": 5, "s": (1,), "rule": ("mean",)}, "f must be below n; got n=5, f=5."),
        ({"s": (3,), "attack": ("none",), "rule": ()}, "nothing to run"),
    ],
)
def test_an_impossible_study_stops_with_one_line(change, message):
    with pytest.raises((ValueError, TypeError)) as error:
        plan(dataclasses.replace(Config(), **change))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.smoke
def test_without_liars_a_rule_runs_once():
    blocks = plan(Config())
    assert len(blocks) == 6 * (1 + 4)
    none = [block for block in blocks if block.attack.name == "none"]
    assert [str(block.rule) for block in none] == list(Config().rule)
    assert {block.runs for block in none} == {tuple((seed, 0) for seed in range(5))}
    with_liars = {block.runs for block in blocks if block.attack.name != "none"}
    assert with_liars == {tuple((seed, s) for seed in range(5) for s in (1, 5, 11))}


def test_s_of_zero_alone_and_liars_alone():
    one = Config(rule=("median",), attack=("sign_flip",), seeds=1)
    alone = plan(dataclasses.replace(one, s=(0,)))
    assert [(b.attack.name, b.runs) for b in alone] == [("none", ((0, 0),))]
    only_liars = plan(dataclasses.replace(one, s=(2, 4)))
    assert [(b.attack.name, b.runs) for b in only_liars] == [("sign_flip", ((0, 2), (0, 4)))]


def test_a_block_is_cut_by_the_budget_alone():
    config = Config(rule=("median",), attack=("sign_flip",), s=(1, 2), seeds=4)
    of_three = BUDGET // (3 * run_bytes(config, 1))
    sizes = [len(block.runs) for block in plan(config, of_three)]
    assert sizes == [2, 3, 3]
    assert sum((block.runs for block in plan(config, of_three)), ()) == plan(config)[0].runs
    assert [len(block.runs) for block in plan(config, 10**9)] == [1] * 8


def test_an_attack_that_tries_the_rule_is_given_the_deployed_one():
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(11, 5)).astype(np.float32)
    byzantine = np.arange(11) >= 8
    rule = specs.deployed(specs.parse("rule", "trimmed_mean", f=3))
    np.testing.assert_array_equal(
        jax.jit(rule)(updates), compiled(byzjax.trimmed_mean, f=3)(updates)
    )
    spec = specs.parse("attack", "strongest_alie(low=0.1)", f=3)
    tx = specs.transformation(spec, byzantine=byzantine, key=None, rule=rule)
    sent, _ = jax.jit(lambda updates: tx.update(updates, tx.init(updates)))(updates)
    searched = functools.partial(
        attacks.strongest,
        attack=attacks.little_is_enough,
        rule=rule,
        strength="z",
        low=0.1,
        high=100.0,
    )
    expected = jax.jit(lambda updates: searched(updates, byzantine))(updates)
    np.testing.assert_array_equal(sent, expected)


def test_every_attack_of_the_table_runs():
    for name in catalogue.ATTACKS:
        if name == "dissensus":  # needs peers: tests/experiments/test_protocols.py
            continue
        given = "(gamma=1.0)" if name == "hidden_vulnerability" else ""
        specs.check(specs.parse("attack", name + given, f=11), 25)


# --- user-defined functions -----------------------------------------------------------------------

OWN = '''
import byzjax
from byzjax.facts import Facts

FACTS = {"middle": Facts("rule", (3, 1), "nd", "n > 3f", True, "range", "")}


def middle(updates, *, f, share=1, axis_name=None):
    """A median."""
    return byzjax.median(updates, axis_name=axis_name)


def unknown(updates):
    return byzjax.median(updates)


def silent(updates, byzantine):
    return updates
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module with a different name for each test, since Python caches imported modules."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_user_defined_rule(own):
    spec = specs.parse("rule", f"{own}:middle(share=2)", f=3)
    assert spec.hyperparameters == {"share": 2, "f": 3}
    assert str(spec) == f"{own}:middle(share=2)"
    assert spec.function.__doc__ == "A median."
    assert specs.facts_of(f"{own}:middle").needs == (3, 1)
    assert specs.facts_of(f"{own}:unknown") is None
    assert specs.facts_of("krum") == byzjax.facts.FACTS["krum"]
    grid = Config(rule=("median", f"{own}:middle"), attack=(f"{own}:silent",))
    assert [str(block.rule) for block in plan(grid)] == ["median"] * 2 + [f"{own}:middle"] * 2
    assert specs.parse("attack", f"{own}:silent", f=1).kind == "attack"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_such_module:rule", r"^unknown rule 'no_such_module:rule': No module named 'no_such"),
        ("json:rule", r"^unknown rule 'json:rule': module 'json' has no attribute 'rule'"),
        (":rule", r"^cannot read ':rule'; expected"),
        ("a b:rule", r"^cannot read 'a b:rule'; expected"),
    ],
)
def test_missing_functions(text, message):
    with pytest.raises(ValueError, match=message):
        specs.parse("rule", text, f=1)


def test_a_changed_file_gets_its_own_results(own, tmp_path):
    grid = Config(rule=("median", f"{own}:middle"))
    before = grid.code
    assert before.startswith(f"{own}=")
    assert identity(grid)["code"] == before
    assert "code" not in identity(Config())
    path = tmp_path / f"{own}.py"
    path.write_text(path.read_text() + "# changed\n")
    assert grid.code != before


def test_the_options_of_a_grid_make_the_same_grid():
    grid = Config(rule=("krum(m=2)", "mean"), s=(0, 3), average=True, learning_rate=0.1)
    assert options(grid) == "--rule 'krum(m=2)' mean --s 0 3 --learning-rate 0.1 --average"
    assert arguments.parse(Config, shlex.split(options(grid)), prog="grid") == grid
    assert options(Config()) == ""
