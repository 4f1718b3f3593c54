"""The windows through which a large image is looked at: the same in sliced training data and in sliced prediction."""

import math

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels


def slices(width: int, height: int, size: int, overlap: float = 0.2) -> list[Window]:
    """Windows ``(x0, y0, x1, y1)`` in pixels: the whole image first, then squares of ``size`` that cover it.

    Neighbours share at least ``overlap`` (0 up to, not including, 1) of their side; objects up to that length are
    whole in one of them. An image no larger than ``size`` is one window.
    """
    columns, rows = _starts(width, size, overlap), _starts(height, size, overlap)
    squares = [(x, y, min(x + size, width), min(y + size, height)) for y in rows for x in columns]
    return [(0, 0, width, height), *(squares if len(squares) > 1 else [])]


def _starts(length: int, size: int, overlap: float) -> list[int]:
    if length <= size:
        return [0]
    shared = min(math.ceil(size * overlap), size - 1)
    count = math.ceil((length - shared) / (size - shared))
    return [round(i * (length - size) / (count - 1)) for i in range(count)]
