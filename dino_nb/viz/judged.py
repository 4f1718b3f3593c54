"""Detections on an annotated split, found once: which are right at a threshold, and how an image with them looks."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dino_nb.data.dataset import CocoDataset
from dino_nb.data.images import open_image
from dino_nb.draw import add_legend, draw_boxes
from dino_nb.errors import UserError
from dino_nb.evaluation.drawing import to_corners
from dino_nb.evaluation.matching import NOTHING, Matches, best_f1, match, rates
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
    """Detections of one detector on a split, as tables without images, about 70 bytes each.

    Images are numbered from 0 in the order of ``indices``. ``classes`` are names; none: all.

    Attributes:
        data: the split. indices: the positions in it of the images that were looked at.
        names: class names: those of the data set, then those that the detector alone knows.
        matches: the detections, the objects, and which found which; classes are positions in ``names``.
        floor: the score below which no detection was kept: lower thresholds change nothing.
    """

    data: CocoDataset
    indices: list[int]
    names: list[str]
    matches: Matches
    floor: float = FLOOR

    def rates(self, threshold: float | NDArray, classes: Sequence[str] = ()) -> dict[str, Any]:
        """``precision``, ``recall``, ``f1`` over the split at a threshold (or many); -1 with nothing to count."""
        return rates(*self.matches.counts(self._numbers(classes)), threshold)

    def best(self, classes: Sequence[str] = ()) -> tuple[float, float] | None:
        """``(threshold, F1)`` of the highest F1; None if no detection is right."""
        return best_f1(*self.matches.counts(self._numbers(classes)))

    def outcomes(self, index: int, threshold: float, classes: Sequence[str] = ()) -> tuple[NDArray, list[str], NDArray]:
        """Of one image: rows of the detections kept, the outcome of each, and rows of the objects missed."""
        kept, missed = self.matches.at(threshold, self._numbers(classes))
        rows = np.flatnonzero(kept & (self.matches.found[:, 0] == index))
        right = np.where(self.matches.taken[rows] >= 0, "correct", "wrong")
        kinds = np.where(self.matches.counted[rows], right, "other")
        return rows, kinds.tolist(), np.flatnonzero(missed & (self.matches.truth[:, 0] == index))

    def with_errors(self, threshold: float, classes: Sequence[str] = ()) -> list[int]:
        """Positions of the images with a wrong detection or a missed object."""
        one = self.matches
        kept, missed = one.at(threshold, self._numbers(classes))
        wrong = kept & one.counted & (one.taken == NOTHING)
        return np.unique(np.concatenate([one.found[wrong, 0], one.truth[missed, 0]])).astype(np.int64).tolist()

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
        found, truth = self.matches.found[rows], self.matches.truth[missed, :7]
        looks = [OUTCOMES[kind] for kind in [*kinds, *["missed"] * len(missed)]]
        drawn = draw_boxes(
            image,
            to_corners(np.concatenate([found, truth])) * scale,
            [self.names[int(i)] for i in [*found[:, 6], *truth[:, 6]]] if labels else None,
            [*found[:, 5], *[None] * len(missed)] if scores else None,
            [color for _, color, _ in looks],
            line=[line for *_, line in looks],
        )
        return add_legend(drawn, list(OUTCOMES.values())) if legend else drawn

    def _numbers(self, classes: Sequence[str]) -> list[int] | None:
        return [i for i, name in enumerate(self.names) if name in classes] if classes else None


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
    skipped: list[tuple[str, str]] = []
    paths = {data.path(i).resolve(): i for i in range(len(data))}
    known: Sequence[str | None]
    if isinstance(detector, Detector):
        known, of_these = detector.class_names, ""
        paths = dict(itertools.islice(paths.items(), limit))
        files = list(map(str, paths))
        results = detector.stream(files, FLOOR, slice_size=slice_size, skipped=skipped, progress=progress)
    elif detector:
        known, of_these = detector[0].class_names, " of these"
        results = (result for result in detector if result.path)
        given = {Path(str(result.path)).resolve() for result in detector if result.path}
        paths = {path: i for path, i in paths.items() if path in given}
    else:
        raise UserError("there are no results to show.")
    if not paths:
        raise UserError(f"{data.annotation_file} lists no images{of_these}.")
    names = list(dict.fromkeys([*data.class_names, *(str(name) for name in known if name is not None)]))
    number = {name: i for i, name in enumerate(names)}
    place = {path: n for n, path in enumerate(paths)}
    found, floor = {-1: np.empty((0, 7))}, FLOOR
    for result in results:
        floor = max(floor, result.threshold)
        if (n := place.get(Path(str(result.path)).resolve())) is not None:
            found[n] = _rows(n, result.boxes, result.scores, [number[name] for name in result.names])
    warn_of(skipped)
    targets = map(data.target, paths.values())
    truth = [_rows(n, t["boxes"], t["iscrowd"], t["labels"]) for n, t in enumerate(targets)]
    tables = np.concatenate(list(found.values())), np.concatenate(truth)
    return Judged(data, list(paths.values()), names, Matches(*tables, match(*tables), len(data.class_names)), floor)


def _rows(image, boxes, scores, classes):
    """Rows as in `dino_nb.evaluation.matching`, of xyxy boxes."""
    boxes, scores = (np.asarray(torch.as_tensor(values).cpu(), np.float64) for values in (boxes, scores))
    columns = [np.full(len(boxes), image), *boxes[:, :2].T, *(boxes[:, 2:] - boxes[:, :2]).T, scores, classes]
    return np.stack(columns, 1).astype(np.float64)


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
