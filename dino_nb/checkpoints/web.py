"""Requests to http(s) addresses: bounded in time, redirected to public places only, and refusals put in words."""

import contextlib
import ipaddress
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from dino_nb.errors import UserError, explain, printable

if TYPE_CHECKING:
    from requests import Response, Session

GOOGLE = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")
TIMEOUT = (20, 60)  # seconds to connect; in which headers, and each block, must have arrived
BLOCK = 1 << 16  # bytes read at once; what a cut leaves of a block is lost
_REDIRECTS = 10


class DownloadError(UserError):
    """A download that failed: one sentence with the reason and the way out by hand. ``reason`` is its first part."""

    def __init__(self, reason: str, advice: str | None = None) -> None:
        super().__init__(f"{reason}: {advice}." if advice else f"{reason}.")
        self.reason = reason


class Stalled(TimeoutError):
    """Nothing came for too long."""


def is_link(text: object) -> bool:
    """Whether ``text`` is an http(s) link."""
    return re.match(r"\s*https?://", str(text), re.IGNORECASE) is not None


def host_of(link: str) -> str | None:
    """The host of a link; None where it has none, or is no link."""
    try:
        return urlsplit(link.strip()).hostname
    except ValueError:
        return None


# A password may hold "/", "?" or "#" where nobody escaped them; a port is no password.
_LOGIN = re.compile(r"(?i)(//|^[a-z][\w+.-]*:/?)(?:[^/?#\s]*|[^/?#@:\s]*:(?!\d*[/?#])[^@\s]*)@")
_SECRET = re.compile(r"(?i)(?<=[?&;#])([^=&;#?/]*(?:token|key|secret|passw|sig|auth)[^=&;#?/]*)=[^&;#]+")


def shown(link: str) -> str:
    """A link as messages and reports show it: without user name and password, other secrets in it masked."""
    return printable(_SECRET.sub(r"\1=...", _LOGIN.sub(r"\1", link.strip()[:2000])), 2000)


@contextlib.contextmanager
def explained(what: str, advice: str | None) -> Iterator[None]:
    """Turn what goes wrong on the way into one sentence: ``WHAT cannot be downloaded, because REASON: ADVICE.``"""
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise DownloadError(f"{what} cannot be downloaded, because {reason}", advice) from error


def _reason(error: Exception) -> str | None:
    """Why a download failed, as far as it is not a mistake in a program."""
    import requests
    from urllib3.exceptions import HTTPError

    if isinstance(error, DownloadError):
        return error.reason
    host = host_of(getattr(getattr(error, "request", None), "url", None) or "") or "the server"
    if isinstance(error, requests.exceptions.SSLError):
        return f"{host} could not be trusted (its certificate, or a proxy in between)"
    if isinstance(error, (requests.ConnectionError, requests.Timeout)):
        return f"{host} cannot be reached from here (no network?)"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke before all of it had arrived"
    if isinstance(error, Stalled):
        return f"{error} sends nothing, or too slowly"
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return explain(error).rstrip(".")
    if isinstance(error, UserError):
        return None
    # what libraries make of an address that is none
    return "the link does not work" if isinstance(error, (OSError, ValueError, HTTPException, HTTPError)) else None


def open_session() -> "Session":
    """A ``requests.Session`` for downloads."""
    import requests

    session = requests.Session()
    # Encoded bytes cannot be continued by position; Drive serves its plain pages to a browser's name.
    session.headers.update({"User-Agent": "Mozilla/5.0", "Accept-Encoding": "identity"})
    return session


def open_file(session: "Session", address: str, headers: dict[str, str] | None = None) -> "Response":
    """The response that carries the file itself, past the page by which Drive has a large file confirmed."""
    response, page = request(session, address, headers or {})
    if page is not None and host_of(address) in GOOGLE:
        from gdown.download import get_url_from_gdrive_confirmation
        from gdown.exceptions import FileURLRetrievalError

        try:
            address = get_url_from_gdrive_confirmation(page)
        except (FileURLRetrievalError, KeyError, AssertionError) as error:  # nothing to confirm, or a form unlike it
            raise DownloadError("Google Drive sent a web page in its place") from error
        response, page = request(session, address, headers or {})
    if page is not None:
        raise DownloadError("the server sent a web page in its place")
    return response


def request(
    session: "Session", address: str, headers: dict[str, str], deadline: float | None = None
) -> tuple["Response", str | None]:
    """(response, None) for a file, (response, page) for a web page; raises ``DownloadError`` for a refusal."""
    response = _get(session, address, headers, deadline)
    is_page = response.headers.get("Content-Type", "").lower().startswith("text/html")
    if response.status_code in (200, 206) and not is_page:
        return response, None
    if response.status_code == 416 and headers:  # nothing lies beyond the part at hand, which is then not of this file
        return response, None
    page = b""
    for block in blocks_of(response, time.monotonic() + TIMEOUT[1]):
        page += block
        if len(page) > 1 << 20:
            break
    text = page.decode("utf-8", "replace")
    refusal = _refusal(response, text)
    if refusal:
        raise DownloadError(refusal)
    return response, text


def _get(session: "Session", address: str, headers: dict[str, str], deadline: float | None) -> "Response":
    """The answer to a GET. Redirects lead to http(s) addresses only, and never from outside into a private network."""
    for _ in range(_REDIRECTS):
        seconds = TIMEOUT[1] if deadline is None else min(TIMEOUT[1], deadline - time.monotonic())
        asked = partial(session.get, address, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=False)
        response = _within(seconds, host_of(address), asked)
        if not response.is_redirect:
            return response
        target = urljoin(response.url, response.headers["Location"])
        response.close()
        if not is_link(target):
            raise DownloadError(f"it redirects to {shown(target)}, which is not an http(s) address")
        there = host_of(target)
        if there not in GOOGLE and _is_private(there) and not _is_private(host_of(address)):
            raise DownloadError(f"it redirects into a private network ({there})")
        address = target
    raise DownloadError(f"it redirects more than {_REDIRECTS} times")


def _is_private(host: str | None) -> bool:
    """Whether a host is on this machine or in a private network, as far as its name can be resolved from here."""
    try:
        found = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(address).is_global for address in found)


def blocks_of(response: "Response", deadline: float) -> Iterator[bytes]:
    """The body in blocks; each must arrive within the timeout, so that a server cannot hold us with a drip of bytes."""
    blocks = response.iter_content(BLOCK)
    while True:
        seconds = min(TIMEOUT[1], deadline - time.monotonic())
        try:
            block = _within(seconds, host_of(response.url), partial(next, blocks, b""))
        except Stalled:
            # The abandoned thread holds the reader's lock: to close the response would be to wait for it.
            with contextlib.suppress(AttributeError, ValueError, OSError):
                response.raw.shutdown()  # urllib3 2.3
            raise
        if not block:
            response.close()
            return
        yield block


def _within(seconds: float, host: str | None, function: Callable[[], Any]) -> Any:
    """``function()``, in a thread that is abandoned after ``seconds``: no socket timeout covers a drip of bytes."""
    answers: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

    def call() -> None:
        try:
            answers.put((function(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        value, error = answers.get(timeout=max(seconds, 0.001))
    except queue.Empty:
        raise Stalled(host) from None
    if error is not None:
        raise error
    return value


def _refusal(response: "Response", page: str) -> str | None:
    """Why there is no file, read from the status and the page; None for a page that says nothing of the kind."""
    text, status = page.lower(), response.status_code
    if status == 429 or re.search(r"quota exceeded|download quota|too many users", text):
        who = "Google Drive" if host_of(response.url) in GOOGLE else "the server"
        return f"too many people downloaded it lately and {who} refuses it for up to a day"
    if status in (404, 410):
        return "there is no such file (moved or deleted, or the link is mistyped)"
    host = host_of(response.url)
    if status in (401, 403) or host == "accounts.google.com" or re.search(r"you need (access|permission)", text):
        return "it is not shared with everyone who has the link"
    return f"{host} answered {status} {response.reason}" if status >= 400 else None


def number(text: str | None) -> int | None:
    """A count of bytes in a header, or None."""
    return int(text) if text and text.isdigit() and len(text) < 19 else None
