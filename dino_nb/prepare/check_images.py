"""The picture files of one split: there, readable, whole, of the size that the JSON says, and not the same twice."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from dino_nb.data.images import header, is_image
from dino_nb.errors import UserError
from dino_nb.files import sha256
from dino_nb.prepare.check_records import unsafe

THREADS = 4  # decoding and reading leave the interpreter's lock
EXTREME_SIDES = (32, 8000)  # pixels
EXTREME_ASPECT = 8
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_ENDINGS = {"JPEG": (b"\xff\xd9", 64), "PNG": (b"IEND", 12)}  # what stands within the last bytes of a whole file


@dataclass
class Facts:
    """What was seen of one picture: ``fault`` is a fault's name or None, ``why`` says more.

    ``size``: width and height as shown (upright); ``orientation``: EXIF 1..8; ``bytes``: length of the file;
    ``found``: where a missing file seems to be, relative to the split's folder.
    """

    fault: str | None = None
    why: str = ""
    size: tuple = (np.nan, np.nan)
    orientation: int = 1
    bytes: int = 0
    found: str | None = None


class Folder:
    """The files of one split's folder, listed once: a look-up costs no call to the file system."""

    def __init__(self, root):
        self.root = Path(root)
        self.files = {p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file()}
        self._by_name = defaultdict(list)
        for file in sorted(self.files):
            self._by_name[file.rsplit("/", 1)[-1].casefold()].append(file)

    def similar(self, name):
        """The only file whose last part is that of ``name`` but for case, or None."""
        found = self._by_name.get(name.replace("\\", "/").rsplit("/", 1)[-1].casefold(), [])
        return found[0] if len(found) == 1 else None


def look_at_images(split, folder, full, progress=True):
    """``Facts`` of each picture of ``split``. ``full``: decode all pixels; else headers and the ends of the files."""
    with ThreadPoolExecutor(THREADS) as pool:
        names = split.image_names
        work = pool.map(lambda name: look_at(folder, name, full), names)
        return list(tqdm(work, f"pictures of {split.name}", len(names), unit="", disable=not progress, leave=False))


def report_images(split, facts, folder, findings):
    """Findings from the ``facts`` of one split's pictures."""
    for i, (fact, row) in enumerate(zip(facts, split.image_rows)):
        name = split.image_names[i]
        if fact.fault:
            hint = f"; there is {fact.found!r}" if fact.found else ""
            split.add(findings, fact.fault, "images", row, f"{name!r}{fact.why}{hint}")
            continue
        size, said = tuple(map(int, fact.size)), split.image_sizes[i]
        if np.isfinite(said).all() and tuple(said) != size:
            turned = ", turned by its EXIF tag" if fact.orientation in SIDEWAYS and tuple(said) == size[::-1] else ""
            what = f"{name!r} is {size[0]} x {size[1]}{turned}; the JSON says {said[0]:g} x {said[1]:g}"
            split.add(findings, "image-size", "images", row, what)
        if fact.orientation != 1:
            split.add(findings, "image-rotated", "images", row, f"{name!r} has EXIF orientation {fact.orientation}")
        small, large = min(size), max(size)
        if small < EXTREME_SIDES[0] or large > EXTREME_SIDES[1] or large > EXTREME_ASPECT * small:
            split.add(findings, "image-extreme", "images", row, f"{name!r} is {size[0]} x {size[1]}")
    listed = {name.replace("\\", "/") for name in split.image_names} | {fact.found for fact in facts}
    for name in sorted(f for f in folder.files - listed if is_image(f)):
        findings.add("image-unlisted", name, file=f"{folder.root.name}/{name}")


def known_sizes(split, facts):
    """(images, 2): width and height that the boxes refer to: the size in the JSON, else that of the file."""
    seen = np.array([fact.size for fact in facts], dtype=np.float64).reshape(-1, 2)
    return np.where(np.isfinite(split.image_sizes), split.image_sizes, seen)


def same_pictures(splits, facts):
    """Groups of pictures with identical bytes: lists of ``(split, position)``, in order.

    Only files of equal length are read.
    """
    by_length = defaultdict(list)
    for s, split_facts in enumerate(facts):
        for i, fact in enumerate(split_facts):
            if not fact.fault:
                by_length[fact.bytes].append((s, i))
    suspects = [where for group in by_length.values() if len(group) > 1 for where in group]
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda w: sha256(splits[w[0]].folder / _posix(splits[w[0]].image_names[w[1]])), suspects)
        by_content = defaultdict(list)
        for where, digest in zip(suspects, digests):
            by_content[digest].append(where)
    # A file that is listed twice is a fault of its own.
    groups = [list({(s, splits[s].image_names[i]): (s, i) for s, i in g}.values()) for g in by_content.values()]
    return [group for group in groups if len(group) > 1]


def look_at(folder, name, full):
    """``Facts`` of the picture ``name`` of a ``Folder``."""
    if unsafe(name):
        return Facts("image-path-unsafe", found=folder.similar(name))
    relative = _posix(name)
    path = folder.root / relative
    try:
        if relative not in folder.files and not path.is_file():
            return Facts("image-missing", found=folder.similar(name))
        length = path.stat().st_size
        width, height, orientation = header(path)
        if full or not _ends_well(path):
            _decode(path)
    except UserError as error:
        return Facts("image-unreadable", str(error).removeprefix("the image ").removeprefix(str(path)))
    except (OSError, ValueError) as error:  # a name that this file system cannot have
        return Facts("image-missing", f": {error}", found=folder.similar(name))
    size = (height, width) if orientation in SIDEWAYS else (width, height)
    return Facts(size=size, orientation=orientation, bytes=length)


def _posix(name):
    return name.replace("\\", "/")


def _ends_well(path):
    """Whether a file ends as a whole one of its format does; False only makes it be decoded."""
    with path.open("rb") as f:
        start = f.read(8)
        mark, within = _ENDINGS["JPEG" if start.startswith(b"\xff\xd8") else "PNG"]
        f.seek(max(0, f.seek(0, 2) - within))
        return mark in f.read() and start[:2] in (b"\xff\xd8", b"\x89P")


def _decode(path):
    """Decode every pixel, as cheaply as the format allows; ``UserError`` if that fails."""
    try:
        with Image.open(path) as image:
            image.draft("L", (1, 1))  # JPEG: all data is read, but only an eighth of the pixels is made
            image.load()
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, IndexError...
        raise UserError(f"{path} is truncated or damaged ({error}).") from error
