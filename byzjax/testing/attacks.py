"""The contract of attacks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from byzjax import transforms
from byzjax._compiled import taught
from byzjax._mistakes import name_of
from byzjax._signature import must_be_function
from byzjax.testing._clauses import PLATFORMS, brief, clause, same
from byzjax.testing.rows import grid


@brief
@taught
def check_attack(
    attack: Callable,
    *,
    sizes: Sequence[tuple[int, int]] = ((5, 1), (12, 5)),
    seed: int = 0,
    **hyperparameters: Any,
) -> tuple[str, ...]:
    """Checks the contract that every attack keeps.

    Honest rows are bitwise unchanged; without attackers nothing changes; the mask may be traced;
    two calls give equal results; trees and dtypes are kept; it lowers for every platform and works
    in a chain.

    Args:
      attack: `attack(updates, byzantine, **hyperparameters) -> updates`.
      sizes: pairs (n, s) of workers and attackers to try.
      seed: seeds all random inputs.
      **hyperparameters: those of the attack, with a key or a rule if it takes one.

    Returns:
      The clauses that were checked. Cost: seconds; four programs for each size.

    Raises:
      AssertionError: the attack violates one of them.

    Example:
      >>> from byzjax import attacks
      >>> check_attack(attacks.sign_flip)[:3]
      ('honest rows are kept', 'no liar, no change', 'who lies may be traced')
    """
    must_be_function("check_attack", attack)
    name = name_of(attack)
    clause_of = functools.partial(clause, name)
    rng = np.random.default_rng(seed)

    def call(updates: Any, byzantine: jax.Array) -> Any:
        return attack(updates, byzantine, **hyperparameters)

    for n, s in sizes:
        x = jnp.asarray(grid(rng, n, 8), jnp.float32)
        tree = {"b": x[:, 0], "w": (x[:, 1:5].reshape(n, 2, 1, 2), x[:, 5:].astype(jnp.bfloat16))}
        none = jnp.zeros(n, bool)
        traces = []

        @jax.jit
        def compiled(updates, byzantine, traces=traces):
            traces.append(None)
            return call(updates, byzantine)

        for liars in (np.arange(s), n - 1 - np.arange(s), rng.choice(n, s, replace=False)):
            byzantine = jnp.asarray(np.isin(np.arange(n), liars))
            with clause_of("who lies may be traced"):
                sent = compiled(tree, byzantine)
            with clause_of("trees and dtypes are kept"):
                if jax.tree.map(jnp.shape, sent) != jax.tree.map(jnp.shape, tree):
                    raise AssertionError(f"{jax.tree.map(jnp.shape, sent)}.")
                if jax.tree.map(jnp.result_type, sent) != jax.tree.map(jnp.result_type, tree):
                    raise AssertionError(f"{jax.tree.map(jnp.result_type, sent)}.")
            with clause_of(f"honest rows are kept, n={n}, s={s}"):
                same(sent, tree, ~byzantine)
            with clause_of("two calls give the same"):
                same(compiled(tree, byzantine), sent, ~none)
        with clause_of("no liar, no change"):
            same(compiled(tree, none), tree, ~none)
        with clause_of("who lies may be traced"):
            if len(traces) != 1:
                raise AssertionError(f"{len(traces)} traces for 4 masks.")
            together = jax.vmap(call, in_axes=(None, 0))(tree, jnp.stack([none, byzantine]))
            same(jax.tree.map(lambda leaf: leaf[0], together), tree, ~none)
            same(jax.tree.map(lambda leaf: leaf[1], together), tree, ~byzantine)
        with clause_of("two calls give the same"):
            # Traced again, which detects an attack that draws numbers while it is traced.
            same(jax.jit(lambda *given: call(*given))(tree, byzantine), sent, ~none)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        with clause_of(f"lowers for {', '.join(PLATFORMS)}"):
            jax.export.export(jax.jit(call), platforms=PLATFORMS)(
                shapes, jax.ShapeDtypeStruct((n,), bool)
            )
        with clause_of("stands in a chain"):
            tx = transforms.attack(call, none)
            jax.eval_shape(lambda u, tx=tx: tx.update(u, tx.init({}))[0], shapes)
    kept = ("honest rows are kept", "no liar, no change", "who lies may be traced")
    return (*kept, "two calls give the same", "trees and dtypes", "lowers", "stands in a chain")
