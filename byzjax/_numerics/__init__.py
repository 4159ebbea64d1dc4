"""Sums, distances and order statistics of one matrix `[n, c]`, and the choice of their algorithms.

Only this package distinguishes platforms, holds the sizes at which algorithms change
(`thresholds`), and keeps XLA from fusing (`barrier`). `FORMS` is the table of all choices;
`python -m byzjax._numerics.table` prints it for docs/numerics.md.
"""

from typing import NamedTuple


class Form(NamedTuple):
    """One way to compute a quantity.

    Attributes:
      quantity: what is computed, for `x: [n, c]`.
      where: the shapes, dtypes and platforms that use it.
      form: the algorithm.
      names: names of the constants in `thresholds` that decide it.
      measured: the reason: ms or s on 2 CPU cores, JAX 0.10.2, unless stated otherwise.
    """

    quantity: str
    where: str
    form: str
    names: tuple[str, ...]
    measured: str


FORMS = (
    Form(
        "window means (median, trimmed mean)",
        "n <= 128",
        "pruned sorting network of minima and maxima of rows",
        ("NETWORK_MAX",),
        "median, d = 131,072: 6.5 ms at n = 96, 8.9 at n = 128, which compiles in 1.5 s",
    ),
    Form(
        "window means (median, trimmed mean)",
        "n > 128",
        "a threshold, narrowed down by counting the values below three trials per pass",
        (
            "NETWORK_MAX",
            "SAMPLED_ROWS",
            "COUNTED_ROWS",
            "SAFE_PASS",
            "COPIED_FROM",
            "COPIED_COLUMNS",
        ),
        "median, n = 1,000, d = 16,384: 18 ms, compiles in 1 s; by bisection over the bits 64; "
        "torch.median 134 to 177",
    ),
    Form(
        "k values nearest to a centre",
        "n <= 96",
        "a window of the sorted column",
        ("NEAREST_NETWORK_MAX",),
        "k = n/2, d = 131,072: 5.1 ms at n = 96; 90 at n = 104, where the loop is not vectorised",
    ),
    Form(
        "k values nearest to a centre",
        "96 < n <= 128",
        "the k-th distance by a separate network, then one pass over the values",
        ("NEAREST_NETWORK_MAX", "NETWORK_MAX"),
        "n = 112: 24 ms instead of 287",
    ),
    Form(
        "k values nearest to a centre",
        "n > 128",
        "the k-th distance by counting",
        ("NETWORK_MAX",),
        "as for window means",
    ),
    Form(
        "squared distances to the median",
        "CPU, n <= 128, c >= 65,536",
        "block by block: the second read of a block hits the cache",
        ("BLOCKED", "LANES", "NETWORK_MAX"),
        "n = 25, d = 1e6: 4.5 ms instead of 6.9",
    ),
    Form(
        "sums along rows (norms, distances to a point, inner products)",
        "CPU, c >= 65,536",
        "a loop over blocks of columns with a wide accumulator",
        ("BLOCKED", "BLOCK", "LANES"),
        "n = 25, d = 1e6: 3.9 ms instead of 13",
    ),
    Form(
        "sums along rows (norms, distances to a point, inner products)",
        "elsewhere",
        "one reduction",
        ("BLOCKED",),
        "n = 25, c = 20,000: 0.21 ms; the loop 0.45",
    ),
    Form(
        "sums over rows (means, weighted sums)",
        "CPU, weights, float32 or float64, c >= 65,536",
        "a matrix product; the loop if it is not finite",
        ("BLOCKED",),
        "n = 64, d = 65,536: 0.23 ms instead of 0.8",
    ),
    Form(
        "sums over rows (means, weighted sums)",
        "elsewhere",
        "one fused loop over at most 64 rows, then over groups of them",
        ("UNROLLED_ROWS",),
        "`jnp.sum(x, axis=0)` took 40 times as long on CPU",
    ),
    Form(
        "squared distances of all pairs",
        "one matrix, n >= 40 and c >= 2,048, or n >= 8 and c >= 131,072",
        "products about the median of five rows; differences if one cancels or overflows",
        ("PRODUCTS", "CANCELLED"),
        "Krum, d = 524,288: 5.9 ms instead of 10.9 at n = 11, 18 instead of 24 at n = 25",
    ),
    Form(
        "squared distances of all pairs",
        "CPU, fewer rows or columns, or under vmap",
        "differences in blocks of columns; three slabs of rows from 262,144 columns on",
        ("SLABS",),
        "n = 25, d = 1e6: 27 ms; 42 without slabs; torch.cdist 417",
    ),
    Form(
        "squared distances of all pairs",
        "other platforms, fewer rows or columns, or under vmap",
        "one row at a time against all others",
        (),
        "not measured",
    ),
    Form(
        "inner products of all pairs",
        "CPU, c >= 65,536",
        "products of blocks of columns: two at once, or sixteen from 40 rows on",
        ("BLOCKED", "GRAM_BLOCK", "GRAM_ROWS"),
        "d = 1e6: 10 ms at n = 25, 30 at n = 64; one at a time 17 and 50",
    ),
    Form(
        "inner products of all pairs",
        "elsewhere",
        "one matrix product",
        ("BLOCKED",),
        "not measured",
    ),
    Form(
        "geometric median",
        "n > 128",
        "Weiszfeld steps on the rows; as below, if they shrink slowly or a row is near",
        ("NETWORK_MAX",),
        "n = 1,000, d = 16,384: 25 ms instead of 216",
    ),
    Form(
        "geometric median",
        "n <= 128",
        "Weiszfeld steps in the span of the rows, by their Gram matrix, and a Newton step",
        ("NETWORK_MAX",),
        "n = 64, d = 65,536: 5.0 ms, of which 2 for the Gram matrix",
    ),
    Form(
        "top eigenvector of `[n, n]`",
        "n < 24",
        "an eigendecomposition",
        ("SQUARED",),
        "",
    ),
    Form(
        "top eigenvector of `[n, n]`",
        "n >= 24",
        "sixteen squarings; an eigendecomposition if the top two eigenvalues are close",
        ("SQUARED",),
        "n = 64: 0.3 ms instead of 8",
    ),
    Form(
        "decompositions of several matrices",
        "CPU",
        "one after another",
        (),
        "a batch can deadlock: see `linalg`",
    ),
    Form(
        "k-th lowest score",
        "CPU",
        "bisection over the bits of the keys; a sort elsewhere",
        (),
        "196 rows of 196: 0.2 ms instead of 2.9",
    ),
    Form(
        "leaves of a tree as matrices",
        "the eight largest leaves of 32,768 coordinates or more; all of 131,072 or more",
        "its own matrix, read in place; other leaves of one dtype share a copy",
        ("OWN_LEAF", "MAX_OWN_LEAVES", "ALWAYS_OWN_LEAF"),
        "65 leaves of 69,000: aksel compiles in 2.8 s",
    ),
    Form(
        "slices exchanged between devices",
        "262,144 numbers or more",
        "its own message; smaller ones of one dtype share one",
        ("OWN_MESSAGE",),
        "each message costs time to compile and to start",
    ),
    Form(
        "counts of signs",
        "CPU",
        "blocks of 2,048 columns",
        ("SIGNS_BLOCK",),
        "one reduction allocates as much memory as its input",
    ),
    Form(
        "the k largest magnitudes of one update",
        "always",
        "the bits of the k-th largest, each found by counting in a pass over blocks of rows",
        ("COUNTED_COLUMNS",),
        "`lax.top_k` takes time in proportion to k: 25 updates of a million, on a busy machine, "
        "k = 10,000 and 100,000: 1.1 and 10 s; counting takes 1.4 to 1.8 for any k",
    ),
)
"""All choices."""
