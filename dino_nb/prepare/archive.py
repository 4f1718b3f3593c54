"""Zip and tar: taken apart without trusting them, and a COCODIR packed into one file that Drive likes.

pack("/content/coco", "/content/drive/MyDrive/coco.zip")       # at the end of a session
restore("/content/drive/MyDrive/coco.zip", "/content/coco")    # in the next
"""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn

from tqdm.auto import tqdm

from dino_nb import files
from dino_nb.data.images import is_image
from dino_nb.errors import UserError, disk_errors, explain, printable
from dino_nb.files import atomic_path, leaves_folder, links_out
from dino_nb.prepare.folders import DEEPEST, is_cocodir, new_folder

MAX_RATIO = 200  # unpacked to packed bytes; images have about 1, text 10
_HARMLESS = 10 << 20  # unpacked bytes up to which the ratio does not matter
_MOST_FILES = 5_000_000
_BLOCK = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: the same folder gives the same bytes
# what the readers of archives raise for damaged, cut or encrypted ones (RuntimeError: a password is needed)
_DAMAGE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)
_WAY_OUT = "If you trust it, unpack it yourself and give the folder."


def is_archive(path: Path | str) -> bool:
    """Whether ``path`` is a zip or tar file, by its content."""
    path = Path(path)
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    except _DAMAGE_ERRORS:  # a packed file that ends in its first block
        return False


def what_is(path: Path) -> str | None:
    """What a file is that cannot be read as an archive or annotations, such as ``a rar archive, ...``, or None."""
    with path.open("rb") as f:
        return files.what_is(f.read(256))


@disk_errors()
def extract(archive: Path | str, folder: Path | str, progress: bool = True) -> Path:
    """Unpack a zip or tar (also gz, bz2, xz) below ``folder``, regular files only; returns ``folder``.

    ``UserError`` for an entry that would land outside, a link or a device, a file that unpacks to over ``MAX_RATIO``
    times its size or over the free disk, an encrypted or damaged archive. Hidden and ``__MACOSX`` entries are skipped.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    free, packed = shutil.disk_usage(folder).free, archive.stat().st_size
    total = count = 0

    def refuse_bomb(unpacked: int) -> None:
        if unpacked > _HARMLESS and unpacked > MAX_RATIO * packed:
            much = f"it unpacks to more than {MAX_RATIO} times its size, as a file made to fill a disk does"
            raise UserError(f"{archive} is refused: {much}. {_WAY_OUT}")
        if unpacked > free:
            raise UserError(f"{archive} unpacks to more than the {free / 1e9:.1f} GB that are free on this disk.")
        if count > _MOST_FILES:
            raise UserError(f"{archive} is refused: it holds more than {_MOST_FILES:,} files. {_WAY_OUT}")

    bar = tqdm(desc=f"unpacking {archive.name}", unit="B", unit_scale=True, disable=not progress, leave=False)
    try:
        for name, size, stream in _entries(archive):
            if (target := _target(archive, folder, name)) is None:
                continue
            count += 1
            refuse_bomb(total + size)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:  # the size an entry announces may be a lie: what arrives counts
                while block := stream.read(_BLOCK):
                    total += len(block)
                    refuse_bomb(total)
                    out.write(block)
                    bar.update(len(block))
    except UserError:
        raise
    except (OSError, *_DAMAGE_ERRORS) as error:
        if isinstance(error, OSError) and (error.filename is not None or error.errno is not None):
            raise UserError(f"{archive} cannot be unpacked: {explain(error)}") from error
        why = f"({printable(error)}): it is damaged, cut or encrypted"  # gzip and bz2 raise an empty OSError for it
        raise UserError(f"{archive} cannot be unpacked {why}.") from error
    finally:
        bar.close()
    return folder


@disk_errors()
def pack(cocodir: Path | str, archive: Path | str, progress: bool = True) -> Path:
    """Pack a COCODIR into one zip (images stored as they are), written atomically; the same folder gives the same
    bytes. Links that lead out of the folder are a ``UserError``. Returns the archive's path."""
    cocodir, archive = Path(cocodir), Path(archive)
    if not is_cocodir(cocodir):
        raise UserError(f"{cocodir} holds no COCODIR (annotations/instances_*.json): nothing to keep.")
    if archive.suffix.lower() != ".zip":
        raise UserError(f"{archive}: name a file that ends in .zip.")
    found = sorted(path for path in cocodir.rglob("*") if path.name[0] != ".")
    if linked := [path for path in found if path.is_symlink() and links_out(path, cocodir)]:
        raise UserError(f"{linked[0]} is a link that leads out of {cocodir}: put what it points to in its place.")
    files = [path for path in found if path.is_file()]
    with atomic_path(archive) as temporary, zipfile.ZipFile(temporary, "w") as bundle:
        for path in tqdm(files, desc=f"packing {archive.name}", unit="file", disable=not progress, leave=False):
            entry = zipfile.ZipInfo(path.relative_to(cocodir).as_posix(), date_time=_EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED if is_image(path) else zipfile.ZIP_DEFLATED
            with path.open("rb") as source, bundle.open(entry, "w", force_zip64=True) as out:
                shutil.copyfileobj(source, out, _BLOCK)
    return archive


@disk_errors()
def restore(archive: Path | str, cocodir: Path | str, overwrite: bool = False, progress: bool = True) -> Path:
    """Unpack what `pack` made to ``cocodir`` (whole or not at all); returns it. Refuses to overwrite unless told."""
    archive, cocodir = Path(archive).expanduser(), Path(cocodir).expanduser()
    if not is_archive(archive):
        kind = (archive.is_file() and what_is(archive)) or "not a zip or tar file"
        what = f"is {kind}" if archive.exists() else "does not exist"
        raise UserError(f"{archive} {what}: keep a COCODIR first, or name another file.")
    with new_folder(cocodir, overwrite) as folder:
        extract(archive, folder, progress)
        if not is_cocodir(folder):
            raise UserError(f"{archive} holds no COCODIR: dino-nb convert {archive.name} COCODIR makes one of it.")
    return cocodir


def _entries(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """``(name, announced size, stream)`` of each regular file."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for entry in bundle.infolist():
                mode = entry.external_attr >> 16
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    _refuse(archive, entry.filename, "is a link or a device")
                if not entry.filename.endswith(("/", "\\")):  # Windows writes folders with backslashes
                    with bundle.open(entry) as stream:
                        yield entry.filename, entry.file_size, stream
        return
    with tarfile.open(archive, "r|*") as bundle:
        for member in bundle:
            if not member.isreg() and not member.isdir():
                _refuse(archive, member.name, "is a link or a device")
            if member.isreg() and (content := bundle.extractfile(member)):
                yield member.name, member.size, content


def _target(archive: Path, folder: Path, name: str) -> Path | None:
    """Where an entry goes; None if it is to be skipped."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if leaves_folder(name) or not parts:
        _refuse(archive, name, "would be written outside of its folder")
    if len(parts) > DEEPEST:
        _refuse(archive, name, "is nested too deeply")
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return None
    return folder.joinpath(*parts)


def _refuse(archive: Path, name: str, why: str) -> NoReturn:
    raise UserError(f"{archive} is refused: its entry {printable(name)!r} {why}. {_WAY_OUT}")
