"""The operators ``dino_nb::ms_deform_attn`` and ``..._fused`` as PyTorch knows them.

Here are their schemas, shapes (fake kernels), gradients, autocast and vmap rules; the compiled library adds kernels
for CPU and CUDA when it is loaded. Without it they run on the PyTorch reference, so that an exported program works
wherever this module is imported.
"""

import torch
from torch.autograd import forward_ad

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
    _extra = "bool deterministic=False"  # the same bits in every run, on CUDA too; the CPU knows no other way
    _lib.define(f"{_name}_backward(Tensor grad_output, {_inputs}, {_extra}) -> (Tensor, Tensor, Tensor)")
OPS = [name + suffix for name in _TENSORS for suffix in ("", "_backward")]


def _op(name):
    return getattr(torch.ops.dino_nb, name).default


def _pairs(flat):
    return list(zip(flat[::2], flat[1::2]))


def _tensors_of(args):
    return [x for x in args if isinstance(x, torch.Tensor)]


# ---- shapes ---------------------------------------------------------------------------------------------------------


def _fake(value, spatial_shapes, *tensors):
    coordinates, weights = tensors[-2:]
    torch._check(value.dim() == 4 and coordinates.dim() == 6 and weights.dim() == 5)
    torch._check(sum(h * w for h, w in _pairs(spatial_shapes)) == value.shape[1])
    return value.new_empty(value.shape[0], coordinates.shape[1], value.shape[2] * value.shape[3])


def _fake_backward(grad_output, value, spatial_shapes, *rest):
    tensors = _tensors_of(rest)
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (value, *tensors[-2:]))


# ---- gradients ------------------------------------------------------------------------------------------------------


def _deterministic():
    return torch.are_deterministic_algorithms_enabled()


class _Deform(torch.autograd.Function):
    @staticmethod
    def forward(ctx, name, value, spatial_shapes, *tensors):
        ctx.name, ctx.spatial_shapes = name, spatial_shapes
        ctx.save_for_backward(value, *tensors)
        with torch._C._AutoDispatchBelowAutograd():
            return _op(name)(value, spatial_shapes, *tensors)

    @staticmethod
    def backward(ctx, grad_output):
        value, *tensors = ctx.saved_tensors
        if len(tensors) == 3 and ctx.needs_input_grad[3]:
            gradients = _with_reference_gradient(grad_output, value, ctx.spatial_shapes, *tensors)
        else:
            gradients = _op(ctx.name + "_backward")(grad_output, value, ctx.spatial_shapes, *tensors, _deterministic())
            gradients = (gradients[0], *[None] * (len(tensors) - 2), *gradients[1:])
        return None, gradients[0], None, *gradients[1:]


def _with_reference_gradient(grad_output, value, spatial_shapes, points, offsets, logits):
    """Gradients by all four tensors of the fused op, from those of the bare one: models detach their references."""
    shapes = _pairs(spatial_shapes)
    wide = offsets.to(points.dtype)
    weights = logits.to(points.dtype).flatten(-2).softmax(-1).view(logits.shape)
    locations = reference.sampling_locations(points, wide, shapes)
    grad_value, by_location, by_weight = _op("ms_deform_attn_backward")(
        grad_output, value, spatial_shapes, locations, weights, _deterministic()
    )
    product = weights * by_weight
    by_logit = product - weights * product.sum((-2, -1), keepdim=True)
    if points.shape[-1] == 2:
        wh = torch.tensor([(w, h) for h, w in shapes], dtype=points.dtype).to(points.device)
        by_offset, by_point = by_location / wh[:, None], by_location.sum((2, 4))
    else:
        half = 0.5 / offsets.shape[-2]
        by_offset = by_location * points[:, :, None, :, None, 2:] * half
        by_point = torch.cat([by_location.sum((2, 4)), (by_location * wide * half).sum((2, 4))], -1)
    return grad_value, by_point, by_offset.to(offsets.dtype), by_logit.to(logits.dtype)


class _DeformBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, name, *args):
        with torch._C._AutoDispatchBelowAutograd():
            return _op(name)(*args)

    @staticmethod
    def backward(ctx, *grad_outputs):
        raise NotImplementedError("ms_deform_attn has no second derivatives; DINO_NB_OPS=torch uses PyTorch, which has")


def _autograd(name, *args):
    tensors = _tensors_of(args)
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError(f"{name} has no forward-mode derivative; use reverse mode (backward)")
    key = torch._C._dispatch_key_for_device(args[0].device.type)
    if name.endswith("_backward") and not torch._C._dispatch_has_kernel_for_dispatch_key(f"dino_nb::{name}", key):
        return _fallback(name, *args)  # while autograd, which it uses, is still at work
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        if torch._C._are_functorch_transforms_active():
            raise NotImplementedError(f"{name} has no torch.func gradient: use backward(), or set DINO_NB_OPS=torch")
        return (_DeformBackward if name.endswith("_backward") else _Deform).apply(name, *args)
    with torch._C._AutoDispatchBelowAutograd():
        return _op(name)(*args)


# ---- autocast and vmap ----------------------------------------------------------------------------------------------


def _autocast(name, device, value, spatial_shapes, *tensors):
    """The value goes to autocast's type; places stay in float32, whatever came before."""
    key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device.upper()}"))
    if value.dtype != torch.float64:
        value = value.to(torch.get_autocast_dtype(device))
        positions = len(tensors) if len(tensors) == 2 else 1  # 16-bit offsets and logits are as accurate as they came
        tensors = [x.float() if i < positions else x for i, x in enumerate(tensors)]
    with torch._C._ExcludeDispatchKeyGuard(key):
        return _op(name)(value, spatial_shapes, *tensors)


def _vmap(name):
    def rule(info, in_dims, *args):
        """Every tensor starts with the image dimension: the mapped one is folded into it."""
        folded = []
        for x, dim in zip(args, in_dims):
            if isinstance(x, torch.Tensor):
                x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
                x = x.flatten(0, 1)
            folded.append(x)
        out = _op(name)(*folded)
        unfold = [x.unflatten(0, (info.batch_size, -1)) for x in ([out] if isinstance(out, torch.Tensor) else out)]
        return (unfold[0], 0) if isinstance(out, torch.Tensor) else (tuple(unfold), (0,) * len(unfold))

    return rule


# ---- without the compiled library -----------------------------------------------------------------------------------


def _fallback(name, *args):
    """Build and load the compiled kernels if that is possible, else use the reference."""
    device = args[0].device.type
    if native.is_native(device):
        return _op(name)(*args)
    function = getattr(reference, name.removesuffix("_backward"))
    if not name.endswith("_backward"):
        value, spatial_shapes, *tensors = args
        return function(value, _pairs(spatial_shapes), *tensors)
    grad_output, value, spatial_shapes, *rest = args
    tensors = _tensors_of(rest)
    inputs = [value, *tensors[-2:]]
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        out = function(leaves[0], _pairs(spatial_shapes), *tensors[:-2], *leaves[1:])
    return torch.autograd.grad(out, leaves, grad_output)


def _bind(function, *first):
    return lambda *args: function(*first, *args)


for _name in OPS:
    _backward = _name.endswith("_backward")
    torch.library.register_fake(f"dino_nb::{_name}", _fake_backward if _backward else _fake, lib=_lib)
    torch.library.register_vmap(f"dino_nb::{_name}", _vmap(_name), lib=_lib)
    _lib.impl(_name, _bind(_autograd, _name), "Autograd")
    _lib.impl(_name, _bind(_fallback, _name), "CompositeExplicitAutograd")
    if not _backward:
        for _device in ("cpu", "cuda"):
            _lib.impl(_name, _bind(_autocast, _name, _device), f"Autocast{_device.upper()}")
