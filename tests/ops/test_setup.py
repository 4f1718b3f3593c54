"""What ``setup.py`` puts into a wheel."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
USE = "from dino_nb import ops; ops.build(); from dino_nb.ops import toolchain; print(toolchain.csrc())"


def _build(folder, **extra):
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder), "build_py"]
    environment = {**os.environ, **extra}
    subprocess.run([*command, "--build-lib", str(folder / "lib")], cwd=ROOT, env=environment, check=True)
    return folder / "lib"


def test_ahead_of_time_build(tmp_path):
    """A package with compiled libraries works without a compiler, and still has the sources."""
    lib = _build(tmp_path, DINO_NB_BUILD_OPS="1")
    home = tmp_path / "home"
    extra = {"PYTHONPATH": str(lib), "DINO_NB_HOME": str(home), "CXX": "", "PATH": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", USE],
        env={**os.environ, **extra},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(lib / "dino_nb" / "ops" / "prebuilt") in done.stdout, done.stdout + done.stderr
    assert str(lib / "dino_nb" / "csrc") in done.stdout
    assert not (home / "ops").exists()


def test_plain_build_carries_the_sources(tmp_path):
    package = _build(tmp_path, DINO_NB_BUILD_OPS="0") / "dino_nb"
    sources = sorted(path.name for path in (package / "csrc").iterdir())
    assert sources == [
        "ms_deform_attn.h",
        *(f"ms_deform_attn_{x}" for x in ("cpu.cpp", "cuda.cu", "fast.cuh", "sort.cuh")),
    ]
    assert not (package / "ops" / "prebuilt").exists()
