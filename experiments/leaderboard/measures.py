"""What is measured of a row without training: the damage of one step, and the time of one call."""

import math
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.analysis import worst_case
from experiments.grid import specs
from experiments.leaderboard.entries import Defence

D = 1000  # coordinates of the updates whose damage is measured
ROOM = 79_510  # coordinates of the updates that are timed: the parameters of the MLP on MNIST
CALLS = 7
KEYS = ("rule", "mixing", "n", "f")
FILE = "measures.csv"


class Measures(NamedTuple):
    """Two measurements of one row.

    Attributes:
      damage: the largest over the attacks of `worst_case.fixed`, on Gaussian updates: the distance
        of the aggregate from the honest mean, in standard errors of that mean.
      ms: milliseconds of one call, the median; `ROOM` coordinates on this machine.
    """

    damage: float
    ms: float


def of_row(row: Defence, n: int, f: int) -> Measures:
    """Measures a rule behind a mixing; of one with memory, the first step."""
    rule, mixing = (specs.parse(kind, getattr(row, kind), f=f) for kind in ("rule", "mixing"))
    server = jax.jit(specs.deployed(rule, mixing))
    sent = worst_case.fixed_rows("gaussian", n, D, f, None)
    aggregates = jax.jit(lambda rows: jax.lax.map(server, rows))(jnp.stack(list(sent.values())))
    x, _ = worst_case.updates_of("gaussian", n, D, None)
    honest = x[: n - f].astype(np.float64)  # `fixed_rows` replaces the last f
    mean = honest.mean(axis=0)
    unit = math.sqrt(np.sum((honest - mean) ** 2) / ((n - f) * (n - f - 1)))
    away = np.linalg.norm(np.asarray(aggregates, np.float64) - mean, axis=1) / unit
    damage = float(away.max()) if np.isfinite(away).all() else math.inf
    wide = jax.random.normal(jax.random.key(0), (n, ROOM))
    jax.block_until_ready(server(wide))
    seconds = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        jax.block_until_ready(server(wide))
        seconds.append(time.perf_counter() - begin)
    return Measures(damage, 1000 * statistics.median(seconds))


def table(rows: Sequence[tuple[Defence, int, int]]) -> pd.DataFrame:
    """The measures of rows at n and f, one line each."""
    out = []
    for row, n, f in rows:
        of = of_row(row, n, f)
        line = {**row._asdict(), "n": n, "f": f, "damage": float(f"{of.damage:.4g}")}
        out.append(line | {"ms": float(f"{of.ms:.4g}")})
        jax.clear_caches()  # every row is a separate program
    return pd.DataFrame(out, columns=[*KEYS, "damage", "ms"])


def joined(runs: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """The runs with the measures of their rows."""
    rest = runs.drop(columns=["damage", "ms"], errors="ignore")
    return rest.merge(measured, on=list(KEYS), how="left", validate="many_to_one")
