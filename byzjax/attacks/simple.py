"""Attacks that ignore other workers: constants, noise, and values multiplied in transit."""

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax._checks import static_int
from byzjax._compiled import compiled
from byzjax.attacks import _rows
from byzjax.stacked import PyTree


@compiled
def zero(updates: PyTree, byzantine: jax.Array) -> PyTree:
    """All attackers send zeros, like a worker that is switched off. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> attacks.zero(jnp.array([[1.0], [2.0]]), jnp.array([False, True]))
      Array([[1.],
             [0.]], dtype=float32)

    Reference: in common use.
    """
    return constant(updates, byzantine, value=0.0)


@compiled
def constant(updates: PyTree, byzantine: jax.Array, *, value: float = -100.0) -> PyTree:
    r"""All attackers send $b = c \, (1, \dots, 1)$. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      value: c; may be traced.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> attacks.constant(jnp.array([[1.0], [2.0]]), jnp.array([False, True]), value=7.0)
      Array([[1.],
             [7.]], dtype=float32)

    Reference: Chen, Wang, Charles and Papailiopoulos, DRACO, ICML 2018 (arXiv:1803.09877), with
    c = -100.
    """
    byzantine = _rows.mask(updates, byzantine)
    lie = jax.tree.map(lambda x: jnp.full_like(x[:1], value), updates)
    return _rows.replace(updates, byzantine, lie)


@compiled
def gaussian(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    sigma: float = 200.0,
    key: jax.Array,
) -> PyTree:
    r"""Every attacker sends independent noise, $b_i \sim N(0, \sigma^2 I)$.

    Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      sigma: standard deviation of each coordinate; may be traced.
      key: a key of `jax.random.key`; the same key gives the same noise.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> noisy = attacks.gaussian(
      ...     jnp.zeros((3, 4)), jnp.array([True, True, False]), key=jax.random.key(0))
      >>> bool((noisy[0] != noisy[1]).all()), noisy[2]
      (True, Array([0., 0., 0., 0.], dtype=float32))

    Reference: Blanchard et al., NeurIPS 2017 (arXiv:1703.02757), section 6, with sigma = 200.
    """
    byzantine = _rows.mask(updates, byzantine)
    noise = _rows.scale(sigma, _rows.normal(key, updates))
    return _rows.replace(updates, byzantine, noise)


@compiled
def gambler(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    factor: float = -1e20,
    probability: float = 0.0005,
    shard: int = 0,
    shards: int = 20,
    key: jax.Array,
) -> PyTree:
    r"""Multiplies single values by a huge number, in one shard of the coordinates.

    $$ b_{ij} = \begin{cases} c \, x_{ij} & \text{with probability } p, \text{ for } j
       \text{ in the shard} \\ x_{ij} & \text{otherwise} \end{cases} $$

    The coordinates, counted across all leaves, are split into equal shards, one per server in the
    paper, and one server gambles. In the paper's attack `byzantine` is all True: any worker's
    values may be hit, and no rule that selects whole rows withstands it. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, workers whose values may be hit; may be traced.
      factor: c; may be traced.
      probability: p, independently for each value; may be traced.
      shard: the shard that gambles, a Python int from 0 to shards - 1.
      shards: number of shards, a Python int.
      key: PRNG key for the values that are hit.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or there is no such shard.
      TypeError: shard or shards is not a Python int.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> attacks.gambler(jnp.ones((2, 4)), jnp.array([False, True]), factor=-9.0, probability=1.0,
      ...     shards=2, key=jax.random.key(0))
      Array([[ 1.,  1.,  1.,  1.],
             [-9., -9.,  1.,  1.]], dtype=float32)

    Reference: Xie, Koyejo and Gupta, Phocas: dimensional Byzantine-resilient stochastic gradient
    descent, 2018 (arXiv:1805.09682), with c = -1e20, p = 0.05 % and 20 servers.
    """
    byzantine = _rows.mask(updates, byzantine)
    shards, shard = static_int("shards", shards, at_least=1), static_int("shard", shard)
    if shard >= shards:
        raise ValueError(f"gambler needs shard < shards; got shard={shard}, shards={shards}.")
    total = stacked.num_coordinates(updates)
    start, stop = shard * total // shards, (shard + 1) * total // shards

    def hit(x: jax.Array, number: jax.Array, k: jax.Array) -> jax.Array:
        drawn = jax.random.bernoulli(k, probability, x.shape)
        inside = (number >= start) & (number < stop)
        return jnp.where(drawn & inside, jnp.asarray(factor, x.dtype) * x, x)

    lies = jax.tree.map(hit, updates, _rows.coordinates(updates), _rows.keys(key, updates))
    return _rows.replace(updates, byzantine, lies)
