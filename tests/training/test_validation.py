"""What a run ends with: thresholds in the checkpoint, before -> after, and advice from what was seen."""

from types import SimpleNamespace

import pytest
import torch

from dino_nb.checkpoints.load import load_model
from dino_nb.training.validation import advice
from tests.training.tiny_run import tiny_run


@pytest.fixture(scope="module")
def fine_tuned(small_sample, tmp_path_factory):
    return tiny_run(small_sample, tmp_path_factory.mktemp("fine") / "run", "dino-tiny", epochs=1)


def test_validation_stores_the_thresholds_of_the_best_f1(fine_tuned):
    for path in (fine_tuned.checkpoint, fine_tuned.checkpoint.with_suffix(".safetensors")):
        thresholds = load_model(path, "cpu").thresholds
        assert thresholds == fine_tuned.report.thresholds.to_dict() and 0 <= thresholds["overall"] <= 1


def test_validation_compares_with_the_start(fine_tuned):
    comparison = fine_tuned.comparison
    assert comparison.a.metrics["AP"] == pytest.approx(fine_tuned.history[0]["AP"], abs=1e-9)
    assert comparison.b.metrics["AP"] == pytest.approx(fine_tuned.best["AP"], abs=1e-9)
    assert comparison.sentence() in fine_tuned.advice
    assert (fine_tuned.output_dir / "evaluation" / "comparison.html").is_file()


def test_validation_from_scratch_compares_with_nothing(small_sample, tmp_path):
    result = tiny_run(small_sample, tmp_path, epochs=1)
    assert result.comparison is None and not (tmp_path / "evaluation" / "before").exists()


class Labels:
    """A data set of one image."""

    class_names = ("cat", "dog")

    def __init__(self, labels):
        self.labels = torch.tensor(labels)

    def __len__(self):
        return 1

    def target(self, index):
        return {"labels": self.labels}


MANY = Labels([0, 1] * 20)


def run_of(scores, losses):
    history = [{"epoch": e, "step": 10 * e, "AP": ap} for e, ap in enumerate(scores)]
    return history, [{"step": s + 1, "loss": loss} for s, loss in enumerate(losses)]


def test_advice_on_overfitting():
    history, steps = run_of([0.1, 0.4, 0.3, 0.25, 0.2], [20.0 - 0.4 * s for s in range(40)])
    (line,) = advice(history, steps, MANY)
    assert line.startswith(
        "Overfitting: since epoch 1 the loss fell and AP fell from 0.400 to 0.200. Try augment=light"
    )


def test_advice_on_a_run_that_was_still_getting_better():
    (line,) = advice(*run_of([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [5.0] * 50), MANY)
    assert "still rising" in line
    assert advice(*run_of([0.0, 0.3, 0.4, 0.4, 0.4, 0.4], [5.0] * 50), MANY) == []


def test_advice_on_classes_with_few_objects():
    (line,) = advice(*run_of([0.1], [1.0]), Labels([0] * 30 + [1] * 3))
    assert "dog (3)" in line and "cat" not in line


def test_advice_on_a_small_validation_set_and_duplicates():
    row = {"low": -0.06, "high": 0.06}
    comparison = SimpleNamespace(rows=[row], a=SimpleNamespace(image_ids=list(range(41))))
    report = SimpleNamespace(analysis=SimpleNamespace(counts={"duplicate": 20, "correct": 100}))
    small, duplicates = advice(*run_of([0.1], [1.0]), MANY, report, comparison)
    assert "The 41 images of the validation set tell AP to about +-6 points" in small
    assert "found twice" in duplicates
