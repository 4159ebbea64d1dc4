"""The subset of n - f rows with the least diameter, without enumeration."""

import jax
import jax.numpy as jnp
from jax import lax

from byzjax._numerics.arrays import varying_as
from byzjax._numerics.linalg import matmul


def least_diameter(distances: jax.Array, f: int) -> tuple[jax.Array, jax.Array]:
    """The subset of n - f rows with the least diameter, the lexicographically first on a tie.

    Args:
      distances: `[n, n]`, symmetric, 0 on the diagonal; may be squared.
      f: how many rows are left out, a Python int.

    Returns:
      The subset as `bool[n]`, and its diameter. Cost: exponential in f at worst.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([0.0, 1.0, 7.0])
      >>> least_diameter(jnp.abs(x[:, None] - x[None]), 1)
      (Array([ True,  True, False], dtype=bool), Array(1., dtype=float32))
    """
    n = distances.shape[0]
    m = n - f
    candidates = jnp.sort(distances.reshape(-1))
    radii = jnp.sort(distances, axis=1)[:, m - 1]
    # Each of m rows has m - 1 others within the diameter; the smallest ball holds a subset.
    ball = distances[jnp.argmin(radii)] <= jnp.min(radii)
    low = jnp.searchsorted(candidates, jnp.sort(radii)[m - 1])
    high = jnp.searchsorted(candidates, _diameter(distances, ball))

    all_rows = varying_as(ball, jnp.ones_like(ball))

    def narrower(state):
        low, high, best = state
        middle = (low + high) // 2
        exists, subset = _independent(distances > candidates[middle], all_rows, True, f)
        reached = jnp.searchsorted(candidates, _diameter(distances, subset))
        high = jnp.where(exists, reached, high)
        return jnp.where(exists, low, middle + 1), high, jnp.where(exists, subset, best)

    _, high, best = lax.while_loop(lambda state: state[0] < state[1], narrower, (low, high, ball))
    least = candidates[jnp.minimum(high, n * n - 1)]
    return _first_subset(distances > least, best, f), least


def _diameter(distances: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.max(jnp.where(rows[:, None] & rows[None], distances, 0))


def _first_subset(edges: jax.Array, members: jax.Array, f: int) -> jax.Array:
    """The lexicographically first n - f rows without an edge, given some that have none.

    Row by row: a row of the current subset stays; another one joins if a subset with it and all
    members before it exists.
    """
    n = edges.shape[0]
    places = jnp.arange(n)

    def next_row(state):
        members, refused = state
        return jnp.argmax(~members & ~refused)

    def going(state):
        members, refused = state
        before = jnp.sum(members & (places < next_row(state)), dtype=jnp.int32)
        return jnp.any(~members & ~refused) & (before < n - f)

    def try_next(state):
        members, refused = state
        i = next_row(state)
        joined = (members & (places < i)) | (places == i)
        clashing = jnp.any(edges & joined[None], axis=1)
        out = refused | clashing
        exists, subset = _independent(edges, ~out, ~jnp.any(clashing & joined), f)
        refused = jnp.where(exists, out, refused | (places == i))
        return jnp.where(exists, subset, members), refused

    none = varying_as(members, jnp.zeros_like(members))
    members, _ = lax.while_loop(going, try_next, (members, none))
    return members & (jnp.cumsum(members, dtype=jnp.int32) <= n - f)


def _independent(
    edges: jax.Array, rows: jax.Array, possible: jax.Array | bool, f: int
) -> tuple[jax.Array, jax.Array]:
    """(whether n - f of these rows have no edge between them, such rows).

    Depth-first search over a stack of the remaining rows; each level removes one of them.
    """
    n = edges.shape[0]
    matrix = edges.astype(jnp.float32)  # counts of rows are exact
    first_of_pair = jnp.tril(matrix, -1)

    def explore(state):
        stack, size, _, _ = state
        left = stack[size - 1]
        degrees = left * matmul(left, matrix)
        spare = jnp.sum(left) - (n - f)  # how many may still be removed
        most = jnp.max(degrees)
        done = (most == 0) & (spare >= 0)
        alive = (most > 0) & (spare > 0)

        # More neighbours than may be removed: the row itself must go.
        crowded = degrees > spare
        # Each leaf's neighbour goes; of two leaves on one edge, the later one.
        leaves = (degrees == 1).astype(jnp.float32)
        by_leaf = matmul(leaves, matrix) > 0
        pruned = (left > 0) & by_leaf & ((leaves == 0) | (matmul(leaves, first_of_pair.T) > 0))
        fullest = jnp.arange(n) == jnp.argmax(degrees)
        take = jnp.where(jnp.any(leaves > 0), pruned, fullest)
        take = jnp.where(jnp.any(crowded), crowded, take)
        # Without leaves, degrees of at most 2 mean cycles, of which any row may go.
        branches = alive & ~jnp.any(crowded) & ~jnp.any(leaves > 0) & (most > 2)
        enough = jnp.sum(degrees) <= 2 * spare * most
        alive = alive & (enough | jnp.any(crowded))

        without = jnp.where(take, 0, left)
        without_neighbours = left * (1 - matrix[jnp.argmax(degrees)])
        base = size - 1
        stack = stack.at[base].set(without_neighbours)
        top = base + (branches & alive).astype(jnp.int32)
        stack = stack.at[top].set(jnp.where(alive, without, stack[top]))
        size = jnp.where(done, 0, jnp.where(alive, top + 1, base))
        return stack, size, done, left

    start = rows.astype(jnp.float32)
    stack = jnp.zeros((f + 3, n), jnp.float32).at[0].set(start)
    size = jnp.where(possible, 1, 0).astype(jnp.int32)
    state = varying_as(edges, (stack, size, jnp.zeros((), bool), start))
    _, _, exists, left = lax.while_loop(lambda state: state[1] > 0, explore, state)
    return exists, left > 0
