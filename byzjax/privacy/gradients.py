"""Losses whose gradients are private: clipped for each example, with noise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from byzjax import _checks, _mistakes, stacked
from byzjax._checks import static_int
from byzjax._compiled import taught
from byzjax._mistakes import keystr, name_of
from byzjax.rules._clip import clip_factors
from byzjax.stacked import PyTree


@taught
def private(
    loss_fn: Callable,
    *,
    clip_norm: float,
    noise_multiplier: float,
    microbatch: int | None = None,
) -> Callable:
    r"""The same loss, with the gradient of DP-SGD.

    $$ g = \frac{1}{b} \Bigl( \sum_{j=1}^{b} \min\Bigl(1, \frac{C}{\|g_j\|}\Bigr) g_j
       + z C \xi \Bigr), \qquad g_j = \nabla \ell_j(\theta), \quad \xi \sim N(0, I) $$

    where $\ell_j$ is the loss of example j alone. The norm is that of the whole gradient, over all
    leaves; a gradient whose norm is not finite counts as 0, so that no example adds more than C. A
    value without a gradient is that of `loss_fn`, and is not private.

    The noise is drawn from `key`, which protocols give to each worker of its own. Two gradients
    with one key have the same noise: their difference is not private. Whoever knows the key can
    remove the noise, so outside of simulations each worker keeps its own.

    Only `params` have a gradient; those of `batch` are 0. Forward-mode and second derivatives are
    not defined, and raise.

    Requirement: the loss of a batch is the mean of those of its examples (no batch normalization).
    Cost: b gradients of one example; O(min(b, microbatch) d) memory.

    Args:
      loss_fn: `loss_fn(params, batch, key=None) -> scalar`; every leaf of `batch` has shape
        `[b, ...]`. Gradients call it with batches of one example, each with a key of its own.
      clip_norm: C, in the unit of gradients; may be traced.
      noise_multiplier: z, the standard deviation of the noise in units of C; may be traced. 0 for
        no noise.
      microbatch: how many examples are computed at once, a Python int that divides b; None for
        all.

    Returns:
      `loss(params, batch, key=None)`, for protocols, `jax.grad` and `jax.value_and_grad`. The
      gradient is computed in at least float32, and has the dtypes of the parameters.

    Raises:
      TypeError: loss_fn is not a function, or takes no key; microbatch is not a Python int; or,
        when a gradient is taken, there is noise but no key.
      ValueError: clip_norm is not positive, noise_multiplier is negative, or microbatch < 1; or,
        when a gradient is taken, the leaves of the batch disagree on b, or microbatch does not
        divide it.

    Example:
      >>> import byzjax, jax, jax.numpy as jnp
      >>> def loss_fn(params, batch, key=None):
      ...     return jnp.mean(batch @ params)
      >>> batch = jnp.array([[3.0, 4.0], [0.0, 0.5]])
      >>> loss = byzjax.privacy.private(loss_fn, clip_norm=1.0, noise_multiplier=0.0)
      >>> jax.grad(loss)(jnp.zeros(2), batch)  # (3, 4) is clipped to (0.6, 0.8)
      Array([0.3 , 0.65], dtype=float32)
      >>> loss = byzjax.privacy.private(loss_fn, clip_norm=1.0, noise_multiplier=2.0)
      >>> jax.grad(loss)(jnp.zeros(2), batch, key=jax.random.key(0)).shape
      (2,)

    Reference: Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar and Zhang, Deep Learning with
    Differential Privacy, CCS 2016, algorithm 1. With optax it is
    `optax.contrib.differentially_private_aggregate`, which takes the gradients of all examples.
    """
    _checks.loss_function("private", loss_fn)
    _checks.positive("clip_norm", clip_norm)
    _checks.not_negative("noise_multiplier", noise_multiplier)
    if microbatch is not None:
        microbatch = static_int("microbatch", microbatch, at_least=1)
    noisy = not isinstance(noise_multiplier, int | float) or noise_multiplier > 0
    value = _with_private_gradient(loss_fn, noisy, microbatch)

    def loss(params: PyTree, batch: PyTree, key: jax.Array | None = None) -> jax.Array:
        return value(params, batch, key, clip_norm, noise_multiplier)

    loss.__name__ = loss.__qualname__ = f"private_{name_of(loss_fn)}"
    vars(loss)["private"] = True  # for protocols that would cancel the noise
    return loss


def _with_private_gradient(loss_fn: Callable, noisy: bool, microbatch: int | None) -> Callable:
    """`value(params, batch, key, c, z)`; c and z are arguments, since they may be traced."""

    @jax.custom_vjp
    def value(params: PyTree, batch: PyTree, key: jax.Array | None, c, z) -> jax.Array:
        del c, z
        return loss_fn(params, batch, key=key)

    def forward(params: PyTree, batch: PyTree, key: jax.Array | None, c, z) -> tuple:
        if noisy and key is None:
            raise TypeError(
                f"private: the gradient of {name_of(loss_fn)} needs a key for its noise; write "
                "jax.grad(loss)(params, batch, key=jax.random.key(0))."
            )
        if key is not None:
            _checks.prng_key("key", key)
        _check_batch(batch, microbatch)
        return loss_fn(params, batch, key=key), (params, batch, key, c, z)

    def backward(kept: tuple, cotangent: jax.Array) -> tuple:
        params, batch, key, c, z = kept
        leaves, b = jax.tree.leaves(params), len(jax.tree.leaves(batch)[0])
        # One key for the loss and one for each leaf, as in optax, which a test compares.
        keys = None if key is None else jax.random.split(key, len(leaves) + 1)
        own = None if keys is None else keys[0]
        total = _clipped_sum(loss_fn, _once(params), batch, own, c, microbatch)
        if noisy and keys is not None:
            total = _plus_noise(total, keys[1:], c * z)
        mean = jax.tree.map(lambda g: g * cotangent.astype(g.dtype) / b, total)
        gradient = jax.tree.map(lambda g, p: g.astype(p.dtype), mean, params)
        return gradient, None, None, None, None

    value.defvjp(forward, backward)
    return value


def _clipped_sum(
    loss_fn: Callable,
    params: PyTree,
    batch: PyTree,
    key: jax.Array | None,
    clip_norm: jax.Array,
    microbatch: int | None,
) -> PyTree:
    """The sum of the clipped gradients of the examples, in at least float32."""

    def of_one(example: PyTree, place: jax.Array) -> PyTree:
        own = None if key is None else jax.random.fold_in(key, place)
        alone = jax.tree.map(lambda leaf: leaf[None], example)
        return jax.grad(lambda params: loss_fn(params, alone, key=own))(params)

    def of_some(examples: tuple) -> PyTree:
        # At least float32, in which the sums of microbatches are added, and the noise.
        rows = stacked.widened(jax.vmap(of_one)(*examples))
        return stacked.weighted_sum(rows, clip_factors(stacked.squared_norms(rows), clip_norm))

    if not jax.tree.leaves(params):
        return params
    batch = jax.tree.map(jnp.asarray, batch)
    examples = batch, jnp.arange(len(jax.tree.leaves(batch)[0]))
    if microbatch is None:
        return of_some(examples)
    return optax.microbatching.microbatch(of_some, 0, microbatch)(examples)


def _plus_noise(total: PyTree, keys: jax.Array, deviation: jax.Array) -> PyTree:
    """Adds independent Gaussian noise of this standard deviation to every coordinate."""
    leaves, structure = jax.tree.flatten(total)
    noisy = [
        leaf + jnp.asarray(deviation, leaf.dtype) * jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys)
    ]
    return jax.tree.unflatten(structure, noisy)


@jax.custom_jvp
def _once(params: PyTree) -> PyTree:
    """The same parameters, whose gradient cannot be differentiated again."""
    return params


@_once.defjvp
def _twice(primals: tuple, tangents: tuple) -> tuple:
    raise TypeError(
        "private: the gradient of a private loss has no derivative by the parameters; take second "
        "derivatives of the loss itself."
    )


def _check_batch(batch: PyTree, microbatch: int | None) -> None:
    """Raises unless all leaves are of b examples, and microbatch divides b."""
    named = jax.tree_util.tree_leaves_with_path(batch)
    sizes = [jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for _, leaf in named]
    if not sizes or min(sizes) == 0 or max(sizes) != min(sizes):
        shapes = ", ".join(f"{keystr(path)} {jnp.shape(leaf)}" for path, leaf in named)
        raise ValueError(
            _mistakes.fitting(
                f"private: leaves of a batch have shape [b, ...] with b >= 1; got {shapes}."
            )
        )
    if microbatch is not None and sizes[0] % microbatch:
        raise ValueError(
            f"private: microbatch must divide the batch; got microbatch={microbatch}, b={sizes[0]}."
        )
