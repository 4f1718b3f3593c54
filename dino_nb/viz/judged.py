"""Detections on an annotated split, found once: which are right at a threshold, and how an image with them looks."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_nb.data.dataset import CocoDataset
from dino_nb.data.images import open_image
from dino_nb.draw import add_legend, draw_boxes
from dino_nb.errors import UserError
from dino_nb.evaluation.matching import CROWD, NOTHING, match_image
from dino_nb.evaluation.thresholds import best_f1, rates_at
from dino_nb.inference.detector import Detector
from dino_nb.inference.results import Result
from dino_nb.inference.sources import warn_of

FLOOR = 0.05  # the lowest score that is kept of a detection
SHORTEST, LONG_SIDE = 480, 900  # pixels of the long side of a shown image
# outcome -> (what a legend says, colour, line)
OUTCOMES = {
    "correct": ("correct", "#009E73", "solid"),
    "wrong": ("wrong", "#D55E00", "dashed"),
    "missed": ("missed", "#F0E442", "dotted"),
    "other": ("not judged", "#BBBBBB", "solid"),
}


@dataclass
class Judged:
    """Detections of one detector on a split, in flat arrays: about 40 bytes each, and no image.

    Images are numbered from 0 in the order of ``indices``.

    Attributes:
        data: the split. indices: the positions in it of the images that were looked at.
        names: class names: those of the data set, then those that the detector alone knows.
        starts: ``(images + 1,)``: detections ``starts[i]:starts[i + 1]`` are those of image ``i``, best first.
        scores, labels, boxes: ``(n,)``, ``(n,)`` positions in ``names``, ``(n, 4)`` xyxy in pixels.
        taken: ``(n,)``: the object that a detection takes (numbered in its image), -1 none, -2 a crowd.
        truth_starts, truth_labels, crowd: the same of the annotations.
        found_at: ``(m,)`` score of the detection that takes an object, -1 where none does.
        floor: the score below which no detection was kept: lower thresholds change nothing.
    """

    data: CocoDataset
    indices: list[int]
    names: list[str]
    starts: NDArray
    scores: NDArray
    labels: NDArray
    boxes: NDArray
    taken: NDArray
    truth_starts: NDArray
    truth_labels: NDArray
    crowd: NDArray
    found_at: NDArray
    floor: float = FLOOR

    def rates(self, threshold: float, classes: Sequence[str] = ()) -> dict[str, float]:
        """``precision``, ``recall``, ``f1`` over the whole split at ``threshold``, of ``classes`` (default: all); -1
        where there is nothing to count."""
        return rates_at(*self._counted(classes), threshold)

    def best(self, classes: Sequence[str] = ()) -> tuple[float, float] | None:
        """``(threshold, F1)`` of the highest F1; None if no detection is right."""
        return best_f1(*self._counted(classes))

    def curves(self, classes: Sequence[str] = ()) -> dict[str, NDArray]:
        """``threshold``, ``precision``, ``recall`` and ``f1``, each ``(100,)``, from the lowest kept score to 1."""
        certain, right, objects = self._counted(classes)
        thresholds = np.linspace(self.floor, 1, 100)
        order = np.argsort(certain)
        kept = len(certain) - np.searchsorted(certain[order], thresholds)  # detections at each threshold
        hits = np.append(np.cumsum(right[order][::-1])[::-1], 0)[len(certain) - kept]
        with np.errstate(invalid="ignore", divide="ignore"):
            curves = {"precision": hits / kept, "recall": hits / objects, "f1": 2 * hits / (kept + objects)}
        return {"threshold": thresholds} | {key: np.where(np.isfinite(v), v, -1) for key, v in curves.items()}

    def outcomes(self, index: int, threshold: float, classes: Sequence[str] = ()) -> tuple[NDArray, list[str], NDArray]:
        """Of one image: positions of the detections kept at ``threshold``, the outcome of each, and positions (in the
        image) of the objects missed."""
        chosen = self._chosen(classes)
        rows = np.arange(self.starts[index], self.starts[index + 1])
        rows = rows[(self.scores[rows] >= threshold) & chosen[self.labels[rows]]]
        judged = (self.taken[rows] != CROWD) & (self.labels[rows] < len(self.data.class_names))
        kinds = np.where(judged, np.where(self.taken[rows] >= 0, "correct", "wrong"), "other")
        objects = slice(self.truth_starts[index], self.truth_starts[index + 1])
        missed = ~self.crowd[objects] & (self.found_at[objects] < threshold) & chosen[self.truth_labels[objects]]
        return rows, kinds.tolist(), np.flatnonzero(missed)

    def with_errors(self, threshold: float, classes: Sequence[str] = ()) -> list[int]:
        """Positions of the images with a wrong detection or a missed object at ``threshold``."""
        chosen, known = self._chosen(classes), self.labels < len(self.data.class_names)
        wrong = (self.scores >= threshold) & chosen[self.labels] & known & (self.taken == NOTHING)
        missed = (self.found_at < threshold) & chosen[self.truth_labels] & ~self.crowd
        rows = [
            np.searchsorted(starts, np.flatnonzero(flags), "right") - 1
            for starts, flags in ((self.starts, wrong), (self.truth_starts, missed))
        ]
        return np.unique(np.concatenate(rows)).tolist()

    def draw(
        self,
        index: int,
        threshold: float = 0.3,
        classes: Sequence[str] = (),
        *,
        labels: bool = True,
        scores: bool = True,
        legend: bool = True,
        long_side: int | None = None,
    ) -> Image.Image:
        """One image, ``long_side`` pixels long, with its detections and the objects that they miss, told apart by
        colour and line."""
        image, scale, _ = reduced_file(str(self.data.path(self.indices[index])), long_side)
        rows, kinds, missed = self.outcomes(index, threshold, classes)
        truth = self.data.target(self.indices[index])
        boxes = np.concatenate([self.boxes[rows], truth["boxes"].numpy()[missed]]) * scale
        kinds += ["missed"] * len(missed)
        numbers = [*self.labels[rows].tolist(), *truth["labels"][missed].tolist()]
        looks = [OUTCOMES[kind] for kind in kinds]
        drawn = draw_boxes(
            image,
            boxes,
            [self.names[i] for i in numbers] if labels else None,
            [*self.scores[rows], *[None] * len(missed)] if scores else None,
            [color for _, color, _ in looks],
            line=[line for *_, line in looks],
        )
        return add_legend(drawn, list(OUTCOMES.values())) if legend else drawn

    def _chosen(self, classes: Sequence[str]) -> NDArray:
        return np.array([not classes or name in classes for name in self.names], bool)

    def _counted(self, classes: Sequence[str]) -> tuple[NDArray, NDArray, int]:
        """Scores of the detections that count, which of them are right, and the number of objects."""
        chosen = self._chosen(classes)
        counts = chosen[self.labels] & (self.labels < len(self.data.class_names)) & (self.taken != CROWD)
        objects = int((chosen[self.truth_labels] & ~self.crowd).sum())
        return self.scores[counts], self.taken[counts] >= 0, objects


def judge(
    detector: Detector | Sequence[Result],
    cocodir: str | Path | CocoDataset,
    split: str = "val",
    *,
    slice_size: int | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> Judged:
    """One pass over the annotated ``split`` of a COCODIR, for precision, recall and images at any threshold.

    Args:
        detector: a ``Detector``; or what its ``predict`` found on images of the split already, at a low threshold:
            only these images are then judged.
        cocodir: the folder, or a ``CocoDataset`` made with ``keep_crowd=True``.
        slice_size: see ``Detector.predict``.
        limit: take the first images only.
        progress: show a progress bar.

    Images that cannot be read are warned of and count as without detections.
    """
    data = cocodir if isinstance(cocodir, CocoDataset) else CocoDataset(cocodir, split, keep_crowd=True)
    known = detector.class_names if isinstance(detector, Detector) else _class_names(detector)
    names = list(dict.fromkeys([*data.class_names, *(str(name) for name in known if name is not None)]))
    number = {name: i for i, name in enumerate(names)}
    skipped: list[tuple[str, str]] = []
    paths = {data.path(i).resolve(): i for i in range(len(data))}
    if isinstance(detector, Detector):
        paths = dict(itertools.islice(paths.items(), limit))
        files = list(map(str, paths))
        results = detector.stream(files, FLOOR, slice_size=slice_size, skipped=skipped, progress=progress)
    else:
        given = {Path(result.path).resolve() for result in detector if result.path}
        paths = {path: i for path, i in paths.items() if path in given}
        results = (result for result in detector if result.path)
    if not paths:
        raise UserError(
            f"{data.annotation_file} lists no images" + ("." if isinstance(detector, Detector) else " of these.")
        )
    empty = np.zeros(0), np.zeros(0, np.int64), np.zeros((0, 4))
    found, floor = {}, FLOOR
    for result in results:
        floor = max(floor, result.threshold)
        labels = np.array([number[name] for name in result.names], np.int64)
        values = (result.scores.cpu().numpy().astype(float), labels, result.boxes.cpu().numpy().astype(float))
        found[Path(str(result.path)).resolve()] = values
    warn_of(skipped)
    columns: list[list[NDArray]] = [[] for _ in range(7)]
    for path, index in paths.items():
        scores, labels, boxes = found.get(path, empty)
        target = data.target(index)
        truth, crowd = target["labels"].numpy(), target["iscrowd"].numpy().astype(bool)
        taken = match_image(boxes, labels, scores, target["boxes"].numpy().astype(float), truth, crowd)
        found_at = np.full(len(truth), -1.0)
        found_at[taken[taken >= 0]] = scores[taken >= 0]
        for column, values in zip(columns, (scores, labels, boxes, taken, truth, crowd, found_at)):
            column.append(values)
    starts = [np.cumsum([0, *map(len, columns[i])]) for i in (0, 4)]
    scores, labels, boxes, taken, truth, crowd, found_at = (np.concatenate(column) for column in columns)
    boxes = boxes.astype(np.float32)
    return Judged(
        data,
        list(paths.values()),
        names,
        starts[0],
        scores,
        labels,
        boxes,
        taken,
        starts[1],
        truth,
        crowd,
        found_at,
        floor,
    )


def _class_names(results: Sequence[Result]) -> Sequence[str | None]:
    if not results:
        raise UserError("there are no results to show.")
    return results[0].class_names


def reduced(image: Image.Image, long_side: int | None = None) -> tuple[Image.Image, float]:
    """The image scaled to ``long_side`` pixels (default: to what a notebook shows), and the factor."""
    longest = max(image.size)
    scale = (long_side or min(max(SHORTEST, longest), LONG_SIDE)) / longest
    if scale == 1:
        return image, scale
    way = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return image.resize([max(1, round(side * scale)) for side in image.size], way), scale


@lru_cache(maxsize=8)
def reduced_file(path: str, long_side: int | None = None) -> tuple[Image.Image, float, tuple[int, int]]:
    """:func:`reduced` of a file, and its size (width, height) in pixels; the last few are kept."""
    image = open_image(path)
    return (*reduced(image, long_side), image.size)
