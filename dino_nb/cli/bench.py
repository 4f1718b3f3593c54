"""Time the attention op and a whole model on this machine, against the plain PyTorch formulation.

dino-nb bench                  the op at the shapes of an 800 x 1066 picture, and one forward of DINO-R50 4-scale
dino-nb bench --no-model       the op alone
dino-nb bench --device cpu --threads 2
"""

import math
import time

import torch

from dino_nb.errors import UserError

SUMMARY = "time the model and the op on this machine"
LEVELS = [(100, 134), (50, 67), (25, 34), (13, 17)]  # of an 800 x 1066 picture at strides 8, 16, 32, 64
FIVE_LEVELS = [(200, 267), *LEVELS]


def add_arguments(parser):
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda if there is one)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: what torch uses)")
    parser.add_argument("--repeat", type=int, default=5, help="measurements of which the best counts (default 5)")
    parser.add_argument("--no-model", action="store_true", help="time the op alone")


def run(args):
    from dino_nb import ops
    from dino_nb.ops import reference

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise UserError(
            f"There is no device {device!r} here: use --device cpu" + ("." if device == "cuda" else " or cuda.")
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    ops.build()
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {device} ({where}), float32, milliseconds, best of {args.repeat}")
    print(f"{'':42}{'op':>10}{'PyTorch':>10}{'ratio':>8}")
    for name, queries in (("encoder", None), ("decoder, 900 queries", 900)):
        inputs = model_like(queries=queries, device=device)
        for what, make in (("forward", forward_of), ("forward + backward", both_of)):
            calls = [make(module.ms_deform_attn_fused, inputs) for module in (ops, reference)]
            ours, torchs = best_of(calls, args.repeat, device)
            label = f"{name}, {what}"
            print(f"{label:42}{ours:10.2f}{torchs:10.2f}{torchs / ours:8.1f}")
    if not args.no_model:
        _time_model(device, args.repeat)


def _time_model(device, repeat):
    from dino_nb import ModelConfig, build_model

    model = build_model(ModelConfig()).eval().to(device)
    picture = torch.rand(3, 800, 1066, device=device)
    with torch.inference_mode():
        (best,) = best_of([lambda: model([picture])], repeat, device)
    print(f"DINO-R50 4-scale, one 800 x 1066 picture: {best:.0f} ms")


def model_like(shapes=LEVELS, queries=None, batch=1, heads=8, channels=32, points=4, device="cpu", dtype=torch.float32):
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
    reference = places[None, :, None].expand(batch, count, len(shapes), 2).contiguous()
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    offsets = direction[:, None, None] * torch.arange(1, points + 1)[:, None]
    offsets = offsets + 2 * torch.randn(batch, count, heads, len(shapes), points, 2, generator=g)
    value = torch.randn(batch, cells, heads, channels, generator=g)
    logits = torch.randn(batch, count, heads, len(shapes), points, generator=g)
    return value.to(device, dtype), shapes, reference.to(device), offsets.to(device, dtype), logits.to(device, dtype)


def forward_of(function, inputs):
    """A call of ``function`` without gradients."""

    def call():
        with torch.no_grad():
            return function(*inputs)

    return call


def both_of(function, inputs):
    """A call of ``function`` and of its backward to value, coordinates and weights (the reference stays fixed)."""
    value, shapes, *rest = inputs
    leaves = [value.detach().requires_grad_(), *rest[:-2], *(x.detach().requires_grad_() for x in rest[-2:])]

    def call():
        for leaf in leaves:
            leaf.grad = None
        function(leaves[0], shapes, *leaves[1:]).sum().backward()

    return call


def best_of(calls, repeat, device="cpu", clock=time.perf_counter):
    """Best time in ms of each call, measured in turns so that a busy machine disturbs all alike.

    In its turn a call is made at least twice, and for 20 ms; the first is not timed, so that none finds the caches and
    the other threads as the one before left them.
    """
    best = [math.inf] * len(calls)

    def milliseconds(call):
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
