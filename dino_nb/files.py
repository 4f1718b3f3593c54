"""Where files live, and writing them whole: nothing half-written is ever seen."""

import contextlib
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dino_nb.errors import UserError

DRIVE = Path("/content/drive/MyDrive")  # where Colab mounts a user's Drive
# What people write for it, with what follows: MyDrive/run, /content/gdrive/My Drive/run, drive/MyDrive/run, ...
_SPELT = re.compile(
    r"[./]*(?:content/)?(?:g?drive/)?my ?drive(?:/(?P<a>.*))?|/?content/g?drive(?:/(?P<b>.*))?"
    r"|/?g(?:oogle)? ?drive(?:/(?P<c>.*))?",
    re.IGNORECASE,
)
_ROOTS = ("MyDrive", "Shareddrives", ".shortcut-targets-by-id")


def in_colab() -> bool:
    """Whether this process belongs to a Colab session."""
    return "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules


def drive_mounted() -> bool:
    """Whether Google Drive can be read and written now. A folder of that name outside Colab is no Drive."""
    return in_colab() and DRIVE.is_dir()


def on_drive(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a place on Google Drive, mounted or not: below its mount point, in a Colab session."""
    return in_colab() and Path(path).absolute().is_relative_to(DRIVE.parent)


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a user typed, without stray blanks and quotes and with ``~`` expanded.

    ``UserError`` for a misspelt Drive path, which would name a local folder that is lost with the session, and for a
    Drive path outside Colab, where nothing may be made at the root of the disk.
    """
    typed = os.fspath(text).strip().strip("\"'").strip()
    path = Path(typed).expanduser()
    spelt = _SPELT.fullmatch(typed.replace("\\", "/"))
    if not spelt or path.exists():
        return path
    if not in_colab():
        raise UserError(f"{typed} is a path on Google Drive, which only Colab has: name a local file or folder.")
    if any(path.absolute().is_relative_to(DRIVE.parent / root) for root in _ROOTS):
        return path
    right = DRIVE / (spelt["a"] or spelt["b"] or spelt["c"] or "")
    raise UserError(f"{typed} is not on Google Drive and would be lost with the session: write {right}")


def home_dir() -> Path:
    """The folder of downloaded checkpoints and built ops (created if missing).

    ``$DINO_NB_HOME``; else ``dino_nb`` on a mounted Colab Drive, which outlives the session; else the user cache.
    """
    cache = DRIVE if drive_mounted() else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("DINO_NB_HOME") or cache / "dino_nb").expanduser()
    home.mkdir(parents=True, exist_ok=True)
    return home


def leaves_folder(name: str) -> bool:
    """Whether a file name that a stranger's file gives is absolute or climbs out of its folder, on any system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or (name[:1].isalpha() and name[1:2] == ":") or "\0" in name


_KINDS = (
    (rb"PK\x03\x04", "a zip archive that is cut or damaged, or has another file's name"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive, which is not read here: unpack it, or make a zip of it"),
    (rb"Rar!", "a rar archive, which is not read here: unpack it, or make a zip of it"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ", "a packed file that is cut or damaged, or no tar archive: download it again"),
    (rb"version https://git-lfs", "a Git LFS pointer in place of the file: run git lfs pull where it came from"),
    (rb"\s*<(!doctype html|html|head|body)", "a web page: the download gave a page in place of the file"),
    (rb"[\s\0]*$", "empty: the download or copy failed"),
    (rb"\x89PNG|\xff\xd8\xff", "an image"),
    (rb"%PDF", "a PDF"),
    (rb"\x80\x04", "a Python pickle"),
)


def what_is(head: bytes) -> str | None:
    """What a file is, by its first bytes, that was taken for another kind: ``a web page: ...``; else None."""
    return next((what for magic, what in _KINDS if re.match(magic, head, re.IGNORECASE)), None)


def links_out(path: Path, root: Path) -> bool:
    """Whether ``path``, below ``root`` by its name, is in truth elsewhere: it or a folder above it is a link."""
    return not path.resolve().is_relative_to(root.resolve())


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` on success, remove it on any error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")  # names may be as long as allowed
    temporary.open("xb").close()  # with an ordinary file's permissions, unlike tempfile's
    try:
        yield temporary
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def size_text(count: float) -> str:
    """A number of bytes for people: ``41.3 MB``, ``1.27 GB``."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
