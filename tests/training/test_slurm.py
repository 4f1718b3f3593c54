"""Jobs through submitit, by its executor for this machine."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import submitit
from submitit.slurm.slurm import SlurmExecutor

from dino_nb.errors import UserError
from dino_nb.training import slurm


@pytest.fixture
def worker(monkeypatch):
    """The module whose functions are submitted, importable here and in the job."""
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, str(Path(here).parents[1])]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    import slurm_worker

    return slurm_worker


def options(*words, **more):
    parser = argparse.ArgumentParser()
    slurm.add_arguments(parser)
    parser.add_argument("--resume")
    return argparse.Namespace(**vars(parser.parse_args(["--slurm", *words])), **more)


def wait_for(paths, seconds=60):
    end = time.monotonic() + seconds
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, f"no {paths}"
        time.sleep(0.05)


def test_a_job_whose_time_is_up_saves_is_requeued_and_resumes(worker, tmp_path, capsys):
    job = slurm.submit(worker.run, options("--cluster=local", "--gpus=2", folder=str(tmp_path)), tmp_path)
    pids = [tmp_path / "pid0", tmp_path / "pid1"]
    wait_for(pids)
    for path in pids:
        os.kill(int(path.read_text()), signal.SIGUSR2)
    wait_for([tmp_path / "finished0", tmp_path / "finished1"])
    job.wait()
    log = job.stdout()
    assert "Requeued job" in log and "Job completed successfully" in log, log
    assert job.exception() is None
    assert str(tmp_path / "slurm" / job.job_id) in capsys.readouterr().out


def test_a_command_that_fails_fails_its_job(worker, tmp_path):
    job = slurm.submit(worker.fail, options("--cluster=local", "--gpus=1"), tmp_path)
    job.wait()
    assert "exit code 1" in str(job.exception())


def test_what_is_asked_of_slurm(tmp_path, monkeypatch):
    """Without a Slurm here: the batch script that would be submitted."""
    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    scripts = []

    def submit(self, function):
        scripts.append(self._executor._make_submission_file_text("COMMAND", "uid"))
        return argparse.Namespace(job_id="7", paths=argparse.Namespace(stdout="out"))

    monkeypatch.setattr(submitit.AutoExecutor, "submit", submit)
    slurm.submit(print, options("--nodes=2", "--gpus=8", "--partition=long", "--hours=1.5"), tmp_path)
    for line in (
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--time=90",
        "--partition=long",
        "--signal=USR2@180",
        "--kill-on-bad-exit=1",
        "--open-mode=append",
    ):
        assert line in scripts[0], f"{line} is not in\n{scripts[0]}"


def test_without_slurm_or_submitit_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda cls: 0))
    with pytest.raises(UserError, match="no Slurm on this machine"):
        slurm.submit(print, options(), tmp_path)
    with pytest.raises(UserError, match="at least one node"):
        slurm.submit(print, options("--gpus=0"), tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r'pip install "dino-nb\[slurm\]"'):
        slurm.submit(print, options(), tmp_path)
