"""Scoring the model in training on held-out images, and what the scores advise to do next."""

from pathlib import Path
from typing import Any

import numpy as np

from dino_nb.data.dataset import CocoDataset
from dino_nb.data.transforms import eval_transform
from dino_nb.errors import UserError
from dino_nb.evaluation.coco import Detections, ceiling, score
from dino_nb.evaluation.collect import collect_predictions, ground_truth_as_predictions
from dino_nb.evaluation.compare import Comparison
from dino_nb.evaluation.evaluate import EvalResult
from dino_nb.models.dino import DINO

_FEW_OBJECTS, _LOOSE, _DUPLICATES = 10, 0.03, 0.1


class Validation:
    """``validation(model)`` -> the 12 COCO numbers by name, in every process; ``found``: the last detections.

    Args:
        cocodir: the data set.
        model: gives classes and input size; its weights are not used.
        split: ``val`` or ``test``.
        amp: half precision on a GPU.
    """

    def __init__(self, cocodir: str | Path, model: DINO, split: str = "val", amp: bool = False) -> None:
        self.amp = amp
        self.found: Detections | None = None
        label_of = {category: label for label, category in enumerate(model.category_ids or ())}
        self.dataset = CocoDataset(cocodir, split, eval_transform(*model.input_size), label_of)
        if unknown := [c["name"] for c in self.dataset.categories if c["id"] not in label_of]:
            raise UserError(f"{self.dataset.annotation_file} has classes that the training file lacks: {unknown}.")
        self.coco = self.dataset.coco()

    def __call__(self, model: DINO) -> dict[str, float]:
        results = collect_predictions(model, self.dataset, amp=self.amp, progress=False)
        scores = score(self.coco, results)
        self.found = scores.found
        return {name: float(value) for name, value in scores.metrics.items()}

    def check_ground_truth(self) -> float:
        """Score the annotations as if they were predictions; returns their AP.

        It is 1 unless images have more than 100 objects of a class, which COCO does not count. Raises ``UserError``
        where AP50 is not even near what is possible: ids, sizes or boxes do not fit together then.
        """
        metrics, possible = score(self.coco, ground_truth_as_predictions(self.dataset)).metrics, ceiling(self.coco)
        if possible < 0:
            raise UserError(f"{self.dataset.annotation_file} has no objects to score a network on.")
        if metrics["AP50"] < 0.9 * possible:
            raise UserError(
                f"the validation set's own annotations, taken as predictions, score AP50 {metrics['AP50']:.3f} instead "
                f"of {possible:.3f}: boxes, sizes or ids do not fit together. `dino-nb check` tells more."
            )
        return metrics["AP"]


def advice(
    history: list[dict[str, Any]],
    steps: list[dict[str, Any]],
    train_set: CocoDataset,
    report: EvalResult | None = None,
    comparison: Comparison | None = None,
) -> list[str]:
    """Sentences on what to do next, from what was seen.

    Args:
        history: a record per evaluation; ``steps``: of the log, a record per step.
        train_set: what was learned from.
        report, comparison: of the best checkpoint, where there are any.
    """
    lines, scores = [], [record["AP"] for record in history]
    row = comparison.rows[0] if comparison else {"low": None}
    half = 0.0 if row["low"] is None else (row["high"] - row["low"]) / 2  # of the interval of AP
    best = int(np.argmax(scores)) if scores else 0
    losses = {r["step"]: r["loss"] for r in steps if r["loss"] is not None}
    some = max(len(losses) // 10, 1)
    late = list(losses.values())[-some:]
    if best < len(scores) - 2 and scores[best] - scores[-1] > max(0.01, half / 2):
        around = [loss for step, loss in losses.items() if abs(step - history[best]["step"]) <= some]
        if around and np.mean(late) < np.mean(around):
            lines.append(
                f"Overfitting: since epoch {history[best]['epoch']} the loss fell and AP fell from {scores[best]:.3f} "
                f"to {scores[-1]:.3f}. Try augment=light or strong, frozen=backbone, fewer steps, or more images."
            )
    elif len(scores) > 4 and best == len(scores) - 1 and scores[-1] - scores[-1 - len(scores) // 4] > 0.01:
        lines.append("AP was still rising at the end: train longer (more steps or epochs).")
    labels = np.concatenate([train_set.target(i)["labels"].numpy() for i in range(len(train_set))])
    counts = np.bincount(labels, minlength=len(train_set.class_names))
    if few := [f"{n} ({c})" for n, c in zip(train_set.class_names, counts) if c < _FEW_OBJECTS]:
        lines.append(
            f"Too few objects to learn from: {', '.join(few[:8])}. Label more of them, or try repeat_rare=0.1."
        )
    if comparison and half > _LOOSE:
        lines.append(
            f"The {len(comparison.a.image_ids)} images of the validation set tell AP to about +-{100 * half:.0f} "
            "points: more of them show smaller differences."
        )
    if report and report.analysis.counts["duplicate"] > _DUPLICATES * max(report.analysis.counts["correct"], 1):
        lines.append("Many objects are found twice: train longer, or remove near-duplicate boxes when predicting.")
    return lines
