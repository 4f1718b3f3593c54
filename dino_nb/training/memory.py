"""Fit training into the memory at hand: measure one worst-case step, choose how a step is cut, and cut it so."""

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dino_nb.data.transforms import resized_size
from dino_nb.errors import UserError
from dino_nb.models.dino import DINO
from dino_nb.training.criterion import Criterion
from dino_nb.training.precision import Precision, to_float32

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
# What is recomputed in the backward pass instead of kept, from the fastest to the leanest.
LEVELS: dict[str, tuple[str, ...]] = {
    "none": (),
    "transformer": ("encoder", "decoder"),
    "all": ("backbone", "encoder", "decoder"),
}


@dataclass(frozen=True)
class Plan:
    """How a step is cut. ``peak``: predicted bytes of a worst-case step (0: not measured), ``limit``: bytes at hand."""

    micro_batch: int
    grad_checkpointing: str = "none"
    peak: int = 0
    limit: int = 0

    def step_down(self) -> "Plan | None":
        """The next leaner plan: half the micro-batch, then more gradient checkpointing; None after the leanest."""
        if self.micro_batch > 1:
            return replace(self, micro_batch=(self.micro_batch + 1) // 2, peak=0)
        leaner = list(LEVELS)[list(LEVELS).index(self.grad_checkpointing) + 1 :]
        return replace(self, grad_checkpointing=leaner[0], peak=0) if leaner else None

    def describe(self, batch: int) -> str:
        """One line for the user; ``batch``: images per step in this process."""
        parts, micro = -(-batch // self.micro_batch), min(self.micro_batch, batch)
        text = f"{batch} images per step = {parts} x {micro}, gradient checkpointing: {self.grad_checkpointing}"
        if self.peak:
            text += f", predicted peak {self.peak / 2**30:.1f} of {self.limit / 2**30:.1f} GiB"
        return text


def plan_memory(
    measure: Callable[[str], tuple[int, int]],
    batch: int,
    limit: int,
    fixed: int = 0,
    micro_batch: int = 0,
    grad_checkpointing: str = "auto",
) -> Plan:
    """Choose a ``Plan`` for ``batch`` images per step within ``limit`` bytes.

    ``measure(level)`` runs one worst-case step of a single image and returns (bytes before it, peak bytes in it), or
    raises an out-of-memory error. ``fixed``: bytes that are not yet there in that step but stay in training (optimiser
    moments). What an image takes beyond the bytes before is multiplied by the micro-batch. ``micro_batch`` (0) and
    ``grad_checkpointing`` ("auto") are the user's choice where they have one.

    Raises ``UserError`` when not even one image with everything recomputed fits.
    """
    smallest = None
    for level in LEVELS if grad_checkpointing == "auto" else (grad_checkpointing,):
        try:
            before, peak = measure(level)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            continue
        one = max(peak - before, 0)
        base = before + fixed
        smallest = base + one
        micro = micro_batch or batch
        while base + micro * one > limit and micro > 1 and not micro_batch:
            micro = (micro + 1) // 2
        if base + micro * one <= limit:
            return Plan(micro, level, base + micro * one, limit)
    needs = f"about {smallest / 2**30:.1f} GiB are needed" if smallest else "the step itself ran out of memory"
    raise UserError(
        f"one training step does not fit: {needs}, {limit / 2**30:.1f} GiB are at hand. Lower size and max_size "
        "(or use --preset t4), leave micro_batch and grad_checkpointing to the planner, or freeze the backbone."
    )


def set_grad_checkpointing(model: DINO, level: str) -> None:
    """Switch gradient checkpointing of ``model``'s parts to ``level`` (a key of ``LEVELS``)."""
    model.set_grad_checkpointing(**{part: part in LEVELS[level] for part in LEVELS["all"]})


def accumulate_gradients(
    model: DINO,
    criterion: Criterion,
    precision: Precision,
    images: list[Tensor],
    targets: list[dict],
    num_boxes: float,
    micro_batch: int,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Add the gradient of the weighted loss over all images to ``.grad``. Does not wait for the device.

    Args:
        images: (3, H, W) each.
        targets: dicts with ``labels (n,)`` and ``boxes (n, 4)``.
        num_boxes: objects of the whole effective batch over all processes, divided by the number of processes. Every
            micro-batch is normalised by it, not by its own count: the sum of the micro-batches' gradients is then the
            gradient of the whole batch.

    Returns:
        The loss and its terms by name, summed over the micro-batches, and the loss of each micro-batch; detached.
    """
    totals: dict[str, Tensor] = {}
    parts = []
    for start in range(0, len(images), micro_batch):
        part = slice(start, start + micro_batch)
        with precision.autocast():
            outputs = model(images[part], targets[part])
        losses = criterion(to_float32(outputs), targets[part], num_boxes)
        loss = torch.stack([losses[name] * weight for name, weight in criterion.weight_dict.items() if name in losses])
        loss = loss.sum()
        precision.backward(loss)
        parts.append(loss.detach())
        for name, value in {"loss": loss, **losses}.items():
            totals[name] = totals[name] + value.detach() if name in totals else value.detach()
    return totals, parts


def worst_case_step(
    model: DINO, criterion: Criterion, precision: Precision, canvas: tuple[int, int], objects: int, device: torch.device
) -> Callable[[str], tuple[int, int]]:
    """A function ``measure(level)`` for ``plan_memory``: one image of ``canvas`` (h, w) with ``objects`` boxes.

    Weights and buffers are as before afterwards; no optimiser step is taken.
    """

    def measure(level):
        set_grad_checkpointing(model, level)
        buffers = [buffer.clone() for buffer in model.buffers()]
        image = torch.zeros(3, *canvas, device=device)
        count = max(objects, 1)
        centre = torch.rand(count, 4, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
        target = {"labels": torch.zeros(count, dtype=torch.int64, device=device), "boxes": centre.to(device)}
        try:
            release(device)
            reset_peak(device)
            before = used_memory(device)
            accumulate_gradients(model, criterion, precision, [image], [target], float(count), 1)
            return before, max(before, peak_memory(device))  # the kernel counts both a little late
        finally:
            model.zero_grad(set_to_none=True)
            for buffer, saved in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(saved)
            release(device)

    return measure


def worst_canvas(
    image_sizes: Iterable[tuple[int, int]], input_size: tuple[int, ...], grouped: bool = False
) -> tuple[int, int]:
    """The largest padded (h, w) that training can meet; ``image_sizes``: (h, w) of the images.

    Batches that mix upright and wide images are padded to the largest of both sides, ``grouped`` ones are not.
    """
    canvases = {resized_size(int(h), int(w), *input_size) for h, w in set(image_sizes)}
    if grouped:
        return max(canvases, key=lambda hw: hw[0] * hw[1])
    return max(h for h, _ in canvases), max(w for _, w in canvases)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that device or host memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def release(device: torch.device) -> None:
    """Give cached memory back after an error or a measurement."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # not every C library has it
            # what was freed stays with the process otherwise, and the next step would seem to need no memory
            ctypes.CDLL(None).malloc_trim(0)


def limit_host_caches() -> None:
    """Have oneDNN keep 64 prepared operations, not 1,024: images of ever other sizes hardly reuse one, and they take a
    GiB. Must come before the process's first convolution; ``$ONEDNN_PRIMITIVE_CACHE_CAPACITY`` stands."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def memory_limit(device: torch.device) -> int:
    """Bytes that training may take: 92 % of what a GPU has for this process, half of what the host has."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(0.92 * (free + torch.cuda.memory_reserved(device)))
    free = (field(PROC / "meminfo", "MemAvailable:") << 10) or (4 << 30)
    limit = _number(CGROUP / "memory.max")
    if limit:
        # Files that were read lately count as used, and are given up as soon as a process needs the memory.
        cached = field(CGROUP / "memory.stat", "inactive_file") + field(CGROUP / "memory.stat", "active_file")
        free = min(free, max(limit - _number(CGROUP / "memory.current") + cached, 0))
    return used_memory(device) + free // 2


def used_memory(device: torch.device) -> int:
    """Bytes in use now: allocated on the GPU, resident on the host (0 on systems without /proc)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return field(PROC / "self/status", "VmRSS:") << 10


def peak_memory(device: torch.device) -> int:
    """The most bytes in use since ``reset_peak``; 0 on systems without /proc."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return field(PROC / "self/status", "VmHWM:") << 10


def reset_peak(device: torch.device) -> None:
    """Start a new ``peak_memory`` measurement."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # where it is not permitted, the process's highest counts, never too low
        (PROC / "self/clear_refs").write_text("5")  # resets VmHWM to the present VmRSS


def field(path: Path, name: str) -> int:
    """The number behind ``name`` in a file of lines "name number ..."; 0 where there is none."""
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return next((int(row[1]) for row in rows if row[:1] == [name]), 0)


def _number(path: Path) -> int:
    """The number in a file; 0 where there is no file, or a word ("max")."""
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text.isdigit() else 0
