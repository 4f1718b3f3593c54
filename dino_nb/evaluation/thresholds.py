"""Which score to cut at: precision, recall and F1 over the threshold, per class and overall, at IoU 0.5."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dino_nb.evaluation.coco import Scores
from dino_nb.evaluation.matching import CROWD, match_image

GRID = np.arange(101) / 100


@dataclass
class Thresholds:
    """What :func:`find_thresholds` returns.

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

    best: float
    best_f1: float
    used: float
    precision: float
    recall: float
    f1: float
    rows: list[dict[str, Any]]
    curves: dict[str, list[float]]
    reliability: list[dict[str, float]]
    calibration_error: float

    @property
    def per_class(self) -> dict[str, float]:
        """``{class name: its own threshold}``."""
        return {row["name"]: row["threshold"] for row in self.rows}

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
        return {"overall": self.best, "per_class": self.per_class}


def find_thresholds(scores: Scores, used: float | None = None) -> Thresholds:
    """The thresholds of the highest F1, and what precision and recall are at the one that is ``used``.

    ``scores``: what ``dino_nb.evaluation.coco.score`` returned.
    """
    status = match_all(scores)
    counted = status != CROWD
    certain, right = scores.found.table[counted, 5], status[counted] >= 0
    category = scores.found.table[counted, 6].astype(np.int64)
    objects = sum(row["objects"] for row in scores.per_class)
    best, f1 = best_f1(certain, right, objects) or (0.5, 0.0)
    used = best if used is None else float(used)
    rows = []
    order = np.argsort(category, kind="stable")
    starts = np.searchsorted(category[order], np.arange(len(scores.per_class) + 1))
    for i, row in enumerate(scores.per_class):
        own = order[starts[i] : starts[i + 1]]
        threshold, own_f1 = best_f1(certain[own], right[own], row["objects"]) or (best, 0.0)
        here = rates_at(certain[own], right[own], row["objects"], used)
        rows.append({"name": row["name"], "objects": row["objects"], "threshold": threshold, "best_f1": own_f1, **here})
    every = [rates_at(certain, right, objects, s) for s in GRID]
    curves = {"score": GRID.tolist(), **{key: [one[key] for one in every] for key in ("precision", "recall", "f1")}}
    bins = np.clip((certain * 10).astype(np.int64), 0, 9)
    n, score, hits = (np.bincount(bins, weights, 10) for weights in (None, certain, right))
    error = float(np.abs(score - hits).sum() / max(1, len(bins)))
    reliability = [{"count": int(c), "score": a / c, "right": b / c} for c, a, b in zip(n, score, hits) if c]
    now = rates_at(certain, right, objects, used)
    return Thresholds(best, f1, used, **now, rows=rows, curves=curves, reliability=reliability, calibration_error=error)


def match_all(scores: Scores, iou: float = 0.5) -> np.ndarray:
    """For each detection the row of ``scores.truth`` that it takes, -1 for none, -2 for a crowd."""
    found, truth = scores.found.table, scores.truth
    status = np.full(len(found), -1)
    for mine, objects in by_image(scores):
        if len(mine) and len(objects):
            boxes, crowd = to_corners(found[mine]), truth[objects, 6] > 0
            taken = match_image(
                boxes, found[mine, 6], found[mine, 5], truth[objects, 1:5], truth[objects, 5], crowd, iou
            )
            status[mine] = np.where(taken >= 0, objects[np.maximum(taken, 0)], taken)
    return status


def by_image(scores: Scores, least: float = 0.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each image: the rows of its detections that score at least ``least``, and of its objects."""
    parts = []
    for table in (scores.found.table, scores.truth):
        order = np.argsort(table[:, 0], kind="stable")
        if table is scores.found.table:
            order = order[table[order, 5] >= least]
        parts.append(np.split(order, np.searchsorted(table[order, 0], np.arange(1, len(scores.found.image_ids)))))
    return list(zip(*parts))


def to_corners(table: np.ndarray) -> np.ndarray:
    """``(n, 4)`` x1, y1, x2, y2 of rows of `Detections`."""
    return np.concatenate([table[:, 1:3], table[:, 1:3] + table[:, 3:5]], 1)


def best_f1(certain: np.ndarray, right: np.ndarray, objects: int) -> tuple[float, float] | None:
    """``(threshold, F1)`` of the highest F1, the threshold halfway down to the next score; None if nothing is right."""
    order = np.argsort(-certain, kind="stable")
    certain, hits = certain[order], np.cumsum(right[order])
    if not len(hits) or not hits[-1] or not objects:
        return None
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + objects)
    below = np.append(certain[1:], 0.0)
    f1[certain <= below] = 0  # equal scores are kept or dropped together
    at = int(f1.argmax())
    return float((certain[at] + below[at]) / 2), float(f1[at])


def rates_at(certain: np.ndarray, right: np.ndarray, objects: int, threshold: float) -> dict[str, float]:
    """``precision``, ``recall`` and ``f1`` of detections ``(n,)`` with these scores, right or not; -1 if undefined."""
    kept = certain >= threshold
    hits, n = int(right[kept].sum()), int(kept.sum())
    return {
        "precision": hits / n if n else -1.0,
        "recall": hits / objects if objects else -1.0,
        "f1": 2 * hits / (n + objects) if n + objects else -1.0,
    }
