"""``compile=True``: the same training by compiled parts, or a sentence where there is no compiler."""

import pytest
import torch

from dino_nb.errors import UserError
from dino_nb.models import compiled
from dino_nb.training.progress import read_log
from tests.training.tiny_run import tiny_run


def losses(folder):
    return [r["loss"] for r in read_log(folder / "log.jsonl") if r["kind"] == "step"]


def test_compiled_parts_train_as_plain_ones(small_sample, tmp_path, monkeypatch):
    """Traced and differentiated as for the real compiler, whose code would take minutes to make."""
    monkeypatch.setattr(compiled, "_COMPILER", "aot_eager")
    torch.compiler.reset()
    for name, compile in (("plain", False), ("compiled", True)):
        tiny_run(small_sample, tmp_path / name, epochs=1, compile=compile)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)
    more = tiny_run(small_sample, tmp_path / "compiled", epochs=2, compile=False, resume="auto")
    assert more.stopped == "finished", "a run may go on without"


def test_compile_is_refused_where_it_cannot_work(small_sample, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("Failed to find C++ compiler.\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        UserError, match=r"compile=True cannot work here \(Failed to find C\+\+ compiler.\).*leave it out"
    ):
        tiny_run(small_sample, tmp_path, compile=True)
