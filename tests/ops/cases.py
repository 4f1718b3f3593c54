"""Inputs for the op, shared by the tests of its implementations."""

import torch

from dino_nb.ops import reference

SHAPES = [(9, 11), (5, 6), (3, 1), (1, 1)]


def make(n=2, q=5, m=3, d=32, p=4, shapes=SHAPES, kind=2, dtype=torch.float64, seed=0, device="cpu", spread=1.5):
    """value, reference points, offsets, logits of one call; some samples lie outside, some on pixel centres."""
    g = torch.Generator().manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    cells, levels = sum(h * w for h, w in shapes), len(shapes)
    value = torch.randn(n, cells, m, d, generator=g, dtype=torch.float64)
    points = torch.rand(n, q, levels, kind, generator=g, dtype=torch.float64)
    offsets = torch.randn(n, q, m, levels, p, 2, generator=g, dtype=torch.float64) * spread
    if kind == 2:
        offsets = (offsets * 4).round() / 4 + 0.013  # near quarter pixels, and off the knots where gradients jump
        points = (points * 8).round() / 8
    logits = torch.randn(n, q, m, levels, p, generator=g, dtype=torch.float64)
    if kind == 4:
        points[..., 2:] = points[..., 2:] * 0.8 + 0.1
    return (
        value.to(device, dtype),
        points.to(device, wide),
        offsets.to(device, dtype),
        logits.to(device, dtype),
    )


def exact(value, shapes, points, offsets, logits, grad=None):
    """Result (and gradients of value, offsets, logits) of the float64 reference for exactly these numbers, on the CPU.

    On CUDA ``grid_sample`` raises in its backward where determinism is asked for.
    """
    inputs = [x.detach().cpu().double().requires_grad_() for x in (value, offsets, logits)]
    out = reference.ms_deform_attn_fused(inputs[0], shapes, points.cpu().double(), inputs[1], inputs[2])
    if grad is None:
        return out.detach()
    return out.detach(), torch.autograd.grad(out, inputs, grad.cpu().double())


def flat(shapes):
    return [size for shape in shapes for size in shape]


def close(got, wanted, tolerance):
    """Assert that the largest difference is below ``tolerance`` times the scale of ``wanted``."""
    assert got.shape == wanted.shape
    if wanted.numel():
        scale = wanted.abs().max().clamp(min=1)
        worst = (got.double().cpu() - wanted.double().cpu()).abs().max()
        assert worst <= tolerance * scale.cpu(), f"off by {worst:.3g} at scale {scale:.3g}"
