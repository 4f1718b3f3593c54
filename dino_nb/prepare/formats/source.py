"""What every reader works with: the files of a source folder, the records it yields, and the list of faults.

A reader is a module with ``find(source)`` (its annotation files, as keys) and ``read(source, files, options)``
(a `Labels`). Nothing outside the folder is ever opened: pictures are looked up among the listed files.
"""

import json
import os
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from dino_nb.data.images import is_image
from dino_nb.errors import UserError, did_you_mean
from dino_nb.prepare.findings import printable

SHOWN = 12  # faults of a source that an error lists
_HEAD = 1 << 16  # bytes that are looked at to tell a format
_SPLITS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "dev", "valset"),
    "test": ("test", "testing", "testset"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
# words that may stand beside the split in a folder's name: my_train_station is not a split, images_train is
_BESIDE = "image images img imgs label labels annotation annotations ann data set split xml json jpg coco yolo voc"


class Box(NamedTuple):
    """One object. Corners are pixels, or 0..1 where the picture is ``relative``; ``where`` is line or entry."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    where: str = ""
    iscrowd: int = 0
    area: float | None = None
    id: object = None


@dataclass(slots=True)
class Picture:
    """One picture: ``file`` is its key in the source, ``size`` what the annotation says it is, ``id`` its own id."""

    file: str
    where: str
    boxes: list = field(default_factory=list)
    split: str | None = None
    size: tuple | None = None
    relative: bool = False
    id: object = None


@dataclass
class Labels:
    """What a reader gives: pictures, and ``categories`` as ``{name: original id or None}`` in the source's order
    (None where the format lists no classes: they are then sorted by name)."""

    pictures: list
    categories: dict | None = None


@dataclass(frozen=True)
class Options:
    """What the user may say about a source: see `dino_nb.prepare.convert.convert_dataset`."""

    class_names: tuple | None = None
    box_format: str | None = None


def split_of(path, is_file=False):
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


class Source:
    """The files below ``root`` (and the pictures below ``images``, if they lie elsewhere), by key: a posix path
    relative to the folder. Hidden files and ``exclude`` (the output folder, if it lies inside) are left out. With
    ``only``, a file of ``root``, no others of it are listed: all that is beside one JSON on Drive may be much."""

    def __init__(self, root, images=None, exclude=None, progress=False, only=None):
        self.root = Path(root)
        self.progress = progress
        self.paths = {}
        self.notes = []
        self.faults = []
        self.fault_count = 0
        for folder in [self.root] if images is None else [self.root, Path(images)]:
            listed = [(only, folder / only)] if only and folder == self.root else _walk(folder, exclude)
            for key, path in listed:
                if folder == self.root or is_image(key):
                    self.paths.setdefault(key, path)
        self.images = sorted(key for key in self.paths if is_image(key))
        self._by_name, self._by_stem = {}, {}
        for key in self.images:
            name = posixpath.basename(key).lower()
            self._by_name.setdefault(name, []).append(key)
            self._by_stem.setdefault(posixpath.splitext(name)[0], []).append(key)

    def each(self, items, what="reading"):
        """``items`` with a progress bar, if one is wanted."""
        return tqdm(items, desc=what, unit="file", disable=not self.progress, leave=False)

    def ending(self, *suffixes):
        """Keys of the files that end so (lower case, with the dot), sorted."""
        return sorted(key for key in self.paths if key.lower().endswith(suffixes))

    def head(self, key):
        """The first 64 KiB of a file as text, whatever its encoding."""
        with self.paths[key].open("rb") as f:
            data = f.read(_HEAD)
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        return data.decode(encoding, errors="replace")

    def fault(self, where, text):
        """Count something the user must put right; reading goes on, so that one run lists them all."""
        self.fault_count += 1
        if len(self.faults) < SHOWN:
            self.faults.append(f"{printable(where, 300)}: {text}")

    def note(self, text):
        """Something the report should say."""
        self.notes.append(text)

    def text(self, key):
        """The text of a file (UTF-8, or UTF-16 with its mark), or None after counting a fault."""
        data = self.paths[key].read_bytes()
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self.fault(f"{key}:{line}", f"byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8.")
            return None

    def json(self, key):
        """The content of a JSON file, or None after counting a fault with line and column."""
        text = self.text(key)
        try:
            return None if text is None else json.loads(text)
        except json.JSONDecodeError as error:
            self.fault(f"{key}:{error.lineno}", f"column {error.colno}: not correct JSON ({error.msg}).")
        except RecursionError:
            self.fault(key, "brackets are nested too deeply for an annotation file.")
        except ValueError as error:  # an integer of thousands of digits
            self.fault(key, f"not correct JSON ({error}).")
        return None

    def find_image(self, name, near="", where=None, split=None):
        """The key of the picture that an annotation file ``near`` calls ``name``; None after counting a fault.

        The picture may lie anywhere in the source, and ``name`` may be a path of another machine: most matching
        path parts win, then the folder nearest to the annotation. Never one of another split than ``split`` (by
        default that of the folder of ``near``).
        """
        found = self.images_named(name, near, split)
        if len(found) == 1:
            return found[0]
        shown = repr(printable(name))
        if found:
            text = f"{shown} may be {found[0]} or {found[1]}: give the picture's path in the annotation."
        else:
            base = posixpath.basename(str(name).replace("\\", "/")).lower()
            hint = did_you_mean(base, self._by_name) if len(self._by_name) <= 5000 and not self.faults else ""
            text = f"there is no picture {shown} in the source.{hint}"
        self.fault(where or near, text)
        return None

    def images_named(self, name, near="", split=None):
        """Keys of the pictures that fit best, as `find_image`: none, one, or several that fit equally."""
        parts = [p for p in str(name).replace("\\", "/").strip().split("/") if p not in ("", ".", "..")]
        base = parts[-1].lower() if parts else ""
        found = self._by_name.get(base) or self._by_stem.get(base)
        if not found and is_image(base):  # the same picture saved as another kind of file
            found = self._by_stem.get(posixpath.splitext(base)[0])
        split = split or split_of(near) or split_of("/".join(parts))
        ranked = {}
        for key in found or ():
            if split is None or split_of(key) in (split, None):
                ranked.setdefault(self._nearness(key, parts, near, split), []).append(key)
        return ranked[max(ranked)] if ranked else []

    def _nearness(self, key, parts, near, split):
        own = key.split("/")
        same = _common(own[::-1], parts[::-1])
        folder = _common(own[:-1], near.split("/")[:-1])
        exact = posixpath.normpath(posixpath.join(posixpath.dirname(near), *parts)) == key
        return exact, same, split is not None and split_of(key) == split, folder, -len(own)

    def raise_faults(self, skip_bad=False):
        """One ``UserError`` that lists the faults; with ``skip_bad`` a note instead."""
        if not self.fault_count:
            return
        count = "1 fault" if self.fault_count == 1 else f"{self.fault_count:,} faults"
        lines = [f"  - {fault}" for fault in self.faults]
        if self.fault_count > len(lines):
            lines.append(f"  - ... and {self.fault_count - len(lines):,} more")
        listing = "\n".join(lines)
        if skip_bad:
            self.note(f"{count}, left out as told:\n{listing}")
            return
        raise UserError(
            f"{count} in the annotations, nothing was written:\n{listing}\n"
            "Put them right, or leave them out with --skip-bad (skip_bad=True)."
        )


def _walk(root, exclude=None):
    """``(key, path)`` of every file below ``root``, links followed, hidden names and ``exclude`` left out."""
    seen = {Path(exclude).resolve()} if exclude else set()
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        if here.resolve() in seen:  # a link to a folder above would lead around for ever
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(f for f in folders if f[0] != "." and f != "__MACOSX")
        for name in sorted(names):
            if name[0] != ".":
                path = here / name
                yield path.relative_to(root).as_posix(), path


def _common(a, b):
    """How many parts two lists begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def finite(values, count):
    """``count`` finite floats of ``values``, or None."""
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == count and all(abs(v) < 1e12 for v in numbers) else None


def bounds(points):
    """``(x1, y1, x2, y2)`` around ``[(x, y), ...]``."""
    xs, ys = zip(*points)
    return min(xs), min(ys), max(xs), max(ys)


def class_name(value):
    """A class name as text without outer blanks; empty if there is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(value).strip()
