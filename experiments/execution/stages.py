"""Seconds of each stage of training, from a profiler's trace and the text of compiled programs.

A trace names the instructions that ran, and their program's text says which `jax.named_scope` each
of them comes from. Instructions that XLA has fused into one are measured together: if they come
from several stages, their time belongs to none of them.
"""

import collections
import gzip
import itertools
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jax.profiler import ProfileData

# Named scopes, in the order in which a step runs them.
STAGES = (
    "batch",
    "gradient",
    "send",
    "attack",
    "mix",
    "aggregate",
    "server",
    "diagnostics",
    "evaluate",
)
# Instructions outside of any scope, those that XLA has added without a name, and time within a
# program when none runs.
OUTSIDE = "no stage"
UNNAMED = "unnamed by XLA"
BETWEEN = "between operations"
# As many as the profiler writes to its own JSON.
MOST_EVENTS = 1_000_000

# Instructions that compute nothing; XLA copies them into the fusions that read them.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "broadcast", "iota"}
_CONTAINERS = {"while", "conditional", "call"}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ?\b([a-z][a-z0-9\-]*)\((.*)$")
_CALLED = re.compile(
    r"\b(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_OP_NAME = re.compile(r'\bop_name="([^"]*)"')
_MODULE = re.compile(r"^HloModule ([\w.\-]+)")


class Instruction(NamedTuple):
    """An instruction of a compiled program.

    Attributes:
      name: as in a trace.
      kind: its opcode.
      scalar: whether its result is one number.
      op_name: the function, scopes and primitive that it comes from; empty if unknown.
      called: the computations that it calls.
    """

    name: str
    kind: str
    scalar: bool
    op_name: str
    called: tuple[str, ...]


class Labels(NamedTuple):
    """The stages of a compiled program.

    Attributes:
      module: the program's name, as in a trace.
      stages: the stages of each instruction that may be in a trace, by name: several for a fusion,
        `OUTSIDE` without any, and nothing if unknown.
      containers: loops, conditionals and calls, whose time contains that of other instructions.
    """

    module: str
    stages: dict[str, tuple[str, ...]]
    containers: frozenset[str]


def labels(text: str) -> Labels:
    """The stages of a program, from its text, `jax.stages.Compiled.as_text()`.

    Instructions without a name belong to the loop or conditional around them. If all others of the
    program are of one stage, so are they.
    """
    computations, entry = _parsed(text)
    module = _MODULE.search(text)
    of_instructions: dict[str, tuple[str, ...]] = {}
    containers: set[str] = set()

    def visit(computation: str, around: tuple[str, ...]) -> None:
        for each in computations.get(computation, ()):
            own = _own_stages(each, computations)
            own = around or own if own in ((), (OUTSIDE,)) else own
            of_instructions[each.name] = own
            if each.kind in _CONTAINERS:
                containers.add(each.name)
                for inner in each.called:
                    visit(inner, () if own == (OUTSIDE,) else own)

    named = (each.op_name for inside in computations.values() for each in inside)
    everywhere = {stage_of(name) for name in named if "/" in name}
    visit(entry, tuple(everywhere) if len(everywhere) == 1 and OUTSIDE not in everywhere else ())
    return Labels(module[1] if module else "", of_instructions, frozenset(containers))


def _parsed(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of each computation, and the name of the first computation."""
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    entry = ""
    for line in text.splitlines():
        if (head := _COMPUTATION.match(line)) and not line.startswith("HloModule"):
            current = computations.setdefault(head[1], [])
            entry = head[1] if line.startswith("ENTRY") else entry
        elif match := _INSTRUCTION.match(line):
            name, shape, kind, rest = match.groups()
            op_name, branches = _OP_NAME.search(rest), _BRANCHES.search(rest)
            called = _CALLED.findall(rest)
            if branches:
                called += [one.strip().lstrip("%") for one in branches[1].split(",")]
            scalar = "[]" in shape and not shape.startswith("(")
            instruction = Instruction(
                name, kind, scalar, op_name[1] if op_name else "", tuple(called)
            )
            current.append(instruction)
    return computations, entry


def _own_stages(
    instruction: Instruction, computations: dict[str, list[Instruction]]
) -> tuple[str, ...]:
    """The stages that an instruction comes from; empty if unknown."""
    if instruction.kind == "fusion":
        inside = _inside(instruction, computations)
        known = {stage_of(each.op_name) for each in inside if "/" in each.op_name}
        if known:
            return tuple(stage for stage in (*STAGES, OUTSIDE) if stage in known)
    return (stage_of(instruction.op_name),) if "/" in instruction.op_name else ()


def _inside(
    fusion: Instruction, computations: dict[str, list[Instruction]]
) -> Iterator[Instruction]:
    """The instructions of a fusion that compute more than one number."""
    for name in fusion.called:
        for each in computations.get(name, ()):
            if each.kind == "fusion":
                yield from _inside(each, computations)
            elif each.kind not in _FREE and not (each.scalar and each.kind != "reduce"):
                yield each


def stage_of(op_name: str) -> str:
    """The outermost stage in the name of an operation, such as `jit(f)/vmap(attack)/add`."""
    functions = re.sub(r"\bjit\([^()]*\)", "", op_name)
    for scope in re.split(r"[/()]", functions):
        if scope in STAGES:
            return scope
    return OUTSIDE


class Operation(NamedTuple):
    """An instruction that ran, or a call of a program; times in ns.

    Attributes:
      start: when it began.
      end: when it ended.
      name: of the instruction; of a call, empty.
      module: name of the program that the instruction belongs to; None if the trace does not say.
      program: index of the program called; -1 for an instruction.
      line: index of the thread or stream in the trace.
    """

    start: float
    end: float
    name: str
    module: str | None = None
    program: int = -1
    line: int = 0


def operations(folder: pathlib.Path, call: str) -> list[Operation]:
    """The instructions and calls in the newest trace of a folder, in order.

    Args:
      folder: the argument of `jax.profiler.trace`.
      call: the name of calls, with a stat `program`.

    Raises:
      FileNotFoundError: there is no trace.
    """
    traces = sorted((folder / "plugins" / "profile").glob("*/*.xplane.pb"))
    if not traces:
        raise FileNotFoundError(f"the profiler has written no trace to {folder}.")
    data = ProfileData.from_file(str(traces[-1]))
    events: list[Operation] = []
    ends: dict[int, float] = {}
    started: list[tuple[int, int]] = []
    for number, line in enumerate(line for plane in data.planes for line in plane.lines):
        for event in line.events:
            name, start = event.name, event.start_ns
            if name.startswith("ThreadpoolListener"):
                continue
            stats = dict(event.stats)
            if name.startswith("end: "):  # of an instruction that ran in other threads
                ends[stats.get("_c", -1)] = start
            elif name == call:
                events.append(Operation(start, start, "", None, int(stats["program"])))
            elif "hlo_op" in stats:
                if "_p" in stats:
                    started.append((len(events), stats["_p"]))
                end, module = start + event.duration_ns, stats.get("hlo_module")
                events.append(Operation(start, end, str(stats["hlo_op"]), module, -1, number))
    for place, key in started:
        if ends.get(key, 0) > events[place].end:
            events[place] = events[place]._replace(end=ends[key])
    return sorted(events, key=lambda each: (each.start, each.name))


class Labelled(NamedTuple):
    """An instruction that ran, and its stages.

    Attributes:
      operation: the instruction.
      stages: its stages; empty if unknown.
      container: whether it is a loop, conditional or call.
    """

    operation: Operation
    stages: tuple[str, ...]
    container: bool


def labelled(ran: Sequence[Operation], programs: Sequence[Labels]) -> list[Labelled]:
    """The instructions with their stages; those of other programs are left out.

    Args:
      ran: calls of programs and their instructions, in order of their start. An instruction belongs
        to the program called last.
      programs: the labels of the programs.
    """
    with_stages, program = [], None
    for each in ran:
        if each.program >= 0:
            program = programs[each.program]
        elif program is not None and each.module in (None, program.module):
            stages = program.stages.get(each.name)
            if stages is not None:
                with_stages.append(Labelled(each, stages, each.name in program.containers))
    return with_stages


def seconds(ran: Sequence[Labelled]) -> dict[tuple[str, ...], float]:
    """The seconds of each stage, or of several in one fusion; at most the time that passed in all.

    At every moment the running instructions share the time equally. A loop or conditional has the
    time in which none runs: that of its stage, or else `BETWEEN`.
    """
    changes = [(each.operation.start, 1, each.container, each.stages) for each in ran]
    changes += [(each.operation.end, -1, each.container, each.stages) for each in ran]
    changes.sort(key=lambda change: change[0])
    spent: dict[tuple[str, ...], float] = collections.defaultdict(float)
    working: dict[tuple[str, ...], int] = collections.defaultdict(int)
    around: list[tuple[str, ...]] = []
    count, last = 0, 0.0
    for now, change, container, stages in changes:
        if count:
            for key, number in working.items():
                if number:
                    spent[key] += (now - last) * number / count
        elif around:
            inside = around[-1] not in ((), (OUTSIDE,))
            spent[around[-1] if inside else (BETWEEN,)] += now - last
        last = now
        if not container:
            working[stages or (UNNAMED,)] += change
            count += change
        elif change > 0:
            around.append(stages)
        else:
            around.reverse()
            around.remove(stages)
            around.reverse()
    return {key: total / 1e9 for key, total in spent.items()}


def write(path: pathlib.Path, ran: Sequence[Labelled]) -> None:
    """Writes a trace for Perfetto in which instructions have the names of their stages.

    It is compressed JSON, of the first `MOST_EVENTS` instructions.
    """
    events = [
        {
            "name": line_of(each.stages or (UNNAMED,)),
            "ph": "X",
            "ts": each.operation.start / 1e3,
            "dur": (each.operation.end - each.operation.start) / 1e3,
            "pid": 0,
            "tid": each.operation.line,
            "args": {"instruction": each.operation.name, "program": each.operation.module},
        }
        for each in itertools.islice((one for one in ran if not one.container), MOST_EVENTS)
    ]
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(json.dumps({"traceEvents": events}))  # many times faster than `json.dump`


def line_of(stages: Sequence[str]) -> str:
    """The name of a stage, or of the stages that share fusions."""
    return stages[0] if len(stages) == 1 else f"{' + '.join(stages)}, fused"
