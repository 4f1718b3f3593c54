"""The op on a GPU: numbers, streams, graphs, memory and errors that only a device can show."""

import pytest
import torch

from dino_nb import ops
from dino_nb.cli.bench import model_like
from dino_nb.ops import reference
from tests.ops.cases import SHAPES, close, exact, flat, make

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module", autouse=True)
def native():
    assert ops.build()["cuda"].startswith("native")


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def _check(shapes=SHAPES, tolerance=1e-10, **options):
    value, points, offsets, logits = make(shapes=shapes, device="cuda", **options)
    inputs = [x.requires_grad_() for x in (value, offsets, logits)]
    out = ops.ms_deform_attn_fused(value, shapes, points, offsets, logits)
    grad = torch.randn_like(out)
    got = torch.autograd.grad(out, inputs, grad)
    wanted, gradients = exact(value, shapes, points, offsets, logits, grad)
    close(out, wanted, tolerance)
    for a, b in zip(got, gradients):
        close(a, b, tolerance)


@pytest.mark.parametrize("kind", [2, 4])
@pytest.mark.parametrize("d", [1, 7, 32, 71, 1025])
def test_float64(d, kind):
    _check(d=d, kind=kind, q=3)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("d", [1, 7, 8, 32, 64, 71, 1025])
def test_other_types(d, dtype, tolerance):
    _check(d=d, q=37, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize("p, shapes", [(1, [(7, 1)]), (4, [(4, 5)] * 5), (5, [(1, 6)] * 7), (33, [(3, 3)])])
def test_levels_and_points(p, shapes):
    _check(shapes=shapes, p=p, d=5, q=300)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.float16, 2e-3)])
@pytest.mark.parametrize("d", [1, 7, 32, 1025])
def test_deterministic_mode(deterministic, d, dtype, tolerance):
    """Gradients of the value are sorted then; some cells are crowded, and there are several tiles of samples."""
    _check(d=d, q=300, dtype=dtype, tolerance=tolerance)


def test_encoder_of_a_whole_image():
    value, shapes, points, offsets, logits = model_like(device="cuda")
    inputs = [x.requires_grad_() for x in (value, offsets, logits)]
    out = ops.ms_deform_attn_fused(value, shapes, points, offsets, logits)
    leaves = [x.detach().cpu().double().requires_grad_() for x in inputs]
    wanted = reference.ms_deform_attn_fused(leaves[0], shapes, points.cpu().double(), *leaves[1:])
    close(out, wanted, 1e-4)
    grads = [grad.cpu() for grad in torch.autograd.grad(out.sum(), inputs)]
    for a, b in zip(grads, torch.autograd.grad(wanted.sum(), leaves)):
        assert ((a - b).abs() > 1e-2 * b.abs().max()).float().mean() < 1e-4  # but for cells flipped at a knot


def test_opcheck():
    args = make(n=1, q=3, d=4, dtype=torch.float32, device="cuda")
    inputs = [args[0].requires_grad_(), args[1], args[2].requires_grad_(), args[3].requires_grad_()]
    torch.library.opcheck(torch.ops.dino_nb.ms_deform_attn_fused.default, (inputs[0], flat(SHAPES), *inputs[1:]))


def test_autocast_takes_16_bit_values_and_float32_places():
    value, points, offsets, logits = make(dtype=torch.float32, device="cuda")
    plain = ops.ms_deform_attn_fused(value, SHAPES, points, offsets, logits)
    with torch.autocast("cuda", dtype=torch.float16):
        out = ops.ms_deform_attn_fused(value, SHAPES, points, offsets, logits)
    assert out.dtype == torch.float16
    close(out, plain, 2e-3)


@pytest.mark.parametrize("mode", [False, True])
def test_graph_capture_and_no_synchronisation(mode, request):
    if mode:
        request.getfixturevalue("deterministic")
    value, points, offsets, logits = make(dtype=torch.float32, device="cuda")
    inputs = [x.requires_grad_() for x in (value, offsets, logits)]

    def step():
        out = ops.ms_deform_attn_fused(value, SHAPES, points, offsets, logits)
        return out, *torch.autograd.grad(out.sum(), inputs)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        value.mul_(2)
    graph.replay()
    for a, b in zip(captured, step()):
        close(a, b, 1e-5)


def test_current_stream():
    """The kernel waits for what its stream still does to its inputs."""
    value, points, offsets, logits = make(dtype=torch.float32, device="cuda")
    wanted = ops.ms_deform_attn_fused(value * 3, SHAPES, points, offsets, logits)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)
        out = ops.ms_deform_attn_fused(value.mul_(3), SHAPES, points, offsets, logits)
    torch.cuda.synchronize()
    assert torch.equal(out, wanted)


def test_memory_is_the_result_alone():
    fused = model_like(device="cuda")
    ops.ms_deform_attn_fused(*fused)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    out = ops.ms_deform_attn_fused(*fused)
    # what was asked for, not the larger blocks that the allocator hands out
    assert torch.cuda.memory_stats()["requested_bytes.all.peak"] - before == out.numel() * 4


def test_deterministic_mode_gives_the_same_bits_again(deterministic):
    value, shapes, points, offsets, logits = model_like(device="cuda")
    inputs = [x.requires_grad_() for x in (value, offsets, logits)]

    def gradients():
        return torch.autograd.grad(ops.ms_deform_attn_fused(value, shapes, points, offsets, logits).sum(), inputs)

    first = gradients()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(gradients(), first))
    torch.use_deterministic_algorithms(False)
    for a, b in zip(gradients(), first):
        close(a, b, 1e-4)


def test_other_devices_are_refused():
    value, points, offsets, logits = make(dtype=torch.float32, device="cuda")
    with pytest.raises(RuntimeError, match="device of value"):
        torch.ops.dino_nb.ms_deform_attn_fused(value, flat(SHAPES), points.cpu(), offsets, logits)


def test_compile():
    args = make(n=1, d=8, dtype=torch.float32, device="cuda")
    compiled = torch.compile(lambda v, *rest: ops.ms_deform_attn_fused(v, SHAPES, *rest) * 2, fullgraph=True)
    close(compiled(*args), ops.ms_deform_attn_fused(args[0], SHAPES, *args[1:]) * 2, 1e-6)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_second_device():
    args = [x.to("cuda:1") for x in make(dtype=torch.float32)]
    out = ops.ms_deform_attn_fused(args[0], SHAPES, *args[1:])
    assert out.device.index == 1
    close(out, exact(args[0], SHAPES, *args[1:]), 1e-5)
