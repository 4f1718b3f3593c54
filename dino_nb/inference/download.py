"""Fetching one picture from the web: http(s) only, of bounded size, in bounded time."""

import io
import time
import urllib.error
import urllib.request
from http.client import HTTPException

from dino_nb.errors import UserError
from dino_nb.version import __version__

MAX_BYTES = 64 << 20
TIMEOUT = 20  # seconds of silence, or for the connection
MAX_SECONDS = 120  # for the whole download


class Download(io.BytesIO):
    """The bytes of a URL, which messages name by the URL."""

    def __init__(self, data, url):
        super().__init__(data)
        self.url = url

    def __str__(self):
        return self.url


def download(url, max_bytes=MAX_BYTES, timeout=TIMEOUT, max_seconds=MAX_SECONDS):
    """The content of an http(s) ``url`` as a binary file in memory. Raises ``UserError`` naming the address."""
    request = urllib.request.Request(url, headers={"User-Agent": f"dino-nb/{__version__}"})
    deadline = time.monotonic() + max_seconds
    try:
        with _OPENER.open(request, timeout=timeout) as response:
            data = bytearray()
            while block := response.read1(1 << 16):
                data += block
                if len(data) > max_bytes:
                    raise UserError(f"{url} is larger than {max_bytes >> 20} MB: download it yourself if you trust it.")
                if time.monotonic() > deadline:
                    raise UserError(f"{url} did not arrive within {max_seconds} s: try again, or download it yourself.")
            expected = response.headers.get("Content-Length")
            if expected and expected.isdigit() and len(data) < int(expected):
                raise UserError(f"{url}: the connection broke after {len(data)} of {expected} bytes; try again.")
    except urllib.error.HTTPError as error:
        raise UserError(f"{url} cannot be fetched: the server answered {error.code} {error.reason}.") from error
    except (OSError, HTTPException) as error:  # URLError, timeouts and broken connections are OSErrors
        raise UserError(f"{url} cannot be fetched: {getattr(error, 'reason', error)}.") from error
    return Download(bytes(data), url)


def _opener():
    """An opener that knows http and https alone: a redirect can lead to no file:, ftp: or data: address."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER = _opener()
