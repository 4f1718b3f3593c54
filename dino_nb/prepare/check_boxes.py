"""The boxes of one split: how they are written, and which of them are wrong."""

from collections.abc import Sequence

import numpy as np

from dino_nb.data.coco_file import CocoFile
from dino_nb.data.coco_values import brief
from dino_nb.prepare.findings import Findings
from dino_nb.prepare.layout import guess_layout, to_xywh

TOLERANCE = 1.0  # pixels that a box may reach over the border: labelling tools round outwards
TINY = 4  # pixels
LONG = 20  # length to width
MANY = 100  # boxes of one image that COCO scores
FULL = 0.99  # share of the width and of the height of the image
SAME = 0.95  # intersection over union of near-duplicates
_FEW = 50  # boxes of a split that do not tell the layout for sure
FAULT_OF_LAYOUT = {"xyxy": "box-xyxy", "cxcywh": "box-centre"}
Layout = tuple[str, bool]  # as of guess_layout


def guess_layouts(splits: Sequence[CocoFile], sizes: dict[str, np.ndarray]) -> dict[str, Layout]:
    """Split name -> ``guess_layout``; ``sizes``: split name -> (images, 2).

    A split of too few boxes to tell takes the layout of all splits together, if its boxes make sense in it: else a
    repair would leave it behind.
    """
    boxes = [split.boxes[~split.derived] for split in splits]
    of_box = [sizes[split.name][split.image[~split.derived]] for split in splits]
    guesses = {split.name: guess_layout(b, of) for split, b, of in zip(splits, boxes, of_box)}
    if len(splits) > 1:
        common = guess_layout(np.concatenate(boxes), np.concatenate(of_box))
        for split, written, of in zip(splits, boxes, of_box):
            if len(written) < _FEW and guesses[split.name] == ("xywh", common[1]):
                b = to_xywh(written, of, *common)
                fits = ((b[:, :2] >= -2) & (b[:, 2:] > 0) & (b[:, :2] + b[:, 2:] <= of + 2)).all(1)
                guesses[split.name] = common if len(fits) and fits.mean() >= 0.97 else guesses[split.name]
    return guesses


def boxes_in_pixels(split: CocoFile, sizes: np.ndarray, layout: Layout) -> np.ndarray:
    """``(boxes, 4)`` x, y, width, height; ``sizes (images, 2)`` that the boxes refer to. Taken from polygons they
    are that already."""
    return np.where(split.derived[:, None], split.boxes, to_xywh(split.boxes, sizes[split.image], *layout))


def report_boxes(split: CocoFile, sizes: np.ndarray, layout: Layout, findings: Findings) -> None:
    """Findings about the boxes of ``split``; ``sizes (images, 2)``: width and height that they refer to, NaN where
    unknown."""
    of_box, boxes = sizes[split.image], boxes_in_pixels(split, sizes, layout)

    def written(i: int) -> str:
        return _text(split.boxes[i])

    def meant(i: int) -> str:
        return _text(boxes[i])

    def in_image(i: int) -> str:
        return f"{_text(boxes[i])}, image {of_box[i][0]:g} x {of_box[i][1]:g}"

    def repeats(i: int) -> str:
        twin = exact[i] if exact[i] != i else near[i]
        other = split.record("annotations", int(split.rows[twin])).get("id")
        return f"{_text(boxes[i])}, like annotation {brief(other)}"

    known, width, height = np.isfinite(boxes).all(1), boxes[:, 2], boxes[:, 3]
    empty = known & ((width <= 0) | (height <= 0))
    over = np.maximum(-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - of_box).max(1, initial=0)
    alone = known & ~empty & ~split.crowd
    exact, near = duplicates(split.image, split.category, boxes, alone)
    rows = np.arange(len(boxes))
    for fault, mask, describe in (
        (FAULT_OF_LAYOUT.get(layout[0], ""), ~split.derived & (layout[0] in FAULT_OF_LAYOUT), written),
        ("box-normalised", ~split.derived & layout[1], written),
        ("box-empty", empty, meant),
        ("box-outside", known & (over > TOLERANCE), in_image),  # NaN sizes compare false
        ("box-duplicate", exact != rows, repeats),
        ("box-near-duplicate", near != rows, repeats),
        ("box-full-image", alone & (boxes[:, 2:] >= FULL * of_box).all(1), in_image),
        ("box-tiny", alone & (np.minimum(width, height) < TINY), meant),
        ("box-aspect", alone & (np.maximum(width, height) > LONG * np.minimum(width, height)), meant),
        ("crowd", split.crowd, meant),
    ):
        findings.boxes(split, fault, mask, describe)
    counts = np.bincount(split.image, minlength=len(split.image_ids))
    for i in np.flatnonzero((counts == 0) | (counts > MANY)).tolist():
        name, fault = f"{split.image_names[i]!r}", "many-boxes" if counts[i] else "image-empty"
        findings.image(split, fault, i, f"{name} has {counts[i]:,} boxes" if counts[i] else name)


def duplicates(
    image: np.ndarray, category: np.ndarray, boxes: np.ndarray, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``(exact, near)``: for each box the position of an earlier one that it repeats, or its own position.

    ``boxes (n, 4)`` x, y, width, height; only those of mask ``among (n,)`` and of one image and category are
    compared. Near means an overlap above ``SAME``.
    """
    exact, near = np.arange(len(boxes)), np.arange(len(boxes))
    chosen = np.flatnonzero(among)
    order = chosen[np.lexsort((chosen, *boxes[chosen].T[::-1], category[chosen], image[chosen]))]
    keys = np.column_stack([image, category, boxes])[order]
    if len(order):
        starts = np.concatenate([[True], (keys[1:] != keys[:-1]).any(1)])
        exact[order] = order[starts][np.cumsum(starts) - 1]
        order = order[starts]
    # In order of image, class and left edge, a near-duplicate is among the next few: as long as the left edges
    # differ by less than 5 % of the width. Compare each box with the next, then with the next but one, ...
    group = np.column_stack([image, category])
    at = np.arange(len(order))
    for step in range(1, 200):
        at = at[at + step < len(order)]
        a, b = order[at], order[at + step]
        close = (group[a] == group[b]).all(1) & (boxes[b, 0] - boxes[a, 0] <= (1 - SAME) * boxes[a, 2])
        at, a, b = at[close], a[close], b[close]
        if not len(at):
            break
        same = _iou(boxes[a], boxes[b]) > SAME
        np.minimum.at(near, np.maximum(a, b)[same], np.minimum(a, b)[same])
    return exact, near


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    return shared / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - shared)


def _text(box: np.ndarray) -> str:
    return "bbox " + ", ".join(f"{v:.6g}" for v in box)
