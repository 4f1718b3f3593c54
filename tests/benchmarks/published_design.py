"""Compiles and wraps ``published_design.cu``, the yardstick on CUDA."""

import functools
import subprocess
import tempfile
from pathlib import Path

import torch

from dino_nb.ops import toolchain


def command(arch, cuda_major, out):
    """The nvcc command that builds the yardstick for ``arch`` ("sm_90")."""
    root = Path(torch.__file__).parent
    flags = [x for x in toolchain.Target("cuda", arch, cuda_major).flags if x != "-DUSE_CUDA"]
    start = [toolchain.find_nvcc(cuda_major), "-shared", "-Xcompiler", "-fPIC", "-cudart", "shared", *flags]
    paths = [f"-I{toolchain.csrc()}", f"-I{root / 'include'}", f"-L{root / 'lib'}"]
    return [*start, *paths, str(Path(__file__).with_suffix(".cu")), "-o", str(out), "-ltorch_cpu", "-lc10"]


@functools.cache
def _ops():
    target = toolchain.cuda_target([torch.cuda.get_device_capability()], torch.version.cuda)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "published_design.so"
        subprocess.run([*command(target.arch, target.cuda_major, library), "-ltorch_cuda"], check=True)
        torch.ops.load_library(str(library))
    return torch.ops.dino_nb_published


class _Published(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, shapes, locations, weights):
        ctx.shapes = shapes
        ctx.save_for_backward(value, locations, weights)
        return _ops().forward(value, shapes, locations, weights)

    @staticmethod
    def backward(ctx, grad):
        value, locations, weights = ctx.saved_tensors
        by_value, by_location, by_weight = _ops().backward(grad.contiguous(), value, ctx.shapes, locations, weights)
        return by_value, None, by_location, by_weight


def ms_deform_attn(value, shapes, locations, weights):
    """As ``dino_nb.ops.ms_deform_attn``, for contiguous float32 tensors on a GPU."""
    return _Published.apply(value, [size for shape in shapes for size in shape], locations, weights)
