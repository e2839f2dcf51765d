"""A stub of Grafana's HTTP API: it stores what it receives and checks requests."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "glsa_a_token_that_nobody_may_see"
BASIC = "Basic dXNlcjpzZWNyZXQ="  # user:secret


class GrafanaStub:
    """The part of Grafana that a push uses. `asked` records every request as (method, path)."""

    def __init__(self) -> None:
        self.folders: list[dict[str, Any]] = []
        self.sources: dict[str, dict[str, Any]] = {}
        self.dashboards: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.may_edit = True
        self.url = ""

    @property
    def written(self) -> list[tuple[str, str]]:
        """The requests that change something."""
        return [(method, path) for method, path in self.asked if method != "GET"]

    def answer(self, method: str, path: str, body: Any, authorization: str) -> tuple[int, Any]:
        """Status and document, as Grafana 11 gives them."""
        self.asked.append((method, path))
        if path == "/api/health":
            return 200, {"database": "ok", "version": "11.6.0"}
        if authorization not in (f"Bearer {TOKEN}", BASIC):
            return 401, {"message": "Invalid API key"}
        if method != "GET" and not self.may_edit:
            return 403, {"message": "You'll need additional permissions"}
        for start, handle in (
            ("/api/folders", self._folders),
            ("/api/datasources", self._sources),
            ("/api/dashboards", self._dashboards),
        ):
            if path.startswith(start):
                return handle(method, path, body)
        return 404, {"message": "Not found"}

    def _folders(self, method: str, _path: str, body: Any) -> tuple[int, Any]:
        if method == "GET":
            return 200, self.folders
        if any(f["uid"] == body["uid"] for f in self.folders):
            return 412, {"message": "a folder with that uid already exists"}
        self.folders.append({"id": len(self.folders) + 1} | body)
        return 200, self.folders[-1]

    def _sources(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        name = path.rpartition("/")[2]
        if method == "GET":
            found = self.sources.get(name)
            return (200, found) if found else (404, {"message": "Data source not found"})
        if method == "PUT":
            assert path == f"/api/datasources/uid/{self.sources[body['name']]['uid']}"
        self.sources[body["name"]] = {"id": 1, "uid": "abc", "readOnly": False} | body
        return 200, {"message": "done"}

    def _dashboards(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "GET":
            found = self.dashboards.get(path.rpartition("/")[2])
            return (200, found) if found else (404, {"message": "Dashboard not found"})
        uid, old = body["dashboard"]["uid"], self.dashboards.get(body["dashboard"]["uid"])
        if old and not body["overwrite"]:
            return 412, {"message": "The dashboard has been changed by someone else"}
        if all(f["uid"] != body["folderUid"] for f in self.folders):
            return 400, {"message": "folder not found"}
        version = old["dashboard"]["version"] + 1 if old else 1
        stored = body["dashboard"] | {"id": 7, "version": version, "pluginVersion": "11.6.0"}
        self.dashboards[uid] = {"dashboard": stored, "meta": {"folderUid": body["folderUid"]}}
        return 200, {"uid": uid, "version": version, "status": "success"}


@contextmanager
def running(answer: Any) -> Iterator[str]:
    """Serves `answer(method, path, body, authorization)` and gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, document = answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            content = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = handle_one

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
