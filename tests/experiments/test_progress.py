"""The progress bar's estimate, with simulated durations and a simulated clock."""

import itertools
import random

import pytest

from experiments.execution import progress
from experiments.execution.progress import Part, Progress, Seen, remaining


def part(rule, attack, steps=100, attacks=4):
    name = (rule, attacks)
    return Part(name, attacks, ((*name, attack), name, attacks > 1), steps)


def test_nothing_is_known_before_anything_was_measured():
    assert remaining([], [part("mean", "a")]) is None
    assert remaining([Seen(part("mean", "a"), 5.0, 0.0, 0)], [part("mean", "a")]) is None


def test_programs_and_steps_are_told_apart():
    seen = [Seen(part("mean", "a"), 10.0, 2.0, 100)]
    assert remaining(seen, []) == 0
    assert remaining(seen, [part("mean", "b")]) == 2  # compiled
    assert remaining(seen, [part("krum", "a")]) == 10 + 2
    assert remaining(seen, [part("krum", "a"), part("krum", "b", 50)]) == 10 + 2 + 1  # once
    assert remaining(seen, [part("mean", "a", 0), part("krum", "a", 0)]) == 10


def test_what_is_most_similar_counts():
    seen = [
        Seen(part("mean", "a"), 10.0, 2.0, 100),
        Seen(part("krum", "a"), 30.0, 6.0, 100),
        Seen(part("krum", "slow"), 0.0, 60.0, 100),
    ]
    assert remaining(seen, [part("mean", "b")]) == 2
    assert remaining(seen, [part("krum", "slow", 10)]) == 6
    assert remaining(seen, [part("krum", "b")]) == pytest.approx((6 + 60) / 2)
    assert remaining(seen, [part("aksel", "b")]) == pytest.approx(20 + (2 + 6 + 60) / 3)


def test_programs_of_other_sizes_are_scaled_by_their_priors():
    seen = [Seen(part("mean", "none", attacks=1), 7.0, 1.0, 100)]
    assert remaining(seen, [part("mean", "a")]) == pytest.approx(10.0 + 1.0)
    seen.append(Seen(part("mean", "a"), 30.0, 1.0, 100))
    assert remaining(seen, [part("krum", "a", 0)]) == pytest.approx(30)
    assert remaining(seen, [part("krum", "none", 0, attacks=1)]) == pytest.approx(7)


def simulated(parts, compile_seconds, step_seconds, start=0.5, chunks=12):
    """(elapsed, estimate of the whole) at each evaluation, and the true whole."""
    clock, out, compiled = [0.0], [], set()
    with Progress(parts, shown=False, now=lambda: clock[0]) as bar:
        for each in parts:
            bar.begin(f"{each.program} {each.like[0]}")
            assert ("compiling" in bar.doing) == (each.program not in compiled)
            spent = 0.0
            if each.program not in compiled:
                spent = compile_seconds(each)
                compiled.add(each.program)
                clock[0] += spent + start
            for _ in range(chunks):
                clock[0] += step_seconds(each) * each.steps / chunks
                bar.advance(each.steps // chunks, spent)
                assert "compiling" not in bar.doing
                left = bar.left()
                out.append((clock[0], None if left is None else clock[0] + left))
        assert bar.left() == pytest.approx(0, abs=1e-9)
    return out, clock[0]


RULES = ("mean", "median", "trimmed_mean", "krum", "aksel")


def grid():
    for rule in RULES:
        yield part(rule, "none", 1200, attacks=1)
        yield from (part(rule, attack, 3600) for attack in "abcd")


def test_it_is_exact_where_all_programs_are_alike():
    out, whole = simulated(list(grid()), lambda each: 6.0 + each.attacks, lambda each: 1e-3)
    known = [estimate for _, estimate in out if estimate is not None]
    assert len(known) == len(out) - 1  # all but the first
    for estimate in known:
        assert estimate == pytest.approx(whole, rel=0.1)  # the start is measured with the program


def test_it_does_not_jump_where_they_differ_by_a_third():
    random.seed(0)
    noise = {each.program: random.uniform(0.75, 1.25) for each in grid()}
    out, whole = simulated(
        list(grid()),
        lambda each: (13 if each.attacks == 1 else 19) * noise[each.program],
        lambda each: 1e-3 * noise[each.program],
    )
    estimates = [(at, estimate) for at, estimate in out if estimate is not None]
    for (_, one), (_, other) in itertools.pairwise(estimates):
        assert abs(other - one) < 0.25 * whole
    for at, estimate in estimates:
        if at > whole / 4:
            assert estimate == pytest.approx(whole, rel=0.25)


def test_by_speed_alone_it_would_jump():
    """The comparison: the former estimate, elapsed seconds per step of the past."""
    out, whole = simulated(list(grid()), lambda each: 15.0, lambda each: 1e-3)
    total, done, worst = sum(each.steps for each in grid()), 0, 0.0
    steps = [each.steps // 12 for each in grid() for _ in range(12)]
    for (at, _), more in zip(out, steps):
        done += more
        worst = max(worst, abs(at * total / done - whole) / whole)
    assert worst > 5


def test_one_evaluation_is_enough():
    out, whole = simulated(list(grid()), lambda each: 7.0, lambda each: 1e-2, start=0.0, chunks=1)
    assert out[0][1] is not None
    assert out[-1][1] == pytest.approx(whole)


def test_steps_of_a_checkpoint_are_no_measurement():
    clock = [0.0]
    with Progress([part("mean", "a", 100)], shown=False, now=lambda: clock[0]) as bar:
        bar.begin("mean under a")
        bar.advance(50, 0.0, resumed=True)
        assert bar.left() is None
        for seconds in (12.0, 2.0):
            clock[0] += seconds
            bar.advance(20, 10.0)
        assert bar.left() == pytest.approx(1.0)
        bar.end()
        assert bar.left() == pytest.approx(0.0)


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_the_bar_fits_the_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    clock = [0.0]
    parts = [part("mean", "a", 10**7), part("krum", "b", 10**7)]
    with Progress(parts, shown=True, now=lambda: clock[0]) as bar:
        bar.bar.mininterval = 0
        bar.begin("geometric_median_of_means(k=5) under inner_product_manipulation(epsilon=0.5)")
        for _ in range(4):
            clock[0] += 1000
            bar.advance(10**6, 10.0)
    lines = capsys.readouterr().err.replace("\n", "\r").split("\r")
    assert any("compiling geometric" in line for line in lines)
    assert any("left, 1.00k step/s" in line for line in lines)
    assert max(map(len, lines)) < min(columns, progress.WIDEST)
