"""Distributions of initial weights."""

from typing import Any

import jax
from flax import traverse_util

INITS = ("flax", "torch")
"""Flax's (kernels LeCun normal, biases 0) and PyTorch's (`like_torch`)."""


def like_torch(params: Any, key: jax.Array) -> Any:
    r"""Draws kernels and biases as PyTorch's `Linear` and `Conv2d` do by default.

    All entries of a layer are uniform between $\pm 1 / \sqrt{m}$, where m is the number of its
    inputs, for a convolution the channels of the input times the pixels of the kernel. The
    variance, $1 / (3 m)$, is a third of that of LeCun's initialization. Other parameters, such as
    those of normalizations, stay.

    Args:
      params: the parameters of a model in Flax NNX, a nested dict.
      key: PRNG key.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from experiments.models.initial import like_torch
      >>> layer = {"kernel": jnp.zeros((4, 100)), "bias": jnp.zeros(100)}
      >>> drawn = like_torch({"hidden": layer}, jax.random.key(0))["hidden"]
      >>> [float(abs(leaf).max()) <= 0.5 for leaf in drawn.values()]
      [True, True]

    Source: `torch.nn.Linear` of PyTorch 2.13; the uniform distribution of He, Zhang, Ren and Sun
    (Delving Deep into Rectifiers, 2015) with $a = \sqrt{5}$.
    """
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(params)
    for place, (*module, name) in enumerate(sorted(flat)):
        kernel = flat.get((*module, "kernel"))
        if name in ("kernel", "bias") and kernel is not None:
            bound = (kernel.size // kernel.shape[-1]) ** -0.5
            leaf = flat[*module, name]
            flat[*module, name] = jax.random.uniform(
                jax.random.fold_in(key, place), leaf.shape, leaf.dtype, -bound, bound
            )
    return traverse_util.unflatten_dict(flat)
