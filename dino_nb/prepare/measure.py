"""From what annotations say to what the images are: sizes, boxes as corners in pixels of the upright image."""

from collections import defaultdict

import numpy as np

from dino_nb.data.images import header, turned_boxes, turned_size
from dino_nb.errors import UserError
from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.layout import doubt, is_relative, to_xyxy
from dino_nb.prepare.table import BoxRow, ImageRow
from dino_nb.printer import counted

_MARGIN = 1.0  # pixels that a box may stick out without a word
_FEW = 20  # boxes of an annotation file that are asked for their layout together with other files'


def measure(source: Source, images: list[ImageRow], scale_boxes: bool) -> list[ImageRow]:
    """The readable ones of ``images``, each with its real ``size`` and its boxes as corners in pixels within it; rows
    of the same file and split become one.

    ``source`` counts boxes without area as dropped, those cut at the border and images whose annotated size is not
    theirs as changed, unreadable images as faults. A layout in doubt is a ``UserError``.
    """
    headers: dict[str, tuple[int, int, int] | None] = {}
    for row in source.each(images, "measuring"):
        if row.file not in headers:
            try:
                headers[row.file] = header(source.paths[row.file])
            except UserError as error:
                headers[row.file] = None
                source.fault(row.where, str(error))
    measured = [(row, stored) for row in images if (stored := headers[row.file])]
    _refuse_doubtful(measured)
    for row, (width, height, orientation) in measured:
        upright = turned_size((width, height), orientation)
        layout, _, relative = (row.layout or "xywh").partition("-")
        corners = np.array([box[1:5] for box in row.boxes], dtype=np.float64).reshape(-1, 4)
        corners, scale = to_xyxy(corners, np.array(upright), layout, bool(relative)), (1.0, 1.0)
        if row.size is not None and row.size != upright and not relative:
            said = f"{row.file} is {upright[0]} x {upright[1]}, annotated as {row.size[0]} x {row.size[1]}"
            if row.size == (width, height):
                source.changed.add("boxes turned with their image, as its EXIF orientation says", row.file)
                corners = turned_boxes(corners, (width, height), orientation)
            elif scale_boxes:
                scale = (upright[0] / row.size[0], upright[1] / row.size[1])
                source.changed.add("images of another size than annotated: boxes scaled, as told", said)
            else:
                source.changed.add(
                    "images of another size than annotated: boxes taken as pixels of the file "
                    "(say --scale-boxes if the images were resized after labelling)",
                    said,
                )
        row.boxes = _within(source, row, upright, (corners * (scale * 2)).round(3), scale == (1.0, 1.0))
        row.size, row.layout = upright, "xyxy"
    return _merged(source, [row for row, _ in measured])


def _refuse_doubtful(measured: list[tuple[ImageRow, tuple[int, int, int]]]) -> None:
    """Ask the numbers of each annotation file that leaves its layout open, and whether pixels are pixels."""
    by_source: dict[str, list[tuple]] = defaultdict(list)
    for row, (width, height, orientation) in measured:
        if row.layout is None:
            size = row.size or turned_size((width, height), orientation)
            by_source[row.source] += [(*box[1:5], *size) for box in row.boxes]
    few = [key for key, boxes in by_source.items() if len(boxes) < _FEW]
    for key in few[1:]:
        by_source[few[0]] += by_source.pop(key)
    for key, boxes in by_source.items():
        table = np.array(boxes, dtype=np.float64).reshape(-1, 6)
        if why := doubt(table[:, :4], table[:, 4:]):
            raise UserError(f"{key}: {why}")
    told = [row for row, _ in measured if row.layout in ("xyxy", "cxcywh")]
    if is_relative(np.array([box[1:5] for row in told for box in row.boxes], dtype=np.float64).reshape(-1, 4)):
        how = f"say --box-format {told[0].layout}-relative if that is what they are"
        raise UserError(f"{told[0].source}: the boxes lie within 0..1, as fractions, where pixels belong: {how}.")


def _within(source: Source, row: ImageRow, size: tuple[int, int], corners: np.ndarray, keep_area: bool) -> list[BoxRow]:
    """The boxes of ``row`` with their ``corners (n, 4)`` cut to the image; those without area are dropped."""
    kept = []
    inside = np.clip(corners, 0.0, size * 2)
    for box, whole, cut in zip(row.boxes, corners.tolist(), inside.tolist()):
        (x1, y1, x2, y2), (left, top, right, bottom) = whole, cut
        said = f"{row.file} ({box.where}): {box.name!r} {x1:g}, {y1:g}, {x2:g}, {y2:g}"
        if x2 <= x1 or y2 <= y1:
            side = "width" if x2 == x1 else "height" if y2 == y1 else None
            source.dropped.add(f"has no {side}" if side else "has its corners exchanged", said)
        elif right <= left or bottom <= top:
            source.dropped.add("is outside of the image", said)
        else:
            if max(abs(a - b) for a, b in zip(cut, whole)) > _MARGIN:
                source.changed.add("boxes cut at the border of their image", said)
            area = box.area if box.area and box.area > 0 and keep_area and cut == whole else None
            area = area or round((right - left) * (bottom - top), 3)
            kept.append(box._replace(x1=left, y1=top, x2=right, y2=bottom, area=area))
    return kept


def _merged(source: Source, images: list[ImageRow]) -> list[ImageRow]:
    """One row for each file and split: two annotation files may describe the same image, or be copies."""
    merged: dict[tuple, ImageRow] = {}
    repeated = 0
    for row in images:
        first = merged.setdefault((row.file, row.split), row)
        if first is not row:
            known = {_key(box) for box in first.boxes}
            new = [box for box in row.boxes if _key(box) not in known]
            repeated += len(row.boxes) - len(new)
            first.boxes = first.boxes + new
            first.faulty += row.faulty
    if len(merged) < len(images):
        again = f", {repeated:,} that were there twice only once" if repeated else ""
        count = counted(len(images) - len(merged), "image")
        source.note(f"boxes put together{again}, since they were annotated in several places: {count}.")
    return list(merged.values())


def _key(box: BoxRow) -> tuple:
    return box.name, *(round(v, 1) for v in box[1:5])
