"""Loopback servers that fetches are tried against: files over HTTP, and a stand-in for a hub of models and datasets.

Both really listen on a port and really answer in pieces; what they do wrong, they do when asked to.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Files:
    """What a server has, and how it behaves.

    `break_after` ends the next answer after so many bytes, once; `statuses` are given, one each, before files are.
    """

    content: dict[str, bytes] = field(default_factory=dict)
    break_after: int | None = None
    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    etags: bool = True
    heads: bool = True
    stall_seconds: float = 0.0
    lies_about: str = ""  # a repository's file whose digest the listing has wrong

    def gets(self) -> list[str]:
        """The ranges of all requests for files, "" for a whole one."""
        return [wanted for method, _, wanted in self.requests if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: Files

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        files, path = self.files, unquote(urlsplit(self.path).path)
        wanted = self.headers.get("Range", "")
        files.requests.append((self.command, path, wanted))
        if files.stall_seconds:
            threading.Event().wait(files.stall_seconds)
        if files.statuses:
            self._status(files.statuses.pop(0))
        elif not body and not files.heads:
            self._status(405)
        elif path.startswith("/api/"):
            self._listing(path)
        else:
            name = path.partition("/resolve/")[2].partition("/")[2] or path.removeprefix("/")
            self._file(files.content.get(name), wanted, body)

    def _status(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _file(self, content: bytes | None, wanted: str, body: bool) -> None:
        if content is None:
            self._status(404, {"X-Error-Code": "EntryNotFound"})
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        begin = 0
        if wanted and self.headers.get("If-Range", etag) == etag:
            begin = int(wanted.removeprefix("bytes=").partition("-")[0])
            if begin >= len(content):
                self._status(416)
                return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        if self.files.etags:
            self.send_header("ETag", etag)
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self._send(content[begin:])

    def _send(self, content: bytes) -> None:
        limit, self.files.break_after = self.files.break_after, None
        self.wfile.write(content if limit is None else content[:limit])
        if limit is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()

    def _listing(self, path: str) -> None:
        """Models and datasets under the name owner/name: the answer to a question for a repository's files."""
        parts = path.removeprefix("/api/").split("/")
        if "/".join(parts[1:3]) != "owner/name":
            self._status(404, {"X-Error-Code": "RepoNotFound"})
            return
        if "revision" in parts and parts[-1] not in ("main", COMMIT):
            self._status(404, {"X-Error-Code": "RevisionNotFound"})
            return
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = [self._sibling(name, content, blobs) for name, content in self.files.content.items()]
        answer = {"id": "owner/name", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _sibling(self, name: str, content: bytes, blobs: bool) -> dict[str, object]:
        if not blobs:
            return {"rfilename": name}
        digest = hashlib.sha256(content if name != self.files.lies_about else b"something else").hexdigest()
        lfs = {"size": len(content), "sha256": digest, "pointerSize": 130}
        return {"rfilename": name, "size": len(content), "blobId": digest[:40], "lfs": lfs}


@contextmanager
def serving(files: Files) -> Iterator[str]:
    """The address of a server of these files while the block runs."""
    handler = type("Handler", (_Handler,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
