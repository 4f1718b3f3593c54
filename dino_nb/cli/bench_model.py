"""A checkpoint's speed by stage, its memory and its AP, in the variants that it can run in."""

import copy
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dino_nb.checkpoints.load import load_model
from dino_nb.checkpoints.onnx_file import OnnxModel
from dino_nb.data.dataset import CocoDataset
from dino_nb.data.images import open_image
from dino_nb.data.transforms import eval_transform, normalize
from dino_nb.errors import UserError
from dino_nb.evaluation.evaluate import evaluate
from dino_nb.files import write_text
from dino_nb.inference.detector import Detector
from dino_nb.inference.export import export
from dino_nb.inference.sources import leaves
from dino_nb.models.compiled import compile_parts
from dino_nb.models.dino import DINO
from dino_nb.models.infer import infer
from dino_nb.models.postprocess import postprocess
from dino_nb.prepare.scenes import draw_scene
from dino_nb.version import __version__

VARIANTS = ("fp32", "optimized", "fp16", "bf16", "compiled", "onnx", "predict")
_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
_STAGES = ("read", "resize", "network", "select")
_WARM_UP = 3


def bench_checkpoint(
    checkpoint: str,
    data: str | None,
    device: torch.device,
    variants: list[str] | None = None,
    images: int = 20,
    json_file: str | None = None,
) -> str:
    """Time ``checkpoint`` on ``images`` images of ``data``; the table and the conditions as text."""
    model = load_model(checkpoint, device)
    names = variants or ["fp32", "fp16" if device.type == "cuda" else "optimized", "predict"]
    if isinstance(model, OnnxModel):
        names = ["onnx", "predict"]
    if "fp16" in names and device.type != "cuda":
        raise UserError("fp16 is for GPUs: on a CPU it is slower than fp32. Leave it out of --variants, or say bf16.")
    cocodir = data if data and (Path(data) / "annotations").is_dir() else None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = list(_files(data, cocodir, images, Path(folder)))
        for file in files:
            file.read_bytes()  # the first variant should not wait for the disk alone
        for name in names:
            variant = _variant(model, name, device, Path(folder))
            amp = _HALF.get(name, False)
            timed = _time_predict(model, files, device) if name == "predict" else _time(variant, files, amp, device)
            rows.append({"variant": name, **timed})
            if cocodir and name != "predict":
                scored = evaluate(cocodir, variant, check=False, amp=amp, progress=False)
                rows[-1]["AP"] = scored.metrics["AP"]
    conditions = {
        "checkpoint": checkpoint,
        "data": data or "drawn scenes",
        "images": len(files),
        "batch_size": 1,
        "input_size": list(model.input_size),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "versions": {"dino_nb": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    if json_file:
        write_text(json_file, json.dumps({"conditions": conditions, "results": rows}, indent=1))
    return _table(rows) + "\n" + "; ".join(f"{key} {value}" for key, value in conditions.items())


def _files(data: str | None, cocodir: str | None, count: int, folder: Path) -> Iterator[Path]:
    if cocodir:
        dataset = CocoDataset(cocodir, "val")
        yield from (dataset.path(i) for i in range(min(count, len(dataset))))
    elif data:
        yield from [Path(str(leaf)) for leaf in leaves(data)][:count]
    else:
        rng = np.random.default_rng(0)
        for number in range(min(count, 8)):
            pixels, _ = draw_scene(rng, ("cells", "aerial")[number % 2], 0)
            Image.fromarray(pixels).convert("RGB").resize((640, 480)).save(folder / f"{number}.png")
        yield from (folder / f"{number % 8}.png" for number in range(count))


def _variant(model: Any, name: str, device: torch.device, folder: Path) -> Any:
    if name == "onnx" and isinstance(model, DINO):
        path = export(copy.deepcopy(model).cpu(), folder / "model.onnx")
        return OnnxModel(path, device).eval()
    if isinstance(model, DINO):
        model = copy.deepcopy(model).optimize(name in ("optimized", *_HALF))
    if name == "compiled":
        compile_parts(model, device)
    return model


def _time(model: Any, files: list[Path], amp: torch.dtype | bool, device: torch.device) -> dict[str, Any]:
    """Milliseconds of each stage (medians), latency percentiles, images per second, peak memory."""
    transform = eval_transform(*model.input_size)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def one(file: Path) -> list[float]:
        times = [_now(device)]

        def lap(result: Any) -> Any:
            times.append(_now(device))
            return result

        image = lap(open_image(file))
        tensor = lap(normalize(transform(image).to(device)))
        outputs = lap(infer(model, [tensor], amp))
        lap([{k: v.cpu() for k, v in one.items()} for one in postprocess(outputs, [(image.height, image.width)])])
        return [1e3 * (b - a) for a, b in itertools.pairwise(times)]

    for file in files[:_WARM_UP]:
        one(file)
    table = np.array([one(file) for file in files])
    stages = {f"{stage}_ms": float(np.median(table[:, i])) for i, stage in enumerate(_STAGES)}
    return _summary(table.sum(1), device) | stages


def _time_predict(model: Any, files: list[Path], device: torch.device) -> dict[str, Any]:
    """The same for ``Detector.stream`` with its defaults: from files to results."""
    results = Detector(copy.deepcopy(model) if isinstance(model, DINO) else model, device).stream(
        [*files[:_WARM_UP], *files], progress=False
    )
    ends = [_now(device) for _ in results][_WARM_UP - 1 :]
    return _summary(1e3 * np.diff(ends), device)


def _summary(milliseconds: np.ndarray, device: torch.device) -> dict[str, Any]:
    return {
        "images_per_second": 1e3 / milliseconds.mean(),
        **{f"p{share}_ms": float(np.percentile(milliseconds, share)) for share in (50, 90, 99)},
        "peak_memory_mb": _peak_memory(device),
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak_memory(device: torch.device) -> float | None:
    """MB: of the GPU, or of this process so far (whatever variant it was in)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    scale = 1e-6 if platform.system() == "Darwin" else 1e-3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _table(rows: list[dict[str, Any]]) -> str:
    columns = {
        "images/s": "images_per_second",
        **{f"{name} ms": f"{name}_ms" for name in (*_STAGES, "p50", "p90", "p99")},
    }
    columns |= {"peak MB": "peak_memory_mb"} | ({"AP": "AP"} if any("AP" in row for row in rows) else {})
    digits = {"images/s": 2, "peak MB": 0, "AP": 3}

    def cell(row: dict[str, Any], column: str, key: str) -> str:
        return "-" if row.get(key) is None else f"{row[key]:.{digits.get(column, 1)}f}"

    cells = [["variant", *columns], *([row["variant"], *(cell(row, *c) for c in columns.items())] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in cells)
