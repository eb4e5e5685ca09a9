"""A file behind a URL: one request, continued with Range where it breaks off.

What has arrived is kept under the ETag (or date and size) of the file that it is a part of: a file that has changed in
between is fetched from its beginning.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import aiohttp
import certifi

from rltrain_trainer.fetch.arrivals import Arrivals
from rltrain_trainer.fetch.errors import FetchError, unreachable
from rltrain_trainer.fetch.records import FetchedFile, Request
from rltrain_trainer.fetch.sizes import demand_room, shown
from rltrain_trainer.files import READ_BYTES, digest

log = logging.getLogger(__name__)

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
# Between tries within this pod, in seconds; what has arrived stays.
PAUSES = (1.0, 4.0, 15.0)
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_REMEDIES = {
    401: "it wants credentials, and none are sent: use a source that needs none, hf:// with HF_TOKEN, or command",
    403: "access is refused: see whether the address is right, or has run out",
    404: "there is no such file: correct the address",
    410: "the file is gone: use another source",
}


@dataclass(frozen=True, slots=True)
class Part:
    """What has arrived of a file, and beside it what it is a part of."""

    path: Path

    @property
    def _validator_path(self) -> Path:
        return self.path.with_suffix(".part-of")

    def arrived(self) -> tuple[int, str | None]:
        """How many bytes, and of which state of the file; 0 where that is not known."""
        if not self.path.is_file() or not self._validator_path.is_file():
            return 0, None
        validator = self._validator_path.read_text()
        return (self.path.stat().st_size, validator) if validator else (0, None)

    def begin(self, validator: str | None, *, room_for: int) -> None:
        """Before bytes of that state of the file arrive. Raises FetchError when the volume has no room for them."""
        demand_room(self.path.parent, room_for)
        self._validator_path.write_text(validator or "")

    def open(self, *, append: bool) -> BinaryIO:
        """To write what arrives, behind what is there or in its place."""
        return self.path.open("ab" if append else "wb")

    def demand_size(self, expected: int | None) -> None:
        """Raises FetchError when fewer or more bytes are there than the server has announced."""
        size = self.path.stat().st_size
        if expected is not None and size != expected:
            raise FetchError(f"the file broke off after {size} of {expected} bytes", final=False)

    def forget(self) -> None:
        """Nothing has arrived."""
        self.path.unlink(missing_ok=True)
        self._validator_path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class WebFile:
    """See the module's docstring. `pauses` are those between tries."""

    request: Request
    pauses: tuple[float, ...] = PAUSES

    @property
    def name(self) -> str:
        """The file's name in the target: the last part of the URL's path."""
        name = unquote(urlsplit(self.request.source).path).rpartition("/")[2]
        if name in ("", ".", ".."):
            raise FetchError(f"{self.request.source} ends in no file's name; name the file itself", final=True)
        return name

    def identity(self) -> str | None:
        """ETag, or date and size; None where the server answers HEAD with neither."""
        return asyncio.run(self._identity())

    def fetch(self, arrivals: Arrivals) -> dict[str, FetchedFile]:
        """See `Source.fetch`."""
        name, part = self.name, Part(self.request.kept / f"{self.request.key}.part")
        asyncio.run(self._download(part, arrivals))
        arrived = FetchedFile(size=part.path.stat().st_size, sha256=digest(part.path))
        if self.request.sha256 is not None and arrived.sha256 != self.request.sha256:
            part.forget()
            raise FetchError(
                f"{self.request.source} has SHA-256 {arrived.sha256}, and {self.request.sha256} is wanted: the file is "
                "another one; see whether source and digest belong together",
                final=True,
            )
        part.path.replace(self.request.target / name)
        part.forget()
        return {name: arrived}

    async def _identity(self) -> str | None:
        async with _session() as session:
            try:
                async with session.head(self.request.source, allow_redirects=True) as answer:
                    return _state_of(answer) if answer.status == 200 else None
            except (aiohttp.ClientError, TimeoutError) as error:
                raise self._unreachable(error) from error

    async def _download(self, part: Part, arrivals: Arrivals) -> None:
        for pause in (*self.pauses, None):
            try:
                async with _session() as session:
                    await self._download_once(session, part, arrivals)
            except FetchError as error:
                if error.final or pause is None:
                    raise
                log.warning("%s; trying again in %.0f s", error, pause)
                await asyncio.sleep(pause)
            else:
                return

    async def _download_once(self, session: aiohttp.ClientSession, part: Part, arrivals: Arrivals) -> None:
        have, validator = part.arrived()
        # Bytes are counted as they are kept, so nothing may be compressed on the way.
        headers = {"Accept-Encoding": "identity"}
        if have and validator:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
        try:
            async with session.get(self.request.source, headers=headers) as answer:
                if answer.status == 416:  # the file is shorter now than what has arrived of it
                    part.forget()
                    raise FetchError(f"{self.request.source} has no part from byte {have} on", final=False)
                if answer.status not in (200, 206):
                    raise self._refused(answer.status)
                have = have if answer.status == 206 else 0
                part.begin(_validator(answer), room_for=answer.content_length or 0)
                with part.open(append=have > 0) as stream:
                    if answer.content_length is not None:
                        arrivals.expect(have + answer.content_length, missing=answer.content_length)
                    async for block in answer.content.iter_chunked(READ_BYTES):
                        stream.write(block)
        except aiohttp.ClientPayloadError as error:
            raise FetchError(f"{self.request.source} broke off on the way: {error}", final=False) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error
        part.demand_size(None if answer.content_length is None else have + answer.content_length)
        log.info("%s is whole%s", self.name, f"; {shown(have)} of it were there" if have else "")

    def _refused(self, status: int) -> FetchError:
        remedy = _REMEDIES.get(status, "see what the server says of it")
        return FetchError(f"{self.request.source}: HTTP {status}; {remedy}", final=status not in _AGAIN)

    def _unreachable(self, error: Exception) -> FetchError:
        host = urlsplit(self.request.source).netloc.rpartition("@")[2]
        return unreachable(host, f"{type(error).__name__}: {error}".rstrip(": "))


def _session() -> aiohttp.ClientSession:
    # The system's certificates, and those that come with Python for an image without any.
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    connector = aiohttp.TCPConnector(ssl=context)
    return aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, trust_env=True, auto_decompress=False)


def _validator(answer: aiohttp.ClientResponse) -> str | None:
    """What If-Range compares: a strong ETag, or else the date; None where the server gives neither."""
    etag = answer.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return answer.headers.get("Last-Modified")


def _state_of(answer: aiohttp.ClientResponse) -> str | None:
    parts = [answer.headers[name] for name in ("ETag", "Last-Modified") if name in answer.headers]
    return f"{parts[0]} {answer.content_length}" if parts else None
