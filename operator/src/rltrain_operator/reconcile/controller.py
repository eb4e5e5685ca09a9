"""One pass over one job: read the cache, observe, decide, apply, write the status once. The shell around `decide`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from rltrain_api import names
from rltrain_api.status import Status
from rltrain_operator.cache import Cache, Key
from rltrain_operator.events import EventRecorder, notes
from rltrain_operator.kube import Body, KubeApi, NotFoundError
from rltrain_operator.kube.resources import RL_TRAINING_JOBS
from rltrain_operator.metrics import Metrics
from rltrain_operator.reconcile.apply import Applier, BlockedError, Context
from rltrain_operator.reconcile.coalesce import write_due
from rltrain_operator.reconcile.decide import decide
from rltrain_operator.reconcile.fitting import NodeWatch, with_shortfalls
from rltrain_operator.reconcile.observe import Judgements, Poller, view_subject
from rltrain_operator.reconcile.state import (
    Action,
    CreateRayCluster,
    CreateRecords,
    Decision,
    Observed,
    Subject,
    Submit,
)

logger = logging.getLogger(__name__)


class Controller:
    """Reconciles jobs by key. `clock` gives the time as the status records it (UTC)."""

    def __init__(
        self,
        *,
        kube: KubeApi,
        cache: Cache,
        poller: Poller,
        applier: Applier,
        recorder: EventRecorder,
        metrics: Metrics,
        nodes: NodeWatch | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._poller = poller
        self._applier = applier
        self._recorder = recorder
        self._metrics = metrics
        self._nodes = nodes
        self._clock = clock
        self._judgements = Judgements()
        self._last_write: dict[Key, datetime] = {}

    async def reconcile(self, key: Key) -> float | None:
        """One pass; returns after how many seconds to look again (None: when something changes).

        Errors of the API server, of Ray and of the driver go to the caller, who retries with back-off.
        """
        body = self._cache.job(key)
        if body is None:
            self._last_write.pop(key, None)
            return None
        now = self._clock().replace(microsecond=0)
        subject = view_subject(body, self._judgements.judge)
        observed = await self._observe(key, subject, now)
        decision = decide(subject, observed, now)
        done: list[Action] = []
        try:
            await self._apply(decision.actions, Context(key, subject, observed, now), done)
        except BlockedError as error:
            logger.info("blocked", extra={"job": "/".join(key), "reason": error.blocked.reason})
            decision = _blocked_decision(subject, replace(observed, blocked=error.blocked), now, decision, done)
        else:
            if any(isinstance(action, CreateRayCluster) for action in done):
                decision = await self._with_the_new_cluster(key, subject, decision, now)
        return await self._write_status(key, subject, decision, now)

    async def _observe(self, key: Key, subject: Subject, now: datetime) -> Observed:
        observed = await self._poller.observe(self._cache, key, subject, now)
        return observed if self._nodes is None else await with_shortfalls(observed, subject, self._nodes)

    async def _with_the_new_cluster(self, key: Key, subject: Subject, made: Decision, now: datetime) -> Decision:
        """What the next pass would say of the cluster that is there now, so that one write of the status says both."""
        written = replace(subject, status=made.status)
        seen = decide(written, await self._observe(key, written, now), now)
        return made if seen.actions else seen

    async def _apply(self, actions: tuple[Action, ...], context: Context, done: list[Action]) -> None:
        for action in actions:
            logger.info("action", extra={"job": "/".join(context.key), "action": type(action).__name__})
            await self._applier.carry_out(action, context)
            done.append(action)
            if isinstance(action, Submit):
                self._metrics.attempts.inc()

    async def _write_status(self, key: Key, subject: Subject, decision: Decision, now: datetime) -> float | None:
        """Write what is due; a write put off by coalescing is looked at again when it is due."""
        due = write_due(subject.status, decision.status, self._last_write.get(key), now)
        if due is None:
            return decision.requeue_after
        if due > now:
            wait = (due - now).total_seconds()
            return wait if decision.requeue_after is None else min(wait, decision.requeue_after)
        for note in notes(subject.status, decision.status):
            await self._recorder.record(subject.metadata, note, now)
        try:
            live = await self._kube.apply(
                status_manifest(subject, decision.status), field_manager=names.FIELD_MANAGER, subresource="status"
            )
        except NotFoundError:
            return None  # deleted in the meantime; the watch will say so
        self._cache.upsert(RL_TRAINING_JOBS, live)
        self._last_write[key] = now
        self._metrics.status_writes.inc()
        self._metrics.count_accounts(key[0], subject.status.accounting, decision.status.accounting)
        return decision.requeue_after


def _blocked_decision(
    subject: Subject, observed: Observed, now: datetime, wanted: Decision, done: list[Action]
) -> Decision:
    """What could be done is done and recorded; the status says what could not, and the next pass tries it again."""
    decision = replace(decide(subject, observed, now), actions=())
    if any(isinstance(action, CreateRecords) for action in done):
        record = wanted.status.resolved_config
        decision = replace(decision, status=decision.status.model_copy(update={"resolved_config": record}))
    return decision


def status_manifest(subject: Subject, status: Status) -> Body:
    """The status as one server-side apply.

    uid and resourceVersion make it conditional: a decision made on an old copy of the job, or on a job deleted and made
    again, is refused by the API server and made anew. That, and not luck, keeps attempt numbers from being used twice.
    """
    document: dict[str, Any] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    metadata = subject.metadata
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        },
        "status": document,
    }
