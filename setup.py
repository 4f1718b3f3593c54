"""Installs the package; metadata is in pyproject.toml. The op's sources travel inside it, to be built in session.

``DINO_NB_BUILD_OPS=1 pip install .`` compiles the op ahead of time as well: for every x86-64 instruction set (the
right one is chosen when it is loaded) and, if nvcc is there, for the GPUs of this machine or those that
``DINO_NB_CUDA_ARCHS`` names ("sm_75 sm_90"). Torch has to be installed first: its headers are needed.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
AHEAD_OF_TIME = os.environ.get("DINO_NB_BUILD_OPS", "0") not in ("", "0")


def _toolchain():
    """dino_nb.ops.toolchain, without importing the package (an isolated build has no torch)."""
    spec = importlib.util.spec_from_file_location("dino_nb_toolchain", ROOT / "dino_nb" / "ops" / "toolchain.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _torch_root():
    """The folder of the installed torch, which an isolated build can see but not import."""
    for key in ("platlib", "purelib"):
        folder = Path(sysconfig.get_paths()[key]) / "torch"
        if (folder / "include" / "torch" / "csrc" / "stable").is_dir():
            return folder
    sys.exit("DINO_NB_BUILD_OPS=1 needs torch 2.10 or newer in this environment: pip install torch, then try again.")


def _targets(toolchain, torch_root):
    """Every library that is worth building here."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        yield from (toolchain.cpu_target(capability) for capability in toolchain.X86)
    else:
        yield toolchain.cpu_target("DEFAULT")
    version = re.search(r"^cuda.*'([\d.]+)'", (torch_root / "version.py").read_text(), re.MULTILINE)
    for arch in toolchain.wanted_archs() or _cuda_archs() if version else []:
        yield toolchain.Target("cuda", arch, int(version[1].split(".")[0]))


def _cuda_archs():
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True).stdout.split()
    return sorted({"sm_" + capability.replace(".", "") for capability in told if re.fullmatch(r"\d+\.\d+", capability)})


class BuildWithOps(build_py):
    """Copies the sources into the package; compiles them if asked to."""

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False):
            return  # a checkout has its sources beside it, and builds on first use
        package = Path(self.build_lib) / "dino_nb"
        shutil.copytree(ROOT / "csrc", package / "csrc", dirs_exist_ok=True)
        if AHEAD_OF_TIME:
            self._compile(package / "ops" / "prebuilt")

    def _compile(self, folder):
        toolchain, torch_root = _toolchain(), _torch_root()
        folder.mkdir(parents=True, exist_ok=True)
        for target in _targets(toolchain, torch_root):
            library = folder / target.file_name()
            print(f"building the attention op for {target}", flush=True)
            try:
                toolchain.compile_library(target, library, torch_root)
            except toolchain.BuildError as error:
                if target.device == "cpu":
                    sys.exit(f"The attention op cannot be built: {error}")
                print(f"not built, will be tried again in session: {error}", file=sys.stderr)
                continue
            toolchain.checksum_file(library).write_text(toolchain.checksum(library) + "\n")


class PlatformDistribution(Distribution):
    def has_ext_modules(self):
        """Whether the wheel is for one platform: with compiled libraries in it, it is."""
        return AHEAD_OF_TIME


setup(license="Apache-2.0", cmdclass={"build_py": BuildWithOps}, distclass=PlatformDistribution)
