"""Which column of a CSV is what: by its name in any usual spelling, or by what stands in it."""

import re
from dataclasses import dataclass

from dino_nb.data.images import is_image

_FILE = (
    "filename file filepath path image imageid imagename imagepath imagefile imagefilename img imgid imgname imgpath"
)
_FILE += " imgfile picture photo frame uri url"
_LABEL = (
    "class classname classlabel label labelname labels category categoryname celltype object objectname objectclass"
)
_LABEL += " type species name target classid categoryid labelid"
_SPLIT = "split subset set partition usage"
_CROWD = "isgroupof iscrowd"
_SCORE = "confidence score probability prob conf"
_SIDES = {  # what a column of coordinates holds
    "xmin": "xmin x1 left xtl minx xleft xl startx xstart",
    "ymin": "ymin y1 top ytl miny ytop yt starty ystart",
    "xmax": "xmax x2 right xbr maxx xright xr endx xend",
    "ymax": "ymax y2 bottom ybr maxy ybottom yb endy yend",
    "x": "x",
    "y": "y",
    "cx": "cx xcenter xcentre centerx centrex xc xcen xmid",
    "cy": "cy ycenter ycentre centery centrey yc ycen ymid",
    "w": "w boxwidth bboxwidth bw width",
    "h": "h boxheight bboxheight bh height",
}
_SIZE = ("imagewidth imgwidth width", "imageheight imgheight height")
_CELL = "bbox box boundingbox bboxes rect coordinates coords"
_IGNORED = "source confidence score id index area iscrowd difficult truncated occluded depth split subset comment"
_PREFIX = re.compile(r"^(bndbox|bbox|box|rect|region|roi)(?=.)")


@dataclass
class Columns:
    """Indices of columns. ``box`` are four in the order of ``form`` (``xyxy``, ``xywh``, ``cxcywh``), or one that
    holds all (``cell``); ``guessed``: there is no line of names."""

    file: int
    label: int | None
    box: list[int]
    form: str
    size: list[int] | None = None
    split: int | None = None
    crowd: int | None = None
    score: int | None = None
    guessed: bool = False

    @property
    def last(self) -> int:
        """The highest index that a row must have."""
        return max(i for i in (self.file, self.label, self.split, *self.box, *(self.size or ())) if i is not None)

    def describe(self) -> str:
        """Such as ``file in column 1, class in column 6, x1, y1, x2, y2 in columns 2, 3, 4, 5``."""
        box = ", ".join(str(i + 1) for i in self.box)
        label = "no class" if self.label is None else f"class in column {self.label + 1}"
        sides = "x1, y1, x2, y2" if self.form == "xyxy" else "x, y, width, height"
        return f"file in column {self.file + 1}, {label}, {sides} in columns {box}"


def find_columns(rows: list[list[str]]) -> Columns | None:
    """`Columns` of a CSV by its first rows (lists of cells), or None if they are no boxes of images."""
    if not rows:
        return None
    head, body = rows[0], rows[1:]
    if sum(map(_is_number, head)) >= 4 or any(map(is_image, head)):  # an image without a box may come first
        return _without_names(rows)
    names = [re.sub(r"[^a-z0-9]", "", cell.lower()) for cell in head]
    box, form = _box(names)
    if box is None:
        return None
    free = [i for i in range(len(names)) if i not in box]
    size = None
    if form == "xyxy" or form == "cell" or not {"width", "height"} & {names[i] for i in box}:
        size = [_first(names, words, free) for words in _SIZE]
        size = size if None not in size else None
    free = [i for i in free if i not in (size or ())]
    split, crowd, score = (_first(names, words, free) for words in (_SPLIT, _CROWD, _SCORE))
    file = _first(names, _FILE, free)
    if file is None:
        file = next((i for i in free if body and all(len(r) > i and is_image(r[i]) for r in body)), None)
    if file is None:
        return None
    free = [i for i in free if i not in (file, split)]
    label = _first(names, _LABEL, free)
    if label is None:
        texts = [i for i in free if names[i] not in _IGNORED.split() and _is_text(body, i)]
        label = texts[0] if len(texts) == 1 else None
    return Columns(file, label, box, form, size, split, crowd, score)


def _box(names):
    """Indices of the box and its form, or ``(None, None)``."""
    bare = [_PREFIX.sub("", name) for name in names]
    at = {}
    for side, words in _SIDES.items():
        for word in words.split():
            index = next((i for i, name in enumerate(names) if name == word), None)
            index = next((i for i, name in enumerate(bare) if name == word), None) if index is None else index
            if index is not None:
                at.setdefault(side, index)
    # box_width beside an image's width: the one that says box
    for side, word in (("w", "width"), ("h", "height")):
        prefixed = [i for i, name in enumerate(bare) if name == word and names[i] != word]
        if prefixed:
            at[side] = prefixed[0]
    if "x0" in bare and "x1" in bare and "y0" in bare and "y1" in bare and "x2" not in bare:
        return [bare.index(name) for name in ("x0", "y0", "x1", "y1")], "xyxy"
    for form, sides in (
        ("xyxy", ("xmin", "ymin", "xmax", "ymax")),
        ("cxcywh", ("cx", "cy", "w", "h")),
        ("xywh", ("x", "y", "w", "h")),
        ("xywh", ("xmin", "ymin", "w", "h")),
    ):
        if all(side in at for side in sides):
            return [at[side] for side in sides], form
    cell = _first(names, _CELL, range(len(names)))
    return ([cell], "cell") if cell is not None else (None, None)


def _first(names, words, free):
    return next((i for word in words.split() for i in free if names[i] == word), None)


def _without_names(rows):
    """Columns by what stands in them: an image's name, four numbers, a class."""
    width = max(map(len, rows))
    rows = [row for row in rows if len(row) == width]
    file = next((i for i in range(width) if all(is_image(row[i]) for row in rows)), None)
    numbers = [i for i in range(width) if i != file and all(_is_number(row[i]) or not row[i] for row in rows)]
    numbers = [i for i in numbers if any(row[i] for row in rows)]
    if file is None or len(numbers) < 4:
        return None
    labels = [i for i in range(width) if i != file and i not in numbers]
    if not labels and len(numbers) > 4:
        labels = numbers[4:5]
    return Columns(file, labels[0] if labels else None, numbers[:4], "xyxy", guessed=True)


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_text(body, i):
    return any(len(row) > i and row[i] and not _is_number(row[i]) for row in body)
