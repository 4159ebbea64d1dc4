"""Small matrices: products in full precision, and decompositions that are safe side by side.

On CPU, jaxlib hands a batch of matrices to the thread pool that XLA's own kernels run on and blocks
a thread of it until the batch is done (JAX 0.10.2). As many batches side by side as the pool has
threads wait for each other forever: two cores and four geometric medians under `vmap` were enough.
A single matrix is decomposed where it is called. So here a batch is a loop on CPU, and a batch
elsewhere. A conditional in the loop stays one, too: only the matrices that need it take the slow
branch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def times(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product of small matrices, without the precision that accelerators drop by default."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def one_by_one(function: Callable) -> Callable:
    """The function, of arrays and without a derivative, with its vmap as a loop on CPU."""
    looped = jax.custom_batching.custom_vmap(function)

    @looped.def_vmap
    def _(axis_size: int, batched: list[bool], *args: jax.Array) -> tuple[Any, Any]:
        args = tuple(
            arg if each else jnp.broadcast_to(arg[None], (axis_size, *arg.shape))
            for arg, each in zip(args, batched)
        )

        def loop(*args: jax.Array) -> Any:
            return lax.map(lambda each: looped(*each), args)

        out = lax.platform_dependent(*args, cpu=loop, default=jax.vmap(function))
        return out, jax.tree.map(lambda _: True, out)

    return looped


eigh = one_by_one(lambda matrix: tuple(jnp.linalg.eigh(matrix)))
largest_eigenvalue = one_by_one(lambda matrix: jnp.linalg.eigvalsh(matrix)[-1])
_factor = one_by_one(jnp.linalg.cholesky)


@one_by_one
def _inverse_factor(factor: jax.Array) -> jax.Array:
    identity = jnp.eye(len(factor), dtype=factor.dtype)
    return lax.linalg.triangular_solve(factor, identity, left_side=True, lower=True)


@jax.custom_jvp
def cholesky(matrix: jax.Array) -> jax.Array:
    """The lower triangular L with `L L^T` = the positive definite matrix `[n, n]`."""
    return _factor(matrix)


@cholesky.defjvp
def _cholesky_jvp(primals, tangents):
    """L phi(L^-1 dA L^-T), where phi takes the lower triangle and half of the diagonal."""
    (matrix,), (slope,) = primals, tangents
    factor = cholesky(matrix)
    inverse = _inverse_factor(factor)

    inner = times(inverse, times((slope + slope.T) / 2, inverse.T))
    lower = jnp.tril(inner) - jnp.diag(jnp.diagonal(inner)) / 2
    return factor, times(factor, lower)
