"""Images of an evaluation: ground truth beside detections, and crops of what a count or a suspicion is about."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dino_nb.data.images import open_image
from dino_nb.draw import class_colors, draw_boxes

_ROOM = 0.3  # of a crop's box, around it
_TRUTH, _FOUND = "#009E73", "#D55E00"


def beside(result: Any, image_id: Any, threshold: float, side: int = 600) -> tuple[Image.Image, Image.Image]:
    """One image twice: with its ground truth (dashed), and with its detections from ``threshold`` (solid).

    ``result``: an ``EvalResult``; ``side``: pixels of the long side at least.
    """
    scores, at = result.scores, result.scores.found.image_ids.index(image_id)
    names = [row["name"] for row in scores.per_class]
    colors, image = class_colors(names), open_image(result.path(image_id))
    truth = scores.truth[scores.truth[:, 0] == at]
    found = scores.found.table[(scores.found.table[:, 0] == at) & (scores.found.table[:, 5] >= threshold)]
    labels = [[names[int(c)] for c in column] for column in (truth[:, 6], found[:, 6])]
    left = draw_boxes(image, to_corners(truth), labels[0], None, colors, enlarge_to=side, line="dashed")
    return left, draw_boxes(image, to_corners(found), labels[1], found[:, 5].tolist(), colors, enlarge_to=side)


def crop(result: Any, truth_row: int, found_row: int, side: int = 160) -> Image.Image:
    """The place of an object (dashed) and a detection (solid), rows of ``scores``; -1 for none."""
    scores = result.scores
    boxes, colors, lines, image_id = [], [], [], None
    if truth_row >= 0:
        boxes, colors, lines = [to_corners(scores.truth[[truth_row]])[0]], [_TRUTH], ["dashed"]
        image_id = scores.found.image_ids[int(scores.truth[truth_row, 0])]
    if found_row >= 0:
        boxes, colors, lines = (
            [*boxes, to_corners(scores.found.table[[found_row]])[0]],
            [*colors, _FOUND],
            [*lines, "solid"],
        )
        image_id = scores.found.image_ids[int(scores.found.table[found_row, 0])]
    image = _opened(result.path(image_id))
    corners = np.array(boxes)
    low, high = corners[:, :2].min(0), corners[:, 2:].max(0)
    room = _ROOM * (high - low) + 8
    x0, y0, x1, y1 = (round(v) for v in (*np.maximum(low - room, 0), *np.minimum(high + room, image.size)))
    x0, y0 = min(x0, image.width - 1), min(y0, image.height - 1)
    piece = image.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))
    scale = side / max(piece.size)
    piece = piece.resize([max(1, round(s * scale)) for s in piece.size])
    return draw_boxes(piece, (corners - [x0, y0, x0, y0]) * scale, colors=colors, line=lines)


def to_corners(table: np.ndarray) -> np.ndarray:
    """``(n, 4)`` x1, y1, x2, y2 of rows of `Detections`."""
    return np.concatenate([table[:, 1:3], table[:, 1:3] + table[:, 3:5]], 1)


@lru_cache(maxsize=4)
def _opened(path: Path) -> Image.Image:
    return open_image(path)
