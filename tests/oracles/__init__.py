"""The papers' loops: naive NumPy in float64, one function for each rule, mixing and attack.

A rule takes the matrix `x: [n, d]`, whose row i is the update of worker i, and f, even if unused;
an attack takes `byzantine: bool[n]`. A bad row, which is not finite or whose sum of squares
overflows float32, is infinitely far away. Nothing here imports byzjax.
"""

# ruff: noqa: F403

from tests.oracles.attacks import *
from tests.oracles.judged import *
from tests.oracles.memory import *
from tests.oracles.mixings import *
from tests.oracles.order import *
from tests.oracles.rows import *
from tests.oracles.rules import *
from tests.oracles.theory import *
