"""Sliced training: the windows of a large image that ``predict(slice_size=...)`` looks at, as training images."""

import posixpath
import random
from dataclasses import replace

from dino_nb.data.windows import Window, slices
from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.table import BoxRow, ImageRow
from dino_nb.printer import counted

_KEPT = 0.5  # share of a box's area that a tile must have of it
SMALLEST = 32  # pixels of a tile's side


def sliced(source: Source, images: list[ImageRow], size: int, overlap: float, seed: int) -> list[ImageRow]:
    """``images``, and behind each training image larger than ``size`` its tiles.

    The whole stays too, as prediction looks at it first. A box is cut at the border of a tile; with less than half of
    its area inside it is left out there, since a neighbour or the whole has more of it. Of tiles without boxes as many
    are kept as there are with boxes. Images of val and test stay whole: they are scored whole.
    """
    rows: list[ImageRow] = []
    number = 0
    for image in images:
        windows = slices(*image.size, size, overlap)[1:] if image.split == "train" and image.size else []
        rows += [image, *(_tile(image, window) for window in windows)]
        number += bool(windows)
    if not number:
        source.note(f"no training image is larger than {size} x {size} pixels, so none was cut.")
        return images
    empty = [row for row in rows if row.window and not row.boxes]
    filled = sum(bool(row.window and row.boxes) for row in rows)
    left = {id(tile) for tile in random.Random(seed).sample(empty, max(0, len(empty) - filled))}
    source.note(
        f"cut {counted(number, 'training image')} into {counted(filled + len(empty) - len(left), 'tile')} of up to "
        f"{size} x {size} pixels beside the whole; boxes with less than {_KEPT:.0%} of their area in a tile are left "
        f"out of it, and {len(left):,} tiles without boxes."
    )
    return [row for row in rows if id(row) not in left]


def tile_name(image: ImageRow) -> str:
    """The name to give to the file of ``image``: that of its source, with the corner of its window if it is a tile."""
    if image.window is None:
        return image.file
    stem, ending = posixpath.splitext(image.file)
    jpeg = ending.lower() in (".jpg", ".jpeg", ".jpe", ".jfif")
    return f"{stem}_{image.window[0]}_{image.window[1]}{ending if jpeg else '.png'}"


def _tile(image: ImageRow, window: Window) -> ImageRow:
    boxes = [cut for box in image.boxes if (cut := _cut(box, window))]
    return replace(image, boxes=boxes, size=(window[2] - window[0], window[3] - window[1]), window=window)


def _cut(box: BoxRow, window: Window) -> BoxRow | None:
    x0, y0, x1, y1 = window
    left, top, right, bottom = max(box.x1, x0), max(box.y1, y0), min(box.x2, x1), min(box.y2, y1)
    whole, part = (box.x2 - box.x1) * (box.y2 - box.y1), max(0, right - left) * max(0, bottom - top)
    if part < _KEPT * whole or part <= 0:
        return None
    area = box.area if part == whole else round((box.area or whole) * part / whole, 3)
    return box._replace(x1=left - x0, y1=top - y0, x2=right - x0, y2=bottom - y0, area=area)
