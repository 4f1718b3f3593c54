"""What the native op computes: against a float64 reference, for every type, size and layout."""

import pytest
import torch

from dino_nb.ops import reference
from tests.ops.cases import SHAPES, close, exact, flat, make


def _check(native, shapes=SHAPES, tolerance=1e-10, **options):
    value, points, offsets, logits = make(shapes=shapes, **options)
    inputs = [x.requires_grad_() for x in (value, offsets, logits)]
    out = native.ms_deform_attn_fused(value, shapes, points, offsets, logits)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    got = torch.autograd.grad(out, inputs, grad)
    wanted, gradients = exact(value, shapes, points, offsets, logits, grad)
    assert out.dtype == value.dtype and [g.dtype for g in got] == [x.dtype for x in inputs]
    close(out, wanted, tolerance)
    for a, b in zip(got, gradients):
        close(a, b, tolerance)


@pytest.mark.parametrize("kind", [2, 4])
@pytest.mark.parametrize("d", [1, 7, 32, 71, 1025])
def test_any_number_of_channels(native, d, kind):
    _check(native, d=d, kind=kind, q=3, m=2, n=1)


@pytest.mark.parametrize("d", [1, 7, 16, 32, 48, 71, 1025])
def test_float32(native, d):
    _check(native, d=d, q=3, m=2, dtype=torch.float32, tolerance=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("d", [7, 32, 40])
def test_16_bit(native, d, dtype, tolerance):
    _check(native, d=d, q=3, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize(
    "p, shapes", [(1, [(7, 1)]), (4, SHAPES), (4, [(4, 5)] * 5), (5, [(1, 6)] * 7), (33, [(3, 3)])]
)
def test_any_levels_and_points(native, p, shapes):
    _check(native, shapes=shapes, p=p, d=5, q=4)


def test_encoder_order(native):
    """As many queries as cells are visited in squares; with ragged edges each is still visited once."""
    shapes = [(33, 19), (7, 20), (1, 17)]
    _check(native, shapes=shapes, q=sum(h * w for h, w in shapes), d=4, m=2, p=2, n=1)


def test_bare_op(native):
    value, points, offsets, logits = make()
    inputs = [value, reference.sampling_locations(points, offsets, SHAPES), logits.sigmoid()]
    inputs = [x.requires_grad_() for x in inputs]
    out = native.ms_deform_attn(inputs[0], SHAPES, *inputs[1:])
    wanted = reference.ms_deform_attn(inputs[0], SHAPES, *inputs[1:])
    close(out, wanted, 1e-11)
    grad = torch.randn_like(out)
    for a, b in zip(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(wanted, inputs, grad)):
        close(a, b, 1e-10)


@pytest.mark.parametrize("kind", [2, 4])
def test_gradcheck(native, kind):
    """All four inputs of the fused op, reference points too, in double."""
    shapes = [(3, 4), (2, 1)]
    inputs = [x.requires_grad_() for x in make(n=1, q=2, m=2, d=3, p=2, shapes=shapes, kind=kind, spread=0.4)]
    inputs[1].data.uniform_(0.21, 0.69)  # away from the knots, where the derivative jumps
    assert torch.autograd.gradcheck(
        lambda v, r, o, a: native.ms_deform_attn_fused(v, shapes, r, o, a), inputs, eps=1e-7, atol=1e-5
    )


def test_reference_points_get_their_gradient(native):
    for kind in (2, 4):
        value, points, offsets, logits = make(kind=kind)
        points.requires_grad_()
        grads = []
        for module in (native, reference):
            out = module.ms_deform_attn_fused(value, SHAPES, points, offsets, logits)
            grads.append(torch.autograd.grad(out.square().sum(), points)[0])
        close(grads[0], grads[1], 1e-10)


def test_float32_references_of_a_float64_model(native):
    value, points, offsets, logits = make()
    rounded = points.float()
    close(
        native.ms_deform_attn_fused(value, SHAPES, rounded, offsets, logits),
        exact(value, SHAPES, rounded, offsets, logits),
        1e-11,
    )


def test_16_bit_values_keep_float32_places(native):
    """A place rounded to 16 bits would be off by a noticeable part of a pixel on a wide level."""
    shapes = [(2, 1024)]
    value = torch.arange(1024.0).repeat(2).view(1, -1, 1, 1).half()
    locations = torch.tensor([0.7503]).view(1, 1, 1, 1, 1, 1).repeat(1, 1, 1, 1, 1, 2)
    locations[..., 1] = 0.5
    ones = torch.ones(1, 1, 1, 1, 1)
    for module in (native, reference):
        out = module.ms_deform_attn(value, shapes, locations, ones)
        assert abs(out.item() - (0.7503 * 1024 - 0.5)) <= 0.25  # half a step of float16 at 768


@pytest.mark.parametrize("n, q", [(0, 5), (2, 0)])
def test_empty(native, n, q):
    value, points, offsets, logits = make(n=n, q=q)
    inputs = [x.requires_grad_() for x in (value, offsets, logits)]
    for module in (native, reference):
        out = module.ms_deform_attn_fused(value, SHAPES, points, offsets, logits)
        assert out.shape == (n, q, 96)
        assert all(not g.any() for g in torch.autograd.grad(out.sum(), inputs))


@pytest.mark.parametrize("p, shapes", [(0, SHAPES), (4, [])])
@pytest.mark.parametrize("kind", [2, 4])
def test_no_points_or_levels_give_zeros(native, p, shapes, kind):
    """Queries that have nothing to look at."""
    value, points, offsets, logits = make(p=p, shapes=shapes, kind=kind, dtype=torch.float32)
    inputs = [x.requires_grad_() for x in (value, offsets, logits)]
    for module in (native, reference):
        out = module.ms_deform_attn_fused(value, shapes, points, offsets, logits)
        assert out.shape == (2, 5, 96) and not out.any()
        assert all(not g.any() for g in torch.autograd.grad(out.sum(), inputs))
        assert not module.ms_deform_attn(value, shapes, offsets, logits).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [2, 4])
def test_reference_boxes_without_a_place_give_zero_offset_gradients(native, bad, kind):
    value, points, offsets, logits = make(kind=kind)
    points[0, 1], points[1, 2, :, kind - 1] = bad, bad
    inputs = [x.requires_grad_() for x in (value, offsets, logits)]
    results = []
    for with_points in (False, True):
        points = points.detach().requires_grad_(with_points)
        for module in (native, reference):
            out = module.ms_deform_attn_fused(value, SHAPES, points, offsets, logits)
            assert out.isfinite().all() and not out[0, 1].any()
            results.append(torch.autograd.grad(out.square().sum(), inputs))
            assert not results[-1][1][0, 1].any() and not results[-1][1][1, 2].any()
    for result in results[1:]:
        for a, b in zip(result, results[0]):
            close(a, b, 1e-10)


def test_non_contiguous(native):
    value, points, offsets, logits = make(dtype=torch.float32)
    wanted = native.ms_deform_attn_fused(value, SHAPES, points, offsets, logits)

    def strided(x):
        twice = torch.stack([x, x * 0 + 7], -1).transpose(0, 1).contiguous().transpose(0, 1)
        return twice[..., 0]

    inputs = [strided(x) for x in (value, points, offsets, logits)]
    assert not any(x.is_contiguous() for x in inputs)
    assert torch.equal(native.ms_deform_attn_fused(inputs[0], SHAPES, *inputs[1:]), wanted)
    value.requires_grad_()
    out = native.ms_deform_attn_fused(value, SHAPES, points, offsets, logits)
    expanded = torch.autograd.grad(out.sum(), value, retain_graph=True)[0]  # grad_output has stride 0
    assert torch.equal(expanded, torch.autograd.grad(out, value, torch.ones_like(out))[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 50.0])
def test_places_outside_are_harmless(native, bad):
    """They add nothing and get no gradient, whatever stands in the cells at the border."""
    for dtype in (torch.float32, torch.float64):
        value, points, offsets, logits = make(dtype=dtype)
        locations = reference.sampling_locations(points, offsets, SHAPES)
        weights = logits.sigmoid()
        cut = weights.clone()
        locations[:, :, 1], cut[:, :, 1] = bad, 0
        locations.requires_grad_()
        for module in (native, reference):
            out = module.ms_deform_attn(value, SHAPES, locations, weights)
            inside = torch.where(locations.detach().isfinite(), locations.detach(), 0.0).clamp(-9, 9)
            close(out, reference.ms_deform_attn(value, SHAPES, inside, cut), 1e-5)
            (grad,) = torch.autograd.grad(out.sum(), locations)
            assert grad.isfinite().all() and not grad[:, :, 1].any()


def test_a_bad_cell_stays_where_it_is(native):
    """A NaN in one cell reaches only the queries that look at it."""
    value, _, _, logits = make(n=1, q=2, shapes=[(6, 6)], d=32, dtype=torch.float32)
    value[0, 0] = float("nan")
    locations = torch.full((1, 2, 3, 1, 4, 2), 0.7)
    locations[0, 1] = -3.0
    out = native.ms_deform_attn(value, [(6, 6)], locations, logits.sigmoid())
    assert out.isfinite().all() and not out[0, 1].any()


def test_deterministic_and_independent_of_threads(native):
    shapes = [(20, 20)]
    value, points, offsets, logits = make(shapes=shapes, q=400, m=4, dtype=torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            inputs = [x.detach().requires_grad_() for x in (value, offsets, logits)]
            out = native.ms_deform_attn_fused(inputs[0], shapes, points, *inputs[1:])
            results.append((out, *torch.autograd.grad(out.sum(), inputs)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


def test_shapes_may_be_a_cpu_tensor(native):
    args = make()
    wanted = native.ms_deform_attn_fused(args[0], SHAPES, *args[1:])
    assert torch.equal(native.ms_deform_attn_fused(args[0], torch.tensor(SHAPES), *args[1:]), wanted)
    with pytest.raises(ValueError, match="on a GPU"):
        native.ms_deform_attn_fused(args[0], torch.empty(4, 2, dtype=torch.long, device="meta"), *args[1:])


BAD = {
    "cells": (lambda v, r, o, a: (v[:, 1:], r, o, a), "add up to"),
    "value": (lambda v, r, o, a: (v[0], r, o, a), "value"),
    "queries": (lambda v, r, o, a: (v, r, o[:, 1:], a), "must be of shape"),
    "heads": (lambda v, r, o, a: (v[:, :, 1:], r, o, a), "must be of shape"),
    "points": (lambda v, r, o, a: (v, r, o, a[..., 1:]), "must be of shape"),
    "pairs": (lambda v, r, o, a: (v, r, o[..., :1], a), "must be of shape"),
    "reference": (lambda v, r, o, a: (v, r[..., :1], o, a), "must be of shape"),
    "batch": (lambda v, r, o, a: (v, r[:1], o, a), "must be of shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_shapes_raise(native, case):
    """From the public function, and from the operator itself before it touches anything."""
    change, text = BAD[case]
    args = change(*make())
    with pytest.raises(ValueError, match=text):
        native.ms_deform_attn_fused(args[0], SHAPES, *args[1:])
    with pytest.raises(RuntimeError):
        torch.ops.dino_nb.ms_deform_attn_fused(args[0], flat(SHAPES), *args[1:])


def test_bad_types_and_sizes_raise(native):
    value, points, offsets, logits = make(dtype=torch.float32)
    op = torch.ops.dino_nb.ms_deform_attn_fused
    for args in [(value.int(), points, offsets, logits), (value, points.double(), offsets, logits)]:
        with pytest.raises(RuntimeError):
            op(args[0], flat(SHAPES), *args[1:])
    for shapes in [[*flat(SHAPES), 3], [-9, -11, *flat(SHAPES)[2:]], [2**40, 2**40]]:
        with pytest.raises(RuntimeError):
            op(value, shapes, points, offsets, logits)
    with pytest.raises(RuntimeError):
        torch.ops.dino_nb.ms_deform_attn_fused_backward(
            torch.ones(2, 5, 95), value, flat(SHAPES), points, offsets, logits
        )
    with pytest.raises(ValueError):
        native.ms_deform_attn(value, [(115, 0), (115, 1)], offsets, logits)
