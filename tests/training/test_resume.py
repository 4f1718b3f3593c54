"""Runs that are killed, stopped, restarted and resumed end as if nothing had happened."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from dino_nb.errors import UserError
from dino_nb.prepare.sample import make_sample
from dino_nb.training.checkpoint_manager import LAST

from . import resume_worker
from .resume_worker import EPOCHS, STEPS, train, train_and_weigh


@pytest.fixture(scope="module")
def processes():
    """Processes that start with everything imported."""
    os.environ["OMP_NUM_THREADS"] = "1"
    # What is freed goes back to the system, and nothing is cached by shape: resident memory is then what is held.
    os.environ["MALLOC_MMAP_THRESHOLD_"], os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "65536", "0"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([resume_worker.__name__])
    return context


@pytest.fixture(scope="module")
def cocodir(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("data") / "sample", n_train=EPOCHS * 2, n_val=2)


@pytest.fixture(scope="module")
def uninterrupted(processes, cocodir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "uninterrupted"
    process = processes.Process(target=train, args=(cocodir, folder))
    process.start()
    finish(process)
    assert (folder / "stopped").read_text() == "finished"
    return folder


def finish(process):
    """Wait for ``process`` to end well; one that hangs is not left behind."""
    process.join(240)
    process.kill()
    assert process.exitcode == 0, f"ended with {process.exitcode} (None: it hung)"


def lines(folder):
    log = folder / "log.jsonl"
    return log.read_text().splitlines() if log.exists() else []


def wait_for_lines(process, folder, number):
    end = time.monotonic() + 120
    while process.is_alive() and len(lines(folder)) < number:
        assert time.monotonic() < end, "training does not get on"
        time.sleep(0.005)


def assert_same_run(folder, expected):
    """Bit for bit: weights, average, optimiser, history, the log's losses, and the checkpoints."""
    ours, theirs = (torch.load(f / LAST, weights_only=True) for f in (folder, expected))
    assert ours["step"] == theirs["step"] == EPOCHS * STEPS
    for part in ("model", "ema", "optimizer", "history", "sampler", "epoch"):
        assert_equal(ours[part], theirs[part], part)
    logs = [[json.loads(line) for line in lines(f)] for f in (folder, expected)]
    for record in (record for log in logs for record in log):
        record.pop("images_per_s", None)
    assert logs[0] == logs[1]
    for name in ("checkpoint_best.pth", "checkpoint_last.pth"):
        assert_equal(*(torch.load(f / name, weights_only=True)["model"] for f in (folder, expected)), name)


def assert_equal(a, b, where):
    if isinstance(b, dict):
        assert a.keys() == b.keys(), where
        for key in b:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(b, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_equal(x, y, f"{where}.{i}")
    elif isinstance(b, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def kill_ten_times(processes, cocodir, folder):
    """Start and resume a run, and kill it in ten random moments. Returns whether it had not ended before the tenth."""
    chance = random.Random(time.time_ns())
    for target in sorted(chance.randint(0, 12) for _ in range(10)):
        process = processes.Process(target=train, args=(cocodir, folder), kwargs={"resume": "auto"})
        process.start()
        # Where the log is as long already, this is at the start; else in the step, the saving or the evaluation after.
        wait_for_lines(process, folder, target)
        time.sleep(chance.uniform(0, 0.4))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            return False
    return True


def test_run_killed_ten_times_at_random_ends_bit_for_bit_like_an_uninterrupted_one(
    processes, cocodir, uninterrupted, tmp_path
):
    # A machine that suddenly gets fast may end the run before it is killed often enough.
    folder = next(f for f in map(tmp_path.joinpath, "abc") if kill_ten_times(processes, cocodir, f))
    process = processes.Process(target=train, args=(cocodir, folder), kwargs={"resume": "auto"})
    process.start()
    finish(process)
    assert_same_run(folder, uninterrupted)
    assert not list(folder.glob(".*")), "nothing half-written stays"


def test_sigterm_finishes_the_step_saves_and_returns_and_the_run_resumes(processes, cocodir, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = processes.Process(target=train, args=(cocodir, folder), kwargs={"save_minutes": 1000.0, "num_workers": 1})
    process.start()
    wait_for_lines(process, folder, 2 + STEPS)  # an evaluation, an epoch, and a step of the second one
    os.kill(process.pid, signal.SIGTERM)
    finish(process)
    assert (folder / "stopped").read_text() == "SIGTERM"
    state = torch.load(folder / LAST, weights_only=True)
    assert STEPS < state["step"] == state["epoch"] * STEPS + state["sampler"]["step"] < EPOCHS * STEPS
    with pytest.raises(UserError, match="holds a training state already"):
        train(cocodir, folder)
    with pytest.raises(UserError, match=r"the configuration changed \(lr was 0.001 and is 0.002\)"):
        train(cocodir, folder, resume="auto", lr=0.002)
    process = processes.Process(target=train, args=(cocodir, folder), kwargs={"resume": "auto"})
    process.start()
    finish(process)
    assert_same_run(folder, uninterrupted)


def test_damaged_last_state_costs_only_the_steps_since_the_one_before(processes, cocodir, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = processes.Process(target=train, args=(cocodir, folder))
    process.start()
    wait_for_lines(process, folder, 7)
    process.kill()
    process.join()
    (folder / LAST).write_bytes((folder / LAST).read_bytes()[:-1000])
    process = processes.Process(target=train, args=(cocodir, folder), kwargs={"resume": "auto"})
    process.start()
    finish(process)
    assert_same_run(folder, uninterrupted)


def test_host_memory_stays_flat_over_epochs(processes, tmp_path):
    cocodir = make_sample(tmp_path / "sample", n_train=2, n_val=1)
    options = {"epochs": 16, "eval_every": 1, "batch_size": 2, "check": False}
    process = processes.Process(target=train_and_weigh, args=(cocodir, tmp_path / "run"), kwargs=options)
    process.start()
    finish(process)
    rss = [float(value) for value in (tmp_path / "run" / "rss").read_text().split()]
    assert len(rss) == 17
    assert max(rss[-3:]) < 1.03 * max(rss[4:7]), f"MiB by epoch: {rss}"


def test_torchrun_restarts_a_killed_worker_and_the_run_resumes(cocodir, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command += ["-m", resume_worker.__name__, str(cocodir), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "resuming at epoch 1, step 4" in done.stdout
    steps = [record["step"] for record in map(json.loads, lines(folder)) if record["kind"] == "step"]
    assert steps == list(range(1, EPOCHS * STEPS + 1))
    assert (folder / "stopped").read_text() == "finished"
