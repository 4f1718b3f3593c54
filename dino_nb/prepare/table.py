"""The one table of annotations: every reader makes it, and measuring, splitting and writing use it.

Each row knows where it was written (``where``: file and line, or file and entry).
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dino_nb.data.windows import Window

SPLITS = ("train", "val", "test")
LAYOUTS = ("xywh", "xyxy", "cxcywh", "xywh-relative", "xyxy-relative", "cxcywh-relative")  # relative: fractions 0..1


class BoxRow(NamedTuple):
    """One object of class ``name``.

    ``x1, y1, x2, y2`` are four numbers in the ``layout`` of their image, and corners in pixels of the upright image
    after `dino_nb.prepare.measure.measure`. ``area`` in square pixels or None, ``id`` the source's own.
    """

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    where: str = ""
    iscrowd: int = 0
    area: float | None = None
    id: Any = None


@dataclass(slots=True)
class ImageRow:
    """One image and its boxes.

    Attributes:
        file: its key in the source (a posix path), or its name in a COCODIR's folder.
        where: where the annotations of this image were read.
        boxes: `BoxRow` objects; most formats have them in the image, COCO has them in a list of their own.
        split: ``train``, ``val``, ``test`` or None if the source does not tell.
        size: ``(width, height)`` as annotated, or None; as measured after `measure`.
        layout: how ``boxes`` are written, one of ``LAYOUTS``; None if the format leaves it open or often gets it
            wrong: it is then guessed for all boxes of an annotation file together (`dino_nb.prepare.layout`).
        source: key of the annotation file.
        id: the source's own.
        faulty: boxes of this image that could not be read.
        window: the part ``(x0, y0, x1, y1)`` of the file that this row is, if it is a tile of a large image.
    """

    file: str
    where: str
    boxes: list[BoxRow] = field(default_factory=list)
    split: str | None = None
    size: tuple[int, int] | None = None
    layout: str | None = "xyxy"
    source: str = ""
    id: Any = None
    faulty: int = 0
    window: Window | None = None


@dataclass
class Annotations:
    """``images`` and ``categories``: ``{name: original id or None}`` in the source's order; None where the format
    lists no classes (they are then sorted by name)."""

    images: list[ImageRow]
    categories: dict[str, Any] | None = None
