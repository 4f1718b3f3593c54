"""Single values of a COCO file, whatever they are: ids, numbers and boxes, read the same way everywhere."""

import itertools
import math
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

FAR = 1e12  # pixels: a coordinate beyond is as good as infinite
_WIDE = 2**53  # integers beyond are changed by JavaScript and by tables of floats

Id = int | str
_brief = reprlib.Repr()
_brief.maxstring, _brief.maxlist, _brief.maxlevel, _brief.maxlong = 100, 8, 2, 60


def brief(value: object) -> str:
    """``repr`` of a value of unknown size and depth, cut short."""
    try:
        return _brief.repr(value)
    except ValueError:  # an integer of more digits than Python writes out
        return "an integer of thousands of digits"


def id_of(value: object) -> tuple[Id | None, bool]:
    """``(id, well typed)``: the integer that a value is or spells, a text, or None if it cannot be an id."""
    if type(value) is int:  # not a bool
        return value, is_plain(value)
    if isinstance(value, float) and value.is_integer():
        return int(value), False
    if isinstance(value, str) and (text := value.strip()):
        plain = len(text) < 16 and text.isascii() and text.removeprefix("-").isdigit() and str(int(text)) == text
        return (int(text) if plain else text), False
    return None, False


def is_plain(key: Id | None) -> TypeGuard[int]:
    """Whether an id as of `id_of` is an integer that every program keeps as it is."""
    return isinstance(key, int) and abs(key) < _WIDE


def free_ids(taken: Iterable[object]) -> Iterator[int]:
    """Endless integers from 1 that are not in ``taken``."""
    used = set(taken)
    return (number for number in itertools.count(1) if number not in used)


def number(value: object) -> float | None:
    """``value`` as a float (NaN and infinity included), or None where it is not a JSON number."""
    if type(value) is float:
        return value
    if type(value) is not int:  # a bool is none
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def box_of(record: dict[str, Any]) -> tuple[list[float] | None, bool, str]:
    """``(box, from its polygons, fault)`` of an annotation; the box is four finite numbers as written, or None."""
    bbox = record.get("bbox")
    values = bbox if isinstance(bbox, list) and len(bbox) == 4 else [None]
    if box := _finite(values):
        return box, False, ""
    if box := _finite(_from_text(v) if isinstance(v, str) else v for v in values):
        return box, False, "box-derived"
    if box := _around_polygons(record.get("segmentation")):
        return box, True, "box-derived"
    return None, False, "box-malformed" if any(number(v) is None for v in values) else "box-not-finite"


def _finite(values: Iterable[object]) -> list[float] | None:
    """Values as floats if all of them are numbers within reason."""
    numbers = []
    for value in values:
        n = number(value)
        if n is None or not abs(n) <= FAR:
            return None
        numbers.append(n)
    return numbers


def _from_text(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _around_polygons(polygons: object) -> list[float] | None:
    """x, y, width, height around COCO polygons; None without any."""
    lists = [p for p in polygons if isinstance(p, list)] if isinstance(polygons, list) else []
    xs, ys = (_finite(v for p in lists for v in p[: len(p) // 2 * 2][start::2]) for start in (0, 1))
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)] if xs and ys else None
