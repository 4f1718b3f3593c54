"""The session that a notebook runs in: what it has, and moving data between Google Drive and the local disk.

Colab and Kaggle are detected, never assumed: everywhere else these functions leave local folders as they are.
"""

import hashlib
import html
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dino_nb import files
from dino_nb.errors import UserError, did_you_mean
from dino_nb.version import __version__

_COPIES = 8  # at once: Drive answers slowly, not narrowly


def in_colab():
    """Whether this process belongs to a Colab session."""
    return "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules


def in_kaggle():
    """Whether this process belongs to a Kaggle notebook."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


class Info(dict):
    """What a session has, label -> text; shown as a small table in notebooks and terminals."""

    def __str__(self):
        width = max(map(len, self))
        return "\n".join(f"{label:{width}}  {text}" for label, text in self.items())

    __repr__ = __str__

    def _repr_html_(self):
        row = "<tr><th style='text-align:left'>{}</th><td style='text-align:left'>{}</td></tr>"
        return f"<table>{''.join(row.format(html.escape(k), html.escape(v)) for k, v in self.items())}</table>"


def info():
    """Describe this session (an ``Info``): versions, device, precision, op, folders, Drive. Never raises."""
    parts = {
        "dino_nb": _versions,
        "session": _session,
        "device": _device,
        "precision": _precision,
        "attention op": _op,
        "downloads": lambda: _space(files.home_dir()),
        "working folder": lambda: _space(Path.cwd()),
        "Google Drive": _drive,
    }
    told = Info()
    for label, describe in parts.items():
        try:
            told[label] = describe()
        except Exception as error:  # a description must not be what stops a notebook
            told[label] = f"not known ({type(error).__name__}: {error})"
    return told


def mount_drive():
    """Mount Google Drive in Colab and return its folder; elsewhere say that there is none and return None.

    From then on ``files.home_dir()``, and with it every download, lies on Drive and outlives the session.
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


def stage(path, folder=None):
    """Copy a file or folder on Google Drive to the local disk, where training reads it fast; returns the local path.

    A path that is not on Drive is returned as it is. A second call copies only what has changed, and takes away what is
    gone from Drive. ``folder``: where to copy to (default: a folder for temporary files).
    """
    source = Path(path).expanduser()
    if not _on_drive(source):
        return source
    _require(source)
    if folder is None:
        folder = Path(tempfile.gettempdir()) / "dino_nb_staged" / hashlib.sha256(str(source).encode()).hexdigest()[:8]
    target = Path(folder) / source.name
    inside = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    copies = [(file, target / file.relative_to(source), file.stat()) for file in inside]
    Path(folder).mkdir(parents=True, exist_ok=True)
    missing = sum(stat.st_size for _, local, stat in copies if not _is_copy(local, stat))
    if missing > (free := shutil.disk_usage(folder).free):
        raise UserError(f"{source} takes {files.size_text(missing)} and {files.size_text(free)} are free in {folder}.")
    if source.is_dir() and target.is_dir():
        kept = {local for _, local, _ in copies}
        for local in target.rglob("*"):
            if local.is_file() and local not in kept:
                local.unlink()
    _copy_all(copies, f"{source.name} to {folder}")
    return target


def keep(path, drive_folder, background=False):
    """Copy a result, file or folder, into ``drive_folder``, each file whole or not at all; returns its path there.

    A relative ``drive_folder`` is one on Drive in Colab. With ``background`` a thread copies, and a ``Copier`` is
    returned at once, whose ``wait()`` says whether everything is there.
    """
    from dino_nb.training.copier import Copier

    source, folder = Path(path).expanduser(), Path(drive_folder).expanduser()
    if in_colab() and not folder.is_absolute():
        folder = files.DRIVE / folder
    if _on_drive(folder) and not files.DRIVE.is_dir():
        raise UserError(f"{folder} is on Google Drive, which is not mounted: call dino_nb.colab.mount_drive() first.")
    _require(source)
    problems = []
    copier = Copier(folder, report=print if background else problems.append)
    for file in [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file()):
        copier.put(file, file.relative_to(source.parent).as_posix())
    if background:
        return copier
    if not copier.wait():
        raise UserError(f"{source} was not copied whole: {problems[-1]}")
    return folder / source.name


def _copy_all(copies, what):
    from tqdm.auto import tqdm

    total = sum(stat.st_size for _, _, stat in copies)
    with tqdm(total=total, desc=what, unit="B", unit_scale=True) as bar, ThreadPoolExecutor(_COPIES) as pool:
        for size in pool.map(_copy, copies):
            bar.update(size)


def _copy(copy):
    source, local, stat = copy
    if not _is_copy(local, stat):
        with files.atomic_path(local) as temporary:
            shutil.copyfile(source, temporary)
            os.utime(temporary, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    return stat.st_size


def _is_copy(local, stat):
    if not local.is_file():
        return False
    have = local.stat()
    return (have.st_size, int(have.st_mtime)) == (stat.st_size, int(stat.st_mtime))


def _on_drive(path):
    return path.absolute().is_relative_to(files.DRIVE.parent)


def _require(path):
    if path.exists():
        return
    if _on_drive(path) and not files.DRIVE.is_dir():
        raise UserError(f"{path} is on Google Drive, which is not mounted: call dino_nb.colab.mount_drive() first.")
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(f"there is no {path}.{did_you_mean(path.name, beside)}")


def _versions():
    version = importlib.metadata.version
    return f"{__version__}, torch {version('torch')}, timm {version('timm')}, Python {platform.python_version()}"


def _session():
    if in_colab():
        return "Colab"
    if in_kaggle():
        return "Kaggle"
    return f"{'Jupyter' if 'ipykernel' in sys.modules else 'Python'} on {platform.system()} {platform.machine()}"


def _device():
    import torch

    if not torch.cuda.is_available():
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        hint = " (no GPU: choose one under Runtime > Change runtime type)" if in_colab() else ", no GPU"
        return f"CPU, {cores} cores, {memory / 1e9:.1f} GB of memory{hint}"
    told = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        capability = "{}.{}".format(*torch.cuda.get_device_capability(index))
        name = torch.cuda.get_device_name(index)
        told.append(f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, compute capability {capability}")
    return "; ".join(told)


def _precision():
    import torch

    from dino_nb.training import precision

    best = precision.choose("cuda" if torch.cuda.is_available() else "cpu")
    return f"{best} for training; bfloat16 is {'native' if best == 'bf16' else 'not native'} here"


def _op():
    from dino_nb import ops

    return "; ".join(f"{place}: {state}" for place, state in ops.status().items())


def _space(folder):
    return f"{folder}, {shutil.disk_usage(folder).free / 1e9:.1f} GB free"


def _drive():
    if files.DRIVE.is_dir():
        return f"mounted at {files.DRIVE}"
    return "not mounted: dino_nb.colab.mount_drive()" if in_colab() else "none, this is not Colab"
