"""What to compile for which machine, and with which command. Standard library only: ``setup.py`` uses it too."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

NAME = "ms_deform_attn"
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")
X86 = {"AVX512": ("avx512", AVX512), "AVX2": ("avx2", AVX2), "DEFAULT": ("baseline", ())}  # keys: torch's words
# 2.10 is the first version whose stable C++ interface has all that is used here; a library built so runs on any later
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"


class BuildError(RuntimeError):
    """The op cannot be built here; the text says why, for the person at the keyboard."""


@dataclass(frozen=True)
class Target:
    """One library to build.

    Attributes:
        device: "cpu" or "cuda".
        arch: an instruction set, or GPU architectures: "sm_75", "sm_75+sm_90".
        cuda_major: torch's CUDA, of a library for CUDA.
    """

    device: str
    arch: str
    cuda_major: int | None = None

    def __str__(self) -> str:
        return f"{self.device} ({self.arch})"

    @property
    def flags(self) -> list[str]:
        """What the compiler is told, but for files."""
        if self.device == "cuda":
            numbers = [arch.removeprefix("sm_") for arch in self.arch.split("+")]
            code = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
            # and PTX, from which the driver makes code for any later GPU
            code.append(f"-gencode=arch=compute_{numbers[0]},code=compute_{numbers[0]}")
            return ["-std=c++17", "-O3", "-DUSE_CUDA", STABLE_ABI, *code]
        isa = dict(X86.values()).get(self.arch, ())
        # neither errno nor floating-point traps are ever looked at; without them floor() and selects vectorise
        return ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", STABLE_ABI, *isa]

    @property
    def sources(self) -> list[Path]:
        """The source to compile first, then what it includes."""
        own = ["_cuda.cu", "_fast.cuh", "_sort.cuh"] if self.device == "cuda" else ["_cpu.cpp"]
        return [csrc() / f"{NAME}{end}" for end in (*own, ".h")]

    def file_name(self) -> str:
        """Name of the library: everything that its content depends on is in its hash."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(source.read_bytes())
        digest.update(
            repr((self.flags, self.cuda_major, sys.platform, platform.machine(), platform.libc_ver())).encode()
        )
        return f"{NAME}-{self.device}-{self.arch}-{digest.hexdigest()[:16]}.so"


def csrc() -> Path:
    """The folder of the sources: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "csrc" if (package / "csrc").is_dir() else package.parent / "csrc"


def cpu_target(capability: str) -> Target:
    """The target for a CPU that torch describes as ``capability`` (``torch.backends.cpu.get_cpu_capability()``)."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return Target("cpu", platform.machine())
    return Target("cpu", X86.get(capability, X86["DEFAULT"])[0])


def cuda_target(capabilities: list[tuple[int, int]], cuda_version: str) -> Target:
    """The target for GPUs of these compute ``capabilities`` under a torch built with ``cuda_version``.

    Raises:
        BuildError: they are too old.
    """
    new = sorted({capability for capability in capabilities if capability >= (7, 0)})
    if not new:
        had = ", ".join(f"{major}.{minor}" for major, minor in capabilities)
        raise BuildError(f"the kernels need a GPU of compute capability 7.0 or newer, found: {had or 'none'}")
    arch = "+".join(f"sm_{major}{minor}" for major, minor in new)
    return Target("cuda", arch, int(cuda_version.split(".")[0]))


def wanted_archs() -> list[str]:
    """The architectures in ``$DINO_NB_CUDA_ARCHS`` ("sm_75 sm_90"), oldest first; none if it is not set."""
    named = re.split(r"[ ,;]+", os.environ.get("DINO_NB_CUDA_ARCHS", "").strip())
    return sorted((arch for arch in named if arch), key=lambda arch: int(re.sub(r"\D", "", arch) or 0))


def find_cxx() -> str:
    """Path of the C++ compiler: ``$CXX``, or the first of c++, g++, clang++."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if path := shutil.which(name):
            return path
    raise BuildError("there is no C++ compiler: neither $CXX nor c++, g++ or clang++ on the PATH")


def find_nvcc(cuda_major: int | None) -> str:
    """Path of an nvcc whose major version is ``cuda_major``: in ``$CUDA_HOME``, on the PATH, in /usr/local/cuda."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [Path(home) / "bin" / "nvcc" for home in homes if home]
    if on_path := shutil.which("nvcc"):
        candidates.append(Path(on_path))
    candidates += [Path("/usr/local/cuda/bin/nvcc"), Path(f"/usr/local/cuda-{cuda_major}/bin/nvcc")]
    found = []
    for nvcc in candidates:
        if not nvcc.is_file():
            continue
        version = re.search(
            r"release (\d+)\.(\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        )
        if version and int(version[1]) == cuda_major:
            return str(nvcc)
        found.append(f"{nvcc} is of CUDA {version[1]}.{version[2]}" if version else f"{nvcc} does not run")
    if found:
        raise BuildError(
            f"torch is built for CUDA {cuda_major}, but {'; '.join(found)}. Install the CUDA toolkit {cuda_major}.x "
            "(any minor version) and set CUDA_HOME to it"
        )
    raise BuildError("there is no nvcc: neither in $CUDA_HOME nor on the PATH nor in /usr/local/cuda")


def compile_library(target: Target, out: Path, torch_root: str | Path) -> None:
    """Compile ``target`` to the file ``out`` against the torch in the folder ``torch_root``.

    Raises:
        BuildError: no compiler, the wrong one, or one that failed (with its last lines).
    """
    include, lib = Path(torch_root) / "include", Path(torch_root) / "lib"
    link = [f"-I{include}", str(target.sources[0]), "-o", str(out), f"-L{lib}", "-ltorch_cpu", "-lc10"]
    if target.device == "cuda":
        host = ["-ccbin", os.environ["CXX"]] if os.environ.get("CXX") else []
        command = [find_nvcc(target.cuda_major), *host, "-shared", "-Xcompiler", "-fPIC", "-cudart", "shared"]
        command += [*target.flags, *link, "-ltorch_cuda"]
    else:
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        command = [find_cxx(), "-shared", "-fPIC", *undefined, *target.flags, *link]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise BuildError(f"{Path(command[0]).name} failed for {target}:\n{tail}")


def checksum(library: str | Path) -> str:
    """Hex SHA-256 of a library's bytes."""
    return hashlib.sha256(Path(library).read_bytes()).hexdigest()


def checksum_file(library: str | Path) -> Path:
    """Where the checksum of a library is kept; written last, so that a library without one is not whole."""
    return Path(library).with_suffix(".sha256")
