"""One image through the network: against the straightforward formulation, and split by kind of work.

  python -m tests.benchmarks.infer                              4-scale R50, 800 x 1066
  python -m tests.benchmarks.infer --height 400 --width 533 --busy
  python -m tests.benchmarks.infer --predict --model dino-tiny --busy     from a JPEG to boxes, and the first prediction

Three networks with the same weights take turns: "published" (``tests/benchmarks/published.py``), "plain" and
"optimized" (``model.optimize()``). Then every matrix product and convolution of the optimized network is timed alone,
on inputs of its sizes, and their sum compared with the whole. ``--busy`` counts the CPU time of one thread, for a
machine that other programs use.
"""

import argparse
import copy
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.profiler import ProfilerActivity, profile

from dino_nb import ops
from dino_nb.cli.bench import best_of
from dino_nb.inference.detector import Detector
from dino_nb.models import fast
from dino_nb.models.dino import build_model
from dino_nb.models.infer import infer
from dino_nb.presets import preset
from tests.benchmarks.published import published_formulation

KINDS = {  # parts of operator names -> kind of work; the first that fits
    "matrix products": ("addmm", "mm", "linear"),
    "convolutions": ("conv",),
    "deformable attention": ("ms_deform_attn", "grid_sampler"),
    "attention among queries": ("scaled_dot_product", "softmax"),
    "norms": ("norm",),
    "pooling": ("pool",),
    "selection": ("topk", "sort", "gather"),
    "copies": ("copy_", "cat", "clone", "stack"),
    "elementwise": ("",),
}


def networks(name: str) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    plain = build_model(preset(name)).eval()
    return {
        "published": published_formulation(plain),
        "plain": plain,
        "optimized": copy.deepcopy(plain).optimize(),
    }


def split_by_kind(model: nn.Module, images: list) -> dict[str, float]:
    """Milliseconds of one forward pass by kind of work."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        model(images)
    spent = dict.fromkeys(KINDS, 0.0)
    for event in seen.key_averages():
        kind = next(kind for kind, parts in KINDS.items() if any(part in event.key for part in parts))
        spent[kind] += event.self_cpu_time_total / 1e3
    return spent


def alone(model: nn.Module, images: list, repeat: int, clock) -> float:
    """Milliseconds of all matrix products and convolutions of one pass, each timed alone on its input."""
    calls, hooks = [], []

    def keep(module, args, kwargs, result):
        calls.append((module, tuple(args[0].shape), args[0].stride(), kwargs.get("relu", False)))

    for module in model.modules():
        if isinstance(module, (fast.Linear, fast.Conv2d)):
            hooks.append(module.register_forward_hook(keep, with_kwargs=True))
    model(images)
    for hook in hooks:
        hook.remove()
    total, known = 0.0, {}
    for module, shape, stride, relu in calls:
        size = (type(module), module.weight.shape, shape, relu, getattr(module, "stride", 0))
        if size not in known:
            x = (
                torch.randn(1)
                .new_empty(0)
                .set_(torch.randn(_extent(shape, stride)).untyped_storage(), 0, shape, stride)
            )
            (known[size],) = best_of([lambda m=module, x=x, relu=relu: m(x, relu=relu)], repeat, clock=clock)
        total += known[size]
    return total + _attention_products(model, repeat, clock)


def _extent(shape: tuple, stride: tuple) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(shape, stride))


def _attention_products(model: nn.Module, repeat: int, clock) -> float:
    """The projections of the decoder's self attention, which are no layers of their own."""
    config = model.config
    x = torch.randn(config.num_queries, config.hidden_dim)
    weight = torch.randn(config.hidden_dim, config.hidden_dim)
    (one,) = best_of([lambda: nn.functional.linear(x, weight)], repeat, clock=clock)
    return 4 * config.dec_layers * one


def prediction(args: argparse.Namespace) -> None:
    """``Detector.predict`` of a JPEG against the network alone, and a process's first prediction."""
    clock = time.thread_time if args.busy else time.perf_counter
    torch.set_num_threads(1 if args.busy else args.threads)
    detector = Detector(build_model(preset(args.model)), "cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.jpg"
        coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
        coarse.resize((args.width, args.height)).save(path, quality=90)
        (pixels,) = detector._inputs([Image.open(path).convert("RGB")])
        calls = [lambda: infer(detector.model, [pixels]), lambda: detector.predict(path)]
        network, whole = best_of(calls, args.repeat, clock=clock)
        size = f"{args.height} x {args.width} as {pixels.shape[1]} x {pixels.shape[2]}"
        print(
            f"{args.model}, {size}: network {network:.1f} ms, predict {whole:.1f} ms: {network / whole:.0%} of its rate"
        )
        first = f"import dino_nb; dino_nb.load('dino-tiny').predict({str(path)!r})"
        began, before = time.perf_counter(), os.times()
        subprocess.run([sys.executable, "-c", first], check=True)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        print(
            f"import and first prediction of dino-tiny: {time.perf_counter() - began:.1f} s, {spent:.1f} s of CPU time"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="DINO_4scale")
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1066)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="CPU time of one thread instead of wall time")
    parser.add_argument("--predict", action="store_true", help="Detector.predict against the network alone")
    args = parser.parse_args()
    if args.predict:
        return prediction(args)
    with torch.inference_mode():
        compare(args)


def compare(args: argparse.Namespace) -> None:
    clock = time.thread_time if args.busy else time.perf_counter
    torch.set_num_threads(1 if args.busy else args.threads)
    ops.build()
    models, images = networks(args.model), [torch.randn(3, args.height, args.width)]
    print(f"torch {torch.__version__}, {platform.processor()}, {torch.backends.cpu.get_cpu_capability()}, ", end="")
    print(
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; {args.model}, {args.height} x {args.width}"
    )
    times = best_of([lambda m=m: m(images) for m in models.values()], args.repeat, clock=clock)
    for name, ms in zip(models, times):
        print(f"  {name:12}{ms:10.0f} ms{times[0] / ms:8.2f} x published", flush=True)
    products = alone(models["optimized"], images, args.repeat, clock)
    print(f"  matrix products and convolutions alone {products:.0f} ms: optimized / alone {times[-1] / products:.2f}")
    splits = {name: split_by_kind(model, images) for name, model in models.items()}
    print(f"\n{'wall ms by kind of work':26}" + "".join(f"{name:>12}" for name in models))
    for kind in KINDS:
        print(f"{kind:26}" + "".join(f"{splits[name][kind]:12.0f}" for name in models))


if __name__ == "__main__":
    main()
