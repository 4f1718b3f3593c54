"""Two processes on the CPU (gloo, started by torchrun) against one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dino_nb import distributed

WORKER = Path(__file__).with_name("distributed_worker.py")


def torchrun(folder, *modes):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command += [str(WORKER), str(folder), *modes]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes left behind."""
    folder = tmp_path_factory.mktemp("pair")
    done = torchrun(folder, "exchange", "steps", "trouble")
    assert done.returncode == 0, done.stderr
    return folder


def test_processes_with_half_the_batch_each_end_like_one_with_the_whole(pair, monkeypatch):
    monkeypatch.syspath_prepend(WORKER.parent)
    import distributed_worker

    alone = distributed_worker.train()
    for rank in range(2):
        model, ema = torch.load(pair / f"{rank}.pt")
        for name, expected in alone.model.state_dict().items():
            torch.testing.assert_close(model[name], expected, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
        for name, expected in alone.ema.module.state_dict().items():
            torch.testing.assert_close(ema[name], expected, rtol=1e-7, atol=1e-9)
    torch.manual_seed(0)
    before = distributed_worker.build_model(distributed_worker.MODEL).double().state_dict()
    moved = [name for name in before if not torch.equal(before[name], alone.model.state_dict()[name])]
    assert len(moved) > 100, "the steps did change the network"


def test_processes_skip_and_repeat_steps_together(pair, monkeypatch):
    """One runs out of memory in the middle of a step, one has a loss that is not finite: as if one process had both."""
    monkeypatch.syspath_prepend(WORKER.parent)
    import distributed_worker

    alone = distributed_worker.poison(distributed_worker.train, lambda step: step == 2)
    for rank in range(2):
        model, ema = torch.load(pair / f"trouble{rank}.pt")
        for name, expected in alone.model.state_dict().items():
            torch.testing.assert_close(model[name], expected, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
        for name, expected in alone.ema.module.state_dict().items():
            torch.testing.assert_close(ema[name], expected, rtol=1e-7, atol=1e-9)


def test_processes_tell_each_other_what_they_know(pair):
    assert {"done0", "done1", "error0", "error1"} <= {p.name for p in pair.iterdir()}


def test_process_with_an_error_ends_the_other(tmp_path):
    done = torchrun(tmp_path, "fail")
    assert done.returncode != 0 and "image 17 is broken" in done.stderr
    assert not list(tmp_path.iterdir())


def test_single_process_exchanges_with_itself():
    with distributed.session() as device:
        assert device.type in ("cpu", "cuda") and not distributed.active()
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.reduce_mean(3) == 3.0
    assert distributed.all_gather_objects("x") == ["x"] and distributed.my_share([1, 2]) == [1, 2]
    assert distributed.run_on_main(max, 1, 2) == 2
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    distributed.average_gradients([weight])
    assert weight.grad.tolist() == [1, 1]


@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_is_restart_reads_the_launchers_count(monkeypatch, name):
    for other in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(other, raising=False)
    assert not distributed.is_restart()
    monkeypatch.setenv(name, "0")
    assert not distributed.is_restart()
    monkeypatch.setenv(name, "1")
    assert distributed.is_restart()
