"""Sliced training: the windows of a large image that ``predict(slice_size=...)`` looks at, as training images."""

import posixpath
import random
from pathlib import Path

from PIL import Image

from dino_nb.data.windows import Window, slices
from dino_nb.errors import UserError
from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.table import BoxRow, ImageRow

_KEPT = 0.5  # share of a box's area that a tile must have of it
_SMALLEST = 32  # pixels


def check_slicing(size: int | None, overlap: float) -> None:
    """``UserError`` for a size or overlap that cannot be."""
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < _SMALLEST):
        raise UserError(f"slice_size is a number of pixels from {_SMALLEST}, not {size!r}.")
    if not isinstance(overlap, (int, float)) or not 0 <= overlap < 1:
        raise UserError(f"overlap is a share of the tile's side from 0 up to, but not including, 1, not {overlap!r}.")


def sliced(source: Source, images: list[ImageRow], size: int, overlap: float, seed: int) -> list[ImageRow]:
    """``images``, and behind each training image larger than ``size`` its tiles.

    The whole stays too, as prediction looks at it first. A box is cut at the border of a tile; with less than half of
    its area inside it is left out there, since a neighbour or the whole has more of it. Of tiles without boxes as many
    are kept as there are with boxes. Images of val and test stay whole: they are scored whole.
    """
    tiles: dict[int, list[ImageRow]] = {}
    for i, image in enumerate(images):
        if image.split == "train" and image.size and len(windows := slices(*image.size, size, overlap)) > 1:
            tiles[i] = [_tile(image, window) for window in windows[1:]]
    if not tiles:
        source.note(f"no training image is larger than {size} x {size} pixels, so none was cut.")
        return images
    filled = [tile for some in tiles.values() for tile in some if tile.boxes]
    empty = [tile for some in tiles.values() for tile in some if not tile.boxes]
    left = {id(tile) for tile in random.Random(seed).sample(empty, max(0, len(empty) - len(filled)))}
    source.note(
        f"{len(tiles):,} training images were cut into {len(filled) + len(empty) - len(left):,} tiles of up to "
        f"{size} x {size} pixels beside the whole; boxes with less than {_KEPT:.0%} of their area in a tile are left "
        f"out of it, and {len(left):,} tiles without boxes."
    )
    kept = ((image, [tile for tile in tiles.get(i, ()) if id(tile) not in left]) for i, image in enumerate(images))
    return [row for image, some in kept for row in (image, *some)]


def tile_name(image: ImageRow) -> str:
    """The name to give to the file of ``image``: that of its source, with the corner of its window if it is a tile."""
    if image.window is None:
        return image.file
    stem, ending = posixpath.splitext(image.file)
    jpeg = ending.lower() in (".jpg", ".jpeg", ".jpe", ".jfif")
    return f"{stem}_{image.window[0]}_{image.window[1]}{ending if jpeg else '.png'}"


def write_tile(whole: Image.Image, window: Window, path: Path) -> None:
    """Save a window of an image, without loss unless its source had some."""
    whole.crop(window).save(path, quality=95, subsampling=0)


def _tile(image: ImageRow, window: Window) -> ImageRow:
    x0, y0, x1, y1 = window
    boxes = [cut for box in image.boxes if (cut := _cut(box, window))]
    size = (x1 - x0, y1 - y0)
    return ImageRow(image.file, image.where, boxes, image.split, size, source=image.source, id=image.id, window=window)


def _cut(box: BoxRow, window: Window) -> BoxRow | None:
    x0, y0, x1, y1 = window
    left, top, right, bottom = max(box.x1, x0), max(box.y1, y0), min(box.x2, x1), min(box.y2, y1)
    whole, part = (box.x2 - box.x1) * (box.y2 - box.y1), max(0, right - left) * max(0, bottom - top)
    if part < _KEPT * whole or part <= 0:
        return None
    area = box.area if part == whole else round((box.area or whole) * part / whole, 3)
    return box._replace(x1=left - x0, y1=top - y0, x2=right - x0, y2=bottom - y0, area=area)
