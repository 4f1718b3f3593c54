"""Compiled layers compute what the plain ones do, or a sentence says why there are none."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

import dino_nb
from dino_nb.errors import UserError
from dino_nb.inference.detector import Detector
from dino_nb.models import compiled
from dino_nb.models.infer import infer
from tests.models.test_dino import tiny


def test_compiled_layers_compute_the_same(monkeypatch):
    """Traced as for the real compiler, whose code would take minutes to make."""
    monkeypatch.setattr(compiled, "_COMPILER", "aot_eager")
    torch.compiler.reset()
    counters.clear()
    plain = tiny().eval()
    fast = Detector(copy.deepcopy(plain), "cpu", compile=True).model
    for sizes, graphs in (([(64, 96)], 3), ([(96, 70)], 3), ([(64, 64), (90, 60)], 5)):
        images = [torch.rand(3, *size) for size in sizes]
        wanted, got = infer(plain, images), infer(fast, images)
        assert all((got[key] - wanted[key]).abs().max() < 1e-4 for key in wanted)
        # one for encoder layers, one for those of the decoder, again for masked batches, and the compiler's own trial
        assert counters["stats"]["unique_graphs"] == graphs and not counters["graph_break"]
    assert not any(layer.linear1.packed._state for layer in fast.encoder.layers), "no weight is kept twice"
    alone = copy.deepcopy(fast)
    assert alone.encoder.layers[0]._compiled_call_impl is None and infer(alone, images).keys() == wanted.keys()


def test_what_cannot_be_compiled_is_told(monkeypatch):
    model = tiny().eval()
    with pytest.raises(UserError, match="records CUDA graphs, and this network is on cpu"):
        Detector(model, "cpu", compile="reduce-overhead")
    with pytest.raises(UserError, match="must be True, False or 'reduce-overhead', not 'max'"):
        Detector(model, "cpu", compile="max")
    with pytest.raises(UserError, match="this one was exported"):
        Detector(torch.nn.Linear(1, 1), "cpu", compile=True)

    def broken(*_, **__):
        raise RuntimeError("Failed to find C++ compiler.\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UserError, match=r"compile=True cannot work here \(Failed to find C\+\+ compiler.\)"):
        dino_nb.load("dino-tiny", "cpu", compile=True)
