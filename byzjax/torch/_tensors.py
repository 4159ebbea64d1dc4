"""PyTorch tensors as JAX arrays and back, through DLPack."""

from collections.abc import Iterable
from typing import Any

import jax

from byzjax._mistakes import article, fitting, is_array, shown

torch: Any = None
try:
    import torch
except ModuleNotFoundError as missing:
    if missing.name != "torch":
        raise

ALIGNMENT = 64  # bytes: XLA computes in place only on memory that begins at a multiple of it


def needs_torch() -> None:
    """Raises if PyTorch is not installed."""
    if torch is None:
        raise ModuleNotFoundError(
            "byzjax.torch needs PyTorch, which is not installed: pip install 'byzjax[torch]'.",
            name="torch",
        )


def is_tensor(value: Any) -> bool:
    return torch is not None and isinstance(value, torch.Tensor)


def is_float(tensor: Any) -> bool:
    """Whether JAX computes in this dtype: float16, bfloat16, float32 and float64."""
    return tensor.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def is_whole(tensor: Any) -> bool:
    """Whether a tensor is of integers or truth values."""
    return not (tensor.dtype.is_floating_point or tensor.dtype.is_complex)


def check(name: str, tensor: Any) -> None:
    """Raises unless this is a dense tensor."""
    if not is_tensor(tensor):
        hint = ""
        if tensor is None:
            hint = ": a parameter without a gradient; write torch.zeros_like(parameter)"
        elif is_array(tensor):
            hint = ": call the rule itself, or write torch.from_numpy(...)"
        what = "None" if tensor is None else shown(tensor)
        raise TypeError(
            fitting(
                f"{name} is {what}; expected a torch.Tensor{hint}.",
                f"{name} is {what}; expected a torch.Tensor.",
            )
        )
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} is {article(str(tensor.layout))} tensor: write .to_dense().")


def check_float(name: str, tensor: Any) -> None:
    """Raises unless this is a dense tensor of real floats."""
    check(name, tensor)
    if is_float(tensor):
        return
    write = "torch.view_as_real(...)" if tensor.dtype.is_complex else ".float()"
    raise TypeError(
        f"{name} is of {tensor.dtype}; expected float16, bfloat16, float32 or float64: "
        f"write {write}."
    )


def device_of(name: str, device: Any) -> jax.Device:
    """The JAX device on which tensors of this PyTorch device lie."""
    kind = {"cpu": "cpu", "cuda": "gpu"}.get(device.type)
    try:
        if kind is not None:
            return jax.devices(kind)[device.index or 0]
    except (RuntimeError, IndexError):
        pass
    here = ", ".join(sorted({other.platform for other in jax.devices()}))
    install = ", or install JAX for CUDA" * (kind == "gpu")
    raise ValueError(
        f"{name} are on {device}, which JAX has not here; it has {here}: move them there, "
        f"as with .cpu(){install}."
    )


def array_of(tensor: Any) -> jax.Array:
    """The tensor as an array: of the same memory if that is contiguous and aligned, else a copy."""
    tensor = tensor.detach()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    tensor = tensor.contiguous()
    if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
        tensor = tensor.clone()
    return jax.dlpack.from_dlpack(tensor)


def tensor_of(array: jax.Array) -> Any:
    """The array as a tensor of the same memory; the array must be ready."""
    return torch.utils.dlpack.from_dlpack(array.__dlpack__())


def own_tensors(results: Iterable[jax.Array], others: Iterable[jax.Array]) -> list[Any]:
    """The results as tensors that share no memory with one another or with the other arrays.

    JAX may return an argument as a result, or one array as two: harmless there, since arrays do not
    change, but tensors do.
    """
    taken = {array.unsafe_buffer_pointer() for array in others if array.size}
    tensors = []
    for array in results:
        tensor = tensor_of(array)
        if array.size:
            place = array.unsafe_buffer_pointer()
            tensors.append(tensor.clone() if place in taken else tensor)
            taken.add(place)
        else:
            tensors.append(tensor)
    return tensors
