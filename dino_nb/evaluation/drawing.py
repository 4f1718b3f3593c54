"""Images of an evaluation: ground truth and detections, and crops of what a count or a suspicion is about."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_nb.data.images import open_image
from dino_nb.draw import class_colors, draw_boxes

_ROOM = 0.3  # of a crop's box, around it
_opened = lru_cache(maxsize=4)(open_image)  # crops of one image follow each other


def draw_found(result: Any, image_id: Any, threshold: float | None = None, side: int = 600) -> Image.Image:
    """An image of an ``EvalResult`` with its detections from ``threshold``; without one with its ground truth, dashed.

    ``side``: pixels of the long side at least.
    """
    scores, names = result.scores, [row["name"] for row in result.per_class]
    rows = scores.truth if threshold is None else scores.found.table[scores.found.table[:, 5] >= threshold]
    rows = rows[rows[:, 0] == scores.found.image_ids.index(image_id)]
    line, certain = ("dashed", None) if threshold is None else ("solid", rows[:, 5].tolist())
    labels, colors = [names[int(c)] for c in rows[:, 6]], class_colors(names)
    image = _opened(result.path(image_id))
    return draw_boxes(image, to_corners(rows), labels, certain, colors, enlarge_to=side, line=line)


def crop(result: Any, truth_row: int, found_row: int, side: int = 160) -> Image.Image:
    """The place of an object (dashed) and a detection (solid), rows of ``scores``; -1 for none."""
    looks = (
        (result.scores.truth, truth_row, "#009E73", "dashed"),
        (result.scores.found.table, found_row, "#D55E00", "solid"),
    )
    rows, colors, lines = zip(*((t[row, :7], color, line) for t, row, color, line in looks if row >= 0))
    image = _opened(result.path(result.scores.found.image_ids[int(rows[0][0])]))
    corners = to_corners(np.array(rows))
    low, high = corners[:, :2].min(0), corners[:, 2:].max(0)
    room = _ROOM * (high - low) + 8
    x0, y0 = np.clip(np.round(low - room), 0, np.array(image.size) - 1).astype(int).tolist()
    x1, y1 = np.clip(np.round(high + room), (x0 + 1, y0 + 1), image.size).astype(int).tolist()
    scale = side / max(x1 - x0, y1 - y0)
    piece = image.crop((x0, y0, x1, y1)).resize([max(1, round(s * scale)) for s in (x1 - x0, y1 - y0)])
    return draw_boxes(piece, (corners - [x0, y0, x0, y0]) * scale, colors=colors, line=lines)


def to_corners(table: NDArray) -> NDArray:
    """``(n, 4)`` x1, y1, x2, y2 of rows of `Detections`."""
    return np.concatenate([table[:, 1:3], table[:, 1:3] + table[:, 3:5]], 1)
