"""Which detection found which object: COCO's greedy matching of one image."""

import numpy as np

NOTHING, CROWD = -1, -2


def match_image(
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    truth_boxes: np.ndarray,
    truth_labels: np.ndarray,
    crowd: np.ndarray,
    iou: float = 0.5,
    any_class: bool = False,
) -> np.ndarray:
    """The object that each detection of one image takes, as COCO matches them.

    The best-scored detection chooses first, and takes the free object of its class that it overlaps most; of equal
    scores the earlier one chooses first.

    Args:
        boxes, truth_boxes: ``(n, 4)`` and ``(m, 4)``, x1, y1, x2, y2 in pixels.
        labels, truth_labels: ``(n,)`` and ``(m,)`` class numbers.
        scores: ``(n,)``.
        crowd: ``(m,)`` whether an object stands for a crowd, which any number of detections may lie in.
        iou: the overlap that a match needs.
        any_class: match objects of other classes, too (not crowds), for a confusion matrix.

    Returns:
        ``(n,)`` int: the object's index, -1 for nothing (a false positive), -2 for a crowd of its class (not counted).
    """
    taken_by = np.full(len(boxes), NOTHING)
    if not len(boxes) or not len(truth_boxes):
        return taken_by
    crowd = np.asarray(crowd, bool)
    same = np.asarray(labels)[:, None] == np.asarray(truth_labels)[None]
    overlap = overlaps(boxes, truth_boxes, crowd)
    overlap[~(same | (any_class & ~crowd[None]))] = 0
    least = min(iou, 1 - 1e-10)
    candidates = np.flatnonzero((overlap >= least).any(1))
    free = ~crowd
    for i in candidates[np.argsort(-np.asarray(scores)[candidates], kind="stable")]:
        own = np.where(free, overlap[i], 0)
        best = len(own) - 1 - int(own[::-1].argmax())  # of equal overlaps COCO takes the last
        if own[best] >= least:
            taken_by[i], free[best] = best, False
        elif overlap[i, crowd].max(initial=0) >= least:
            taken_by[i] = CROWD
    return taken_by


def overlaps(boxes: np.ndarray, truth_boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """``(n, m)`` IoU of xyxy boxes; for a crowd the share of the detection that lies in it."""
    low = np.maximum(boxes[:, None, :2], truth_boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth_boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    area, truth_area = ((b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, truth_boxes))
    union = np.where(crowd[None], area[:, None], area[:, None] + truth_area[None] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
