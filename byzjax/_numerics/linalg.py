"""Small matrices: products in full precision, and decompositions that are safe in parallel.

On CPU, jaxlib runs a batch of matrices on the thread pool of XLA's own kernels and blocks one of
its threads until the batch is done (JAX 0.10.2). As many concurrent batches as threads deadlock:
four geometric medians under `vmap` on two cores were enough. A single matrix is decomposed on the
calling thread. So here a batch is a loop on CPU, and a batch elsewhere. A conditional in the loop
stays a conditional: only the matrices that need it take the slow branch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics import thresholds


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product of small matrices, in the full precision that accelerators reduce by default."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def one_by_one(function: Callable) -> Callable:
    """The function of arrays, not differentiable, with its vmap as a loop on CPU."""
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
    (matrix,), (tangent,) = primals, tangents
    factor = cholesky(matrix)
    inverse = _inverse_factor(factor)

    inner = matmul(inverse, matmul((tangent + tangent.T) / 2, inverse.T))
    lower = jnp.tril(inner) - jnp.diag(jnp.diagonal(inner)) / 2
    return factor, matmul(factor, lower)


# --- leading eigenvectors -----------------------------------------------------------------------
# JAX's own derivative of `eigh` divides by differences of eigenvalues and is NaN where two are
# equal. Here a pair that is equal up to rounding contributes 0.


def _inverse_gaps(gaps: jax.Array, scale: jax.Array) -> jax.Array:
    """`1 / gap`, and 0 for gaps within rounding, relative to the largest eigenvalue."""
    tiny = 4 * jnp.finfo(gaps.dtype).eps * jnp.abs(scale)
    open_gap = jnp.abs(gaps) > tiny
    return jnp.where(open_gap, 1 / jnp.where(open_gap, gaps, 1), 0)


def _by_decomposition(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    values, vectors = eigh(matrix)
    return values[-1], vectors[:, -1]


@one_by_one
def _by_squaring(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The matrix to the power 2^16, normalised, is the projector onto its top eigenvector.

    If it is not, because the second eigenvalue is within 2e-4 of the first, the matrix is
    decomposed: then tr(P)^2 exceeds the sum of the squares of P by more than rounding.
    """

    def square(_, power):
        power = matmul(power, power)
        return power / jnp.max(jnp.diagonal(power))

    power = matrix / jnp.max(jnp.diagonal(matrix))
    power = lax.fori_loop(0, 16, square, power)
    trace = jnp.trace(power)
    single = jnp.abs(jnp.sum(power * power) - trace**2) < 1e-5 * trace**2

    def vector_of(_):
        vector = power[jnp.argmax(jnp.diagonal(power))]
        for _ in range(2):  # removes rounding errors of the squarings
            vector = matmul(matrix, vector / jnp.linalg.norm(vector))
        vector = vector / jnp.linalg.norm(vector)
        return jnp.sum(vector * matmul(matrix, vector)), vector

    return lax.cond(single, vector_of, _by_decomposition, matrix)


@jax.custom_jvp
def top_eigenpair(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(largest eigenvalue, its unit eigenvector) of a positive semidefinite matrix `[n, n]`.

    A small matrix is decomposed; a larger one is squared until its top eigenvector remains: 0.3 ms
    instead of 8 at n = 64 on a CPU core.
    """
    return (
        _by_decomposition(matrix) if matrix.shape[0] < thresholds.SQUARED else _by_squaring(matrix)
    )


@top_eigenpair.defjvp
def _top_eigenpair_jvp(primals, tangents):
    (matrix,), (tangent,) = primals, tangents
    values, vectors = eigh(matrix)
    top = vectors[:, -1]
    tangent = (tangent + tangent.T) / 2
    turned = matmul(vectors.T, matmul(tangent, top))
    inverse = _inverse_gaps(values[-1] - values, values[-1]).at[-1].set(0)
    return (values[-1], top), (turned[-1], matmul(vectors, inverse * turned))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def inverse_of_rank(matrix: jax.Array, r: int) -> jax.Array:
    """`sum_k v_k v_k^T / lambda_k` over the r largest eigenvalues that exceed rounding."""
    _, vectors, inverses = _largest(matrix, r)
    return matmul(vectors * inverses[None], vectors.T)


def _largest(matrix: jax.Array, r: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    values, vectors = eigh(matrix)
    n, top = len(values), values[-1]
    counted = (jnp.arange(n) >= n - r) & (values > n * jnp.finfo(values.dtype).eps * top)
    return values, vectors, jnp.where(counted, 1 / jnp.where(counted, values, 1), 0)


@inverse_of_rank.defjvp
def _inverse_of_rank_jvp(r, primals, tangents):
    """Divided differences of the function that is 1 / lambda on the largest and 0 on the others."""
    (matrix,), (tangent,) = primals, tangents
    values, vectors, inverses = _largest(matrix, r)
    counted = inverses > 0
    both = counted[:, None] & counted[None]
    one = counted[:, None] ^ counted[None]
    gaps = _inverse_gaps(values[:, None] - values[None], values[-1])
    differences = jnp.where(one, (inverses[:, None] - inverses[None]) * gaps, 0)
    differences = jnp.where(both, -inverses[:, None] * inverses[None], differences)
    tangent = matmul(vectors.T, matmul((tangent + tangent.T) / 2, vectors))
    out = matmul(vectors, matmul(differences * tangent, vectors.T))
    return matmul(vectors * inverses[None], vectors.T), out
