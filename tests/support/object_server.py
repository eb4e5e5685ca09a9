"""A loopback server that speaks as much of S3 as pyarrow's client asks for: whole objects, parts, ranges, listings.

It checks no signatures. `refuse` names a path, a query's key, or both, that is answered with 403.
"""

from __future__ import annotations

import hashlib
import io
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape


@dataclass
class Objects:
    """What the server has, by `bucket/key`, and what was asked of it."""

    content: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    refuse: str | None = None
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: Objects

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _asked(self) -> tuple[str, dict[str, str], bytes]:
        """(bucket/key, query, body), with the body taken out of the client's chunks."""
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(_chunks(self.rfile))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            body = b"".join(_chunks(io.BytesIO(body)))
        self.objects.requests.append(f"{self.command} {self.path}")
        return unquote(url.path).lstrip("/"), query, body

    def _say(self, status: int, body: str | bytes = b"", **headers: str) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _is_refused(self) -> bool:
        refused = self.objects.refuse is not None and self.objects.refuse in self.path
        if refused:
            self._say(403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
        return refused

    def do_PUT(self) -> None:
        path, query, body = self._asked()
        if self._is_refused():
            return
        if "uploadId" in query:
            self.objects.parts[query["uploadId"]][int(query["partNumber"])] = body
        else:
            self.objects.content[path] = body
        self._say(200, ETag=_etag(body))

    def do_POST(self) -> None:
        path, query, body = self._asked()
        if self._is_refused():
            return
        if "uploads" in query:
            upload = uuid.uuid4().hex
            self.objects.parts[upload] = {}
            self._say(200, _xml("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>"))
        elif "uploadId" in query:
            parts = self.objects.parts.pop(query["uploadId"])
            self.objects.content[path] = b"".join(parts[number] for number in sorted(parts))
            etag = escape(_etag(self.objects.content[path]))
            self._say(200, _xml("CompleteMultipartUploadResult", f"<Key>{escape(path)}</Key><ETag>{etag}</ETag>"))
        else:
            keys = [element.text for element in ElementTree.fromstring(body).iter() if element.tag.endswith("Key")]  # noqa: S314 - pyarrow's
            for key in keys:
                self.objects.content.pop(f"{path}/{key}", None)
            self._say(200, _xml("DeleteResult", ""))

    def do_DELETE(self) -> None:
        path, _, _ = self._asked()
        if not self._is_refused():
            self.objects.content.pop(path, None)
            self._say(204)

    def do_HEAD(self) -> None:
        path, _, _ = self._asked()
        if self._is_refused():
            return
        if path in self.objects.content:
            content = self.objects.content[path]
            self._say(200, ETag=_etag(content), Content_Length=str(len(content)))
        else:
            self._say(404)

    def do_GET(self) -> None:
        path, query, _ = self._asked()
        if self._is_refused():
            return
        if "list-type" in query:
            self._say(200, self._listing(path, query))
        elif path not in self.objects.content:
            self._say(404, "<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")
        else:
            content = self.objects.content[path]
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(content), len(content))
            part = content[int(first) : end]
            self._say(206, part, Content_Range=f"bytes {first}-{end - 1}/{len(content)}", ETag=_etag(content))

    def _listing(self, bucket: str, query: dict[str, str]) -> str:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        found, common = [], set()
        for path, content in sorted(self.objects.content.items()):
            key = path.removeprefix(f"{bucket}/")
            if not path.startswith(f"{bucket}/") or not key.startswith(prefix):
                continue
            below, separator, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else (key, "", "")
            if separator:
                common.add(f"{prefix}{below}{separator}")
            else:
                found.append(f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size></Contents>")
        prefixes = [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(common)]
        count = f"<KeyCount>{len(found) + len(common)}</KeyCount><IsTruncated>false</IsTruncated>"
        return _xml("ListBucketResult", f"<Name>{bucket}</Name>{count}{''.join([*found, *prefixes])}")


@contextmanager
def object_server() -> Iterator[Objects]:
    """A server of its own on loopback, until the context ends."""
    objects = Objects()
    handler = type("Handler", (_Handler,), {"objects": objects})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    objects.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield objects
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def credentials(objects: Objects) -> dict[str, str]:
    """The variables that a job would get by envFrom."""
    return {
        "AWS_ACCESS_KEY_ID": "a-key",
        "AWS_SECRET_ACCESS_KEY": "a-word-that-nobody-may-see",
        "AWS_ENDPOINT_URL": objects.url,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _xml(name: str, content: str) -> str:
    return f'<?xml version="1.0"?><{name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{content}</{name}>'


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    """The parts of a body whose length stands before each; HTTP's own form, and inside of it the client's."""
    while size := int(stream.readline().partition(b";")[0], 16):
        yield stream.read(size)
        stream.readline()
    while stream.readline().strip():
        pass  # trailers
