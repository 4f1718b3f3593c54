"""From what annotations say to what the pictures are: sizes, boxes in pixels of the upright picture, equal contents."""

from collections import defaultdict
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from dino_nb.data.images import header
from dino_nb.errors import UserError
from dino_nb.files import sha256

SHOWN = 5  # examples kept of each thing that the report tells
_MARGIN = 1.0  # pixels that a box may stick out without a word


@dataclass
class Tally:
    """Things that were changed: ``what`` -> count, and the first examples of each."""

    counts: dict = field(default_factory=lambda: defaultdict(int))
    examples: dict = field(default_factory=lambda: defaultdict(list))

    def add(self, what, example):
        """Count one more, keeping the first few examples."""
        self.counts[what] += 1
        if len(self.examples[what]) < SHOWN:
            self.examples[what].append(example)


def measure(source, pictures, dropped, changed, scale_boxes=False, progress=True):
    """The readable ones of ``pictures``, each with its real ``size`` and its boxes in pixels within it.

    Boxes without area are counted in ``dropped`` (a `Tally`), those cut at the border and pictures whose annotated
    size is not theirs in ``changed``. An unreadable picture is a fault of ``source``.
    """
    kept = []
    for picture in tqdm(pictures, desc="measuring", unit="picture", disable=not progress, leave=False):
        try:
            width, height, orientation = header(source.paths[picture.file])
        except UserError as error:
            source.fault(picture.where, str(error))
            continue
        upright = (height, width) if orientation > 4 else (width, height)
        turn, scale = 1, (1.0, 1.0)
        if picture.relative:
            scale = upright
        elif picture.size not in (None, upright):
            said = f"{picture.file} is {upright[0]} x {upright[1]}, annotated as {picture.size[0]} x {picture.size[1]}"
            if orientation > 4 and picture.size == (width, height):
                turn = orientation
                changed.add("boxes turned with their picture, as its EXIF orientation says", picture.file)
            elif scale_boxes:
                scale = (upright[0] / picture.size[0], upright[1] / picture.size[1])
                changed.add("pictures of another size than annotated: boxes scaled, as told", said)
            else:
                changed.add(
                    "pictures of another size than annotated: boxes taken as pixels of the file "
                    "(say --scale-boxes if the pictures were resized after labelling)",
                    said,
                )
        picture.boxes = list(_fitted(picture, scale, turn, (width, height), upright, dropped, changed))
        picture.size = upright
        kept.append(picture)
    return kept


def _fitted(picture, scale, turn, stored, size, dropped, changed):
    for box in picture.boxes:
        corners = box.x1 * scale[0], box.y1 * scale[1], box.x2 * scale[0], box.y2 * scale[1]
        corners = [round(v, 3) for v in (corners if turn == 1 else _turned(corners, turn, stored))]
        x1, y1, x2, y2 = corners
        inside = [min(max(v, 0.0), float(limit)) for v, limit in zip(corners, size * 2)]
        fault = None
        if x2 <= x1 or y2 <= y1:
            side = "width" if x2 == x1 else "height" if y2 == y1 else None
            fault = f"has no {side}" if side else "has its corners exchanged"
        elif inside[2] <= inside[0] or inside[3] <= inside[1]:
            fault = "is outside of the picture"
        said = f"{picture.file} ({box.where}): {box.name!r} {x1:g}, {y1:g}, {x2:g}, {y2:g}"
        if fault:
            dropped.add(fault, said)
            continue
        area = box.area if box.area and box.area > 0 and scale == (1.0, 1.0) and inside == corners else None
        if max(abs(a - b) for a, b in zip(inside, corners)) > _MARGIN:
            changed.add("boxes cut at the border of their picture", said)
        if area is None:
            area = round((inside[2] - inside[0]) * (inside[3] - inside[1]), 3)
        yield box._replace(x1=inside[0], y1=inside[1], x2=inside[2], y2=inside[3], area=area)


def _turned(corners, orientation, stored):
    """Corners in the upright picture of corners in the stored one, for the sideways orientations 5..8."""
    width, height = stored
    x1, y1, x2, y2 = corners
    if orientation in (6, 7):  # clockwise, or mirrored across the other diagonal
        y1, y2 = height - y2, height - y1
    if orientation in (7, 8):
        x1, x2 = width - x2, width - x1
    return y1, x1, y2, x2


def contents(paths, progress=True):
    """For each path a key that equals another's exactly if the files hold the same bytes.

    Only files of equal length are read.
    """
    sizes = [path.stat().st_size for path in paths]
    lengths = defaultdict(int)
    for size in sizes:
        lengths[size] += 1
    bar = tqdm(zip(paths, sizes), total=len(paths), desc="comparing", unit="picture", disable=not progress, leave=False)
    return [(size, sha256(path) if lengths[size] > 1 else "") for path, size in bar]
