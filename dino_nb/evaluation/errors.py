"""Why the AP is not higher: every wrong detection and missed object by kind, and what each kind costs.

The kinds are those of TIDE (arXiv 2008.08115): ``confused`` (good box, wrong class), ``localisation`` (right class,
loose box), ``both``, ``duplicate`` (of an object already found), ``background`` (nothing there), ``missed``.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from dino_nb.data.coco_file import to_pycocotools
from dino_nb.evaluation.coco import score

KINDS = ("missed", "confused", "localisation", "both", "duplicate", "background")


@dataclass
class Errors:
    """What :func:`analyse_errors` returns.

    Attributes:
        ap50: AP at IoU 0.5 as it is.
        cost: kind -> AP50 that would be gained if errors of this kind alone were put right, 0..1.
        counts: kind -> number among detections that score at least ``threshold``, and of objects missed at it;
            ``correct`` too.
        images: image id -> counts of that image.
        threshold: the score from which detections were counted.
    """

    ap50: float
    cost: dict
    counts: Counter
    images: dict
    threshold: float

    def worst(self, n=6):
        """The ids of the ``n`` images with the most errors, worst first."""
        wrong = {image: sum(c[kind] for kind in KINDS) for image, c in self.images.items()}
        return sorted((i for i in wrong if wrong[i]), key=lambda i: -wrong[i])[:n]

    def __str__(self):
        lines = [f"AP50 {self.ap50:.3f}; counted from score {self.threshold}: {self.counts['correct']:,} correct"]
        lines += [f"{kind:13}{self.counts[kind]:>7,}   AP50 +{self.cost[kind]:.3f} without" for kind in KINDS]
        return "\n".join(lines)


def analyse_errors(coco_gt, results, image_ids=None, threshold=0.3, iou=0.5, background=0.1):
    """Sort the errors of ``results`` by kind.

    Args:
        coco_gt, results, image_ids: as for :func:`dino_nb.evaluation.coco.score`.
        threshold: counts are made of detections with at least this score; costs are of all detections.
        iou: least overlap of a good box.
        background: overlaps below this are none.

    Scores seven times, so install hotcoco for thousands of pictures.
    """
    image_ids = [i["id"] for i in coco_gt.dataset["images"]] if image_ids is None else list(image_ids)
    by_image = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    images, counts = {}, Counter()
    mended = {kind: [] for kind in KINDS}
    missed_ids = set()
    for image_id in image_ids:
        found = sorted(by_image[image_id], key=lambda r: -r["score"])
        truth = coco_gt.imgToAnns[image_id]
        kinds, target, missed = _sort_out(found, truth, iou, background)
        missed_ids |= {id(truth[i]) for i in missed}
        for kind in KINDS:
            mended[kind] += _mend(found, truth, kinds, target, kind)
        certain = sum(r["score"] >= threshold for r in found)
        kinds, _, missed = _sort_out(found[:certain], truth, iou, background)
        images[image_id] = Counter(k for k in kinds if k != "crowd") + Counter(missed=len(missed))
        counts += images[image_id]
    ap50 = score(coco_gt, results, image_ids).metrics["AP50"]
    cost = {}
    for kind in KINDS:
        truth = coco_gt
        if kind == "missed":  # objects that nothing points at: as if they were not there
            data = coco_gt.dataset
            kept = [a for a in data["annotations"] if id(a) not in missed_ids]
            truth = to_pycocotools({**data, "annotations": kept})
        cost[kind] = max(0.0, score(truth, mended[kind], image_ids).metrics["AP50"] - ap50)
    return Errors(ap50, cost, counts, images, threshold)


def _sort_out(found, truth, good, background):
    """Kind of each detection (``correct``, one of KINDS, or ``crowd``), the object that it is about (-1: none), and
    the objects that no detection is about. ``found`` is best first."""
    same, other, crowd = _overlaps(found, truth)
    kinds, target = [], np.full(len(found), -1)
    taken = np.zeros(len(truth), bool)
    for d in range(len(found)):  # COCO's matching: each detection takes the best free object of its class
        free = np.where(taken, -1.0, same[d])
        if free.size and free.max() >= good:
            target[d] = free.argmax()
            taken[target[d]] = True
    matched = target >= 0
    for d in range(len(found)):
        best_same, best_other = same[d].max(initial=0), other[d].max(initial=0)
        if matched[d]:
            kinds.append("correct")
        elif crowd[d].max(initial=0) >= good:
            kinds.append("crowd")
        elif best_same >= good:
            kinds.append("duplicate")
        elif best_other >= good:
            kinds.append("confused")
            target[d] = other[d].argmax()
        elif best_same >= background:
            kinds.append("localisation")
            target[d] = same[d].argmax()
        else:
            kinds.append("both" if best_other >= background else "background")
    objects = {i for i, annotation in enumerate(truth) if not annotation["iscrowd"]}
    return kinds, target, sorted(objects - set(target.tolist()))


def _overlaps(found, truth):
    """``(detections, objects)`` IoU with objects of the same class and of other classes (0 elsewhere), and the share
    of each detection that lies in a crowd of its class."""
    from pycocotools.mask import iou as box_iou

    shape = (len(found), len(truth))
    if 0 in shape:
        return np.zeros(shape), np.zeros(shape), np.zeros(shape)
    crowd = np.array([bool(a["iscrowd"]) for a in truth])
    boxes = [np.array([r["bbox"] for r in records], np.float64) for records in (found, truth)]
    overlap = np.asarray(box_iou(*boxes, crowd.astype(np.uint8)))
    same = np.array([[r["category_id"] == a["category_id"] for a in truth] for r in found])
    return overlap * (same & ~crowd), overlap * (~same & ~crowd), overlap * (same & crowd)


def _mend(found, truth, kinds, target, kind):
    """``found`` with the errors of one kind put right: moved onto their object if nothing better is there, else
    dropped."""
    done = {t for t, k in zip(target, kinds) if k == "correct"}
    kept = []
    for result, this, about in zip(found, kinds, target):
        if this != kind:
            kept.append(result)
        elif about >= 0 and about not in done:
            done.add(about)
            annotation = truth[about]
            kept.append({**result, "category_id": annotation["category_id"], "bbox": annotation["bbox"]})
    return kept
