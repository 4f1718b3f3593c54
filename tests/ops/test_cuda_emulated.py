"""The CUDA kernels, lane by lane on the CPU: their index arithmetic, exchanges and tails, without a GPU."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from dino_nb.ops import reference, toolchain
from tests.ops.cases import SHAPES, close, exact, flat, make

_lib = torch.library.Library("dino_nb_emulated", "DEF")


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    if not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("no C++ compiler")
    root = Path(torch.__file__).parent
    library = tmp_path_factory.mktemp("emulated") / "emulated.so"
    source = toolchain.csrc() / "ms_deform_attn_cuda.cu"
    command = [toolchain.find_cxx(), "-std=c++17", "-O1", "-fPIC", "-shared", "-x", "c++", "-DMSDA_EMULATE"]
    command += [toolchain.STABLE_ABI, f"-I{Path(__file__).parent}", f"-I{root / 'include'}", str(source)]
    subprocess.run([*command, "-o", str(library), f"-L{root / 'lib'}", "-ltorch_cpu"], check=True)
    for name, tensors in {
        "ms_deform_attn": "Tensor locations, Tensor weights",
        "ms_deform_attn_fused": "Tensor points, Tensor offsets, Tensor logits",
    }.items():
        inputs = f"Tensor value, SymInt[] shapes, {tensors}"
        _lib.define(f"{name}({inputs}) -> Tensor")
        _lib.define(f"{name}_backward(Tensor g, {inputs}, bool sorted=False) -> (Tensor, Tensor, Tensor)")
    torch.ops.load_library(str(library))
    return torch.ops.dino_nb_emulated


def _compare(emulated, shapes=SHAPES, tolerance=1e-11, **options):
    value, points, offsets, logits = make(shapes=shapes, **options)
    grad = torch.randn(value.shape[0], points.shape[1], value.shape[2] * value.shape[3]).to(value.dtype)
    wanted, gradients = exact(value, shapes, points, offsets, logits, grad)
    close(emulated.ms_deform_attn_fused(value, flat(shapes), points, offsets, logits), wanted, tolerance)
    for deterministic in (False, True):
        got = emulated.ms_deform_attn_fused_backward(grad, value, flat(shapes), points, offsets, logits, deterministic)
        for a, b in zip(got, gradients):
            close(a, b, tolerance)


@pytest.mark.parametrize("d", [1, 7, 16, 32, 71])
def test_channels_in_double(emulated, d):
    _compare(emulated, d=d, q=3, m=2)


@pytest.mark.parametrize("kind", [2, 4])
@pytest.mark.parametrize("d", [3, 4, 24, 32, 160])
def test_channels_in_float(emulated, d, kind):
    _compare(emulated, d=d, q=3, m=2, n=1, kind=kind, dtype=torch.float32, tolerance=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("d", [5, 8, 32])
def test_16_bit(emulated, d, dtype, tolerance):
    _compare(emulated, d=d, q=3, m=2, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize("kind", [2, 4])
@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)], ids=str
)
def test_sizes_of_the_usual_networks(emulated, levels, kind, dtype, tolerance):
    """They have kernels of their own, in which sizes are constants; some samples lie outside and at borders."""
    shapes = [(9, 11), (5, 6), (3, 1), (1, 1), (2, 7)][:levels]
    _compare(emulated, shapes=shapes, q=11, d=32, m=2, kind=kind, dtype=dtype, tolerance=tolerance)
    cells = sum(h * w for h, w in shapes)
    _compare(emulated, shapes=shapes, q=cells, n=1, d=32, m=1, kind=kind, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize("kind", [2, 4])
def test_half_precision_of_the_usual_sizes_is_within_a_thousandth(emulated, kind):
    """Interpolating in half precision is worth its speed only so."""
    for seed in range(3):
        inputs = make(q=40, d=32, kind=kind, dtype=torch.float16, seed=seed)
        got = emulated.ms_deform_attn_fused(inputs[0], flat(SHAPES), *inputs[1:])
        close(got, exact(inputs[0], SHAPES, *inputs[1:]), 1e-3)


def test_bad_cells_stay_where_they_are_in_the_usual_sizes(emulated):
    value, points, offsets, logits = make(n=1, q=2, m=1, dtype=torch.float32)
    value[0, 1] = float("nan")  # at the right of a cell that is looked at in its very middle
    points[:] = torch.tensor([0.5 / 11, 0.5 / 9])
    wanted = emulated.ms_deform_attn_fused(value.nan_to_num(0), flat(SHAPES), points, offsets * 0, logits)
    got = emulated.ms_deform_attn_fused(value, flat(SHAPES), points, offsets * 0, logits)
    assert got.isfinite().all() and torch.equal(got, wanted)


@pytest.mark.parametrize("p, shapes", [(1, [(4, 5)]), (3, SHAPES), (4, [(4, 5)] * 5), (9, [(2, 2)] * 7)])
def test_levels_and_points(emulated, p, shapes):
    """Fewer samples than lanes, and several rounds of preparation."""
    _compare(emulated, shapes=shapes, p=p, d=8, q=2, m=2, dtype=torch.float32, tolerance=1e-5)


def test_encoder_squares(emulated):
    """As many queries as cells: 8 x 8 tiles with ragged edges on every level."""
    shapes = [(9, 17), (5, 8), (3, 1)]
    _compare(
        emulated, shapes=shapes, q=sum(h * w for h, w in shapes), d=4, m=2, p=2, dtype=torch.float32, tolerance=1e-5
    )


def test_many_queries(emulated):
    """More than one block of queries, the last one ragged."""
    _compare(emulated, q=70, d=16, m=1, n=2, p=1, dtype=torch.float32, tolerance=1e-5)


@pytest.mark.parametrize("shapes, q", [([(20, 20), (9, 9)], 1100), ([(260, 260)], 3), ([(7, 7)], 49)])
def test_sorted_gradient_is_the_same_bits_in_any_order_of_blocks_and_warps(emulated, monkeypatch, shapes, q):
    """Several tiles of samples, one to three digits of cells; atomic additions show that the order would matter."""
    value, points, offsets, logits = make(shapes=shapes, q=q, d=4, m=2, n=2, dtype=torch.float32, spread=5)
    grad = torch.randn(2, q, 8)

    def backward(deterministic):
        return emulated.ms_deform_attn_fused_backward(grad, value, flat(shapes), points, offsets, logits, deterministic)

    there = backward(True), backward(False)
    monkeypatch.setenv("CUDA_EMULATION_REVERSED", "1")
    back = backward(True), backward(False)
    assert all(torch.equal(a, b) for a, b in zip(there[0], back[0]))
    assert q == 3 or not torch.equal(there[1][0], back[1][0])
    for a, b in zip(there[0], exact(value, shapes, points, offsets, logits, grad)[1]):
        close(a, b, 1e-5)


@pytest.mark.parametrize("place", [0.5, 0.0, 1.0, 2.0])
def test_sorted_gradient_with_all_samples_at_one_place(emulated, place):
    """In one cell, in a corner's one quarter of a cell, and outside."""
    value, points, offsets, logits = make(n=1, q=600, d=8, m=1, dtype=torch.float32)
    points, offsets, grad = torch.full_like(points, place), torch.zeros_like(offsets), torch.randn(1, 600, 8)
    got = emulated.ms_deform_attn_fused_backward(grad, value, flat(SHAPES), points, offsets, logits, True)
    assert got[0].abs().sum() > 0 or place == 2
    wanted = exact(value, SHAPES, points, offsets, logits, grad)[1]
    close(got[0], wanted[0], 1e-5)
    close(got[2], wanted[2], 1e-5)


def test_bare_op_with_harmless_locations(emulated):
    value, points, offsets, logits = make(q=4, d=8, dtype=torch.float32)
    locations = reference.sampling_locations(points, offsets, SHAPES)
    locations[0, 0, 0, 0] = torch.tensor([float("nan"), 0.5])
    locations[0, 1] = float("inf")
    locations[1, 0, :, 1] = -1e30
    weights = logits.flatten(-2).softmax(-1).view(logits.shape)
    wanted = reference.ms_deform_attn(value.double(), SHAPES, locations.double(), weights.double())
    close(emulated.ms_deform_attn(value, flat(SHAPES), locations, weights), wanted, 1e-5)
    for deterministic in (False, True):
        inputs = value, flat(SHAPES), locations, weights, deterministic
        grads = emulated.ms_deform_attn_backward(torch.ones_like(wanted).float(), *inputs)
        assert all(x.isfinite().all() for x in grads)


@pytest.mark.parametrize("p, shapes", [(0, SHAPES), (4, [])])
def test_no_points_or_levels_give_zeros(emulated, p, shapes):
    value, points, offsets, logits = make(p=p, shapes=shapes, dtype=torch.float32)
    out = emulated.ms_deform_attn_fused(value, flat(shapes), points, offsets, logits)
    assert out.shape == (2, 5, 96) and not out.any()
    for deterministic in (False, True):
        grads = emulated.ms_deform_attn_fused_backward(
            torch.ones_like(out), value, flat(shapes), points, offsets, logits, deterministic
        )
        assert all(not g.any() for g in grads)


@pytest.mark.parametrize("kind", [2, 4])
def test_reference_boxes_without_a_place_give_zero_offset_gradients(emulated, kind):
    value, points, offsets, logits = make(kind=kind, dtype=torch.float32)
    points[0, 1], points[1, 2, :, kind - 1] = float("nan"), float("inf")
    grad = torch.ones(2, 5, 96)
    _, by_offset, _ = emulated.ms_deform_attn_fused_backward(grad, value, flat(SHAPES), points, offsets, logits, False)
    assert by_offset.isfinite().all() and not by_offset[0, 1].any() and not by_offset[1, 2].any()


def test_unaligned_and_empty(emulated):
    value, points, offsets, logits = make(n=1, q=3, d=8, dtype=torch.float32)
    moved = torch.empty(value.numel() + 1)[1:].copy_(value.flatten()).view(value.shape)
    assert moved.data_ptr() % 16
    wanted = emulated.ms_deform_attn_fused(value, flat(SHAPES), points, offsets, logits)
    assert torch.equal(emulated.ms_deform_attn_fused(moved, flat(SHAPES), points, offsets, logits), wanted)
    none = emulated.ms_deform_attn_fused(value, flat(SHAPES), points[:, :0], offsets[:, :0], logits[:, :0])
    assert none.shape == (1, 0, 24)
