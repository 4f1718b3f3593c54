"""How boxes are written: ``xywh``, ``xyxy`` or ``cxcywh``, in pixels or fractions. Guessed here and nowhere else."""

import numpy as np

_MIN_PROOF = 3  # boxes that must contradict x, y, width, height before another layout is believed
_FITS = 0.97  # share of boxes that must make sense in the other layout
_CONTRADICT = 0.2  # share of boxes that must not make sense as x, y, width, height


def guess_layout(boxes: np.ndarray, sizes: np.ndarray) -> tuple[str, bool]:
    """``(layout, relative)`` of boxes as written: layout ``xywh``, ``xyxy`` or ``cxcywh``; relative: fractions.

    ``boxes (n, 4)``, ``sizes (n, 2)`` width and height of the image of each (NaN: unknown, not used). Decided for all
    boxes together: another layout than COCO's is believed only if many boxes leave their images when read as x, y,
    width, height, and (nearly) none when read the other way.
    """
    boxes, limit, slack, relative = _usable(boxes, sizes)
    if not len(boxes):
        return "xywh", False
    first, second = boxes[:, :2], boxes[:, 2:]
    leaves = (first + second > limit + slack).any(1)
    if leaves.sum() < _MIN_PROOF or leaves.mean() < 0.02:
        return "xywh", relative
    if _as_corners(boxes, limit, slack) >= _FITS and leaves.mean() >= _CONTRADICT:
        return "xyxy", relative
    # Centres are harder to tell: x, y, width, height with some boxes over the right border look alike. But then about
    # as many others start at the left border, nearer to it than half their width, which no centre can.
    centred = ((first - second / 2 >= -slack) & (first + second / 2 <= limit + slack) & (second >= 0)).all(1)
    both_ways = (first + second > limit + slack).sum(0).min() >= 2
    starts_at_border = (first < second / 2 - slack).any(1)
    if centred.mean() >= _FITS and leaves.sum() >= 8 and both_ways and starts_at_border.sum() <= 0.1 * leaves.sum():
        return "cxcywh", relative
    return "xywh", relative


def doubt(boxes: np.ndarray, sizes: np.ndarray) -> str | None:
    """Why these boxes may not be x, y, width, height in pixels, as a sentence; None if nothing speaks against it.

    Stricter than `guess_layout`: few boxes cannot prove another layout, but they can leave a doubt, and a conversion
    that guesses wrong ruins a data set without a word.
    """
    layout, relative = guess_layout(boxes, sizes)
    boxes, limit, slack, _ = _usable(boxes, sizes)
    leaves = (boxes[:, :2] + boxes[:, 2:] > limit + slack).any(1)
    if layout == "xywh" and leaves.any() and (leaves.mean() >= 0.05 or len(boxes) < 20):
        layout = "xyxy" if _as_corners(boxes, limit, slack) >= 0.9 else layout
    if relative:
        others = ", ".join(f"{name}-relative" for name in ("xywh", "xyxy", "cxcywh") if name != layout)
        return (
            f"its {len(boxes):,} boxes lie within 0..1, as fractions of the image, where pixels belong: say "
            f"--box-format {layout}-relative (or {others}) if that is what they are."
        )
    if layout == "xywh":
        return None
    fits = "corners x1, y1, x2, y2" if layout == "xyxy" else "centre x, centre y, width, height"
    return (
        f"{leaves.sum():,} of {len(boxes):,} boxes reach out of their images as x, y, width, height, and they fit as "
        f"{fits}: say --box-format {layout} (box_format='{layout}') if that is what they are, else --box-format xywh."
    )


def ordered(boxes: np.ndarray) -> bool:
    """Whether ``boxes (n, 4)`` can be corners: (nearly) all have their second corner right of and below the first."""
    return len(boxes) > 0 and float((boxes[:, 2:] > boxes[:, :2]).all(1).mean()) >= _FITS


def is_relative(boxes: np.ndarray) -> bool:
    """Whether ``boxes (n, 4)`` are fractions of the image."""
    # 1.5: also where relative boxes are written as corners, or reach out a little. A real box of pixels this small
    # is nearly a point, so nearly all boxes of a set are never that small.
    return len(boxes) > 0 and float((np.abs(boxes) <= 1.5).all(1).mean()) >= 0.95


def to_xyxy(boxes: np.ndarray, sizes: np.ndarray, layout: str, relative: bool) -> np.ndarray:
    """Boxes ``(n, 4)`` written in ``layout`` as corners in pixels; ``sizes (n, 2)`` are needed if ``relative``."""
    boxes = to_xywh(boxes, sizes, layout, relative)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def to_xywh(boxes: np.ndarray, sizes: np.ndarray, layout: str, relative: bool) -> np.ndarray:
    """Boxes ``(n, 4)`` written in ``layout`` as x, y, width, height in pixels, else as `to_xyxy`."""
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    if layout == "xyxy":
        boxes[:, 2:] -= boxes[:, :2]
    elif layout == "cxcywh":
        boxes[:, :2] -= boxes[:, 2:] / 2
    return boxes * np.tile(sizes, 2) if relative else boxes


def _usable(boxes, sizes):
    """Boxes that tell something, the limit of their coordinates ``(n, 2)``, what may stick out, whether relative."""
    usable = np.isfinite(sizes).all(1) & (boxes[:, 2:] > 0).all(1)
    boxes, sizes = boxes[usable], sizes[usable]
    relative = is_relative(boxes) and bool(np.median(sizes) > 8)
    return boxes, np.ones_like(sizes) if relative else sizes, 0.01 if relative else 2.0, relative


def _as_corners(boxes, limit, slack):
    """The share of boxes that make sense as corners."""
    first, second = boxes[:, :2], boxes[:, 2:]
    return ((second >= first) & (first >= -slack) & (second <= limit + slack)).all(1).mean()
