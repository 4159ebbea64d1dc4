"""The algebra of stacked trees: all that a rule needs to know about a model.

A *stacked* tree holds what n workers sent: every leaf has shape `[n, *param_shape]`, and row i of
all leaves together is the update of worker i. Norms, distances and means below treat such a row as
one flat vector without building it: the largest leaves are read in place, and the others, in most
models a small part, share a buffer.

* Sums are taken in `promote_types(dtype, float32)`.
* Distances come from differences, never from the Gram matrix alone, whose cancellation turned a
  true squared distance of 0.2 into -16384 (common mean 1e3, spread 1e-3). A distance that is not
  finite, because of NaN, infinity or overflow, counts as +inf: that worker is infinitely far away.
* With `axis_name` the leaves are this device's slice of the coordinates, as inside
  `jax.shard_map`, and inner products are summed over that axis.
"""

from byzjax._deprecated import renamed as _renamed
from byzjax._numerics.arrays import sum_dtype
from byzjax.stacked.combinations import (
    combine,
    group_means,
    mean,
    mean_selected,
    scale,
    weighted_mean,
    weighted_sum,
    widened,
)
from byzjax.stacked.layout import columns, coordinatewise, from_columns
from byzjax.stacked.reductions import (
    gram,
    inner_products,
    pairwise_squared_distances,
    rowwise,
    squared_distances,
    squared_norms,
)
from byzjax.stacked.workers import (
    PyTree,
    check,
    num_coordinates,
    num_devices,
    num_workers,
    sample,
    stack,
    take,
)

__all__ = [
    "PyTree",
    "check",
    "columns",
    "combine",
    "coordinatewise",
    "from_columns",
    "gram",
    "group_means",
    "inner_products",
    "mean",
    "mean_selected",
    "num_coordinates",
    "num_devices",
    "num_workers",
    "pairwise_squared_distances",
    "rowwise",
    "sample",
    "scale",
    "squared_distances",
    "squared_norms",
    "stack",
    "sum_dtype",
    "take",
    "weighted_mean",
    "weighted_sum",
    "widened",
]

__getattr__ = _renamed(__name__, {"mean_of": "mean_selected"})
