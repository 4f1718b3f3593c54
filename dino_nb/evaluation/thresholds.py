"""Which score to cut at: precision, recall and F1 over the threshold, per class and overall, at IoU 0.5."""

from typing import Any

import numpy as np

from dino_nb.evaluation.coco import Scores
from dino_nb.evaluation.matching import best_f1, rates, split_rows

GRID = np.arange(101) / 100


class Thresholds:
    """Thresholds of the highest F1, and what precision and recall are at one.

    Args:
        scores: what `dino_nb.evaluation.coco.score` returned.
        used: the threshold to look at. Default: the best.

    Attributes:
        best: the threshold of the highest F1, ``best_f1``, all classes pooled.
        used: the threshold that was given, else ``best``; ``precision``, ``recall``, ``f1`` at it, 0..1.
        rows: a dict per class: ``name``, ``objects``; ``threshold`` and ``best_f1``, its own; ``precision``,
            ``recall``, ``f1`` at ``used``. A class without a right detection takes the overall ``best``.
        curves: ``score`` (0, 0.01, ..., 1), ``precision``, ``recall``, ``f1``, all classes pooled; precision is -1
            where nothing scores as high.
        reliability: for scores 0..0.1, 0.1..0.2, ...: ``count``, their mean ``score``, and the share that is ``right``.
        calibration_error: the mean difference of score and share (ECE), 0..1.
    """

    def __init__(self, scores: Scores, used: float | None = None) -> None:
        certain, right, objects = scores.matches.counts()
        self.best, self.best_f1 = best_f1(certain, right, objects) or (0.5, 0.0)
        self.used = self.best if used is None else float(used)
        self.precision, self.recall, self.f1 = rates(certain, right, objects, self.used).values()
        self.curves = {"score": GRID.tolist(), **rates(certain, right, objects, GRID)}
        self.rows = []
        category = scores.found.table[scores.matches.counted, 6]
        for row, own in zip(scores.per_class, split_rows(category, len(scores.per_class))):
            counts = certain[own], right[own], row["objects"]
            threshold, f1 = best_f1(*counts) or (self.best, 0.0)
            known = {"name": row["name"], "objects": row["objects"], "threshold": threshold, "best_f1": f1}
            self.rows.append(known | rates(*counts, self.used))
        bins = np.clip((certain * 10).astype(np.int64), 0, 9)
        n, score, hits = (np.bincount(bins, weights, 10) for weights in (None, certain, right))
        self.reliability = [{"count": int(c), "score": a / c, "right": b / c} for c, a, b in zip(n, score, hits) if c]
        self.calibration_error = float(np.abs(score - hits).sum() / max(1, len(bins)))

    def calibration(self) -> str:
        """Whether scores can be read as probabilities, in a line of plain words."""
        if not self.reliability:
            return "There are no detections to judge the scores by."
        one = max(self.reliability, key=lambda b: (b["score"] >= 0.3, b["count"]))
        gap = one["score"] - one["right"]
        how = "about right" if abs(gap) < 0.05 else "too high" if gap > 0 else "too low"
        return (
            f"Scores are {how}: of {one['count']:,} detections that score about {one['score']:.2f}, "
            f"{one['right']:.0%} are right (calibration error {self.calibration_error:.3f})."
        )

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint stores: ``{"overall": 0.37, "per_class": {"cat": 0.41, ...}}``."""
        return {"overall": self.best, "per_class": {row["name"]: row["threshold"] for row in self.rows}}
