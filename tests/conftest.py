"""Shared configuration of the tests. The environment is set before anything imports jax."""

import functools
import os
import pathlib
import time

from tests.flags import QUICKLY

os.environ["JAX_NUM_CPU_DEVICES"] = "8"  # for the tests of jax.shard_map
os.environ.setdefault("XLA_FLAGS", QUICKLY)  # XLA_FLAGS='' compiles as users do
# Compiled programs are shared by the processes of a run and cached for the next run, which takes
# half of the time. The cache key holds the program, the flags and the version of XLA.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "byzjax",
    deadline=None,  # the first example compiles
    derandomize=True,
    database=None,
    max_examples=20,
    print_blob=False,
)
hypothesis.settings.load_profile("byzjax")


def pytest_collection_modifyitems(items):
    """Sorts tests of one group next to each other: they share compiled functions.

    `--dist worksteal` hands out neighbours, so that most functions are compiled once.
    """
    first: dict = {}
    places = []
    for i, item in enumerate(items):
        groups = tuple(mark.args[0] for mark in item.iter_markers("xdist_group"))
        module = first.setdefault(item.path, i)
        places.append((module, first.setdefault((item.path, groups), i), i))
    items[:] = [items[i] for _, _, i in sorted(places)]


END = float(os.environ.get("BYZJAX_TESTS_END", "inf"))  # seconds since 1970
TOO_LATE = "the time of this run is over (BYZJAX_TESTS_END)"
if "PYTEST_XDIST_WORKER" in os.environ:  # tests that run pytest themselves are not cut
    os.environ.pop("BYZJAX_TESTS_END", None)


def pytest_runtest_setup(item):
    if time.time() > END:
        pytest.skip(TOO_LATE)


DRAWN = "cases drawn by hypothesis"
drawn: list[int] = []  # one entry per test


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Counts the cases that hypothesis draws for a test."""
    handle = getattr(getattr(item, "obj", None), "hypothesis", None)
    if handle is None:
        return (yield)
    inner, count = handle.inner_test, 0

    @functools.wraps(inner)
    def counted(*args, **kwargs):
        nonlocal count
        count += 1
        return inner(*args, **kwargs)

    handle.inner_test = counted
    try:
        return (yield)
    finally:
        handle.inner_test = inner
        item.user_properties.append((DRAWN, count))


def pytest_runtest_logreport(report):
    if report.when == "call":
        drawn.extend(count for name, count in report.user_properties if name == DRAWN)


def pytest_terminal_summary(terminalreporter):
    if drawn:
        terminalreporter.write_line(f"{sum(drawn):,} {DRAWN}, in {len(drawn)} tests")
    skipped = terminalreporter.stats.get("skipped", [])
    if late := sum(TOO_LATE in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(f"NOT RUN: {late:,} tests, because {TOO_LATE}", red=True)
