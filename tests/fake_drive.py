"""A local HTTP server that stands in for Google Drive (file, confirmation, refusal and folder pages) and for the Hub.

Real client code talks to it: every request to a Google host is sent here instead, below the libraries that make it
(see the ``fake_drive`` fixture), so that neither gdown nor this project's client notices.
"""

import json
import re
import threading
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

HUB = ("huggingface.co", "cdn-lfs.hf.example")
HOSTS = (
    *("drive.google.com", "docs.google.com", "drive.usercontent.google.com", "accounts.google.com"),
    *("files.example", *HUB),
)
QUOTA_PAGE = (
    "<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>"
    '<p class="uc-error-caption">Sorry, you can&#39;t view or download this file at this time.</p>'
    '<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>'
)
LOGIN_PAGE = "<!doctype html><html><head><title>Google Drive: Sign-in</title></head><body>Sign in</body></html>"


@dataclass
class File:
    """A file of the fake. ``kind``: how Drive answers for it (see ``Handler.file``)."""

    name: str
    data: bytes = b""
    kind: str = "plain"
    type: str = "application/octet-stream"
    cuts: list = field(default_factory=list)  # of each coming answer: how many bytes of it arrive
    ranges: bool = True
    gate: threading.Event | None = None  # waited for in the middle of each answer
    time: float | None = 1_600_000_000.0


class LocalServer:
    """Serves ``handler`` on this machine; the handler finds this object under ``name``."""

    def __init__(self, handler, name):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (handler,), {name: self}))
        self.server.handle_error = lambda *about: None  # clients that hang up are no news
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class FakeDrive(LocalServer):
    """``files``: id -> File, ``folders``: id -> list of ids, ``pages``: path -> File of another
    host's link, the Hub's among them."""

    def __init__(self):
        self.files, self.folders, self.folder_names, self.pages = {}, {}, {}, {}
        self.requests = []  # (path and query, Range header or None)
        super().__init__(Handler, "drive")

    def downloads(self):
        """The Range headers (or None) of the requests that were answered with a file's bytes."""
        return [where for path, where in self.requests if path == "BYTES"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    drive = None

    def log_message(self, *args):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.drive.requests.append((self.path, self.headers.get("Range")))
        if "/resolve/" in url.path and url.path in self.drive.pages:  # the Hub sends its large files from elsewhere
            return self.redirect(f"https://cdn-lfs.hf.example{url.path.replace('/resolve/', '/stored/')}")
        path = url.path.replace("/stored/", "/resolve/")
        if path in self.drive.pages:
            return self.send(self.drive.pages[path])
        if url.path == "/embeddedfolderview":
            return self.folder(query.get("id"), self.embedded)
        if match := re.fullmatch(r"/drive/folders/([\w-]+)", url.path):
            return self.folder(match[1], self.script)
        if url.path in ("/uc", "/download"):
            return self.file(query.get("id"), query)
        if url.path == "/ServiceLogin":
            return self.page(LOGIN_PAGE)
        return self.page("<html><title>Error 404 (Not Found)!!1</title></html>", 404)

    def file(self, drive_id, query):
        file = self.drive.files.get(drive_id)
        if file is None:
            return self.page("<html><title>Error 404 (Not Found)!!1</title>That's an error.</html>", 404)
        if file.kind == "quota" or (file.kind == "quota on resume" and self.headers.get("Range")):
            return self.page(QUOTA_PAGE)
        if file.kind == "login":
            return self.redirect("https://accounts.google.com/ServiceLogin?continue=x")
        if file.kind == "denied":
            return self.page("<html><title>Google Drive: Access Denied</title>You need access</html>", 403)
        if file.kind == "puzzling":
            return self.page("<html><body>Something else altogether</body></html>")
        if self.path.startswith("/uc"):
            return self.redirect(f"https://drive.usercontent.google.com/download?id={drive_id}&export=download")
        if file.kind == "large" and query.get("confirm") != "t":
            return self.page(
                "<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>"
                f"<p>{file.name} is too large for Google to scan for viruses.</p>"
                '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
                f'<input type="hidden" name="id" value="{drive_id}"><input type="hidden" name="export" '
                'value="download"><input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" '
                'value="0-1"></form></body></html>'
            )
        return self.send(file)

    def send(self, file):
        where = self.headers.get("Range") if file.ranges else None
        self.drive.requests.append(("BYTES", self.headers.get("Range")))
        start = int(re.fullmatch(r"bytes=(\d+)-", where)[1]) if where else 0
        if start and start >= len(file.data):
            return self.page("", 416)
        body = file.data[start:]
        self.send_response(206 if where else 200)
        self.send_header("Content-Type", file.type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Disposition", f'attachment; filename="{file.name}"')
        if file.time:
            self.send_header("Last-Modified", formatdate(file.time, usegmt=True))
        if where:
            self.send_header("Content-Range", f"bytes {start}-{len(file.data) - 1}/{len(file.data)}")
        self.end_headers()
        if file.cuts:
            self.wfile.write(body[: file.cuts.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            return None
        self.wfile.write(body[: len(body) // 2])
        if file.gate:
            file.gate.wait(60)
        self.wfile.write(body[len(body) // 2 :])
        return None

    def folder(self, drive_id, write):
        if drive_id not in self.drive.folders:
            return self.page("<html><title>Error 404 (Not Found)!!1</title></html>", 404)
        return write(self.drive.folder_names.get(drive_id, "folder"), self.drive.folders[drive_id])

    def embedded(self, name, children):
        """The listing that gdown 6 reads."""
        links = ""
        for child in children:
            if child in self.drive.folders:
                where, shown = f"https://drive.google.com/drive/folders/{child}", self.drive.folder_names[child]
            else:
                where, shown = (
                    f"https://drive.google.com/file/d/{child}/view?usp=drive_web",
                    self.drive.files[child].name,
                )
            links += f'<a href="{where}" target="_blank"><div class="flip-entry-title">{shown}</div></a>'
        self.page(f"<html><head><title>{name}</title></head><body>{links}</body></html>")

    def script(self, name, children):
        """The listing that gdown 5 reads: a JavaScript string with every character outside [A-Za-z0-9] escaped."""
        rows = []
        for child in children:
            is_folder = child in self.drive.folders
            shown = self.drive.folder_names[child] if is_folder else self.drive.files[child].name
            kind = "application/vnd.google-apps.folder" if is_folder else "application/octet-stream"
            rows.append([child, ["parent"], shown, kind])
        utf8 = json.dumps([rows], ensure_ascii=False).encode()
        text = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\x{byte:02x}" for byte in utf8)
        self.page(
            f"<html><head><title>{name} - Google Drive</title></head><body>"
            f"<script>window['_DRIVE_ivd'] = '{text}';</script></body></html>"
        )

    def page(self, text, status=200):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, where):
        self.send_response(303)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()


def reroute(monkeypatch, drive):
    """Send every request for a Google host (or ``files.example``) to ``drive`` (None: as if there were no network)."""
    import requests

    original = requests.adapters.HTTPAdapter.send

    def send(self, request, **options):
        if urlsplit(request.url).hostname not in HOSTS:
            return original(self, request, **options)
        if drive is None:
            raise requests.ConnectionError("Name or service not known", request=request)
        asked = request.url
        request.url = drive.address + request.path_url
        try:
            response = original(self, request, **{**options, "proxies": {}})
        finally:
            request.url = asked
        response.url = asked
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
