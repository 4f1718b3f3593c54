"""Build the native op for this machine, keep it, and load it into the running interpreter.

``DINO_NB_OPS`` chooses: ``auto`` (the default: native where it can be built, else PyTorch, with one warning),
``native`` (an error where it cannot be built) or ``torch`` (never native).

A built library is kept in ``$DINO_NB_HOME/ops`` under a name that holds a hash of all that it depends on. Beside it
lies the SHA-256 of its bytes, written last: a library that is cut short, or is for another machine, is never loaded.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from filelock import FileLock

from dino_nb import files
from dino_nb.errors import UserError, did_you_mean
from dino_nb.ops import reference, toolchain
from dino_nb.ops.toolchain import BuildError, Target

MODES = ("auto", "native", "torch")
PREBUILT = Path(__file__).parent / "prebuilt"  # libraries that came with a wheel

_lock = threading.RLock()
_loaded: dict[str, str] = {}  # device -> sentence about the library in use
registered: set[str] = set()  # devices whose kernels PyTorch knows, checked or still to be checked
_failed: dict[str, str] = {}  # device -> why there is none


def mode() -> str:
    """The value of ``DINO_NB_OPS``: "auto", "native" or "torch"."""
    chosen = os.environ.get("DINO_NB_OPS", "auto").lower()
    if chosen not in MODES:
        raise UserError(f"DINO_NB_OPS is {chosen!r}: use one of {', '.join(MODES)}.{did_you_mean(chosen, MODES)}")
    return chosen


@torch.compiler.assume_constant_result
def is_native(device: str) -> bool:
    """Whether calls on ``device`` ("cpu", "cuda", ...) go to the native op, which is built now if it has to be."""
    if device not in ("cpu", "cuda") or mode() == "torch":
        return False
    if device not in _loaded and (device not in _failed or mode() == "native"):
        with _lock:
            if device not in _loaded:  # another thread was faster
                _take(device, _attempt(device, force=False), quiet=True)
    return device in _loaded


def build(force: bool = False) -> dict[str, str]:
    """Build (or find in the cache) and load the native op for the CPU and, if there is one, the GPU.

    Prints one line a device: what was done, for which architecture, in how many seconds, and the file.

    Args:
        force: compile even if the cache holds the library.

    Returns:
        The same as :func:`status`.
    """
    if mode() == "torch":
        print("dino_nb.ops: DINO_NB_OPS=torch, nothing to build")
        return status()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    with _lock:
        if force or any(device not in _loaded for device in devices):
            with ThreadPoolExecutor() as pool:  # compilers run side by side; loading is one after the other
                found = list(pool.map(lambda device: _attempt(device, force), devices))
            for device, result in zip(devices, found):
                _take(device, result)
        for device in devices:
            if device in _loaded:
                print(f"dino_nb.ops: {_loaded[device]}")
    return status()


def status() -> dict[str, str]:
    """What is in use and why: a dict of sentences with the keys "mode", "cpu" and "cuda"."""
    result = {"mode": mode()}
    for device in ("cpu", "cuda"):
        if mode() == "torch":
            result[device] = "PyTorch: DINO_NB_OPS=torch"
        elif device in _loaded:
            result[device] = f"native: {_loaded[device]}"
        elif device in _failed:
            result[device] = f"PyTorch: {_failed[device]}"
        elif device == "cuda" and not torch.cuda.is_available():
            result[device] = "no CUDA device"
        else:
            result[device] = "not used yet: the native op is built (or found in the cache) on first use"
    return result


def target_of(device: str) -> Target:
    """The library that this machine needs for ``device``, "cpu" or "cuda".

    For "cuda": of the architectures of all its GPUs, or of those that ``DINO_NB_CUDA_ARCHS`` names.

    Raises:
        BuildError: the GPU has no kernels here.
    """
    if device == "cpu":
        return toolchain.cpu_target(torch.backends.cpu.get_cpu_capability())
    if torch.version.cuda is None:
        raise BuildError("this torch is built for ROCm or without GPUs, and the kernels are for CUDA")
    if archs := toolchain.wanted_archs():
        return Target("cuda", "+".join(archs), int(torch.version.cuda.split(".")[0]))
    gpus = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    return toolchain.cuda_target(gpus, torch.version.cuda)


def _attempt(device: str, force: bool) -> tuple[Target, Path, float | None] | Exception:
    """The (target, path, seconds or None if cached) of a device, or the BuildError that stands in the way."""
    try:
        return _find_or_compile(target_of(device), force)
    except (BuildError, OSError) as error:
        return error


def _take(device: str, result: tuple[Target, Path, float | None] | Exception, quiet: bool = False) -> None:
    """Load what :func:`_attempt` found, and remember it or the reason why not."""
    try:
        if isinstance(result, Exception):
            raise result
        target, path, seconds = result
        if device not in _loaded:
            start = time.perf_counter()
            _load(path)
            registered.add(device)
            _self_check(device)
            loading = time.perf_counter() - start
        else:
            loading = 0.0
        how = f"loaded from the cache in {loading:.2f} s" if seconds is None else f"built in {seconds:.1f} s"
        _loaded[device] = f"{toolchain.NAME} for {target} {how}: {path}"
        _failed.pop(device, None)
        if quiet and seconds is not None:
            print(f"dino_nb.ops: {_loaded[device]}")
    except (BuildError, OSError, RuntimeError) as error:
        first_time = device not in _failed
        _failed[device] = str(error)
        text = f"The native attention op is not available on {device}: {error}"
        if mode() == "native":
            raise UserError(f"{text}\nDINO_NB_OPS=native forbids the PyTorch path.") from error
        if first_time:
            warnings.warn(f"{text}\nThe slower PyTorch path gives the same results.", stacklevel=2)


def _find_or_compile(target: Target, force: bool) -> tuple[Target, Path, float | None]:
    name = target.file_name()
    if not force and _intact(PREBUILT / name):
        return target, PREBUILT / name, None
    path = files.home_dir() / "ops" / name
    if not force and _intact(path):
        return target, path, None
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    with contextlib.suppress(OSError, NotImplementedError):  # a mounted Drive has no locks; renaming is atomic anyway
        lock.acquire()
    try:
        if not force and _intact(path):  # another process was faster
            return target, path, None
        start = time.perf_counter()
        compile_to(target, path, Path(torch.__file__).parent)
        return target, path, time.perf_counter() - start
    finally:
        lock.release()


def compile_to(target: Target, path: Path, torch_root: Path) -> None:
    """Compile ``target`` and put the library at ``path`` with its checksum, atomically."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / path.name
        toolchain.compile_library(target, library, torch_root)
        with files.atomic_path(path) as temporary:
            shutil.copyfile(library, temporary)
        files.write_text(toolchain.checksum_file(path), toolchain.checksum(library) + "\n")


def _intact(path: Path) -> bool:
    """Whether ``path`` is a library all of whose bytes are there."""
    try:
        return toolchain.checksum_file(path).read_text().strip() == toolchain.checksum(path)
    except (OSError, UnicodeDecodeError):
        return False


def _load(path: Path) -> None:
    """Load a library into this process, which registers its kernels."""
    try:
        torch.ops.load_library(str(path))
    except OSError:  # a mounted Drive may not let its files be executed
        with tempfile.TemporaryDirectory() as folder:
            torch.ops.load_library(shutil.copy(path, folder))


@torch.inference_mode(False)  # the first use is often inside a prediction, where gradients cannot be switched on
def _self_check(device: str) -> None:
    """Compare forward and backward with the PyTorch reference on a tiny input.

    The reference runs on the CPU: on CUDA ``grid_sample`` has no deterministic backward, and raises where one is asked
    for.

    Raises:
        BuildError: they differ.
    """
    generator = torch.Generator().manual_seed(0)
    value, offsets, logits, grad, points = (
        torch.rand(shape, generator=generator)
        for shape in [(1, 26, 2, 8), (1, 3, 2, 2, 2, 2), (1, 3, 2, 2, 2), (1, 3, 16), (1, 3, 2, 2)]
    )

    def run(function: Callable, shapes: list, where: str) -> list[torch.Tensor]:
        inputs = [x.detach().to(where).requires_grad_() for x in (value, offsets, logits)]
        out = function(inputs[0], shapes, points.to(where), *inputs[1:])
        return [x.cpu() for x in (out, *torch.autograd.grad(out, inputs, grad.to(where)))]

    # Hooks of its own for saved tensors: the first use may be within a gradient checkpoint, whose hooks count them.
    plain = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
    with torch.enable_grad(), torch.autocast(device, enabled=False), torch.autocast("cpu", enabled=False), plain:
        wanted = run(reference.ms_deform_attn_fused, [(4, 5), (2, 3)], "cpu")
        got = run(torch.ops.dino_nb.ms_deform_attn_fused, [4, 5, 2, 3], device)
    for a, b in zip(got, wanted):
        if not torch.allclose(a, b, rtol=1e-3, atol=1e-4):
            raise BuildError("it was built, but its results differ from PyTorch's by up to " + str((a - b).abs().max()))
