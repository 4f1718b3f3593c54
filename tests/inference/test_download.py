import io
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from dino_nb.errors import UserError
from dino_nb.inference.detector import Detector
from dino_nb.inference.download import download
from tests.inference.fake import FakeModel


@contextmanager
def serving(answers):
    """A local server: ``answers`` maps a path to ``(status, headers, body)``; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answers[self.path.partition("?")[0]]
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def png(size=(30, 20)):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_url_is_a_image():
    with serving({"/cat%20photo.png": (200, {}, png()), "/old": (302, {"Location": "/cat%20photo.png"}, b"")}) as url:
        result = Detector(FakeModel(), "cpu").predict(f"{url}/cat%20photo.png?size=2")
        assert (result.size, result.name, result.path) == ((30, 20), "cat photo.png", None)
        assert result.source == f"{url}/cat%20photo.png?size=2"
        assert result.draw().size == (30, 20)
        assert len(download(f"{url}/old").read()) == len(png())


def test_a_name_from_the_web_stays_in_its_folder():
    with serving({"/%2e%2e%2Fup%00%5C..%5Ca%3Ab.png": (200, {}, png())}) as url:
        result = Detector(FakeModel(), "cpu").predict(f"{url}/%2e%2e%2Fup%00%5C..%5Ca%3Ab.png")
    assert result.name == "up__.._a_b.png"


def test_failures_name_the_address():
    answers = {
        "/missing.png": (404, {}, b""),
        "/page.png": (200, {}, b"<html>please log in</html>"),
        "/cut.png": (200, {"Content-Length": "5000"}, png()[:40]),
        "/away.png": (302, {"Location": "file:///etc/hostname"}, b""),
        "/big.png": (200, {}, bytes(3 << 20)),
    }
    with serving(answers) as url:
        detector = Detector(FakeModel(), "cpu")
        for path, words in (("missing", "404"), ("page", "not an image"), ("cut", "broke after"), ("away", "302|file")):
            with pytest.raises(UserError, match=words) as error:
                detector.predict(f"{url}/{path}.png")
            assert f"{url}/{path}.png" in str(error.value)
        with pytest.raises(UserError, match="larger than 1 MB"):
            download(f"{url}/big.png", max_bytes=1 << 20)
        with pytest.raises(UserError, match="did not arrive"):
            download(f"{url}/big.png", max_seconds=-1)
    with pytest.raises(UserError, match="cannot be fetched"):
        download(f"{url}/missing.png")  # the server is gone
