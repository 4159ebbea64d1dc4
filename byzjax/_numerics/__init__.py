"""How sums, distances and order statistics of one matrix `[n, c]` are computed, and when how.

This is the only package that tells platforms apart, that has sizes from which another form is
faster (`thresholds`), and that keeps XLA from fusing (`barrier`). `FORMS` is the table of all
choices; `python -m byzjax._numerics.table` prints it for docs/numerics.md.
"""

from typing import NamedTuple


class Form(NamedTuple):
    """One way to compute a quantity.

    Attributes:
      quantity: what is computed, for `x: [n, c]`.
      where: the shapes, dtypes and platforms that take this way.
      form: how.
      names: of the constants that decide it, in `thresholds`.
      measured: why: ms or s on 2 CPU cores, JAX 0.10.2, unless it says otherwise.
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
        "median, d = 131,072: n = 96 6.5 ms, n = 128 8.9; to compile at n = 128 1.5 s",
    ),
    Form(
        "window means (median, trimmed mean)",
        "n > 128",
        "bisection over the bits of the keys, in blocks of columns",
        ("NETWORK_MAX", "NUMBERS_OF_A_BLOCK", "UNROLLED_KEYS"),
        "n = 512: 124 ms, compiled in 0.9 s; torch.median 409 ms",
    ),
    Form(
        "k values nearest to a centre",
        "n <= 96",
        "a window of the sorted column",
        ("NEAREST_NETWORK_MAX",),
        "k = n/2, d = 131,072: n = 96 5.1 ms; n = 104 90, where the loop is not vectorised",
    ),
    Form(
        "k values nearest to a centre",
        "96 < n <= 128",
        "the k-th distance by a network of its own, then a pass over the values",
        ("NEAREST_NETWORK_MAX", "NETWORK_MAX"),
        "n = 112: 24 ms instead of 287",
    ),
    Form(
        "k values nearest to a centre",
        "n > 128",
        "the k-th distance by bisection",
        ("NETWORK_MAX",),
        "as for window means",
    ),
    Form(
        "squared distances to the median",
        "CPU, n <= 128, c >= 65,536",
        "block by block: the second reading of a block is from the cache",
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
        "n = 25, c = 20,000: 0.21 ms, the loop 0.45",
    ),
    Form(
        "sums over rows (means, weighted sums)",
        "CPU, weights, float32 or float64, c >= 65,536",
        "a product of matrices; where it is not finite, the loop",
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
        "products about the median of five rows; where one cancels or overflows, differences",
        ("PRODUCTS", "CANCELLED"),
        "Krum, d = 524,288: n = 11 5.9 ms instead of 10.9, n = 25 18 instead of 24",
    ),
    Form(
        "squared distances of all pairs",
        "CPU, fewer rows or columns, or under vmap",
        "differences in blocks of columns; from 262,144 columns in three slabs of rows",
        ("SLABS",),
        "n = 25, d = 1e6: 27 ms, without slabs 42, torch.cdist 417",
    ),
    Form(
        "squared distances of all pairs",
        "other platforms, fewer rows or columns, or under vmap",
        "one row against all others after another",
        (),
        "not measured",
    ),
    Form(
        "inner products of all pairs",
        "CPU, c >= 65,536",
        "products of blocks of columns",
        ("BLOCKED", "GRAM_BLOCK"),
        "d = 524,288: n = 25 17 ms, n = 64 44",
    ),
    Form(
        "inner products of all pairs",
        "elsewhere",
        "one product of matrices",
        ("BLOCKED",),
        "not measured",
    ),
    Form(
        "top eigenvector of `[n, n]`",
        "n < 24",
        "a decomposition",
        ("SQUARED",),
        "",
    ),
    Form(
        "top eigenvector of `[n, n]`",
        "n >= 24",
        "sixteen squarings; where two eigenvalues are near, a decomposition",
        ("SQUARED",),
        "n = 64: 0.3 ms instead of 8",
    ),
    Form(
        "decompositions of several matrices",
        "CPU",
        "one after another",
        (),
        "a batch may wait forever: docs of `linalg`",
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
        "a leaf of 32,768 coordinates or more, the eight largest; all of 131,072",
        "a matrix of its own, read where it lies; others of one dtype share a copy",
        ("OWN_LEAF", "MAX_OWN_LEAVES", "ALWAYS_OWN_LEAF"),
        "65 leaves of 69,000: aksel compiles in 2.8 s",
    ),
    Form(
        "slices that are exchanged between devices",
        "262,144 numbers or more",
        "a message of its own; smaller ones of one dtype share one",
        ("OWN_MESSAGE",),
        "each message costs time to compile and to begin",
    ),
    Form(
        "counts of signs",
        "CPU",
        "blocks of 2,048 columns",
        ("SIGNS_BLOCK",),
        "one reduction takes as much memory as its input",
    ),
)
"""What is chosen where."""
