"""Why the AP is not higher: kinds of errors, confused classes, calibration, where it is low, labels that may be wrong.

Kinds of errors are those of TIDE (arXiv 2008.08115), counted and costed by hotcoco: ``confused`` (good box, wrong
class), ``localisation`` (right class, loose box), ``both``, ``duplicate`` (of an object already found), ``background``
(nothing there), ``missed``.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from dino_nb.evaluation.coco import Scores, evaluate_boxes, mean, score
from dino_nb.evaluation.matching import CROWD, NOTHING, by_image, match
from dino_nb.evaluation.thresholds import Thresholds

KINDS = {  # name: (TIDE's, meaning)
    "missed": ("Miss", "not found at all"),
    "confused": ("Cls", "good box, wrong class"),
    "localisation": ("Loc", "right class, loose box"),
    "both": ("Both", "wrong class, loose box"),
    "duplicate": ("Dupe", "found twice"),
    "background": ("Bkg", "nothing there"),
}
_MAX_DETECTIONS = 100  # per image: what TIDE looks at
_BACKGROUND, _GOOD, _TIGHT = 0.1, 0.5, 0.7  # IoU: overlaps below are none; of a match; of a box drawn well
_DOUBTFUL = 0.5  # of the threshold: from here on another class than the annotated one makes a label suspicious
_CROWDING, _SIDES = (1, 3, 10, 30), (0, 640, 1280, 2560)  # the first number of each group
_SIZES = {  # name: metric, from and below so many square pixels
    "small, below 32 x 32": ("APs", 0, 32**2),
    "medium, up to 96 x 96": ("APm", 32**2, 96**2),
    "large": ("APl", 96**2, np.inf),
}
_SHAPES = {  # name: from and below this width / height
    "taller than 1:3": (0, 1 / 3),
    "tall, to 2:3": (1 / 3, 2 / 3),
    "square": (2 / 3, 1.5),
    "wide, from 3:2": (1.5, 3),
    "wider than 3:1": (3, 1e5),
}


class Analysis:
    """Errors and what is behind them. Positions are those of ``scores.found`` and ``scores.truth``.

    Args:
        scores: what `dino_nb.evaluation.coco.score` returned.
        threshold: count detections from this score. Default: the best F1's.

    Attributes:
        threshold: the score from which detections are counted; ``thresholds``: how it was chosen.
        ap50: AP at IoU 0.5. ``cost``: kind -> AP50 that would be gained if errors of this kind alone were put right.
        counts: kind -> number among detections that score at least ``threshold``; ``correct``, too.
        images: image id -> ``correct``, ``wrong``, ``missed``, ``f1`` at ``threshold``.
        confusion: ``(K + 1, K + 1)`` counts at ``threshold`` and IoU 0.5: rows are the objects' classes, columns the
            detections'; the last of each is the background. ``pairs (n, 2)``: the object and the detection behind
            each count, -1 for none.
        where: rows ``group``, ``name``, ``count``, ``AP``, ``AP50``: AP by size, crowding, shape and image side, of
            the best 100 detections per image.
        label_errors: candidates, most certain first: ``kind`` (``wrong class``, ``missing box``, ``loose box``),
            ``certainty`` 0..1, ``image``, ``object`` and ``detection`` (rows, or None).
    """

    def __init__(self, scores: Scores, threshold: float | None = None) -> None:
        self.scores, self.thresholds, self.ap50 = scores, Thresholds(scores, threshold), scores.metrics["AP50"]
        self.threshold, table = self.thresholds.used, scores.found.table
        self.images = image_counts(scores, self.threshold)
        best = _best_of_each_image(table)
        evaluator = evaluate_boxes(scores.data, best)
        cost = evaluator.tide_errors(_GOOD, _BACKGROUND)["delta_ap"]
        self.cost = {kind: max(0.0, cost[name]) for kind, (name, _) in KINDS.items()}
        certain = evaluate_boxes(scores.data, table[table[:, 5] >= self.threshold])
        counts = certain.tide_errors(_GOOD, _BACKGROUND)["counts"]
        self.counts = {kind: int(counts[name]) for kind, (name, _) in KINDS.items()}
        self.counts["correct"] = sum(int(image["correct"]) for image in self.images.values())
        self.pairs, self.label_errors = _pairs(scores, self.threshold)
        self.confusion = np.zeros((len(scores.per_class) + 1,) * 2, np.int64)
        np.add.at(self.confusion, _classes(scores, self.pairs), 1)
        self.where = _where(scores, best, evaluator)

    def worst(self, n: int = 6) -> list[Any]:
        """The ids of the ``n`` images with the most errors, worst first."""
        wrong = {image: c["wrong"] + c["missed"] for image, c in self.images.items()}
        return sorted((i for i in wrong if wrong[i]), key=lambda i: -wrong[i])[:n]

    def cell(self, truth: int, found: int) -> np.ndarray:
        """``pairs`` behind one count of ``confusion``, surest detection first. Classes by position, -1: background."""
        k = len(self.confusion)
        row, column = _classes(self.scores, self.pairs)
        pairs = self.pairs[(row == truth % k) & (column == found % k)]
        return pairs[np.argsort(-_take(self.scores.found.table[:, 5], pairs[:, 1], 0), kind="stable")]

    def __str__(self) -> str:
        lines = [f"AP50 {self.ap50:.3f}; counted from score {self.threshold:.3f}: {self.counts['correct']:,} correct"]
        lines += [f"{kind:13}{self.counts[kind]:>7,}   AP50 +{self.cost[kind]:.3f} without" for kind in KINDS]
        return "\n".join(lines)


def analyse_errors(
    coco_gt: Any, results: Iterable[dict], image_ids: Iterable[Any] | None = None, threshold: float | None = None
) -> Analysis:
    """An `Analysis` of results scored as `dino_nb.evaluation.coco.score` does; same arguments."""
    return Analysis(score(coco_gt, results, image_ids), threshold)


def image_counts(scores: Scores, threshold: float) -> dict[Any, dict[str, float]]:
    """Image id -> ``correct``, ``wrong``, ``missed`` and ``f1`` of its detections from ``threshold``, at IoU 0.5."""
    matches = scores.matches
    kept, missed = matches.at(threshold)
    images = [
        scores.found.table[kept & (matches.taken >= 0), 0],
        scores.found.table[kept & (matches.taken == NOTHING), 0],
        scores.truth[missed, 0],
    ]
    counts = np.stack([np.bincount(rows.astype(np.int64), minlength=len(scores.found.image_ids)) for rows in images], 1)
    return {
        image: {"correct": c, "wrong": w, "missed": m, "f1": 2 * c / (2 * c + w + m) if c + w + m else 1.0}
        for image, (c, w, m) in zip(scores.found.image_ids, counts.tolist())
    }


def _take(values, rows, otherwise):
    """``values[rows]``, and ``otherwise`` for row -1."""
    return np.append(values, otherwise)[rows]


def _classes(scores, pairs):
    """The class of each pair's object and of its detection, by position; the number of classes for none."""
    columns = scores.truth[:, 6], scores.found.table[:, 6]
    return tuple(_take(c, rows, len(scores.per_class)).astype(np.int64) for c, rows in zip(columns, pairs.T))


def _pairs(scores, threshold):
    """``Analysis.pairs`` and ``label_errors``."""
    found, truth = scores.found.table, scores.truth
    kept = np.flatnonzero(found[:, 5] >= _DOUBTFUL * threshold)
    taken = np.full(len(found), CROWD)
    taken[kept] = match(found[kept], truth, any_class=True)
    sure = found[:, 5] >= threshold  # those below choose last, so that they change nothing for these
    missed = np.flatnonzero(~np.isin(np.arange(len(truth)), taken[sure]) & (truth[:, 5] == 0))
    right = np.flatnonzero(sure & (taken != CROWD))
    pairs = np.concatenate([np.stack([taken[right], right], 1), np.stack([missed, np.full_like(missed, NOTHING)], 1)])
    candidates = []
    for mine, objects in by_image(found, truth):
        candidates += _suspects(found, truth, mine, objects, taken, sure)
    return pairs, sorted(candidates, key=lambda c: -c["certainty"])


def _suspects(found, truth, mine, objects, taken, sure):
    """What labels of one image are suspected of, by each detection that was matched (not ``CROWD``)."""
    from hotcoco.primitives import bbox_iou

    objects = objects[truth[objects, 5] == 0]
    overlap = bbox_iou(found[mine, 1:5], truth[objects, 1:5], np.zeros(len(objects), bool))
    for i in np.flatnonzero(taken[mine] != CROWD):
        row, (score, label) = mine[i], found[mine[i], 5:7]
        at = int(np.flatnonzero(objects == taken[row])[0]) if taken[row] >= 0 else int(np.argmax([*overlap[i], 0]))
        iou = overlap[i, at] if at < len(objects) else 0
        same = at < len(objects) and truth[objects[at], 6] == label
        kind, certainty = "", score * (1 - iou)
        if taken[row] >= 0 and not same:
            # less certain where the annotated class was also found there, if with a lower score
            own = (found[mine, 6] == truth[objects[at], 6]) & (overlap[:, at] >= _GOOD)
            kind, certainty = "wrong class", score * (1 - found[mine[own], 5].max(initial=0))
        elif sure[row] and taken[row] >= 0:
            kind = "loose box" if iou < _TIGHT else ""
        elif sure[row] and iou < _GOOD:
            free = same and iou >= _BACKGROUND and objects[at] not in taken[mine[sure[mine]]]
            kind, certainty = ("loose box" if free else "missing box"), certainty if iou >= _BACKGROUND else score
        if kind:
            about = None if kind == "missing box" else int(objects[at])
            yield {
                **{"kind": kind, "certainty": float(certainty), "image": int(found[row, 0])},
                **{"object": about, "detection": int(row)},
            }


def _where(scores, best, evaluator):
    """Rows of AP by size, crowding, image side and shape, of groups that have objects."""
    truth = scores.truth[scores.truth[:, 5] == 0]
    ratios = _ratio(truth[:, 3:5])
    rows = [
        ("object size", name, _count(truth[:, 7], low, high), scores.metrics[key], -1.0)
        for name, (key, low, high) in _SIZES.items()
    ]
    crowding = np.bincount(truth[:, 0].astype(np.int64), minlength=len(scores.found.image_ids))
    sides = np.array([max(i.get("width", 0), i.get("height", 0)) for i in scores.data["images"]])
    for group, values, starts in (
        ("objects per image", crowding, _CROWDING),
        ("long side of the image, pixels", sides, _SIDES),
    ):
        for low, high in zip(starts, (*starts[1:], np.inf)):
            ids = np.flatnonzero((values >= max(low, 1)) & (values < high)) + 1
            one = evaluator.slice_by({"these": ids.tolist()})["these"] if len(ids) else {"AP": -1.0, "AP50": -1.0}
            name = f"{low} to {high - 1}" if high < np.inf else f"{low} and more"
            rows.append((group, name, len(ids), one["AP"], one["AP50"]))
    precision = _by_shape(scores, best)
    for i, (name, (low, high)) in enumerate(_SHAPES.items(), 1):
        aps = mean(precision[..., i]), mean(precision[0, ..., i])
        rows.append(("shape", name, _count(ratios, low, high), *aps))
    return [dict(zip(("group", "name", "count", "AP", "AP50"), row)) for row in rows if row[2]]


def _by_shape(scores, table):
    """Precision by the shape of objects: COCO's area ranges, with width / height in the place of the area."""
    from hotcoco import COCO, COCOeval

    ratios = _ratio(scores.truth[:, 3:5]).tolist()
    truth = COCO({**scores.data, "annotations": [{**a, "area": r} for a, r in zip(scores.data["annotations"], ratios)]})
    found = truth.load_res(table + np.array([1, 0, 0, 0, 0, 0, 1]))
    found.update_anns(ids=np.arange(1, len(table) + 1), area=_ratio(table[:, 3:5]))
    evaluator = COCOeval(truth, found, "bbox")
    evaluator.params.area_rng = [[0, 1e5], *map(list, _SHAPES.values())]
    evaluator.params.area_rng_lbl = ["all", *_SHAPES]
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval["precision"][..., -1]


def _ratio(sizes):
    return sizes[:, 0] / np.maximum(sizes[:, 1], 1e-6)


def _count(values, low, high):
    return int(((values >= low) & (values < high)).sum())


def _best_of_each_image(table):
    """The best detections per image, in a third of the memory of all."""
    order = np.lexsort((-table[:, 5], table[:, 0]))
    image = table[order, 0]
    rank = np.arange(len(order)) - np.searchsorted(image, image)
    return table[np.sort(order[rank < _MAX_DETECTIONS])]
