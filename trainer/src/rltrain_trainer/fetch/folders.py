"""Files that are on a volume already: one file, or all below a directory, copied with their times."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rltrain_trainer.fetch.arrivals import Arrivals
from rltrain_trainer.fetch.errors import FetchError
from rltrain_trainer.fetch.records import FetchedFile, Request
from rltrain_trainer.fetch.sizes import demand_room, files_below
from rltrain_trainer.files import digest


@dataclass(frozen=True, slots=True)
class Folder:
    """See the module's docstring. Links are followed: a hub's cache consists of them."""

    request: Request

    def identity(self) -> str:
        """A digest of names, sizes and times."""
        seen = hashlib.sha256()
        for name, path in self._files():
            status = path.stat()
            seen.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return seen.hexdigest()

    def fetch(self, arrivals: Arrivals) -> dict[str, FetchedFile]:
        """See `Source.fetch`."""
        files = list(self._files())
        missing = [(name, path) for name, path in files if not self._is_there(name, path)]
        missing_bytes = sum(path.stat().st_size for _, path in missing)
        self._part.unlink(missing_ok=True)  # a file is copied from its beginning
        demand_room(self.request.target, missing_bytes)
        arrivals.expect(sum(path.stat().st_size for _, path in files), missing=missing_bytes)
        for name, path in missing:
            self._copy(name, path)
        fetched = {name: self._described(name, path) for name, path in files}
        self._demand_digest(fetched)
        return fetched

    @property
    def _part(self) -> Path:
        return self.request.kept / f"{self.request.key}.part"

    def _files(self) -> Iterator[tuple[str, Path]]:
        """(path in the target, file), in order."""
        source = Path(self.request.source)
        if source.is_file():
            yield source.name, source
            return
        if not source.is_dir():
            raise FetchError(
                f"{source} is not there: see whether it is the right volume, and the path as it is there",
                final=True,
            )
        names = [(str(path.relative_to(source)), path) for path in files_below(source)]
        if not names:
            raise FetchError(f"{source} holds no file: see whether it is the right directory", final=True)
        yield from names

    def _is_there(self, name: str, path: Path) -> bool:
        target = self.request.target / name
        if not target.is_file():
            return False
        have, want = target.stat(), path.stat()
        return (have.st_size, have.st_mtime_ns) == (want.st_size, want.st_mtime_ns)

    def _copy(self, name: str, path: Path) -> None:
        target = self.request.target / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self._part)
        shutil.copystat(path, self._part)
        self._part.replace(target)

    def _described(self, name: str, path: Path) -> FetchedFile:
        target = self.request.target / name
        copied = FetchedFile(size=target.stat().st_size, sha256=digest(target))
        if copied.size != path.stat().st_size:
            raise FetchError(f"{path} changed while it was copied", final=False)
        return copied

    def _demand_digest(self, fetched: dict[str, FetchedFile]) -> None:
        wanted = self.request.sha256
        if wanted is None:
            return
        if len(fetched) != 1:
            raise FetchError(
                f"{self.request.source} holds {len(fetched)} files, and sha256 is of one; name the file", final=True
            )
        ((name, file),) = fetched.items()
        if file.sha256 != wanted:
            (self.request.target / name).unlink()
            raise FetchError(f"{self.request.source} has SHA-256 {file.sha256}, and {wanted} is wanted", final=True)
