"""The plumbing of ``run.sh``, with stand-ins for the GPU's driver and for Python."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "run.sh"
STEPS = ["environment", "build", "tests", "bench", "train", "infer", "sanitize", "ptx"]


@pytest.fixture
def machine(tmp_path):
    """Runs the script on a machine whose Python prints what it is asked to do, and fails in the step "train"."""
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    python = stand_ins / "python"
    scripts = {
        "python": '#!/bin/sh\necho "python $* home=$DINO_NB_HOME archs=${DINO_NB_CUDA_ARCHS:-}"\n'
        'case "$*" in *train_step*) head -c 50000 /dev/zero | tr "\\0" x; exit 3;; esac\n'
        'case "$*" in *"import transformers"*) exit 1;; esac\n',
        "nvidia-smi": "#!/bin/sh\necho 'Stub GPU, 1.0, 9.0, 80000 MiB'\n",
        "nvcc": "#!/bin/sh\necho 'release 13.0'\n",
        "compute-sanitizer": '#!/bin/sh\necho "sanitizer $*"\n',
    }
    for name, text in scripts.items():
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(0o755)
    out = tmp_path / "out"
    out.mkdir()
    environment = {**os.environ, "PATH": f"{stand_ins}:{os.environ['PATH']}", "OUT": str(out), "PYTHON": str(python)}

    def run(*arguments, **extra):
        command = ["bash", str(SCRIPT), *arguments]
        done = subprocess.run(command, env={**environment, **extra}, capture_output=True, text=True, timeout=120)
        return done, sorted(path.stem for path in out.iterdir()), out

    return run


def test_run_does_every_step_though_one_fails(machine):
    done, files, out = machine()
    assert done.returncode == 1 and files == sorted(STEPS), done.stderr
    heads = [line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("== ")]
    assert [name for name, _ in heads] == STEPS, "in this order"
    assert [name for name, result in heads if result == "FAILED"] == ["train"]
    assert len(done.stdout) < 12_000 and (out / "train.txt").stat().st_size > 50_000
    assert "archs=sm_75" in (out / "ptx.txt").read_text() and "racecheck" in (out / "sanitize.txt").read_text()
    assert "--graph" in (out / "bench.txt").read_text()
    assert str(out) not in (out / "build.txt").read_text(), "what is built is kept out of the results"


def test_run_does_the_steps_that_are_named(machine):
    done, files, _ = machine("build", "bench")
    assert done.returncode == 0 and files == ["bench", "build"]
    assert machine("--steps")[0].stdout.split() == STEPS
    wrong = machine("benhc")[0]
    assert wrong.returncode == 2 and "no step benhc" in wrong.stderr


def test_run_installs_peers_from_sdists(machine, tmp_path):
    peers = tmp_path / "peers"
    peers.mkdir()
    (peers / "transformers-5.0.tar.gz").write_text("")
    done, _, _ = machine("-p", str(peers), "build")
    assert "installed: transformers-5.0.tar.gz" in done.stdout
    assert "left out: transformers" in machine("build")[0].stdout


def test_run_without_a_gpu_says_so(machine, tmp_path):
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    done, files, _ = machine()
    assert done.returncode == 1 and "no GPU here" in done.stdout and files == []
