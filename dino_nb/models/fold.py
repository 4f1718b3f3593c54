"""Frozen batch norms folded into the convolutions before them, in training as in evaluation.

Such a norm scales and shifts channels, which a convolution's weights can do.
"""

from typing import Any

import torch
from timm.layers import Conv2dSame, FrozenBatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from dino_nb.models.fast import Conv2d, SameConv2d, is_plain


class _Absorbed(FrozenBatchNorm2d):
    """A norm that the convolution before it has taken in."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class _AbsorbedAct(FrozenBatchNormAct2d):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


@torch.inference_mode(False)  # versions of tensors are looked at
def fold_norms(body: nn.Module) -> None:
    """Let convolutions take in the frozen norms that read their results.

    Which norm reads which convolution shows in a pass over a small image. What the network computes is compared before
    and after. A network that does something else with a convolution's result, or takes no small images, stays as it
    was.
    """
    if not any(isinstance(module, (FrozenBatchNorm2d, FrozenBatchNormAct2d)) for module in body.modules()):
        return
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    try:
        pairs, before = _pairs(body), _run(body, image)
    except (RuntimeError, AssertionError, ValueError):
        return
    classes = [(module, module.__class__) for pair in pairs for module in pair]
    for conv, norm in pairs:
        conv.__class__, conv.norms = SameConv2d if isinstance(conv, Conv2dSame) else Conv2d, (norm,)
        norm.__class__ = _Absorbed if isinstance(norm, FrozenBatchNorm2d) else _AbsorbedAct
    if all(torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.std())) for a, b in zip(before, _run(body, image))):
        return
    for module, former in classes:
        module.__class__ = former
        vars(module).pop("norms", None)


@torch.no_grad()
def _run(body: nn.Module, image: Tensor) -> list[Tensor]:
    was_training = body.training
    body.eval()
    try:
        return list(body(image))
    finally:
        body.train(was_training)


def _pairs(body: nn.Module) -> list[tuple[Any, Any]]:
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}  # id of a convolution's result -> convolution, result, version
    pairs, calls, hooks = [], [], []

    def after(conv: nn.Module, _: tuple, result: Tensor) -> None:
        calls.append(conv)
        made[id(result)] = conv, result, result._version

    def before(norm: nn.Module, args: tuple) -> None:
        conv, result, version = made.get(id(args[0]), (None, args[0], -1))
        calls.append(norm)
        if conv is not None and version == result._version:
            pairs.append((conv, norm))

    for module in body.modules():
        if is_plain(module):
            hooks.append(module.register_forward_hook(after))
        elif type(module) in (FrozenBatchNorm2d, FrozenBatchNormAct2d):
            hooks.append(module.register_forward_pre_hook(before))
    try:
        _run(body, torch.zeros(1, 3, 64, 64))
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if all(calls.count(module) == 1 for module in pair)]
