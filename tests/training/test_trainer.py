"""The loop: resuming, stopping, skipping, stepping down, and what it leaves behind."""

import json
import os
import pickle
import shutil
import signal

import pytest
import torch

from dino_nb import distributed
from dino_nb.errors import UserError
from dino_nb.training import finetune, setup, trainer
from dino_nb.training.checkpoint_manager import read_state
from dino_nb.training.criterion import Criterion
from dino_nb.training.progress import read_log
from dino_nb.training.trainer import TrainingDiverged
from tests.training.tiny_run import tiny_run


def final_state(folder):
    return read_state(folder / "state_last.pt")


def assert_same(a, b, where="state"):
    """Bit-equality of nested plain data."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


@pytest.fixture(scope="module")
def uninterrupted(small_sample, tmp_path_factory):
    """A whole run: 3 epochs of 3 steps."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return tiny_run(small_sample, folder)


def interrupt_at(monkeypatch, step, action):
    """Call ``action`` within training step number ``step``."""
    real = trainer.train_step

    def train_step(run, images, targets):
        if run.step == step:
            action()
        return real(run, images, targets)

    monkeypatch.setattr(trainer, "train_step", train_step)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_finishes_the_step_and_saves_and_the_rest_is_bit_equal(
    small_sample, tmp_path, monkeypatch, uninterrupted, number
):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4, lambda: os.kill(os.getpid(), number))
        first = tiny_run(small_sample, tmp_path)
    assert first.stopped == number.name
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    state = final_state(tmp_path)
    assert (state["epoch"], state["step"], state["sampler"]["step"]) == (1, 5, 2), "in the middle of the second epoch"
    second = tiny_run(small_sample, tmp_path, resume="auto")
    assert second.stopped == "finished"
    assert_same(final_state(tmp_path), final_state(uninterrupted.output_dir))
    losses = [
        [r["loss"] for r in read_log(f / "log.jsonl") if r["kind"] == "step"]
        for f in (tmp_path, uninterrupted.output_dir)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 9


def test_signal_during_evaluation_ends_it_at_once(small_sample, tmp_path, monkeypatch, uninterrupted):
    from dino_nb.training.validation import Validation

    real, calls = Validation.__call__, []

    def validate(self, model):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, model)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "__call__", validate)
        result = tiny_run(small_sample, tmp_path)
    assert result.stopped == "SIGTERM" and [r["epoch"] for r in result.history] == [0]
    assert final_state(tmp_path)["epoch"] == 1
    tiny_run(small_sample, tmp_path, resume="auto")
    assert_same(final_state(tmp_path), final_state(uninterrupted.output_dir))


def test_max_hours_stops_and_resumes(small_sample, tmp_path, uninterrupted):
    parts = 0
    while True:
        result = tiny_run(small_sample, tmp_path, resume="auto", max_hours=0)
        parts += 1
        if result.stopped == "finished":
            break
        assert result.stopped == "max_hours" and parts < 12
    assert parts > 5, "one step a part"
    assert_same(final_state(tmp_path), final_state(uninterrupted.output_dir))


def test_resume_of_a_finished_run_adds_epochs(small_sample, tmp_path, uninterrupted, capsys):
    assert tiny_run(small_sample, tmp_path, epochs=2).stopped == "finished"
    capsys.readouterr()
    tiny_run(small_sample, tmp_path, resume="auto")
    assert "resuming at epoch 2, step 6; 3 epochs instead of 2, with the learning rate of a 3-epoch run" in (
        capsys.readouterr().out
    )
    assert_same(final_state(tmp_path), final_state(uninterrupted.output_dir))


def test_num_workers_changes_nothing(small_sample, tmp_path, uninterrupted):
    tiny_run(small_sample, tmp_path, num_workers=2)
    assert_same(
        {k: v for k, v in final_state(tmp_path).items() if k != "config"},
        {k: v for k, v in final_state(uninterrupted.output_dir).items() if k != "config"},
    )


def _model_without_denoising():
    from tests.training.tiny_run import MODEL

    return {**MODEL, "dn_number": 0}


def test_accumulated_gradient_is_that_of_the_whole_batch():
    import dataclasses

    from dino_nb.models.dino import build_model
    from dino_nb.presets import preset
    from dino_nb.training.memory import accumulate_gradients
    from dino_nb.training.precision import Precision

    config = dataclasses.replace(preset("dino-tiny"), **_model_without_denoising(), num_classes=3)
    torch.manual_seed(0)
    model, criterion = build_model(config).double().train(), Criterion(config)
    images = [torch.rand(3, 64, 64, dtype=torch.float64) for _ in range(4)]
    counts = [3, 0, 1, 5]
    targets = [{"labels": torch.randint(0, 3, (n,)), "boxes": torch.rand(n, 4).double() * 0.3 + 0.3} for n in counts]
    gradients = []
    for micro in (4, 3, 1):
        model.zero_grad()
        losses, _ = accumulate_gradients(model, criterion, Precision("fp32", "cpu"), images, targets, 9.0, micro)
        gradients.append([losses["loss"]] + [p.grad for p in model.parameters() if p.grad is not None])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def poison(monkeypatch, is_bad):
    """Losses are NaN in the calls (counted from 0) for which ``is_bad`` holds."""
    real, calls = Criterion.__call__, []

    def criterion(self, *args):
        losses = real(self, *args)
        calls.append(1)
        return {k: v * float("nan") for k, v in losses.items()} if is_bad(len(calls) - 1) else losses

    monkeypatch.setattr(Criterion, "__call__", criterion)


def test_nonfinite_loss_is_skipped_and_its_images_are_named(small_sample, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, lambda call: call == 1)
    result = tiny_run(small_sample, tmp_path, epochs=1)
    assert result.stopped == "finished"
    records = [r for r in read_log(tmp_path / "log.jsonl") if r["kind"] == "step"]
    assert [r["loss"] is None for r in records] == [False, True, False]
    text = capsys.readouterr()
    assert "step 1 skipped: non-finite loss" in text.out + text.err and "image ids [" in text.out + text.err
    weights = final_state(tmp_path)["model"]
    assert all(torch.isfinite(v).all() for v in weights.values())


def test_nonfinite_losses_in_a_row_are_an_error(small_sample, tmp_path, monkeypatch):
    poison(monkeypatch, lambda call: True)
    with pytest.raises(TrainingDiverged, match=r"4 steps in a row were skipped.*image ids"):
        tiny_run(small_sample, tmp_path, max_nonfinite=4)


def test_out_of_memory_continues_with_a_leaner_plan(small_sample, tmp_path, monkeypatch, capsys):
    real = trainer.accumulate_gradients

    def accumulate(model, *args):
        recomputes = model.encoder.grad_checkpointing
        if args[-1] > 1 or not recomputes:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return real(model, *args)

    monkeypatch.setattr(trainer, "accumulate_gradients", accumulate)
    result = tiny_run(small_sample, tmp_path, epochs=1)
    out = "".join(capsys.readouterr())
    assert "out of memory: continuing with 2 images per step = 2 x 1, gradient checkpointing: none" in out
    assert "2 images per step = 2 x 1, gradient checkpointing: transformer" in out
    assert result.stopped == "finished"
    assert final_state(tmp_path)["plan"]["grad_checkpointing"] == "transformer"


def test_out_of_memory_at_the_leanest_plan_is_a_sentence(small_sample, tmp_path, monkeypatch):
    def accumulate(*args):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trainer, "accumulate_gradients", accumulate)
    with pytest.raises(UserError, match="out of memory with one image"):
        tiny_run(small_sample, tmp_path)


def test_resume_needs_to_be_asked_for_and_names_differences(small_sample, tmp_path, uninterrupted):
    folder = uninterrupted.output_dir
    with pytest.raises(UserError, match="holds a training state already"):
        tiny_run(small_sample, folder)
    with pytest.raises(UserError, match=r"lr was 0\.001 and is 0\.002"):
        tiny_run(small_sample, folder, resume="auto", lr=2e-3)
    other = tmp_path / "other"
    from dino_nb.prepare.sample import make_sample

    make_sample(other, n_train=6, n_val=2, seed=1)
    with pytest.raises(UserError, match=r"data set changed .*instances_train2017\.json"):
        tiny_run(other, folder, resume="auto")


def test_patience_stops_early(small_sample, tmp_path):
    result = tiny_run(small_sample, tmp_path, epochs=9, patience=2, lr=0.0, lr_backbone=0.0, ema=False)
    assert result.stopped == "patience"
    assert [r["epoch"] for r in result.history] == [0, 1, 2] and result.best["epoch"] == 0


def test_patience_counts_evaluations_not_epochs(small_sample, tmp_path):
    result = tiny_run(small_sample, tmp_path, epochs=6, eval_every=3, patience=2, lr=0.0, lr_backbone=0.0, ema=False)
    assert [r["epoch"] for r in result.history] == [0, 3, 6] and result.stopped == "finished"


def test_overwrite_starts_a_new_log(small_sample, tmp_path):
    tiny_run(small_sample, tmp_path, epochs=2)
    tiny_run(small_sample, tmp_path, epochs=1, overwrite=True)
    assert [r["step"] for r in read_log(tmp_path / "log.jsonl")] == [0, 1, 2, 3, 3]


def test_resume_sends_no_state_to_other_processes(small_sample, tmp_path, monkeypatch):
    tiny_run(small_sample, tmp_path, epochs=1)
    sent = []
    real = distributed.run_on_main

    def run_on_main(function, *args):
        sent.append(real(function, *args))
        return sent[-1]

    monkeypatch.setattr(distributed, "run_on_main", run_on_main)
    tiny_run(small_sample, tmp_path, epochs=2, resume="auto")
    assert tmp_path / "state_last.pt" in sent and len(pickle.dumps(sent)) < 10_000


def test_resume_names_a_file_that_only_the_main_process_sees(small_sample, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "run_on_main", lambda function, *args: tmp_path / "elsewhere" / "state_last.pt")
    with pytest.raises(UserError, match=r"process 0 does not see .*state_last.pt"):
        tiny_run(small_sample, tmp_path, resume="auto")


def test_stop_during_the_first_evaluation_leaves_a_checkpoint(small_sample, tmp_path, monkeypatch, capsys):
    from dino_nb.training.validation import Validation

    monkeypatch.setattr(Validation, "__call__", lambda self, model: os.kill(os.getpid(), signal.SIGINT))
    result = tiny_run(small_sample, tmp_path)
    assert (result.stopped, result.history, result.best, result.report) == ("SIGINT", [], None, None)
    assert result.checkpoint == result.last == tmp_path / "checkpoint_last.pth" and result.last.is_file()
    assert "stopped by SIGINT at epoch 0, step 0, not yet evaluated; saved" in capsys.readouterr().out


def test_overflow_of_fp16_is_counted_and_leaves_the_average_alone(small_sample, tmp_path, monkeypatch):
    for module in (setup, finetune):
        monkeypatch.setattr(module, "choose", lambda device, wanted: "fp16")
    real, runs = trainer.clip_gradients, []

    def overflow(parameters, max_norm):
        real(parameters, max_norm)
        return torch.tensor(float("inf"))

    make_run = setup.make_run
    monkeypatch.setattr(finetune, "make_run", lambda *a, **k: runs.append(make_run(*a, **k)) or runs[-1])
    monkeypatch.setattr(trainer, "clip_gradients", overflow)
    with pytest.raises(TrainingDiverged, match="7 steps in a row were skipped"):
        tiny_run(small_sample, tmp_path, max_nonfinite=7)
    assert runs[0].ema.step == 0 and runs[0].skipped == 7


def test_training_diverged_is_a_sentence_for_the_user():
    assert issubclass(TrainingDiverged, UserError)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_a_sentence_from_any_worker(small_sample, tmp_path, workers):
    broken = tmp_path / "broken"
    shutil.copytree(small_sample, broken)
    for path in (broken / "train2017").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError) as caught:
        tiny_run(broken, tmp_path / "run", num_workers=workers)
    assert "Traceback" not in str(caught.value) and "train2017" in str(caught.value)


def test_log_has_a_json_record_per_line(uninterrupted):
    lines = (uninterrupted.output_dir / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["kind"] for r in records].count("epoch") == 4
    assert {"step", "epoch", "loss", "lr", "images_per_s", "loss_ce", "gradient_norm"} <= records[1].keys()
