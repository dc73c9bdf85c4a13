"""A stand-in for the Hugging Face hub on the loopback interface, spoken to by its own client.

Repositories, branches and commits in memory; the few requests that an upload and a download make.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Files = dict[str, bytes]


class HubServer(ThreadingHTTPServer):
    """The server and what it holds: `repos[name][branch]` is a branch's files."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, Files]] = {}
        self.private: set[str] = set()
        self.tokens: set[str | None] = set()
        self.messages: list[str] = []
        self.refuse = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def hub_server() -> Iterator[HubServer]:
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, body: object = None, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def do_POST(self) -> None:
        server, body = self.server, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.tokens.add(self.headers.get("Authorization"))
        if server.refuse:
            self._error(server.refuse, "Refused")
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked.get("private") or asked.get("visibility") == "private":
                server.private.add(name)
            known = name in server.repos
            server.repos.setdefault(name, {"main": {}})
            answer = {"url": f"{server.url}/{name}", "id": name, "name": name}
            self._answer(409 if known else 200, answer)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", self.path):
            branches = server.repos[found[1]]
            known = found[2] in branches
            branches.setdefault(found[2], dict(branches["main"]))
            self._answer(409 if known else 200, {})
        elif re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self.path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif found := re.match(r"/api/models/([^/]+/[^/]+)/commit/([^?]+)", self.path):
            files = server.repos[found[1]][found[2]]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    files[value["path"]] = base64.b64decode(value["content"])
                else:
                    server.messages.append(line["value"]["summary"])
            oid = _oid(files)
            answer = {"commitUrl": f"{server.url}/{found[1]}/commit/{oid}", "commitOid": oid}
            self._answer(200, answer)
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        else:
            self._error(404, "Unknown")

    def do_GET(self) -> None:
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if self.server.refuse:
            self._error(self.server.refuse, "Refused")
        elif found is None:
            self._error(404, "RepoNotFound")
        elif found[1] not in self.server.repos:
            self._error(401, "RepoNotFound")
        elif found[2] not in self.server.repos[found[1]]:
            self._error(404, "RevisionNotFound")
        elif found[3] not in self.server.repos[found[1]][found[2]]:
            self._error(404, "EntryNotFound")
        else:
            files = self.server.repos[found[1]][found[2]]
            content = files[found[3]]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._answer(200, content, ETag=etag, X_Repo_Commit=_oid(files))

    do_HEAD = do_GET


def _oid(files: Files) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
