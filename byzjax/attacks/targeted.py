"""Attacks designed against one rule, or one family of rules."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import one_of, static_int
from byzjax._compiled import compiled
from byzjax._numerics import order
from byzjax._numerics.arrays import wide
from byzjax.attacks import _rows
from byzjax.scores import lowest, ranks
from byzjax.stacked import PyTree


@compiled
def hidden_vulnerability(
    updates: PyTree, byzantine: jax.Array, *, gamma: float, coordinate: int | None = None
) -> PyTree:
    r"""All attackers send the honest mean with one coordinate far off, $b = \mu + \gamma e_j$.

    In high dimension a rule that compares whole rows accepts a gamma of order $\sqrt d$. Against
    rules that bound the norm, shift all coordinates: $b = \mu + \gamma (1, \dots, 1)$. `strongest`
    finds how large a gamma is accepted. Without honest workers, mu = 0. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      gamma: strength; may be traced.
      coordinate: j, counted across all leaves, a Python int; None for all coordinates.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or there is no such coordinate.
      TypeError: coordinate is not a Python int.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0, 0.0], [3.0, 0.0], [7.0, 0.0]])
      >>> byzantine = jnp.array([False, False, True])
      >>> attacks.hidden_vulnerability(updates, byzantine, gamma=5.0, coordinate=1)[2]
      Array([2., 5.], dtype=float32)

    Reference: El-Mhamdi, Guerraoui and Rouault, The Hidden Vulnerability of Distributed Learning in
    Byzantium, ICML 2018 (arXiv:1802.07927), section 3.
    """
    byzantine = _rows.mask(updates, byzantine)
    mean = _rows.honest_mean(updates, byzantine)
    if coordinate is None:
        where = jax.tree.map(jnp.ones_like, mean)
    else:
        j, d = static_int("coordinate", coordinate), stacked.num_coordinates(updates)
        if j >= d:
            raise ValueError(f"hidden_vulnerability needs coordinate < {d}; got coordinate={j}.")
        where = jax.tree.map(
            lambda number, mu: (number == j).astype(mu.dtype), _rows.coordinates(mean), mean
        )
    return _rows.replace(updates, byzantine, _rows.plus(mean, gamma, where))


@compiled
def order_statistic(updates: PyTree, byzantine: jax.Array, *, rank: int | None = None) -> PyTree:
    r"""All attackers send one order statistic of the honest updates, coordinate by coordinate.

    $$ b_j = x_{(k)j} \quad \text{of the honest } x_{(1)j} \le \dots \le x_{(h)j} $$

    For k = ceil(n / 2) the coordinate-wise median of all n rows is this value, the farthest it can
    be moved, and the attackers are at distance 0 from it: rules that select around the median
    select all of them. With s = (n - 1) / 2 attackers this is the largest honest value. Without
    honest workers, b = 0. Cost: O(nd); with a rank, that of a median.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      rank: k, from 1, a Python int; None for the largest honest value, which is also sent where
        there are fewer than k honest workers.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or there are fewer than k workers.
      TypeError: rank is not a Python int.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0, 9.0], [2.0, 7.0], [3.0, 8.0], [0.0, 0.0]])
      >>> byzantine = jnp.array([False, False, False, True])
      >>> attacks.order_statistic(updates, byzantine)[3]
      Array([3., 9.], dtype=float32)
      >>> attacks.order_statistic(updates, byzantine, rank=2)[3]
      Array([2., 8.], dtype=float32)

    Reference: ours; the worst case of the median in docs/bounds.md, T1.
    """
    byzantine = _rows.mask(updates, byzantine)
    n = len(byzantine)
    if rank is not None and static_int("rank", rank, at_least=1) > n:
        raise ValueError(f"order_statistic needs rank <= n = {n}; got rank={rank}.")

    def lie(x: jax.Array) -> jax.Array:
        liars = byzantine.reshape(-1, *[1] * (x.ndim - 1))
        value = jnp.max(jnp.where(liars, -jnp.inf, x), axis=0)
        if rank is not None:
            value = jnp.minimum(value, order.kth(jnp.where(liars, jnp.inf, x), rank))
        return jnp.where(jnp.all(byzantine), 0, value)[None]

    return _rows.replace(updates, byzantine, jax.tree.map(lie, updates))


@compiled
def anti_cge(updates: PyTree, byzantine: jax.Array, *, margin: float = 1e-3) -> PyTree:
    r"""All attackers reverse the sum of what a norm filter keeps, just short enough to be kept.

    $$ b = -(1 - \epsilon) \, \|x\|_{(h - s)} \frac{u}{\|u\|}, \qquad u = \sum_{i \in S} x_i $$

    for h honest workers and s attackers, where S holds the h - s shortest honest updates and
    $\|x\|_{(h-s)}$ is the norm of the longest of them: `comparative_elimination` with f = s then
    keeps all attackers and S. Without honest workers, b = 0. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      margin: epsilon; may be traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0], [2.0], [4.0], [0.0]])
      >>> attacks.anti_cge(updates, jnp.array([False, False, False, True]), margin=0.0)[3]
      Array([-2.], dtype=float32)

    Reference: the code that accompanies Farhadkhani, Guerraoui, Gupta, Pinot and Stephan,
    Byzantine Machine Learning Made Easy By Resilient Averaging of Momentums, ICML 2022
    (arXiv:2205.12173).
    """
    byzantine = _rows.mask(updates, byzantine)
    norms = jnp.where(byzantine, jnp.inf, stacked.squared_norms(updates))
    liars = jnp.sum(byzantine, dtype=jnp.int32)
    kept = jnp.maximum(len(byzantine) - 2 * liars, 1)
    order = ranks(norms)
    shortest = (order < kept) & ~byzantine
    total = _rows.honest_sum(updates, ~shortest)
    longest = jnp.sqrt(jnp.max(jnp.where(shortest, norms, 0)))
    return _rows.replace(
        updates, byzantine, _rows.scale(-(1 - margin) * longest, _rows.unit(total))
    )


@compiled
def fang_krum(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    rule: Callable,
    f: int,
    tolerance: float = 1e-5,
) -> PyTree:
    r"""All attackers send $b = -\lambda \operatorname{sign} \mu$, lambda as large as Krum accepts.

    Starting from an upper bound on what Krum can select,

    $$ \lambda_0 = \frac{1}{(n - 2f - 1) \sqrt d} \min_{i \in H} \sum_{j \in N_i} \|x_i - x_j\|
       + \frac{1}{\sqrt d} \max_{i \in H} \|x_i\| $$

    with the n - f - 2 honest updates $N_i$ nearest to $x_i$, lambda is halved until the rule
    returns the malicious row, or lambda is below the tolerance. The paper attacks models; here the
    starting point is 0, no update. Without honest workers, b = 0. Cost: about 20 calls of the rule.

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      rule: the deployed rule, `rule(updates) -> update`, such as
        `functools.partial(byzjax.krum, f=f)`.
      f: the declared number of faults, a Python int.
      tolerance: lambda below which the search stops; may be traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or n < 2f + 2.
      TypeError: f is not a Python int.

    Example:
      >>> import byzjax, functools, jax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = 0.5 + jax.random.normal(jax.random.key(0), (7, 20))
      >>> krum = functools.partial(byzjax.krum, f=2)
      >>> out = attacks.fang_krum(updates, jnp.arange(7) >= 5, rule=krum, f=2)
      >>> bool((krum(out) == out[6]).all())
      True

    Reference: Fang, Cao, Jia and Gong, Local Model Poisoning Attacks to Byzantine-Robust Federated
    Learning, USENIX Security 2020 (arXiv:1911.11815), section 4.2.
    """
    byzantine = _rows.mask(updates, byzantine)
    n, f = len(byzantine), static_int("f", f)
    if n < 2 * f + 2:
        raise ValueError(f"fang_krum needs n >= 2f + 2; got n={n}, f={f}.")
    mean = _rows.honest_mean(updates, byzantine)
    sign = jax.tree.map(jnp.sign, mean)
    squares = stacked.pairwise_squared_distances(jax.tree.map(wide, updates))
    pair = byzantine[:, None] | byzantine[None] | jnp.eye(n, dtype=bool)
    distances = jnp.sqrt(jnp.where(pair, jnp.inf, squares))
    # With more attackers than declared there are fewer honest neighbours; all of them count.
    distances = jnp.where(
        jnp.isfinite(distances), distances, jnp.finfo(squares.dtype).max / (2 * n)
    )
    counted = lowest(distances, max(1, n - f - 2)) & ~pair
    nearest = jnp.sum(jnp.where(counted, distances, 0), axis=1)
    root = stacked.num_coordinates(updates) ** 0.5
    norms = jnp.sqrt(jnp.where(byzantine, 0, stacked.squared_norms(updates)))
    nearest = jnp.min(jnp.where(byzantine, jnp.inf, nearest))
    start = nearest / ((n - 2 * f - 1) * root) + jnp.max(norms) / root
    start = jnp.where(jnp.all(byzantine), 0, start)

    def lie(strength: jax.Array) -> PyTree:
        return _rows.replace(updates, byzantine, _rows.scale(-strength, sign))

    def continues(strength: jax.Array) -> jax.Array:
        out = jax.tree.map(lambda x: x[None], rule(lie(strength)))
        row = _rows.scale(-strength, sign)
        row = jax.tree.map(lambda x, leaf: wide(x.astype(leaf.dtype)), row, updates)
        gap = stacked.squared_distances(out, _rows.only(row))[0]
        return (gap > 1e-10 * stacked.squared_norms(row)[0]) & (strength >= tolerance)

    strength = lax.while_loop(continues, lambda strength: strength / 2, start)
    return lie(strength)


@compiled
def fang_trimmed_mean(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    key: jax.Array,
    factor: float = 2.0,
    knowledge: str = "honest",
) -> PyTree:
    r"""All attackers send values beyond the honest range, opposite to the sign of the mean.

    With b the factor and $s_j = \operatorname{sign} \mu_j$, drawn uniformly for every attacker from

    $$ s_j > 0: \; [\min_j / b, \min_j] \text{ or } [b \min_j, \min_j], \qquad
       s_j \le 0: \; [\max_j, b \max_j] \text{ or } [\max_j, \max_j / b], $$

    the first where that end of the honest values is positive. Knowing only their own updates, the
    attackers draw from $[\mu_j - 4\sigma_j, \mu_j - 3\sigma_j]$ where s_j > 0 and from
    $[\mu_j + 3\sigma_j, \mu_j + 4\sigma_j]$ elsewhere. Designed against trimmed mean and median.
    Without honest workers, they send 0. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      key: PRNG key for the values.
      factor: b > 1, how far beyond; may be traced.
      knowledge: whose updates the attackers know: the `"honest"` workers' or their own (`"liars"`).

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or the knowledge is unknown.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0, -3.0], [2.0, -1.0], [0.0, 0.0]])
      >>> lied = attacks.fang_trimmed_mean(
      ...     updates, jnp.array([False, False, True]), key=jax.random.key(0))
      >>> bool((0.5 <= lied[2, 0]) & (lied[2, 0] <= 1.0)), bool(-1.0 <= lied[2, 1])
      (True, True)

    Reference: Fang, Cao, Jia and Gong, USENIX Security 2020 (arXiv:1911.11815), section 4.3.
    """
    byzantine = _rows.mask(updates, byzantine)
    one_of("knowledge", knowledge, ("honest", "liars"))
    unknown = byzantine if knowledge == "honest" else ~byzantine
    mean = _rows.honest_mean(updates, unknown)
    std = _rows.honest_std(updates, unknown, mean, ddof=1)

    def lies(x: jax.Array, mu: jax.Array, sd: jax.Array, k: jax.Array) -> jax.Array:
        rows, b = wide(x), jnp.asarray(factor, mu.dtype)
        out = unknown.reshape(-1, *[1] * (x.ndim - 1))
        least = jnp.min(jnp.where(out, jnp.inf, rows), axis=0, keepdims=True)
        most = jnp.max(jnp.where(out, -jnp.inf, rows), axis=0, keepdims=True)
        below = jnp.where(least > 0, least / b, least * b)
        above = jnp.where(most > 0, most * b, most / b)
        if knowledge == "liars":
            least, below, most, above = mu - 3 * sd, mu - 4 * sd, mu + 3 * sd, mu + 4 * sd
        u = jax.random.uniform(k, x.shape, mu.dtype)
        drawn = jnp.where(mu > 0, below + u * (least - below), most + u * (above - most))
        return jnp.where(jnp.all(unknown), 0, drawn)

    drawn = jax.tree.map(lies, updates, mean, std, _rows.keys(key, updates))
    return _rows.replace(updates, byzantine, drawn)
