"""A hub on this machine, as far as up- and downloads need one: repositories are made, commits are kept and given back.

with serve_hub() as hub:
    ...HF_ENDPOINT=hub.url...
hub.files["me/adapter"]["README.md"]
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """What was asked of it."""

    def __init__(self, url: str, *, is_forbidden: bool) -> None:
        self.url = url
        self.is_forbidden = is_forbidden
        self.repositories: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.tokens: set[str | None] = set()
        self.fetched: list[str] = []
        """Files that were asked for."""

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return status and reply to a POST."""
        if self.is_forbidden:
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.repositories[name] = asked
            return 200, {"url": f"{self.url}/{name}", "name": name, "id": "1"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        repository = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            chosen = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for one in files
            ]
            return 200, {"files": chosen}
        assert "/commit/" in path, path
        kept = self.files.setdefault(repository, {})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                kept[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        return 200, {
            "success": True,
            "commitOid": "a1",
            "commitUrl": f"{self.url}/{repository}/commit/a1",
            "hookOutput": "",
        }

    def look_up(self, path: str) -> tuple[dict[str, Any], bytes] | None:
        """Return headers and content of what a GET asks for: what a repository holds, or a file of it."""
        for repository, files in self.files.items():
            if path.startswith(f"/api/datasets/{repository}/revision/"):
                about = {
                    "id": repository,
                    "sha": "a1" * 20,
                    "siblings": [{"rfilename": one} for one in files],
                }
                return {"Content-Type": "application/json"}, json.dumps(about).encode()
            if path.startswith(f"/api/datasets/{repository}/tree/"):
                tree = [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for name, content in files.items()
                ]
                return {"Content-Type": "application/json"}, json.dumps(tree).encode()
            name = path.partition(f"/datasets/{repository}/resolve/{'a1' * 20}/")[2]
            if name in files:
                self.fetched.append(name)
                return {
                    "ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"',
                    "X-Repo-Commit": "a1" * 20,
                }, files[name]
        return None


@contextmanager
def serve_hub(*, is_forbidden: bool = False) -> Iterator[Hub]:
    """Serve a hub while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else self._read_chunks()
            hub.tokens.add(self.headers.get("Authorization"))
            status, reply = hub.answer(self.path.partition("?")[0], body)
            text = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            found = hub.look_up(self.path.partition("?")[0])
            headers, content = found or ({"X-Error-Code": "RepoNotFound"}, b"")
            self.send_response(200 if found else 404)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.do_GET()

        def _read_chunks(self) -> bytes:
            parts = []
            while self.headers.get("Transfer-Encoding") == "chunked":
                size = int(self.rfile.readline(), 16)
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if not size:
                    break
            return b"".join(parts)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", is_forbidden=is_forbidden)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
