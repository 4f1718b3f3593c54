"""Fit training into the memory at hand: measure one worst-case step, then choose micro-batch and checkpointing."""

import contextlib
import ctypes
import gc
import os
import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dino_nb.data.transforms import resized_size
from dino_nb.errors import UserError
from dino_nb.training.step import accumulate_gradients

# What is recomputed in the backward pass instead of kept, from the fastest to the leanest.
LEVELS = {
    "none": {"backbone": False, "encoder": False, "decoder": False},
    "transformer": {"backbone": False, "encoder": True, "decoder": True},
    "all": {"backbone": True, "encoder": True, "decoder": True},
}


@dataclass(frozen=True)
class Plan:
    """How a step is cut. ``peak``: predicted bytes of a worst-case step (0: not measured), ``limit``: bytes at hand."""

    micro_batch: int
    checkpointing: str = "none"
    peak: int = 0
    limit: int = 0

    def step_down(self):
        """The next leaner plan: half the micro-batch, then more checkpointing; None when there is nothing leaner."""
        if self.micro_batch > 1:
            return replace(self, micro_batch=(self.micro_batch + 1) // 2, peak=0)
        leaner = list(LEVELS)[list(LEVELS).index(self.checkpointing) + 1 :]
        return replace(self, checkpointing=leaner[0], peak=0) if leaner else None

    def describe(self, batch):
        """One line for the user; ``batch``: pictures of a step in this process."""
        parts = -(-batch // self.micro_batch)
        text = (
            f"{batch} pictures a step = {parts} x {min(self.micro_batch, batch)}, checkpointing: {self.checkpointing}"
        )
        if self.peak:
            text += f", predicted peak {self.peak / 2**30:.1f} of {self.limit / 2**30:.1f} GiB"
        return text


def plan_memory(measure, batch, limit, fixed=0, micro_batch=0, checkpointing="auto"):
    """Choose a ``Plan`` for ``batch`` pictures a step within ``limit`` bytes.

    ``measure(level)`` runs one worst-case step of a single picture and returns (bytes before it, peak bytes in it), or
    raises an out-of-memory error. ``fixed``: bytes that are not yet there in that step but stay in training (optimiser
    moments). What a picture takes beyond the bytes before is multiplied by the micro-batch. ``micro_batch`` (0) and
    ``checkpointing`` ("auto") are the user's choice where they have one.

    Raises ``UserError`` when not even one picture with everything recomputed fits.
    """
    smallest = None
    for level in LEVELS if checkpointing == "auto" else (checkpointing,):
        try:
            before, peak = measure(level)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            continue
        one = max(peak - before, 0)
        base = before + fixed
        smallest = base + one
        for micro in [micro_batch] if micro_batch else _halvings(batch):
            if base + micro * one <= limit:
                return Plan(micro, level, base + micro * one, limit)
    needs = f"about {smallest / 2**30:.1f} GiB are needed" if smallest else "the step itself ran out of memory"
    raise UserError(
        f"one training step does not fit: {needs}, {limit / 2**30:.1f} GiB are at hand. Lower size and max_size "
        "(or use --preset t4), leave micro_batch and checkpointing to the planner, or freeze the backbone."
    )


def _halvings(batch):
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def set_checkpointing(model, level):
    """Switch gradient checkpointing of ``model``'s parts to ``level`` (a key of ``LEVELS``)."""
    model.set_checkpointing(**LEVELS[level])


def worst_case_step(model, criterion, precision, canvas, objects, device):
    """A function ``measure(level)`` for ``plan_memory``: one picture of ``canvas`` (h, w) with ``objects`` boxes.

    Weights and buffers are as before afterwards; no optimiser step is taken.
    """

    def measure(level):
        set_checkpointing(model, level)
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


def optimizer_bytes(model):
    """Bytes of the AdamW moments that training will add."""
    return sum(2 * p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def worst_canvas(image_sizes, size, max_size, grouped=False):
    """The largest padded (h, w) that training can meet; ``image_sizes``: (h, w) of the pictures.

    Batches that mix upright and wide pictures are padded to the largest of both sides, ``grouped`` ones are not.
    """
    canvases = {resized_size(int(h), int(w), size, max_size) for h, w in set(image_sizes)}
    if grouped:
        return max(canvases, key=lambda hw: hw[0] * hw[1])
    return max(h for h, _ in canvases), max(w for _, w in canvases)


def is_out_of_memory(error):
    """Whether an exception says that device or host memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def release(device):
    """Give cached memory back after an error or a measurement."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # not every C library has it
            # what was freed stays with the process otherwise, and the next step would seem to need no memory
            ctypes.CDLL(None).malloc_trim(0)


def limit_host_caches():
    """Have oneDNN keep 64 prepared operations instead of 1,024: pictures of ever other sizes hardly use one again, and
    they take a GiB. Must come before the process's first convolution; ``$ONEDNN_PRIMITIVE_CACHE_CAPACITY`` stands."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def memory_limit(device):
    """Bytes that training may take: 92 % of what a GPU has for this process, half of what the host has."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(0.92 * (free + torch.cuda.memory_reserved(device)))
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 4 << 30
    available = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    free = int(available.split()[1]) << 10
    cgroup = Path("/sys/fs/cgroup/memory.max")
    if cgroup.exists() and cgroup.read_text().strip().isdigit():
        taken = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, max(int(cgroup.read_text()) - taken, 0))
    return used_memory(device) + free // 2


def used_memory(device):
    """Bytes in use now: allocated on the GPU, resident on the host."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") or _max_rss()


def peak_memory(device):
    """The most bytes in use since ``reset_peak`` (on systems without /proc: since the process began)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") or _max_rss()


def reset_peak(device):
    """Start a new ``peak_memory`` measurement."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present VmRSS
    except OSError:
        return  # not Linux, or not permitted: peak_memory then reports the process's highest, which is never too low


def _status(field):
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next((line for line in status.read_text().splitlines() if line.startswith(field + ":")), None)
    return int(line.split()[1]) << 10 if line else 0


def _max_rss():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
