"""The operators ``dino_nb::ms_deform_attn`` and ``..._fused`` as PyTorch knows them.

Here are their schemas, shapes (fake kernels), gradients, autocast and vmap rules; the compiled library adds kernels
for CPU and CUDA when it is loaded. Without it they run on the PyTorch reference, so that an exported program works
wherever this module is imported.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dino_nb.ops import native, reference

_TENSORS = {
    "ms_deform_attn": "Tensor sampling_locations, Tensor attention_weights",
    "ms_deform_attn_fused": "Tensor reference_points, Tensor sampling_offsets, Tensor attention_logits",
}
_lib = torch.library.Library("dino_nb", "DEF")
for _name, _tensors in _TENSORS.items():
    _inputs = f"Tensor value, SymInt[] spatial_shapes, {_tensors}"
    _lib.define(f"{_name}({_inputs}) -> Tensor")
    # gradients of value, of coordinates (locations or offsets), and of weights (or logits)
    _extra = "bool deterministic=False"  # the same bits in every run, on CUDA too; on the CPU they always are
    _lib.define(f"{_name}_backward(Tensor grad_output, {_inputs}, {_extra}) -> (Tensor, Tensor, Tensor)")


def _op(name: str) -> Any:
    return getattr(torch.ops.dino_nb, name).default


def _pairs(flat: list[int]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2]))


# ---- shapes ---------------------------------------------------------------------------------------------------------


def _fake(value: Tensor, spatial_shapes: list[int], *tensors: Tensor) -> Tensor:
    coordinates, weights = tensors[-2:]
    torch._check(value.dim() == 4 and coordinates.dim() == 6 and weights.dim() == 5)
    torch._check(sum(h * w for h, w in _pairs(spatial_shapes)) == value.shape[1])
    return value.new_empty(value.shape[0], coordinates.shape[1], value.shape[2] * value.shape[3])


def _fake_backward(grad_output: Tensor, value: Tensor, spatial_shapes: list[int], *rest: Any) -> tuple[Tensor, ...]:
    tensors = [x for x in rest if isinstance(x, Tensor)]
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (value, *tensors[-2:]))


# ---- gradients ------------------------------------------------------------------------------------------------------


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    value, ctx.spatial_shapes, *tensors = inputs
    ctx.save_for_backward(value, *tensors)


def _backward(name: str, ctx: Any, grad_output: Tensor) -> tuple:
    value, *tensors = ctx.saved_tensors
    if len(tensors) == 3 and ctx.needs_input_grad[2]:
        by_value, *others = _with_reference_gradient(grad_output, value, ctx.spatial_shapes, *tensors)
    else:
        by_value, *others = _call_backward(name, grad_output, value, ctx.spatial_shapes, *tensors)
        others = [None] * (len(tensors) - 2) + others
    return by_value, None, *others


def _call_backward(name: str, grad_output: Tensor, value: Tensor, spatial_shapes: list[int], *tensors: Tensor) -> Any:
    if value.device.type in native.registered:
        deterministic = torch.are_deterministic_algorithms_enabled()
        return _op(f"{name}_backward")(grad_output, value, spatial_shapes, *tensors, deterministic)
    leaves = [x.detach().requires_grad_() for x in (value, *tensors[-2:])]
    with torch.enable_grad():
        out = getattr(reference, name)(leaves[0], _pairs(spatial_shapes), *tensors[:-2], *leaves[1:])
    return torch.autograd.grad(out, leaves, grad_output)


def _with_reference_gradient(
    grad_output: Tensor, value: Tensor, spatial_shapes: list[int], points: Tensor, offsets: Tensor, logits: Tensor
) -> tuple[Tensor, ...]:
    """Gradients by all four tensors of the fused op, from those of the bare one (models detach their references)."""
    shapes = _pairs(spatial_shapes)
    wide = offsets.to(points.dtype)
    weights = logits.to(points.dtype).flatten(-2).softmax(-1).view(logits.shape)
    locations = reference.sampling_locations(points, wide, shapes)
    grad_value, by_location, by_weight = _call_backward(
        "ms_deform_attn", grad_output, value, spatial_shapes, locations, weights
    )
    product = weights * by_weight
    by_logit = product - weights * product.sum((-2, -1), keepdim=True)
    if points.shape[-1] == 2:
        wh = torch.tensor([(w, h) for h, w in shapes], dtype=points.dtype).to(points.device)
        by_offset, by_point = by_location / wh.view(-1, 1, 2), by_location.sum((2, 4))
    else:
        half = 0.5 / offsets.shape[-2]
        by_offset = by_location * points[:, :, None, :, None, 2:].nan_to_num(0, 0, 0) * half
        by_point = torch.cat([by_location.sum((2, 4)), (by_location * wide * half).sum((2, 4))], -1)
    return grad_value, by_point, by_offset.to(offsets.dtype), by_logit.to(logits.dtype)


def _no_second_derivative(ctx: Any, *grad_outputs: Tensor) -> None:
    raise NotImplementedError("ms_deform_attn has no second derivatives; DINO_NB_OPS=torch uses PyTorch, which has")


# ---- autocast and vmap ----------------------------------------------------------------------------------------------


def _autocast(name: str, device: str, value: Tensor, spatial_shapes: list[int], *tensors: Tensor) -> Tensor:
    """The value goes to autocast's type; places stay in float32, whatever came before."""
    if value.dtype != torch.float64:
        value = value.to(torch.get_autocast_dtype(device))
        positions = len(tensors) if len(tensors) == 2 else 1  # 16-bit offsets and logits are as accurate as they came
        tensors = tuple(x.float() if i < positions else x for i, x in enumerate(tensors))
    with torch.autocast(device, enabled=False):
        return _op(name)(value, spatial_shapes, *tensors)


def _vmap(name: str) -> Callable:
    def rule(info: Any, in_dims: tuple, *args: Any) -> tuple:
        """Every tensor starts with the image dimension: the mapped one is folded into it."""
        folded = []
        for x, dim in zip(args, in_dims):
            if isinstance(x, Tensor):
                x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
                x = x.flatten(0, 1)
            folded.append(x)
        out = _op(name)(*folded)
        unfold = [x.unflatten(0, (info.batch_size, -1)) for x in ([out] if isinstance(out, Tensor) else out)]
        return (unfold[0], 0) if isinstance(out, Tensor) else (tuple(unfold), (0,) * len(unfold))

    return rule


# ---- without the compiled library -----------------------------------------------------------------------------------


def _fallback(name: str, value: Tensor, spatial_shapes: list[int], *tensors: Tensor) -> Tensor:
    """Build and load the compiled kernels if that is possible, else use the reference."""
    if native.is_native(value.device.type):
        return _op(name)(value, spatial_shapes, *tensors)
    return getattr(reference, name)(value, _pairs(spatial_shapes), *tensors)


def _bind(function: Callable, *first: Any) -> Callable:
    return lambda *args: function(*first, *args)


for _name in _TENSORS:
    _qualified = f"dino_nb::{_name}"
    torch.library.register_fake(_qualified, _fake, lib=_lib)
    torch.library.register_fake(f"{_qualified}_backward", _fake_backward, lib=_lib)
    torch.library.register_autograd(_qualified, _bind(_backward, _name), setup_context=_keep, lib=_lib)
    torch.library.register_autograd(f"{_qualified}_backward", _no_second_derivative, lib=_lib)
    torch.library.register_vmap(_qualified, _vmap(_name), lib=_lib)
    torch.library.register_vmap(f"{_qualified}_backward", _vmap(f"{_name}_backward"), lib=_lib)
    _lib.impl(_name, _bind(_fallback, _name), "CompositeExplicitAutograd")
    for _device in ("cpu", "cuda"):
        _lib.impl(_name, _bind(_autocast, _name, _device), f"Autocast{_device.upper()}")
