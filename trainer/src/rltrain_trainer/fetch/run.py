"""One fetch from start to end: one at a time, nothing that is there already, and a record at the end."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rltrain_api.fetching import HUB_SCHEME, WEB_SCHEMES, scheme_of
from rltrain_trainer.fetch.arrivals import Arrivals
from rltrain_trainer.fetch.errors import FULL, FetchError, volume_full
from rltrain_trainer.fetch.folders import Folder
from rltrain_trainer.fetch.records import Record, Request, read_record, write_record
from rltrain_trainer.fetch.sizes import shown
from rltrain_trainer.fetch.sources import Source
from rltrain_trainer.fetch.web import WebFile

log = logging.getLogger(__name__)

_LOCK_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is in the target now, and whether this fetch has put it there."""

    record: Record
    fetched: bool

    def __str__(self) -> str:
        """For people."""
        files = len(self.record.files)
        what = f"{files} file{'s' if files != 1 else ''}, {shown(self.record.total_bytes)}"
        return f"{what}, fetched" if self.fetched else f"{what}, there already"


def source_of(request: Request) -> Source:
    """The source that a request names. What a source needs is imported only for it."""
    scheme = scheme_of(request.source)
    if scheme == HUB_SCHEME:
        from rltrain_trainer.fetch.hub import Repository

        return Repository(request)
    if scheme in WEB_SCHEMES:
        return WebFile(request)
    if scheme:
        from rltrain_trainer.fetch.stores import StoredObjects

        return StoredObjects(request)
    return Folder(request)


def fetch(request: Request, source: Source | None = None, arrivals: Arrivals | None = None) -> Outcome:
    """Make sure that the files are in the target. Raises FetchError.

    Files that an earlier fetch has recorded are used as they are when the source has not changed, when nothing can be
    heard of it, or when they have the digest that is asked for, which takes no request at all. `arrivals` can be looked
    at meanwhile.
    """
    source = source or source_of(request)
    arrivals = arrivals or Arrivals(request.target)
    try:
        request.kept.mkdir(parents=True, exist_ok=True)
        with _alone(request):
            return _fetch_alone(request, source, arrivals)
    except OSError as error:
        if error.errno in FULL:
            raise volume_full(request.target, str(error)) from error
        where = error.filename or request.target
        raise FetchError(
            f"{where}: {error.strerror or error}; see whether the volume is mounted and user 1000 may write it",
            final=False,
        ) from error


def _fetch_alone(request: Request, source: Source, arrivals: Arrivals) -> Outcome:
    record = read_record(request)
    if record is not None and _has_the_digest(request, record):
        return Outcome(record, fetched=False)
    identity = None
    try:
        identity = source.identity()
    except FetchError as error:
        if record is None or error.final:
            raise
        log.warning("%s; the files of %s are used", error, record.time)
        return Outcome(record, fetched=False)
    # A source that says nothing of its state is taken to be as it was: whoever cares gives a digest.
    unchanged = record is not None and request.sha256 is None and (identity is None or identity == record.identity)
    if record is not None and unchanged:
        return Outcome(record, fetched=False)
    files = source.fetch(arrivals)
    return Outcome(write_record(request, identity, files), fetched=True)


def _has_the_digest(request: Request, record: Record) -> bool:
    return request.sha256 is not None and [file.sha256 for file in record.files.values()] == [request.sha256]


@contextmanager
def _alone(request: Request) -> Iterator[None]:
    """Wait until no other job fetches into the target; the lock goes with the process that holds it."""
    with (request.kept / "lock").open("w") as stream:
        waiting = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    log.info("another job fetches into %s; waiting for it", request.target)
                waiting = True
                time.sleep(_LOCK_PAUSE_SECONDS)
        yield
