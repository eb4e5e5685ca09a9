"""Objects in a store (s3://, gs://, abfs://), by the clients that checkpoints use, with the same variables."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rltrain_trainer.checkpoint.objects import ObjectStore, StoredObject, StoreError, object_store
from rltrain_trainer.fetch.arrivals import Arrivals
from rltrain_trainer.fetch.errors import FetchError
from rltrain_trainer.fetch.records import FetchedFile, Request
from rltrain_trainer.fetch.sizes import demand_room
from rltrain_trainer.files import READ_BYTES, digest


@dataclass(frozen=True, slots=True)
class StoredObjects:
    """See the module's docstring."""

    request: Request

    def identity(self) -> str:
        """A digest of names, sizes and times of change."""
        seen = hashlib.sha256()
        for name, found in self._objects():
            seen.update(f"{name}\0{found.bytes}\0{found.changed}\n".encode())
        return seen.hexdigest()

    def fetch(self, arrivals: Arrivals) -> dict[str, FetchedFile]:
        """See `Source.fetch`; an object whose size is there already is not fetched again."""
        store, objects = self._store(), list(self._objects())
        missing = sum(found.bytes for name, found in objects if not self._has(name, found))
        part = self.request.kept / f"{self.request.key}.part"
        part.unlink(missing_ok=True)  # an object is read from its beginning
        demand_room(self.request.target, missing)
        arrivals.expect(sum(found.bytes for _, found in objects), missing=missing)
        fetched = {}
        for name, found in objects:
            path = self.request.target / name
            if not self._has(name, found):
                path.parent.mkdir(parents=True, exist_ok=True)
                with self._explained(), store.reader(found.location) as source, part.open("wb") as sink:
                    while block := source.read(READ_BYTES):
                        sink.write(block)
                part.replace(path)
            fetched[name] = FetchedFile(size=path.stat().st_size, sha256=digest(path))
        wanted = self.request.sha256
        if wanted is not None and [file.sha256 for file in fetched.values()] != [wanted]:
            for name in fetched:
                (self.request.target / name).unlink()
            raise FetchError(f"{self.request.source} is not the one file with SHA-256 {wanted}", final=True)
        return fetched

    def _has(self, name: str, found: StoredObject) -> bool:
        path = self.request.target / name
        return path.is_file() and path.stat().st_size == found.bytes

    def _store(self) -> ObjectStore:
        try:
            return object_store(self.request.source)
        except ValueError as error:
            raise FetchError(str(error), final=True) from error

    def _objects(self) -> Iterator[tuple[str, StoredObject]]:
        """(path in the target, object), in order."""
        store, root = self._store(), self.request.source.rstrip("/")
        with self._explained():
            objects = store.objects(root)
        if not objects:
            raise FetchError(f"{self.request.source} holds nothing: correct the address", final=True)
        for found in objects:
            name = posixpath.basename(root) if found.location == root else found.location.removeprefix(f"{root}/")
            if posixpath.normpath(name) != name or name.startswith("../"):
                raise FetchError(f"{found.location} would be put outside of {self.request.target}", final=True)
            yield name, found

    @contextmanager
    def _explained(self) -> Iterator[None]:
        source = self.request.source
        try:
            yield
        except FileNotFoundError as error:
            raise FetchError(f"{source} is not there: correct the address", final=True) from error
        except StoreError as error:
            refused = any(word in str(error).upper() for word in _REFUSALS)
            remedy = "; give the job the store's credentials by runtime.envFrom" if refused else ""
            raise FetchError(f"{error}{remedy}", final=refused) from error


# What the stores' clients say where credentials are missing or not good enough.
_REFUSALS = (
    "ACCESS_DENIED",
    "ACCESS DENIED",
    "FORBIDDEN",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "INVALID_ACCESS_KEY",
)
