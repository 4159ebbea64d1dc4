"""`--profile`: scopes in the programs, and the time that each stage took."""

import gzip
import json
import re

import jax
import jax.numpy as jnp
import pytest

from experiments.cli import commands
from experiments.data import datasets
from experiments.execution import stages
from experiments.execution.profile import Profile
from experiments.execution.stages import BETWEEN, OUTSIDE, UNNAMED, Operation
from experiments.grid import catalogue
from experiments.grid.config import Config
from experiments.training import assemble
from experiments.training import program as programs

OPTIONS = "--model softmax --n 7 --f 2 --s 2 --seeds 1 --steps 6 --eval-every 3 --batch-size 4"
OPTIONS += " --rule median --mixing nearest_neighbors --attack sign_flip"
# The stages that a user is promised, and those that a profile also tells apart.
PROMISED = ("send", "attack", "mix", "aggregate", "server", "evaluate")

PROGRAM = """HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%fused.1 (p.1: f32[8]) -> f32[8] {
  %p.1 = f32[8]{0} parameter(0)
  %b.1 = f32[8]{0} broadcast(%c), dimensions={}, metadata={op_name="jit(step)/batch/full"}
  %index.1 = s32[] add(%i, %i), metadata={op_name="jit(step)/while/body/add"}
  %sin.1 = f32[8]{0} sine(%p.1), metadata={op_name="jit(step)/vmap(attack)/jit(mix)/sin"}
  ROOT %add.1 = f32[8]{0} add(%sin.1, %b.1), metadata={op_name="jit(step)/server/attack/add"}
}

%fused.2 (p.2: f32[8]) -> f32[8] {
  %p.2 = f32[8]{0} parameter(0)
  ROOT %neg.2 = f32[8]{0} negate(%p.2)
}

%body.1 (t.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %t.1 = (s32[], f32[8]{0}) parameter(0)
  %copy.1 = f32[8]{0} copy(%x)
  %both = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused.1, metadata={op_name="jit(step)/server/a"}
  %inner = (s32[], f32[8]{0}) while(%t.1), condition=%cond.2, body=%body.2, metadata={op_name="\
jit(step)/while/body/transpose(jvp(gradient))/while"}
  ROOT %t.2 = (s32[], f32[8]{0}) tuple(%i, %x)
}

%body.2 (t.3: (s32[], f32[8])) -> (s32[], f32[8]) {
  %in.1 = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused.2
  ROOT %t.4 = (s32[], f32[8]{0}) tuple(%i, %in.1)
}

%yes (x.1: f32[8]) -> f32[8] {
  ROOT %tan.1 = f32[8]{0} tan(%x.1), metadata={op_name="jit(step)/cond/branch_0_fun/mix/tan"}
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %outer = (s32[], /*index=1*/f32[8]{0}) while(%a), condition=%cond.1, body=%body.1
  %sort.1 = f32[8]{0} sort(%a), to_apply=%less, metadata={op_name="jit(step)/aggregate/sort"}
  %keys.1 = f32[8]{0} xor(%a, %a), metadata={op_name="jit(step)/xor"}
  ROOT %if.1 = f32[8]{0} conditional(%k, %a, %a), branch_computations={%yes, %yes}
}
"""


def test_stages_of_a_program():
    labels = stages.labels(PROGRAM)
    assert labels.module == "jit_step"
    assert labels.containers == {"outer", "inner", "if.1"}
    expected = {
        "both": ("attack", "server"),
        "copy.1": (),
        "inner": ("gradient",),
        "in.1": ("gradient",),  # it has no name, but runs within a loop of this stage
        "tan.1": ("mix",),
        "sort.1": ("aggregate",),
        "keys.1": (OUTSIDE,),
        "outer": (),
    }
    assert {name: labels.stages[name] for name in expected} == expected

    one = re.sub(r'op_name="[^"]*"', 'op_name="jit(step)/evaluate/add"', PROGRAM)
    assert set(stages.labels(one).stages.values()) == {("evaluate",)}


def ran(*intervals):
    return sorted(Operation(start * 1e9, end * 1e9, *more) for start, end, *more in intervals)


def test_instructions_that_run_together_share_the_time():
    operations = ran(
        (0, 1, "sort.1", "jit_step"),  # before the first call: of no known program
        (1, 1, "", None, 0),
        (1, 11, "outer", "jit_step"),
        (2, 4, "both", "jit_step"),
        (3, 5, "copy.1", "jit_step"),
        (5, 8, "inner", "jit_step"),
        (6, 7, "in.1", "jit_step"),
        (9, 10, "copy.1", "jit_shuffle"),  # another program, which prepares data
        (12, 14, "sort.1", "jit_step"),
        (12, 14, "sort.1", "jit_step"),  # on a second device
    )
    seconds = stages.seconds(stages.labelled(operations, [stages.labels(PROGRAM)]))
    assert seconds == {
        (BETWEEN,): 4.0,
        ("attack", "server"): 1.5,
        (UNNAMED,): 1.5,
        ("gradient",): 3.0,
        ("aggregate",): 2.0,
    }


# --- scopes --------------------------------------------------------------------------------------


def test_the_programs_of_the_laboratory_carry_the_stages():
    digits = datasets.load("digits")
    model = programs.zoo.build("softmax", digits.train_x.shape[1:], digits.num_classes)
    config = Config(
        model="softmax", n=7, f=2, s=(2,), seeds=1, steps=2, eval_every=2, batch_size=4,
        rule=("median",), mixing=("nearest_neighbors",), attack=("sign_flip",),
    )  # fmt: skip
    (block,) = assemble.plan(config)
    program = programs.build(config, digits, model, block.rule, block.mixing, [block.attack])
    runs = programs.Runs(
        jax.random.split(jax.random.key(0), 1), jnp.ones((1, 7), bool), jnp.zeros((1, 7, 5), int),
        jnp.full((1, 7), 5), jnp.ones(1), jnp.zeros((1, catalogue.MOST_STRENGTHS)),
    )  # fmt: skip
    # A program from a cache on disk may have been compiled without scopes.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        states = program.start(0, runs)
        for first in (0, 2):
            states, _ = program.advance(states, first, 0, runs)
        program.evaluate(states, True, runs)
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert len(program.compiled) == 3  # the second call of `advance` compiles nothing
    _, advance, evaluate = [stages.labels(each.executable.as_text()) for each in program.compiled]
    seen = {stage for one in advance.stages.values() for stage in one} - {OUTSIDE}
    assert seen == {*stages.STAGES} - {"evaluate"}
    assert {stage for one in evaluate.stages.values() for stage in one} == {"evaluate"}
    assert advance.module != evaluate.module


@pytest.mark.parametrize(
    ("protocol", "without"),
    [
        ("parameter_server(per_round=8, local_steps=2, local_rate=0.3)", {"mix"}),
        ("gossip(graph='ring')", {"mix", "server"}),
        ("gossip(graph='complete', per_receiver=True)", {"mix", "server"}),
        ("replicated_servers(num_servers=5, f_servers=1)", {"mix"}),
        ("replicated_state_machine()", {"mix"}),
        ("redundant(r=3, s=1)", {"mix"}),
        ("redundant(code='cyclic', s=1)", {"mix"}),
        ("asynchronous(buffers=6, judge='kardam')", {"mix", "send"}),
    ],
)
def test_the_steps_of_protocols_carry_the_stages(protocol, without):
    at = "update" if protocol.startswith(("redundant", "asynchronous")) else "worker"
    config = Config(
        n=12, f=1, s=(1,), rule=("mean",), attack=("sign_flip",), protocol=protocol, momentum_at=at
    )
    (block,) = [b for b in assemble.planning.plan(config) if b.attack.name == "sign_flip"]
    step = jax.jit(lambda: assemble._one_step(config, block.rule, block.mixing, block.attack))
    names = re.findall(r'"([^"]*/[^".]*)"', step.lower().as_text(debug_info=True))
    in_a_step = {*stages.STAGES} - {"batch", "diagnostics", "evaluate"}
    assert set(map(stages.stage_of, names)) - {OUTSIDE} == in_a_step - without


# --- a profiled run ------------------------------------------------------------------------------


@pytest.fixture
def told(capsys):
    def run_here(*arguments):
        status = commands.main([*OPTIONS.split(), *map(str, arguments)])
        return status, *capsys.readouterr()

    return run_here


def runs_in(folder):
    (path,) = folder.glob("*/blocks/*.json")
    return json.loads(path.read_text())["runs"]


def test_a_profile_says_where_the_time_went_and_changes_nothing(tmp_path, told, monkeypatch):
    built, build = [], programs.build
    monkeypatch.setattr(programs, "build", lambda *args: built.append(build(*args)) or built[-1])
    traces, plain, profiled = (tmp_path / name for name in ("traces", "plain", "profiled"))
    _, without, _ = told("--results", plain)
    status, out, err = told("--results", profiled, "--profile", traces)
    assert status == 0, err
    assert "Seconds by stage" not in without
    assert runs_in(plain) == runs_in(profiled)
    first, second = [len(program.compiled) for program in built]
    assert first == second == 3
    assert not jax.config.jax_compilation_cache_include_metadata_in_key

    (trace,) = traces.glob("*/plugins/profile/*/*.xplane.pb")
    assert list(trace.parent.glob("*.trace.json.gz"))
    with gzip.open(next(traces.glob("*/stages.trace.json.gz"))) as file:
        events = json.load(file)["traceEvents"]
    assert {"gradient", "aggregate", "evaluate"} <= {event["name"] for event in events}
    _, _, table = out.partition("Seconds by stage, 1 block traced (docs/throughput.md):\n")
    rows = re.findall(r"^  (.+?) +([\d.]+) +[\d.]+ %$", table, re.MULTILINE)
    spent = {name: float(seconds) for name, seconds in rows}
    assert {*PROMISED, "data and runs", "compile", "everything else"} <= set(spent)
    assert spent["compile"] > 0
    *parts, total = spent.values()
    assert sum(parts) == pytest.approx(total, abs=0.005 * len(parts))
    assert min(parts) >= 0

    (logged,) = [
        line["profile"]
        for path in profiled.glob("*/log.jsonl")
        for line in map(json.loads, path.read_text().splitlines())
        if "profile" in line
    ]
    # A stage may be in fusions with others only.
    seen = " ".join(logged)
    assert {stage for stage in stages.STAGES if stage not in seen} == set()

    _, out, _ = told("--results", profiled, "--profile", traces)
    assert "No profile: all blocks were finished already" in out


@pytest.mark.parametrize("folder", ["/dev/null/here", "/proc/here"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, told, folder):
    status, out, err = told("--results", tmp_path / "results", "--profile", folder)
    assert (status, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert line.startswith(f"error: --profile cannot write to {folder}: ")
    assert not (tmp_path / "results").exists()


def test_a_trace_that_is_lost_does_not_lose_the_block(tmp_path, told, monkeypatch):
    def lose(*args):
        raise OSError("no space left")

    monkeypatch.setattr(stages, "operations", lose)
    status, out, err = told("--results", tmp_path / "results", "--profile", tmp_path / "traces")
    assert status == 0, err
    assert "no space left" in err
    assert len(runs_in(tmp_path / "results")) == 1
    assert "compile" in out


def test_without_a_folder_there_is_no_profile(tmp_path):
    profile = Profile()
    program = programs.Program(*[lambda: None] * 6, [])
    with profile.traced("block", program, tmp_path / "log.jsonl") as same:
        assert same is program
    assert profile.report() == ""
    assert not list(tmp_path.iterdir())
