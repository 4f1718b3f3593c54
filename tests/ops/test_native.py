"""Building, keeping, loading and doing without the native op, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dino_nb.errors import UserError
from dino_nb.ops import native as session
from dino_nb.ops import toolchain

ROOT = Path(__file__).parents[2]
USE = """
import torch
from dino_nb import ops
middle = torch.full((1, 1, 1, 1, 1, 2), 0.5)
out = ops.ms_deform_attn(torch.ones(1, 6, 1, 2), [(2, 3)], middle, torch.ones(1, 1, 1, 1, 1))
print("RESULT", out.flatten().tolist(), ops.status()["cpu"].split(":")[0])
"""


def _environment(home, **extra):
    return {**os.environ, "DINO_NB_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **extra}


def _run(home, code=USE, **extra):
    command = [sys.executable, "-W", "always", "-c", code]
    return subprocess.run(command, env=_environment(home, **extra), capture_output=True, text=True, timeout=300)


def _counting_compiler(folder):
    """A compiler that notes each start in a file, and that file."""
    folder.mkdir(parents=True, exist_ok=True)
    script, starts = folder / "c++", folder / "starts"
    script.write_text(f'#!/bin/sh\necho start >> "{starts}"\nexec "{toolchain.find_cxx()}" "$@"\n')
    script.chmod(0o755)
    return str(script), starts


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A home with the library that several processes built at once, and how often a compiler started."""
    home = tmp_path_factory.mktemp("home")
    compiler, starts = _counting_compiler(home / "bin")
    environment = _environment(home, CXX=compiler)
    command = [sys.executable, "-c", USE]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    return home, compiler, starts, [process.communicate(timeout=300)[0] for process in running]


def test_processes_that_start_together_build_once(built):
    home, _, starts, outputs = built
    assert all("RESULT [1.0, 1.0] native" in output for output in outputs)
    assert starts.read_text().count("start") == 1
    names = sorted(path.name for path in (home / "ops").iterdir())
    assert [Path(name).suffix for name in names] == [".lock", ".sha256", ".so"]


def test_second_session_starts_no_compiler(built):
    home, compiler, starts, _ = built
    before = starts.read_text()
    done = _run(home, CXX=compiler, PATH="/nonexistent")
    assert "RESULT [1.0, 1.0] native" in done.stdout, done.stderr
    assert "built" not in done.stdout and starts.read_text() == before


def test_cut_short_library_is_built_again(built):
    home, compiler, starts, _ = built
    (library,) = (home / "ops").glob("*.so")
    whole, before = library.read_bytes(), starts.read_text().count("start")
    cut = library.with_suffix(".cut")
    cut.write_bytes(whole[: len(whole) // 2])
    cut.replace(library)
    assert "RESULT [1.0, 1.0] native" in _run(home, CXX=compiler).stdout
    assert library.stat().st_size > len(whole) // 2
    assert starts.read_text().count("start") == before + 1


def test_build_says_what_where_and_how_long(built):
    home, compiler, _, _ = built
    done = _run(home, "from dino_nb import ops\nops.build()\nops.build()", CXX=compiler)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(str(home) in line and "cpu (" in line for line in lines), done.stdout + done.stderr
    assert "loaded from the cache in" in lines[0]


def _command(home, *arguments, **extra):
    command = [sys.executable, "-m", "dino_nb", *arguments]
    return subprocess.run(command, env=_environment(home, **extra), capture_output=True, text=True, timeout=300)


def test_build_ops_command(built, tmp_path):
    home, compiler, starts, _ = built
    done = _command(home, "build-ops", CXX=compiler)
    assert done.returncode == 0 and "loaded from the cache" in done.stdout, done.stderr
    before = starts.read_text().count("start")
    forced = _command(home, "build-ops", "--force", CXX=compiler)
    assert "built in" in forced.stdout and starts.read_text().count("start") == before + 1
    without = _command(tmp_path, "build-ops", CXX="", PATH="/nonexistent")
    assert without.returncode == 1 and "no C++ compiler" in without.stdout + without.stderr
    status = _command(tmp_path, "build-ops", "--status")
    assert status.returncode == 0 and "cpu: not used yet" in status.stdout


def test_without_a_compiler(tmp_path):
    """One warning, PyTorch's results, and a status that says why."""
    code = USE + USE + "print(ops.status())"
    done = _run(tmp_path, code, CXX="", PATH="/nonexistent")
    assert done.stdout.count("RESULT [1.0, 1.0] PyTorch") == 2, done.stderr
    assert done.stderr.count("no C++ compiler") == 1
    assert "no C++ compiler" in done.stdout


def test_failing_compiler_shows_its_last_lines(tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'first line' >&2\necho 'fatal: the moon is full' >&2\nexit 3\n")
    compiler.chmod(0o755)
    done = _run(tmp_path, CXX=str(compiler))
    assert "RESULT [1.0, 1.0] PyTorch" in done.stdout
    assert "the moon is full" in done.stderr
    assert not list(tmp_path.glob("ops/*.so"))
    strict = _run(tmp_path, CXX=str(compiler), DINO_NB_OPS="native")
    assert strict.returncode and "UserError" in strict.stderr and "the moon is full" in strict.stderr


def test_wrong_library_is_refused(built):
    """What computes something else does not pass the check at load."""
    home, compiler, _, _ = built
    code = "import dino_nb.ops.native as n\nn._self_check = lambda device: n._differ()\n" + USE
    code = code.replace("n._differ()", "(_ for _ in ()).throw(n.BuildError('its results differ'))")
    done = _run(home, code, CXX=compiler)
    assert "RESULT [1.0, 1.0] PyTorch" in done.stdout and "its results differ" in done.stderr


def test_importing_compiles_nothing(tmp_path):
    done = _run(
        tmp_path, "from dino_nb import ops; print(ops.status()['cpu'])", CXX="/nonexistent", PATH="/nonexistent"
    )
    assert "on first use" in done.stdout and not done.stderr
    assert not (tmp_path / "ops").exists()


def test_torch_mode(tmp_path):
    done = _run(tmp_path, "from dino_nb import ops; ops.build()\n" + USE, DINO_NB_OPS="torch", CXX="/nonexistent")
    assert "nothing to build" in done.stdout and "RESULT [1.0, 1.0] PyTorch" in done.stdout
    assert not (tmp_path / "ops").exists() and not done.stderr


def test_unknown_mode(monkeypatch):
    monkeypatch.setenv("DINO_NB_OPS", "natve")
    with pytest.raises(UserError, match="'native'"):
        session.mode()


def test_library_name_holds_all_that_matters(monkeypatch):
    names = {
        toolchain.Target("cpu", "avx2").file_name(),
        toolchain.Target("cpu", "avx512").file_name(),
        toolchain.Target("cuda", "sm_75", 12).file_name(),
        toolchain.Target("cuda", "sm_75", 13).file_name(),
        toolchain.Target("cuda", "sm_90", 13).file_name(),
    }
    monkeypatch.setattr(toolchain.platform, "libc_ver", lambda: ("other", "1"))
    names.add(toolchain.Target("cpu", "avx2").file_name())
    monkeypatch.setattr(toolchain, "STABLE_ABI", "-DOTHER")
    names.add(toolchain.Target("cpu", "avx2").file_name())
    assert len(names) == 7


def test_targets():
    assert toolchain.cuda_target([(7, 5)], "12.8") == toolchain.Target("cuda", "sm_75", 12)
    if toolchain.platform.machine() == "x86_64":
        assert toolchain.cpu_target("AVX512").arch == "avx512"
        assert toolchain.cpu_target("AVX2").arch == "avx2"
        assert toolchain.cpu_target("DEFAULT").flags == toolchain.Target("cpu", "baseline").flags


def test_target_of_several_gpus_covers_all_of_them_and_later_ones():
    target = toolchain.cuda_target([(9, 0), (7, 5), (9, 0), (6, 1)], "12.8")
    assert target.arch == "sm_75+sm_90"
    code = [flag for flag in target.flags if flag.startswith("-gencode")]
    assert [flag.rpartition("code=")[2] for flag in code] == ["sm_75", "sm_90", "compute_75"]


def test_target_of_an_old_gpu_is_refused_before_compiling(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(toolchain, "compile_library", lambda *_: pytest.fail("compiled"))
    assert "7.0 or newer, found: 6.1" in str(session._attempt("cuda", force=False))


def test_target_on_rocm_is_refused(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built for ROCm" in str(session._attempt("cuda", force=False))


def test_target_of_the_cpu_does_not_ask_for_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("CUDA was initialised"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: pytest.fail("CUDA was initialised"))
    assert session.target_of("cpu").device == "cpu"


def test_self_check_passes_where_determinism_is_asked_for(built):
    home, compiler, _, _ = built
    code = "import torch\ntorch.use_deterministic_algorithms(True)\n" + USE
    assert "RESULT [1.0, 1.0] native" in _run(home, code, CXX=compiler).stdout


def test_cuda_of_another_major_is_explained(tmp_path, monkeypatch):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 11.8, V11.8.89'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert toolchain.find_nvcc(11) == str(nvcc)
    with pytest.raises(toolchain.BuildError, match=r"CUDA 99.*11\.8"):
        toolchain.find_nvcc(99)


def test_cuda_source_compiles_for_turing_and_hopper(tmp_path):
    """Without a GPU this is the compiler's word alone; the kernels' logic is tested in test_cuda_emulated.py."""
    try:
        major = int(
            subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout.split("release ")[1][:2]
        )
    except (FileNotFoundError, IndexError):
        pytest.skip("no nvcc")
    both = toolchain.Target("cuda", "sm_75+sm_90", major)
    out = tmp_path / "kernels.so"
    command = [toolchain.find_nvcc(major), "-shared", "-Xcompiler", "-fPIC", *both.flags]
    command += [f"-I{Path(torch.__file__).parent / 'include'}", str(both.sources[0]), "-o", str(out)]
    subprocess.run(command, check=True)
    assert out.stat().st_size > 100_000


def test_narrower_instruction_sets_compute_the_same(built):
    """The libraries for AVX2 and for any x86-64, which a machine with AVX-512 runs as well."""
    if toolchain.platform.machine() != "x86_64":
        pytest.skip("another processor")
    code = """
import torch
from dino_nb import ops
from tests.ops.cases import SHAPES, make
for d in (7, 32):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        args = [x.requires_grad_() for x in make(d=d, dtype=dtype)]
        out = ops.ms_deform_attn_fused(args[0], SHAPES, args[1].detach(), *args[2:])
        grads = torch.autograd.grad(out.sum(), [args[0], *args[2:]])
        print("SUMS", *[round(x.double().abs().sum().item(), 1) for x in (out, *grads)])
print("ARCH", ops.status()["cpu"])
"""
    home, compiler, _, _ = built
    outputs = {}
    for capability in ("default", "avx2"):
        done = _run(home, code, CXX=compiler, ATEN_CPU_CAPABILITY=capability)
        assert "ARCH native" in done.stdout, done.stdout + done.stderr
        outputs[capability] = [line for line in done.stdout.splitlines() if line.startswith("SUMS")]
    assert "baseline" in _run(home, code, CXX=compiler, ATEN_CPU_CAPABILITY="default").stdout
    for a, b in zip(outputs["default"], outputs["avx2"]):
        numbers = zip(a.split()[1:], b.split()[1:])
        assert all(abs(float(x) - float(y)) <= 2e-3 * float(y) for x, y in numbers), (a, b)
