"""Downloading over http(s): checkpoints, data sets, images. Bounded in time and space, checked before it is used.

gdown 5.2, which Colab ships, appends whatever answers a resumed request, web pages included, and never times out; so
gdown is asked for what it knows of Drive's pages only. A file grows as ``NAME.<key>.part`` beside its place, the key
naming source and version, so that only the rest of the same file is ever appended.
"""

import contextlib
import email.message
import email.utils
import hashlib
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlsplit

from dino_nb.checkpoints.web import (
    BLOCK,
    DownloadError,
    Stalled,
    blocks_of,
    explained,
    number,
    open_file,
    open_session,
    request,
    shown,
)
from dino_nb.errors import UserError
from dino_nb.files import size_text

if TYPE_CHECKING:
    from requests import Response, Session

PAUSES = (1, 5, 15)  # seconds before each new try that follows one without progress
MAX_HOURS = 12.0  # for one file
RESERVE = 1 << 30  # bytes of the disk that a file of unknown size leaves free
MAX_IMAGE = 64 << 20  # bytes of a file that is kept in memory
MAX_IMAGE_SECONDS = 120.0


class RemoteFile(io.BytesIO):
    """The content of a URL. ``str()`` of it is the URL, without a password."""

    def __init__(self, data: bytes, url: str) -> None:
        super().__init__(data)
        self.url = shown(url)

    def __str__(self) -> str:
        return self.url


def download(link: str, folder: Path, name: str | None = None, check: Callable[[Path], Any] | None = None) -> Path:
    """Download ``link`` into ``folder`` as ``name`` (default: the server's); returns the path.

    A file that is there with the announced size and time is kept. ``check(path)`` sees the complete file before it
    gets its name; if it raises a ``UserError`` the file is removed. Raises ``DownloadError`` or what requests raises:
    see ``web.explained``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_session() as session:
        response = open_file(session, link)
        target = folder / (name or _name(response))
        total = number(response.headers.get("Content-Length"))
        modified = _time(response.headers.get("Last-Modified"))
        if target.is_file() and modified and (target.stat().st_size, int(target.stat().st_mtime)) == (total, modified):
            return target
        version = [response.headers.get("ETag"), modified, total]
        part = folder / f"{target.name}.{_digest(f'{link} {version}')[:8]}.part"
        before = _identity(target)
        with _lock(part):
            if _identity(target) not in (None, before):
                return target  # another process has finished it meanwhile
            with part.open("ab") as file:
                if total and total - file.tell() > (free := shutil.disk_usage(folder).free):
                    raise DownloadError(f"it takes {size_text(total)} and {size_text(free)} are free in {folder}")
                _transfer(session, response, file, total, target.name)
                file.flush()
                os.fsync(file.fileno())
            try:
                if looks_like_html(part):
                    raise DownloadError("the server sent a web page in its place")
                if check:
                    check(part)
            except UserError:
                part.unlink()
                raise
            if modified:
                os.utime(part, (modified, modified))
            part.replace(target)
    return target


def fetch_bytes(url: str, max_bytes: int = MAX_IMAGE, max_seconds: float = MAX_IMAGE_SECONDS) -> RemoteFile:
    """The content of an http(s) ``url`` in memory. Raises ``DownloadError`` naming the address."""
    deadline, data = time.monotonic() + max_seconds, bytearray()
    slow = f"it did not arrive within {max_seconds:g} seconds"
    with explained(shown(url), "try again, or save it yourself and give its path"), open_session() as session:
        try:
            response, page = request(session, url.strip(), {}, deadline)
            if page is not None:
                raise DownloadError("the server sent a web page, not an image")
            for block in blocks_of(response, deadline):
                data += block
                if len(data) > max_bytes:
                    raise DownloadError(f"it is larger than {max_bytes >> 20} MB")
                if time.monotonic() > deadline:
                    raise DownloadError(slow)
        except Stalled as error:
            raise DownloadError(slow) from error
        expected = number(response.headers.get("Content-Length"))
        if expected and len(data) < expected:
            raise DownloadError(f"the connection broke after {len(data)} of {expected} bytes")
    return RemoteFile(bytes(data), url)


def looks_like_html(path: Path) -> bool:
    """Whether a file begins as a web page does."""
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head"))


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def _lock(part: Path) -> Any:
    """A lock by which only one process of this user and machine at a time works on ``part``."""
    from filelock import FileLock

    owner = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"dino-nb-{owner}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return FileLock(folder / f"{_digest(str(part.resolve()))[:16]}.lock")


def _identity(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else None


def _transfer(session: "Session", first: "Response", file: BinaryIO, total: int | None, name: str) -> None:
    """Append to ``file`` what it lacks of ``total`` bytes (None: unknown), going on after each cut.

    ``first``: an answer to a request for the whole file, of which nothing was read.
    """
    import requests
    from tqdm.auto import tqdm

    cuts = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, Stalled)
    address, reached, failures = first.url, file.tell(), 0
    deadline = time.monotonic() + 3600 * MAX_HOURS
    response: Response | None = None if file.tell() else first
    with tqdm(total=total, initial=file.tell(), desc=name, unit="B", unit_scale=True) as bar:
        while total is None or file.tell() < total:
            cut: Exception | None = None
            try:
                response = _resume(session, address, file, total) if response is None else response
                bar.n = file.tell()
                for block in blocks_of(response, deadline):
                    file.write(block)
                    bar.update(len(block))
                    _check_bounds(file, total, deadline)
                if total is None:
                    return
            except cuts as error:
                cut = error
            response = None
            # an answer that ends early, or is empty, is a cut as well
            failures = 0 if file.tell() > reached else failures + 1
            reached = max(reached, file.tell())
            _check_bounds(file, total, deadline)
            if failures > len(PAUSES):
                left = f"{size_text(file.tell())} of {size_text(total)}" if total else size_text(file.tell())
                raise DownloadError(f"the connection was cut at {left} (the next try continues there)") from cut
            time.sleep(PAUSES[failures - 1] if failures else 0)


def _check_bounds(file: BinaryIO, total: int | None, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise DownloadError(f"it did not arrive within {MAX_HOURS:g} hours (the next try continues there)")
    folder, now_and_then = Path(file.name).parent, file.tell() % (BLOCK * 64) < BLOCK
    if total is None and now_and_then and shutil.disk_usage(folder).free < RESERVE:
        file.truncate(0)
        raise DownloadError(f"it does not end, and the disk of {folder} is nearly full")


def _resume(session: "Session", address: str, file: BinaryIO, total: int | None) -> "Response":
    """A response that continues at the end of ``file``; if the server cannot, one of the whole, ``file`` emptied."""
    have = file.tell()
    if not have:
        return open_file(session, address)
    response = open_file(session, address, {"Range": f"bytes={have}-"})
    place = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status_code == 206 and place and int(place[1]) == have and (number(place[2]) or total) == total:
        return response
    file.truncate(0)
    file.seek(0)
    return response if response.status_code == 200 else open_file(session, address)


def _name(response: "Response") -> str:
    """A safe file name: the one in the headers, else the end of the address."""
    message = email.message.Message()
    message["Content-Disposition"] = response.headers.get("Content-Disposition", "")
    name = message.get_filename() or unquote(urlsplit(response.url).path)
    name = re.sub(r"[\x00-\x1f\x7f]", "", re.split(r"[/\\]", name)[-1]).strip()
    stem, dot, ending = name.rpartition(".")
    name = f"{stem[: 150 - len(ending)]}{dot}{ending}" if len(ending) < 20 else name[:150]
    return "download" if name in ("", ".", "..") else name


def _time(text: str | None) -> int | None:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return int(email.utils.parsedate_to_datetime(text or "").timestamp())
    return None
