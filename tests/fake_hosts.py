"""A local server that stands in for Roboflow, Kaggle and the Hugging Face Hub, as far as this project asks them.

Requests to Roboflow and Kaggle are sent here below the library that makes them (see the ``fake_hosts`` fixture); the
Hub's own library is given this server's address.
"""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from tests.fake_drive import LocalServer

HOSTS = ("api.roboflow.com", "export.example", "www.kaggle.com", "storage.example")
ROBOFLOW_KEY, KAGGLE_LOGIN, HUB_TOKEN = "rf_s3cret", "ann:kg_s3cret", "hf_s3cret"


class FakeHosts(LocalServer):
    """What the hosts hold.

    Attributes:
        sets: ``workspace/project/version`` or ``owner/dataset`` -> bytes of a zip.
        hub: ``owner/name`` of a Hub data set -> {file: bytes}. pushed: ``owner/name`` of a model -> {file: bytes}.
        waits: how often Roboflow answers that the export is not ready. status: what every API answers instead.
        requests: (host, path, Authorization header or None) of each request.
    """

    def __init__(self):
        self.sets, self.hub, self.pushed, self.private = {}, {}, {}, {}
        self.waits, self.status, self.requests = 0, None, []
        super().__init__(Handler, "hosts")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hosts = None

    def log_message(self, *args):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        host, authorization = self.headers.get("X-Asked-Host", "hub"), self.headers.get("Authorization")
        self.hosts.requests.append((host, url.path, authorization))
        if host in ("export.example", "storage.example"):
            return self.send(200, self.hosts.sets[url.path.strip("/").removesuffix(".zip")], "application/zip")
        if self.hosts.status:
            return self.json(self.hosts.status, {"error": "no"})
        if host == "api.roboflow.com":
            return self.roboflow(url.path.strip("/"), parse_qs(url.query).get("api_key"))
        if host == "www.kaggle.com":
            return self.kaggle(url.path.removeprefix("/api/v1/datasets/download/"), authorization)
        return self.hub(url.path)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.hosts.requests.append(("hub", path, self.headers.get("Authorization")))
        if self.headers.get("Authorization") != f"Bearer {HUB_TOKEN}":
            return self.json(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"ann/{asked['name']}"
            self.hosts.private[name] = asked.get("private") or asked.get("visibility") == "private"
            return self.json(200, {"url": f"{self.hosts.address}/{name}", "id": name, "name": name})
        if path.endswith("/validate-yaml"):
            return self.json(200, {"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in json.loads(body)["files"]]  # fmt: skip
            return self.json(200, {"files": files})
        name = re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path)[1]
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.hosts.pushed.setdefault(name, {})[entry["value"]["path"]] = base64.b64decode(
                    entry["value"]["content"]
                )
        commit = {"commitOid": "c" * 40, "commitUrl": f"{self.hosts.address}/{name}/commit/{'c' * 40}"}
        return self.json(200, {**commit, "success": True, "hookOutput": "", "pullRequestUrl": None})

    def roboflow(self, name, key):
        if key != [ROBOFLOW_KEY]:
            return self.json(401, {"error": {"message": "This API key does not exist", "type": "OAuthException"}})
        if not name.endswith("/coco") or name.removesuffix("/coco") not in self.hosts.sets:
            return self.json(404, {"error": {"message": "Unsupported get request."}})
        if self.hosts.waits:
            self.hosts.waits -= 1
            return self.json(202, {"progress": 0.5})
        return self.json(
            200, {"export": {"format": "coco", "link": f"https://export.example/{name[:-5]}.zip?key=once"}}
        )

    def kaggle(self, name, authorization):
        if authorization not in (None, "Basic " + base64.b64encode(KAGGLE_LOGIN.encode()).decode()):
            return self.json(401, {"code": 401, "message": "Unauthenticated"})
        if name not in self.hosts.sets:
            return self.json(404, {"code": 404, "message": "Not found"})
        self.send_response(302)
        self.send_header("Location", f"https://storage.example/{name}.zip?X-Goog-Signature=once")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def hub(self, path):
        for name, files in self.hosts.hub.items():
            sha = hashlib.sha1(name.encode()).hexdigest()
            if path.startswith(f"/api/datasets/{name}/tree/"):
                return self.json(200, [self.entry(file, data) for file, data in files.items()])
            if path in (f"/api/datasets/{name}", f"/api/datasets/{name}/revision/{sha}"):
                siblings = [{"rfilename": file, "size": len(data)} for file, data in files.items()]
                return self.json(200, {"id": name, "sha": sha, "siblings": siblings, "private": False, "tags": []})
            if path.startswith(f"/datasets/{name}/resolve/{sha}/"):
                data = files[path.removeprefix(f"/datasets/{name}/resolve/{sha}/")]
                extra = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
                return self.send(200, data, "application/octet-stream", extra)
        self.send(401, b'{"error": "Repository not found"}', "application/json", {"X-Error-Code": "RepoNotFound"})

    @staticmethod
    def entry(file, data):
        return {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def json(self, status, value):
        self.send(status, json.dumps(value).encode(), "application/json")

    def send(self, status, body, kind, headers=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def reroute(monkeypatch, hosts):
    """Send every request for Roboflow's and Kaggle's hosts to ``hosts`` (None: as if there were no network)."""
    import requests

    original = requests.adapters.HTTPAdapter.send

    def send(self, request, **options):
        asked = request.url
        host = urlsplit(asked).hostname
        if host not in HOSTS:
            return original(self, request, **options)
        if hosts is None:
            raise requests.ConnectionError(f"Max retries exceeded with url: {asked}", request=request)
        request.url, request.headers["X-Asked-Host"] = hosts.address + request.path_url, host
        try:
            response = original(self, request, **{**options, "proxies": {}})
        finally:
            request.url = asked
        response.url = asked
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    monkeypatch.setenv("HF_ENDPOINT", hosts.address if hosts else "http://127.0.0.1:9")
