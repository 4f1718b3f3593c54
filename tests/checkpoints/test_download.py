"""Downloads from servers that mean no good, and of images into memory."""

import contextlib
import io
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from dino_nb.checkpoints import download, drive, web, zoo
from dino_nb.checkpoints.download import fetch_bytes
from dino_nb.checkpoints.web import DownloadError, shown
from dino_nb.errors import UserError


@contextmanager
def serving(answers):
    """A local server: ``answers`` maps a path to ``(status, headers, body)`` or to a function that writes it all."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            answer = answers[self.path.partition("?")[0]]
            self.close_connection = True
            if callable(answer):
                with contextlib.suppress(OSError):
                    answer(self)
                return
            status, headers, body = answer
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSES", (0, 0))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(web, "TIMEOUT", (5, 0.3))


def png(size=(30, 20)):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


def drip(handler):
    """Send a byte now and then, for as long as anybody listens."""
    while True:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def drip_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Header: ")
    drip(handler)


def drip_body(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    drip(handler)


def test_fetch_bytes_follows_redirects():
    with serving({"/photo.png": (200, {}, png()), "/old": (302, {"Location": "/photo.png"}, b"")}) as url:
        for path in ("photo.png", "old"):
            file = fetch_bytes(f"{url}/{path}?size=2")
            assert Image.open(file).size == (30, 20)
            assert str(file) == f"{url}/{path}?size=2"


def test_fetch_bytes_names_the_address_and_the_reason():
    answers = {
        "/missing.png": (404, {}, b""),
        "/error.png": (503, {}, b""),
        "/page.png": (200, {"Content-Type": "text/html"}, b"<html>please log in</html>"),
        "/cut.png": (200, {"Content-Length": "5000"}, png()[:40]),
        "/away.png": (302, {"Location": "file:///etc/hostname"}, b""),
        "/circle.png": (302, {"Location": "/circle.png"}, b""),
        "/big.png": (200, {}, bytes(3 << 20)),
    }
    reasons = {
        "missing": "there is no such file",
        "error": "answered 503",
        "page": "a web page, not an image",
        "cut": "broke|cannot be reached",
        "away": "redirects to file:///etc/hostname, which is not an http",
        "circle": "redirects more than 10 times",
    }
    with serving(answers) as url:
        for path, reason in reasons.items():
            with pytest.raises(DownloadError, match=reason) as error:
                fetch_bytes(f"{url}/{path}.png")
            assert str(error.value).startswith(f"{url}/{path}.png cannot be downloaded, because ")
        with pytest.raises(DownloadError, match="larger than 1 MB"):
            fetch_bytes(f"{url}/big.png", max_bytes=1 << 20)
        with pytest.raises(DownloadError, match=r"did not arrive within -1 seconds"):
            fetch_bytes(f"{url}/big.png", max_seconds=-1)
    with pytest.raises(DownloadError, match="cannot be reached"):
        fetch_bytes(f"{url}/missing.png")  # the server is gone


@pytest.mark.parametrize("answer", [drip_headers, drip_body])
def test_download_is_not_held_by_a_drip_of_bytes(answer, impatient, tmp_path):
    """Each byte resets the timeout of a socket; what must arrive in time are whole headers, and whole blocks."""
    with serving({"/slow": answer}) as url:
        with pytest.raises(DownloadError, match=r"within 0\.2 seconds"):
            fetch_bytes(f"{url}/slow", max_seconds=0.2)
        with pytest.raises(DownloadError, match=r"127\.0\.0\.1 sends nothing, or too slowly|was cut at"):
            drive.fetch(f"{url}/slow", tmp_path)


def test_download_that_does_not_end_stops_before_the_disk_is_full(tmp_path, monkeypatch):
    def endless(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            handler.wfile.write(bytes(1 << 16))

    free = iter([5 << 30, 3 << 30])
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("usage", (), {"free": next(free, 1 << 20)}))
    full = pytest.raises(DownloadError, match=r"it does not end, and the disk of .* is nearly full")
    with serving({"/endless": endless}) as url, full:
        drive.fetch(f"{url}/endless", tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 0


def test_download_of_a_file_ends_at_the_latest_after_some_hours(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_HOURS", 1e-9)
    late = pytest.raises(DownloadError, match=r"did not arrive within 1e-09 hours")
    with serving({"/file": (200, {"Content-Length": "100000"}, bytes(100_000))}) as url, late:
        drive.fetch(f"{url}/file", tmp_path)


def test_download_gives_up_where_the_rest_is_answered_by_nothing(tmp_path):
    """An empty chunked 206 is no error of the connection: it would be asked for again for ever."""
    asked = []

    def answer(handler):
        asked.append(handler.headers.get("Range"))
        if not asked[-1]:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(100_000))
            return
        start = asked[-1].removeprefix("bytes=").removesuffix("-")
        head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-199999/200000\r\n"
        handler.wfile.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")

    cut = pytest.raises(DownloadError, match=r"the connection was cut at 0\.1 MB of 0\.2 MB")
    with serving({"/file": answer}) as url, cut:
        drive.fetch(f"{url}/file", tmp_path)
    assert 3 <= len(asked) <= 6


@pytest.mark.parametrize("target", ["http://127.0.0.1:1/x", "http://169.254.169.254/latest", "http://[::1]/x"])
def test_redirects_from_outside_into_a_private_network_are_refused(target, monkeypatch):
    asked = []

    def send(self, request, **options):
        """A host outside redirects; nothing else may be asked for."""
        import requests

        asked.append(request.url)
        response = requests.Response()
        response.status_code, response.url, response.request = 302, request.url, request
        response.headers["Location"], response.raw = target, io.BytesIO()
        return response

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", send)
    resolve = socket.getaddrinfo
    outside = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 0))]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda h, *a, **k: outside if h == "example.com" else resolve(h, *a, **k)
    )
    with pytest.raises(DownloadError, match="redirects into a private network"):
        fetch_bytes("http://example.com/photo.png")
    assert asked == ["http://example.com/photo.png"]


@pytest.mark.parametrize(
    "link",
    [
        *("http://", "https://", "http://[::1", "http://a b/c", "http://host:99999/x", "http://host:port/x"),
        *("https://exa mple.com/x", "http://.../x", "http://\x00/x", "http://" + "a" * 300 + "/x", "http://*/x"),
    ],
)
def test_links_that_are_no_addresses_are_one_sentence(link, tmp_path, offline):
    for fetch in (fetch_bytes, lambda link: drive.fetch(link, tmp_path)):
        with pytest.raises(UserError, match="cannot be downloaded, because") as error:
            fetch(link)
        assert "\n" not in str(error.value) and "\x00" not in str(error.value)


def test_passwords_and_tokens_are_never_shown(tmp_path):
    with serving({"/x": (404, {}, b"")}) as url:
        link = url.replace("//", "//me:secret@") + "/x?access_token=secret&size=3"
        for fetch in (fetch_bytes, lambda link: drive.fetch(link, tmp_path)):
            with pytest.raises(DownloadError) as error:
                fetch(link)
            assert "secret" not in str(error.value) and f"{url}/x?access_token=...&size=3" in str(error.value)
    with serving({"/x": (200, {}, png())}) as url:
        assert str(fetch_bytes(url.replace("//", "//me:secret@") + "/x")) == f"{url}/x"


@pytest.mark.parametrize(
    "link, said",
    [
        ("https://me:a#b@host/x", "https://host/x"),
        ("https://me:a/b?c@host/x", "https://host/x"),
        ("https://me:a@b@host/x", "https://host/x"),
        ("ftp://me:secret@host:21/x", "ftp://host:21/x"),
        ("http:me:secret@host/x", "http:host/x"),
        ("http://me:secret@[::1", "http://[::1"),
        ("https://host/x#access_token=abc", "https://host/x#access_token=..."),
        ("https://host/x;password=abc?a=1", "https://host/x;password=..."),
        ("https://host/x?a=1&X-Amz-Signature=abc#key=d", "https://host/x?a=1&X-Amz-Signature=...#key=..."),
        ("https://host:8080/pack@1.2/x?a=b@c", "https://host:8080/pack@1.2/x?a=b@c"),
        ("https://host/pack@1.2/x", "https://host/pack@1.2/x"),
        ("https://host/a\r\nX: y", "https://host/a\\r\\nX: y"),
    ],
)
def test_shown_link_has_no_password_however_it_is_written(link, said):
    assert shown(link) == said


@pytest.mark.parametrize("link", ["ftp://me:secret@host/x.pth", "ftp://host/x?token=secret", "http:/me:secret@host/x"])
def test_what_is_no_http_link_is_refused_without_its_password(link, tmp_path, home):
    for fetch in (zoo.fetch, lambda link: drive.fetch(link, tmp_path)):
        with pytest.raises(UserError) as error:
            fetch(link)
        assert "secret" not in str(error.value)


def test_link_with_a_lone_surrogate_is_a_sentence(home, offline):
    with pytest.raises(UserError, match="cannot be downloaded, because"):
        zoo.fetch("http://127.0.0.1:1/\ud800")


def test_name_of_a_download_is_short_and_printable(tmp_path):
    long = {"Content-Disposition": 'attachment; filename="' + "a" * 400 + '.zip"'}
    control = {"Content-Disposition": "attachment; filename*=UTF-8''%1b%5Bred.zip"}
    with serving({"/x": (200, long, b"PK"), "/y": (200, control, b"PK")}) as url:
        name = drive.fetch(f"{url}/x", tmp_path).name
        assert len(name) < 200 and name.endswith("a.zip")
        assert drive.fetch(f"{url}/y", tmp_path).name == "[red.zip"
