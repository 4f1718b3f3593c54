"""The boxes of one split: how they are written, and which of them are wrong."""

import numpy as np

TOLERANCE = 1.0  # pixels that a box may reach over the border: labelling tools round outwards
TINY = 4  # pixels
LONG = 20  # length to width
MANY = 100  # boxes of one picture that COCO scores
FULL = 0.99  # share of the picture's width and of its height
SAME = 0.95  # intersection over union of near-duplicates
_FEW = 50  # boxes of a split that do not tell the layout for sure
_MIN_PROOF = 3  # boxes that must contradict x, y, width, height before another layout is believed
LAYOUTS = {"xyxy": "box-xyxy", "cxcywh": "box-centre"}


def guess_layout(boxes, sizes):
    """``(layout, relative)`` of bboxes as written: layout ``xywh``, ``xyxy`` or ``cxcywh``; relative: fractions.

    ``boxes (n, 4)``, ``sizes (n, 2)`` width and height of the picture of each (NaN: unknown, not used). Decided
    for all boxes together: another layout than COCO's is believed only if many boxes leave their pictures when read
    as x, y, width, height, and (nearly) none when read the other way.
    """
    usable = np.isfinite(sizes).all(1) & (boxes[:, 2:] > 0).all(1)
    boxes, sizes = boxes[usable], sizes[usable]
    if not len(boxes):
        return "xywh", False
    # 1.5: also where relative boxes are written as corners, or reach out a little. A real box of pixels this small
    # is nearly a point, so nearly all boxes of a set are never that small.
    relative = bool(np.mean((np.abs(boxes) <= 1.5).all(1)) >= 0.95 and np.median(sizes) > 8)
    limit = np.ones_like(sizes) if relative else sizes
    slack = 0.01 if relative else 2.0
    first, second = boxes[:, :2], boxes[:, 2:]
    leaves = (first + second > limit + slack).any(1)
    if leaves.sum() < _MIN_PROOF or leaves.mean() < 0.02:
        return "xywh", relative
    corners = ((second >= first) & (first >= -slack) & (second <= limit + slack)).all(1)
    if corners.mean() >= 0.97 and leaves.mean() >= 0.2:
        return "xyxy", relative
    # Centres are harder to tell: x, y, width, height with some boxes over the right border look alike. But then about
    # as many others start at the left border, nearer to it than half their width, which no centre can.
    centred = ((first - second / 2 >= -slack) & (first + second / 2 <= limit + slack) & (second >= 0)).all(1)
    both_ways = (first + second > limit + slack).sum(0).min() >= 2
    starts_at_border = (first < second / 2 - slack).any(1)
    if centred.mean() >= 0.97 and leaves.sum() >= 8 and both_ways and starts_at_border.sum() <= 0.1 * leaves.sum():
        return "cxcywh", relative
    return "xywh", relative


def guess_layouts(splits, sizes):
    """Split name -> ``guess_layout``; ``sizes``: split name -> (images, 2).

    A split of too few boxes to tell takes the layout of all splits together, if its boxes make sense in it: else a
    repair would leave it behind.
    """
    of_box = [sizes[split.name][split.image] for split in splits]
    guesses = {split.name: guess_layout(split.boxes, of) for split, of in zip(splits, of_box)}
    if len(splits) > 1:
        common = guess_layout(np.concatenate([split.boxes for split in splits]), np.concatenate(of_box))
        for split, of in zip(splits, of_box):
            undecided = len(split.boxes) < _FEW and guesses[split.name] == ("xywh", common[1])
            if undecided and _makes_sense(to_xywh(split.boxes, of, *common), of):
                guesses[split.name] = common
    return guesses


def _makes_sense(boxes, sizes):
    fits = (boxes[:, :2] >= -2) & (boxes[:, 2:] > 0) & (boxes[:, :2] + boxes[:, 2:] <= sizes + 2)
    return len(boxes) > 0 and fits.all(1).mean() >= 0.97


def to_xywh(boxes, sizes, layout, relative):
    """Boxes written in ``layout`` as x, y, width, height in pixels; ``sizes (n, 2)`` are needed if ``relative``."""
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    if layout == "xyxy":
        boxes[:, 2:] -= boxes[:, :2]
    elif layout == "cxcywh":
        boxes[:, :2] -= boxes[:, 2:] / 2
    return boxes * np.tile(sizes, 2) if relative else boxes


def report_boxes(split, sizes, layout, findings):
    """Findings about the boxes of ``split``; returns them as x, y, width, height in pixels, (boxes, 4).

    ``sizes (images, 2)``: width and height that the boxes refer to, NaN where unknown; ``layout``: as of
    ``guess_layout``.
    """
    of_box, (layout, relative) = sizes[split.image], layout
    everything = np.ones(len(split.rows), dtype=bool)
    if layout in LAYOUTS:
        split.add_boxes(findings, LAYOUTS[layout], everything, lambda i: _text(split.boxes[i]))
    if relative:
        split.add_boxes(findings, "box-normalised", everything, lambda i: _text(split.boxes[i]))
    boxes = to_xywh(split.boxes, of_box, layout, relative)
    known = np.isfinite(boxes).all(1)
    width, height = boxes[:, 2], boxes[:, 3]

    empty = known & ((width <= 0) | (height <= 0))
    split.add_boxes(findings, "box-empty", empty, lambda i: _text(boxes[i]))
    over = np.maximum(-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - of_box).max(1, initial=0)
    outside = known & (over > TOLERANCE)  # NaN sizes compare false
    split.add_boxes(findings, "box-outside", outside, lambda i: f"{_text(boxes[i])}, picture {_size(of_box[i])}")

    alone = known & ~empty & ~split.crowd
    first = np.arange(len(boxes))
    exact, near = duplicates(split, boxes, alone)
    for fault, twin in (("box-duplicate", exact), ("box-near-duplicate", near)):
        mask = twin != first
        split.add_boxes(findings, fault, mask, lambda i, twin=twin: f"{_text(boxes[i])}, like {_which(split, twin[i])}")

    full = alone & (boxes[:, 2:] >= FULL * of_box).all(1)
    split.add_boxes(findings, "box-full-image", full, lambda i: f"{_text(boxes[i])}, picture {_size(of_box[i])}")
    tiny = alone & (np.minimum(width, height) < TINY)
    split.add_boxes(findings, "box-tiny", tiny, lambda i: _text(boxes[i]))
    long = alone & (np.maximum(width, height) > LONG * np.minimum(width, height))
    split.add_boxes(findings, "box-aspect", long, lambda i: _text(boxes[i]))
    split.add_boxes(findings, "crowd", split.crowd, lambda i: _text(boxes[i]))
    return boxes


def report_counts(split, findings):
    """Pictures without boxes, and with very many."""
    counts = np.bincount(split.image, minlength=len(split.image_ids))
    for i in np.flatnonzero((counts == 0) | (counts > MANY)):
        name = f"{split.image_names[i]!r}"
        if counts[i]:
            split.add(findings, "many-boxes", "images", split.image_rows[i], f"{name} has {counts[i]:,} boxes")
        else:
            split.add(findings, "image-empty", "images", split.image_rows[i], name)


def duplicates(split, boxes, among):
    """``(exact, near)``: for each box the position of an earlier one that it repeats, or its own position.

    Only boxes of mask ``among (n,)`` and of one picture and class are compared. Near means an overlap above ``SAME``.
    """
    exact, near = np.arange(len(boxes)), np.arange(len(boxes))
    chosen = np.flatnonzero(among)
    order = chosen[np.lexsort((chosen, *boxes[chosen].T[::-1], split.category[chosen], split.image[chosen]))]
    keys = np.column_stack([split.image, split.category, boxes])[order]
    if len(order):
        starts = np.concatenate([[True], (keys[1:] != keys[:-1]).any(1)])
        exact[order] = order[starts][np.cumsum(starts) - 1]
        order = order[starts]
    # In order of picture, class and left edge, a near-duplicate is among the next few: as long as the left edges
    # differ by less than 5 % of the width. Compare each box with the next, then with the next but one, ...
    group = np.column_stack([split.image, split.category])
    at = np.arange(len(order))
    for step in range(1, 200):
        at = at[at + step < len(order)]
        a, b = order[at], order[at + step]
        close = (group[a] == group[b]).all(1) & (boxes[b, 0] - boxes[a, 0] <= (1 - SAME) * boxes[a, 2])
        at, a, b = at[close], a[close], b[close]
        if not len(at):
            break
        same = _iou(boxes[a], boxes[b]) > SAME
        for i, j in zip(np.minimum(a, b)[same], np.maximum(a, b)[same]):
            near[j] = min(near[j], i)
    return exact, near


def _iou(a, b):
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    return shared / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - shared)


def _text(box):
    return "bbox " + ", ".join(f"{v:.6g}" for v in box)


def _size(size):
    return f"{size[0]:g} x {size[1]:g}"


def _which(split, i):
    record = split.json.document["annotations"][split.rows[i]]
    return f"annotation {record.get('id')}"
