"""Order statistics along the worker axis, exact and in a total order.

Everything here acts on one array `x: [n, ...]` and reduces its leading axis. Each statistic is the
mean of a *window* of the sorted column: with `y_0 <= ... <= y_{n-1}`,

    mean(y_start, ..., y_{start + width - 1}),

where the median is the window of the one or two middle ranks, the trimmed mean that of the ranks
f .. n-f-1, and the k nearest values to a centre are a window as well.

Values are compared by integer keys that order floats totally: NaN with its sign bit set sorts below
-inf, every other NaN above +inf. So a worker that sends NaN ranks as an extreme value, like one
that sends infinity, and cannot poison the column.

Up to `NETWORK_MAX` workers the columns go through a pruned sorting network (Batcher's merge
exchange; Knuth, The Art of Computer Programming 3, 5.2.2, Algorithm M): minima and maxima of whole
rows, which XLA fuses into one vectorised loop. Beyond it, ranks are found by counting how many
values lie below trial thresholds (`selection`). Milliseconds on 2 CPU cores, d = 131,072, f32,
median, with the seconds to compile:

    n      network       counting      torch.median
    64     2.5 (0.4)
    96     6.5 (0.8)
    128    8.9 (1.5)                   109
    160    13 (4.7)
    512                  81 (0.8)      409

The trimmed mean's network takes 3.4 s to compile at n = 128 and 16 s at n = 160: hence the limit.
"""

from byzjax._numerics.order.bisection import kth_of_rows
from byzjax._numerics.order.statistics import (
    kth,
    mean_around_median,
    mean_around_trimmed_mean,
    mean_of_nearest,
    median,
    squares_to_median,
    trimmed_mean,
)
from byzjax._numerics.order.weighted import (
    squares_to_weighted_median,
    weighted_mean_around_median,
    weighted_mean_around_trimmed_mean,
    weighted_median,
    weighted_trimmed_mean,
)

__all__ = [
    "kth",
    "kth_of_rows",
    "mean_around_median",
    "mean_around_trimmed_mean",
    "mean_of_nearest",
    "median",
    "squares_to_median",
    "squares_to_weighted_median",
    "trimmed_mean",
    "weighted_mean_around_median",
    "weighted_mean_around_trimmed_mean",
    "weighted_median",
    "weighted_trimmed_mean",
]
