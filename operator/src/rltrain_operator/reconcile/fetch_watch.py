"""Watching fetches: reads the end of their pods' logs now and then for how far they are.

Only of initializers that fetch a dataset or a model: what scripts and commands say is theirs, and may be secret. Of a
log two numbers are kept and nothing else. Progress is for display, so whatever goes wrong here is no error of a pass.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from rltrain_api.fetching import FetchProgress, fetches, parse_progress
from rltrain_operator.cache import Cache, Key
from rltrain_operator.kube import ApiError
from rltrain_operator.kube.resources import PODS
from rltrain_operator.recent import Recent
from rltrain_operator.reconcile.state import InitializerState, InitializerView, Subject

logger = logging.getLogger(__name__)

READ_SECONDS = 15.0
# A fetch says it every 15 s; between two times it may name many small files.
LINES = 200
PODS_HELD = 400
COMPLAINT_SECONDS = 3600.0


class PodLogs(Protocol):
    """What this needs of the API server: KubeClient has it."""

    async def log_tail(self, namespace: str, pod: str, lines: int) -> str: ...


@dataclass(frozen=True)
class _Heard:
    """What a pod's log has said last; None: nothing yet, or it could not be read."""

    progress: FetchProgress | None


class FetchWatch:
    """See the module's docstring. A pod is asked once in 15 s at most, however often its job is looked at."""

    def __init__(self, logs: PodLogs, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs = logs
        self._heard: Recent[tuple[str, str], _Heard] = Recent(PODS_HELD, READ_SECONDS, clock)
        self._complained: Recent[tuple[str, str], str] = Recent(PODS_HELD, COMPLAINT_SECONDS, clock)

    async def with_progress(
        self, cache: Cache, key: Key, subject: Subject, views: Mapping[str, InitializerView]
    ) -> dict[str, InitializerView]:
        """The same initializers, those that fetch at this moment with how far they are, where that is known."""
        initializers = subject.job.spec.storage.initializers if subject.job is not None else []
        fetching = {initializer.name for initializer in initializers if fetches(initializer)}
        seen = dict(views)
        for name, view in views.items():
            if name in fetching and view.state is InitializerState.RUNNING and view.pod is not None:
                pod = cache.child(key, PODS, view.pod)
                if pod is not None and pod["status"].get("phase") == "Running":
                    seen[name] = replace(view, progress=await self._progress((key[0], view.pod)))
        return seen

    async def _progress(self, pod: tuple[str, str]) -> FetchProgress | None:
        heard = self._heard.get(pod)
        if heard is None:
            heard = _Heard(await self._read(pod))
            self._heard.put(pod, heard)
        return heard.progress

    async def _read(self, pod: tuple[str, str]) -> FetchProgress | None:
        try:
            return parse_progress(await self._logs.log_tail(*pod, LINES))
        except ApiError as error:
            if self._complained.get(pod) is None:
                self._complained.put(pod, error.message)
                logger.info("the log of pod %s cannot be read, so its progress is not known: %s", "/".join(pod), error)
            return None
