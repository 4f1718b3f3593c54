"""Looking through images with sliders: detections, annotations, and both side by side.

Every function returns a ``View``; its ``set``, ``image`` and ``summary`` do without widgets what the sliders do.
"""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dino_nb.charts import COLORS, Curves
from dino_nb.data.dataset import CocoDataset
from dino_nb.draw import add_legend, class_colors, draw_boxes
from dino_nb.errors import UserError
from dino_nb.inference.detector import Detector, load
from dino_nb.inference.keywords import check_number, known_keywords
from dino_nb.inference.results import Result
from dino_nb.inference.sources import Source, leaves, read
from dino_nb.inference.video import is_video
from dino_nb.printer import counted
from dino_nb.sheet import grid
from dino_nb.viz.judged import FLOOR, LONG_SIDE, OUTCOMES, Judged, judge, reduced, reduced_file
from dino_nb.viz.view import Scene, View


@known_keywords
def explore(
    detector: Detector | Result | Sequence[Result] | str | Path,
    images: Source = None,
    threshold: float | None = None,
    max_detections: int = 100,
    *,
    split: str = "val",
    slice_size: int | None = None,
) -> View:
    """Detections with sliders: which image, the threshold, how many at most, which classes.

    Args:
        detector: a ``dino_nb.Detector`` or what ``dino_nb.load`` takes: an image goes through the network once, when
            it is first shown. Or what ``predict`` found: nothing is looked at again, and ``images`` is left out.
        images: anything that ``Detector.predict`` takes, videos excepted; or a COCODIR: then precision, recall and F1
            over its ``split`` move with the threshold (see :func:`compare`).
        threshold, max_detections: where the sliders start. Default: the detector's own threshold, and 100.
        slice_size: see ``Detector.predict``.
    """
    finder = _finder(detector)
    threshold = _start(threshold, finder)
    if isinstance(images, (str, Path)) and (Path(images) / "annotations" / f"instances_{split}2017.json").is_file():
        judged = judge(finder, images, split, slice_size=slice_size)
        return View(_Judged({"detected": judged}, judged.data, threshold, annotations=False))
    if isinstance(finder, Detector):
        found = list(leaves(images))
        if any(isinstance(leaf, str) and is_video(leaf) for leaf in found):
            raise UserError("explore shows images; for a video use detector.annotate_video(path, 'out.mp4').")
        return View(_Detected(finder, finder.class_names, found, threshold, max_detections, slice_size))
    names = finder[0].class_names if finder else []
    return View(_Detected(None, names, finder, threshold, max_detections, None))


@known_keywords
def browse(cocodir: str | Path, split: str = "val") -> View:
    """The annotated images of a split with a slider: what the network is going to learn from, or be scored on.

    Crowd regions are dashed.
    """
    return View(_Judged({}, CocoDataset(cocodir, split, keep_crowd=True), 0))


@known_keywords
def compare(
    detector: Detector | Sequence[Detector | str | Path] | Sequence[Result] | str | Path,
    cocodir: str | Path,
    split: str = "val",
    threshold: float | None = None,
    *,
    names: Sequence[str] | None = None,
    slice_size: int | None = None,
    limit: int | None = None,
) -> View:
    """Annotations and detections of a split's images side by side, right and wrong ones told apart, with precision,
    recall and F1 over the whole split at the slider's threshold.

    Args:
        detector: a ``dino_nb.Detector`` or what ``dino_nb.load`` takes; two of them to be compared (as before and
            after fine-tuning); or what ``predict`` found on images of the split, at a low threshold such as 0.05.
        cocodir, split: the annotated images; all of them go through the network once, at the start.
        threshold: where the slider starts. Default: the (first) detector's own.
        names: what two detectors are called.
        slice_size: see ``Detector.predict``.
        limit: take the first images only.
    """
    alone = isinstance(detector, str) or all(isinstance(one, Result) for one in _listed(detector))
    shown = [_finder(one) for one in ([detector] if alone else _listed(detector))]
    threshold = _start(threshold, shown[0])
    titles = list(names or (["detected"] if len(shown) == 1 else ["first", "second"]))
    if not 1 <= len(shown) <= 2 or len(titles) != len(shown):
        raise UserError("compare takes one or two detectors, and a name for each.")
    data = CocoDataset(cocodir, split, keep_crowd=True)
    judged = {title: judge(one, data, slice_size=slice_size, limit=limit) for title, one in zip(titles, shown)}
    return View(_Judged(judged, data, threshold))


def _start(threshold: float | None, detector: Any) -> float:
    threshold = getattr(detector, "threshold", 0.3) if threshold is None else threshold
    check_number("threshold", threshold, 0, 1)
    return threshold


def _finder(detector: Any) -> Any:
    """A ``Detector``, or a list of results; made of a checkpoint's name or file, a network, or one result."""
    if isinstance(detector, (str, Path)):
        return load(detector)
    if isinstance(detector, torch.nn.Module):
        return Detector(detector)
    if isinstance(detector, Result):
        return [detector]
    if not isinstance(detector, Detector) and not all(isinstance(one, Result) for one in _listed(detector)):
        raise UserError(f"a {type(detector).__name__} finds nothing: give a detector, or what its predict returned.")
    return detector


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value]


class _Detected(Scene):
    """Detections alone: ``found`` are single sources for ``detector``, or results."""

    def __init__(
        self,
        detector: Detector | None,
        class_names: Sequence[str | None],
        found: Sequence[Any],
        threshold: float,
        max_detections: int,
        slice_size: int | None,
    ) -> None:
        self.detector, self.found, self.count, self.slice_size = detector, found, len(found), slice_size
        self.colors = class_colors(class_names)
        self.results: dict[int, Result] = {}  # without their images, of which only the last few are kept, reduced
        self.image = lru_cache(maxsize=8)(self._image)
        top = {"value": min(max_detections, 300), "min": 1, "max": 300, "description": "max detections"}
        floor = max([FLOOR, *(leaf.threshold for leaf in found if isinstance(leaf, Result))])
        controls = _controls(threshold, list(self.colors), floor)
        first = {"threshold": controls.pop("threshold"), "max_detections": ("IntSlider", top)}
        self.controls = first | controls

    def shown(
        self, index: int, threshold: float, max_detections: int, labels: bool, scores: bool, classes: Sequence[str]
    ) -> tuple[Image.Image, str]:
        image, scale = self.image(index)
        shown = self.results[index].filter(threshold, classes or None, max_detections)
        drawn = shown.draw(image, scale, self.colors, labels=labels, scores=scores)
        return drawn, _caption(shown.name, shown.size, shown.names, self.colors)

    def _image(self, index: int) -> tuple[Image.Image, float]:
        if self.detector is None:
            self.results[index] = self.found[index]
            return reduced(self.found[index].image)
        source = next(read(self.found[index], index))
        if index not in self.results:
            [result] = self.detector.stream([source.image], FLOOR, slice_size=self.slice_size)
            result.name = source.name
            self.results[index] = result.drop_image()
        return reduced(source.image)


class _Judged(Scene):
    """The annotations of ``data``, and beside them right and wrong detections of one or two detectors, if any."""

    def __init__(
        self, judged: dict[str, Judged], data: CocoDataset, threshold: float, annotations: bool = True
    ) -> None:
        self.judged, self.data, self.annotations = judged, data, annotations
        self.indices = next((one.indices for one in judged.values()), range(len(data)))
        self.count = len(self.indices)
        names = [name for one in judged.values() for name in one.names] or data.class_names
        self.colors = class_colors(names)
        floor = max((one.floor for one in judged.values()), default=0)
        self.controls = _controls(threshold, list(self.colors), floor, errors=True)
        if not judged:
            self.controls = {name: self.controls[name] for name in ("labels", "classes")}

    def shown(self, index: int, *, labels: bool, classes: Sequence[str], **values: Any) -> tuple[Image.Image, str]:
        where = self.indices[index]
        path, (height, width) = self.data.path(where), self.data.size(where)
        count = len(self.judged) + self.annotations
        columns, side = count if width < 2 * height else 1, None  # side by side, unless the image is very wide
        if count > 1:  # drawn at the size that it is shown at: text stays readable
            side = round(max(width, height) * min(1100 // columns / width, LONG_SIDE / max(width, height)))
        panes, lines = [], [f"<b>{html.escape(path.name)}</b>"]
        if self.annotations:
            truth, names, size = annotated(self.data, where, classes, self.colors, labels, side)
            panes, lines = [truth], [_caption(path.name, size, names, self.colors)]
        for title, one in self.judged.items():
            chosen, scores = (values["threshold"], classes), values["scores"]
            panes.append(one.draw(index, *chosen, labels=labels, scores=scores, legend=False, long_side=side))
            rows, kinds, missed = one.outcomes(index, *chosen)
            counts = Counter(kinds) + Counter(missed=len(missed))
            told = ", ".join(f"{counts[kind]} {kind}" for kind in ("correct", "wrong", "missed") if counts[kind])
            found = _counts([one.names[int(i)] for i in one.matches.found[rows, 6]], self.colors)
            lines.append(f"{html.escape(title)}: {told or 'nothing'} &ensp; <small>{found}</small>")
        sheet = panes[0]
        if count > 1:
            titles = ["annotated"] * self.annotations + list(self.judged)
            sheet = grid(panes, columns, titles, sheet.width * columns + 12 * (columns - 1))
        return add_legend(sheet, list(OUTCOMES.values())) if self.judged else sheet, "<br>".join(lines)

    def summary(self, **values: Any) -> str:
        lines, figures = [], []
        for title, one in self.judged.items():
            threshold, classes = values["threshold"], values["classes"]
            rates, best, grid = one.rates(threshold, classes), one.best(classes), np.linspace(one.floor, 1, 100)
            told = ", ".join(f"{_NAMES[k]} {f'<b>{rate:.3f}</b>' if rate >= 0 else '—'}" for k, rate in rates.items())
            mark = f"best F1 {best[1]:.3f} at {best[0]:.2f}" if best else "nothing is found"
            which = title if len(self.judged) > 1 else ""
            start = f"{html.escape(which)}, all" if which else "all"
            lines.append(f"{start} {counted(self.count, 'image')} at {threshold:.2f}: {told}; {mark}")
            curves = one.rates(grid, classes).items()
            series = [(_NAMES[name], grid.tolist(), curve, color) for (name, curve), color in zip(curves, COLORS)]
            point = (mark, *best) if best else None
            figures.append(Curves(which, series, "threshold", threshold, point, 110).html())
        return "<br>".join(lines) + f"<div>{''.join(figures)}</div>" if lines else ""

    def order(self, **values: Any) -> Sequence[int]:
        if not values.get("errors"):
            return range(self.count)
        wrong = [one.with_errors(values["threshold"], values["classes"]) for one in self.judged.values()]
        return sorted(set().union(*wrong))


_NAMES = {"precision": "precision", "recall": "recall", "f1": "F1"}


def _controls(
    threshold: float, names: Sequence[str | None], floor: float = FLOOR, errors: bool = False
) -> dict[str, tuple[str, dict[str, Any]]]:
    known = [name for name in dict.fromkeys(names) if name is not None]
    slider = {"value": max(floor, threshold), "min": floor, "max": 1.0, "step": 0.01, "description": "threshold"}
    checks = {"errors": (False, "only images with errors")} if errors else {}
    checks |= {"labels": (len(known) > 1, "names"), "scores": (True, "scores")}
    rows = {"options": known, "rows": min(8, len(known) + 1), "description": "only"}
    return {
        "threshold": ("FloatSlider", slider),
        **{n: ("Checkbox", {"value": v, "description": d, "indent": False}) for n, (v, d) in checks.items()},
        "classes": ("SelectMultiple", rows),
    }


def annotated(
    data: CocoDataset,
    index: int,
    classes: Sequence[str],
    colors: Mapping[str, str],
    labels: bool = True,
    long_side: int | None = None,
) -> tuple[Image.Image, list[str], tuple[int, int]]:
    """An image with its annotations, the names of these, and the image's size (width, height) in pixels."""
    image, scale, size = reduced_file(str(data.path(index)), long_side)
    target = data.target(index, size[1], size[0])
    names = [data.class_names[label] for label in target["labels"].tolist()]
    keep = [i for i, name in enumerate(names) if not classes or name in classes]
    names = [names[i] for i in keep]
    lines = ["dashed" if crowd else "solid" for crowd in target["iscrowd"][keep].tolist()]
    paints = [colors[name] for name in names]
    boxes = target["boxes"][keep] * scale
    drawn = draw_boxes(image, boxes, names if labels else None, colors=paints, line=lines)
    if "dashed" in lines:
        drawn = add_legend(drawn, [("object", "#BBBBBB", "solid"), ("crowd", "#BBBBBB", "dashed")])
    return drawn, names, size


def _caption(name: str, size: tuple[int, int], names: Sequence[str], colors: Mapping[str, str]) -> str:
    return f"<b>{html.escape(name)}</b> &nbsp; {size[0]} × {size[1]} &nbsp; {_counts(names, colors)}"


def _counts(names: Sequence[str], colors: Mapping[str, str]) -> str:
    """Names and numbers as HTML with a spot of each class's colour; class names are a stranger's text."""
    spots = [
        f'<span style="color:{colors[name]}">■</span>&thinsp;{count} {html.escape(str(name))}'
        for name, count in Counter(names).most_common()
    ]
    return " &ensp; ".join(spots) or "nothing"
