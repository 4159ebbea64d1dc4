"""Edge cases of a rule's contract: the fewest workers, no faults, small leaves."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.facts import Facts
from byzjax.testing._clauses import close
from byzjax.testing.rows import DIM, grid


def check_corners(
    clause_of: Callable,
    call: Callable,
    facts: Facts,
    rng: np.random.Generator,
    eps: float,
    otherwise: int | None = None,
) -> list[str]:
    """Checks that equal rows give that row or, if the facts do not claim it, a finite result.

    `otherwise` is n if the rule's hyperparameters need more workers than its facts state.
    """
    n = max(1, facts.needs[1]) if facts.takes_f else 1
    with clause_of(f"n={n}, f=0"):
        if otherwise is not None and not _accepts(call, n):
            n = otherwise
    x = jnp.asarray(np.repeat(grid(rng, 1), n, axis=0), jnp.float32)
    low = x.astype(jnp.bfloat16)
    for words, updates in {
        "one coordinate": x[:, :1],
        "an empty and a scalar leaf": {"e": x[:, :0], "s": x[:, 0], "w": x[:, 1:, None]},
        "leaves of bfloat16": {"s": low[:, 0], "w": low[:, 1:]},
    }.items():
        with clause_of(f"{words}, n={n}, f=0"):
            out = jax.jit(lambda updates: call(updates, 0))(updates)
            like = jax.tree.map(lambda leaf: (leaf.shape[1:], leaf.dtype.name), updates)
            made = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), out)
            if made != like:
                raise AssertionError(f"shapes and dtypes are {made}, expected {like}.")
            for leaf, sent in zip(jax.tree.leaves(out), jax.tree.leaves(updates)):
                expected = sent[0] if facts.repeats else leaf
                rounding = max(eps, float(jnp.finfo(leaf.dtype).eps))
                close(leaf, expected, float(jnp.max(jnp.abs(x))), rounding)
    return [f"small corners, n={n}, f=0"]


def _accepts(call: Callable, n: int) -> bool:
    try:
        jax.eval_shape(lambda updates: call(updates, 0), jnp.zeros((n, DIM)))
    except ValueError:
        return False
    return True
