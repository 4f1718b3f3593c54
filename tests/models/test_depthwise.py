"""Depthwise convolutions: gradients put together of small windows are those of the plain formulation."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from dino_nb.models.fast import Conv2d


def gradients(conv, x, grad, plain=False):
    x = x.clone().requires_grad_()
    weight = conv.weight.detach().to(x.dtype).requires_grad_() if plain else conv.weight
    out = F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, 1, conv.groups) if plain else conv(x)
    return [out, *torch.autograd.grad(out, (x, weight), grad.to(out.dtype))]


@pytest.mark.parametrize("size, stride", itertools.product((1, 3, 5, 7, (5, 2)), (1, 2)))
def test_depthwise_gradients_are_the_plain_ones(size, stride):
    torch.manual_seed(0)
    conv = Conv2d(12, 12, size, stride, padding=1 if size in (1, (5, 2)) else size // 2, groups=12)
    x = torch.randn(2, 12, 13, 10)
    grad = torch.randn_like(conv(x))
    wanted = gradients(conv, x, grad, plain=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        for a, b in zip(gradients(conv, x.contiguous(memory_format=layout), grad), wanted):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", (1, 2))
def test_depthwise_gradients_in_bfloat16_are_near_those_in_float32(stride):
    torch.manual_seed(0)
    conv = Conv2d(12, 12, 5, stride, padding=2, groups=12)
    x = torch.randn(2, 12, 13, 10)
    grad = torch.randn_like(conv(x))
    wanted = gradients(conv, x, grad)
    with torch.autocast("cpu", torch.bfloat16):
        got = gradients(conv, x, grad)
    assert got[0].dtype == torch.bfloat16 and got[2].dtype == torch.float32
    for a, b in zip(got, wanted):
        assert (a - b).norm() < 0.01 * b.norm()
