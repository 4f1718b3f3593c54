"""The op inside PyTorch: opcheck, compile, export, autocast, vmap, and clear errors where there is no rule."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from dino_nb.ops import fused_unchecked, reference
from tests.ops.cases import SHAPES, close, exact, flat, make


def _bare(dtype=torch.float64, **options):
    value, points, offsets, logits = make(dtype=dtype, **options)
    return value, reference.sampling_locations(points, offsets, SHAPES), logits.sigmoid()


@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(native, grad):
    ops = torch.ops.dino_nb
    value, *rest = [x.requires_grad_(grad) for x in make(n=1, q=3, d=4, dtype=torch.float32)]
    torch.library.opcheck(ops.ms_deform_attn_fused.default, (value, flat(SHAPES), rest[0].detach(), *rest[1:]))
    value, *rest = [x.detach().requires_grad_(grad) for x in _bare(torch.float32, n=1, q=3, d=4)]
    torch.library.opcheck(ops.ms_deform_attn.default, (value, flat(SHAPES), *rest))
    if not grad:
        out = torch.randn(1, 3, 12)
        torch.library.opcheck(ops.ms_deform_attn_backward.default, (out, value, flat(SHAPES), *rest))
        value, *rest = make(n=1, q=3, d=4, dtype=torch.float32)
        torch.library.opcheck(ops.ms_deform_attn_fused_backward.default, (out, value, flat(SHAPES), *rest))


@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("with_points", [False, True])
def test_deterministic_mode_reaches_the_kernels(native, mode, with_points):
    passed = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "backward" in function.name() and "ms_deform_attn" in function.name():
                passed.append(args[-1])
            return function(*args, **(kwargs or {}))

    value, points, offsets, logits = make(n=1, q=3, d=4)
    out = native.ms_deform_attn_fused(
        value.requires_grad_(), SHAPES, points.requires_grad_(with_points), offsets, logits
    )
    torch.use_deterministic_algorithms(mode)
    try:
        with Spy():
            out.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(passed) == 1 and (passed[0] is True) == mode


def test_compile_with_dynamic_shapes(native):
    """One graph without breaks serves images of several sizes, forward and backward."""
    graphs = []

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    def step(value, h, w, points, offsets, logits):
        return native.ms_deform_attn_fused(value, [(h, w), (h // 2, w // 2)], points, offsets, logits) * 2

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    counted = torch.compile(step, fullgraph=True, dynamic=True, backend=count)
    for h, w, q in [(8, 10, 5), (12, 6, 7), (10, 14, 9)]:
        shapes = [(h, w), (h // 2, w // 2)]
        value, points, offsets, logits = make(n=1, q=q, d=8, shapes=shapes, dtype=torch.float32)
        inputs = [x.requires_grad_() for x in (value, offsets, logits)]
        grads = []
        for function in (compiled, step, counted):
            out = function(value, h, w, points, offsets, logits)
            grads.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
        for result in grads[1:]:
            assert all(torch.equal(a, b) for a, b in zip(grads[0], result))
    assert len(graphs) == 1


def test_export(native):
    class Module(torch.nn.Module):
        def forward(self, value, points, offsets, logits):
            return native.ms_deform_attn_fused(value, SHAPES, points, offsets, logits)

    args = make(n=1, q=4, dtype=torch.float32)
    queries = torch.export.Dim("queries", min=2, max=1000)
    dynamic = (None, {1: queries}, {1: queries}, {1: queries})
    program = torch.export.export(Module(), args, dynamic_shapes=dynamic)
    assert "dino_nb.ms_deform_attn_fused" in str(program.graph)
    other = make(n=1, q=9, dtype=torch.float32)
    assert torch.equal(program.module()(*other), Module()(*other))


def test_fake_tensors(native):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        value = torch.empty(2, 133, 3, 32, dtype=torch.float16)
        rest = torch.empty(2, 5, 4, 2), torch.empty(2, 5, 3, 4, 4, 2), torch.empty(2, 5, 3, 4, 4)
        out = native.ms_deform_attn_fused(value, SHAPES, *rest)
    assert out.shape == (2, 5, 96) and out.dtype == torch.float16


def test_autocast(native):
    """The value becomes 16-bit, locations and references stay float32, gradients have their inputs' types."""
    value, points, offsets, logits = make(dtype=torch.float32)
    inputs = [x.requires_grad_() for x in (value, offsets, logits)]
    plain = native.ms_deform_attn_fused(value, SHAPES, points, offsets, logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = native.ms_deform_attn_fused(value, SHAPES, points, offsets, logits)
        mixed = native.ms_deform_attn_fused(value, SHAPES, points, offsets.bfloat16(), logits.bfloat16())
        bare = native.ms_deform_attn(*_at(value), reference.sampling_locations(points, offsets, SHAPES), logits)
        double = native.ms_deform_attn_fused(*_at(value.double()), points, offsets, logits)
    assert out.dtype == mixed.dtype == bare.dtype == torch.bfloat16 and double.dtype == torch.float64
    close(out, plain, 2e-2)
    close(mixed, plain, 5e-2)
    grads = torch.autograd.grad(out.float().sum(), inputs)
    assert all(g.dtype == torch.float32 for g in grads)
    for a, b in zip(grads, torch.autograd.grad(plain.sum(), inputs)):
        close(a, b, 2e-2)


def _at(value):
    return value, SHAPES


def test_vmap(native):
    values, points, offsets, logits = (torch.stack(x) for x in zip(make(seed=1), make(seed=2), make(seed=3)))
    wanted = [native.ms_deform_attn_fused(v, SHAPES, points[0], o, a) for v, o, a in zip(values, offsets, logits)]
    got = torch.vmap(
        lambda v, o, a: native.ms_deform_attn_fused(v, SHAPES, points[0], o, a),
        in_dims=(0, 1, 0),
    )(values, offsets.movedim(0, 1), logits)
    close(got, torch.stack(wanted), 1e-12)


def test_functional_gradients_are_refused(native):
    value, points, offsets, logits = make()
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda v: native.ms_deform_attn_fused(v, SHAPES, points, offsets, logits).sum())(value)


def test_forward_mode_is_refused(native):
    """Zeros in silence would be worse than an error."""
    args = make(n=1, q=2)
    tangents = tuple(torch.ones_like(x) for x in args)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda *a: native.ms_deform_attn_fused(a[0], SHAPES, *a[1:]), args, tangents)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        dual = forward_ad.make_dual(args[0], tangents[0])
        fused_unchecked(dual, SHAPES, *args[1:])


def test_second_derivative_is_refused(native):
    value, *rest = make(n=1, q=2)
    value.requires_grad_(), rest[1].requires_grad_()
    out = native.ms_deform_attn_fused(value, SHAPES, *rest)
    (grad,) = torch.autograd.grad(out.square().sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        grad.sum().backward()


def test_same_results_without_the_library(native, monkeypatch):
    """The operator's own fallback, which an exported program uses where nothing can be built."""
    from dino_nb.ops import library
    from dino_nb.ops import native as session

    monkeypatch.setattr(session, "is_native", lambda device: False)
    value, points, offsets, logits = make()
    grad = torch.randn(2, 5, 96, dtype=torch.float64)
    args = (value, flat(SHAPES), points, offsets, logits)
    close(library._fallback("ms_deform_attn_fused", *args), torch.ops.dino_nb.ms_deform_attn_fused(*args), 1e-11)
    inputs = [x.requires_grad_() for x in (value, offsets, logits)]
    out = torch.ops.dino_nb.ms_deform_attn_fused(*args)
    for a, b in zip(torch.autograd.grad(out, inputs, grad), exact(value, SHAPES, points, offsets, logits, grad)[1]):
        close(a, b, 1e-10)
