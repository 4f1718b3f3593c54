"""Which column of a CSV is what: by its name in any usual spelling, or by what stands in it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dino_nb.data.images import is_image

# the spellings of each column, the surest first, without what is no letter or digit
_WORDS = {
    "file": "filename file filepath path image imageid imagename imagepath imagefile imagefilename img imgid imgname "
    "imgpath imgfile picture photo frame uri url",
    "label": "class classname classlabel label labelname labels category categoryname celltype object objectname "
    "objectclass type species name target classid categoryid labelid",
    "split": "split subset set partition usage",
    "crowd": "isgroupof iscrowd",
    "score": "confidence score probability prob conf",
    "width": "imagewidth imgwidth width",
    "height": "imageheight imgheight height",
    "cell": "bbox box boundingbox bboxes rect coordinates coords",
}
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
_FORMS = (("xyxy", "xmin ymin xmax ymax"), ("cxcywh", "cx cy w h"), ("xywh", "x y w h"), ("xywh", "xmin ymin w h"))
_NO_LABEL = "source confidence score id index area iscrowd difficult truncated occluded depth split subset comment"
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
    if not box:
        return None
    free = [i for i in range(len(names)) if i not in box]

    def take(what: str) -> int | None:
        found = _first(names, _WORDS[what], free)
        if found is not None:
            free.remove(found)
        return found

    size = None
    if form in ("xyxy", "cell") or not {"width", "height"} & {names[i] for i in box}:
        sides = [_first(names, _WORDS[side], free) for side in ("width", "height")]
        if None not in sides:
            size = [i for i in sides if i is not None]
            free = [i for i in free if i not in size]
    crowd, score = (_first(names, _WORDS[what], free) for what in ("crowd", "score"))
    split, file = take("split"), take("file")
    if file is None:
        file = next((i for i in free if body and all(len(r) > i and is_image(r[i]) for r in body)), None)
    if file is None:
        return None
    label = take("label")
    if label is None:
        texts = [i for i in free if i != file and names[i] not in _NO_LABEL.split() and _is_text(body, i)]
        label = texts[0] if len(texts) == 1 else None
    return Columns(file, label, box, form, size, split, crowd, score)


def _box(names: list[str]) -> tuple[list[int], str]:
    """Indices of the box and its form; no indices if there is none."""
    bare = [_PREFIX.sub("", name) for name in names]
    at: dict[str, int] = {}
    for side, words in _SIDES.items():
        for word in words.split():
            if word in names or word in bare:
                at.setdefault(side, names.index(word) if word in names else bare.index(word))
    # box_width beside an image's width: the one that says box
    for side, word in (("w", "width"), ("h", "height")):
        if prefixed := [i for i, name in enumerate(bare) if name == word and names[i] != word]:
            at[side] = prefixed[0]
    if {"x0", "y0", "x1", "y1"} <= set(bare) and "x2" not in bare:
        return [bare.index(name) for name in ("x0", "y0", "x1", "y1")], "xyxy"
    for form, sides in _FORMS:
        if at.keys() >= set(sides.split()):
            return [at[side] for side in sides.split()], form
    cell = _first(names, _WORDS["cell"], range(len(names)))
    return ([] if cell is None else [cell]), "cell"


def _first(names: list[str], words: str, free: Iterable[int]) -> int | None:
    return next((i for word in words.split() for i in free if names[i] == word), None)


def _without_names(rows: list[list[str]]) -> Columns | None:
    """Columns by what stands in them: an image's name, four numbers, a class."""
    width = max(map(len, rows))
    columns = list(zip(*(row for row in rows if len(row) == width)))
    file = next((i for i, cells in enumerate(columns) if all(map(is_image, cells))), None)
    others = [i for i in range(width) if i != file]
    numbers = [i for i in others if any(columns[i]) and all(_is_number(cell) for cell in columns[i] if cell)]
    if file is None or len(numbers) < 4:
        return None
    labels = [i for i in others if i not in numbers] or numbers[4:5]
    return Columns(file, labels[0] if labels else None, numbers[:4], "xyxy", guessed=True)


def _is_number(cell: str) -> bool:
    try:
        return float(cell) is not None
    except ValueError:
        return False


def _is_text(body: Sequence[list[str]], i: int) -> bool:
    return any(len(row) > i and row[i] and not _is_number(row[i]) for row in body)
