"""The image files of one split: there, readable, whole, of the size that the JSON says, and not the same twice."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dino_nb.data.coco_file import CocoFile
from dino_nb.data.images import QUARTER_TURNS, header, is_image, opened, turned_size
from dino_nb.errors import UserError, explain
from dino_nb.files import leaves_folder
from dino_nb.prepare.findings import Findings
from dino_nb.prepare.similar import in_threads, repeated, same_bytes

EXTREME_SIDES = (32, 8000)  # pixels
EXTREME_ASPECT = 8


@dataclass(slots=True)
class Facts:
    """What was seen of one image: ``fault`` is a fault's name or None, ``why`` says more.

    ``size``: width and height as shown (upright); ``orientation``: EXIF 1..8; ``found``: where a missing file seems
    to be, relative to the split's folder.
    """

    fault: str | None = None
    why: str = ""
    size: tuple[float, float] = (np.nan, np.nan)
    orientation: int = 1
    found: str | None = None


class Folder:
    """The files of one split's folder, listed once: a look-up costs no call to the file system."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.files = {p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file()}
        self._by_name = defaultdict(list)
        for file in sorted(self.files):
            self._by_name[file.rsplit("/", 1)[-1].casefold()].append(file)

    def look_at(self, name: str, full: bool) -> Facts:
        """``Facts`` of the image ``name``. ``full``: decode all pixels; else the header and the end of the file."""
        path, similar = self.root / name, self._by_name.get(name.rsplit("/", 1)[-1].casefold(), [])
        found = similar[0] if len(similar) == 1 else None  # the only file of this name but for case and folder
        if leaves_folder(name):
            return Facts("image-path-unsafe", found=found)
        try:
            if name not in self.files and not path.is_file():
                return Facts("image-missing", found=found)
            width, height, orientation = header(path)
            if full or not _ends_well(path):
                with opened(path) as image:
                    image.draft("L", (1, 1))  # JPEG: all data is read, but only an eighth of the pixels is made
                    image.load()
        except UserError as error:
            return Facts("image-unreadable", f": {error}")
        except (OSError, ValueError) as error:  # a name that this file system cannot have
            why = explain(error) if isinstance(error, OSError) else str(error)
            return Facts("image-missing", f": {why}", found=found)
        return Facts(size=turned_size((width, height), orientation), orientation=orientation)


def look_at_images(split: CocoFile, folder: Folder, full: bool, progress: bool = True) -> list[Facts]:
    """``Facts`` of each image of ``split``."""
    return in_threads(lambda name: folder.look_at(name, full), split.image_names, f"images of {split.name}", progress)


def report_images(split: CocoFile, facts: Sequence[Facts], folder: Folder, findings: Findings) -> None:
    """Findings from the ``facts`` of one split's images."""
    for i, fact in enumerate(facts):
        name = f"{split.image_names[i]!r}"
        if fact.fault:
            hint = f"; there is {fact.found!r}" if fact.found else ""
            findings.image(split, fact.fault, i, f"{name}{fact.why}{hint}")
            continue
        width, height = map(int, fact.size)
        said = tuple(split.image_sizes[i])
        if np.isfinite(said).all() and said != fact.size:
            turned = ", turned by its EXIF tag" if fact.orientation in QUARTER_TURNS and said == (height, width) else ""
            what = f"{name} is {width} x {height}{turned}; the JSON says {said[0]:g} x {said[1]:g}"
            findings.image(split, "image-size", i, what)
        if fact.orientation != 1:
            findings.image(split, "image-rotated", i, f"{name} has EXIF orientation {fact.orientation}")
        small, large = sorted((width, height))
        if small < EXTREME_SIDES[0] or large > EXTREME_SIDES[1] or large > EXTREME_ASPECT * small:
            findings.image(split, "image-extreme", i, f"{name} is {width} x {height}")
    listed = {*split.image_names, *(fact.found for fact in facts)}
    for file in sorted(f for f in folder.files - listed if is_image(f)):
        findings.add("image-unlisted", file, file=f"{folder.root.name}/{file}")


def report_repeated_names(split: CocoFile, findings: Findings) -> None:
    """Findings about files that a split lists twice."""
    for first, *others in repeated(split.image_names):
        for i in others:
            what = f"{split.image_names[i]!r} is also image {split.image_ids[first]}"
            findings.image(split, "image-duplicate-files", i, what)


def known_sizes(split: CocoFile, facts: Sequence[Facts]) -> np.ndarray:
    """(images, 2): width and height that the boxes refer to: the size in the JSON, else that of the file."""
    seen = np.array([fact.size for fact in facts], dtype=np.float64).reshape(-1, 2)
    return np.where(np.isfinite(split.image_sizes), split.image_sizes, seen)


def same_images(splits: Sequence[CocoFile], facts: Sequence[Sequence[Facts]]) -> list[list[tuple[int, int]]]:
    """Groups of images with identical bytes: lists of ``(split, position)``, in order."""
    places: dict[Path, tuple[int, int]] = {}
    for s, of_split in enumerate(facts):
        for i, fact in enumerate(of_split):
            if not fact.fault:  # a file that is listed twice is a fault of its own
                places.setdefault(splits[s].folder / splits[s].image_names[i], (s, i))
    order = list(places.values())
    return [[order[i] for i in group] for group in repeated(same_bytes(list(places), progress=False))]


def report_same_images(
    splits: Sequence[CocoFile], same: Sequence[Sequence[tuple[int, int]]], findings: Findings
) -> None:
    """Findings from ``same_images``: within a split, and (worse) in two."""
    for (first_split, first), *others in same:
        original = f"{splits[first_split].folder.name}/{splits[first_split].image_names[first]}"
        for s, i in others:
            fault = "image-duplicate-content" if s == first_split else "split-leak"
            findings.image(splits[s], fault, i, f"{splits[s].image_names[i]!r} is the same image as {original}")


def _ends_well(path: Path) -> bool:
    """Whether a JPEG or PNG ends as a whole one does; False only makes it be decoded."""
    with path.open("rb") as f:
        start = f.read(2)
        f.seek(max(0, f.seek(0, 2) - 64))
        end = f.read()
    return (start == b"\xff\xd8" and b"\xff\xd9" in end) or (start == b"\x89P" and b"IEND" in end[-12:])
