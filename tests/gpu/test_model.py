"""Network and training on a GPU: the golden numbers, half precision, the memory plan, resuming."""

import copy
import math

import pytest
import torch

from dino_nb.config import ModelConfig
from dino_nb.inference.detector import Detector
from dino_nb.models.dino import build_model
from dino_nb.models.infer import infer
from dino_nb.prepare.sample import make_sample
from dino_nb.training.checkpoint_manager import read_state
from tests.models import test_golden
from tests.training.tiny_run import tiny_run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("name", ["dino_4scale_r50_eval", "dino_5scale_r50_eval"])
def test_golden_eval(name):
    test_golden.test_eval(name, "cuda")


def test_golden_training_step():
    test_golden.test_training_step("dino_4scale_r50_train", "cuda")


@pytest.mark.parametrize("amp", [False, True])
def test_network_does_not_wait_for_the_device(amp):
    model = build_model(ModelConfig()).cuda().eval().optimize()
    images = [torch.rand(3, 320, 400, device="cuda"), torch.rand(3, 300, 416, device="cuda")]
    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=amp):
        model(images)
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(images)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
@pytest.mark.parametrize("amp", [False, True])
def test_compiled_layers_compute_the_same(mode, amp):
    torch.compiler.reset()
    torch.manual_seed(0)
    plain = build_model(ModelConfig()).cuda().eval()
    fast = Detector(copy.deepcopy(plain), "cuda", compile=mode).model
    for size in [(320, 400)] * 4 + [(300, 416), (320, 400), (416, 300)]:  # a stream of one shape, and others
        images = [torch.rand(3, *size, device="cuda")]
        wanted, got = infer(plain, images, amp), infer(fast, images, amp)
        for key in wanted:
            torch.testing.assert_close(got[key], wanted[key], atol=5e-2 if amp else 1e-3, rtol=1e-2 if amp else 1e-3)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    for package in ("pycocotools", "scipy", "tqdm"):
        pytest.importorskip(package)
    return make_sample(tmp_path_factory.mktemp("gpu") / "sample", n_train=32, n_val=8)


@pytest.mark.parametrize("amp", ["fp32", "fp16", "bf16"])
def test_it_trains_and_goes_on(sample, tmp_path, amp, capsys):
    if amp == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no bfloat16")
    options = {"device": "cuda", "amp": amp, "preset": "tiny", "backbone_weights": False, "model_options": None}
    first = tiny_run(sample, tmp_path, epochs=2, **options)
    second = tiny_run(sample, tmp_path, epochs=4, resume="auto", **options)
    assert [r["epoch"] for r in second.history] == [0, 1, 2, 3, 4]
    assert second.history[:3] == first.history, "what was before stays"
    assert "non-finite" not in capsys.readouterr().out or amp == "fp16", "fp16 may skip steps until its scale fits"
    state = read_state(tmp_path / "state_last.pt")
    assert all(math.isfinite(x.sum()) for x in state["model"].values() if torch.is_tensor(x))


def test_the_plan_predicts_the_peak(sample, tmp_path, capsys):
    options = {"device": "cuda", "preset": "tiny", "backbone_weights": False, "model_options": None}
    torch.cuda.reset_peak_memory_stats()
    tiny_run(sample, tmp_path, epochs=1, batch_size=16, micro_batch=0, grad_checkpointing="auto", amp="auto", **options)
    out = capsys.readouterr().out
    predicted = float(out.split("predicted peak ")[1].split(" of ")[0])
    assert torch.cuda.max_memory_allocated() / 2**30 < predicted * 1.2 + 0.1
