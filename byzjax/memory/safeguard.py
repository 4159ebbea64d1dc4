"""SafeguardSGD: drops workers whose recent sums lie far from the others."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax._checks import not_negative, positive, prng_key, rows_of_params, static_int
from byzjax._compiled import taught
from byzjax._mistakes import shown
from byzjax._numerics.arrays import copied
from byzjax._senders import rows_of, senders_of, with_rows
from byzjax.memory._state import added, finite_rows, nothing, to_vector_median, with_noise
from byzjax.stacked import PyTree


class SafeguardState(NamedTuple):
    """State of `safeguard`.

    Attributes:
      count: number of steps so far.
      long_sums: A_i; stacked.
      short_sums: B_i; stacked.
      good: `bool[n]`.
      key: the key that the next step splits for its noise, or None.
    """

    count: jax.Array
    long_sums: PyTree
    short_sums: PyTree
    good: jax.Array
    key: Any


@taught
def safeguard(
    num_workers: int,
    *,
    windows: tuple[int, int],
    thresholds: tuple[float, float],
    noise: float = 0.0,
    key: jax.Array | None = None,
    slack: float = 1.0,
    reset: bool = True,
    filter_first: bool = False,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Mean of the workers whose sums over two windows stay near the others (SafeguardSGD).

    $$ A_i = \sum_{k \ge k_1} \frac{x_{k,i}}{|G_k|}, \qquad
       B_i = \sum_{k \ge k_0} \frac{x_{k,i}}{|G_k|}, \qquad
       F = \nu \xi + \frac{1}{|G_k|} \sum_{i \in G_k} x_i $$

    where the long window began at step k_1, the last multiple of T_1, and the short one at k_0,
    that of T_0, G_k are the good workers, and the entries of xi are standard normal. After each
    step, workers are dropped whose A_i is farther than its threshold (times `slack`) from A_med, or
    B_i from B_med: the first good A_i with more than n / 2 of the good ones within the threshold
    (if there is none, the one with the most). With `reset`, all are good again when a long window
    begins.

    As in the public code, a step's mean is taken before that step drops workers; with
    `filter_first` it is taken afterwards, so that not even the first malicious update counts. A row
    that is not finite is infinitely far away until its windows end, and never in the mean. If no
    worker is good the result is NaN.

    Requirement: n >= 2f + 1 for f attackers. Breakdown: n > 2f. Promise: finite.
    Cost: O(n^2 d), and O(nd) of memory.

    Args:
      num_workers: n, a Python int. If an update has fewer rows, the extra argument `senders`,
        `int32[k]`, names their workers; they are judged among themselves, and the state of absent
        workers does not change.
      windows: (T_0, T_1), numbers of steps, with T_0 <= T_1.
      thresholds: thresholds of B (short) and A (long), in the unit of the updates' norm.
      noise: nu, in the unit of the updates; needs a key if above 0. May be traced; without a key
        the result is then NaN where it is above 0.
      key: first key of the noise.
      slack: factor by which a worker's distance may exceed the threshold.
      reset: whether dropped workers return with the next long window.
      filter_first: drop workers before the mean is taken.
      axis_name: mesh axis over which the coordinates are sliced, if they are; each device then
        draws its own noise.

    Returns:
      A transformation from stacked updates `[n, ...]` to one update `[...]`.

    Raises:
      ValueError: a hyperparameter is out of range, or there is noise without a key; at an update,
        the updates are not those of n workers.
      TypeError: num_workers or a window is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> tx = byzjax.safeguard(3, windows=(1, 4), thresholds=(1.0, 2.0))
      >>> state, updates = tx.init(jnp.zeros(1)), jnp.array([[1.0], [2.0], [90.0]])
      >>> for _ in range(2):
      ...     update, state = tx.update(updates, state)
      >>> update
      Array([1.5], dtype=float32)

    Reference: Allen-Zhu, Ebrahimian, Li and Alistarh, Byzantine-Resilient Non-Convex Stochastic
    Gradient Descent, ICLR 2021 (arXiv:2012.14368), Algorithm 1.
    """
    n = static_int("num_workers", num_workers, at_least=1)
    for name, pair in {"windows": windows, "thresholds": thresholds}.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{name} must be a pair (short, long); got {shown(pair)}.")
    short, long = (static_int("windows", window, at_least=1) for window in windows)
    if short > long:
        raise ValueError(f"windows must be (short, long), short <= long; got {(short, long)}.")
    for threshold in thresholds:
        positive("thresholds", threshold)
    positive("slack", slack)
    not_negative("noise", noise)
    known = isinstance(noise, int | float)
    if known and noise > 0 and key is None:
        raise ValueError("safeguard needs key=... where noise is above 0.")
    if key is not None:
        prng_key("key", key)
    noisy = key is not None and not (known and noise == 0)

    def init(params: PyTree) -> SafeguardState:
        first = copied(key) if noisy else None
        sums = nothing(params, n), nothing(params, n)
        return SafeguardState(jnp.zeros((), jnp.int32), *sums, jnp.ones(n, bool), first)

    def update(updates, state, params=None, **extra_args):
        if not jax.tree.leaves(updates):
            return updates, state
        rows_of_params("safeguard", updates, params)
        senders = senders_of("safeguard", updates, n, extra_args)
        finite = finite_rows(updates, axis_name)
        whole = state.good | (state.count % long == 0) if reset else state.good
        good = rows_of(senders, whole)
        members = jnp.maximum(jnp.sum(good, dtype=jnp.int32), 1)
        sums, staying = [], good & finite
        for old, window, threshold in (
            (state.short_sums, short, thresholds[0]),
            (state.long_sums, long, thresholds[1]),
        ):
            old = _restarted(old, state.count % window == 0)
            new = added(rows_of(senders, old), updates, members)
            distances = stacked.pairwise_squared_distances(new, axis_name=axis_name)
            distances = to_vector_median(distances, good, threshold)
            staying = staying & (distances <= (slack * threshold) ** 2)
            sums.append(with_rows(senders, old, new))
        averaged = staying if filter_first else good & finite
        out = stacked.mean_selected(updates, averaged)
        following = state.key
        if noisy:
            following, now = jax.random.split(state.key)
            out = with_noise(out, noise, now, axis_name)
        elif not known:  # traced, without a key: NaN instead of a silent result
            wrong = jnp.where(noise > 0, jnp.nan, 0)
            out = jax.tree.map(lambda leaf: leaf + wrong.astype(leaf.dtype), out)
        staying = with_rows(senders, whole, staying)
        return out, SafeguardState(state.count + 1, sums[1], sums[0], staying, following)

    return optax.GradientTransformationExtraArgs(init, update)


def _restarted(sums: PyTree, begins: jax.Array) -> PyTree:
    """The sums, reset to 0 where a window begins."""
    return jax.tree.map(lambda leaf: jnp.where(begins, 0, leaf), sums)
