"""Mixed precision as the device can do it: fp16 with a scaler, bf16 where it is native, else fp32."""

import platform
from pathlib import Path
from typing import Any

import torch

from dino_nb.errors import UserError
from dino_nb.models.layers import at_least_float32

CPUINFO = Path("/proc/cpuinfo")
# A detector's losses are large sums: at PyTorch's 65536 the first five steps would overflow and be lost. A scale that
# has fallen has to come back within a short run.
FIRST_SCALE, STEPS_TO_GROW = 2.0**9, 200
_DTYPES = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose(device: torch.device | str, wanted: str = "auto") -> str:
    """``fp32``, ``fp16`` or ``bf16`` for ``device``; what the device only emulates is an error.

    ``torch.cuda.is_bf16_supported()`` is not asked: it says True on a T4, which emulates bf16 slowly.
    """
    device = torch.device(device)
    native = {"fp32"}
    if device.type == "cuda":
        native |= {"fp16", "bf16"} if torch.cuda.get_device_capability(device) >= (8, 0) else {"fp16"}
    elif device.type == "cpu" and cpu_has_bf16():
        native.add("bf16")
    best = next(name for name in ("bf16", "fp16", "fp32") if name in native)
    if wanted == "bf16" and wanted not in native:
        raise UserError(
            f"{device.type} has no native bfloat16 here: leave amp=auto (which chooses {best}) or use fp32."
        )
    if wanted == "fp16" and device.type == "cpu":
        raise UserError("fp16 training needs a GPU: leave amp=auto on a CPU.")
    return best if wanted == "auto" else wanted


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16; read from /proc/cpuinfo)."""
    if platform.machine() not in ("x86_64", "AMD64") or not CPUINFO.exists():
        return False
    flags = next((line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")), "").split()
    return "amx_bf16" in flags or "avx512_bf16" in flags


class Precision:
    """One run's arithmetic: the autocast context, and the gradient ``scaler`` of fp16, as old as the run."""

    def __init__(self, name: str, device: torch.device | str) -> None:
        self.name, self.device_type = name, torch.device(device).type
        self.scaler = torch.amp.GradScaler(
            self.device_type, init_scale=FIRST_SCALE, growth_interval=STEPS_TO_GROW, enabled=name == "fp16"
        )

    def autocast(self) -> torch.autocast:
        """The context of the forward pass; matcher and losses stay outside, in float32."""
        return torch.autocast(self.device_type, _DTYPES[self.name], enabled=_DTYPES[self.name] is not None)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of the scaled loss, to be unscaled by ``scaler.unscale_`` before they are used."""
        self.scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step, unless the fp16 gradients overflowed, and adapt the scale."""
        self.scaler.step(optimizer)
        self.scaler.update()


def to_float32(outputs: Any) -> Any:
    """The nested outputs with every floating-point tensor in float32 (float64 is left as it is)."""
    if isinstance(outputs, dict):
        return {key: to_float32(value) for key, value in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(to_float32(value) for value in outputs)
    return at_least_float32(outputs) if torch.is_tensor(outputs) else outputs
