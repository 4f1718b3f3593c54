"""Which detection found which object, as COCO matches them, and the precision and recall that come of it.

Detections are rows of `dino_nb.evaluation.coco.Detections`: image, x, y, width, height, score, class. Objects have the
same columns, with ``crowd`` (0 or 1) in the place of the score.
"""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOTHING, CROWD = -1, -2


def match(
    found: NDArray, truth: NDArray, iou: float = 0.5, any_class: bool = False, ignored: NDArray | None = None
) -> NDArray:
    """The row of ``truth`` that each row of ``found`` takes; ``NOTHING`` if it is wrong, ``CROWD`` if it is in one.

    In each image the detection of the highest score chooses first, and takes the free object of its class that it
    overlaps most; of equal scores the earlier one chooses first. Detections in a crowd of their class do not count.

    Args:
        iou: the overlap that a match needs; of a crowd, the share of the detection that lies in it.
        any_class: match objects of other classes, too (not crowds), for a confusion matrix.
        ignored: ``(m,)`` objects that do not count (of other sizes): they are taken last, and give ``CROWD``.
    """
    from hotcoco.primitives import bbox_iou

    taken, least = np.full(len(found), NOTHING), min(iou, 1 - 1e-10)
    for mine, objects in by_image(found, truth):
        if not len(mine) or not len(objects):
            continue
        crowd = truth[objects, 5] > 0
        overlap = bbox_iou(found[mine, 1:5], truth[objects, 1:5], crowd)
        overlap[(found[mine, 6:7] != truth[objects, 6]) & (crowd | (not any_class))] = 0
        aside = crowd if ignored is None else crowd | ignored[objects]
        candidates, free = np.flatnonzero((overlap >= least).any(1)), np.ones(len(objects), bool)
        for i in candidates[np.argsort(-found[mine[candidates], 5], kind="stable")]:
            for kind in (~aside, aside):
                own = np.where(free & kind, overlap[i], 0)
                best = len(own) - 1 - int(own[::-1].argmax())  # of equal overlaps COCO takes the last
                if own[best] >= least:
                    taken[mine[i]], free[best] = CROWD if aside[best] else objects[best], crowd[best]
                    break
    return taken


def by_image(found: NDArray, truth: NDArray) -> Iterator[tuple[NDArray, NDArray]]:
    """For each image: the rows of its detections, and of its objects."""
    count = 1 + int(max(found[:, 0].max(initial=0), truth[:, 0].max(initial=0)))
    return zip(split_rows(found[:, 0], count), split_rows(truth[:, 0], count))


def split_rows(numbers: NDArray, count: int) -> list[NDArray]:
    """The rows in which ``numbers (n,)`` is 0, those in which it is 1, and so on below ``count``."""
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(count + 1))
    return [order[a:b] for a, b in itertools.pairwise(starts)]


@dataclass
class Matches:
    """Detections and objects of a split, matched at IoU 0.5, to be counted at any threshold.

    Attributes:
        found, truth, taken: ``(n, 7)``, ``(m, 7)`` or more columns, and ``(n,)`` what :func:`match` returned.
        classes: how many classes objects can have; detections of higher class numbers do not count.
        counted: ``(n,)`` bool: neither in a crowd nor of another class.
        found_at: ``(m,)`` score of the detection that takes an object, -1 where none does.
    """

    found: NDArray
    truth: NDArray
    taken: NDArray
    classes: int

    def __post_init__(self) -> None:
        self.counted = (self.taken != CROWD) & (self.found[:, 6] < self.classes)
        self.found_at = np.full(len(self.truth), -1.0)
        hits = self.taken >= 0
        self.found_at[self.taken[hits]] = self.found[hits, 5]

    def at(self, threshold: float, only: Collection[int] | None = None) -> tuple[NDArray, NDArray]:
        """Which detections ``(n,)`` are kept at ``threshold``, and which objects ``(m,)`` are missed then.

        ``only``: class numbers; default: all.
        """
        kept, missed = self.found[:, 5] >= threshold, (self.found_at < threshold) & (self.truth[:, 5] == 0)
        if only is not None:
            kept, missed = kept & np.isin(self.found[:, 6], list(only)), missed & np.isin(self.truth[:, 6], list(only))
        return kept, missed

    def counts(self, only: Collection[int] | None = None) -> tuple[NDArray, NDArray, int]:
        """For :func:`rates` and :func:`best_f1`: scores of the detections that count, which are right, and objects."""
        kept, objects = self.at(-np.inf, only)[0] & self.counted, self.at(np.inf, only)[1]
        return self.found[kept, 5], self.taken[kept] >= 0, int(objects.sum())


def best_f1(certain: NDArray, right: NDArray, objects: int) -> tuple[float, float] | None:
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


def rates(certain: NDArray, right: NDArray, objects: int, thresholds: float | NDArray) -> dict[str, Any]:
    """``precision``, ``recall`` and ``f1`` at each threshold, -1 where undefined, of detections with these scores.

    ``certain (n,)``: scores; ``right (n,)``: which found an object; ``objects``: how many there are.
    """
    order = np.argsort(certain)
    dropped = np.searchsorted(certain[order], thresholds)
    kept, hits = len(certain) - dropped, np.append(np.cumsum(right[order][::-1])[::-1], 0)[dropped]
    shares: dict[str, tuple[Any, Any]] = {
        "precision": (hits, kept),
        "recall": (hits, objects),
        "f1": (2 * hits, kept + objects),
    }
    return {name: np.where(np.equal(b, 0), -1.0, a / np.maximum(b, 1)).tolist() for name, (a, b) in shares.items()}
