"""Seconds and peak memory of one training step, against the published formulation, in one run.

  python -m tests.benchmarks.train_step                         4-scale R50, one image of 800 x 1066
  python -m tests.benchmarks.train_step --height 320 --width 426 --threads 1 --steps 3

Each variant runs in a process of its own, so that its peak memory is its own: forward, losses, backward, clipping and
AdamW. "published": the formulation of the published code (``tests/benchmarks/published.py``) in float32, nothing
recomputed. CPU seconds, summed over threads, are what to compare where other programs run beside.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# name -> (whose formulation, arithmetic, what is recomputed)
VARIANTS = {
    "published": ("published", "fp32", "none"),
    "fp32": ("ours", "fp32", "none"),
    "fp32, recomputing": ("ours", "fp32", "all"),
    "fp16": ("ours", "fp16", "none"),
    "bf16": ("ours", "bf16", "none"),
    "bf16, recomputing": ("ours", "bf16", "all"),
}


def measure(args, formulation, arithmetic, level):
    """One variant in this process: dict of median seconds a step, and bytes of peak memory beyond the interpreter's."""
    import torch

    from dino_nb.config import TrainConfig
    from dino_nb.models.dino import build_model
    from dino_nb.presets import preset
    from dino_nb.training import memory
    from dino_nb.training.criterion import Criterion
    from dino_nb.training.memory import accumulate_gradients
    from dino_nb.training.optim import clip_gradients, make_optimizer
    from dino_nb.training.precision import Precision
    from tests.benchmarks.published import published_formulation

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    start = memory.used_memory(device)
    model = build_model(preset(args.model)).train()
    if formulation == "published":
        model = published_formulation(model)
    model = model.to(device)
    memory.set_grad_checkpointing(model, level)
    criterion, precision = Criterion(model.config), Precision(arithmetic, device)
    optimizer = make_optimizer(model, TrainConfig())
    images = [torch.randn(3, args.height, args.width, device=device) for _ in range(args.batch)]
    boxes = torch.rand(args.objects, 4, device=device) * 0.3 + 0.3
    targets = [{"labels": torch.arange(args.objects, device=device), "boxes": boxes} for _ in images]
    memory.reset_peak(device)
    seconds, cpu_seconds, losses = [], [], []
    for step in range(args.steps + 1):
        torch.manual_seed(step)
        began, cpu_began = time.perf_counter(), time.process_time()
        totals, _ = accumulate_gradients(
            model, criterion, precision, images, targets, float(args.objects * args.batch), args.batch
        )
        clip_gradients(model.parameters(), 0.1)
        precision.step(optimizer)
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
        losses.append(float(totals["loss"]))
    return {
        "seconds": statistics.median(seconds[1:]),  # the first warms up
        "cpu": statistics.median(cpu_seconds[1:]),
        "peak": memory.peak_memory(device) - (start if device.type == "cpu" else 0),
        "loss": losses[0],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="DINO_4scale")
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1066)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2, help="timed steps after one that warms up")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), help="default: all but fp16, which is for GPUs"
    )
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # what a variant's own process is told
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args, *args.one)))
        return
    variants = args.variants or [name for name in VARIANTS if name != "fp16" or args.device != "cpu"]
    print(f"{args.model}, {args.batch} x {args.height} x {args.width}, {args.objects} objects, {args.threads} threads")
    print(f"{'':20} {'s/step':>8} {'faster':>7} {'CPU s':>8} {'less':>7} {'peak GiB':>9} {'memory':>7}  loss of step 1")
    base = None
    for name in variants:
        command = [sys.executable, "-m", "tests.benchmarks.train_step", *sys.argv[1:], "--one", *VARIANTS[name]]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        base = base or result
        print(
            f"{name:20} {result['seconds']:8.2f} {base['seconds'] / result['seconds']:6.2f}x "
            f"{result['cpu']:8.2f} {base['cpu'] / result['cpu']:6.2f}x "
            f"{result['peak'] / 2**30:9.2f} {result['peak'] / base['peak']:7.0%}  {result['loss']:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
