"""Boxes with names and scores on a picture, readable at any size and by colour-blind readers."""

import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dino_nb.errors import UserError

# Okabe and Ito's colours, which people with any common colour blindness can tell apart (theirs without black, which
# vanishes on dark pictures); then the same hues darker and lighter. Names stand beside them: colour is never alone.
_HUES = ["#D55E00", "#0072B2", "#009E73", "#F0E442", "#CC79A7", "#56B4E9", "#E69F00"]
PALETTE = [
    *_HUES,
    *["#8A3D00", "#003F63", "#00573F", "#A39A00", "#8F4370", "#2B7FB0", "#946600"],
    *["#FF9A57", "#5FAEDD", "#5FD3B0", "#FAF5A8", "#EBC0D8", "#A9DAF5", "#FFD27A"],
]
_LONGEST_NAME = 40  # characters of a class name shown


def class_colors(names):
    """``{name: "#rrggbb"}`` by position in ``names``: pass it as ``colors`` wherever the same classes are shown."""
    known = [name for name in names if name is not None]
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(known))}


def color_of(label):
    """The colour of a class when its list of classes is not at hand: by number, or by a hash of the name."""
    number = label if isinstance(label, (int, np.integer)) else zlib.crc32(str(label).encode())
    return PALETTE[int(number) % len(PALETTE)]


def draw_boxes(image, boxes, labels=None, scores=None, colors=None, *, enlarge_to=0, dashed=False, font_file=None):
    """Draw boxes on a copy of a picture.

    Args:
        image: PIL picture (any mode; its EXIF orientation is applied), or ``(H, W[, 3])`` uint8 array.
        boxes: ``(n, 4)`` array, tensor or list: x0, y0, x1, y1 in pixels.
        labels: n class names or numbers; None draws no names.
        scores: n numbers in [0, 1], written as percent.
        colors: None (by label), one colour, n colours, or a dict from label to colour (see ``class_colors``).
        enlarge_to: enlarge the picture until its long side has this many pixels; 0 keeps its size.
        dashed: True, or n bools: dashed outlines, for what is to be told apart (crowds, ground truth).
        font_file: a TrueType file, for names in scripts that DejaVu Sans does not have (Chinese, Japanese, Korean).

    Returns:
        PIL RGB picture, of the same size unless ``enlarge_to`` enlarged it.
    """
    picture = _as_rgb(image)
    boxes = _as_boxes(boxes)
    dashes = [dashed] * len(boxes) if isinstance(dashed, bool) else list(dashed)
    for what, given in (("labels", labels), ("scores", scores), ("dashes", dashes)):
        if given is not None and len(given) != len(boxes):
            raise UserError(f"{len(boxes)} boxes cannot be drawn with {len(given)} {what}: give one for each box.")
    labels = None if labels is None else [x.item() if hasattr(x, "item") else x for x in labels]
    scores = None if scores is None else [float(s) for s in scores]
    paints = _paints(colors, labels, len(boxes))

    enlarge = max(1.0, enlarge_to / max(picture.size))
    if enlarge > 1:
        picture = picture.resize([round(side * enlarge) for side in picture.size], Image.Resampling.BICUBIC)
        boxes = boxes * enlarge
    width = max(2, round(min(picture.size) / 250))
    canvas = ImageDraw.Draw(picture)
    corners = [_inside(box, picture.size) for box in boxes]
    # Large boxes first, so that small ones stay visible on top of them.
    for i in sorted(range(len(boxes)), key=lambda i: -_area(corners[i])):
        _outline(canvas, corners[i], paints[i], width, dashes[i])
    # The most certain name chooses its place first, and is drawn last: nothing covers it.
    letters = font(max(10, min(40, round(min(picture.size) / 28))), font_file)
    tags = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i] if scores else 0):
        text = _caption(labels[i] if labels else None, scores[i] if scores else None)
        if text:
            taken = [place for _, _, place, _ in tags]
            place, origin = _place_tag(canvas, corners[i], text, letters, width, picture.size, taken)
            tags.append((i, text, place, origin))
    for i, text, place, origin in reversed(tags):
        ink = _ink(paints[i])
        canvas.rectangle(place, fill=paints[i], outline=ink if ink == "black" else None)
        canvas.text(origin, text, font=letters, fill=ink)
    return picture


def _as_rgb(image):
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise UserError(f"an array to draw on must be (H, W) or (H, W, 3) uint8, not {image.shape} {image.dtype}.")
        image = Image.fromarray(image.squeeze(-1) if image.shape[2:] == (1,) else image)
    if not isinstance(image, Image.Image):
        raise UserError(f"boxes are drawn on a PIL picture or a uint8 array, not on a {type(image).__name__}.")
    picture = ImageOps.exif_transpose(image)
    return picture.convert("RGB") if picture.mode != "RGB" or picture is image else picture


def _as_boxes(boxes):
    if hasattr(boxes, "detach"):
        boxes = boxes.detach().float().cpu().numpy()
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise UserError(f"boxes must be finite numbers of shape (n, 4): x0, y0, x1, y1; this has {boxes.shape}.")
    return boxes


def _paints(colors, labels, n):
    if colors is None:
        return [color_of(label) for label in labels] if labels else [PALETTE[0]] * n
    if isinstance(colors, dict):
        return [colors.get(label, color_of(label)) for label in labels or [None] * n]
    if isinstance(colors, str) or (n != len(colors) and len(colors) == 3):
        return [colors if isinstance(colors, str) else tuple(colors)] * n
    if len(colors) != n:
        raise UserError(f"{n} boxes cannot be drawn with {len(colors)} colors: give one, or one for each box.")
    return list(colors)


def _inside(box, size):
    """Whole-pixel corners, in order and inside the picture."""
    right, bottom = size[0] - 1, size[1] - 1
    x0, x1 = sorted(min(max(round(x), 0), right) for x in (box[0], box[2]))
    y0, y1 = sorted(min(max(round(y), 0), bottom) for y in (box[1], box[3]))
    return x0, y0, x1, y1


def _area(corners):
    return (corners[2] - corners[0]) * (corners[3] - corners[1])


def _ink(paint):
    """Black or white, whichever stands out more from ``paint`` (WCAG relative luminance)."""
    red, green, blue = (c / 255 for c in Image.new("RGB", (1, 1), paint).getpixel((0, 0)))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return "black" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else "white"


def _outline(canvas, corners, paint, width, dashed):
    """A coloured line with a thin contrasting one outside and inside, so that it shows on any background."""
    x0, y0, x1, y1 = corners
    hair = max(1, width // 3)
    halo = (x0 - hair, y0 - hair, x1 + hair, y1 + hair)
    canvas.rectangle(halo, outline="black" if _ink(paint) == "black" else "white", width=width + 2 * hair)
    if not dashed:
        canvas.rectangle(corners, outline=paint, width=width)
        return
    dash = 4 * width
    for x in range(x0, x1 + 1, 2 * dash):
        for y in (y0, max(y0, y1 - width + 1)):
            canvas.rectangle((x, y, min(x + dash, x1), min(y + width - 1, y1)), fill=paint)
    for y in range(y0, y1 + 1, 2 * dash):
        for x in (x0, max(x0, x1 - width + 1)):
            canvas.rectangle((x, y, min(x + width - 1, x1), min(y + dash, y1)), fill=paint)


def _caption(label, score):
    name = "" if label is None else " ".join(str(label).split())
    name = "".join(c for c in name if c.isprintable())
    if len(name) > _LONGEST_NAME:
        name = name[: _LONGEST_NAME - 1] + "…"
    percent = "" if score is None else f"{100 * score:.0f}%"
    return " ".join(part for part in (name, percent) if part)


def _place_tag(canvas, corners, text, letters, width, size, taken):
    """The first of a few places round the box that is free, else the freest: its rectangle and its text's origin."""
    pad = max(3, width)
    left, _, right, _ = canvas.textbbox((0, 0), text, font=letters)
    # One height for all tags whatever their letters, so that neighbours line up.
    high = sum(letters.getmetrics()) + pad
    wide = right - left + 2 * pad
    x0, y0, x1, y1 = corners
    places = [
        (x0, y0 - high),
        (x0, y0),
        (x1 - wide + 1, y0 - high),
        (x0, y1 + 1),
        (x1 - wide + 1, y1 + 1),
        (x0, y1 - high + 1),
        (x1 - wide + 1, y0),
    ]
    rectangles = []
    for x, y in places:
        if 0 <= y <= size[1] - high or not rectangles:
            x = min(max(x, 0), max(0, size[0] - wide))
            y = min(max(y, 0), max(0, size[1] - high))
            rectangles.append((x, y, x + wide - 1, y + high - 1))
    place = min(rectangles, key=lambda r: sum(_overlap(r, other) for other in taken))
    return place, (place[0] + pad - left, place[1] + pad // 2)


def _overlap(a, b):
    """Pixels that two rectangles share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1) * max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)


@lru_cache(maxsize=16)
def font(size, file=None):
    """DejaVu Sans, or the font of a TrueType ``file``, in ``size`` pixels."""
    if file is None:
        import matplotlib  # only for the folder of the DejaVu font, which knows far more letters than PIL's own

        file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    try:
        return ImageFont.truetype(str(file), size)
    except OSError as error:
        raise UserError(f"the font file {file} cannot be read: {error}.") from None
