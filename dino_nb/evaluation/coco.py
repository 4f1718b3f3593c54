"""COCO's box metrics, computed by pycocotools, or by hotcoco (the same numbers, much sooner) where it is installed."""

import contextlib
import importlib.util
import io
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from dino_nb.data.coco_file import to_pycocotools
from dino_nb.errors import UserError

# In pycocotools' order. APs/APm/APl: objects below 32x32, up to 96x96 and above; AR1/10/100: by detections kept.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
IOUS = np.linspace(0.5, 0.95, 10)


@dataclass
class Scores:
    """What :func:`score` returns.

    Attributes:
        metrics: the 12 numbers by name (``METRICS``), 0..1; -1 where there is no object to be found.
        per_class: a dict per category, by id: ``id``, ``name``, ``images``, ``objects`` (crowds not counted),
            ``AP``, ``AP50``, ``AP75``, ``AR100``.
        precision: ``(10 IoU thresholds, 101 recalls 0..1, K categories)``, -1 where undefined.
        library: ``pycocotools`` or ``hotcoco``.
    """

    metrics: dict
    per_class: list
    precision: np.ndarray
    library: str


def score(coco_gt, results, image_ids=None, library=None):
    """COCO box metrics of ``results``.

    Args:
        coco_gt: ``pycocotools.coco.COCO`` with the truth.
        results: list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``, ids as in ``coco_gt``.
        image_ids: score only these images. Default: all, with or without results.
        library: ``pycocotools`` or ``hotcoco``. Default: hotcoco if it is installed. Its numbers are equal to the last
            bit (a test compares them), and COCO's val2017 takes it seconds instead of minutes.

    The library gets ids renumbered from 1: pycocotools takes annotation id 0 for "not matched" and counts such an
    object as missed, and ids may be strings or too large for arrays.
    """
    library = library or ("hotcoco" if importlib.util.find_spec("hotcoco") else "pycocotools")
    data = coco_gt.dataset
    wanted = None if image_ids is None else set(image_ids)
    images = {r["id"]: i for i, r in enumerate(data["images"], 1) if wanted is None or r["id"] in wanted}
    categories = sorted(data["categories"], key=lambda c: (isinstance(c["id"], str), c["id"]))
    number = {c["id"]: i for i, c in enumerate(categories, 1)}
    _check_ids(results, coco_gt, number)
    truth = {
        "info": {},
        "images": [{"id": i} for i in images.values()],
        "categories": [{"id": i, "name": str(i)} for i in number.values()],
        "annotations": [
            {**a, "id": i, "image_id": images[a["image_id"]], "category_id": number[a["category_id"]]}
            for i, a in enumerate((a for a in data["annotations"] if a["image_id"] in images), 1)
        ],
    }
    found = np.array(
        [
            (images[r["image_id"]], *r["bbox"], r["score"], number[r["category_id"]])
            for r in results
            if r["image_id"] in images
        ]
    ).reshape(-1, 7)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluation(library, truth, found)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = {name: float(value) for name, value in zip(METRICS, evaluation.stats)}
    rows = _per_class(evaluation.eval, categories, truth["annotations"])
    return Scores(metrics, rows, evaluation.eval["precision"][:, :, :, 0, -1].copy(), library)


def _evaluation(library, truth, found):
    """A ``COCOeval`` of ``truth`` (a dict) and ``found``, rows of (image, x, y, w, h, score, category)."""
    if library == "hotcoco":
        from hotcoco import COCO, COCOeval

        truth = COCO(truth)
        return COCOeval(truth, truth.load_res(found), "bbox")
    from pycocotools.cocoeval import COCOeval

    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "score")
    detections = [
        dict(zip(keys, (i, int(image), int(category), [x, y, w, h], w * h, 0, score)))
        for i, (image, x, y, w, h, score, category) in enumerate(found.tolist(), 1)
    ]
    return COCOeval(to_pycocotools(truth), to_pycocotools({**truth, "annotations": detections}), "bbox")


def _check_ids(results, coco_gt, categories):
    for result in results:
        for key, known in (("image_id", coco_gt.imgs), ("category_id", categories)):
            if result[key] not in known:
                raise UserError(f"a result has {key} {result[key]!r}, which the annotation file does not list.")


def _per_class(evaluated, categories, truth):
    precision, recall = evaluated["precision"][..., 0, -1], evaluated["recall"][..., 0, -1]
    objects, images = Counter(), defaultdict(set)
    for annotation in truth:
        if not annotation["iscrowd"]:
            objects[annotation["category_id"]] += 1
            images[annotation["category_id"]].add(annotation["image_id"])
    return [
        {
            "id": category["id"],
            "name": str(category["name"]),
            "images": len(images[number]),
            "objects": objects[number],
            "AP": _mean(precision[:, :, number - 1]),
            "AP50": _mean(precision[0, :, number - 1]),
            "AP75": _mean(precision[5, :, number - 1]),
            "AR100": _mean(recall[:, number - 1]),
        }
        for number, category in enumerate(categories, 1)
    ]


def _mean(values):
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0
