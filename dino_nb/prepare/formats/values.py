"""Values as annotations have them: splits in the names of folders and files, numbers, sizes, boxes, class names."""

import posixpath
import re
from collections.abc import Callable, Iterable
from typing import Any

_SPLIT_OF = {"train": "train", "training": "train", "trainset": "train"}
_SPLIT_OF |= dict.fromkeys(("val", "valid", "validation", "dev", "valset"), "val")
_SPLIT_OF |= dict.fromkeys(("test", "testing", "testset"), "test")
# words that may stand beside the split in a folder's name: my_train_station is not a split, images_train is
_BESIDE = "image images img imgs label labels annotation annotations ann data set split xml json jpg coco yolo voc"


def split_of(path: str, is_file: bool = False) -> str | None:
    """``train | val | test`` or None, by the folders of ``path``, and by its own name too if ``is_file``."""
    *folders, name = posixpath.normpath(path).split("/")
    if is_file and (split := _split_word(posixpath.splitext(name)[0], strict=False)):
        return split
    return next((s for s in (_split_word(f, strict=True) for f in reversed(folders)) if s), None)


def _split_word(word: str, strict: bool) -> str | None:
    tokens = set(re.split(r"[^a-z]+", word.lower())) - {""}
    found = {_SPLIT_OF[token] for token in tokens & _SPLIT_OF.keys()}
    return (
        found.pop() if len(found) == 1 and not (strict and tokens - _SPLIT_OF.keys() - set(_BESIDE.split())) else None
    )


def path_parts(path: object) -> list[str]:
    """The folders and the name of a path of any system, without what leads nowhere or upwards."""
    return [part for part in str(path).replace("\\", "/").strip().split("/") if part not in ("", ".", "..")]


def finite(values: Iterable[Any], count: int) -> list[float] | None:
    """``count`` finite floats of ``values``, or None."""
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == count and all(abs(v) < 1e12 for v in numbers) else None


def four(get: Callable[[str], Any], keys: str) -> list[float] | None:
    """The four finite numbers that ``get`` gives for ``keys``, such as ``"x y width height"``, or None."""
    return finite(map(get, keys.split()), 4)


def image_size(width: Any, height: Any) -> tuple[int, int] | None:
    """An annotated size, or None where it is missing or nonsense."""
    size = finite((width, height), 2)
    return (int(size[0]), int(size[1])) if size and min(size) >= 1 else None


def bounds(points: Any) -> tuple[float, float, float, float] | None:
    """``(x1, y1, x2, y2)`` around the list ``[[x, y], ...]``; None if it is something else, or empty."""
    pairs = [finite(p, 2) if isinstance(p, (list, tuple)) else None for p in points] if isinstance(points, list) else []
    if not pairs or None in pairs:
        return None
    xs, ys = zip(*pairs)
    return min(xs), min(ys), max(xs), max(ys)


def around(cx: float, cy: float, rx: float, ry: float) -> tuple[float, float, float, float]:
    """``(x1, y1, x2, y2)`` of what reaches ``rx`` and ``ry`` from its centre."""
    return cx - rx, cy - ry, cx + rx, cy + ry


def class_name(value: Any) -> str:
    """A class name as text without outer blanks; empty if there is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(value).strip()
