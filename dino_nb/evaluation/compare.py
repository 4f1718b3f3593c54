"""Is this checkpoint really better? Two evaluations on the same images, with paired-bootstrap intervals.

hotcoco's own ``compare`` takes an image that was drawn twice only once, which makes intervals about a fifth too narrow:
the bootstrap is therefore here.
"""

import json
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dino_nb.charts import Images
from dino_nb.data.classes import ClassMatch
from dino_nb.data.dataset import CocoDataset
from dino_nb.errors import UserError, disk_errors
from dino_nb.evaluation.analysis import image_counts
from dino_nb.evaluation.coco import read_results, score
from dino_nb.evaluation.drawing import draw_found
from dino_nb.evaluation.evaluate import EvalResult, evaluate
from dino_nb.evaluation.matching import NOTHING, match
from dino_nb.evaluation.thresholds import Thresholds
from dino_nb.files import write_text
from dino_nb.printer import Block, Lines, Printed, Table, counted, to_page, to_text

_IOUS, _RECALLS = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)
_AREAS = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}  # square pixels
_MANY = 200_000  # detections from which there are no intervals for sizes of objects, which take four times as long
_WORK = 3e7  # detections times samples, which bounds the time that intervals take
_SHOWN = 4  # images


@dataclass(repr=False)
class Comparison(Printed):
    """What :func:`compare` returns; prints as text, shows as tables in a notebook.

    Attributes:
        a, b: the two ``EvalResult``s, on the same images. Differences are ``b`` minus ``a``.
        rows: a dict per metric: ``name``, ``a``, ``b``, ``difference``, ``low``, ``high`` (95 % of the resampled sets
            of images lie between), ``verdict`` (``better``, ``worse``, ``cannot be told apart``).
        per_class: the same of each class's AP.
        changed: ``(image id, F1 of a, F1 of b)`` at each one's best threshold, largest change first.
    """

    a: EvalResult
    b: EvalResult
    rows: list[dict[str, Any]]
    per_class: list[dict[str, Any]]
    changed: list[tuple[Any, float, float]]

    def to_dict(self) -> dict[str, Any]:
        """Every number as plain values."""
        names = {"a": self.a.settings["checkpoint"], "b": self.b.settings["checkpoint"]}
        changed = [{"image_id": i, "f1_a": a, "f1_b": b} for i, a, b in self.changed]
        numbers = {"metrics": self.rows, "per_class": self.per_class, "changed_images": changed}
        return {**names, "images": len(self.a.image_ids), "sentence": self.sentence(), **numbers}

    def sentence(self) -> str:
        """The verdict on AP in one line."""
        row, n = self.rows[0], counted(len(self.a.image_ids), "image")
        if row["verdict"] == "cannot be told apart":
            return f"AP {_signed(row)}: the two cannot be told apart on {n}."
        return f"AP {_signed(row)}: {self.b.settings['checkpoint']} is {row['verdict']}, measured on {n}."

    def blocks(self) -> list[Block]:
        names = [f"{side}: {one.settings['checkpoint']}" for side, one in (("a", self.a), ("b", self.b))]
        tables = [
            [(r["name"], r["a"], r["b"], _signed(r), r["verdict"]) for r in x] for x in (self.rows, self.per_class)
        ]
        told = Lines([self.sentence(), *names, "In brackets: 95 % intervals of a paired bootstrap."])
        return [told, *(Table(("", "a", "b", "difference", ""), rows, 1000) for rows in tables)]

    def images(self, n: int = _SHOWN) -> list[Block]:
        """The images that changed most: ground truth, ``a`` and ``b`` side by side, from each one's best threshold."""
        best = [Thresholds(one.scores).best for one in (self.a, self.b)]
        blocks: list[Block] = []
        for image_id, before, after in self.changed[:n]:
            shown = [
                ("ground truth", partial(draw_found, self.a, image_id)),
                ("a", partial(draw_found, self.a, image_id, best[0])),
                ("b", partial(draw_found, self.b, image_id, best[1])),
            ]
            title = f"{self.a.path(image_id).name}: F1 {before:.2f} -> {after:.2f}"
            blocks.append(Images(title, shown, 300, True))
        return blocks

    @disk_errors()
    def write(self, folder: str | Path) -> None:
        """``comparison.{html,txt,json}`` in ``folder``."""
        folder = Path(folder)
        write_text(folder / "comparison.json", json.dumps(self.to_dict(), indent=1))
        write_text(folder / "comparison.txt", to_text(self.blocks()) + "\n")
        write_text(folder / "comparison.html", to_page([*self.blocks(), *self.images()], "Comparison"))


def compare(
    a: Any,
    b: Any,
    cocodir: str | Path | None = None,
    *,
    split: str | None = None,
    samples: int = 1000,
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Compare two evaluations on the same images.

    Args:
        a, b: each an ``EvalResult``, a saved ``results.json`` (or its folder), or a checkpoint to evaluate.
        cocodir: the data set. Needed for checkpoints; for saved results the default is what their
            ``report.json`` says.
        split: default: the saved one, else ``val``.
        samples: resampled sets of images for the intervals; fewer for many images.
        options: for :func:`dino_nb.evaluation.evaluate.evaluate` of checkpoints.

    Raises:
        UserError: no image or class in common, or results that do not belong to the data set.
    """
    a, b = (_result(one, cocodir, split, options) for one in (a, b))
    if a.dataset.category_ids != b.dataset.category_ids:
        raise UserError("the two evaluations are of different classes, so they cannot be compared.")
    both = set(b.image_ids)
    common = [i for i in a.image_ids if i in both]
    if not common:
        raise UserError("the two evaluations have no image in common, so they cannot be compared.")
    a, b = (
        one if one.image_ids == common else replace(one, scores=score(one.dataset.coco(), one.scores.found, common))
        for one in (a, b)
    )
    size = len(a.scores.found) + len(b.scores.found)
    samples = int(np.clip(_WORK / max(1, size), min(100, samples), samples))
    draws = np.random.default_rng(seed).multinomial(len(common), np.full(len(common), 1 / len(common)), samples)
    areas = _AREAS if size < _MANY else {"": _AREAS[""]}
    before, after = (_bootstrap(one.scores, draws, areas) for one in (a, b))
    spread = {name: after[name] - before[name] for name in before}
    rows = [_row(n, a.metrics[n], b.metrics[n], spread.get(n)) for n in a.metrics]
    pairs = enumerate(zip(a.per_class, b.per_class))
    classes = [_row(x["name"], x["AP"], y["AP"], spread["AP"][:, [i]]) for i, (x, y) in pairs]
    f1 = [image_counts(one.scores, Thresholds(one.scores).best) for one in (a, b)]
    changed = [(i, f1[0][i]["f1"], f1[1][i]["f1"]) for i in common if f1[0][i]["f1"] != f1[1][i]["f1"]]
    return Comparison(a, b, rows, classes, sorted(changed, key=lambda c: -abs(c[2] - c[1])))


def saved_results(given: Any) -> Path | None:
    """The ``results.json`` that ``given`` names, itself or by its folder; None for anything else."""
    path = Path(given) if isinstance(given, (str, Path)) else Path()
    path = path / "results.json" if (path / "results.json").is_file() else path
    return path if path.suffix == ".json" else None


def _result(given, cocodir, split, options):
    if isinstance(given, EvalResult):
        return given
    path = saved_results(given)
    if path is None and cocodir is None:
        raise UserError(f"to compare checkpoints, name the data set: compare({str(given)!r}, ..., COCODIR).")
    if path is None:
        return evaluate(cocodir, given, split=split or "val", **options)
    report, saved = path.with_name("report.json"), {}
    try:
        if report.is_file():
            saved = json.loads(report.read_text(encoding="utf-8"))
            cocodir, split = cocodir or saved["data"]["folder"], split or saved["data"]["split"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{report} is not the report of an evaluation; name the data set instead.") from None
    if cocodir is None:
        raise UserError(f"nothing says which data set {path} is of: name it (COCODIR).")
    dataset = CocoDataset(cocodir, split or "val")
    every = [dataset.image_id(i) for i in range(len(dataset))]
    found = read_results(path, every, dataset.category_ids)
    scores = score(dataset.coco(), found, every[: saved.get("limit")])
    names = dict(zip(dataset.category_ids, dataset.class_names))
    match = ClassMatch({c: i for i, c in enumerate(names)}, names, "as in the saved results")
    return EvalResult(scores, match, dataset, 0.0, 0.0, {"checkpoint": saved.get("checkpoint") or str(path)})


def _bootstrap(scores, draws, areas):
    """Metric -> ``(samples, classes, 10 IoUs)`` with each image as often as ``draws (samples, images)`` says; NaN where
    there is no object of the class."""
    parts = {}
    for end, (low, high) in areas.items():
        ap, recall = _resampled(scores, draws, low, high)
        parts |= {f"AP{end}": ap, f"AR{end or 100}": recall[..., 2]}
        if not end:
            parts |= {"AP50": ap[..., :1], "AP75": ap[..., 5:6], "AR1": recall[..., 0], "AR10": recall[..., 1]}
    return parts


def _resampled(scores, draws, low, high):
    """AP, and recall ``(..., 3)`` of the best 1, 10 and 100 detections, of objects with an area from ``low`` to
    ``high``; others are ignored, as COCO does."""
    table, truth = scores.found.table, scores.truth
    outside = (truth[:, 7] < low) | (truth[:, 7] > high)
    areas = table[:, 3] * table[:, 4]
    elsewhere = (areas < low) | (areas > high)
    counts = ~outside & (truth[:, 5] == 0)
    status = [match(table, truth, iou, ignored=outside) for iou in _IOUS]
    ap = np.full((len(draws), len(scores.per_class), len(_IOUS)), np.nan)
    recall = np.full((*ap.shape, 3), np.nan)
    for k in range(len(scores.per_class)):
        own = np.flatnonzero(table[:, 6] == k)
        own = own[np.lexsort((table[own, 0], -table[own, 5]))]  # of equal scores COCO takes the earlier image first
        images = table[own, 0].astype(np.int64)
        by_image = np.argsort(images, kind="stable")
        rank = np.argsort(by_image) - np.searchsorted(images[by_image], images)  # in its image
        own, images, rank = (values[rank < 100] for values in (own, images, rank))
        objects = draws[:, truth[counts & (truth[:, 6] == k), 0].astype(np.int64)].sum(1)
        hits = [np.flatnonzero(s[own] >= 0) for s in status]
        counted = [(s[own] >= 0) | ((s[own] == NOTHING) & ~elsewhere[own]) for s in status]
        for n in np.flatnonzero(objects):
            weight = draws[n, images]
            for i, (hit, known) in enumerate(zip(hits, counted)):
                # precision is highest where a hit has just been counted, so only these ranks matter
                found = np.cumsum(weight[hit])
                total = np.cumsum(weight * known)[hit]
                envelope = np.maximum.accumulate((found / np.maximum(total, 1))[::-1])[::-1]
                at = np.searchsorted(found / objects[n], _RECALLS)
                ap[n, k, i] = np.append(envelope, 0)[at].mean()
                one, ten = (np.dot(weight[hit], rank[hit] < most) for most in (1, 10))
                recall[n, k, i] = np.array([one, ten, found[-1] if len(found) else 0]) / objects[n]
    return ap, recall


def _row(name, a, b, spread):
    """``spread``: the difference in each sample, of classes and IoUs that are to be averaged."""
    row = {"name": name, "a": a, "b": b, "difference": b - a, "low": None, "high": None, "verdict": ""}
    if a < 0 or b < 0:
        return {**row, "difference": None}
    if spread is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # samples without an object of the class
            low, high = np.nanpercentile(np.nanmean(spread, (1, 2)), [2.5, 97.5]).tolist()
        verdict = "better" if low > 0 else "worse" if high < 0 else "cannot be told apart"
        row |= {"low": low, "high": high, "verdict": verdict}
    return row


def _signed(row):
    """``+2.1 [+0.4, +3.9]``, in points of 100."""
    if row["difference"] is None:
        return "-"
    ends = "" if row["low"] is None else f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return f"{100 * row['difference']:+.1f}{ends}"
