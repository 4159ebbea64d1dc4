"""Workers over devices: each computes the gradients of some, and all do the rest alike.

A step needs n gradients, each of them dear, and then the rows of all workers at once: who lies sees
the others, and a rule compares them. So the gradients are spread, k workers a device, every device
gets all rows, and momentum, attack, mixing, rule and model are the same on each (`workers_axis` of
the protocols). `hosts.py` makes devices of other processes look like those of this one.
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
    """So many devices of each process, 0 for all; None for one device of one process.

    Raises:
      ValueError: there are not as many, or some processes have more than others.
    """
    devices = [jax.local_devices(process_index=i) for i in range(jax.process_count())]
    numbers = [len(each) for each in devices]
    if len(set(numbers)) > 1:
        raise ValueError(f"processes must have equally many devices; they have {numbers}.")
    if not 0 <= count <= numbers[0]:
        more = "; JAX_NUM_CPU_DEVICES makes more" if jax.default_backend() == "cpu" else ""
        raise ValueError(
            f"devices must lie in 0 .. {numbers[0]}, all there are{more}; got {count}."
        )
    chosen = [device for each in devices for device in each[: count or numbers[0]]]
    if len(chosen) == 1:
        return None
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def is_key(leaf: jax.Array) -> bool:
    """Whether it holds typed random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def size(over: Mesh | None) -> int:
    """How many devices."""
    return 1 if over is None else over.size


def on_each(tree: Any, over: Mesh | None) -> Any:
    """The same arrays on every device; each process brings its own, which must be alike."""
    if over is None:
        return tree
    everywhere, local = NamedSharding(over, P()), over.local_devices

    def leaf(x: jax.Array) -> jax.Array:
        if is_key(x):
            numbers = leaf(jax.random.key_data(x))
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(x))
        # Not `device_put`, where processes compare what they bring: to it, NaN differs from itself.
        here = [jax.device_put(x, device) for device in local]
        return jax.make_array_from_single_device_arrays(x.shape, everywhere, here)

    return jax.tree.map(leaf, tree)


def on_one(tree: Any, over: Mesh | None) -> Any:
    """What this process's first device has of arrays that are the same on each; nothing moves."""
    return tree if over is None else jax.tree.map(lambda x: x.addressable_data(0), tree)


def shard_runs(advance: Callable, over: Mesh | None) -> Callable:
    """`advance(states, ...) -> (states, found)` on every device, to be checked by `equal_on_all`.

    Devices that round differently would part, each with a model of its own, and nobody would know.
    So each tells a fingerprint of its states, and all of them are a third result.
    """
    if over is None:
        return advance

    def with_fingerprints(*args: Any) -> tuple:
        states, found = advance(*args)
        return states, found, lax.all_gather(fingerprint(states), AXIS)

    return jax.shard_map(with_fingerprints, mesh=over, in_specs=P(), out_specs=P(), check_vma=False)


def fingerprint(tree: Any) -> jax.Array:
    """A number that equal trees share and others hardly: the sum of all bits as integers."""
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
    """What `shard_runs` gave, without the fingerprints.

    Raises:
      RuntimeError: the devices hold different states.
    """
    if fingerprints is not None and len(numbers := set(np.asarray(fingerprints).tolist())) > 1:
        raise RuntimeError(
            f"{len(fingerprints)} devices hold {len(numbers)} different states, where all must "
            "hold the same; devices of different kinds may round differently."
        )
    return states, found
