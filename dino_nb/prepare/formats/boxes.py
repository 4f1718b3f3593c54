"""The ways to write a box, and telling them apart: ``xywh``, ``xyxy`` or ``cxcywh``, in pixels or ``-relative``."""

from dino_nb.errors import UserError

FORMS = ("xywh", "xyxy", "cxcywh", "xywh-relative", "xyxy-relative", "cxcywh-relative")
_FEWEST = 4  # boxes that a statistic needs


def as_corners(key, pictures, form=None):
    """The pictures, their boxes turned in place from ``form`` to corners.

    Without a form they are ``xywh`` in pixels, unless the numbers speak against it: that is a ``UserError``.
    """
    if form is None:
        _doubt_sizes(key, pictures)
    form, relative, _ = (form or "xywh").partition("-relative")
    for picture in pictures:
        picture.relative = bool(relative)
        if form != "xyxy":
            picture.boxes = [_corners(box, form == "cxcywh") for box in picture.boxes]
    return pictures


def _doubt_sizes(key, pictures):
    sized = [(*box[1:5], *picture.size) for picture in pictures if picture.size for box in picture.boxes]
    if len(sized) < _FEWEST:
        return
    beyond = sum(x + a > w + 1 or y + b > h + 1 for x, y, a, b, w, h in sized)
    corners = all(a >= x and b >= y and a <= w + 1 and b <= h + 1 for x, y, a, b, w, h in sized)
    if corners and beyond > len(sized) / 2:
        raise UserError(
            f"{key}: {beyond:,} of {len(sized):,} boxes reach out of their pictures as x, y, width, height, and all "
            "fit as corners x1, y1, x2, y2: say --box-format xyxy (box_format='xyxy') if that is what they are."
        )
    if all(max(x, y, a, b) <= 1 for x, y, a, b, _, _ in sized):
        raise UserError(
            f"{key}: all {len(sized):,} boxes lie within 0..1, as fractions of the picture, where pixels belong: "
            "say --box-format xywh-relative (or xyxy-relative, cxcywh-relative) if that is what they are."
        )


def _corners(box, centred):
    x, y, w, h = box[1:5]
    x, y = (x - w / 2, y - h / 2) if centred else (x, y)
    return box._replace(x1=x, y1=y, x2=x + w, y2=y + h)
