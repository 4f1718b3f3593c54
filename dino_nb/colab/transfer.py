"""Between Google Drive and the local disk: data to where training reads it fast, results to where they are kept."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path

from dino_nb import files
from dino_nb.errors import UserError, did_you_mean
from dino_nb.files import in_colab, size_text
from dino_nb.training.copier import Copier

_COPIES = 8  # at once: Drive answers slowly, not narrowly
_MANIFEST = ".dino_nb_staged.{}.json"  # beside a copy: which files of it were copied, as [name, bytes, seconds]


def stage(path: str | PathLike[str], folder: str | PathLike[str] | None = None) -> Path:
    """Copy a file or folder on Google Drive to the local disk, where training reads it fast; returns the local path.

    A path that is not on Drive is returned as it is. A second call copies only what has changed, and removes copies of
    what is gone from Drive. ``folder``: where to copy to (default: a folder for temporary files). Files there that are
    not such copies are never touched: one that stands in the way is a ``UserError``.
    """
    source = files.user_path(path)
    if not files.on_drive(source):
        return source
    require(source)
    if folder is None:
        folder = Path(tempfile.gettempdir()) / "dino_nb_staged" / hashlib.sha256(str(source).encode()).hexdigest()[:8]
    target = Path(folder) / source.name
    found = {p.relative_to(source.parent).as_posix(): p.stat() for p in _files(source)}
    Path(folder).mkdir(parents=True, exist_ok=True)
    copies = _read_manifest(target)
    missing = {}
    for name, stat in found.items():
        local = Path(folder) / name
        if not local.exists():
            missing[name] = stat
        elif _key(name, local.stat()) != _key(name, stat):
            if _key(name, local.stat()) not in copies:
                raise UserError(f"{local} is not a copy from {source}, and is left alone: name another local folder.")
            missing[name] = stat
    if (needed := sum(stat.st_size for stat in missing.values())) > (free := shutil.disk_usage(folder).free):
        raise UserError(f"{source} takes {size_text(needed)} and {size_text(free)} are free in {folder}.")
    wanted = {_key(name, stat) for name, stat in found.items()}
    _write_manifest(target, copies | wanted)  # what an interrupt leaves behind is known as a copy, too
    for name, *_ in copies - wanted:
        local = Path(folder) / str(name)
        if name not in found and local.is_file() and _key(str(name), local.stat()) in copies:
            local.unlink()
    _copy_all(source.parent, Path(folder), missing, f"{source.name} to {folder}")
    _write_manifest(target, wanted)
    return target


def keep(path: str | PathLike[str], drive_folder: str | PathLike[str], background: bool = False) -> Path | Copier:
    """Copy a result, file or folder, into ``drive_folder``, each file whole or not at all; returns its path there.

    A relative ``drive_folder`` is one on Drive in Colab. With ``background`` a thread copies, and a ``Copier`` is
    returned at once, whose ``wait()`` says whether everything is there.
    """
    source, folder = Path(path).expanduser(), Path(drive_folder).expanduser()
    if in_colab() and not folder.is_absolute():
        folder = files.DRIVE / folder
    _require_mounted(folder)
    require(source)
    problems: list[str] = []
    copier = Copier(folder, report=print if background else problems.append)
    for file in _files(source):
        copier.put(file, file.relative_to(source.parent).as_posix())
    if background:
        return copier
    if not copier.wait():
        raise UserError(f"{source} was not copied whole: {problems[-1]}")
    return folder / source.name


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _key(name: str, stat: os.stat_result) -> tuple[str, int, int]:
    return name, stat.st_size, int(stat.st_mtime)  # Drive keeps whole seconds


def _manifest(target: Path) -> Path:
    return target.with_name(_MANIFEST.format(target.name))


def _read_manifest(target: Path) -> set[tuple]:
    try:
        return {tuple(row) for row in json.loads(_manifest(target).read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError):
        return set()


def _write_manifest(target: Path, keys: Iterable[tuple]) -> None:
    files.write_text(_manifest(target), json.dumps(sorted(keys)))


def _copy_all(source: Path, folder: Path, missing: dict[str, os.stat_result], what: str) -> None:
    from tqdm.auto import tqdm

    def copy(name: str) -> int:
        stat = missing[name]
        with files.atomic_path(folder / name) as temporary:
            shutil.copyfile(source / name, temporary)
            os.utime(temporary, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
        return stat.st_size

    total = sum(stat.st_size for stat in missing.values())
    with tqdm(total=total, desc=what, unit="B", unit_scale=True) as bar, ThreadPoolExecutor(_COPIES) as pool:
        for size in pool.map(copy, missing):
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
