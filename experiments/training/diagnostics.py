"""Diagnostics of one step: functions of a protocol's `info`, evaluated inside jit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import byzjax
from byzjax import stacked
from byzjax.protocols import Info

NAMES = (
    "honest_norm",
    "variance_to_norm",
    "distance",
    "angle",
    "liars_influence",
    "liars_excluded",
    "honest_excluded",
)

# With client sampling: the number of rounds in which more Byzantine workers were drawn than the
# rule was told to tolerate.
EXCESS = "excess_rounds"


def of_step(info: Info, byzantine: jax.Array, deployed: Callable | None) -> dict[str, jax.Array]:
    r"""Diagnostics of one step, scalars by name.

    * `honest_norm`: $\|\mu\|$ of the honest mean.
    * `variance_to_norm`: $\sqrt{\sum_i \|x_i - \mu\|^2 / (h - 1)} / \|\mu\|$ over the h honest.
    * `distance`: $\|F - \mu\|$; `angle`: between F and mu, in degrees.
    * `liars_influence`: the sum of the Byzantine workers' shares of F, by `byzjax.influence`
      along F.
    * `liars_excluded`, `honest_excluded`: the share of Byzantine and of honest workers without any
      influence; NaN if there are none of the kind.

    Args:
      info: of one step.
      byzantine: `bool[n]`, all workers.
      deployed: the server's aggregation, `updates -> update`; None if it is not such a function,
        and then influence and exclusion are NaN.
    """
    byzantine = byzantine[info.senders]
    honest = ~byzantine
    mean = stacked.mean_selected(info.honest, honest)
    squares = stacked.squared_distances(info.honest, mean)
    count = jnp.sum(honest)
    variance = jnp.sum(jnp.where(honest, squares, 0)) / jnp.maximum(count - 1, 1)
    norm, length = _norm(mean), _norm(info.aggregate)
    inner = stacked.inner_products(_row(info.aggregate), mean)[0]
    cosine = jnp.clip(inner / (norm * length), -1, 1)
    away = jax.tree.map(lambda a, b: a.astype(b.dtype) - b, info.aggregate, mean)
    shares = jnp.full(byzantine.shape, jnp.nan)
    if deployed is not None:
        shares = byzjax.influence(deployed, info.sent, direction=info.aggregate)
    none = jnp.where(jnp.isnan(shares), jnp.nan, jnp.abs(shares) < 1e-6)
    return {
        "honest_norm": norm,
        "variance_to_norm": jnp.sqrt(variance) / norm,
        "distance": _norm(away),
        "angle": jnp.rad2deg(jnp.arccos(cosine)),
        "liars_influence": jnp.sum(jnp.where(byzantine, shares, 0 * shares)),
        "liars_excluded": _share(none, byzantine),
        "honest_excluded": _share(none, honest),
    }


def _row(update: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], update)


def _norm(update: Any) -> jax.Array:
    return jnp.sqrt(stacked.squared_norms(_row(update))[0])


def _share(which: jax.Array, among: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(among, which, 0)) / jnp.sum(among)
