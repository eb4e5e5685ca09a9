"""Objects in a store (s3://, gs://) through fsspec, where the image has the store's own package.

Credentials are the package's own affair: variables such as AWS_ACCESS_KEY_ID by runtime.envFrom, or the node's role.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec  # type: ignore[import-untyped]  # it has no stubs

from rltrain_api.fetching import OBJECT_STORES, scheme_of
from rltrain_trainer.fetch.errors import FetchError
from rltrain_trainer.fetch.records import FetchedFile, Request
from rltrain_trainer.fetch.sizes import demand_room
from rltrain_trainer.files import digest


@dataclass(frozen=True, slots=True)
class StoredObjects:
    """See the module's docstring."""

    request: Request

    def identity(self) -> str:
        """A digest of names, sizes and what the store says of each object's state."""
        seen = hashlib.sha256()
        for name, info in self._objects():
            state = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("updated") or ""
            seen.update(f"{name}\0{info.get('size')}\0{state}\n".encode())
        return seen.hexdigest()

    def fetch(self) -> dict[str, FetchedFile]:
        """See `Source.fetch`; an object whose size is there already is not fetched again."""
        objects = list(self._objects())
        demand_room(self.request.target, sum(info["size"] for name, info in objects if not self._has(name, info)))
        fetched = {}
        for name, info in objects:
            path = self.request.target / name
            if not self._has(name, info):
                path.parent.mkdir(parents=True, exist_ok=True)
                part = self.request.kept / f"{self.request.key}.part"
                with self._explained():
                    self._files()[0].get_file(info["name"], str(part))
                part.replace(path)
            fetched[name] = FetchedFile(size=path.stat().st_size, sha256=digest(path))
        wanted = self.request.sha256
        if wanted is not None and [file.sha256 for file in fetched.values()] != [wanted]:
            for name in fetched:
                (self.request.target / name).unlink()
            raise FetchError(f"{self.request.source} is not the one file with SHA-256 {wanted}", final=True)
        return fetched

    def _has(self, name: str, info: dict[str, Any]) -> bool:
        path = self.request.target / name
        return path.is_file() and path.stat().st_size == info["size"]

    def _files(self) -> tuple[Any, str]:
        """The store and the path in it."""
        package = OBJECT_STORES.get(scheme_of(self.request.source))
        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(self.request.source)
        except ImportError as error:
            raise FetchError(
                f"{self.request.source}: this image has no {package}, which that store needs: add it to the image "
                "that the initializer names, or use hf://, https:// or a path on a volume",
                final=True,
            ) from error
        return found

    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(path in the target, what the store says of the object), in order."""
        store, root = self._files()
        with self._explained():
            found: dict[str, dict[str, Any]] = store.find(root, detail=True)
        if not found:
            raise FetchError(f"{self.request.source} holds nothing: correct the address", final=True)
        for path, info in sorted(found.items()):
            name = posixpath.basename(path) if path == root else posixpath.relpath(path, root)
            if name.startswith(".."):
                raise FetchError(f"{path} would be put outside of {self.request.target}", final=True)
            yield name, info

    @contextmanager
    def _explained(self) -> Iterator[None]:
        source = self.request.source
        try:
            yield
        except FileNotFoundError as error:
            raise FetchError(f"{source} is not there: correct the address", final=True) from error
        except PermissionError as error:
            raise FetchError(
                f"{source}: access is refused ({error}); give the job the store's credentials by runtime.envFrom",
                final=True,
            ) from error
