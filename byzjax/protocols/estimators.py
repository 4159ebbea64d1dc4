"""Estimators of the gradients of finite sums whose variance vanishes: MARINA, SAGA and STORM."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from byzjax import stacked
from byzjax._checks import static_int
from byzjax._compiled import taught
from byzjax._mistakes import shown
from byzjax.compress import Compressor
from byzjax.protocols import _workers
from byzjax.stacked import PyTree
from byzjax.transforms import per_worker


class Gradients(NamedTuple):
    """What an estimator may compute in a step, and what it may know.

    Attributes:
      at: `at(model, batch)` -> the gradient of each worker, `[n, ...]`, of its batch `[n, b, ...]`;
        within a step all calls use the same loss keys.
      model: the model of this step.
      previous: that of the step before.
      aggregate: the aggregate of the step before.
      data: the data of each worker, `[n, m, ...]`.
      key: the key of this step's random choices.
      first: whether it is the first step, where `previous` is the model and `aggregate` is 0.
    """

    at: Callable[[PyTree, PyTree], PyTree]
    model: PyTree
    previous: PyTree
    aggregate: PyTree
    data: PyTree
    key: jax.Array
    first: jax.Array


class Estimator(NamedTuple):
    """How workers estimate their gradients, in `variance_reduced`.

    Attributes:
      init: `init(params, n) -> state`, of all n workers.
      estimate: `estimate(state, gradients) -> (updates [n, ...], state)`, where `gradients` is a
        `Gradients`.
      floats: `floats(params)` -> the floats that a worker sends per step, on average.
    """

    init: Callable[[PyTree, int], PyTree]
    estimate: Callable[[PyTree, Gradients], tuple[PyTree, PyTree]]
    floats: Callable[[PyTree], float]


@taught
def marina(p: float, *, batch_size: int = 1, compressor: Compressor | None = None) -> Estimator:
    r"""Full gradients now and then; else compressed differences on one batch at two models.

    $$ u_i = \begin{cases} \nabla f_i(x^k) & \text{with probability } p \text{, and at first} \\
       g^{k-1} + Q(\nabla f_{i,B}(x^k) - \nabla f_{i,B}(x^{k-1})) & \text{else} \end{cases} $$

    where g^{k-1} is the last aggregate, B are `batch_size` samples of worker i, drawn uniformly
    and independently, and Q is the compressor. All workers share the coin. As the model converges,
    the honest updates do, and what Byzantine workers can hide in their variance vanishes.

    Requirement: none. Cost: p m + 2 b (1 - p) gradients of samples per worker and step, for m
    samples; under `jax.vmap` both branches are computed, m + 2 b.

    Args:
      p: the probability of a full gradient, in (0, 1]; about b / m balances the costs.
      batch_size: b, a Python int.
      compressor: an unbiased one, such as `byzjax.compress.rand_k(0.1, key)`; its key is split
        among the workers. None sends differences as they are.

    Returns:
      An `Estimator`.

    Raises:
      TypeError: batch_size is not a Python int, or `compressor` not a compressor.
      ValueError: p is not in (0, 1], or batch_size < 1.

    Example:
      >>> import byzjax, jax
      >>> from byzjax import protocols
      >>> compressor = byzjax.compress.rand_k(0.1, jax.random.key(0))
      >>> estimator = protocols.marina(0.1, batch_size=8, compressor=compressor)

    Reference: Gorbunov, Horváth, Richtárik and Gidel, Variance Reduction is an Antidote to
    Byzantines: Better Rates, Weaker Assumptions and Communication Compression as a Cherry on the
    Top, ICLR 2023 (arXiv:2206.00529), Algorithm 1.
    """
    _share("p", p)
    batch_size = static_int("batch_size", batch_size, at_least=1)
    if compressor is not None and not isinstance(compressor, Compressor):
        raise TypeError(
            "marina needs a compressor, such as byzjax.compress.rand_k(0.1, key); got "
            f"{shown(compressor)}."
        )

    def compression(n: int) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(
            optax.identity() if compressor is None else per_worker(compressor, n)
        )

    def init(params: PyTree, n: int) -> PyTree:
        return compression(n).init(params)

    def estimate(state: PyTree, given: Gradients) -> tuple[PyTree, PyTree]:
        n = stacked.num_workers(given.data)
        batch = _drawn(given, batch_size)

        def full(state: PyTree) -> tuple[PyTree, PyTree]:
            return given.at(given.model, given.data), state

        def difference(state: PyTree) -> tuple[PyTree, PyTree]:
            now, before = given.at(given.model, batch), given.at(given.previous, batch)
            change, state = compression(n).update(jax.tree.map(jnp.subtract, now, before), state)
            return jax.tree.map(lambda g, u: g + u, given.aggregate, change), state

        coin = jax.random.bernoulli(jax.random.fold_in(given.key, n), p)
        return lax.cond(given.first | coin, full, difference, state)

    def floats(params: PyTree) -> float:
        size = optax.tree.size(params)
        return p * size + (1 - p) * (size if compressor is None else compressor.bits(params) / 32)

    return Estimator(init, estimate, floats)


class SagaState(NamedTuple):
    """State of `saga`.

    Attributes:
      table: the last gradient of each sample, `[n, m, ...]`.
      average: its mean over samples, `[n, ...]`.
    """

    table: PyTree
    average: PyTree


@taught
def saga(samples: int) -> Estimator:
    r"""The gradient of one sample, corrected by the last gradients of all of them.

    $$ u_i = \nabla f_{ij}(x^k) - t_{ij} + \frac{1}{m} \sum_l t_{il}, \qquad
       t_{ij} \leftarrow \nabla f_{ij}(x^k) $$

    where j is drawn uniformly by each worker, and the table t holds the gradients at the first
    model to begin with. With `byzjax.geometric_median` as the rule this is Byrd-SAGA.

    Requirement: none. Cost: one gradient of a sample per worker and step, m at the first step;
    m d numbers of memory per worker, so it is for small models.

    Args:
      samples: m, the number of samples of each worker, a Python int.

    Returns:
      An `Estimator`.

    Raises:
      TypeError: samples is not a Python int.
      ValueError: samples < 1, or, at a step, another number of samples.

    Example:
      >>> from byzjax import protocols
      >>> estimator = protocols.saga(samples=100)

    Reference: Wu, Ling, Chen and Giannakis, Federated Variance-Reduced Stochastic Gradient Descent
    With Robustness to Byzantine Attacks, IEEE Transactions on Signal Processing 68, 2020
    (arXiv:1912.12716), Algorithm 1.
    """
    m = static_int("samples", samples, at_least=1)

    def init(params: PyTree, n: int) -> SagaState:
        return SagaState(_workers.zeros(_workers.zeros(params, m), n), _workers.zeros(params, n))

    def estimate(state: SagaState, given: Gradients) -> tuple[PyTree, SagaState]:
        n, count = stacked.num_workers(given.data), jax.tree.leaves(given.data)[0].shape[1]
        if count != m:
            raise ValueError(f"saga expected {m} samples of each worker; got {count}.")

        def fill(j: jax.Array, state: SagaState) -> SagaState:
            one = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, j, 1, 1), given.data)
            new = given.at(given.model, one)
            table = jax.tree.map(lambda t, g: t.at[:, j].set(g), state.table, new)
            average = jax.tree.map(lambda a, g: a + g / m, state.average, new)
            return SagaState(table, average)

        # A loop of no turns after the first step: a conditional would copy the table every time.
        table, average = lax.fori_loop(0, jnp.where(given.first, m, 0), fill, state)
        key = jax.random.fold_in(given.key, 0)
        rows, places = jnp.arange(n), jax.random.randint(key, (n,), 0, m)
        one = jax.tree.map(lambda x: x[rows, places][:, None], given.data)
        new = given.at(given.model, one)
        change = jax.tree.map(lambda g, t: g - t[rows, places], new, table)
        updates = jax.tree.map(jnp.add, change, average)
        table = jax.tree.map(lambda t, g: t.at[rows, places].set(g), table, new)
        average = jax.tree.map(lambda a, c: a + c / m, average, change)
        return updates, SagaState(table, average)

    return Estimator(init, estimate, optax.tree.size)


@taught
def storm(a: float, *, batch_size: int = 1) -> Estimator:
    r"""Momentum that is corrected by the gradient of the same batch at the last model.

    $$ u_i^k = \nabla f_{i,B}(x^k) + (1 - a) (u_i^{k-1} - \nabla f_{i,B}(x^{k-1})) $$

    and the plain gradient at first. With a = 1 it is the gradient of a batch; without the second
    gradient it would be momentum.

    Requirement: none. Cost: 2 b gradients of samples per worker and step.

    Args:
      a: the weight of the new gradient alone, in (0, 1].
      batch_size: b, samples of each worker per step, drawn uniformly; a Python int.

    Returns:
      An `Estimator`.

    Raises:
      TypeError: batch_size is not a Python int.
      ValueError: a is not in (0, 1], or batch_size < 1.

    Example:
      >>> from byzjax import protocols
      >>> estimator = protocols.storm(0.1, batch_size=8)

    Reference: Cutkosky and Orabona, Momentum-Based Variance Reduction in Non-Convex SGD, NeurIPS
    2019 (arXiv:1905.10018), Algorithm 1, with a constant a.
    """
    _share("a", a)
    batch_size = static_int("batch_size", batch_size, at_least=1)

    def init(params: PyTree, n: int) -> PyTree:
        return _workers.zeros(params, n)

    def estimate(state: PyTree, given: Gradients) -> tuple[PyTree, PyTree]:
        batch = _drawn(given, batch_size)
        now, before = given.at(given.model, batch), given.at(given.previous, batch)

        def corrected(g: jax.Array, u: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(given.first, g, g + (1 - a) * (u - old))

        updates = jax.tree.map(corrected, now, state, before)
        return updates, updates

    return Estimator(init, estimate, optax.tree.size)


def _drawn(given: Gradients, count: int) -> PyTree:
    """`count` samples of each worker, `[n, count, ...]`, drawn by its own key."""
    n, m = jax.tree.leaves(given.data)[0].shape[:2]

    def places(worker: jax.Array) -> jax.Array:
        return jax.random.randint(jax.random.fold_in(given.key, worker), (count,), 0, m)

    rows = jax.vmap(places)(jnp.arange(n))
    return jax.tree.map(lambda x: jax.vmap(lambda one, row: one[row])(x, rows), given.data)


def _share(name: str, value: float) -> None:
    if isinstance(value, int | float) and not 0 < value <= 1:
        raise ValueError(f"{name} must lie in (0, 1]; got {name}={value}.")
