"""A new folder that is seen whole or not at all, and never in the place of something that was not asked for."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from dino_nb.errors import UserError


def is_cocodir(folder):
    """Whether ``folder`` has annotation files where a COCODIR has them."""
    return any(Path(folder).glob("annotations/instances_*.json"))


def refuse_existing(path, overwrite=False):
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
def temporary_folder(near, what):
    """A private folder beside ``near``, hence on its disk; it is removed at the end, whatever happens."""
    near = Path(near)
    near.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{near.name}.", suffix=f".{what}", dir=near.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_folder(path, overwrite=False):
    """Yield a temporary folder that becomes ``path`` on success and vanishes on any error or interrupt."""
    path = Path(path).expanduser().resolve()
    refuse_existing(path, overwrite)
    with temporary_folder(path, "part") as folder:
        umask = os.umask(0)
        os.umask(umask)
        folder.chmod(0o777 & ~umask)  # mkdtemp makes it private; a result is an ordinary folder
        yield folder
        refuse_existing(path, overwrite)  # the work took a while
        if path.exists() and any(path.iterdir()):
            with temporary_folder(path, "old") as old:
                path.replace(old / path.name)
                try:
                    folder.replace(path)
                except BaseException:
                    (old / path.name).replace(path)
                    raise
        else:
            if path.exists():
                path.rmdir()
            folder.replace(path)


def place_file(file, target, link="hard"):
    """Put ``file`` at ``target`` as a hard link, or as a copy if so told or where a link is impossible."""
    if link == "hard":
        try:
            Path(target).hardlink_to(Path(file).resolve())
            return
        except OSError:  # another disk, or one without links, as Drive is
            pass
    try:
        shutil.copyfile(file, target)
    except FileNotFoundError:
        raise UserError(f"there is no picture {file}: dino-nb check tells more.") from None
