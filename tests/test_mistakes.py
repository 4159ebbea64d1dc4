"""Mistakes of users raise one line that says what to write instead."""

import ast
import os
import subprocess
import sys
import traceback
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import _compiled, _mistakes, attacks
from byzjax.facts import FACTS, Facts
from byzjax.testing import check_attack, check_rule
from tests.mistakes import MISTAKES, PAGE, SECTIONS, _Foreign, caught, names, page

GIVEN = names()
JAX = os.path.dirname(jax.__file__) + os.sep
DATA = ("x", "grads", "one_gradient")  # what a program may trace
TRACED = [
    code
    for code in MISTAKES
    if {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)} & {*DATA}
]


def frames(error):
    return [frame.filename for frame in traceback.extract_tb(error.__traceback__)]


def test_the_table_is_large():
    assert len(MISTAKES) == sum(map(len, SECTIONS.values())) >= 150
    assert len(TRACED) > 80


@pytest.mark.parametrize("code", MISTAKES)
def test_one_line_says_what_to_write(code):
    row, error = MISTAKES[code], caught(code, GIVEN)
    assert type(error) is row.error
    message = str(error)
    assert [words for words in row.words if words not in message] == [], message
    assert len(message.splitlines()) == 1
    assert len(message) <= 200
    assert "jax." in code or not getattr(error, "__notes__", [])
    shown = frames(error)
    assert _compiled.__file__ not in shown
    assert "jax." in code or not [name for name in shown if name.startswith(JAX)]
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


@pytest.mark.parametrize("code", TRACED)
def test_the_same_line_inside_of_a_program(code):
    def program(*data):
        return eval(code, GIVEN | dict(zip(DATA, data)))

    with pytest.raises(MISTAKES[code].error) as error:
        jax.jit(program)(*[GIVEN[name] for name in DATA])
    assert str(error.value) == str(caught(code, GIVEN))
    assert _compiled.__file__ not in frames(error.value)


def test_the_page_is_the_table():
    assert PAGE.read_text() == page(), "run python -m tests.generate"


# --- every rule, attack and mixing ---------------------------------------------------------------

RULES = [name for name in byzjax.rules.__all__ if FACTS[name].takes_f]
MIXINGS = [name for name, facts in FACTS.items() if facts.kind == "mixing"]
SIMPLE = ["zero", "constant", "sign_flip", "reversed_gradient", "omniscient", "little_is_enough"]


@pytest.mark.parametrize("name", [*RULES, "nearest_neighbors", "adaptive_clipping"])
def test_f_by_position_and_by_another_name(name):
    rule = getattr(byzjax, name)
    with pytest.raises(TypeError, match=rf"^{name} (takes|needs) .*; write {name}\(updates, "):
        rule(GIVEN["x"], *[1] * 9)
    with pytest.raises(TypeError, match=rf"^{name} has no parameter n_byz; did you mean f\?"):
        rule(GIVEN["x"], n_byz=2)
    with pytest.raises(TypeError, match=r"^f must be a Python int; got float"):
        byzjax.aggregate(rule, f=0.4) if FACTS[name].kind == "rule" else byzjax.mix(rule, f=0.4)


@pytest.mark.parametrize("name", [*byzjax.rules.__all__, *MIXINGS])
def test_names_in_other_spellings(name):
    spelt = "".join(part.capitalize() for part in name.split("_"))
    for module, wrong in ((byzjax, spelt), (byzjax, f"{name}s"), (byzjax.attacks, name)):
        with pytest.raises(AttributeError, match=rf"did you mean byzjax\.{name}\?$"):
            getattr(module, wrong)
    with pytest.raises(TypeError, match=rf"write \w+\(byzjax\.{name}, "):
        byzjax.aggregate(name)


@pytest.mark.parametrize("name", SIMPLE)
def test_masks_of_attacks(name):
    attack = getattr(attacks, name)
    for mask in ([0, 1], jnp.array([0, 1]), {0, 1}, 3, None, np.zeros(11, int), "0, 1"):
        with pytest.raises((TypeError, ValueError), match=r"^byzantine "):
            attack(GIVEN["x"], mask)
        with pytest.raises((TypeError, ValueError), match=r"^byzantine must be bool\[n\]"):
            GIVEN["update"](byzjax.attack(attack, mask), GIVEN["x"])
    as_list = attack(GIVEN["x"], [True, True] + [False] * 9)
    np.testing.assert_array_equal(as_list, attack(GIVEN["x"], GIVEN["byzantine"]))


@pytest.mark.parametrize("library", [*_mistakes.leaves._CONVERSIONS, "unknown"])
def test_arrays_of_other_libraries(library):
    kind = type("Tensor", (_Foreign,), {"__module__": f"{library}.core"})
    for updates in (kind(11, 3), {"w": kind(11, 3)}, [kind(3)] * 11, [{"w": kind(3)}] * 11):
        with pytest.raises(TypeError, match=rf"is an? {library}\.Tensor; expected an arr") as error:
            byzjax.median(updates)
        several = isinstance(updates, list) and library != "unknown"
        assert ("byzjax.stack(" in str(error.value)) == several
        assert ("write " in str(error.value)) == (library != "unknown")


@pytest.mark.filterwarnings("ignore:Python iterable type")
def test_iterators():
    for updates in (iter([GIVEN["x"]]), (row for row in GIVEN["x"])):
        with pytest.raises(
            TypeError, match=r"^updates is a \w+; .* write byzjax\.stack\(updates\)"
        ):
            byzjax.median(updates)


def test_long_paths_are_cut():
    deep = {"params": {"a_module_with_a_long_name": {"another_module": {"kernel": jnp.ones(2)}}}}
    for tree in (deep | {"w": jnp.ones(3)}, jax.tree.map(lambda x: x.astype(int), deep)):
        with pytest.raises((TypeError, ValueError), match=r"\.\.\..*'kernel'\]") as error:
            byzjax.median(tree)
        assert len(str(error.value)) <= 200


def test_an_error_of_the_function_is_left_alone():
    """What the caller's own function raises comes through, although byzjax looked at the call."""

    def of_user(updates, *, f):
        raise TypeError(f"updates of the user, {f}")

    for error in (TypeError("mine"), ValueError("mine"), KeyError("mine"), AttributeError("mine")):

        def rule(updates, error=error):
            raise error

        for call in (
            lambda rule=rule: byzjax.influence(rule, GIVEN["x"]),
            lambda rule=rule: byzjax.stacked.coordinatewise(rule, GIVEN["x"]),
            lambda rule=rule: GIVEN["update"](byzjax.aggregate(rule), GIVEN["x"]),
        ):
            with pytest.raises(type(error)) as caught_error:
                call()
            assert caught_error.value is error
    with pytest.raises(TypeError, match=r"^updates of the user, 2$"):
        byzjax.bulyan(GIVEN["x"], f=2, rule=of_user)


# --- float64 -------------------------------------------------------------------------------------

FLOAT64 = """
import warnings, numpy as np, jax, optax, byzjax
from byzjax import attacks
updates, params, byzantine = np.ones((5, 3)), np.ones(3), np.arange(5) < 1
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as said:
    byzjax.krum(updates, f=1), byzjax.mean({"w": updates}), attacks.sign_flip(updates, byzantine)
    for tx in (
        byzjax.per_worker(optax.trace(0.9), 5),
        byzjax.aggregate(byzjax.median),
        byzjax.centered_clipping(radius=1.0),
        byzjax.foolsgold(5),
        attacks.stale(byzantine),
        attacks.mimic(byzantine, key=jax.random.key(0)),
    ):
        state = tx.init(params)
        tx.update(updates, state, params)
print(len(said), *[(warning.message, warning.filename) for warning in said], sep="; ")
"""


@pytest.mark.parametrize(("x64", "count"), [("0", 1), pytest.param("1", 0, marks=pytest.mark.slow)])
def test_float64_is_said_once(x64, count):
    environment = os.environ | {"JAX_ENABLE_X64": x64}
    done = subprocess.run(
        [sys.executable, "-c", FLOAT64], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.startswith(f"{count}")
    for words in ('jax.config.update("jax_enable_x64", True)', '.astype("float32")', "<string>"):
        assert done.stdout.count(words) == count, done.stdout


def test_float32_is_no_reason_for_a_warning(monkeypatch):
    monkeypatch.setattr(_mistakes.Float64, "unsaid", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        byzjax.median(np.ones((3, 2), np.float32))
        byzjax.median({"w": [jnp.ones((3, 2))]})
    with pytest.warns(UserWarning, match=r"^float64 updates are computed in float32; write"):
        byzjax.median([{"w": np.ones((3, 2))}])
    assert not _mistakes.Float64.unsaid


# --- byzjax.testing ------------------------------------------------------------------------------


def misspelt(updates, *, f):
    byzjax.enough_workers("misspelt", updates, f, needs=(2, 1))
    return jax.tree.map(lambda x: x.mean(axis=0) + undefined, updates)  # noqa: F821


def unmoved(updates, byzantine):
    return byzantine + updates


FACTS_OF_MISSPELT = Facts("rule", (2, 1), "nd", "", full=True, promise="range", reference="")


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (
            lambda: check_rule(misspelt, FACTS_OF_MISSPELT),
            r"misspelt breaks its contract, under jit and vmap: NameError: name 'undefined' is not "
            r"defined \(test_mistakes\.py, line \d+\)",
        ),
        (
            lambda: check_rule(byzjax.mean, FACTS["median"], sizes=[(3, 1)]),
            r"mean breaks its contract, promise 'range', n=3, f=1: it is not finite, after workers",
        ),
        (lambda: check_attack(unmoved), "unmoved breaks its contract, who lies may be traced: "),
    ],
)
def test_a_broken_rule_says_so_first(check, words):
    with pytest.raises(AssertionError, match=f"^{words}") as error:
        check()
    assert len(str(error.value).splitlines()) == 1
    own = [name for name in frames(error.value) if name != __file__]
    assert len(own) == 1, "one frame: that of the check"
    assert error.value.__suppress_context__
    printed = "".join(traceback.format_exception(error.value))
    assert "The above exception" not in printed
    assert len(printed.splitlines()) <= 10


def test_without_pytorch(monkeypatch):
    import byzjax.torch
    from byzjax.torch import _tensors

    monkeypatch.setattr(_tensors, "torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'byzjax\[torch\]'") as error:
        byzjax.torch.Aggregator("krum", f=1)
    assert len(str(error.value)) <= _mistakes.LONGEST
