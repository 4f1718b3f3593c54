"""What every reader works with: the files of a source folder, and the lists of faults and notes.

A reader is a module with ``find(source)`` (its annotation files, as keys) and ``read(source, files)`` (an
`Annotations`). Nothing outside the folder is ever opened: images are looked up among the listed files.
"""

import json
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dino_nb.data.images import is_image, unsupported
from dino_nb.data.json_file import BadJson, read_json
from dino_nb.errors import UserError, did_you_mean, explain, printable
from dino_nb.prepare.folders import DEEPEST
from dino_nb.prepare.formats.values import class_name, path_parts, split_of
from dino_nb.prepare.table import BoxRow, ImageRow
from dino_nb.printer import counted, examples

SHOWN = 12  # faults, and notes of one kind, that are listed
_EXAMPLES = 5  # of each thing that the report tells
_HEAD = 1 << 16  # bytes that are looked at to tell a format


class Tally(dict[str, list]):
    """Things that happened: ``{what: [count, first examples]}``."""

    def add(self, what: str, example: str) -> None:
        """Count one more, keeping the first few examples."""
        entry = self.setdefault(what, [0, []])
        entry[0] += 1
        entry[1] += [example] if entry[0] <= _EXAMPLES else []


class Source:
    """The files below ``root`` (and the images below ``images``, if they lie elsewhere), by key: a posix path
    relative to the folder.

    Left out are hidden files, what is no regular file, ``exclude`` (the output folder, if it lies inside), and what
    an earlier conversion wrote into a folder below ``root``, unless there is nothing else. With ``alone``, a file of
    ``root``, no others of it are listed: all that is beside one JSON on Drive may be much.

    Attributes:
        paths, images: ``{key: path}`` of all files, and the keys of those that are images.
        only: the key of the one annotation file that was named, or None.
        dropped, changed: boxes left out, and what was altered.
        class_names, box_format: what the user says, see `dino_nb.prepare.convert.convert_dataset`.
        temporary: what lies below root was unpacked or downloaded here, and will be removed.
    """

    only: str | None = None
    class_names: tuple[str, ...] = ()
    box_format: str | None = None
    temporary = False

    def __init__(
        self,
        root: Path,
        images: Path | None = None,
        exclude: Path | None = None,
        progress: bool = False,
        alone: str | None = None,
    ) -> None:
        self.root, self.progress = Path(root), progress
        self.paths: dict[str, Path] = {}
        self.notes: list[str] = []
        self.dropped, self.changed = Tally(), Tally()
        self.faults: list[str] = []
        self.fault_count = 0
        if alone:
            self.paths[alone] = self.root / alone
        else:
            earlier: list[str] = []
            self.paths |= self._walk(self.root, exclude, earlier)
            if earlier and any(map(is_image, self.paths)):
                self.note(f"{', '.join(earlier[:3])}: written by an earlier conversion, so not read.")
            elif earlier:
                self.paths |= self._walk(self.root, exclude)
        if images is not None:
            self.paths = {key: path for key, path in self._walk(images, exclude) if is_image(key)} | self.paths
        self.images = sorted(key for key in self.paths if is_image(key))
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for key in self.images:
            name = _plain(posixpath.basename(key))
            self._by_name[name].append(key)
            self._by_stem[posixpath.splitext(name)[0]].append(key)

    def _walk(self, root: Path, exclude: Path | None, earlier: list[str] | None = None) -> Iterator[tuple[str, Path]]:
        """``(key, path)`` of every regular file below ``root``, links of folders followed once."""
        seen = {exclude.resolve()} if exclude else set()

        def tell(error: OSError) -> None:
            self.fault(printable(error.filename, 300), explain(error))

        for folder, folders, names in os.walk(root, followlinks=True, onerror=tell):
            here = Path(folder)
            if here.resolve() in seen:  # a link to a folder above would lead around for ever
                folders.clear()
                continue
            seen.add(here.resolve())
            if len(here.relative_to(root).parts) > DEEPEST:
                folders.clear()
            if earlier is not None and here != root and "mapping.json" in names and "annotations" in folders:
                earlier.append(here.relative_to(root).as_posix())
                folders.clear()
                continue
            folders[:] = sorted(f for f in folders if f[0] != "." and f != "__MACOSX")
            for path in (here / name for name in sorted(names) if name[0] != "."):
                if os.path.isfile(path):  # noqa: PTH113 (it never raises; a pipe would be waited for, for ever)
                    yield path.relative_to(root).as_posix(), path

    def each(self, items: Iterable[Any], what: str = "reading") -> Iterable[Any]:
        """``items`` with a progress bar, if one is wanted."""
        return tqdm(items, desc=what, unit="file", disable=not self.progress, leave=False)

    def ending(self, *suffixes: str) -> list[str]:
        """Keys of the files that end so (lower case, with the dot), sorted."""
        return sorted(key for key in self.paths if key.lower().endswith(suffixes))

    def head(self, key: str) -> str:
        """The first 64 KiB of a file as text, whatever its encoding; empty if it cannot be read."""
        try:
            with self.paths[key].open("rb") as f:
                data = f.read(_HEAD)
        except OSError:  # told when it is read
            return ""
        return data.decode(json.detect_encoding(data), errors="replace")

    def fault(self, where: str, text: str, image: ImageRow | None = None) -> None:
        """Count something the user must put right; reading goes on, and one run lists them all. ``image``: the one
        that loses a box by it."""
        self.fault_count += 1
        if image is not None:
            image.faulty += 1
        if len(self.faults) < SHOWN:
            self.faults.append(f"{printable(where, 300)}: {text}")

    def add_box(self, image: ImageRow, where: str, label: Any, corners: Any, unnamed: str, wrong: str) -> None:
        """One box of ``image``; or a fault: ``unnamed`` without a label, that the label ``wrong`` without corners."""
        name = class_name(label)
        if not name:
            self.fault(where, unnamed, image)
        elif corners is None:
            self.fault(where, f"the {printable(name)!r} {wrong}.", image)
        else:
            image.boxes.append(BoxRow(name, corners[0], corners[1], corners[2], corners[3], where))

    def note(self, text: str) -> None:
        """Something the report should say."""
        self.notes.append(printable(text, 2000) if "\n" not in text else text)

    def note_images(self, what: str, images: Sequence[ImageRow | str], word: str = "image") -> None:
        """Note of how many ``images`` (rows or keys) ``what`` is true, if of any: ``left out, ...: 2 images, such as``
        and the first."""
        if images:
            first = images[0] if isinstance(images[0], str) else images[0].file
            self.note(f"{what}: {counted(len(images), word)}, such as {first}.")

    def all_notes(self) -> list[str]:
        """The notes, the last of which says how many more there were."""
        more = len(self.notes) - 4 * SHOWN
        return [*self.notes[: 4 * SHOWN], f"... and {more:,} more notes."] if more > 0 else self.notes

    def text(self, key: str) -> str | None:
        """The text of a file (UTF-8, UTF-16 with its mark, else Windows-1252), or None after counting a fault."""
        try:
            data = self.paths[key].read_bytes()
        except OSError as error:
            self.fault(key, explain(error))
            return None
        try:
            return data.decode(json.detect_encoding(data))
        except UnicodeDecodeError as error:
            byte, line = data[error.start], data.count(b"\n", 0, error.start) + 1
            self.note_oddity(key, f"byte 0x{byte:02x} is not UTF-8", line)
            return data.decode("cp1252", errors="replace")

    def json(self, key: str) -> Any:
        """The content of a JSON file, or None after counting a fault with its line."""
        try:
            file = read_json(self.paths[key])
        except BadJson as error:
            self.fault(*told(key, error, error.line))
            return None
        if odd := file.oddity:
            self.note_oddity(key, odd, odd.line)
        return file.document

    def note_oddity(self, key: str, oddity: object, line: int | None) -> None:
        """Note an encoding that is not UTF-8 and was guessed."""
        if line:
            place, text = told(key, oddity, line)
            self.note(f"{place}: {text} It is read as Windows-1252.")

    def without_predictions(self, files: dict[str, Any], predicted: list[str]) -> dict[str, Any]:
        """``files`` without those whose boxes have scores, unless all have."""
        alone = len(predicted) == len(files)
        if predicted:
            how = "read, but they may be predictions, not annotations" if alone else "left out as predictions"
            self.note(f"{', '.join(predicted[:5])}: the boxes have scores: {how}.")
        return {key: found for key, found in files.items() if alone or key not in predicted}

    def find_image(self, name: str, near: str = "", where: str | None = None, split: str | None = None) -> str | None:
        """The key of the image that an annotation file ``near`` calls ``name``; None after counting a fault.

        The image may lie anywhere in the source, and ``name`` may be a path of another machine: most matching
        path parts win, then the folder nearest to the annotation. Never one of another split than ``split`` (by
        default that of the folder of ``near``).
        """
        found = self.images_named(name, near, split)
        if len(found) == 1:
            return found[0]
        shown, base = repr(printable(name)), posixpath.basename(str(name).replace("\\", "/")).lower()
        why = unsupported(base)
        if why is None and self.fault_count < SHOWN:  # it may be there as a kind of file that is not read
            stem = posixpath.splitext(base)[0]
            names = (posixpath.basename(key).lower() for key in self.paths)
            why = next((w for n in names if posixpath.splitext(n)[0] == stem and (w := unsupported(n))), None)
        if found:
            text = f"{shown} may be {found[0]} or {found[1]}: give the image's path in the annotation."
        elif why:
            text = f"{shown} {why}."
        else:
            hint = did_you_mean(base, self._by_name) if len(self._by_name) <= 5000 and not self.faults else ""
            text = f"there is no image {shown} in the source.{hint}"
        self.fault(where or near, text)
        return None

    def images_named(self, name: str, near: str = "", split: str | None = None) -> list[str]:
        """Keys of the images that fit best, as `find_image`: none, one, or several that fit equally."""
        parts = path_parts(name)
        base = _plain(parts[-1]) if parts else ""
        found = self._by_name.get(base) or self._by_stem.get(base, [])
        if not found and is_image(base):  # the same image saved as another kind of file
            found = self._by_stem.get(posixpath.splitext(base)[0], [])
        split = split or split_of(near) or split_of("/".join(parts))
        ranked: dict[Any, list[str]] = defaultdict(list)
        for key in found:
            if split is None or split_of(key) in (split, None):
                ranked[_nearness(key, parts, near, split)].append(key)
        return ranked[max(ranked)] if ranked else []

    def raise_faults(self, skip_bad: bool = False) -> None:
        """One ``UserError`` that lists the faults; with ``skip_bad`` a note instead."""
        if not self.fault_count:
            return
        count = counted(self.fault_count, "fault")
        listing = "\n".join(f"  {line}" for line in examples(self.faults, self.fault_count))
        if skip_bad:
            self.note(f"{count}, left out as told:\n{listing}")
            return
        notes = "".join(f"  note: {note}\n" for note in self.notes[:3])
        raise UserError(
            f"{count} in the annotations, nothing was written:\n{listing}\n{notes}"
            "Correct them, or leave them out with --skip-bad (skip_bad=True)."
        )


def told(key: str, text: object, line: int | None) -> tuple[str, str]:
    """Place and sentence of something wrong with a JSON file: its line goes to the front."""
    text = re.sub(r"^line \d+, (byte \d+: )?", "", str(text)).rstrip(".")
    return f"{key}:{line}" if line else key, f"{text}."


def _plain(name: str) -> str:
    """A file name to be compared: case does not count, nor how a disk composes accents (macOS does it its own way)."""
    return unicodedata.normalize("NFC", name).lower()


def _nearness(key, parts, near, split):
    """How well the image ``key`` fits the path ``parts`` that the annotation file ``near`` gives, to be compared."""
    own, folders = key.split("/"), near.split("/")[:-1]
    exact = posixpath.normpath(posixpath.join(posixpath.dirname(near), *parts)) == key
    same, mirrored = _common(own[::-1], parts[::-1]), _common(own[-2::-1], folders[::-1])  # a/1.xml and images/a/1.jpg
    return exact, same, split is not None and split_of(key) == split, mirrored, _common(own[:-1], folders), -len(own)


def _common(a, b):
    """How many parts two lists begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
