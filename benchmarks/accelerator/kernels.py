"""Pallas kernels for one matrix `[n, c]`: the window mean of `order`, and squared distances to it.

The library does not have them: XLA stays in use until a kernel is measured to be faster, and so far
none has been. `python -m benchmarks.accelerator` compares both on an accelerator.

Each program of the grid passes a block of columns, with all n rows, through the sorting network of
`order` and writes the window mean. `median_and_squares` also computes the squared distances of the
rows to it while the block is on chip: one read of the input where XLA needs two. With it, Aksel
reads its input twice: once for median and distances, once for the mean of the selected rows.

CUDA uses Triton (which JAX 0.12 deprecates in favour of Mosaic GPU), TPU uses Mosaic; other
platforms are not supported. The kernels are not differentiable.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from byzjax._numerics import thresholds
from byzjax._numerics.arrays import sum_dtype, wide
from byzjax._numerics.order import networks

DTYPES = ("float32", "bfloat16", "float16")


class Target(NamedTuple):
    """How kernels run on one kind of device: the size of a block, and masking at the edge."""

    numbers: int  # in a block, approximately
    columns: tuple[int, int]  # minimum and maximum in a block
    load: Callable
    store: Callable
    for_each: Callable  # loop over n rows
    params: Any = None

    def block(self, n: int) -> int:
        """Columns of a block, a power of two."""
        fewest, most = self.columns
        return min(most, max(fewest, 1 << ((self.numbers // n).bit_length() - 1)))


def _masked_store(ref: Any, value: jax.Array, mask: jax.Array) -> None:
    triton.store(ref, value, mask=mask)


def _plain_load(ref: Any, mask: jax.Array) -> jax.Array:
    return ref[...]


def _plain_store(ref: Any, value: jax.Array, mask: jax.Array) -> None:
    ref[...] = value


def _one_by_one(n: int, do: Callable) -> None:
    lax.fori_loop(0, n, lambda i, _: do(i), None)


def _unrolled(n: int, do: Callable) -> None:
    for i in range(n):
        do(i)


# Derived from compiler reports, not measured. CUDA: the network holds a block in registers, 64
# numbers in each of 128 threads; Triton reads beyond the edge unless masked. The squares load the
# rows again, from the cache, in a loop: unrolled, n = 64 takes 212 registers instead of 80, and
# compiles in 23 s instead of 2. TPU: a row fills one sublane of eight, so that n rows take 32 bytes
# of VMEM per number, 4 MB; Mosaic masks the edge itself, and cannot index a bfloat16 row in a loop.
TARGETS = {
    "cuda": Target(
        numbers=1 << 13,
        columns=(128, 512),
        load=lambda ref, mask: triton.load(ref, mask=mask),
        store=_masked_store,
        for_each=_one_by_one,
        params=triton.CompilerParams(num_warps=4, num_stages=1),
    ),
    "tpu": Target(1 << 17, (1024, 8192), _plain_load, _plain_store, _unrolled),
}


def median(x: jax.Array, *, interpret: str | None = None) -> jax.Array:
    """`order.median` of `x: [n, ...]`; `interpret` runs the kernel of that target anywhere."""
    return _window_mean(x, *networks.middle(x.shape[0]), interpret, squares=False)[0]


def trimmed_mean(x: jax.Array, f: int, *, interpret: str | None = None) -> jax.Array:
    """`order.trimmed_mean`."""
    return _window_mean(x, f, x.shape[0] - 2 * f, interpret, squares=False)[0]


def median_and_squares(
    x: jax.Array, *, interpret: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """The median M of `x: [n, ...]`, and `sum_c (x_ic - M_c)^2` as [n], in one read."""
    center, total = _window_mean(x, *networks.middle(x.shape[0]), interpret, squares=True)
    return center, total


@functools.partial(jax.jit, static_argnums=(1, 2, 3), static_argnames="squares")
def _window_mean(
    x: jax.Array, start: int, width: int, interpret: str | None, *, squares: bool
) -> list[jax.Array]:
    if x.shape[0] > thresholds.NETWORK_MAX:
        raise ValueError(f"kernels need n <= {thresholds.NETWORK_MAX}; got n={x.shape[0]}.")
    if x.size == 0:
        raise ValueError(f"kernels need at least one column; got shape {x.shape}.")
    if x.dtype.name not in DTYPES:
        raise TypeError(f"kernels need one of {', '.join(DTYPES)}; got {x.dtype.name}.")
    flat = x.reshape(x.shape[0], -1)

    def on(target: str, interpreted: bool = False) -> Callable:
        return functools.partial(_call, TARGETS[target], start, width, squares, interpreted)

    if interpret:
        center, *sums = on(interpret, True)(flat)
    else:
        center, *sums = lax.platform_dependent(flat, **{target: on(target) for target in TARGETS})
    return [center.reshape(x.shape[1:]), *sums]


def _call(
    target: Target, start: int, width: int, squares: bool, interpret: bool, x: jax.Array
) -> list[jax.Array]:
    """[means `[1, c]`], and with `squares` also the squared distances `[n]`."""
    n, c = x.shape
    block = target.block(n)
    blocks = pl.cdiv(c, block)
    out_shape = [jax.ShapeDtypeStruct((1, c), x.dtype)]
    out_specs = [pl.BlockSpec((1, block), lambda b: (0, b))]
    if squares:
        out_shape.append(jax.ShapeDtypeStruct((blocks, n, 1), sum_dtype(x.dtype)))
        out_specs.append(pl.BlockSpec((1, n, 1), lambda b: (b, 0, 0)))
    center, *sums = pl.pallas_call(
        functools.partial(_kernel, target, c, start, width),
        out_shape,
        grid=(blocks,),
        in_specs=[pl.BlockSpec((n, block), lambda b: (0, b))],
        out_specs=out_specs,
        compiler_params=target.params,
        interpret=interpret,
    )(x)
    return [center, *(jnp.sum(s, axis=(0, 2)) for s in sums)]


def _kernel(
    target: Target, c: int, start: int, width: int, x: Any, center: Any, sums: Any = None
) -> None:
    n, block = x.shape
    column = pl.program_id(0) * block + lax.broadcasted_iota(jnp.int32, (1, block), 1)
    inside = column < c

    def row(i: int | jax.Array) -> jax.Array:
        return wide(target.load(x.at[pl.ds(i, 1), :], inside))

    means = _mean_by_network([row(i) for i in range(n)], start, width).astype(center.dtype)
    target.store(center, means, inside)
    if sums is None:
        return

    def put_sum(i: int | jax.Array) -> None:
        square = jnp.where(inside, jnp.square(row(i) - wide(means)), 0)
        sums[0, pl.ds(i, 1), :] = jnp.sum(square, axis=1, keepdims=True)

    target.for_each(n, put_sum)


def _mean_by_network(rows: list[jax.Array], start: int, width: int) -> jax.Array:
    """The mean of the window without overflow; a kernel has no share that depends on the data."""
    dtype = rows[0].dtype
    network = networks.comparators(len(rows), start, width)
    keys = networks.apply_network(network, [networks.to_key(row) for row in rows])
    values = [networks.from_key(key, dtype) for key in keys[start : start + width]]
    if width <= 2:
        return networks.window_mean(values, dtype)
    total = _sum_in_pairs(values)
    # Scaled so that the sum does not overflow; a power of two XLA would move out of the sum.
    parts = _sum_in_pairs([0.7 / width * value for value in values])
    return jnp.where(jnp.abs(total) < jnp.inf, total / width, parts / 0.7)


def _sum_in_pairs(values: list[jax.Array]) -> jax.Array:
    """The sum as a balanced tree."""
    while len(values) > 1:
        rest = values[-1:] if len(values) % 2 else []
        values = [a + b for a, b in zip(values[::2], values[1::2])] + rest
    return values[0]
