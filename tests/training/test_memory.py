import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

from dino_nb.errors import UserError
from dino_nb.models.dino import build_model
from dino_nb.presets import preset
from dino_nb.training import memory
from dino_nb.training.criterion import Criterion
from dino_nb.training.finetune import finetune
from dino_nb.training.memory import Plan, plan_memory, worst_canvas, worst_case_step
from dino_nb.training.precision import Precision
from tests.training.tiny_run import MODEL

GIB = 2**30
# bytes that one image takes, by what is recomputed
COSTS = {"none": 4 * GIB, "transformer": 2 * GIB, "all": 1 * GIB}


def measure(level):
    return 2 * GIB, 2 * GIB + COSTS[level]


@pytest.mark.parametrize(
    "limit, batch, micro, level",
    [
        (70, 16, 16, "none"),
        (15, 16, 2, "none"),  # 3 + 2 x 4 fit, 3 + 4 x 4 do not
        (7, 16, 1, "none"),
        (6, 16, 1, "transformer"),
        (4, 16, 1, "all"),
        (12, 3, 2, "none"),
    ],
)
def test_plan_memory_takes_the_largest_micro_batch_before_anything_is_recomputed(limit, batch, micro, level):
    plan = plan_memory(measure, batch, limit * GIB, fixed=GIB)
    assert (plan.micro_batch, plan.grad_checkpointing) == (micro, level)
    assert plan.peak == 3 * GIB + micro * COSTS[level] <= limit * GIB


def test_plan_memory_says_what_does_not_fit():
    with pytest.raises(UserError, match=r"about 4\.0 GiB are needed, 3\.5 GiB are at hand"):
        plan_memory(measure, 16, int(3.5 * GIB), fixed=GIB)


def test_plan_memory_keeps_the_users_own_choices():
    assert plan_memory(measure, 16, 15 * GIB, micro_batch=1).micro_batch == 1
    assert plan_memory(measure, 16, 15 * GIB, grad_checkpointing="all").grad_checkpointing == "all"
    plan = plan_memory(measure, 16, 15 * GIB, micro_batch=5)
    assert (plan.micro_batch, plan.grad_checkpointing) == (5, "transformer")


def test_plan_memory_goes_to_the_next_level_when_measuring_runs_out_of_memory():
    def runs_out(level):
        if level != "all":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return measure(level)

    assert plan_memory(runs_out, 4, 5 * GIB).grad_checkpointing == "all"

    def broken(level):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        plan_memory(broken, 4, 5 * GIB)


def test_plan_steps_down_to_the_leanest():
    plan, seen = Plan(5), []
    while plan:
        seen.append((plan.micro_batch, plan.grad_checkpointing))
        plan = plan.step_down()
    assert seen == [(5, "none"), (3, "none"), (2, "none"), (1, "none"), (1, "transformer"), (1, "all")]


def test_plan_describes_itself_in_a_line():
    assert Plan(2, "none", 11 * GIB, 14 * GIB).describe(16) == (
        "16 images per step = 8 x 2, gradient checkpointing: none, predicted peak 11.0 of 14.0 GiB"
    )


def test_worst_canvas():
    assert worst_canvas([(480, 640), (640, 480)], (800, 1333)) == (1066, 1066)
    assert worst_canvas([(480, 640), (640, 480)], (800, 1333), grouped=True) == (800, 1066)
    assert worst_canvas([(100, 1000)], (800, 1333)) == (133, 1330)


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_is_out_of_memory(error, expected):
    assert memory.is_out_of_memory(error) is expected


@pytest.fixture
def detector():
    config = dataclasses.replace(preset("dino-tiny"), **MODEL, num_classes=3)
    torch.manual_seed(0)
    return build_model(config).train(), Criterion(config)


def test_worst_case_step_changes_nothing(detector):
    model, criterion = detector
    before = {k: v.clone() for k, v in model.state_dict().items()}
    step = worst_case_step(model, criterion, Precision("fp32", "cpu"), (64, 96), 7, torch.device("cpu"))
    used, peak = step("none")
    assert 0 < used <= peak
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    step("all")
    assert model.encoder.grad_checkpointing and model.decoder.grad_checkpointing


def print_peaks():
    """Bytes that a step takes by level, as JSON: in a process of its own, whose heap has no room left by others."""
    options = {**MODEL, "dim_feedforward": 4096, "enc_layers": 6, "num_queries": 50}
    config = dataclasses.replace(preset("dino-tiny"), **options, num_classes=3)
    model = build_model(config).train()
    step = worst_case_step(model, Criterion(config), Precision("fp32", "cpu"), (448, 448), 7, torch.device("cpu"))
    step("none")  # warms caches up
    print(json.dumps({level: peak - before for level in ("none", "all") for before, peak in [step(level)]}))


@pytest.mark.skipif(
    not memory.field(memory.PROC / "self/status", "VmHWM:"),
    reason="this system does not report a process's peak memory",
)
def test_grad_checkpointing_takes_less_memory():
    command = [sys.executable, "-c", f"from {__name__} import print_peaks; print_peaks()"]
    # every tensor is mapped by itself, so that what is freed leaves the process, as with tensors of full-size images
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    peaks = json.loads(done.stdout.splitlines()[-1])
    assert peaks["all"] < 0.8 * peaks["none"], {k: f"{v / 2**20:.0f} MiB" for k, v in peaks.items()}


def test_grad_checkpointing_gives_the_same_gradient(detector):
    model, criterion = detector
    gradients = []
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))]
    targets = [{"labels": torch.tensor([1, 2]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.3, 0.3, 0.2, 0.4]])}]
    for level in memory.LEVELS:
        memory.set_grad_checkpointing(model, level)
        model.zero_grad()
        torch.manual_seed(1)
        memory.accumulate_gradients(model, criterion, Precision("fp32", "cpu"), images, targets, 2.0, 1)
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chosen", [None, "7"])
def test_finetune_limits_onednn_unless_the_user_does(tmp_path, monkeypatch, chosen):
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, chosen or "")
    if chosen is None:
        monkeypatch.delenv(name)
    with pytest.raises(UserError):
        finetune(tmp_path / "missing", "dino-tiny", output_dir=tmp_path / "run")
    assert os.environ[name] == (chosen or "64")


def test_memory_limit_is_that_of_the_machine():
    device = torch.device("cpu")
    assert memory.used_memory(device) < memory.memory_limit(device) < 2**44
    memory.reset_peak(device)
    block = torch.ones(32 << 20, dtype=torch.uint8)
    assert memory.peak_memory(device) >= memory.used_memory(device) - (8 << 20)
    assert block.sum() == 32 << 20


def test_memory_limit_takes_cached_files_as_free(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{8 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{7 * GIB}\n")
    (tmp_path / "memory.stat").write_text(
        f"anon {GIB}\nfile {6 * GIB}\ninactive_file {4 * GIB}\nactive_file {2 * GIB}\n"
    )
    monkeypatch.setattr(memory, "used_memory", lambda device: 0)
    available = memory.field(memory.PROC / "meminfo", "MemAvailable:") << 10
    assert memory.memory_limit(torch.device("cpu")) == min(available, 7 * GIB) // 2
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.memory_limit(torch.device("cpu")) <= available
