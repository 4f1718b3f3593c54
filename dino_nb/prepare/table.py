"""The one table of annotations: every reader makes it; convert, check, repair, split, export and the figures use it.

An `Annotations` has images, each with its boxes, and categories. Each row knows where it was written (``where``: file
and line, or file and entry) and keeps what else its source had (``extra``). Rows are small: a set of 20,000 images and
200,000 boxes fits into 100 MB.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

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
    extra: dict | None = None


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
    extra: dict | None = None


class Columns(NamedTuple):
    """All boxes of an `Annotations` as arrays of one length: ``image`` and ``category`` are positions in its images
    and in ``list(categories)``, ``boxes (n, 4)`` as written, ``crowd`` bool."""

    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray


@dataclass
class Annotations:
    """``images`` and ``categories``: ``{name: original id or None}`` in the source's order; None where the format
    lists no classes (they are then sorted by name)."""

    images: list[ImageRow]
    categories: dict[str, Any] | None = None

    def columns(self) -> Columns:
        """The boxes as arrays; a class that ``categories`` does not list is -1."""
        at = {name: i for i, name in enumerate(self.categories or ())}
        rows = [(i, at.get(b.name, -1), *b[1:5], b.iscrowd) for i, row in enumerate(self.images) for b in row.boxes]
        table = np.array(rows, dtype=np.float64).reshape(-1, 7)
        image, category = table[:, :2].astype(np.int64).T
        return Columns(image, category, table[:, 2:6], table[:, 6] == 1)
