"""Values as annotations have them: splits in the names of folders and files, numbers, sizes, points, class names."""

import posixpath
import re
from collections.abc import Iterable
from typing import Any

_SPLITS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "dev", "valset"),
    "test": ("test", "testing", "testset"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
# words that may stand beside the split in a folder's name: my_train_station is not a split, images_train is
_BESIDE = "image images img imgs label labels annotation annotations ann data set split xml json jpg coco yolo voc"


def split_of(path: str, is_file: bool = False) -> str | None:
    """``train | val | test`` or None, by the folders of ``path``, and by its own name too if ``is_file``."""
    *folders, name = posixpath.normpath(path).split("/")
    if is_file and (split := _split_word(posixpath.splitext(name)[0], strict=False)):
        return split
    return next((s for s in (_split_word(f, strict=True) for f in reversed(folders)) if s), None)


def _split_word(word, strict):
    tokens = [t for t in re.split(r"[^a-z]+", word.lower()) if t]
    found = {_SPLIT_OF[t] for t in tokens if t in _SPLIT_OF}
    if len(found) != 1 or (strict and any(t not in _SPLIT_OF and t not in _BESIDE.split() for t in tokens)):
        return None
    return found.pop()


def finite(values: Iterable[Any], count: int) -> list[float] | None:
    """``count`` finite floats of ``values``, or None."""
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == count and all(abs(v) < 1e12 for v in numbers) else None


def image_size(width: Any, height: Any) -> tuple[int, int] | None:
    """An annotated size, or None where it is missing or nonsense."""
    size = finite((width, height), 2)
    return (int(size[0]), int(size[1])) if size and min(size) >= 1 else None


def bounds(points: Iterable[Any]) -> tuple[float, float, float, float]:
    """``(x1, y1, x2, y2)`` around ``[(x, y), ...]``."""
    xs, ys = zip(*points)
    return min(xs), min(ys), max(xs), max(ys)


def class_name(value: Any) -> str:
    """A class name as text without outer blanks; empty if there is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(value).strip()
