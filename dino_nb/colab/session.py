"""The session that a notebook runs in: what it has, and what will get in the way."""

import html
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from os import PathLike
from pathlib import Path

from dino_nb import files, ops
from dino_nb.errors import UserError
from dino_nb.files import in_colab, size_text
from dino_nb.training import memory, precision
from dino_nb.version import __version__

_LEAST_DRIVE = 2e9  # bytes free on Drive below which a run may not fit
_LEAST_DISK = 5e9


def in_kaggle() -> bool:
    """Whether this process belongs to a Kaggle notebook."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


class Info(dict[str, str]):
    """What a session has, label -> text; shown as a small table in notebooks and terminals."""

    def __str__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{label:{width}}  {text}" for label, text in self.items())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        row = "<tr><th style='text-align:left'>{}</th><td style='text-align:left'>{}</td></tr>"
        return f"<table>{''.join(row.format(html.escape(k), html.escape(v)) for k, v in self.items())}</table>"


def info() -> Info:
    """Describe this session: versions, device, memory, precision, op, folders, Drive. Never raises."""
    parts = {
        "dino_nb": _versions,
        "session": _session,
        "device": _device,
        "memory": _memory,
        "precision": _precision,
        "attention op": lambda: "; ".join(f"{place}: {state}" for place, state in ops.status().items()),
        "downloads": lambda: _space(files.home_dir()),
        "working folder": lambda: _space(Path.cwd()),
        "Google Drive": _drive,
    }
    described = Info()
    for label, describe in parts.items():
        try:
            described[label] = describe()
        except Exception as error:  # a description must not be what stops a notebook
            described[label] = f"not known ({type(error).__name__}: {error})"
    return described


def setup(*paths: str | PathLike[str] | None, gpu: bool = True, made_for: str | None = None) -> Info:
    """Get the session ready for a notebook and describe it.

    Mounts Google Drive if one of ``paths`` (the form's fields; names and links are fine too) is on it, lets Colab show
    ipywidgets, and prints a warning for each thing that will get in the way: no GPU, one too old, a disk or Drive
    that is nearly full, a package of another version than the notebook.

    Args:
        gpu: whether the notebook is slow without a GPU.
        made_for: the package version that the notebook was written for.

    Raises:
        UserError: a misspelt Drive path, a Drive path outside Colab, or a mount that was refused.
    """
    if any(files.on_drive(files.user_path(path)) for path in paths if path):
        mount_drive()
    if in_colab():
        try:
            from google.colab import output

            output.enable_custom_widget_manager()
        except (ImportError, AttributeError):  # a Colab of another day: it may show them by itself
            pass
    if made_for and made_for != __version__:
        print(
            f"Warning: this notebook was made for dino_nb {made_for}, and {__version__} is installed: open the "
            "notebook that comes with the installed package, or install the other version and restart the session."
        )
    for warning in [*(_gpu_warnings() if gpu else ()), *_disk_warnings()]:
        print(f"Warning: {warning}")
    return info()


def mount_drive() -> Path | None:
    """Mount Google Drive in Colab and return its folder; elsewhere say that there is none and return None.

    From then on ``files.home_dir()``, and with it every download, is on Drive and outlives the session.
    """
    if not in_colab():
        print("This is not a Colab session: there is no Drive to mount, and local folders are used as they are.")
        return None
    if not files.DRIVE.is_dir():
        from google.colab import drive

        try:
            drive.mount(str(files.DRIVE.parent))
        except Exception as error:  # of several kinds, when access is refused or the question times out
            raise UserError(f"Google Drive was not mounted ({error}): run this again and allow the access.") from error
    return files.DRIVE


def _disk_warnings() -> list[str]:
    places = [(Path.cwd(), _LEAST_DISK, "the disk of the working folder")]
    if files.drive_mounted():
        places.append((files.DRIVE, _LEAST_DRIVE, "Google Drive (empty its trash too: deleted files still count)"))
    left = [(shutil.disk_usage(folder).free, least, name) for folder, least, name in places]
    return [f"only {size_text(free)} are free on {name}: make room before a long run." for free, least, name in left
            if free < least]  # fmt: skip


def _gpu_warnings() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        where = "Runtime > Change runtime type > T4 GPU" if in_colab() else "Settings > Accelerator > GPU T4 x2"
        how = f": choose {where}, and run all again" if in_colab() or in_kaggle() else ""
        return [f"there is no GPU. The sample runs without one; a published network takes seconds per image{how}."]
    old = [i for i in range(torch.cuda.device_count()) if torch.cuda.get_device_capability(i) < (7, 0)]
    hint = " On Kaggle choose GPU T4 x2." if in_kaggle() else ""
    return [
        f"{torch.cuda.get_device_name(i)} is too old for the fast attention op (compute capability 7.0 or later): "
        f"PyTorch's own, slower way is used.{hint}"
        for i in old
    ]


def _versions() -> str:
    version = importlib.metadata.version
    return f"{__version__}, torch {version('torch')}, timm {version('timm')}, Python {platform.python_version()}"


def _session() -> str:
    if in_colab():
        return "Colab"
    if in_kaggle():
        return "Kaggle"
    return f"{'Jupyter' if 'ipykernel' in sys.modules else 'Python'} on {platform.system()} {platform.machine()}"


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        hint = " (no GPU: choose one under Runtime > Change runtime type)" if in_colab() else ", no GPU"
        return f"CPU, {cores} cores{hint}"
    described = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        capability = "{}.{}".format(*torch.cuda.get_device_capability(index))
        name = torch.cuda.get_device_name(index)
        described.append(f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, compute capability {capability}")
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split()
        described[-1] += f", driver {answer[0]}" if answer else ""
    return "; ".join(described)


def _memory() -> str:
    # "available" counts memory that the system lends to its file cache and takes back; "free" does not
    left, total = (memory.field(memory.PROC / "meminfo", name) * 1024 / 1e9 for name in ("MemAvailable:", "MemTotal:"))
    return f"{left:.1f} of {total:.1f} GB free" if total else "not known"


def _precision() -> str:
    import torch

    best = precision.choose("cuda" if torch.cuda.is_available() else "cpu")
    return f"{best} for training; bfloat16 is {'native' if best == 'bf16' else 'not native'} here"


def _space(folder: Path) -> str:
    return f"{folder}, {shutil.disk_usage(folder).free / 1e9:.1f} GB free"


def _drive() -> str:
    if files.drive_mounted():
        return f"mounted at {_space(files.DRIVE)}"
    return "not mounted: dino_nb.colab.mount_drive()" if in_colab() else "none, this is not Colab"
