"""Benign faults: non-finite values, flipped bits, and lost coordinates or updates."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._checks import static_int
from byzjax._compiled import compiled
from byzjax.attacks import _rows
from byzjax.attacks.simple import constant
from byzjax.stacked import PyTree


@compiled(static=("value",))
def non_finite(updates: PyTree, byzantine: jax.Array, *, value: float = math.nan) -> PyTree:
    """All faulty workers send NaN, +inf or -inf in every coordinate.

    Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, mask of Byzantine workers; may be traced.
      value: NaN, +inf or -inf, a Python float.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or the value is finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> attacks.non_finite(
      ...     jnp.array([[1.0], [2.0]]), jnp.array([False, True]), value=float("-inf"))
      Array([[  1.],
             [-inf]], dtype=float32)
    """
    byzantine = _rows.mask(updates, byzantine)
    if math.isfinite(value):
        raise ValueError(f"non_finite needs NaN, inf or -inf; got value={value}.")
    return constant(updates, byzantine, value=value)


@compiled
def flip_bits(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    bits: tuple[int, ...] = (21, 29, 30, 31),
    coordinates: int | None = 1000,
) -> PyTree:
    """Flips chosen bits of what faulty workers send, as failing memory and links do.

    Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, workers whose updates are hit; may be traced.
      bits: which bits, Python ints from 0, the least significant; in float32, 31 is the sign and 23
        to 30 are the exponent. Other widths use the same positions from the top.
      coordinates: number of coordinates that are hit, the first ones counted across all leaves;
        None for all.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`, or there is no such bit.
      TypeError: coordinates or a bit is not a Python int.

    Example:
      >>> import jax.numpy as jnp
      >>> from byzjax import attacks
      >>> updates = jnp.array([[1.0, 2.0], [1.0, 2.0]])
      >>> attacks.flip_bits(updates, jnp.array([False, True]), bits=(31,), coordinates=1)[1]
      Array([-1.,  2.], dtype=float32)

    Reference: Xie, Koyejo and Gupta, Generalized Byzantine-tolerant SGD, 2018 (arXiv:1802.10116),
    with the 22nd, 30th, 31st and 32nd bit of the first 1000 dimensions.
    """
    byzantine = _rows.mask(updates, byzantine)
    bits = tuple(static_int("a bit", bit) for bit in bits)
    if not all(bit < 32 for bit in bits):
        raise ValueError(f"flip_bits needs bits from 0 to 31; got bits={bits}.")
    most = None if coordinates is None else static_int("coordinates", coordinates)

    def flipped(x: jax.Array, number: jax.Array) -> jax.Array:
        width = 8 * x.dtype.itemsize
        integer = jnp.dtype(f"uint{width}")
        places = {bit + width - 32 for bit in bits}
        turned = sum(1 << place for place in places if place >= 0)
        lie = lax.bitcast_convert_type(x, integer) ^ integer.type(turned)
        lie = lax.bitcast_convert_type(lie, x.dtype)
        return lie if most is None else jnp.where(number < most, lie, x)

    lies = jax.tree.map(flipped, updates, _rows.coordinates(updates))
    return _rows.replace(updates, byzantine, lies)


@compiled
def lose_coordinates(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    share: float = 0.1,
    value: float = math.nan,
    key: jax.Array,
) -> PyTree:
    """Loses single coordinates, as links that lose packets do.

    Lost coordinates become NaN, which `mean_of_finite` leaves out and every rule with a promise
    tolerates. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, workers with lossy links; may be traced.
      share: probability that a coordinate is lost, independently; may be traced.
      value: replaces lost coordinates; may be traced.
      key: PRNG key for the lost coordinates.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> byzantine, key = jnp.array([False, True]), jax.random.key(0)
      >>> attacks.lose_coordinates(jnp.ones((2, 4)), byzantine, share=0.5, value=0.0, key=key)
      Array([[1., 1., 1., 1.],
             [0., 1., 1., 0.]], dtype=float32)

    Reference: the setting of Damaskinos, El-Mhamdi, Guerraoui, Guirguis and Rouault, AggregaThor,
    MLSys 2019, with unreliable transport.
    """
    byzantine = _rows.mask(updates, byzantine)

    def lossy(x: jax.Array, k: jax.Array) -> jax.Array:
        lost = jax.random.bernoulli(k, share, x.shape)
        return jnp.where(lost, jnp.asarray(value, x.dtype), x)

    lies = jax.tree.map(lossy, updates, _rows.keys(key, updates))
    return _rows.replace(updates, byzantine, lies)


@compiled
def drop(
    updates: PyTree,
    byzantine: jax.Array,
    *,
    probability: float = 1.0,
    value: float = math.nan,
    key: jax.Array,
) -> PyTree:
    """Drops whole updates, each with a given probability. Cost: O(nd).

    Args:
      updates: stacked updates; every leaf has shape `[n, ...]`.
      byzantine: `bool[n]`, workers that may be dropped; may be traced.
      probability: probability that each of them is dropped; may be traced.
      value: replaces every coordinate of a dropped update; may be traced.
      key: PRNG key for the dropped workers.

    Returns:
      Stacked updates; the honest rows are bitwise unchanged.

    Raises:
      ValueError: `byzantine` is not `bool[n]`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from byzjax import attacks
      >>> attacks.drop(jnp.ones((2, 2)), jnp.array([False, True]), key=jax.random.key(0))
      Array([[ 1.,  1.],
             [nan, nan]], dtype=float32)

    Reference: Chen, Wang, Charles and Papailiopoulos, DRACO, ICML 2018 (arXiv:1803.09877), for
    stragglers; message loss in general.
    """
    byzantine = _rows.mask(updates, byzantine)
    dropped = byzantine & jax.random.bernoulli(key, probability, byzantine.shape)
    return constant(updates, dropped, value=value)
