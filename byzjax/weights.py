"""Weights of workers, such as sample counts, that no few workers can decide."""

import jax
import jax.numpy as jnp

from byzjax._checks import static_int, weights_of_workers
from byzjax._compiled import compiled, taught


@taught
def cap_weights(counts: jax.Array, *, f: int, share: float) -> jax.Array:
    r"""Caps self-reported counts so that any f workers hold at most a share of the weight.

    $$ w_i = \min(c_i, t), \qquad
       t = \max \Bigl\{ t : \max_{|B| = f} \sum_{i \in B} \min(c_i, t)
       \le s \sum_i \min(c_i, t) \Bigr\} $$

    Guarantee: whatever f workers report, together they hold at most the share s of the weight, up
    to rounding. A rule that takes `f=k` with s <= k / n therefore withstands them, and one that
    withstands less than half of the weight does for s < 1/2. Counts that are not above the cap are
    unchanged, so other workers keep their proportions. If no cap is needed, nothing changes.

    Proof: the f largest counts hold the most, and after them the cap is chosen. It exists if
    f / m <= s for the m workers with positive counts, since for small t these weigh the same. The
    share A / (A + B) of the f largest, with sums A of theirs and B of the others, does not fall as
    t grows: where t is below all f, A' / A = 1 / t >= B' / B; beyond, no other count exceeds t, and
    B' = 0. So the largest t is found between two counts, where both sums are linear.

    Requirement: f <= s m. Cost: O(n^2).

    Args:
      counts: `[n]`, at least 0, as reported; may be traced.
      f: number of workers that may lie, a Python int.
      share: s, in (0, 1]; may be traced.

    Returns:
      `[n]` weights, at least float32. Where traced values cannot be capped, NaN.

    Raises:
      ValueError: a count is negative or not finite, all are 0, share is not in (0, 1], or
        f > s m.
      TypeError: f is not a Python int, or counts are not an array of real numbers.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> counts = jnp.array([30.0, 10.0, 20.0, 20.0, 1e9])
      >>> byzjax.cap_weights(counts, f=1, share=0.25)
      Array([25., 10., 20., 20., 25.], dtype=float32)

    Reference: derived here; capping sample counts for the same purpose: Portnoy, Tirosh and
    Hendler, Towards Federated Learning With Byzantine-Robust Client Weighting, 2020
    (arXiv:2004.04986).
    """
    f = static_int("f", f)
    weights_of_workers("counts", counts)
    if isinstance(share, int | float):
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1]; got share={share}.")
        if not isinstance(counts, jax.core.Tracer):
            m = sum(count > 0 for count in counts.tolist())
            if f > share * m * (1 + 1e-6):
                raise ValueError(
                    f"cap_weights needs f <= share * m for m workers with positive counts; "
                    f"got f={f}, share={share}, m={m}."
                )
    return _capped(counts, f, share)


@compiled
def _capped(counts: jax.Array, f: int, share: float) -> jax.Array:
    dtype = jnp.promote_types(jnp.result_type(float), jnp.float32)
    counts = jnp.asarray(counts).astype(dtype)
    top = -jnp.sort(-counts)
    below = jnp.minimum(top[None], top[:, None])  # row k: capped at the k-th largest count
    total = jnp.sum(below, axis=1)
    excess = jnp.sum(below[:, :f], axis=1) - share * total
    rounding = 4 * float(jnp.finfo(dtype).eps) * total
    fits = (top > 0) & (excess <= rounding)
    k = jnp.argmax(fits)  # the largest count that is a cap
    above = jnp.minimum(k, f) - share * k
    cap = top[k] + jnp.where(k > 0, jnp.maximum(-excess[k], 0) / above, 0)
    return jnp.where(jnp.any(fits), jnp.minimum(counts, cap), jnp.nan)
