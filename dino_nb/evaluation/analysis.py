"""Why the AP is not higher: kinds of errors, confused classes, calibration, where it is low, labels that may be wrong.

Kinds of errors are those of TIDE (arXiv 2008.08115), counted and costed by hotcoco: ``confused`` (good box, wrong
class), ``localisation`` (right class, loose box), ``both``, ``duplicate`` (of an object already found), ``background``
(nothing there), ``missed``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dino_nb.evaluation.coco import MAX_DETECTIONS, Scores, evaluate_boxes, mean, score
from dino_nb.evaluation.matching import CROWD, NOTHING, match_image, overlaps
from dino_nb.evaluation.thresholds import Thresholds, by_image, find_thresholds, to_corners

KINDS = {  # name: (TIDE's, meaning)
    "missed": ("Miss", "not found at all"),
    "confused": ("Cls", "good box, wrong class"),
    "localisation": ("Loc", "right class, loose box"),
    "both": ("Both", "wrong class, loose box"),
    "duplicate": ("Dupe", "found twice"),
    "background": ("Bkg", "nothing there"),
}
_BACKGROUND, _GOOD, _TIGHT = 0.1, 0.5, 0.7  # IoU: overlaps below are none; of a match; of a box drawn well
_DOUBTFUL = 0.5  # of the threshold: from here on another class than the annotated one makes a label suspicious
_CROWDING, _SIDES = (1, 3, 10, 30), (0, 640, 1280, 2560)
_SIZES = (  # name, metric, from and below so many square pixels
    ("small, below 32 x 32", "APs", 0, 32**2),
    ("medium, up to 96 x 96", "APm", 32**2, 96**2),
    ("large", "APl", 96**2, np.inf),
)
_SHAPES = (  # name, from and below this width / height
    ("taller than 1:3", 0, 1 / 3),
    ("tall, to 2:3", 1 / 3, 2 / 3),
    ("square", 2 / 3, 1.5),
    ("wide, from 3:2", 1.5, 3),
    ("wider than 3:1", 3, 1e5),
)


@dataclass
class Analysis:
    """What :func:`analyse` returns. Positions are those of ``scores.found`` and ``scores.truth``.

    Attributes:
        threshold: the score from which detections are counted; ``thresholds``: how it was chosen.
        ap50: AP at IoU 0.5. ``cost``: kind -> AP50 that would be gained if errors of this kind alone were put right.
        counts: kind -> number among detections that score at least ``threshold``; ``correct``, too.
        images: image id -> ``correct``, ``wrong``, ``missed``, ``f1`` at ``threshold``.
        confusion: ``(K + 1, K + 1)`` counts at ``threshold`` and IoU 0.5: rows are the objects' classes, columns the
            detections'; the last of each is the background. ``pairs (n, 2)``: the object and the detection behind
            each count, -1 for none.
        where: rows ``group``, ``name``, ``count``, ``AP``, ``AP50``: AP by size, crowding, aspect and image side, of
            the best 100 detections per image.
        label_errors: candidates, most certain first: ``kind`` (``wrong class``, ``missing box``, ``loose box``),
            ``certainty`` 0..1, ``image``, ``object`` and ``detection`` (rows, or None).
    """

    scores: Scores = field(repr=False)
    thresholds: Thresholds = field(repr=False)
    threshold: float
    ap50: float
    cost: dict[str, float]
    counts: dict[str, int]
    images: dict[Any, dict[str, float]] = field(repr=False)
    confusion: np.ndarray = field(repr=False)
    pairs: np.ndarray = field(repr=False)
    where: list[dict[str, Any]] = field(repr=False)
    label_errors: list[dict[str, Any]] = field(repr=False)

    def worst(self, n: int = 6) -> list[Any]:
        """The ids of the ``n`` images with the most errors, worst first."""
        wrong = {image: c["wrong"] + c["missed"] for image, c in self.images.items()}
        return sorted((i for i in wrong if wrong[i]), key=lambda i: -wrong[i])[:n]

    def cell(self, truth: int, found: int) -> np.ndarray:
        """``pairs`` behind one count of ``confusion``, surest detection first. Classes by position, -1: background."""
        k = len(self.confusion) - 1
        row, column = self._cells()
        pairs = self.pairs[(row == truth % (k + 1)) & (column == found % (k + 1))]
        return pairs[np.argsort(-_take(self.scores.found.table[:, 5], pairs[:, 1], 0), kind="stable")]

    def _cells(self):
        k = len(self.scores.per_class)
        classes = self.scores.truth[:, 5], self.scores.found.table[:, 6]
        return tuple(_take(c, rows, k).astype(np.int64) for c, rows in zip(classes, self.pairs.T))

    def __str__(self) -> str:
        lines = [f"AP50 {self.ap50:.3f}; counted from score {self.threshold:.3f}: {self.counts['correct']:,} correct"]
        lines += [f"{kind:13}{self.counts[kind]:>7,}   AP50 +{self.cost[kind]:.3f} without" for kind in KINDS]
        return "\n".join(lines)


def analyse_errors(
    coco_gt: Any, results: Iterable[dict], image_ids: Iterable[Any] | None = None, threshold: float | None = None
) -> Analysis:
    """:func:`analyse` of results scored as `dino_nb.evaluation.coco.score` does; same arguments."""
    return analyse(score(coco_gt, results, image_ids), threshold)


def analyse(scores: Scores, threshold: float | None = None) -> Analysis:
    """Everything that an `Analysis` has. ``threshold``: count detections from this score; default: the best F1's."""
    thresholds = find_thresholds(scores, threshold)
    threshold = thresholds.used
    table = scores.found.table
    certain = evaluate_boxes(scores.data, table[table[:, 5] >= threshold])
    images = image_counts(scores, threshold, certain)
    counted = certain.tide_errors(_GOOD, _BACKGROUND)["counts"]
    counts = {kind: int(counted[tide]) for kind, (tide, _) in KINDS.items()}
    counts["correct"] = int(sum(i["correct"] for i in images.values()))
    best = best_of_each_image(table)
    evaluator = evaluate_boxes(scores.data, best)
    tide = evaluator.tide_errors(_GOOD, _BACKGROUND)
    cost = {kind: max(0.0, tide["delta_ap"][name]) for kind, (name, _) in KINDS.items()}
    pairs, label_errors = _pairs(scores, threshold)
    k = len(scores.per_class)
    confusion, where = np.zeros((k + 1, k + 1), np.int64), _where(scores, evaluator) + _by_aspect(scores, best)
    given = (scores, thresholds, threshold, scores.metrics["AP50"], cost, counts, images)
    result = Analysis(*given, confusion, pairs, where, label_errors)
    np.add.at(confusion, result._cells(), 1)
    return result


def image_counts(scores: Scores, threshold: float, evaluator: Any = None) -> dict[Any, dict[str, float]]:
    """Image id -> ``correct``, ``wrong``, ``missed`` and ``f1`` of its detections from ``threshold``, at IoU 0.5."""
    table = scores.found.table
    evaluator = evaluator or evaluate_boxes(scores.data, table[table[:, 5] >= threshold])
    found = evaluator.image_diagnostics(_GOOD)["img_summary"]
    nothing = {"tp": 0, "fp": 0, "fn": 0, "f1": 1.0}
    counts = [found.get(number, nothing) for number in range(1, len(scores.found.image_ids) + 1)]
    keys = {"correct": "tp", "wrong": "fp", "missed": "fn", "f1": "f1"}
    return {i: {name: one[key] for name, key in keys.items()} for i, one in zip(scores.found.image_ids, counts)}


def _take(values, rows, otherwise):
    """``values[rows]``, and ``otherwise`` for row -1."""
    return np.append(values, otherwise)[rows]


def _pairs(scores, threshold):
    """``Analysis.pairs`` and ``label_errors``."""
    found, truth = scores.found.table, scores.truth
    pairs, candidates = [np.empty((0, 2), np.int64)], []
    for image, (mine, objects) in enumerate(by_image(scores)):
        kept = mine[found[mine, 5] >= _DOUBTFUL * threshold]
        boxes, crowd = to_corners(found[kept]), truth[objects, 6] > 0
        taken = match_image(
            *(boxes, found[kept, 6], found[kept, 5], truth[objects, 1:5], truth[objects, 5], crowd), any_class=True
        )
        sure = found[kept, 5] >= threshold  # those below choose last, so that they change nothing for these
        of = np.where(taken >= 0, objects[np.maximum(taken, 0)], NOTHING) if len(objects) else taken
        missed = objects[~crowd & ~np.isin(objects, of[sure])]
        pairs.append(np.stack([of, kept], 1)[sure & (taken != CROWD)])
        pairs.append(np.stack([missed, np.full_like(missed, NOTHING)], 1))
        overlap = overlaps(boxes, truth[objects, 1:5], crowd)
        overlap[:, crowd] = 0
        for d in np.flatnonzero(taken != CROWD):
            kind, certainty, at = _suspect(found, truth, mine, objects, kept[d], taken[d], overlap[d], taken[sure])
            if kind and (sure[d] or kind == "wrong class"):
                about = None if kind == "missing box" else int(objects[at])
                row = {"kind": kind, "certainty": float(certainty), "image": image}
                candidates.append({**row, "object": about, "detection": int(kept[d])})
    return np.concatenate(pairs), sorted(candidates, key=lambda c: -c["certainty"])


def _suspect(found, truth, mine, objects, detection, taken, overlap, all_taken):
    """What the label is suspected of by one detection, how certainly, and the object (position in ``objects``)."""
    score, category = found[detection, 5:7]
    if taken >= 0 and truth[objects[taken], 5] != category:
        # less certain where the annotated class was also found there, if with a lower score
        own = mine[found[mine, 6] == truth[objects[taken], 5]]
        there = overlaps(to_corners(found[own]), truth[objects[[taken]], 1:5], np.zeros(1, bool))[:, 0] >= _GOOD
        return "wrong class", score * (1 - found[own[there], 5].max(initial=0)), taken
    if taken >= 0:
        return ("loose box" if overlap[taken] < _TIGHT else None), score * (1 - overlap[taken]), taken
    best = int(overlap.argmax()) if len(overlap) else -1
    if best < 0 or overlap[best] < _BACKGROUND:
        return "missing box", score, -1
    if overlap[best] >= _GOOD:
        return None, 0, -1
    if truth[objects[best], 5] == category and best not in all_taken:
        return "loose box", score * (1 - overlap[best]), best
    return "missing box", score * (1 - overlap[best]), -1


def _where(scores, evaluator):
    """Rows of AP by size, crowding and image side, of groups that have objects."""
    truth = scores.truth[scores.truth[:, 6] == 0]
    rows = []
    for name, key, low, high in _SIZES:
        n = int(((truth[:, 7] >= low) & (truth[:, 7] < high)).sum())
        rows.append({"group": "object size", "name": name, "count": n, "AP": scores.metrics[key], "AP50": -1.0})
    count = np.bincount(truth[:, 0].astype(np.int64), minlength=len(scores.found.image_ids))
    sides = np.array([max(i.get("width", 0), i.get("height", 0)) for i in scores.data["images"]])
    for group, values, edges in (
        ("objects per image", count, _CROWDING),
        ("long side of the image, pixels", sides, _SIDES),
    ):
        bounds = list(zip(edges, (*edges[1:], np.inf)))
        inside = [np.flatnonzero((values >= max(low, 1)) & (values < high)) + 1 for low, high in bounds]
        scored = evaluator.slice_by({str(i): ids.tolist() for i, ids in enumerate(inside) if len(ids)})
        for i, ((low, high), ids) in enumerate(zip(bounds, inside)):
            one = scored.get(str(i), {"AP": -1.0, "AP50": -1.0})
            name = f"{low} to {high - 1}" if high < np.inf else f"{low} and more"
            rows.append({"group": group, "name": name, "count": len(ids), "AP": one["AP"], "AP50": one["AP50"]})
    return [row for row in rows if row["count"]]


def best_of_each_image(table: np.ndarray) -> np.ndarray:
    """The rows of the best 100 detections per image: what TIDE looks at, in a third of the memory."""
    order = np.lexsort((-table[:, 5], table[:, 0]))
    image = table[order, 0]
    rank = np.arange(len(order)) - np.searchsorted(image, image)
    return table[np.sort(order[rank < MAX_DETECTIONS])]


def _by_aspect(scores, table):
    """AP by the shape of objects: COCO's area ranges, with width / height in the place of the area."""
    from hotcoco import COCO, COCOeval

    ratios = _ratio(scores.truth[:, 3:5] - scores.truth[:, 1:3])
    annotations = [{**a, "area": r} for a, r in zip(scores.data["annotations"], ratios.tolist())]
    truth = COCO({**scores.data, "annotations": annotations})
    found = truth.load_res(table + np.array([1, 0, 0, 0, 0, 0, 1]))
    found.update_anns(ids=np.arange(1, len(table) + 1), area=_ratio(table[:, 3:5]))
    evaluator, (names, *bounds) = COCOeval(truth, found, "bbox"), zip(*_SHAPES)
    ranges = [[low, high] for low, high in zip(*bounds)]
    evaluator.params.area_rng, evaluator.params.area_rng_lbl = [[0, 1e5], *ranges], ["all", *names]
    evaluator.evaluate()
    evaluator.accumulate()
    precision, real = evaluator.eval["precision"][..., -1], ratios[scores.truth[:, 6] == 0]
    rows = []
    for i, (name, low, high) in enumerate(_SHAPES, 1):
        n = int(((real >= low) & (real < high)).sum())
        ap, ap50 = mean(precision[..., i]), mean(precision[0, ..., i])
        rows.append({"group": "shape", "name": name, "count": n, "AP": ap, "AP50": ap50})
    return [row for row in rows if row["count"]]


def _ratio(sizes):
    return sizes[:, 0] / np.maximum(sizes[:, 1], 1e-6)
