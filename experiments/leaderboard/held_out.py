"""Attacks that no edition lists: drawn at verification, with rows that differ from each other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byzjax import attacks
from experiments.grid import calls

COUNT = 3  # held-out attacks for each row that is tried
# The strengths that are drawn from, log-uniformly.
STRENGTHS: dict[str, tuple[float, float]] = {
    "little_is_enough": (0.3, 4.0),
    "inner_product_manipulation": (0.1, 10.0),
    "between": (0.3, 4.0),
}
SPREADS = (0.05, 0.5)  # of the noise that makes rows differ, in honest standard deviations


def disguised(
    updates: Any,
    byzantine: jax.Array,
    key: jax.Array,
    *,
    attack: str = "little_is_enough",
    strength: float = 1.0,
    spread: float = 0.1,
) -> Any:
    r"""One or two attacks of the library, with rows that differ: $b_i = a + spread \, \sigma g_i$.

    Here $\sigma$ is the honest standard deviation of each coordinate and $g_i \sim N(0, I)$.
    A rule that recognises the listed attacks by equal rows, or by their distance from the
    mean in standard deviations, does not recognise these. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`.
      key: of the noise.
      attack: a key of `STRENGTHS`; `between` is the mean of the two others.
      strength: z and epsilon.
      spread: size of the noise.

    Returns:
      Stacked updates; the honest rows are unchanged.
    """
    parts = [attacks.little_is_enough(updates, byzantine, z=strength)]
    parts.append(attacks.inner_product_manipulation(updates, byzantine, epsilon=strength))
    places = {"little_is_enough": (0,), "inner_product_manipulation": (1,), "between": (0, 1)}
    chosen = [parts[i] for i in places[attack]]
    sent = jax.tree.map(lambda *of: sum(of) / len(of), *chosen)
    leaves, structure = jax.tree.flatten(sent)
    before = jax.tree.leaves(updates)
    keys = jax.random.split(key, len(leaves))

    def noisy(sent: jax.Array, honest: jax.Array, key: jax.Array) -> jax.Array:
        is_bad = byzantine.reshape(-1, *[1] * (sent.ndim - 1))
        std = jnp.std(honest, axis=0, keepdims=True, where=~is_bad)
        noise = spread * std * jax.random.normal(key, sent.shape, sent.dtype)
        return jnp.where(is_bad, sent + noise, honest)

    out = [noisy(*of) for of in zip(leaves, before, keys)]
    return jax.tree.unflatten(structure, out)


def drawn(random: np.random.Generator, count: int = COUNT) -> tuple[str, ...]:
    """Some of these attacks, as on the command line; one of each family first."""
    out = []
    for i in range(count):
        name = [*STRENGTHS][i % len(STRENGTHS)]
        low, high = STRENGTHS[name]
        strength = float(np.exp(random.uniform(np.log(low), np.log(high))))
        given = {"attack": name, "strength": round(strength, 4)}
        given["spread"] = round(float(random.uniform(*SPREADS)), 4)
        out.append(calls.written(f"{__name__}:disguised", given))
    return tuple(out)
