"""Sizes at which the algorithms change: used where an algorithm is chosen, measured once.

Milliseconds and seconds are those of 2 CPU cores (an Intel Xeon or an AMD EPYC, JAX 0.10.2); only
their ratios matter. The package's docstring has the table of all choices.
"""

# CPU: columns per step of a loop over blocks. XLA reduces a row by one chain of dependent
# additions; a loop that adds blocks to an accumulator of this width is vectorised and memory-bound
# (n = 25, d = 1e6: 3.9 ms against 13 ms). A step adds its columns to an accumulator of fewer lanes,
# which fits in the cache: with as many lanes as columns, 64 rows of 65,536 take 0.35 ms instead of
# 0.24, and 256 rows 1.9 instead of 1.45. With 1,024 lanes 256 rows take 1.23, but 64 of a million
# columns 8.0 instead of 7.0.
BLOCK, LANES = 8192, 2048

# CPU: columns per step of a loop over products of rows, and the rows from which a step is sixteen
# products instead of two (`pairs`): with 32 rows two are as fast, whatever surrounds them.
GRAM_BLOCK, GRAM_ROWS = 2**15, 40

# Columns from which blocks pay off: at 20,000 the plain reduction takes 0.21 ms, the loop 0.45; at
# 100,000 it is 1.18 and 0.62 (n = 25).
BLOCKED = 2**16

# Columns from which pairs of rows are worth three kernels (0.4 s to compile), not one (0.1 s).
SLABS = 2**18

# (Rows, columns) from which squared distances come from a matrix product, where it is accurate. The
# whole of Krum with d = 524,288, in ms, by differences and by products: n = 11: 10.9 and 5.9,
# 16: 21 and 9.6, 25: 24 and 18, 32: 36 and 20. With d = 65,536 they are equal below 40 rows.
PRODUCTS = ((40, 2**11), (8, 2**17))

# The fraction of the two squared lengths below which a squared distance has lost too many digits.
CANCELLED = 0.1

# Rows summed in one fused kernel; beyond, a loop over groups of this size.
UNROLLED_ROWS = 64

# Rows up to which columns are sorted by a network; beyond, ranks are found by counting. The
# network of the trimmed mean takes 3.4 s to compile at 128 and 16 s at 160 (`order`).
NETWORK_MAX = 128

# Rows up to which the values nearest to a centre are a window of the sorted column; up to
# NETWORK_MAX the distance of the last of them comes from a separate network (`order.nearest`).
NEAREST_NETWORK_MAX = 96

# Selection among more rows. Rows whose order statistics are the first trials ...
SAMPLED_ROWS = 16

# ... rows that are counted in one kernel: the number that leaves the fewest over. If the length of
# rows is a power of two, their parts in one place share a cache set (n = 1,000, d = 16,384: a pass
# takes 2.0 ms with 8 or 12 rows, 2.4 with 20, 2.6 with 32) ...
COUNTED_ROWS = range(12, 7, -1)

# ... the pass from which the middle of the keys that are left is tried ...
SAFE_PASS = 5

# ... and, from this many columns on, the part of them that is finished in a copy: the median of
# n = 1,000, d = 16,384 takes 16 ms with it, 17 with a 32nd, 25 without.
COPIED_FROM, COPIED_COLUMNS = 2**12, 64

# Rows from which the top eigenvector of a matrix comes from squarings: 0.3 ms instead of 8 at 64.
SQUARED = 24

# Coordinates from which a leaf gets its own kernels; the others of one dtype share one buffer,
# since each kernel costs compile time (0.2 s for aksel at n = 25 on 2 CPU cores) ...
OWN_LEAF = 2**15

# ... and at most this many leaves, the largest, have their own kernels: aksel compiles in 2.8 s for
# 65 leaves of 69,000 coordinates. Leaves that share a buffer are copied there, which costs several
# times as much as the median itself.
MAX_OWN_LEAVES = 8

# Coordinates from which copying a leaf costs more, within 50 steps, than compiling its kernels
# (n = 25, 2 CPU cores), and a large model has no memory for a copy.
ALWAYS_OWN_LEAF = 2**17

# Slices of at least this many numbers are sent separately, without a copy; smaller ones share
# messages, one for each dtype, since each message costs time to compile and to start.
OWN_MESSAGE = 2**18

# CPU: columns per block when signs are counted.
SIGNS_BLOCK = 2**11

# Numbers side by side where those of one update are counted (`largest`).
COUNTED_COLUMNS = 2**16
