"""A repository of a hub, by the hub's own client: resumed by it file by file, verified here.

The list of files comes from one request at a fixed commit, so that a branch that moves while we fetch changes nothing.
HF_ENDPOINT and HF_TOKEN are the client's own variables.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import DatasetInfo, ModelInfo, RepoSibling
from huggingface_hub.utils.tqdm import disable_progress_bars

from rltrain_api.fetching import parse_hub
from rltrain_trainer.fetch.arrivals import Arrivals
from rltrain_trainer.fetch.errors import FetchError, unreachable
from rltrain_trainer.fetch.records import FetchedFile, Request
from rltrain_trainer.fetch.sizes import demand_room
from rltrain_trainer.files import digest

log = logging.getLogger(__name__)

ENDPOINT = constants.ENDPOINT
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LISTING_SECONDS = 30.0
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Repository:
    """See the module's docstring."""

    request: Request

    def identity(self) -> str:
        """The commit that the revision is at; a revision that is a commit needs no request."""
        revision = parse_hub(self.request.source, self.request.kind).revision
        if _COMMIT.fullmatch(revision):
            return revision
        return self._listing()[0]

    def fetch(self, arrivals: Arrivals) -> dict[str, FetchedFile]:
        """See `Source.fetch`."""
        disable_progress_bars()
        commit, files = self._listing()
        sizes = {file.rfilename: file.size or 0 for file in files}
        missing = sum(size for name, size in sizes.items() if not self._has(name, size))
        demand_room(self.request.target, missing)
        arrivals.expect(sum(sizes.values()), missing=missing)
        fetched = {}
        for number, file in enumerate(files, start=1):
            name = file.rfilename
            log.info("file %d of %d: %s", number, len(files), name)
            self._download(commit, name)
            fetched[name] = self._verified(file)
        return fetched

    def _listing(self) -> tuple[str, list[RepoSibling]]:
        """The commit, and the files of it that are wanted."""
        reference = parse_hub(self.request.source, self.request.kind)
        with self._explained():
            info = HfApi(endpoint=ENDPOINT).repo_info(
                reference.repository,
                revision=reference.revision,
                repo_type=self.request.kind,
                files_metadata=True,
                timeout=_LISTING_SECONDS,
            )
        assert isinstance(info, (DatasetInfo, ModelInfo)), "only datasets and models are asked for"
        files = [file for file in info.siblings or [] if self._is_wanted(file.rfilename, reference.path)]
        if not files or info.sha is None:
            patterns = f" that match {', '.join(self.request.include)}" if self.request.include else ""
            raise FetchError(f"{self.request.source} has no files{patterns}: correct the path or include", final=True)
        if self.request.sha256 is not None and len(files) != 1:
            raise FetchError(
                f"{self.request.source} holds {len(files)} files, and sha256 is of one; name the file", final=True
            )
        return info.sha, files

    def _is_wanted(self, name: str, path: str) -> bool:
        inside = not path or name == path or name.startswith(f"{path}/")
        patterns = self.request.include
        return inside and (not patterns or any(fnmatch(name, pattern) for pattern in patterns))

    def _has(self, name: str, size: int) -> bool:
        path = self.request.target / name
        return path.is_file() and path.stat().st_size == size

    def _download(self, commit: str, name: str) -> None:
        reference = parse_hub(self.request.source, self.request.kind)
        with self._explained():
            hf_hub_download(
                reference.repository,
                name,
                repo_type=self.request.kind,
                revision=commit,
                local_dir=self.request.target,
                endpoint=ENDPOINT,
            )

    def _verified(self, file: RepoSibling) -> FetchedFile:
        path = self.request.target / file.rfilename
        fetched = FetchedFile(size=path.stat().st_size, sha256=digest(path))
        known = file.lfs.sha256 if file.lfs is not None else None
        for wanted in (known, self.request.sha256):
            if wanted is not None and fetched.sha256 != wanted:
                self._forget(path)
                raise FetchError(
                    f"{file.rfilename} of {self.request.source} has SHA-256 {fetched.sha256}, and {wanted} is wanted",
                    final=wanted == self.request.sha256,
                )
        return fetched

    def _forget(self, path: Path) -> None:
        """A file that is not what it should be is not kept, so that the next try fetches it."""
        path.unlink()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """The client's errors as ours."""
        host = urlsplit(ENDPOINT).netloc
        source = self.request.source
        try:
            yield
        except GatedRepoError as error:
            raise FetchError(
                f"{source} is gated: ask for access on the hub, and give the job HF_TOKEN by runtime.envFrom",
                final=True,
            ) from error
        except RepositoryNotFoundError as error:
            raise FetchError(
                f"{source}: {host} has no such {self.request.kind}, or it is private: correct the name, or give the "
                "job HF_TOKEN by runtime.envFrom",
                final=True,
            ) from error
        except RevisionNotFoundError as error:
            raise FetchError(f"{source}: no such revision; correct what stands behind @", final=True) from error
        except RemoteEntryNotFoundError as error:
            raise FetchError(f"{source}: {host} lists a file that it does not have", final=False) from error
        except OfflineModeIsEnabled as error:
            raise FetchError(
                f"{source}: HF_HUB_OFFLINE is set, so nothing is fetched; remove it", final=True
            ) from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            raise FetchError(f"{source}: {host} answers HTTP {status}", final=status not in _AGAIN) from error
        except (LocalEntryNotFoundError, httpx2.HTTPError) as error:
            raise unreachable(host, type(error.__cause__ or error).__name__) from error
