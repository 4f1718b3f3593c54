"""Time a checkpoint stage by stage, or the attention op, on this machine.

  dino-nb bench dino-tiny                          drawn scenes, the precisions that pay here
  dino-nb bench run/best.pth COCODIR --json t.json images of COCODIR, its AP too, and all conditions in a file
  dino-nb bench run/best.pth photos/ --variants fp32 optimized onnx
  dino-nb bench                                    the op at the shapes of an 800 x 1066 image, and DINO-R50 4-scale
  dino-nb bench --no-model --device cpu --threads 2

Times are those of one image at a time, after warm-up, with the GPU waited for. Times of other machines, sizes or
versions cannot be compared with them: all conditions are printed.
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import torch

from dino_nb import ops
from dino_nb.checkpoints.load import pick_device
from dino_nb.cli.bench_model import VARIANTS, bench_checkpoint
from dino_nb.errors import UserError
from dino_nb.models.dino import build_model
from dino_nb.ops import reference

LEVELS = [(100, 134), (50, 67), (25, 34), (13, 17)]  # of an 800 x 1066 image at strides 8, 16, 32, 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?", help="time this; without it, the op")
    parser.add_argument("data", metavar="DATA", nargs="?", help="COCODIR, folder or image (default: drawn scenes)")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        help="default: fp32 fp16 predict (GPU), fp32 optimized predict (CPU); predict: Detector, from file to result",
    )
    parser.add_argument("--images", type=int, default=20, help="images that are timed (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write times and conditions to FILE")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: what torch uses)")
    parser.add_argument("--repeat", type=int, default=5, help="of the op: measurements, the best counts")
    parser.add_argument("--no_model", action="store_true", help="time the op alone")


def run(args: argparse.Namespace) -> None:
    device = pick_device(args.device)
    for name in ("threads", "images", "repeat"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, not {getattr(args, name)}.")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.checkpoint:
        print(bench_checkpoint(args.checkpoint, args.data, device, args.variants, args.images, args.json))
    else:
        _time_op(device.type, args.repeat, not args.no_model)


def _time_op(device: str, repeat: int, with_model: bool) -> None:
    ops.build()
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {device} ({where}), float32, milliseconds, best of {repeat}")
    print(f"{'':42}{'op':>10}{'PyTorch':>10}{'ratio':>8}")
    for name, queries in (("encoder", None), ("decoder, 900 queries", 900)):
        inputs = model_like(queries=queries, device=device)
        for what, make in (("forward", forward_of), ("forward + backward", both_of)):
            calls = [make(module.ms_deform_attn_fused, inputs) for module in (ops, reference)]
            ours, torchs = best_of(calls, repeat, device)
            label = f"{name}, {what}"
            print(f"{label:42}{ours:10.2f}{torchs:10.2f}{torchs / ours:8.1f}")
    if with_model:
        model = build_model().eval().to(device)
        image = torch.rand(3, 800, 1066, device=device)
        with torch.inference_mode():
            (best,) = best_of([lambda: model([image])], repeat, device)
        print(f"DINO-R50 4-scale, one 800 x 1066 image: {best:.0f} ms")


def model_like(
    shapes: list[tuple[int, int]] = LEVELS,
    queries: int | None = None,
    batch: int = 1,
    heads: int = 8,
    channels: int = 32,
    points: int = 4,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple:
    """Inputs of the fused op as a trained model has them: reference grid, offsets in one direction a head, 2 px noise.

    Args:
        queries: how many, at random places; None: one for every cell, as in the encoder.

    Returns:
        (value, shapes, reference points, offsets, logits).
    """
    g = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in shapes)
    grids = [torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(-1) for h, w in shapes]
    places = torch.cat(grids)
    if queries is not None:
        places = places[torch.randperm(cells, generator=g)[:queries]]
    count = len(places)
    points_of = places[None, :, None].expand(batch, count, len(shapes), 2).contiguous()
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    offsets = direction[:, None, None] * torch.arange(1, points + 1)[:, None]
    offsets = offsets + 2 * torch.randn(batch, count, heads, len(shapes), points, 2, generator=g)
    value = torch.randn(batch, cells, heads, channels, generator=g)
    logits = torch.randn(batch, count, heads, len(shapes), points, generator=g)
    return value.to(device, dtype), shapes, points_of.to(device), offsets.to(device, dtype), logits.to(device, dtype)


def forward_of(function: Callable, inputs: tuple) -> Callable[[], Any]:
    """A call of ``function`` without gradients."""

    def call() -> Any:
        with torch.no_grad():
            return function(*inputs)

    return call


def both_of(function: Callable, inputs: tuple) -> Callable[[], None]:
    """A call of ``function`` and of its backward to value, coordinates and weights (the reference stays fixed)."""
    value, shapes, *rest = inputs
    leaves = [value.detach().requires_grad_(), *rest[:-2], *(x.detach().requires_grad_() for x in rest[-2:])]

    def call() -> None:
        for leaf in leaves:
            leaf.grad = None
        function(leaves[0], shapes, *leaves[1:]).sum().backward()

    return call


def best_of(
    calls: list[Callable], repeat: int, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Best time in ms of each call, measured in turns so that a busy machine disturbs all alike.

    In its turn a call is made at least twice, and for 20 ms; the first is not timed, so that none finds the caches and
    the other threads as the one before left them.
    """
    best = [math.inf] * len(calls)

    def milliseconds(call: Callable) -> float:
        start = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return (clock() - start) * 1e3

    for _ in range(repeat):
        for i, call in enumerate(calls):
            milliseconds(call)
            spent = 0.0
            while spent < 20:
                ms = milliseconds(call)
                best[i], spent = min(best[i], ms), spent + ms
    return best
