"""Convolutions and linear layers without passes over the data that need not be.

Convolutions take in the frozen norms after them (``dino_nb.models.fold``). After ``model.optimize()`` oneDNN adds
residuals and cuts at zero while it writes a result (on a CPU, in float32, without gradients; everything else stays with
the plain formulation).
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def by_rows(function: Callable[..., Tensor], *inputs: Tensor, rows: int = 1024) -> Tensor:
    """``function`` of tensors ``(B, S, C)`` that treats every token by itself.

    On a CPU without gradients it gets ``rows`` tokens at a time: what it holds in between stays in the cache then.
    """
    if torch.is_grad_enabled() or inputs[0].device.type != "cpu" or torch.compiler.is_compiling() or _is_traced():
        return function(*inputs)
    return torch.cat([function(*parts) for parts in zip(*(x.split(rows, 1) for x in inputs))], 1)


def _is_traced() -> bool:
    return bool(torch.jit.is_tracing() or torch.onnx.is_in_onnx_export())


class Packed:
    """A weight as the device multiplies it fastest, made again when its source has changed.

    Copies of the network and files leave it out.
    """

    def __init__(self) -> None:
        self._state: Any = None
        self._value: Any = None

    def get(self, layer: "Linear | Conv2d", x: Tensor) -> tuple[bool, Any, Tensor | None]:
        """Whether weight and bias are for oneDNN's fused operators, and these two; ``x`` is the layer's input."""
        half = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else None
        fused = half is None and x.device.type == "cpu" and x.dtype == torch.float32 and _has_onednn()
        sources = layer.sources()
        state = [fused, half, *((s.data_ptr(), 0 if s.is_inference() else s._version) for s in sources)]
        if state != self._state:
            weight, bias = layer.folded()
            if fused:
                weight = layer.laid_out(weight)
            elif half is not None:  # cast once, not in every call
                weight, bias = weight.to(half), None if bias is None else bias.to(half)
            self._state, self._value = state, (fused, weight, bias)
        return self._value

    def __deepcopy__(self, memo: dict) -> "Packed":
        return Packed()

    def __reduce__(self) -> tuple:
        return Packed, ()


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def _prepared(layer: "Linear | Conv2d", x: Tensor) -> tuple[bool, Any, Tensor | None]:
    if layer.packed is None or torch.is_grad_enabled() or torch.compiler.is_compiling() or _is_traced():
        return False, *layer.folded()
    return layer.packed.get(layer, x)


class Linear(nn.Linear):
    """``nn.Linear`` that can end in a ReLU."""

    packed: Packed | None = None

    def sources(self) -> list[Tensor]:
        """What the prepared weight and bias are made from."""
        return list(self.parameters())

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias."""
        return self.weight, self.bias

    def laid_out(self, weight: Tensor) -> Tensor:
        """``weight`` in oneDNN's layout."""
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        fused, weight, bias = _prepared(self, x)
        if fused:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")
        x = F.linear(x, weight, bias)
        return F.relu(x, inplace=not torch.is_grad_enabled()) if relu else x


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` that takes in the frozen norm after it and can end in a residual and a ReLU."""

    packed: Packed | None = None
    norms: tuple = ()  # the norm, in a tuple: its parameters and name stay with its own place in the network
    relu = False

    def sources(self) -> list[Tensor]:
        """What the prepared weight and bias are made from."""
        return [*self.parameters(), *(x for norm in self.norms for x in norm.buffers())]

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of convolution and norm together."""
        if not self.norms:
            return self.weight, self.bias
        (norm,) = self.norms
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self.weight * scale.view(-1, 1, 1, 1), shift

    def laid_out(self, weight: Tensor) -> Tensor:
        """``weight`` with channels last: oneDNN's own layout, made for one size, can be ten times slower at another."""
        return weight.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, relu: bool = False, add: Tensor | None = None) -> Tensor:
        """``(B, C_in, H, W)`` to ``(B, C_out, h, w)``; ``add``: a residual of the result's shape."""
        relu = relu or self.relu
        fused, weight, bias = _prepared(self, x)
        if fused:
            where, op = (self.padding, self.stride, self.dilation, self.groups), torch.ops.mkldnn._convolution_pointwise
            if add is not None:
                return op.binary(x, add, weight, bias, *where, "add", None, "relu" if relu else None, [], "")
            return op(x, weight, bias, *where, "relu" if relu else "none", [], "")
        x = self._convolve(x, weight, bias)
        if add is not None:  # autograd needs none of the values that are replaced here
            x = x.add_(add) if x.dtype == add.dtype else x + add
        return x.relu_() if relu else x

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        depthwise = self.groups == self.in_channels == self.out_channels and max(self.dilation) == 1
        trains = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
        plain = torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype == torch.float64
        if depthwise and trains and not plain:
            if torch.is_autocast_enabled("cpu"):
                x, weight = x.to(torch.get_autocast_dtype("cpu")), weight.to(torch.get_autocast_dtype("cpu"))
            x = _Depthwise.apply(x, weight, self.stride, self.padding)
            return x if bias is None else x + bias.to(x.dtype).view(-1, 1, 1)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class SameConv2d(Conv2d):
    """A convolution that pads its input as TensorFlow does, as some of timm's backbones have it."""

    def forward(self, x: Tensor, relu: bool = False, add: Tensor | None = None) -> Tensor:
        return super().forward(pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation)), relu, add)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of ``(B, C, H, W)`` on a CPU, whose backward takes the ways that oneDNN has kernels for.

    It has none for weights of more than 3x3, whose gradient is put together of 3x3 windows here, nor for strided data
    gradients in 16 bits.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple, padding: tuple) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        channels, _, height, width = weight.shape
        last = x.is_contiguous(memory_format=torch.channels_last)
        grad = grad.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

        def gradients(grad: Tensor, x: Tensor, weight: Tensor, padding: Any, wanted: list[bool]) -> tuple:
            where = ctx.stride, padding, (1, 1), False, (0, 0), channels
            return torch.ops.aten.convolution_backward(grad, x, weight, None, *where, [*wanted, False])

        by_x = by_weight = None
        if ctx.needs_input_grad[0]:
            wide = torch.float32 if max(ctx.stride) > 1 else x.dtype
            like_x = torch.empty_like(x, dtype=wide)  # only its shape counts
            by_x = gradients(grad.to(wide), like_x, weight.to(wide), ctx.padding, [True, False])[0].to(x.dtype)
        if ctx.needs_input_grad[1]:
            x = F.pad(x, [p for p in reversed(ctx.padding) for _ in range(2)]) if any(ctx.padding) else x
            by_weight = torch.empty_like(weight)
            for top, left in itertools.product(_windows(height), _windows(width)):
                window = by_weight[:, :, top : top + 3, left : left + 3]  # [C, 1, up to 3, up to 3]
                rows, columns = (
                    (out - 1) * step + side for out, step, side in zip(grad.shape[2:], ctx.stride, window.shape[2:])
                )
                part = x[:, :, top : top + rows, left : left + columns]
                window.copy_(gradients(grad, part, window, (0, 0), [False, True])[1])
        return by_x, by_weight, None, None


def _windows(side: int) -> set[int]:
    """Where windows of 3 begin that together cover ``side``."""
    return {max(min(start, side - 3), 0) for start in range(0, side, 3)}


class _FeedForward(torch.autograd.Function):
    """``n + linear2(relu(linear1(n)))`` with ``n = norm(x)`` on ``(N, C)``, whose backward takes some rows at a time.

    Their gradients by the wide layer in between stay in the cache, and all of them are never held at once; ``n`` is
    not kept, since a norm is cheap.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, *weights: Tensor) -> Tensor:
        gamma, beta, w1, b1, w2, b2 = weights
        n, mean, rstd = torch.native_layer_norm(x, gamma.shape, gamma, beta, eps)
        hidden = torch.addmm(b1, n, w1.t()).relu_()
        ctx.save_for_backward(x, mean, rstd, hidden, gamma, beta, w1, w2)
        ctx.eps = eps
        return torch.addmm(b2, hidden, w2.t()).add_(n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, hidden, gamma, beta, w1, w2 = ctx.saved_tensors
        by_x = torch.empty_like(x)
        by_gamma, by_beta, by_w1, by_w2 = map(torch.zeros_like, (gamma, beta, w1, w2))
        by_b1 = w1.new_zeros(len(w1))
        for g, h, part, m, r, out in zip(*(t.split(1024) for t in (grad, hidden, x, mean, rstd, by_x))):
            n = torch.native_layer_norm(part, gamma.shape, gamma, beta, ctx.eps)[0]
            by_w2.addmm_(g.t(), h)
            by_hidden = (g @ w2).mul_(h > 0)
            by_w1.addmm_(by_hidden.t(), n)
            by_b1 += by_hidden.sum(0)
            by_n = torch.addmm(g, by_hidden, w1)
            norm = torch.ops.aten.native_layer_norm_backward(by_n, part, gamma.shape, m, r, gamma, beta, [True] * 3)
            out.copy_(norm[0])
            by_gamma += norm[1]
            by_beta += norm[2]
        return by_x, None, by_gamma, by_beta, by_w1, by_b1, by_w2, grad.sum(0)


def feed_forward(x: Tensor, norm: nn.LayerNorm, linear1: Linear, linear2: Linear, dropout: nn.Dropout) -> Tensor:
    """``n + dropout(linear2(dropout(relu(linear1(n)))))`` with ``n = norm(x)``, of tokens ``(B, S, C)``."""
    plain = not torch.is_grad_enabled() or x.device.type != "cpu" or torch.is_autocast_enabled("cpu")
    if plain or (dropout.training and dropout.p > 0) or torch.compiler.is_compiling() or _is_traced():
        n = norm(x)
        return residual(n, dropout(linear2(dropout(linear1(n, relu=True)))))
    weights = norm.weight, norm.bias, linear1.weight, linear1.bias, linear2.weight, linear2.bias
    return _FeedForward.apply(x.flatten(0, 1), norm.eps, *weights).view(x.shape)


def residual(x: Tensor, change: Tensor) -> Tensor:
    """``x + change``, in the place of ``change`` (a result that nothing else uses) where autograd keeps nothing."""
    return x + change if torch.is_grad_enabled() or x.dtype != change.dtype else change.add_(x)


def optimize(model: nn.Module, enable: bool = True) -> None:
    """Let the layers of ``model`` use oneDNN's fused operators where they can (or no longer)."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
        elif type(module) is nn.Conv2d and is_plain(module):
            module.__class__ = SameConv2d if isinstance(module, Conv2dSame) else Conv2d
        if isinstance(module, (Linear, Conv2d)):
            module.packed = (module.packed or Packed()) if enable else None


def is_plain(conv: nn.Module) -> bool:
    """Whether a convolution is one that ``Conv2d`` or ``SameConv2d`` computes alike."""
    return type(conv) in (nn.Conv2d, Conv2dSame) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
