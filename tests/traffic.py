"""Bytes that a device sends in a compiled program, counted in its optimised HLO.

By convention, a collective among P devices uses the algorithm that sends least. Of B bytes that
one device holds before (all-to-all, all-reduce, reduce-scatter) or after (all-gather) it, the
device sends

    all-to-all, all-gather, reduce-scatter   (P - 1) / P B
    all-reduce                               2 (P - 1) / P B, a reduce-scatter and an all-gather
    collective-permute                       B

A collective in a loop counts once per iteration; all branches of a conditional count.
"""

import collections
import math
import re

KINDS = ("all-to-all", "all-gather", "all-reduce", "reduce-scatter", "collective-permute")

_BITS = {"pred": 8, "bf16": 16}  # the names of others say it: f32, s8, u64
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_COLLECTIVE = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(-start|-done)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:to_apply|calls|true_computation|false_computation)=(%?[\w.\-]+)"
    r"|branch_computations=\{([^}]*)\}"
)
_WHILE = re.compile(r"body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def collectives(text, devices):
    """(kind, bytes that a device sends, number of times) of every collective in optimised HLO."""
    computations, entry, lines = {}, None, []
    for line in text.splitlines():
        if begin := _COMPUTATION.match(line):
            lines = computations.setdefault(begin[2], [])
            entry = begin[2] if begin[1] else entry
        lines.append(line)
    assert entry, "no ENTRY in the text"

    def within(name):
        counted = []
        for line in computations[name]:
            if one := _COLLECTIVE.search(line):
                assert not one[3], f"asynchronous: {line[:200]}"
                counted.append((one[2], _sent(one[2], one[1], line, devices), 1))
            for called in _CALLED.findall(line):
                for branch in "".join(called).split(","):
                    counted += within(branch.strip().lstrip("%"))
            if body := _WHILE.search(line):
                inside, trips = within(body[1]), _TRIPS.search(line)
                assert trips or not inside, f"collectives in a loop of unknown length: {line[:200]}"
                counted += [(kind, sent, int(trips[1]) * times) for kind, sent, times in inside]
        return counted

    return within(entry)


def _sent(kind, result, line, devices):
    size = sum(
        math.prod(map(int, filter(None, shape.split(",")))) * _bits(dtype) // 8
        for dtype, shape in _ARRAY.findall(result)
    )
    if kind == "collective-permute":
        return size
    p = _group(line, devices)
    factor = {"all-reduce": 2, "reduce-scatter": p}.get(kind, 1)
    return factor * (p - 1) / p * size


def _bits(dtype):
    return _BITS.get(dtype) or int(re.search(r"\d+", dtype)[0])


def _group(line, devices):
    """The number of devices that take part."""
    if explicit := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(explicit[1].split(","))
    if listed := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(listed[2])
    return devices


def bytes_sent(text, devices):
    """Bytes that a device sends, by kind of collective."""
    total = collections.Counter()
    for kind, sent, times in collectives(text, devices):
        total[kind] += sent * times
    return total
