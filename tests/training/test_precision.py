import json
import math

import pytest
import torch

from dino_nb.errors import UserError
from dino_nb.prepare.sample import make_sample
from dino_nb.training import finetune, precision, setup
from dino_nb.training.precision import Precision, choose, cpu_has_bf16, to_float32


@pytest.mark.parametrize("capability, best", [((7, 5), "fp16"), ((7, 0), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_choose_gives_a_gpu_what_it_is_good_at(monkeypatch, capability, best):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # as a T4 says
    assert choose("cuda") == best
    assert choose("cuda", "fp16") == "fp16" and choose("cuda", "fp32") == "fp32"
    if best == "fp16":
        with pytest.raises(UserError, match="no native bfloat16"):
            choose("cuda", "bf16")


def test_choose_gives_a_cpu_bf16_only_where_it_multiplies_it(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    assert choose("cpu") == "bf16"
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    assert choose("cpu") == "fp32"
    with pytest.raises(UserError, match="bfloat16"):
        choose("cpu", "bf16")
    with pytest.raises(UserError, match="needs a GPU"):
        choose("cpu", "fp16")
    assert choose("mps") == "fp32"


@pytest.mark.parametrize(
    "flags, expected", [("fpu amx_bf16 sse", True), ("avx512_bf16", True), ("avx2 avx512f", False)]
)
def test_cpu_has_bf16_reads_the_flags(monkeypatch, tmp_path, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(precision, "CPUINFO", cpuinfo)
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    assert cpu_has_bf16() is expected
    monkeypatch.setattr(precision.platform, "machine", lambda: "aarch64")
    assert cpu_has_bf16() is False


def test_precision_autocasts_bf16_and_not_fp32():
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with Precision("bf16", "cpu").autocast():
        assert layer(x).dtype == torch.bfloat16
    with Precision("fp32", "cpu").autocast():
        assert layer(x).dtype == torch.float32


def test_to_float32_leaves_no_half_precision():
    outputs = {"a": torch.ones(1, dtype=torch.bfloat16), "b": [{"c": torch.ones(1, dtype=torch.float16)}], "d": "text"}
    converted = to_float32({**outputs, "e": torch.ones(1, dtype=torch.float64), "f": torch.ones(1, dtype=torch.int64)})
    assert converted["a"].dtype == converted["b"][0]["c"].dtype == torch.float32
    assert converted["e"].dtype == torch.float64 and converted["f"].dtype == torch.int64 and converted["d"] == "text"


def test_precision_skips_overflow_adapts_the_scale_and_saves_it():
    arithmetic = Precision("fp16", "cpu")
    arithmetic.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1000)
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)

    def step(factor):
        optimizer.zero_grad()
        arithmetic.backward((p * factor).sum())
        arithmetic.scaler.unscale_(optimizer)
        arithmetic.step(optimizer)

    step(1.0)
    assert torch.allclose(p, torch.tensor(0.9)), "the gradient is unscaled before the step"
    step(float("inf"))
    assert torch.allclose(p, torch.tensor(0.9)) and arithmetic.scaler.get_scale() == 2.0**7
    later = Precision("fp16", "cpu")
    later.scaler.load_state_dict(arithmetic.scaler.state_dict())
    assert later.scaler.get_scale() == 2.0**7


def test_finetune_in_fp16_loses_no_steps_and_learns_what_float32_does(tmp_path, monkeypatch):
    """What a T4 does, on a CPU, which can compute in half precision too, only slowly."""
    for module in (setup, finetune):
        monkeypatch.setattr(module, "choose", lambda device, wanted: wanted)
    sample = make_sample(tmp_path / "sample", n_train=32, n_val=2)
    logs = {}
    for amp in ("fp32", "fp16"):
        options = {"check": False, "live": False, "device": "cpu", "num_workers": 0, "output_dir": tmp_path / amp}
        finetune.finetune(sample, "dino-tiny", preset="tiny-finetune", epochs=1, amp=amp, **options)
        records = [json.loads(line) for line in (tmp_path / amp / "log.jsonl").read_text().splitlines()]
        logs[amp] = [record for record in records if record["kind"] == "step"]
    assert len(logs["fp16"]) == 8
    assert all(math.isfinite(record["gradient_norm"]) for record in logs["fp16"])
    for half, wide in zip(logs["fp16"], logs["fp32"]):
        assert half["loss"] == pytest.approx(wide["loss"], rel=0.05)


def test_precision_without_fp16_scales_nothing():
    arithmetic = Precision("fp32", "cpu")
    assert not arithmetic.scaler.is_enabled() and arithmetic.scaler.state_dict() == {}
