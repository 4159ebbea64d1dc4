"""The cyclic code: encoding of redundant gradients, and decoding of their sum."""

import cmath
import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from byzjax import stacked
from byzjax._checks import static_int
from byzjax._compiled import compiled
from byzjax.stacked import PyTree

# Random projections that locate Byzantine nodes. With one, an error may be so nearly orthogonal to
# it that it passes for rounding: errors in real parts alone, of 1e-3 (1e-4) of the row's norm, then
# change the sum by more than 1e-4 once in 1000 (110) trials; with two never (once in 10,000), and
# with four never in 20,000 trials (P = 16, s = 3, float32).
PROJECTIONS = 4
# Largest number of sets of nodes that the decoder tries; it holds constants for each of them.
MOST_SETS = 5000


@compiled
def encode(updates: PyTree, *, s: int) -> dict:
    r"""The messages of the cyclic code: each node sends one combination of 2s + 1 gradients.

    $$ R = W G, \qquad W_{i,\,i+t} = \frac{1}{\sqrt P} \prod_{u=1}^{P-2s-1}
       \bigl(1 - \omega^{-t-u}\bigr), \quad 0 \le t \le 2s, \quad \omega = e^{2 \pi i / P} $$

    with indices modulo P, and 0 elsewhere. Each column of W holds the values at the P-th roots of
    unity of a polynomial with P - 2s coefficients, whose first coefficient is the same for all
    columns. So the rows of R form a word of a Reed-Solomon code over the complex numbers, from
    which the sum of all gradients can be decoded.

    Requirement: P >= 2s + 1. Cost: O(P^2 d).

    Args:
      updates: stacked updates of the P batches; every leaf has shape `[P, ...]`.
      s: number of Byzantine nodes to tolerate, a Python int.

    Returns:
      A dict of the real parts `re` and the imaginary parts `im`, stacked `[P, ...]`, at least
      float32.

    Raises:
      ValueError: the leaves disagree on P, P < 2s + 1, or there are too many sets of s nodes.
      TypeError: s is not a Python int.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from byzjax.protocols import codes
      >>> messages = codes.encode(jnp.array([[1.0], [2.0], [6.0]]), s=1)
      >>> jnp.round(messages["re"] * jnp.sqrt(3.0), 3)
      Array([[9.],
             [9.],
             [9.]], dtype=float32)

    Reference: Chen, Wang, Charles and Papailiopoulos, DRACO: Byzantine-resilient Distributed
    Training via Redundant Gradients, ICML 2018 (arXiv:1803.09877), the cyclic code.
    """
    nodes, s = enough_nodes(stacked.num_workers(updates), s)
    window = [_window_weight(nodes, s, t) for t in range(2 * s + 1)] + [0j] * (nodes - 2 * s - 1)
    weights = jnp.array([[window[(k - i) % nodes] for k in range(nodes)] for i in range(nodes)])
    updates = stacked.widened(updates)
    return {
        "re": stacked.combine(updates, weights.real),
        "im": stacked.combine(updates, weights.imag),
    }


@compiled
def decode(messages: PyTree, *, s: int, key: jax.Array) -> PyTree:
    r"""The sum of all gradients, from messages of the cyclic code of which up to s are malicious.

    $$ S^* = \arg\min_{|S| = s} \sum_q \bigl\| H_S R \rho_q \bigr\|_1, \qquad
       \sum_k G_k = \mathrm{Re}(v_{S^*} R) $$

    $H_S$ has s orthonormal rows that are 0 at S and vanish on every word of the code, and $v_S$ is
    the shortest row that is 0 at S and maps a word to the sum. So S* is the set of nodes without
    which the others are most consistent along random directions $\rho_q$ of the coordinates. It
    contains all Byzantine nodes except those whose errors are as small as rounding errors, and as
    harmless. A non-finite row counts as 0, and as one more malicious message.

    The paper locates the Byzantine nodes by the zeros of a polynomial whose coefficients solve a
    linear system. The search gives the same sum, needs no threshold, and keeps float32 precision:
    the score of a set that contains the Byzantine nodes does not depend on what they send.

    Requirement: P >= 2s + 1, and at most 5000 sets of s nodes. Cost: O(Pd), and O(s P) for each
    set. The float32 rounding error, relative to the norm of the sum, is about 1e-7 for P = 7 and
    2e-6 for P = 16, s = 3, since the weights of the code grow with P.

    Args:
      messages: a dict of `re` and `im`, stacked `[P, ...]`, as returned by `encode`.
      s: number of Byzantine nodes to tolerate, a Python int.
      key: draws the directions; attackers must not know it.

    Returns:
      One update; every leaf has shape `[...]`.

    Raises:
      ValueError: the leaves disagree on P, P < 2s + 1, or there are too many sets of s nodes.
      TypeError: s is not a Python int.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from byzjax.protocols import codes
      >>> messages = codes.encode(jnp.array([[1.0], [2.0], [6.0], [3.0]]), s=1)
      >>> corrupted = {part: x.at[2].set(-100.0) for part, x in messages.items()}
      >>> round(float(codes.decode(corrupted, s=1, key=jax.random.key(0))[0]), 4)
      12.0

    Reference: Chen, Wang, Charles and Papailiopoulos, DRACO: Byzantine-resilient Distributed
    Training via Redundant Gradients, ICML 2018 (arXiv:1803.09877), the cyclic code; its decoder is
    a different one.
    """
    nodes, s = enough_nodes(stacked.num_workers(messages), s)
    checks, sums = [jnp.array(constants) for constants in _constants(nodes, s)]
    checks = checks.reshape(-1 if s else 1, s, nodes)
    directions = _directions(key, messages["re"])
    project = jax.vmap(stacked.inner_products, in_axes=(None, 0))
    re, im = project(messages["re"], directions), project(messages["im"], directions)
    finite = jnp.all(jnp.isfinite(re) & jnp.isfinite(im), axis=0)
    re, im = jnp.where(finite, re, 0), jnp.where(finite, im, 0)

    scores = jnp.sum(
        jnp.abs(_over_nodes(checks.real, re) - _over_nodes(checks.imag, im))
        + jnp.abs(_over_nodes(checks.real, im) + _over_nodes(checks.imag, re)),
        axis=(1, 2),
    )
    best = jnp.argmin(jnp.where(jnp.isnan(scores), jnp.inf, scores))
    weights = jnp.where(finite, sums[best], 0)
    return jax.tree.map(
        jnp.subtract,
        stacked.weighted_sum(messages["re"], weights.real),
        stacked.weighted_sum(messages["im"], weights.imag),
    )


def enough_nodes(num_workers: int, s: int) -> tuple[int, int]:
    """Returns (P, s) after checking that the cyclic code tolerates s Byzantine nodes among P.

    Args:
      num_workers: P, a Python int.
      s: number of Byzantine nodes to tolerate, a Python int.

    Returns:
      `(P, s)`, unchanged.

    Raises:
      ValueError: P < 2s + 1, or there are too many sets of s nodes.
      TypeError: s or P is not a Python int.

    Example:
      >>> from byzjax.protocols import codes
      >>> codes.enough_nodes(7, 3)
      (7, 3)
    """
    nodes, s = static_int("num_workers", num_workers, at_least=1), static_int("s", s)
    if nodes < 2 * s + 1:
        raise ValueError(
            f"the cyclic code needs num_workers >= 2s + 1; got num_workers={nodes}, s={s}."
        )
    if math.comb(nodes, s) > MOST_SETS:
        raise ValueError(
            f"the cyclic code needs at most {MOST_SETS} sets of s among num_workers nodes; "
            f"got num_workers={nodes}, s={s}, which is {math.comb(nodes, s)} sets."
        )
    return nodes, s


def _window_weight(nodes: int, s: int, t: int) -> complex:
    """The weight in node i's message of batch i + t."""
    weight = complex(1 / math.sqrt(nodes))
    for u in range(1, nodes - 2 * s):
        weight *= 1 - _root(nodes, -t - u)
    return weight


def _root(nodes: int, power: int) -> complex:
    return cmath.exp(2j * math.pi * (power % nodes) / nodes)


@functools.lru_cache(maxsize=32)
def _constants(nodes: int, s: int) -> tuple[list, list]:
    """H_S `[sets, s, P]` and v_S `[sets, P]` for every set S of s nodes, in Python's float64.

    Column i of A `[2s, P]` is the syndrome A R of an error of 1 at node i; the syndrome of a word
    of the code is 0. Any row that vanishes on all words is y A for some y `[2s]`.
    """
    columns = [
        [_root(nodes, -i * j) / math.sqrt(nodes) for j in range(nodes - 2 * s, nodes)]
        for i in range(nodes)
    ]
    checks, sums = [], []
    for chosen in itertools.combinations(range(nodes), s):
        basis, outside = _orthonormal([columns[i] for i in chosen], 2 * s)

        def row(y: list, chosen: tuple = chosen) -> list:
            return [0j if i in chosen else _dot(y, columns[i]) for i in range(nodes)]

        checks.append([row(u) for u in outside])
        # The row 1 / sqrt(P) maps a word to the sum; the shortest y, in the span of the errors at
        # S, makes it 0 there, one node of S after another.
        move = [0j] * (2 * s)
        for place, i in enumerate(chosen):
            missing = -1 / math.sqrt(nodes) - _bilinear(move, columns[i])
            factor = missing / _dot(basis[place], columns[i])
            move = [a + factor * b.conjugate() for a, b in zip(move, basis[place])]
        taken = [1 / math.sqrt(nodes) + _bilinear(move, columns[i]) for i in range(nodes)]
        sums.append([0j if i in chosen else taken[i] for i in range(nodes)])
    return checks, sums


def _dot(a: list, b: list) -> complex:
    return sum((x.conjugate() * y for x, y in zip(a, b)), 0j)


def _bilinear(a: list, b: list) -> complex:
    return sum((x * y for x, y in zip(a, b)), 0j)


def _orthonormal(vectors: list, dim: int) -> tuple[list, list]:
    """Gram-Schmidt: a basis of the vectors in their order, and one of the orthogonal complement."""

    def rest(vector: list) -> list:
        for _ in range(2):  # twice is enough for full precision
            for q in basis:
                along = _dot(q, vector)
                vector = [x - along * y for x, y in zip(vector, q)]
        return vector

    def length(vector: list) -> float:
        return math.sqrt(_dot(vector, vector).real)

    basis: list = []
    for vector in vectors:
        left = rest(vector)
        basis.append([x / length(left) for x in left])
    units = [[complex(i == j) for i in range(dim)] for j in range(dim)]
    while len(basis) < dim:
        left = max((rest(unit) for unit in units), key=length)
        basis.append([x / length(left) for x in left])
    return basis[: len(vectors)], basis[len(vectors) :]


def _directions(key: jax.Array, updates: PyTree) -> PyTree:
    """Standard normal directions, stacked `[PROJECTIONS, ...]`; one draw for all leaves."""
    leaves, structure = jax.tree.flatten(updates)
    drawn = jax.random.normal(key, (PROJECTIONS, stacked.num_coordinates(updates)), jnp.float32)
    ends = list(itertools.accumulate(math.prod(leaf.shape[1:]) for leaf in leaves))
    parts = jnp.split(drawn, ends[:-1], axis=1)
    shaped = [x.reshape(-1, *leaf.shape[1:]) for x, leaf in zip(parts, leaves)]
    return jax.tree.unflatten(structure, shaped)


def _over_nodes(checks: jax.Array, projections: jax.Array) -> jax.Array:
    """`[sets, s, P]` times `[q, P]`, as `[sets, s, q]`."""
    return jnp.einsum(
        "csp,qp->csq",
        checks.astype(projections.dtype),
        projections,
        precision=lax.Precision.HIGHEST,
    )
