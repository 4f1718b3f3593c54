"""COCO's box metrics, computed by hotcoco, or by pycocotools, the reference that it equals to the last bit."""

import contextlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dino_nb.data.coco_file import to_pycocotools
from dino_nb.errors import UserError, explain
from dino_nb.evaluation.matching import Matches, match

METRICS = {  # in pycocotools' order
    "AP": "IoU 0.50:0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects, below 32 x 32 pixels",
    "APm": "medium objects, up to 96 x 96",
    "APl": "large objects",
    "AR1": "recall, 1 detection per image and class",
    "AR10": "recall, 10 detections",
    "AR100": "recall, 100 detections",
    "ARs": "recall, small objects",
    "ARm": "recall, medium objects",
    "ARl": "recall, large objects",
}
LIBRARIES = ("hotcoco", "pycocotools")


class Detections(Sequence):
    """COCO results as a table, in a tenth of the memory of dicts; as a sequence it is the dicts.

    ``table (n, 7)`` float64: position in ``image_ids``, x, y, width, height, score, position in ``category_ids``.
    """

    def __init__(self, table: np.ndarray, image_ids: Sequence[Any], category_ids: Sequence[Any]) -> None:
        self.table, self.image_ids, self.category_ids = table, list(image_ids), list(category_ids)

    @classmethod
    def of(
        cls, results: Iterable[dict], image_ids: Sequence, category_ids: Sequence, what: str = "a result"
    ) -> "Detections":
        """From dicts. ``UserError`` for ids that are not listed and for numbers that are none."""
        known = {"image_id": image_ids, "category_id": category_ids}
        place = {key: {i: n for n, i in enumerate(ids)} for key, ids in known.items()}
        rows = []
        for number, result in enumerate(results):
            try:
                ids = {key: result[key] for key in known}
                values = [*map(float, result["bbox"]), float(result["score"])]
            except (KeyError, TypeError, ValueError, OverflowError):
                values = []
            if len(values) != 5 or not all(map(math.isfinite, values)):
                needed = "an image_id, a category_id, a bbox of four finite numbers and a finite score"
                raise UserError(f"{what} (number {number}) needs {needed}: {result!r:.200}")
            for key, i in ids.items():
                if isinstance(i, (list, dict)) or i not in place[key]:
                    raise UserError(
                        f"{what} (number {number}) has {key} {i!r}, which the annotation file does not list."
                    )
            rows.append((place["image_id"][ids["image_id"]], *values, place["category_id"][ids["category_id"]]))
        return cls(np.array(rows, np.float64).reshape(-1, 7), image_ids, category_ids)

    def only(self, image_ids: list, category_ids: list) -> "Detections":
        """These with the ids in this order, without those of other images."""
        if (self.image_ids, self.category_ids) == (image_ids, category_ids):
            return self
        table = self.table.copy()
        for column, old, new in ((0, self.image_ids, image_ids), (6, self.category_ids, category_ids)):
            place = {k: i for i, k in enumerate(new)}
            table[:, column] = np.array([place.get(k, -1) for k in old] or [0])[table[:, column].astype(np.int64)]
        return Detections(table[(table[:, [0, 6]] >= 0).all(1)], image_ids, category_ids)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Detections(self.table[index], self.image_ids, self.category_ids)
        image, x, y, w, h, certain, category = self.table[index].tolist()
        ids = {"image_id": self.image_ids[int(image)], "category_id": self.category_ids[int(category)]}
        return {**ids, "bbox": [x, y, w, h], "score": certain}

    def __iter__(self) -> Iterator[dict]:
        return (self[i] for i in range(len(self)))


def read_results(path: str | Path, image_ids: Sequence[Any], category_ids: Sequence[Any]) -> Detections:
    """A saved ``results.json``; a damaged or foreign file is a ``UserError`` that names it."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(explain(error)) from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path} cannot be read as results in JSON: {error}") from error
    if not isinstance(data, list) or not all(isinstance(record, dict) for record in data):
        raise UserError(f"{path} does not hold COCO results (a list of image_id, category_id, bbox, score).")
    return Detections.of(data, image_ids, category_ids, f"{path}: a result")


@dataclass
class Scores:
    """What :func:`score` returns.

    Attributes:
        metrics: the 12 numbers by name (``METRICS``), 0..1; -1 where there is no object to be found.
        per_class: a dict per category, by id: ``id``, ``name``, ``images``, ``objects`` (crowds not counted),
            ``AP``, ``AP50``, ``AP75``, ``AR100``.
        precision: ``(10 IoU thresholds, 101 recalls 0..1, K categories)``, -1 where undefined.
        library: ``hotcoco`` or ``pycocotools``.
        found: the `Detections`, of the scored images alone.
        truth: ``(m, 8)``: position of the image, x, y, width, height, crowd, position of the category, area; rows in
            the order of ``annotations``, the file's records.
        data: the same for :func:`evaluate_boxes`, with ids numbered from 1.
    """

    metrics: dict[str, float]
    per_class: list[dict[str, Any]]
    precision: np.ndarray
    library: str
    found: Detections = field(repr=False)
    truth: np.ndarray = field(repr=False)
    annotations: list[dict] = field(repr=False)
    data: dict[str, Any] = field(repr=False)

    @cached_property
    def matches(self) -> Matches:
        """Which detection found which object at IoU 0.5."""
        taken = match(self.found.table, self.truth)
        return Matches(self.found.table, self.truth, taken, len(self.per_class))


def score(
    coco_gt: Any, results: Iterable[dict], image_ids: Iterable[Any] | None = None, library: str | None = None
) -> Scores:
    """COCO box metrics of ``results``.

    Args:
        coco_gt: ``pycocotools.coco.COCO`` with the ground truth.
        results: `Detections`, or a list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``, ids as in
            ``coco_gt``, boxes in pixels.
        image_ids: score only these images. Default: all, with or without results.
        library: ``hotcoco`` (default) or ``pycocotools``; the numbers are the same.

    Raises:
        UserError: a result with an id that ``coco_gt`` does not list, or with numbers that are not finite.

    The library gets ids renumbered from 1: pycocotools takes annotation id 0 for "not matched" and counts such an
    object as missed, and ids may be strings or too large for arrays.
    """
    library = library or "hotcoco"
    if library not in LIBRARIES:
        raise UserError(f"metrics are computed by {' or '.join(LIBRARIES)}, not {library!r}.")
    data = coco_gt.dataset
    categories = sorted(data["categories"], key=lambda c: (isinstance(c["id"], str), c["id"]))
    category_ids, every = [c["id"] for c in categories], [image["id"] for image in data["images"]]
    wanted = None if image_ids is None else set(image_ids)
    chosen = [i for i in every if wanted is None or i in wanted]
    found = results if isinstance(results, Detections) else Detections.of(results, every, category_ids)
    found = found.only(chosen, category_ids)
    at, number = ({i: n for n, i in enumerate(ids)} for ids in (chosen, category_ids))
    annotations = [a for a in data["annotations"] if a["image_id"] in at]
    columns = [(at[a["image_id"]], *a["bbox"], a["iscrowd"], number[a["category_id"]], a["area"]) for a in annotations]
    truth = np.array(columns, np.float64).reshape(-1, 8)
    sides = ("width", "height")
    sizes = {r["id"]: {k: r[k] for k in sides if type(r.get(k)) is int and 0 < r[k] < 2**31} for r in data["images"]}
    numbered = {
        "info": {},
        "images": [{**sizes[i], "id": n + 1} for i, n in at.items()],
        "categories": [{"id": i, "name": str(i)} for i in range(1, len(categories) + 1)],
        "annotations": [
            {**a, "id": i, "image_id": at[a["image_id"]] + 1, "category_id": number[a["category_id"]] + 1}
            for i, a in enumerate(annotations, 1)
        ],
    }
    evaluator = evaluate_boxes(numbered, found.table, library)
    metrics = {name: float(value) for name, value in zip(METRICS, evaluator.stats)}
    precision, recall = (evaluator.eval[key][..., 0, -1].copy() for key in ("precision", "recall"))
    rows = _per_class(categories, precision, recall, truth)
    return Scores(metrics, rows, precision, library, found, truth, annotations, numbered)


def evaluate_boxes(data: dict[str, Any], table: np.ndarray, library: str = "hotcoco") -> Any:
    """A ``COCOeval``, run, of ``Scores.data`` and the table of `Detections`."""
    import hotcoco
    import pycocotools.cocoeval

    rows, kind = table + np.array([1, 0, 0, 0, 0, 0, 1]), hotcoco.COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        if library == "hotcoco":
            truth = hotcoco.COCO(data)
            found = truth.load_res(rows)
        else:
            truth, kind = to_pycocotools(data), pycocotools.cocoeval.COCOeval
            # it loads no empty table
            found = truth.loadRes(rows) if len(rows) else to_pycocotools({**data, "annotations": []})
        evaluator = kind(truth, found, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def ceiling(coco_gt: Any, image_ids: Iterable[Any] | None = None) -> float:
    """The highest AP, at any IoU, that perfect detections of these images can reach; -1 without objects.

    1.0 unless an image has more than 100 objects of one class: COCO looks at 100 detections per image and class.
    """
    wanted = {i["id"] for i in coco_gt.dataset["images"]} if image_ids is None else set(image_ids)
    objects = (a for a in coco_gt.dataset["annotations"] if not a["iscrowd"])
    return score(coco_gt, [{**a, "score": 1.0} for a in objects if a["image_id"] in wanted], wanted).metrics["AP50"]


def mean(values: np.ndarray) -> float:
    """The mean of what is defined (above -1), -1 if nothing is."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def _per_class(categories, precision, recall, truth):
    rows = []
    for k, category in enumerate(categories):
        images = truth[(truth[:, 6] == k) & (truth[:, 5] == 0), 0]
        row = {"id": category["id"], "name": str(category["name"])}
        row |= {"images": len(np.unique(images)), "objects": len(images)}
        row |= {"AP": mean(precision[:, :, k]), "AP50": mean(precision[0, :, k]), "AP75": mean(precision[5, :, k])}
        rows.append({**row, "AR100": mean(recall[:, k])})
    return rows
