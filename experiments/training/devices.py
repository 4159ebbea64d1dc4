"""Workers distributed over devices: gradients are sharded, everything else is replicated.

A step computes n gradients, which is expensive, and then needs the rows of all workers at once: an
attack sees the other updates, and a rule compares them. So gradients are sharded, k workers per
device, every device gathers all rows, and momentum, attack, mixing, rule and model are replicated
(`workers_axis` of the protocols). `hosts.py` makes devices of other processes look local.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "workers"


def mesh(count: int) -> Mesh | None:
    """A mesh of `count` devices of each process, 0 for all; None for one device of one process.

    Raises:
      ValueError: there are fewer devices, or the processes have different numbers of them.
    """
    devices = [jax.local_devices(process_index=i) for i in range(jax.process_count())]
    numbers = [len(each) for each in devices]
    if len(set(numbers)) > 1:
        raise ValueError(f"processes must have equally many devices; got {numbers}.")
    if not 0 <= count <= numbers[0]:
        more = "; JAX_NUM_CPU_DEVICES makes more" if jax.default_backend() == "cpu" else ""
        raise ValueError(
            f"devices must lie in 0 .. {numbers[0]}, the number available{more}; got {count}."
        )
    chosen = [device for each in devices for device in each[: count or numbers[0]]]
    if len(chosen) == 1:
        return None
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def is_key(leaf: jax.Array) -> bool:
    """Whether a leaf holds typed PRNG keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def size(over: Mesh | None) -> int:
    """The number of devices."""
    return 1 if over is None else over.size


def on_each(tree: Any, over: Mesh | None) -> Any:
    """Replicates arrays on every device; each process passes its own, which must be equal."""
    if over is None:
        return tree
    everywhere, local = NamedSharding(over, P()), over.local_devices

    def leaf(x: jax.Array) -> jax.Array:
        if is_key(x):
            numbers = leaf(jax.random.key_data(x))
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(x))
        # Not `device_put`, which compares the arrays of all processes: NaN differs from itself.
        here = [jax.device_put(x, device) for device in local]
        return jax.make_array_from_single_device_arrays(x.shape, everywhere, here)

    return jax.tree.map(leaf, tree)


def on_one(tree: Any, over: Mesh | None) -> Any:
    """Replicated arrays as held by this process's first device; nothing is copied."""
    return tree if over is None else jax.tree.map(lambda x: x.addressable_data(0), tree)


def shard_runs(advance: Callable, over: Mesh | None) -> Callable:
    """`advance(states, ...) -> (states, diagnostics)` on every device, for `equal_on_all` to check.

    Devices that round differently would silently diverge, each with its own model. So each computes
    a fingerprint of its states; all fingerprints are the third result.
    """
    if over is None:
        return advance

    def with_fingerprints(*args: Any) -> tuple:
        states, diagnostics = advance(*args)
        return states, diagnostics, lax.all_gather(fingerprint(states), AXIS)

    return jax.shard_map(with_fingerprints, mesh=over, in_specs=P(), out_specs=P(), check_vma=False)


def fingerprint(tree: Any) -> jax.Array:
    """A checksum, equal for equal trees and rarely for others: the sum of all bits as integers."""
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        if is_key(leaf):
            leaf = jax.random.key_data(leaf)
        if leaf.dtype != bool:
            unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
            leaf = lax.bitcast_convert_type(leaf, unsigned)
        total += jnp.sum(leaf, dtype=jnp.uint32)
    return total


def equal_on_all(states: Any, found: Any, fingerprints: jax.Array | None = None) -> tuple[Any, Any]:
    """The results of `shard_runs` without the fingerprints.

    Raises:
      RuntimeError: the devices hold different states.
    """
    if fingerprints is not None and len(numbers := set(np.asarray(fingerprints).tolist())) > 1:
        raise RuntimeError(
            f"{len(fingerprints)} devices hold {len(numbers)} different states, where all must "
            "hold the same; devices of different kinds may round differently."
        )
    return states, found
