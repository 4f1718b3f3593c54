"""The bytes of a download: continued after a cut, checked while nobody sees them, and never a web page.

gdown 5.2, which Colab ships, appends whatever answers a resumed request, web pages included, and never times out; so
gdown is asked for what it knows of Drive's pages only. A file grows as ``NAME.<key>.part`` beside its place, the key
naming source and version, so that only a rest of the same file is ever continued.
"""

import contextlib
import email.message
import email.utils
import hashlib
import os
import re
import shutil
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dino_nb.errors import UserError
from dino_nb.files import size_text

try:
    import fcntl
except ImportError:  # Windows, where two processes fetching one file at once are not told apart
    fcntl = None

GOOGLE = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")
TIMEOUT = (20, 60)  # seconds to connect, and between two bytes
PAUSES = (1, 5, 15)  # seconds before each new try that follows one without progress
BLOCK = 1 << 16  # bytes read at once; what a cut leaves of a block is lost


class DownloadError(UserError):
    """A download that failed: one sentence with the reason and the way out by hand. ``reason`` is its first part."""

    def __init__(self, reason, advice=None):
        super().__init__(f"{reason}: {advice}." if advice else f"{reason}.")
        self.reason = reason


def download(link, folder, name=None, check=None):
    """Download ``link`` into ``folder`` as ``name`` (default: the server's); returns the path.

    A file that is there with the announced size and time is kept. ``check(path)`` sees the complete file before it
    gets its name; if it raises a ``UserError`` the file is removed. Raises ``DownloadError`` or what requests raises.
    """
    import requests

    folder.mkdir(parents=True, exist_ok=True)
    with requests.Session() as session:
        # Encoded bytes cannot be continued by position; Drive serves its plain pages to a browser's name.
        session.headers.update({"User-Agent": "Mozilla/5.0", "Accept-Encoding": "identity"})
        response = _open(session, link)
        target = folder / (name or _name(response))
        total = _number(response.headers.get("Content-Length"))
        modified = _time(response.headers.get("Last-Modified"))
        if target.is_file() and modified and (target.stat().st_size, int(target.stat().st_mtime)) == (total, modified):
            return target
        version = [response.headers.get("ETag"), modified, total]
        key = hashlib.sha256(f"{link} {version}".encode()).hexdigest()[:8]
        with _alone(folder / f"{target.name}.{key}.part", target) as file:
            if file is None:
                return target  # another process has finished it meanwhile
            if total and total - file.tell() > (free := shutil.disk_usage(folder).free):
                raise DownloadError(f"it takes {size_text(total)} and {size_text(free)} are free in {folder}")
            _transfer(session, response, file, total, target.name)
            _publish(file, target, modified, check)
    return target


def looks_like_html(path):
    """Whether a file begins as a web page does."""
    with Path(path).open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head"))


@contextlib.contextmanager
def _alone(part, target):
    """Yield ``part`` opened for appending and locked, or None if another process made ``target`` of it meanwhile."""
    while True:
        with part.open("ab") as file:
            if fcntl:
                with contextlib.suppress(OSError):  # a mounted Drive may know no locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0, os.SEEK_END)  # the process that held it before may have added to it
            mine = os.fstat(file.fileno())
            if target.exists() and os.path.samestat(mine, target.stat()):
                yield None
                return
            if part.exists() and os.path.samestat(mine, part.stat()):
                yield file
                return
        # the process that held it has removed it: begin anew


def _transfer(session, response, file, total, name):
    """Append to ``file`` what it lacks of ``total`` bytes (None: unknown), going on after each cut.

    ``response``: an answer to a request for the whole file, of which nothing was read.
    """
    import requests
    from tqdm.auto import tqdm

    address, reached, failures = response.url, file.tell(), 0
    if file.tell():
        response = response.close()
    with tqdm(total=total, initial=file.tell(), desc=name, unit="B", unit_scale=True) as bar:
        while total is None or file.tell() < total:
            try:
                response = response or _go_on(session, address, file, total)
                bar.n = file.tell()
                for block in response.iter_content(BLOCK):
                    file.write(block)
                    bar.update(len(block))
                if total is None:
                    break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                failures = 0 if file.tell() > reached else failures + 1
                reached = max(reached, file.tell())
                if failures > len(PAUSES):
                    left = f"{size_text(file.tell())} of {size_text(total)}" if total else size_text(file.tell())
                    raise DownloadError(f"the connection was cut at {left} (the next try goes on there)") from error
                time.sleep(PAUSES[failures - 1] if failures else 0)
            response = None


def _go_on(session, address, file, total):
    """A response that continues at the end of ``file``; if the server cannot, one of the whole, ``file`` emptied."""
    have = file.tell()
    if not have:
        return _open(session, address)
    response = _open(session, address, {"Range": f"bytes={have}-"})
    place = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status_code == 206 and place and int(place[1]) == have and (_number(place[2]) or total) == total:
        return response
    file.truncate(0)
    file.seek(0)
    return response if response.status_code == 200 else _open(session, address)


def _publish(file, target, modified, check):
    """Give the complete ``file`` its name, unless it turns out to be a web page or ``check`` refuses it."""
    part = Path(file.name)
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
    if fcntl is None:
        file.close()  # Windows does not rename what is open
    part.replace(target)


def _open(session, address, headers=None):
    """The response that carries the file itself, past the page by which Drive has a large file confirmed."""
    response, page = _request(session, address, headers)
    if page is not None and urlsplit(address).hostname in GOOGLE:
        from gdown.download import get_url_from_gdrive_confirmation
        from gdown.exceptions import FileURLRetrievalError

        try:
            address = get_url_from_gdrive_confirmation(page)
        except (FileURLRetrievalError, KeyError, AssertionError) as error:  # nothing to confirm, or a form unlike it
            raise DownloadError("Google Drive sent a web page in its place") from error
        response, page = _request(session, address, headers)
    if page is not None:
        raise DownloadError("the server sent a web page in its place")
    return response


def _request(session, address, headers):
    """(response, None) for a file, (response, page) for a web page; raises ``DownloadError`` for a refusal."""
    response = session.get(address, headers=headers, stream=True, timeout=TIMEOUT)
    is_page = response.headers.get("Content-Type", "").lower().startswith("text/html")
    if response.status_code in (200, 206) and not is_page:
        return response, None
    if response.status_code == 416 and headers:  # nothing lies beyond the part at hand, which is then not of this file
        return response, None
    page = next(response.iter_content(1 << 20), b"").decode("utf-8", "replace")
    refusal = _refusal(response, page)
    if refusal:
        raise DownloadError(refusal)
    return response, page


def _refusal(response, page):
    """Why there is no file, read from the status and the page; None for a page that says nothing of the kind."""
    text, status = page.lower(), response.status_code
    if status == 429 or re.search(r"quota exceeded|download quota|too many users", text):
        return "too many people fetched it lately and Google Drive refuses it for up to a day"
    if status in (404, 410):
        return "there is no such file (moved or deleted, or the link is mistyped)"
    host = urlsplit(response.url).hostname
    if status in (401, 403) or host == "accounts.google.com" or re.search(r"you need (access|permission)", text):
        return "it is not shared with everyone who has the link"
    return f"{host} answered {status} {response.reason}" if status >= 400 else None


def _name(response):
    """A safe file name: the one in the headers, else the end of the address."""
    message = email.message.Message()
    message["Content-Disposition"] = response.headers.get("Content-Disposition", "")
    name = message.get_filename() or unquote(urlsplit(response.url).path)
    name = re.sub(r"[\x00-\x1f]", "", re.split(r"[/\\]", name)[-1]).strip()
    return "download" if name in ("", ".", "..") else name


def _number(text):
    return int(text) if text and text.isdigit() else None


def _time(text):
    with contextlib.suppress(TypeError, ValueError):
        return int(email.utils.parsedate_to_datetime(text).timestamp())
