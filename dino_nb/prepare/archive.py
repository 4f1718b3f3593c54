"""Zip and tar: taken apart without trusting them, and a COCODIR packed into one file that Drive likes.

pack("/content/coco", "/content/drive/MyDrive/coco.zip")       # at the end of a session
restore("/content/drive/MyDrive/coco.zip", "/content/coco")    # in the next
"""

import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path

from tqdm.auto import tqdm

from dino_nb.data.images import is_image
from dino_nb.errors import UserError
from dino_nb.files import atomic_path
from dino_nb.prepare.findings import printable
from dino_nb.prepare.folders import is_cocodir, new_folder

MAX_RATIO = 200  # unpacked to packed bytes; pictures have about 1, text 10
_HARMLESS = 10 << 20  # unpacked bytes up to which the ratio does not matter
_MOST_FILES = 5_000_000
_BLOCK = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: the same folder gives the same bytes
_DAMAGES = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)
_WAY_OUT = "If you trust it, unpack it yourself and give the folder."


def is_archive(path):
    """Whether ``path`` is a zip or tar file, by its content."""
    path = Path(path)
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def extract(archive, folder, progress=True):
    """Unpack a zip or tar (also gz, bz2, xz) below ``folder``, regular files only; returns ``folder``.

    ``UserError`` for an entry that would land outside, a link or a device, a file that unpacks to over ``MAX_RATIO``
    times its size or over the free disk, an encrypted or damaged archive. Hidden and ``__MACOSX`` entries are skipped.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    packed = archive.stat().st_size
    total = count = 0
    bar = tqdm(desc=f"unpacking {archive.name}", unit="B", unit_scale=True, disable=not progress, leave=False)
    try:
        for name, size, stream in _entries(archive):
            target = _target(archive, folder, name)
            if target is None:
                continue
            count += 1
            _refuse_bomb(archive, total + size, packed, free, count)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:  # the size an entry announces may be a lie: what arrives counts
                while block := stream.read(_BLOCK):
                    total += len(block)
                    _refuse_bomb(archive, total, packed, free, count)
                    out.write(block)
                    bar.update(len(block))
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
    ) as e:
        if isinstance(e, OSError) and e.errno == 28:
            raise UserError(f"the disk is full while unpacking {archive}: free some space.") from None
        raise UserError(f"{archive} cannot be unpacked ({printable(e)}): it is damaged, cut or encrypted.") from e
    finally:
        bar.close()
    return folder


def pack(cocodir, archive, progress=True):
    """Pack a COCODIR into one zip (pictures stored as they are), written atomically; the same folder gives the same
    bytes. Returns the archive's path."""
    cocodir, archive = Path(cocodir), Path(archive)
    if not is_cocodir(cocodir):
        raise UserError(f"{cocodir} holds no COCODIR (annotations/instances_*.json): nothing to keep.")
    if archive.suffix.lower() != ".zip":
        raise UserError(f"{archive}: name a file that ends in .zip.")
    files = sorted(path for path in cocodir.rglob("*") if path.is_file() and path.name[0] != ".")
    with atomic_path(archive) as temporary, zipfile.ZipFile(temporary, "w") as bundle:
        for path in tqdm(files, desc=f"packing {archive.name}", unit="file", disable=not progress, leave=False):
            entry = zipfile.ZipInfo(path.relative_to(cocodir).as_posix(), date_time=_EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED if is_image(path) else zipfile.ZIP_DEFLATED
            with path.open("rb") as source, bundle.open(entry, "w", force_zip64=True) as out:
                shutil.copyfileobj(source, out, _BLOCK)
    return archive


def restore(archive, cocodir, overwrite=False, progress=True):
    """Unpack what `pack` made to ``cocodir`` (whole or not at all); returns it. Refuses to overwrite unless told."""
    archive, cocodir = Path(archive).expanduser(), Path(cocodir).expanduser()
    if not is_archive(archive):
        what = "is not a zip or tar file" if archive.exists() else "does not exist"
        raise UserError(f"{archive} {what}: keep a COCODIR first, or name another file.")
    with new_folder(cocodir, overwrite) as folder:
        extract(archive, folder, progress)
        if not is_cocodir(folder):
            raise UserError(f"{archive} holds no COCODIR: dino-nb convert {archive.name} COCODIR makes one of it.")
    return cocodir


def _entries(archive):
    """``(name, announced size, stream)`` of each regular file."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for entry in bundle.infolist():
                mode = entry.external_attr >> 16
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    _refuse(archive, entry.filename, "is a link or a device")
                if not entry.is_dir():
                    with bundle.open(entry) as stream:
                        yield entry.filename, entry.file_size, stream
        return
    with tarfile.open(archive, "r|*") as bundle:
        for entry in bundle:
            if not entry.isreg() and not entry.isdir():
                _refuse(archive, entry.name, "is a link or a device")
            if entry.isreg():
                yield entry.name, entry.size, bundle.extractfile(entry)


def _target(archive, folder, name):
    """Where an entry goes; None if it is to be skipped."""
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", path) or "\0" in path or not parts:
        _refuse(archive, name, "would be written outside of its folder")
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return None
    return folder.joinpath(*parts)


def _refuse(archive, name, why):
    raise UserError(f"{archive} is refused: its entry {printable(name)!r} {why}. {_WAY_OUT}")


def _refuse_bomb(archive, total, packed, free, count):
    if total > _HARMLESS and total > MAX_RATIO * packed:
        raise UserError(
            f"{archive} is refused: it unpacks to more than {MAX_RATIO} times its size, as a file made to fill a disk "
            f"does. {_WAY_OUT}"
        )
    if total > free:
        raise UserError(f"{archive} unpacks to more than the {free / 1e9:.1f} GB that are free on this disk.")
    if count > _MOST_FILES:
        raise UserError(f"{archive} is refused: it holds more than {_MOST_FILES:,} files. {_WAY_OUT}")
