"""Leaves that are no arrays, keys that are no keys, and float64."""

import numbers
import os
import sys
import typing
import warnings
from collections.abc import Iterator
from typing import Any

import jax

from byzjax._mistakes.words import ARRAYS, article, fitting, keystr, shown, type_of

# How the arrays of other libraries become arrays of NumPy.
_CONVERSIONS = {
    "torch": "detach().cpu().numpy()",
    "tensorflow": "numpy()",
    "pandas": "to_numpy()",
    "polars": "to_numpy()",
    "paddle": "numpy()",
    "mxnet": "asnumpy()",
    "cupy": "get()",
}

_OF_NUMPY = typing.get_args(jax.typing.ArrayLike)[1:4]  # arrays, bools, numbers


def no_array(name: str, tree: Any) -> TypeError | None:
    """The error for a leaf that JAX does not accept as an array."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_iterator):
        if isinstance(leaf, numbers.Number):
            continue
        if is_array(leaf):
            if getattr(getattr(leaf, "dtype", None), "kind", "f") in "OSUM":
                return TypeError(
                    f"{name}{keystr(path)} is a NumPy array of {leaf.dtype}; expected floats: "
                    'write .astype("float32").'
                )
            continue
        return TypeError(_foreign(name, tree, path, leaf))
    return None


def is_array(value: Any) -> bool:
    return hasattr(value, "__jax_array__") or isinstance(value, ARRAYS)


def _is_iterator(value: Any) -> bool:
    return isinstance(value, Iterator) and not is_array(value)


def _foreign(name: str, tree: Any, path: Any, leaf: Any) -> str:
    what = f"{name}{keystr(path)} is {article(type_of(leaf))}"
    convert = _CONVERSIONS.get(type(leaf).__module__.partition(".")[0])
    if _is_iterator(leaf):
        return f"{what}; expected arrays: write byzjax.stack({name})."
    if convert is None:
        what += f", {leaf!r}" * (isinstance(leaf, str) and len(leaf) < 40)
        return f"{what}; expected an array from JAX or NumPy, or a number."
    write = f"jax.tree.map(lambda t: t.{convert}, {name})" if path else f"{name}.{convert}"
    if type(tree) in (list, tuple):
        write = f"byzjax.stack({write})"
    if type(leaf).__module__.partition(".")[0] == "torch":
        call = "byzjax.torch.Aggregator(rule, ...)"
        what += "; expected an array: write"
        return fitting(f"{what} {call}(updates), or {write}.", f"{what} {call}.")
    return f"{what}; expected an array from JAX or NumPy: write {write}."


def no_key(name: str, value: Any) -> TypeError | None:
    """The error for a value that is no PRNG key, or several."""
    dtype, shape = getattr(value, "dtype", None), tuple(getattr(value, "shape", ()))
    if dtype is None or not is_array(value):
        seed = repr(value) if isinstance(value, int) and not isinstance(value, bool) else "0"
        return TypeError(
            f"{name} must be a PRNG key; got {shown(value)}: write {name}=jax.random.key({seed})."
        )
    typed = jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != "uint32":
        return TypeError(
            f"{name} must be a PRNG key; got an array of {dtype}: write {name}=jax.random.key(0)."
        )
    if len(shape) > (0 if typed else 1):
        return TypeError(
            f"{name} must be one PRNG key; got keys of shape {shape}: write {name}=keys[0]."
        )
    return None


class Float64:
    """Whether the sentence about float64 has not been said yet."""

    unsaid = True


def notice_float64(tree: Any) -> None:
    """Says once that NumPy's float64 becomes float32, judged by the first leaf."""
    while type(tree) in (dict, list, tuple) and tree:
        tree = next(iter(tree.values())) if type(tree) is dict else tree[0]
    if not isinstance(tree, _OF_NUMPY):  # most calls, which must not wait
        return
    if tree.dtype != "float64" or getattr(jax.config, "jax_enable_x64", False):
        return
    Float64.unsaid = False
    warnings.warn(
        'float64 updates are computed in float32; write jax.config.update("jax_enable_x64", True) '
        'first to keep float64, or updates.astype("float32"). Said once.',
        UserWarning,
        stacklevel=_outside(),
    )


def _outside() -> int:
    """The level of the caller outside of byzjax."""
    level, frame = 1, sys._getframe(1)
    here = os.path.dirname(os.path.dirname(__file__)) + os.sep
    while frame.f_back is not None and frame.f_code.co_filename.startswith(here):
        level, frame = level + 1, frame.f_back
    return level


def no_axis(function: str, axis_name: Any) -> NameError:
    """The error for a mapped axis that does not exist."""
    return NameError(
        f"{function}: no mapped axis {axis_name!r} here; call it inside "
        f"jax.shard_map over a mesh with that axis, or jax.vmap(..., axis_name={axis_name!r})."
    )
