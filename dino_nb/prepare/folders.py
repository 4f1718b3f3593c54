"""A new folder that is seen whole or not at all, and never in the place of something that was not asked for."""

import contextlib
import json
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from dino_nb.errors import UserError
from dino_nb.prepare.table import SPLITS

MAPPING = "mapping.json"  # what a conversion knows of its source
SAMPLE_MARK = ".dino_nb_sample"  # tells a sample, which may be replaced, from a folder of the user's
DEEPEST = 100  # folders within folders
_LONGEST = 200  # bytes of a file name: most disks take 255


def is_cocodir(folder: Path | str) -> bool:
    """Whether ``folder`` has annotation files where a COCODIR has them."""
    return any(Path(folder).glob("annotations/instances_*.json"))


def refuse_existing(path: Path | str, overwrite: bool = False) -> None:
    """``UserError`` unless ``path`` is free, an empty folder, or a COCODIR that may be overwritten."""
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to nowhere: remove it or name another folder.")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir():
        raise UserError(f"{path} is a file: name a new folder.")
    if not is_cocodir(path):
        raise UserError(f"{path} is not empty and holds no COCODIR, so it is not replaced: name a new folder.")
    if not overwrite:
        raise UserError(f"{path} exists: name a new folder, or say --overwrite (overwrite=True) to replace it.")


@contextlib.contextmanager
def temporary_folder(near: Path, what: str) -> Iterator[Path]:
    """A private folder beside ``near``, so on the same disk. It is removed at the end, whatever happens."""
    near.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{near.name[:100]}."
    with tempfile.TemporaryDirectory(f".{what}", prefix, near.parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def new_folder(path: Path | str, overwrite: bool = False, ours: set[str] | None = None) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` on success and vanishes on any error or interrupt.

    Only ``ours``, files of the folder that is overwritten (by default those of a COCODIR), are replaced; what else is
    in it (notes, a user's own images) is kept.
    """
    path = Path(path).expanduser().resolve()
    if ours is None:
        refuse_existing(path, overwrite)
    with temporary_folder(path, "part") as temporary:
        new, old = temporary / "new", temporary / "old"
        new.mkdir()  # an ordinary folder, unlike the temporary one
        yield new
        if ours is None:
            refuse_existing(path, overwrite)  # the work took a while
        if path.exists():
            _keep_others(path, new, _files_of_cocodir(path) if ours is None else ours)
            path.replace(old)
        try:
            new.replace(path)
        except BaseException:
            if old.exists():
                old.replace(path)
            raise


def _files_of_cocodir(folder: Path) -> set[str]:
    """Annotations, listed images and what a conversion adds, as posix paths."""
    ours = {MAPPING, SAMPLE_MARK}
    ours |= {f"annotations/{kind}_{split}2017.json" for kind in ("instances", "image_info") for split in SPLITS}
    for file in folder.glob("annotations/instances_*2017.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            split = file.stem.removeprefix("instances_")
            images = json.loads(file.read_text(encoding="utf-8-sig"))["images"]
            ours |= {f"{split}/{image['file_name']}" for image in images}
    return ours


def _keep_others(old: Path, new: Path, ours: set[str]) -> None:
    """Put what the folder ``old`` holds beside ``ours`` into ``new``."""
    for folder, folders, names in os.walk(old):
        here = Path(folder)
        linked = [name for name in folders if (here / name).is_symlink()]  # a link is kept as a link
        for name in [*names, *linked]:
            key = (here / name).relative_to(old)
            if key.as_posix() in ours:
                continue
            if (new / key).exists():
                raise UserError(f"{here / name} is in the way and not replaced: move it to another folder first.")
            (new / key).parent.mkdir(parents=True, exist_ok=True)
            if (here / name).is_symlink():
                (new / key).symlink_to((here / name).readlink())
            else:
                place_file(here / name, new / key, "hard")


def place_file(file: Path, target: Path, link: str = "copy") -> None:
    """Put ``file`` at ``target`` as a copy, or with ``link="hard"`` as a hard link where that is possible."""
    if link == "hard":
        try:
            Path(target).hardlink_to(Path(file).resolve())
            return
        except OSError:  # another disk, or one without links, as Drive is
            pass
    try:
        shutil.copyfile(file, target)
    except FileNotFoundError:
        raise UserError(f"there is no image {file}: dino-nb check tells more.") from None


def plain_names(files: Iterable[str], *, taken: set[str] | None = None, stems: bool = False) -> Iterator[str]:
    """A file name for each path, its own if it can be: without what one system or another forbids, not too long, and
    unlike the others even where case does not count; with ``stems``, unlike them without their endings, too.

    ``taken``: names (stems) in use already, in lower case; it grows.
    """
    taken = set() if taken is None else taken
    for file in files:
        plain = "".join(c if c.isprintable() and c not in '\\:*?"<>|' else "_" for c in file)
        folder, name = posixpath.split(plain)
        stem, ending = posixpath.splitext(name)
        stem, ending = _cut(stem, _LONGEST), _cut(ending, 20)
        choices = [stem, *([_cut(f"{folder.replace('/', '_')}_{stem}", _LONGEST)] if folder else [])]
        number = 2
        while (choices[0] if stems else choices[0] + ending).lower() in taken:
            choices = choices[1:] or [f"{stem}_{number}"]
            number += 1
        taken.add((choices[0] if stems else choices[0] + ending).lower())
        yield choices[0] + ending


def _cut(text: str, most: int) -> str:
    """``text`` in at most so many bytes of UTF-8, whole letters."""
    return text.encode()[:most].decode(errors="ignore")
