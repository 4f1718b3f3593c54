"""Times the op against its named peers in one run, and prints a table.

    python -m tests.benchmarks.op                        CPU, 2 threads
    python -m tests.benchmarks.op --device cuda          GPU, with the published kernel design as a further peer
    python -m tests.benchmarks.op --cases encoder --repeat 20
    python -m tests.benchmarks.op --device cuda --graph  by replaying CUDA graphs: the GPU's time alone
    python -m tests.benchmarks.op --busy                 CPU time of one thread, for a machine that others use

Peers that are not installed, or fail, are left out by name. All get the same numbers: bare ops take locations and
weights, the fused entry takes offsets and logits. "floor" is the time to move every input and output once at the GPU's
bandwidth.
"""

import argparse
import importlib.metadata
import os
import platform
import time

import torch
import torch.nn.functional as F

from dino_nb import ops
from dino_nb.cli.bench import LEVELS, best_of, both_of, forward_of, model_like
from dino_nb.ops import reference

CASES = {
    "encoder": {},
    "encoder uniform": {"uniform": True},
    "encoder B=2": {"batch": 2},
    "encoder 5 levels": {"shapes": [(200, 267), *LEVELS]},
    "decoder": {"queries": 900},
    "decoder B=2": {"queries": 900, "batch": 2},
}
BANDWIDTH = {"T4": 320, "H100": 3350, "H200": 4800, "A100": 1555, "L4": 300}  # GB/s


def grid_sample(value, shapes, locations, weights):
    """The formulation that everyone starts from."""
    n, _, m, d = value.shape
    q, p = locations.shape[1], locations.shape[4]
    samples = []
    for level, (part, (h, w)) in enumerate(zip(value.split([h * w for h, w in shapes], 1), shapes)):
        image = part.permute(0, 2, 3, 1).reshape(n * m, d, h, w)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).reshape(n * m, q, p, 2)
        samples.append(F.grid_sample(image, grid, padding_mode="zeros", align_corners=False))
    weighted = torch.cat(samples, -1) * weights.permute(0, 2, 1, 3, 4).reshape(n * m, 1, q, -1)
    return weighted.sum(-1).reshape(n, m * d, q).transpose(1, 2).contiguous()


def sorted_both_of(function, inputs):
    """As ``both_of``, where gradients of the value are sorted instead of added atomically (on CUDA)."""
    call = both_of(function, inputs)

    def in_deterministic_mode():
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a safety net that costs time of its own
        try:
            return call()
        finally:
            torch.use_deterministic_algorithms(False)

    return in_deterministic_mode


def _starts(sizes):
    return torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])


def _package(name):
    return importlib.metadata.version(name)


def torch_ms_deform_attn(device):
    import torch_ms_deform_attn as peer

    def call(value, shapes, locations, weights):
        sizes = torch.tensor(shapes, device=device)
        return peer.ms_deform_attn(value, sizes, _starts(sizes), locations, weights)

    return call, f"torch-ms-deform-attn {_package('torch-ms-deform-attn')}"


def transformers_fallback(device):
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

    module = MultiScaleDeformableAttention()

    def call(value, shapes, locations, weights):
        sizes = torch.tensor(shapes, device=device)
        return module(value, sizes, shapes, _starts(sizes), locations, weights, 64)

    return call, f"transformers {_package('transformers')} fallback"


def deformops(device):
    if device != "cuda":
        raise ImportError("deformops is for CUDA")
    from deformops.registry import msda

    def call(value, shapes, locations, weights):
        sizes = torch.tensor(shapes, device=device)
        return msda(value, sizes, _starts(sizes), locations, weights)

    return call, f"deformops {_package('deformops')}"


def published_design(device):
    if device != "cuda":
        raise ImportError("the published kernel is for CUDA")
    from tests.benchmarks.published_design import ms_deform_attn

    return ms_deform_attn, "published kernel design"


PEERS = [torch_ms_deform_attn, transformers_fallback, deformops, published_design]


def inputs_of(device, dtype, uniform=False, **options):
    """(value, shapes, reference, offsets, logits) and (value, shapes, locations, weights) of one case."""
    fused = model_like(device=device, dtype=dtype, **options)
    value, shapes, points, offsets, logits = fused
    if uniform:
        sizes = torch.tensor([(w, h) for h, w in shapes], device=device)
        offsets = (torch.rand_like(offsets) - points[:, :, None, :, None].to(dtype)) * sizes[:, None].to(dtype)
        fused = value, shapes, points, offsets, logits
    locations = reference.sampling_locations(points, offsets.float(), shapes).contiguous()
    weights = logits.float().flatten(-2).softmax(-1).view(logits.shape)
    return fused, (value, shapes, locations, weights)


def floor_ms(tensors, gradients):
    """Milliseconds to move all tensors once (twice with gradients), or None for an unknown GPU."""
    name = torch.cuda.get_device_name()
    bandwidth = next((gb for key, gb in BANDWIDTH.items() if key in name), None)
    moved = sum(x.numel() * x.element_size() for x in tensors) * (2 if gradients else 1)
    return moved / bandwidth / 1e6 if bandwidth else None


def replayed(call):
    """``call`` as the replay of a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(case, device, dtype, repeat, peers, clock, graph):
    fused, bare = inputs_of(device, dtype, **CASES[case])
    narrow = dtype in (torch.float16, torch.bfloat16)
    for gradients, make in ((False, forward_of), (True, both_of)):
        rows = [("dino-nb fused", ops.ms_deform_attn_fused, fused), ("dino-nb bare", ops.ms_deform_attn, bare)]
        if not narrow:  # the peers compute in float32
            rows += [("grid_sample", grid_sample, bare), *((name, call, bare) for call, name in peers)]
        calls = [make(function, inputs) for _, function, inputs in rows]
        if gradients and device == "cuda":
            rows.append(("dino-nb fused, sorted gradients", ops.ms_deform_attn_fused, fused))
            calls.append(sorted_both_of(ops.ms_deform_attn_fused, fused))
        wanted = ops.ms_deform_attn(*bare)
        kept = []
        for (name, function, inputs), call in zip(rows, calls):
            try:
                error = (function(*inputs).float() - wanted.float()).abs().max().item()
                assert error < (0.1 if narrow else 1e-2), f"it computes something else: off by {error}"
                kept.append((name, replayed(call) if graph else call))
            except Exception as failure:  # of a stranger's code
                if name.startswith("dino-nb"):
                    raise
                print(f"left out: {name} ({str(failure).splitlines()[0][:200]})")
        times = best_of([call for _, call in kept], repeat, device, clock)
        title = f"{case}, {'forward + backward' if gradients else 'forward'}, {str(dtype).split('.')[1]}"
        moved = [x for x in fused if isinstance(x, torch.Tensor)] + [wanted]
        floor = floor_ms(moved, gradients) if device == "cuda" else None
        print(f"\n{title}" + (f" (floor {floor:.2f} ms)" if floor else ""))
        for (name, _), ms in zip(kept, times):
            print(f"  {name:36}{ms:10.2f} ms{ms / times[0]:8.1f} x fused{ms / times[1]:8.1f} x bare", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--graph", action="store_true", help="replay CUDA graphs")
    parser.add_argument("--busy", action="store_true", help="CPU time of one thread instead of wall time")
    args = parser.parse_args()
    if args.busy and args.device == "cuda":
        parser.error("--busy is for the CPU")
    if args.graph and args.device != "cuda":
        parser.error("--graph is for a GPU")
    args.threads = 1 if args.busy else args.threads
    clock = time.thread_time if args.busy else time.perf_counter
    torch.set_num_threads(args.threads)
    ops.build()
    assert ops.status()[args.device].startswith("native"), ops.status()
    machine = (
        torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.processor()} {args.threads} threads"
    )
    print(f"torch {torch.__version__}, {args.device}: {machine}, load {os.getloadavg()[0]:.1f}, best of {args.repeat}")
    peers = []
    for peer in PEERS:
        try:
            peers.append(peer(args.device))
        except Exception as error:  # not installed, or built for something else
            print(f"left out: {peer.__name__} ({str(error).splitlines()[:1]})")
    for case in args.cases:
        for dtype in [torch.float32, torch.float16] if args.device == "cuda" else [torch.float32]:
            measure(case, args.device, dtype, args.repeat, peers, clock, args.graph)
    print(f"\nload at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
