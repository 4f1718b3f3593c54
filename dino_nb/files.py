"""Where files live, and writing them so that nothing half-written is ever seen."""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

DRIVE = Path("/content/drive/MyDrive")  # where Colab mounts a user's Drive


def home_dir():
    """The folder of downloaded checkpoints and built ops (created if missing).

    ``$DINO_NB_HOME``; else ``dino_nb`` on a mounted Colab Drive, which outlives the session; else the user cache.
    """
    if os.environ.get("DINO_NB_HOME"):
        home = Path(os.environ["DINO_NB_HOME"]).expanduser()
    elif DRIVE.is_dir():
        home = DRIVE / "dino_nb"
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dino_nb"
    home.mkdir(parents=True, exist_ok=True)
    return home


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside ``path``; rename it onto ``path`` on success, remove it on any error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    temporary.open("xb").close()  # with an ordinary file's permissions, unlike tempfile's
    try:
        yield temporary
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path):
    """Hex SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def size_text(count):
    """A number of bytes for people: ``41.3 MB``, ``1.27 GB``."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
