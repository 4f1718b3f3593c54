"""Jobs through submitit, by its executor for this machine."""

import argparse
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import submitit
from submitit.slurm.slurm import SlurmExecutor

import dino_nb
from dino_nb.cli import train
from dino_nb.cli.parser import Parser
from dino_nb.errors import UserError
from dino_nb.prepare.sample import make_sample
from dino_nb.training import slurm


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Jobs find the package, and no GPU."""
    monkeypatch.setenv("PYTHONPATH", str(Path(dino_nb.__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def options(*words):
    parser = Parser("train", "")
    train.add_arguments(parser)
    return parser.parse(["--slurm", *words])


def children(pid):
    """The processes that ``pid`` started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def records(folder):
    log = folder / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_slurm_job_whose_time_is_up_saves_and_is_requeued_and_resumes(tmp_path, capsys):
    """Real training of two processes, in steps of two images."""
    cocodir, folder = make_sample(tmp_path / "sample", n_train=8, n_val=2), tmp_path / "run"
    words = (
        "--cluster=local --gpus=2 --preset=tiny --no_pretrained_backbone --device=cpu --options epochs=4 batch_size=2"
    )
    more = "input_size=64,96 num_workers=0 eval_every=4 enc_layers=1 dec_layers=1 save_minutes=1000"
    args = options(str(cocodir), "--output_dir", str(folder), *words.split(), *more.split())
    job = slurm.submit(train.run, args, folder)
    end = time.monotonic() + 300
    while len(records(folder)) < 6:  # the first evaluation and five steps, of four an epoch
        assert time.monotonic() < end and job.state == "RUNNING", job.stdout()
        time.sleep(0.02)
    for pid in children(job.job_id):
        os.kill(pid, signal.SIGUSR2)
    job.wait()
    output = job.stdout()
    assert "Requeued job" in output and "Job completed successfully" in output, output
    stopped, resumed = (
        re.search(rf"{word} epoch (\d), step (\d+)", output) for word in ("stopped by SIGTERM at", "resuming at")
    )
    assert stopped.groups() == resumed.groups() and 5 <= int(resumed[2]) < 16
    assert [r["step"] for r in records(folder) if r["kind"] == "step"] == list(range(1, 17))
    assert str(folder / "slurm" / job.job_id) in capsys.readouterr().out


def test_slurm_job_fails_with_its_command(tmp_path):
    job = slurm.submit(train.run, options("nowhere", "--cluster=local", "--gpus=1"), tmp_path)
    job.wait()
    assert "nowhere" in str(job.exception())


def test_submit_asks_slurm_for_what_was_said(tmp_path, monkeypatch):
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


def test_submit_without_slurm_or_submitit_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda cls: 0))
    with pytest.raises(UserError, match="no Slurm on this machine"):
        slurm.submit(print, options(), tmp_path)
    with pytest.raises(UserError, match="at least one node"):
        slurm.submit(print, options("--gpus=0"), tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r'pip install "dino-nb\[slurm\]"'):
        slurm.submit(print, options(), tmp_path)
