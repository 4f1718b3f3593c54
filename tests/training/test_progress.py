import json
import sys

import pytest
import torch

from dino_nb.training import progress
from dino_nb.training.progress import CURVES, LOG, Progress, curves, in_notebook, read_log

CPU = torch.device("cpu")


def steps(bar, first, last):
    for step in range(first, last + 1):
        bar.step({"step": step, "epoch": (step - 1) // 3, "loss": 1.0 / step, "lr": 1e-4}, images=4)


def test_progress_writes_log_and_curves(tmp_path, capsys):
    bar = Progress(tmp_path, 6, CPU, live=False)
    bar.epoch({"step": 0, "epoch": 0, "AP": 0.0, "AP50": 0.1})
    steps(bar, 1, 3)
    bar.epoch({"step": 3, "epoch": 1, "AP": 0.2, "AP50": 0.4})
    bar.close()
    records = read_log(tmp_path / LOG)
    assert [r["kind"] for r in records] == ["epoch", "step", "step", "step", "epoch"]
    assert records[2]["loss"] == 0.5 and records[2]["images_per_s"] > 0
    assert (tmp_path / CURVES).read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr()
    assert "epoch 1: AP 0.200, AP50 0.400" in shown.out
    assert "images/s" in shown.err and "GiB" in shown.err and "3/6" in shown.err


def test_progress_of_a_resumed_run_replaces_what_will_happen_again(tmp_path):
    bar = Progress(tmp_path, 6, CPU, live=False)
    steps(bar, 1, 5)
    bar.close()
    with (tmp_path / LOG).open("a") as file:
        file.write('{"kind": "step", "st')  # a crash while writing
    again = Progress(tmp_path, 6, CPU, live=False)
    again.begin(3, [{"epoch": 1, "step": 3, "AP": 0.2, "AP50": 0.4}])
    assert again.bar.n == 3
    steps(again, 4, 6)
    again.close()
    records = read_log(tmp_path / LOG)
    assert [(r["kind"], r["step"]) for r in records] == [
        *[("step", s) for s in (1, 2, 3)],
        ("epoch", 3),  # which the killed run had saved, but not logged
        *[("step", s) for s in (4, 5, 6)],
    ]


def test_progress_of_other_processes_neither_prints_nor_writes(tmp_path, capsys):
    bar = Progress(tmp_path, 6, CPU, active=False, live=False)
    steps(bar, 1, 3)
    bar.epoch({"step": 3, "epoch": 1, "AP": 0.2, "AP50": 0.4})
    bar.say("nothing")
    bar.close()
    assert list(tmp_path.iterdir()) == [] and "".join(capsys.readouterr()) == ""


def test_log_has_null_for_what_is_not_finite(tmp_path):
    bar = Progress(tmp_path, 2, CPU, live=False)
    bar.step({"step": 1, "epoch": 0, "loss": float("nan"), "lr": 1e-4}, images=4)
    bar.step({"step": 2, "epoch": 0, "loss": float("inf"), "lr": 1e-4}, images=4)
    bar.close()
    for line in (tmp_path / LOG).read_text().splitlines():
        assert json.loads(line, parse_constant=pytest.fail)["loss"] is None
    curves(bar.records)


def test_curves_show_what_was_logged():
    records = [{"kind": "step", "step": s, "loss": 10.0 / s, "lr": 1e-4} for s in range(1, 50)]
    records += [{"kind": "epoch", "epoch": e, "AP": 0.1 * e, "AP50": 0.2 * e} for e in range(4)]
    loss, score, rate = curves(records).axes
    assert len(loss.lines[0].get_xdata()) == 49
    assert list(score.lines[1].get_ydata()) == pytest.approx([0, 0.2, 0.4, 0.6])
    assert [axis.get_title() for axis in (loss, score, rate)] == ["loss", "validation", "learning rate"]
    curves([])


def test_progress_keeps_its_own_log_small(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_MOST_RECORDS", 20)
    bar = Progress(tmp_path, 100, CPU, live=False)
    bar.epoch({"step": 0, "epoch": 0, "AP": 0.0, "AP50": 0.1})
    steps(bar, 1, 100)
    bar.close()
    assert len(bar.records) <= 20 and bar.records[0]["kind"] == "epoch"
    assert len(read_log(tmp_path / LOG)) == 101, "the file has all of it"


def test_progress_updates_one_figure_in_a_notebook(tmp_path, monkeypatch):
    IPython = pytest.importorskip("IPython")
    shown = []

    class Handle:
        def update(self, image):
            shown.append(("update", image.data[:4]))

    def display(image, display_id):
        shown.append(("display", image.data[:4]))
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    bar = Progress(tmp_path, 6, CPU, live=True)
    bar.epoch({"step": 0, "epoch": 0, "AP": 0.0, "AP50": 0.1})
    bar.epoch({"step": 3, "epoch": 1, "AP": 0.2, "AP50": 0.4})
    bar.close()
    assert shown == [("display", b"\x89PNG"), ("update", b"\x89PNG")]
    assert in_notebook() is False


def test_tensorboard_is_optional(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    bar = Progress(tmp_path, 2, CPU, live=False, tensorboard=True)
    steps(bar, 1, 2)
    bar.close()
    assert "pip install tensorboard" in capsys.readouterr().out
