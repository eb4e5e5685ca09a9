"""Object stores as places of checkpoints: s3://, gs:// and abfs:// by pyarrow, any other scheme by what fsspec finds.

Credentials come from the environment of the pods (runtime.envFrom) or the node's identity, as the stores' own libraries
look for them, and never from a URL: a URL is shown in the job, in logs and in its status.

    s3://bucket/path            AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, a web identity, the node's
                                role; AWS_REGION (else the bucket is asked), AWS_ENDPOINT_URL for a store of one's own
    gs://bucket/path            GOOGLE_APPLICATION_CREDENTIALS, or the node's service account
    abfs://container@account.dfs.core.windows.net/path
                                AZURE_STORAGE_KEY, or AZURE_CLIENT_ID and its like, or the node's identity

An object is there whole or not at all, and replacing one is atomic: all that the commit protocol asks of a store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import fsspec  # type: ignore[import-untyped]  # it has no stubs
from pyarrow import ArrowException, fs  # type: ignore[import-untyped]  # it has no stubs

from rltrain_api.fetching import scheme_of
from rltrain_trainer.checkpoint.places import Sink, Source

CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 60.0
TRIES = 5


class StoreError(OSError):
    """An object store did not do what was asked of it; the message says which one, and what it said."""


@dataclass(frozen=True)
class StoredObject:
    """One object: where it is, its size, and when it was changed, in nanoseconds, if the store says so."""

    location: str
    bytes: int
    changed: int | None


@dataclass(frozen=True)
class ObjectStore:
    """The Place of URLs of one store."""

    files: Any  # pyarrow.fs.FileSystem, which has no annotations
    prefix: str  # what stands before the path that `files` knows

    def read(self, location: str) -> bytes:
        """See `Place.read`."""
        with self._explained(location), self.files.open_input_stream(self._inner(location)) as stream:
            content: bytes = stream.read()
            return content

    def replace(self, location: str, content: bytes) -> None:
        """See `Place.replace`."""
        with self.writer(location) as stream:
            stream.write(content)

    @contextmanager
    def writer(self, location: str) -> Iterator[Sink]:
        """See `Place.writer`."""
        with self._explained(location), self.files.open_output_stream(self._inner(location)) as stream:
            yield stream

    @contextmanager
    def reader(self, location: str) -> Iterator[Source]:
        """See `Place.reader`."""
        with self._explained(location), self.files.open_input_file(self._inner(location)) as stream:
            yield stream

    def directories(self, location: str) -> list[str]:
        """See `Place.directories`."""
        return [info.base_name for info in self._listed(location) if info.type == fs.FileType.Directory]

    def sizes(self, location: str) -> dict[str, int]:
        """See `Place.sizes`."""
        root = self._inner(location).rstrip("/") + "/"
        return {
            info.path.removeprefix(root): info.size
            for info in self._listed(location, recursive=True)
            if info.type == fs.FileType.File
        }

    def objects(self, location: str) -> list[StoredObject]:
        """The object of that name, or else all objects below it, by their names; none where there is nothing."""
        with self._explained(location):
            (one,) = self.files.get_file_info([self._inner(location)])
        found = [one] if one.type == fs.FileType.File else self._listed(location, recursive=True)
        inner = self._inner(location)
        return [
            StoredObject(location + info.path.removeprefix(inner), info.size, info.mtime_ns)
            for info in sorted(found, key=lambda info: str(info.path))
            if info.type == fs.FileType.File
        ]

    def remove_file(self, location: str) -> None:
        """See `Place.remove_file`."""
        try:
            with self._explained(location):
                self.files.delete_file(self._inner(location))
        except FileNotFoundError:
            return

    def remove_tree(self, location: str) -> None:
        """See `Place.remove_tree`."""
        try:
            with self._explained(location):
                self.files.delete_dir(self._inner(location))
        except FileNotFoundError:
            return

    def _inner(self, location: str) -> str:
        return location.removeprefix(self.prefix)

    def _listed(self, location: str, *, recursive: bool = False) -> list[Any]:
        selector = fs.FileSelector(self._inner(location), allow_not_found=True, recursive=recursive)
        with self._explained(location):
            found: list[Any] = self.files.get_file_info(selector)
            return found

    @contextmanager
    def _explained(self, location: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, ArrowException) as error:
            raise StoreError(f"{location}: {error}") from error


def object_store(location: str) -> ObjectStore:
    """The store of a URL. Raises ValueError for one that carries credentials, or whose scheme nothing here knows."""
    demand_no_credentials(location)
    url, scheme = urlsplit(location), scheme_of(location)
    if scheme == "s3":
        return ObjectStore(_s3(url.netloc), f"{url.scheme}://")
    if scheme in ("gs", "gcs"):
        limit = timedelta(seconds=REQUEST_SECONDS * TRIES)
        return ObjectStore(fs.GcsFileSystem(retry_time_limit=limit), f"{url.scheme}://")
    if scheme in ("abfs", "abfss"):
        account = (url.hostname or "").partition(".")[0]
        files = fs.AzureFileSystem(account, account_key=os.environ.get("AZURE_STORAGE_KEY"))
        # pyarrow wants container/path, and the URL has container@account/path: what differs is put into the prefix.
        return _Container(files, f"{url.scheme}://{url.netloc}", url.username or "")
    try:
        files, inner = fsspec.core.url_to_fs(location)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{location}: nothing in this image can use it ({error}); use s3://, gs://, abfs:// or a path on a volume"
        ) from error
    return ObjectStore(fs.PyFileSystem(fs.FSSpecHandler(files)), location.removesuffix(inner))


@dataclass(frozen=True)
class _Container(ObjectStore):
    """An Azure container: its name stands in the middle of a URL, and at the beginning of pyarrow's paths."""

    container: str = ""

    def _inner(self, location: str) -> str:
        return self.container + location.removeprefix(self.prefix)


def demand_no_credentials(location: str) -> None:
    """Raises ValueError, which does not repeat it, for a URL with a password, a query or, but for Azure's, a user."""
    url = urlsplit(location)
    user = url.username if scheme_of(location) not in ("abfs", "abfss") else None
    if url.password or user or url.query:
        raise ValueError(
            f"a URL of {url.scheme}://{url.hostname} carries credentials or options; remove them, and give the job the "
            "store's credentials by runtime.envFrom"
        )


def _s3(bucket: str) -> Any:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None and endpoint is None:
        region = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        region=region,
        endpoint_override=endpoint,  # pyarrow looks at the variable only for addresses that it parses itself
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=TRIES),
    )
