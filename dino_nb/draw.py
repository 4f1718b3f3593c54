"""Boxes with names and scores on an image, readable at any size and by colour-blind readers."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageOps

from dino_nb.errors import UserError, did_you_mean
from dino_nb.fonts import draw_text, font, text_width

# Okabe and Ito's colours, which people with any common colour blindness can tell apart (theirs without black, which
# vanishes on dark images); then the same hues darker and lighter. Names stand beside them: colour is never alone.
_HUES = ["#D55E00", "#0072B2", "#009E73", "#F0E442", "#CC79A7", "#56B4E9", "#E69F00"]
PALETTE = [
    *_HUES,
    *["#8A3D00", "#003F63", "#00573F", "#A39A00", "#8F4370", "#2B7FB0", "#946600"],
    *["#FF9A57", "#5FAEDD", "#5FD3B0", "#FAF5A8", "#EBC0D8", "#A9DAF5", "#FFD27A"],
]
LINES = {"solid": 0, "dashed": 4, "dotted": 1}  # length of a dash in line widths
_NAMED = {"red": "#D62728", "orange": "#E69F00", "yellow": "#F0E442", "green": "#009E73", "cyan": "#17BECF"}
_NAMED |= {"blue": "#0072B2", "purple": "#9467BD", "pink": "#E377C2", "brown": "#8C564B", "grey": "#7F7F7F"}
_NAMED |= {"gray": "#7F7F7F", "white": "#F5F5F5", "black": "#222222"}
_LONGEST_NAME = 40  # characters of a class name shown
_HIDDEN = 0.25  # share of a box that a tag may cover

Color = str | tuple[int, ...]
Boxes = Any  # (n, 4) array, tensor or nested list


def class_colors(names: Iterable[str | None]) -> dict[str, str]:
    """``{name: "#rrggbb"}`` by position in ``names``: pass it as ``colors`` wherever the same classes are shown.

    A class named after a colour ("red circle") gets that colour, unless several classes are.
    """
    known = list(dict.fromkeys(name for name in names if name is not None))
    words = [str(name).lower().replace("_", " ").replace("-", " ").split() for name in known]
    own = [_NAMED.get(word[0]) if len(word) > 1 else None for word in words]
    return {
        name: color if color and own.count(color) == 1 else PALETTE[i % len(PALETTE)]
        for i, (name, color) in enumerate(zip(known, own))
    }


def color_of(label: object) -> str:
    """The colour of a class when its list of classes is not at hand: by number, or by a hash of the name."""
    number = label if isinstance(label, (int, np.integer)) else zlib.crc32(str(label).encode())
    return PALETTE[int(number) % len(PALETTE)]


def draw_boxes(
    image: Image.Image | npt.NDArray[np.uint8],
    boxes: Boxes,
    labels: Sequence[object] | None = None,
    scores: Sequence[float | None] | None = None,
    colors: Color | Sequence[Color] | Mapping[Any, Color] | None = None,
    *,
    enlarge_to: int = 0,
    line: str | Sequence[str] = "solid",
    font_file: str | Path | None = None,
) -> Image.Image:
    """Draw boxes on a copy of an image.

    A tag with name and score stands beside its box, where it hides least of the others; a tag that would hide a good
    part of another box is shortened, then left out.

    Args:
        image: PIL image (any mode; its EXIF orientation is applied), or ``(H, W[, 3])`` uint8 array.
        boxes: ``(n, 4)`` array, tensor or list: x0, y0, x1, y1 in pixels.
        labels: n class names or numbers (None for a box without a name); None draws no names.
        scores: n numbers in [0, 1], written as percent (None for a box without a score).
        colors: None (by label), one colour (a name, ``"#rrggbb"`` or a tuple of numbers 0..255), n colours, or a dict
            from label to colour (see :func:`class_colors`).
        enlarge_to: enlarge the image until its long side has this many pixels; 0 keeps its size.
        line: ``"solid"``, ``"dashed"`` or ``"dotted"``, or n of these, for what is to be told apart.
        font_file: a TrueType file for the names. Default: DejaVu Sans, and a system font for letters that it lacks.

    Returns:
        PIL RGB image, of the same size unless ``enlarge_to`` enlarged it.
    """
    canvas_image = _as_rgb(image)
    boxes = _as_boxes(boxes)
    lines = [line] * len(boxes) if isinstance(line, str) else list(line)
    for kind in set(lines) - set(LINES):
        raise UserError(f"a line is one of {', '.join(LINES)}, not {kind!r}.{did_you_mean(kind, LINES)}")
    for what, given in (("labels", labels), ("scores", scores), ("lines", lines)):
        if given is not None and len(given) != len(boxes):
            raise UserError(f"{len(boxes)} boxes cannot be drawn with {len(given)} {what}: give one for each box.")
    labels = None if labels is None else [x.item() if hasattr(x, "item") else x for x in labels]
    scores = None if scores is None else [None if s is None else float(s) for s in scores]
    paints = _paints(colors, labels, len(boxes))

    enlarge = max(1.0, enlarge_to / max(canvas_image.size))
    if enlarge > 1:
        enlarged = [round(side * enlarge) for side in canvas_image.size]
        canvas_image, boxes = canvas_image.resize(enlarged, Image.Resampling.BICUBIC), boxes * enlarge
    short = min(canvas_image.size)
    width = max(2, round(short / 250))
    canvas = ImageDraw.Draw(canvas_image)
    corners = [_inside(box, canvas_image.size) for box in boxes]
    sides = [(x1 - x0, y1 - y0) for x0, y0, x1, y1 in corners]
    # Large boxes first: small ones stay visible on top of them, with thinner lines that leave something to see.
    for i in sorted(range(len(boxes)), key=lambda i: -sides[i][0] * sides[i][1]):
        _outline(canvas, corners[i], paints[i], min(width, max(1, min(sides[i]) // 10)), lines[i])
    captions = [_captions(labels[i] if labels else None, scores[i] if scores else None) for i in range(len(boxes))]
    # The most certain name chooses its place first, and is drawn last: nothing covers it.
    order = sorted((i for i in range(len(boxes)) if captions[i]), key=lambda i: -(scores[i] or 0) if scores else 0)
    tags = _Tags(np.array(corners, float).reshape(-1, 4), canvas_image.size, width, font_file)
    for i in order:
        tags.place(i, captions[i])
    for i, text, size, place in reversed(tags.placed):
        ink, pad = _ink(paints[i]), max(2, size // 6)
        canvas.rectangle(place, fill=paints[i], outline=ink if ink == "black" else None)
        draw_text(canvas, (place[0] + pad, place[1] + pad // 2), text, size, ink, font_file)
    return canvas_image


def add_legend(image: Image.Image, entries: Sequence[tuple[str, Color, str]]) -> Image.Image:
    """``image`` with a strip below it that explains lines: ``entries`` are ``(text, colour, line)``."""
    size = max(10, min(18, round(image.width / 45)))
    high, sample, gap = round(size * 1.5), 2 * size, size
    places, x, y = [], gap, 0
    for text, _, _ in entries:
        wide = sample + size // 2 + text_width(text, size)
        if x > gap and x + wide > image.width - gap:
            x, y = gap, y + high
        places.append((x, y))
        x += wide + gap
    sheet = Image.new("RGB", (image.width, image.height + y + high + 4), "#222")
    sheet.paste(image, (0, 0))
    canvas = ImageDraw.Draw(sheet)
    for (text, paint, line), (x, y) in zip(entries, places):
        top = image.height + y + 4
        _outline(canvas, (x, top + 2, x + sample, top + high - 6), _rgb(paint), 2, line)
        draw_text(canvas, (x + sample + size // 2, top), text, size, "white")
    return sheet


def _as_rgb(image: Any) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise UserError(f"an array to draw on must be (H, W) or (H, W, 3) uint8, not {image.shape} {image.dtype}.")
        image = Image.fromarray(image.squeeze(-1) if image.shape[2:] == (1,) else image)
    if not isinstance(image, Image.Image):
        raise UserError(f"boxes are drawn on a PIL image or a uint8 array, not on a {type(image).__name__}.")
    upright = ImageOps.exif_transpose(image)
    return upright.convert("RGB") if upright.mode != "RGB" or upright is image else upright


def _as_boxes(boxes: Boxes) -> npt.NDArray[np.float64]:
    if hasattr(boxes, "detach"):
        boxes = boxes.detach().float().cpu().numpy()
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise UserError(f"boxes must be finite numbers of shape (n, 4): x0, y0, x1, y1; this has {boxes.shape}.")
    return boxes


def _paints(colors: Any, labels: Sequence[object] | None, n: int) -> list[tuple[int, ...]]:
    if colors is None:
        several = [color_of(label) for label in labels] if labels else [PALETTE[0]] * n
    elif isinstance(colors, Mapping):
        several = [colors.get(label) or color_of(label) for label in labels or [None] * n]
    elif isinstance(colors, str) or (
        len(colors) in (3, 4) and not any(np.size(c) > 1 or isinstance(c, str) for c in colors)
    ):
        several = [colors] * n
    elif len(colors) == n:
        several = list(colors)
    else:
        raise UserError(f"{n} boxes cannot be drawn with {len(colors)} colors: give one, or one for each box.")
    return [_rgb(color) for color in several]


def _rgb(color: Any) -> tuple[int, ...]:
    try:
        values = ImageColor.getrgb(color) if isinstance(color, str) else color
    except ValueError:
        raise UserError(
            f"there is no colour {color!r}: give a name such as 'red', '#d55e00', or (213, 94, 0)."
        ) from None
    if len(values) not in (3, 4) or not all(isinstance(c, (int, np.integer)) and 0 <= c <= 255 for c in values):
        raise UserError(f"a colour is a name, '#d55e00' or three numbers 0 to 255, not {color!r}.")
    return tuple(map(int, values[:3]))


def _inside(box: npt.NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Whole-pixel corners, in order and inside the image."""
    right, bottom = size[0] - 1, size[1] - 1
    x0, x1 = sorted(min(max(round(x), 0), right) for x in (box[0], box[2]))
    y0, y1 = sorted(min(max(round(y), 0), bottom) for y in (box[1], box[3]))
    return x0, y0, x1, y1


def _ink(paint: tuple[int, ...]) -> str:
    """Black or white, whichever stands out more from ``paint`` (WCAG relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in paint)]
    return "black" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else "white"


def _outline(
    canvas: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], paint: tuple[int, ...], width: int, line: str
) -> None:
    """A coloured line with a thin contrasting one outside and inside, which shows on any background."""
    x0, y0, x1, y1 = corners
    hair = max(1, width // 3)
    canvas.rectangle((x0 - hair, y0 - hair, x1 + hair, y1 + hair), outline=_ink(paint), width=width + 2 * hair)
    dash = LINES[line] * width
    if not dash:
        canvas.rectangle(corners, outline=paint, width=width)
        return
    right, bottom = max(x0, x1 - width + 1), max(y0, y1 - width + 1)
    places = [(x, y, dash, width) for x in range(x0, x1 + 1, 2 * dash) for y in (y0, bottom)]
    places += [(x, y, width, dash) for y in range(y0, y1 + 1, 2 * dash) for x in (x0, right)]
    for x, y, wide, high in places:
        canvas.rectangle((x, y, min(x + wide - 1, x1), min(y + high - 1, y1)), fill=paint)


def _captions(label: object, score: float | None) -> list[str]:
    """What a tag says, and what it says where that does not fit."""
    name = "".join(c for c in " ".join(str("" if label is None else label).split()) if c.isprintable())
    if len(name) > _LONGEST_NAME:
        name = name[: _LONGEST_NAME - 1] + "…"
    percent = "" if score is None else f"{100 * score:.0f}%"
    return list(dict.fromkeys(text for text in (f"{name} {percent}".strip(), name) if text))


class _Tags:
    """Places for tags, each chosen where it hides least of boxes and of tags placed before."""

    def __init__(self, boxes: npt.NDArray, size: tuple[int, int], width: int, font_file: str | Path | None) -> None:
        self.boxes, self.size, self.width, self.font_file = boxes, size, width, font_file
        self.largest = max(10, min(60, round(min(size) / 28)))
        self.areas = np.maximum((boxes[:, 2:] - boxes[:, :2] + 1).prod(1), 1)
        self.placed: list[tuple[int, str, int, tuple[int, int, int, int]]] = []

    def place(self, i: int, captions: list[str]) -> None:
        side = self.areas[i] ** 0.5
        size = int(min(self.largest, max(0.6 * self.largest, 9, 0.15 * side)))
        for text in captions:
            places = self._places(i, text, size)
            if len(places):
                costs = self._costs(places)
                if costs.min() <= _HIDDEN or len(self.boxes) == 1:
                    x0, y0, x1, y1 = map(int, places[costs.argmin()])
                    self.placed.append((i, text, size, (x0, y0, x1, y1)))
                    return

    def _places(self, i: int, text: str, size: int) -> npt.NDArray:
        """``(n, 4)`` rectangles round the box and in its corners, moved into the image; the first are preferred."""
        pad = max(2, size // 6)
        # One height for all tags of a size whatever their letters: neighbours line up.
        high = sum(font(size, self.font_file).getmetrics()) + pad
        wide = text_width(text, size, self.font_file) + 2 * pad
        x0, y0, x1, y1 = self.boxes[i]
        off = self.width // 2
        above, below, left, right = y0 - high, y1 + 1, x0 - wide - off, x1 + 1 + off
        corners = [(x0, above), (x1 - wide + 1, above), (x0, y0), (x0, below), (x1 - wide + 1, below)]
        corners += [(right, y0), (left, y0), (right, y1 - high + 1), (left, y1 - high + 1)]
        corners += [(x0, y1 - high + 1), (x1 - wide + 1, y0), (right, above), (left, above)]
        at = np.array([(x, y) for x, y in corners if 0 <= y <= self.size[1] - high] or [(x0, y0)])
        at = np.clip(at, 0, np.maximum(0, np.array(self.size) - (wide, high)))
        return np.concatenate([at, at + np.array([wide - 1, high - 1])], 1).round()

    def _costs(self, places: npt.NDArray) -> npt.NDArray:
        """The largest share of a box that each place covers; more than 1 where it covers another tag."""
        cost = (_shared(places, self.boxes) / self.areas).max(1)
        if self.placed:
            cost += _shared(places, np.array([place for *_, place in self.placed])).sum(1)
        return cost


def _shared(a: npt.NDArray, b: npt.NDArray) -> npt.NDArray:
    """Pixels that rectangles ``a (n, 4)`` and ``b (m, 4)`` share: ``(n, m)``."""
    start, end = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    return np.clip(end - start + 1, 0, None).prod(2)
