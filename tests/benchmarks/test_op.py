"""The benchmarks run and compare like with like; their figures are in RESULTS.md."""

import torch

from dino_nb import ops
from dino_nb.cli.bench import best_of, both_of, forward_of, model_like
from tests.benchmarks import op


def test_formulations_agree():
    fused, bare = op.inputs_of("cpu", torch.float32, shapes=[(6, 8), (3, 4)], queries=7)
    wanted = ops.ms_deform_attn_fused(*fused)
    assert torch.allclose(op.grid_sample(*bare), wanted, atol=1e-4)
    assert torch.allclose(ops.ms_deform_attn(*bare), wanted, atol=1e-4)
    (_, _, locations, _) = op.inputs_of("cpu", torch.float32, uniform=True, shapes=[(6, 8)], queries=50)[1]
    assert locations.min() >= -1e-5 and locations.max() <= 1 + 1e-5


def test_inputs_have_the_published_shapes():
    value, shapes, points, offsets, _ = model_like()
    assert value.shape == (1, 17821, 8, 32) and points.shape[1] == 17821
    step = offsets.mean(1)[0, :, 0]  # over queries the noise averages out
    assert torch.allclose(step[0, :, 0], torch.arange(1.0, 5.0), atol=0.1) and len(shapes) == 4


def test_timing_covers_forward_and_backward():
    inputs = model_like(shapes=[(6, 8)], queries=5)
    forward, both = forward_of(ops.ms_deform_attn_fused, inputs), both_of(ops.ms_deform_attn_fused, inputs)
    assert not forward().requires_grad
    assert all(ms > 0 for ms in best_of([forward, both], 2))
