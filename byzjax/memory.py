"""Aggregations that remember: optax transformations that stand where `aggregate` does."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax._checks import not_negative, one_of, positive, rows_of_params, static_int
from byzjax._numerics import order
from byzjax._numerics.arrays import copied
from byzjax.rules._clip import clipped_about
from byzjax.stacked import PyTree


class CenterState(NamedTuple):
    """State of `centered_clipping`.

    Attributes:
      center: the last result, at first 0; one update, at least float32.
    """

    center: PyTree


def centered_clipping(
    *, radius: float, iterations: int = 1, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Centered clipping about its own last result.

    $$ v_0 = 0, \qquad v_t = \operatorname{centered\_clip}(x_1, \dots, x_n; v_{t-1}) $$

    Requirement: n >= 1. Breakdown: it moves by at most L tau a step. Promise: finite.
    Cost: O(nd), and O(d) of memory.

    Args:
      radius: tau, in the unit of the updates' norm; may be traced.
      iterations: L, a Python int.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      A transformation from stacked updates `[n, ...]` to one update `[...]`.

    Raises:
      ValueError: radius is not positive.
      TypeError: iterations is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> tx = byzjax.centered_clipping(radius=2.0)
      >>> state = tx.init(jnp.zeros(1))
      >>> for _ in range(2):
      ...     update, state = tx.update(jnp.array([[1.0], [2.0], [90.0]]), state)
      >>> update.round(4)
      Array([2.2222], dtype=float32)

    Reference: Karimireddy, He and Jaggi, Learning from History for Byzantine Robust Optimization,
    ICML 2021 (arXiv:2012.10333), Algorithm 2.
    """
    positive("radius", radius)
    static_int("iterations", iterations, at_least=1)

    def init(params: PyTree) -> CenterState:
        return CenterState(_nothing(params))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        if not jax.tree.leaves(updates):
            return updates, state
        rows_of_params("centered_clipping", updates, params)
        center = clipped_about(updates, state.center, radius, iterations, axis_name)
        out = jax.tree.map(lambda c, sent: c.astype(sent.dtype), center, updates)
        return out, CenterState(_like(state.center, center))

    return optax.GradientTransformationExtraArgs(init, update)


# --- foolsgold -----------------------------------------------------------------------------------


class HistoryState(NamedTuple):
    """State of `foolsgold`.

    Attributes:
      history: the sum of what each worker has sent; stacked.
    """

    history: PyTree


def foolsgold(
    num_workers: int, *, confidence: float = 1.0, divide: bool = True, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Weighted mean that distrusts workers whose histories point the same way.

    With the sum h_i of all that worker i has sent, s_ij the cosine of h_i and h_j for i != j and 0
    for i = j, and v_i = max_j s_ij,

    $$ s_{ij} \leftarrow s_{ij} \frac{v_i}{v_j} \text{ where } v_i < v_j, \qquad
       a_i = 1 - \max_j s_{ij}, \qquad \hat a_i = \frac{a_i}{\max_k a_k} $$

    $$ w_i = \Bigl[ \kappa \Bigl( \ln \frac{\hat a_i}{1 - \hat a_i} + \frac12 \Bigr)
       \Bigr]_0^1, \qquad F = \frac{\sum_i w_i x_i}{\sum_i w_i} $$

    The paper adds up w_i x_i without dividing (`divide=False`), and may restrict the cosines to
    features that matter; here they are over all coordinates. Rows that are not finite have weight 0
    and are not remembered. If all weights are 0, as when all workers always sent the same, the
    result is 0.

    Requirement: n >= 1. Breakdown: none proved; it is made for sybils that send alike, and fails
    against a single liar. Promise: finite. Cost: O(n^2 d), and O(nd) of memory.

    Args:
      num_workers: n, a Python int. Where an update has fewer rows, the extra argument `senders`,
        `int32[k]`, says whose they are; they are judged among themselves, and who is absent keeps
        what is remembered of him.
      confidence: kappa; may be traced.
      divide: divide by the sum of the weights.
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      A transformation from stacked updates `[n, ...]` to one update `[...]`.

    Raises:
      ValueError: confidence is not positive; at an update, the updates are not those of n workers.
      TypeError: num_workers is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> tx = byzjax.foolsgold(4)
      >>> updates = jnp.array([[1.0, 0.0], [0.0, 1.0], [-5.0, -5.0], [-5.0, -5.0]])
      >>> tx.update(updates, tx.init(jnp.zeros(2)))[0]
      Array([0.5, 0.5], dtype=float32)

    Reference: Fung, Yoon and Beschastnikh, Mitigating Sybils in Federated Learning Poisoning, 2018
    (arXiv:1808.04866), Algorithm 1.
    """
    n = static_int("num_workers", num_workers, at_least=1)
    positive("confidence", confidence)

    def init(params: PyTree) -> HistoryState:
        return HistoryState(_nothing(params, n))

    def update(updates, state, params=None, **extra_args):
        if not jax.tree.leaves(updates):
            return updates, state
        senders = _senders("foolsgold", updates, n, params, extra_args)
        finite = _finite_rows(updates, axis_name)
        history = _added(_of(senders, state.history), _only(updates, finite))
        zero = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), history)
        weights = _foolsgold_weights(stacked.gram(history, zero, axis_name=axis_name), confidence)
        weights = jnp.where(finite, weights, 0)
        if divide:
            total = jnp.sum(weights)
            weights = weights / jnp.where(total > 0, total, 1)
        history = _with(senders, state.history, history)
        return stacked.weighted_sum(updates, weights), HistoryState(history)

    return optax.GradientTransformationExtraArgs(init, update)


def _foolsgold_weights(gram: jax.Array, confidence: float) -> jax.Array:
    squares = jnp.diagonal(gram)
    known = jnp.isfinite(squares) & (squares > 0)
    units = jnp.where(known, jax.lax.rsqrt(jnp.where(known, squares, 1)), 0)
    off_diagonal = ~jnp.eye(len(squares), dtype=bool)
    cosines = jnp.where(off_diagonal & jnp.isfinite(gram), units[:, None] * gram * units[None], 0)
    most = jnp.max(cosines, axis=1)
    pardoned = most[:, None] < most[None]
    factors = jnp.where(pardoned, most[:, None] / jnp.where(pardoned, most[None], 1), 1)
    apart = jnp.clip(1 - jnp.max(cosines * factors, axis=1), 0, 1)
    most_apart = jnp.max(apart)
    share = apart / jnp.where(most_apart > 0, most_apart, 1)
    inner = (share > 0) & (share < 1)
    odds = jnp.where(inner, share / jnp.where(inner, 1 - share, 1), 1)
    logit = confidence * (jnp.log(odds) + 0.5)
    weights = jnp.where(inner, jnp.clip(logit, 0, 1), jnp.where(share >= 1, 1, 0))
    return weights.astype(gram.dtype)


# --- filters by concentration --------------------------------------------------------------------


class ConcentrationState(NamedTuple):
    """State of `concentration_filter`.

    Attributes:
      start: w_1, the parameters at the beginning.
      products: `[n]`, A_i.
      sums: B_i; stacked.
      good: `bool[n]`, the workers that have never been dropped.
    """

    start: PyTree
    products: jax.Array
    sums: PyTree
    good: jax.Array


def concentration_filter(
    num_workers: int,
    *,
    deviation: float,
    diameter: float,
    steps: int,
    delta: float = 0.1,
    divide_by: str = "workers",
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Mean of the workers whose gradients have always stayed within what chance allows.

    In step k, at parameters w_k, for each worker

    $$ A_i \leftarrow A_i + \langle x_i, w_k - w_1 \rangle, \qquad B_i \leftarrow B_i + x_i $$

    and a worker stays good as long as

    $$ |A_i - A_{\text{med}}| \le T_A, \quad \|B_i - B_{\text{med}}\| \le T_B, \quad
       \|x_i - x_{\text{med}}\| \le 4 V, \qquad
       T_A = 4 D V \sqrt{K \ln(16 n K / \delta)}, \quad
       T_B = 4 V \sqrt{K \ln(16 n K / \delta)} $$

    where A_med is the median, B_med the first B_i that more than n / 2 of all lie within T_B of,
    and x_med likewise within 2 V (where there is none, the one with the most). The result is the
    sum over the good workers divided by n, as in the paper, or by their number. A row that is not
    finite is infinitely far away, for ever. If nobody is good the result is NaN: then the
    assumption `|x_i - gradient| <= V` does not hold.

    Parameters must be given: `tx.update(updates, state, params)`.

    Requirement: n >= 2f + 1 for f liars. Breakdown: n > 2f. Promise: finite, if honest workers keep
    the assumption. Cost: O(n^2 d), and O(nd) of memory.

    Args:
      num_workers: n, a Python int. Where an update has fewer rows, the extra argument `senders`,
        `int32[k]`, says whose they are; they are judged among themselves, and who is absent keeps
        what is remembered of him.
      deviation: V, how far an honest gradient may be from the true one; may be traced.
      diameter: D, how far the parameters may go; may be traced.
      steps: K, the planned number of steps, a Python int.
      delta: probability of dropping an honest worker that is accepted.
      divide_by: `"workers"` (n) or `"good"` (their number).
      axis_name: mesh axis over which the coordinates are sliced, if they are.

    Returns:
      A transformation from stacked updates `[n, ...]` to one update `[...]`.

    Raises:
      ValueError: a hyperparameter is out of range; at an update, the updates are not those of n
        workers, or there are no params.
      TypeError: num_workers or steps is not a Python int.

    Example:
      >>> import byzjax, jax.numpy as jnp
      >>> limits = {"deviation": 1.0, "diameter": 1.0, "steps": 9}
      >>> tx = byzjax.concentration_filter(3, **limits, divide_by="good")
      >>> params = jnp.zeros(1)
      >>> tx.update(jnp.array([[1.0], [2.0], [90.0]]), tx.init(params), params)[0]
      Array([1.5], dtype=float32)

    Reference: Alistarh, Allen-Zhu and Li, Byzantine Stochastic Gradient Descent, NeurIPS 2018
    (arXiv:1803.08917), Algorithm 1.
    """
    n = static_int("num_workers", num_workers, at_least=1)
    steps = static_int("steps", steps, at_least=1)
    positive("deviation", deviation)
    positive("diameter", diameter)
    one_of("divide_by", divide_by, ("workers", "good"))
    if isinstance(delta, int | float) and not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1; got delta={delta}.")
    spread = 4 * jnp.sqrt(steps * jnp.log(16 * n * steps / delta))

    def init(params: PyTree) -> ConcentrationState:
        sums = _nothing(params, n)
        products = jnp.zeros(n, _dtype_of_sums(sums))
        return ConcentrationState(copied(params), products, sums, jnp.ones(n, bool))

    def update(updates, state, params=None, **extra_args):
        if not jax.tree.leaves(updates):
            return updates, state
        if params is None:
            raise ValueError(
                "concentration_filter needs params; write tx.update(updates, state, params)."
            )
        senders = _senders("concentration_filter", updates, n, params, extra_args)
        finite = _finite_rows(updates, axis_name)
        before = _of(senders, (state.products, state.sums, state.good))
        way = jax.tree.map(lambda w, start: jnp.asarray(w) - start, params, state.start)
        products = stacked.inner_products(updates, way, axis_name=axis_name)
        products = before[0] + products.astype(state.products.dtype)
        sums = _added(before[1], updates)
        middle = order.median(products[:, None])[0]
        reach_of_sums = jnp.asarray(deviation * spread, products.dtype)
        good = before[2] & finite & (jnp.abs(products - middle) <= diameter * reach_of_sums)
        everybody = jnp.ones(len(good), bool)
        for rows, radius, reach in (
            (sums, reach_of_sums, reach_of_sums),
            (updates, 2 * deviation, 4 * deviation),
        ):
            distances = stacked.pairwise_squared_distances(rows, axis_name=axis_name)
            good = good & (_to_vector_median(distances, everybody, radius) <= reach**2)
        count = jnp.sum(good, dtype=jnp.int32)
        total = len(good) if divide_by == "workers" else count.astype(products.dtype)
        weights = good.astype(products.dtype) / total
        weights = jnp.where(count > 0, weights, jnp.nan)
        after = _with(senders, (state.products, state.sums, state.good), (products, sums, good))
        return stacked.weighted_sum(updates, weights), ConcentrationState(state.start, *after)

    return optax.GradientTransformationExtraArgs(init, update)


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
    r"""Mean of the workers whose sums over two windows stay near the others' (SafeguardSGD).

    $$ A_i = \sum_{k \ge k_1} \frac{x_{k,i}}{|G_k|}, \qquad
       B_i = \sum_{k \ge k_0} \frac{x_{k,i}}{|G_k|}, \qquad
       F = \nu \xi + \frac{1}{|G_k|} \sum_{i \in G_k} x_i $$

    where the long window began at step k_1, the last multiple of T_1, the short one at k_0, that of
    T_0, G_k are the good workers, and the entries of xi are standard normal. After each step a
    worker is dropped whose A_i is farther than its threshold (times `slack`) from A_med, or B_i
    from B_med: the first good A_i that more than n / 2 of the good ones lie within the threshold of
    (where there is none, the one with the most). With `reset`, all are good again when a long
    window begins.

    As in the public code, a step's mean is taken before that step drops anybody; `filter_first`
    does it the other way round, so that not even the first lie counts. A row that is not finite is
    infinitely far away until its windows end, and never in the mean. If nobody is good the result
    is NaN.

    Requirement: n >= 2f + 1 for f liars. Breakdown: n > 2f. Promise: finite.
    Cost: O(n^2 d), and O(nd) of memory.

    Args:
      num_workers: n, a Python int. Where an update has fewer rows, the extra argument `senders`,
        `int32[k]`, says whose they are; they are judged among themselves, and who is absent keeps
        what is remembered of him.
      windows: (T_0, T_1), numbers of steps, with T_0 <= T_1.
      thresholds: those of B (short) and A (long), in the unit of the updates' norm.
      noise: nu, in the unit of the updates; above 0 it needs a key. May be traced; then the result
        without a key is NaN where it is above 0.
      key: first key of the noise.
      slack: by how much a worker's distance may exceed the threshold, as a factor.
      reset: whether dropped workers return with the next long window.
      filter_first: drop before the mean.
      axis_name: mesh axis over which the coordinates are sliced, if they are; each device then
        draws noise of its own.

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
    noisy = key is not None and not (known and noise == 0)

    def init(params: PyTree) -> SafeguardState:
        first = copied(key) if noisy else None
        sums = _nothing(params, n), _nothing(params, n)
        return SafeguardState(jnp.zeros((), jnp.int32), *sums, jnp.ones(n, bool), first)

    def update(updates, state, params=None, **extra_args):
        if not jax.tree.leaves(updates):
            return updates, state
        senders = _senders("safeguard", updates, n, params, extra_args)
        finite = _finite_rows(updates, axis_name)
        whole = state.good
        if reset:
            whole = whole | (state.count % long == 0)
        good = _of(senders, whole)
        members = jnp.maximum(jnp.sum(good, dtype=jnp.int32), 1)
        sums, staying = [], good & finite
        for old, window, threshold in (
            (state.short_sums, short, thresholds[0]),
            (state.long_sums, long, thresholds[1]),
        ):
            begins = state.count % window == 0
            old = jax.tree.map(lambda leaf, begins=begins: jnp.where(begins, 0, leaf), old)
            new = _added(_of(senders, old), updates, members)
            distances = stacked.pairwise_squared_distances(new, axis_name=axis_name)
            distances = _to_vector_median(distances, good, threshold)
            staying = staying & (distances <= (slack * threshold) ** 2)
            sums.append(_with(senders, old, new))
        averaged = staying if filter_first else good & finite
        out = stacked.mean_of(updates, averaged)
        following = state.key
        if noisy:
            following, now = jax.random.split(state.key)
            out = _with_noise(out, noise, now, axis_name)
        elif not known:  # from where the key is missing, and not without a word
            wrong = jnp.where(noise > 0, jnp.nan, 0)
            out = jax.tree.map(lambda leaf: leaf + wrong.astype(leaf.dtype), out)
        staying = _with(senders, whole, staying)
        return out, SafeguardState(state.count + 1, sums[1], sums[0], staying, following)

    return optax.GradientTransformationExtraArgs(init, update)


# --- what they share -----------------------------------------------------------------------------


def _nothing(params: PyTree, *workers: int) -> PyTree:
    """Sums of nothing, for so many workers: in the dtype in which sums are taken."""

    def zeros(leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return jnp.zeros((*workers, *leaf.shape), stacked.sum_dtype(leaf.dtype))

    return jax.tree.map(zeros, params)


def _dtype_of_sums(sums: PyTree) -> jnp.dtype:
    """That of norms and inner products of these sums; also where there is no leaf."""
    leaves = jax.tree.leaves(sums)
    return stacked.squared_norms(leaves).dtype if leaves else jnp.dtype(jnp.float32)


def _senders(name: str, updates: PyTree, n: int, params: PyTree, extra_args: dict) -> Any:
    """Whose rows these are, `int32[k]`; None if they are those of all n workers, in order."""
    found, senders = stacked.num_workers(updates), extra_args.get("senders")
    rows_of_params(name, updates, params)
    if found == n:
        return None
    if senders is None or found > n:
        raise ValueError(f"{name} was made for {n} workers; got updates of {found}.")
    return senders


def _of(senders: Any, state: PyTree) -> PyTree:
    """The rows of the senders; who takes no part keeps what it has, see `_with`."""
    return state if senders is None else jax.tree.map(lambda leaf: leaf[senders], state)


def _with(senders: Any, state: PyTree, rows: PyTree) -> PyTree:
    if senders is None:
        return rows
    return jax.tree.map(lambda leaf, own: leaf.at[senders].set(own), state, rows)


def _like(before: PyTree, after: PyTree) -> PyTree:
    """In the dtypes that the state had."""
    return jax.tree.map(lambda old, new: new.astype(old.dtype), before, after)


def _finite_rows(updates: PyTree, axis_name: str | None) -> jax.Array:
    """`bool[k]`: the rows with a finite norm."""
    return jnp.isfinite(stacked.squared_norms(updates, axis_name=axis_name))


def _only(updates: PyTree, rows: jax.Array) -> PyTree:
    """The updates, in the dtype of sums, with 0 for all other rows."""
    return stacked.scale(stacked.widened(updates), rows.astype(jnp.float32))


def _added(sums: PyTree, updates: PyTree, count: jax.Array | None = None) -> PyTree:
    """The sums with the updates, divided by the count."""

    def add(total: jax.Array, leaf: jax.Array) -> jax.Array:
        leaf = leaf.astype(total.dtype)
        return total + (leaf if count is None else leaf / count.astype(total.dtype))

    return jax.tree.map(add, sums, updates)


def _to_vector_median(
    squared_distances: jax.Array, members: jax.Array, radius: jax.Array | float
) -> jax.Array:
    """Squared distances to the first member that more than n / 2 members lie within radius of.

    Where there is none, to the one with the most.
    """
    n = len(members)
    near = (squared_distances <= radius**2) & members[None]
    count = jnp.where(members, jnp.sum(near, axis=1, dtype=jnp.int32), -1)
    middle = jnp.argmax(jnp.where(2 * count > n, n + 1, count))
    return squared_distances[middle]


def _with_noise(update: PyTree, noise: float, key: jax.Array, axis_name: str | None) -> PyTree:
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    leaves, structure = jax.tree.flatten(update)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        leaf + jnp.asarray(noise, leaf.dtype) * jax.random.normal(k, leaf.shape, leaf.dtype)
        for leaf, k in zip(leaves, keys)
    ]
    return jax.tree.unflatten(structure, noisy)
