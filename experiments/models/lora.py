"""Low-rank adapters of the dense layers of Flax NNX models."""

import math
from typing import Any

import jax
from flax import nnx


class AdaptedLinear(nnx.Module):
    r"""A dense layer and an adapter: $x W + b + \frac{\alpha}{r} x A B$.

    Args:
      base: the layer.
      rank: r.
      alpha: $\alpha$.
      rngs: flax's random keys.
    """

    def __init__(self, base: nnx.Linear, rank: int, alpha: float, *, rngs: nnx.Rngs):
        self.base = base
        sizes = base.in_features, rank, base.out_features
        self.adapter = nnx.LoRA(*sizes, rngs=rngs, param_dtype=base.param_dtype)
        self.scale = alpha / rank

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., in_features]` to `[..., out_features]`."""
        return self.base(x) + self.scale * self.adapter(x)

    def merged(self) -> nnx.Linear:
        r"""The same layer without an adapter, of the weights $W + \frac{\alpha}{r} A B$."""
        out = nnx.clone(self.base)
        change = self.adapter.lora_a[...] @ self.adapter.lora_b[...]
        out.kernel[...] = out.kernel[...] + (self.scale * change).astype(out.kernel[...].dtype)
        return out


def lora(model: nnx.Module, rank: int, *, alpha: float | None = None, rngs: nnx.Rngs) -> nnx.Module:
    r"""A copy of a model whose dense layers have adapters of low rank.

    Each `nnx.Linear`, of weights W of shape `[in, out]`, becomes
    $x \mapsto x (W + \frac{\alpha}{r} A B) + b$ with A of shape `[in, r]` and B `[r, out]`. A is
    drawn at random (`nnx.LoRA`) and B is zero, so the copy computes what the model does. The
    adapters are `nnx.LoRAParam`, which select what is trained and what workers send:

        graphdef, adapters, fixed = nnx.split(adapted, nnx.LoRAParam, ...)

    Cost of a layer for each input: r (in + out) multiplications more; an update has r (in + out)
    numbers instead of in x out.

    Args:
      model: a model in Flax NNX, which is not changed.
      rank: r, at least 1 and at most the smaller side of every layer.
      alpha: $\alpha$; None for r, a factor of 1.
      rngs: flax's random keys.

    Raises:
      ValueError: the rank or alpha is out of range, or the model has no `nnx.Linear`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from experiments.models.lora import lora, merge
      >>> model = nnx.Linear(8, 8, rngs=nnx.Rngs(0))
      >>> adapted = lora(nnx.Sequential(model), 2, rngs=nnx.Rngs(1))
      >>> [leaf.shape for leaf in jax.tree.leaves(nnx.state(adapted, nnx.LoRAParam))]
      [(8, 2), (2, 8)]
      >>> bool(jnp.all(merge(adapted)(jnp.ones(8)) == model(jnp.ones(8))))
      True

    Source: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen (LoRA: Low-Rank Adaptation of Large
    Language Models, 2021, section 4.1), where x is a column and W + B A is written.
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"lora needs an integer rank >= 1; got {rank!r}.")
    alpha = float(rank) if alpha is None else alpha
    if not 0 < alpha < math.inf:
        raise ValueError(f"lora needs a positive finite alpha; got {alpha}.")

    def adapted(layer: nnx.Linear) -> AdaptedLinear:
        smaller = min(layer.in_features, layer.out_features)
        if rank > smaller:
            sides = f"{layer.in_features} x {layer.out_features}"
            raise ValueError(f"lora needs rank <= {smaller} for a layer of {sides}; got {rank}.")
        return AdaptedLinear(layer, rank, alpha, rngs=rngs)

    out = nnx.clone(model)
    if not _replace(out, nnx.Linear, adapted):
        raise ValueError(f"lora needs a model that has nnx.Linear; got {type(model).__name__}.")
    return out


def merge(model: nnx.Module) -> nnx.Module:
    """A copy of a model of `lora` without adapters, whose weights are the sums; it costs no more.

    Raises:
      ValueError: the model has no adapters.
    """
    out = nnx.clone(model)
    if not _replace(out, AdaptedLinear, AdaptedLinear.merged):
        raise ValueError(
            f"merge needs a model of lora; got {type(model).__name__} without adapters."
        )
    return out


def _replace(model: nnx.Module, kind: type, new: Any) -> int:
    """Replaces the modules of a kind inside a model; returns how many there were.

    A module that is used in several places is replaced by one, too.
    """
    replaced: dict[int, nnx.Module] = {}
    for _, module in list(nnx.iter_modules(model)):
        if isinstance(module, kind):
            continue
        for name, child in list(vars(module).items()):
            if isinstance(child, kind):
                if id(child) not in replaced:
                    replaced[id(child)] = new(child)
                setattr(module, name, replaced[id(child)])
    return len(replaced)
