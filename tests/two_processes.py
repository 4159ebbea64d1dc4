"""One of two processes: `JAX_NUM_CPU_DEVICES=4 python -m tests.two_processes PORT PLACE FOLDER`.

Gives every device one row of the matrix in FOLDER/updates.npy and writes the aggregates of all
`RULES` to FOLDER/PLACE.npz.
"""

import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import byzjax

RULES = {
    "trimmed_mean": (byzjax.trimmed_mean, {"f": 2}),
    "aksel": (byzjax.aksel, {"f": 2}),
    "krum": (byzjax.krum, {"f": 2}),
    "geometric_median": (byzjax.geometric_median, {}),
}


def main(port, place, folder):
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(place), initialization_timeout=40)
    mesh = jax.make_mesh((8,), ("workers",), axis_types=(AxisType.Auto,))
    rows = np.load(f"{folder}/updates.npy")
    spread = NamedSharding(mesh, P("workers"))
    rows = jax.make_array_from_callback(rows.shape, spread, lambda index: rows[index])

    def step(rows):
        return {
            name: byzjax.all_aggregate(rule, rows[0], "workers", **given)
            for name, (rule, given) in RULES.items()
        }

    out = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=P("workers"), out_specs=P()))(rows)
    local = {name: np.asarray(leaf.addressable_data(0)) for name, leaf in out.items()}
    np.savez(f"{folder}/{place}.npz", processes=jax.process_count(), **local)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
