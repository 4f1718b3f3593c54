"""Between Google Drive and the local disk: data to where training reads it fast, results to where they are kept."""

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from os import PathLike
from pathlib import Path

from dino_nb import files
from dino_nb.colab import hosts
from dino_nb.errors import UserError, did_you_mean, disk_errors
from dino_nb.files import in_colab, size_text

_COPIES = 8  # at once: Drive answers slowly, not narrowly


@disk_errors()
def stage(path: str | PathLike[str]) -> Path:
    """Copy a file or folder on Google Drive to the local disk, where training reads it fast; returns the local path.

    A path that is not on Drive is returned as it is. What is on Drive as it was at an earlier call is not copied again;
    what has changed since goes to a new local folder, so that no file at hand is replaced or removed.
    """
    source = files.user_path(path)
    if not files.on_drive(source):
        return source
    require(source)
    found = {file: file.stat() for file in _files(source)}
    state = sorted((str(file), stat.st_size, int(stat.st_mtime)) for file, stat in found.items())
    key = hashlib.sha256(repr((str(source), state)).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / "dino_nb_staged" / key
    (folder / source.name if source.is_dir() else folder).mkdir(parents=True, exist_ok=True)
    missing = [file for file in found if not (folder / file.relative_to(source.parent)).exists()]
    needed, free = sum(found[file].st_size for file in missing), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{source} takes {size_text(needed)} and {size_text(free)} are free in {folder}.")
    _copy(missing, source.parent, folder)
    return folder / source.name


@disk_errors()
def keep(path: str | PathLike[str], drive_folder: str | PathLike[str]) -> Path:
    """Copy a result, file or folder, into ``drive_folder``, each file whole or not at all; returns its path there.

    A relative ``drive_folder`` is one on Drive in Colab.
    """
    source, folder = Path(path).expanduser(), Path(drive_folder).expanduser()
    if in_colab() and not folder.is_absolute():
        folder = files.DRIVE / folder
    _require_mounted(folder)
    require(source)
    _copy(_files(source), source.parent, folder)
    return folder / source.name


def send(path: str | PathLike[str], to: str) -> None:
    """Hand a result, file or folder, over to where a ``SEND_TO`` field says, and print where it is.

    Args:
        to: ``download`` (to the user's computer, in Colab), ``hf://owner/name`` (a repository on the Hugging Face Hub,
            made private if it is new), a folder, on Drive too, or nothing.
    """
    source, typed = Path(path), to.strip()
    if typed.startswith("hf://"):
        print(f"{source} is at {hosts.push_to_hub(source, typed.removeprefix('hf://').strip('/'))}")
    elif typed.lower() == "download":
        archive = source if source.is_file() else _zipped(source)
        if in_colab():
            from google.colab import files as colab_files

            colab_files.download(str(archive))
        else:
            print(f"{archive} is on this machine: a download works in Colab alone.")
    elif typed:
        print(f"{source} is kept at {keep(source, files.user_path(typed))}")


@disk_errors()
def _zipped(folder: Path) -> Path:
    """A folder's results in one zip beside it; without the states, which only the folder's own training reads."""
    archive = folder.absolute().with_name(f"{folder.absolute().name}.zip")
    with files.atomic_path(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as bundle:
        for file in _files(folder):
            if not any(fnmatch(file.name, pattern) for pattern in hosts.NO_RESULTS):
                bundle.write(file, file.relative_to(folder))
    return archive


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _copy(sources: Iterable[Path], root: Path, folder: Path) -> None:
    """Copy files below ``root`` to the same places below ``folder``, with their times."""
    from tqdm.auto import tqdm

    def copy(source: Path) -> int:
        with files.atomic_path(folder / source.relative_to(root)) as temporary:
            shutil.copyfile(source, temporary)
            shutil.copystat(source, temporary)
        return source.stat().st_size

    sources = list(sources)
    total = sum(source.stat().st_size for source in sources)
    bar = tqdm(total=total, desc=f"to {folder}", unit="B", unit_scale=True, disable=not sources)
    with bar, ThreadPoolExecutor(_COPIES) as pool:
        for size in pool.map(copy, sources):
            bar.update(size)


def require(path: Path, made: bool = False) -> None:
    """``UserError`` unless ``path`` is there, or (``made``) can be made: on Drive, that is, if it is mounted."""
    _require_mounted(path)
    if path.exists() or made:
        return
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(f"there is no {path}.{did_you_mean(path.name, beside)}")


def _require_mounted(path: Path) -> None:
    if files.on_drive(path) and not files.drive_mounted():
        raise UserError(f"{path} is on Google Drive, which is not mounted: call dino_nb.colab.mount_drive() first.")
