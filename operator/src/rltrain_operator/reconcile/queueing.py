"""Kueue's part in a job's life: what it says of the RayCluster, and what follows from that. Pure.

Kueue holds a RayCluster back by its `spec.suspend` and says why in a Workload that the RayCluster owns. The first is
what decides; the second are words, and may be missing: without Kueue, or for a moment after the cluster's creation.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rltrain_api.status import ConditionType, Phase, Stop
from rltrain_api.wire import DriverPhase
from rltrain_operator.kube import Body
from rltrain_operator.plan.queueing import KUEUE_QUEUE_LABEL
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.attempt import POLL_SECONDS, answer_of, mirror_driver
from rltrain_operator.reconcile.children import condition_of, owned_by
from rltrain_operator.reconcile.conditions import cut
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.state import ClusterView, QueueView, StopDriver

MESSAGE_LENGTH = 1000
# Kueue makes a Workload in well under a second.
PATIENCE = timedelta(seconds=10)
# Kueue's reasons for a wait that ends only when somebody changes a queue or the job.
LASTING = frozenset({"ExceedsMaxQuota", "NoMatchingFlavor", "Misconfigured", "Inadmissible"})
DEACTIVATED = "Deactivated"  # and longer ones, with what it is due to


def view_queue(ray_cluster: Body, workloads: list[Body]) -> QueueView | None:
    """What Kueue says of this very RayCluster; None for one that is in no queue of Kueue's."""
    metadata = ray_cluster["metadata"]
    queue = (metadata.get("labels") or {}).get(KUEUE_QUEUE_LABEL)
    if queue is None:
        return None
    suspended = bool((ray_cluster.get("spec") or {}).get("suspend"))
    own = [workload for workload in workloads if owned_by(workload, metadata["uid"])]
    if not own:
        return QueueView(queue, suspended, reason=reasons.QUEUED)
    newest = max(own, key=lambda workload: str(workload["metadata"].get("creationTimestamp")))
    return _in_the_words_of(newest, queue, suspended)


def _in_the_words_of(workload: Body, queue: str, suspended: bool) -> QueueView:
    evicted, preempted = condition_of(workload, "Evicted"), condition_of(workload, "Preempted")
    quota, admitted = condition_of(workload, "QuotaReserved"), condition_of(workload, "Admitted")
    words = []
    is_evicted = evicted.get("status") == "True"
    if is_evicted:
        words.append(f"evicted: {_said(preempted if preempted.get('status') == 'True' else evicted)}")
    if quota.get("status") != "True":
        words.append(_said(quota) or f"in LocalQueue {queue}")
    elif admitted.get("status") != "True":
        words.append(f"quota is reserved; admission checks are not passed: {_said(admitted) or 'no word of them yet'}")
    else:
        words.append("admitted; Kueue is about to let the cluster go")
    decisive = evicted if is_evicted else quota if quota.get("status") != "True" else admitted
    waits = is_evicted or decisive.get("status") != "True"
    deactivated = is_evicted and str(evicted.get("reason")).startswith(DEACTIVATED)
    return QueueView(
        queue,
        suspended,
        reason=str(decisive.get("reason") or reasons.QUEUED) if waits else reasons.QUEUED,
        message=cut("; ".join(words), MESSAGE_LENGTH),
        lasting=deactivated or (quota.get("status") != "True" and str(quota.get("reason")) in LASTING),
    )


def _said(condition: Mapping[str, Any]) -> str:
    return str(condition.get("message") or condition.get("reason") or "").strip()


def waits_for_quota(draft: Draft) -> bool:
    """Whether the draft's cluster is held back by Kueue. Then the draft says so, and an attempt that ran is over.

    Nothing is counted against the job: not the time towards its start-up deadline, nor the attempt as a failure.
    """
    cluster = draft.observed.cluster
    if cluster is None or cluster.queue is None:
        has_no_quota(draft, "the job is in no queue of Kueue's")
        return False
    queue = cluster.queue
    if not queue.suspended:
        message = f"Kueue has let the cluster go, with quota from LocalQueue {queue.queue}"
        draft.conditions.set(ConditionType.QUOTA_RESERVED, True, reasons.QUOTA_RESERVED, message)
        return False
    words = queue.message or _without_words(draft, cluster, queue)
    running = draft.attempt_is_alive
    if running:
        stop = draft.open_stop or Stop(attempt=draft.attempt, reason=queue.reason, requested=draft.now)
        draft.set(stop=stop.model_copy(update={"ended": draft.now}))
    _hear_its_last_words(draft)
    ended = f"attempt {draft.attempt} ended with the loss of its quota, which counts as no failure; " if running else ""
    message = f"{ended}{words}"
    draft.conditions.set(ConditionType.QUOTA_RESERVED, False, queue.reason, words)
    draft.conditions.set(ConditionType.CLUSTER_READY, False, reasons.QUEUED, "Kueue holds the cluster back")
    draft.leave_training(reasons.QUEUED, message)
    draft.underway(Phase.QUEUED, reasons.QUEUED, message)
    if queue.lasting:
        draft.conditions.set(ConditionType.STALLED, True, queue.reason, words)
    return True


def _hear_its_last_words(draft: Draft) -> None:
    """The pods of an evicted job ask its driver to save before they go: its checkpoint is known before it is gone."""
    cluster, driver = draft.observed.cluster, answer_of(draft)
    if cluster is None or cluster.head_host is None:
        return
    draft.look_again(POLL_SECONDS)
    if driver is not None:
        mirror_driver(draft, driver)
        if driver.phase is DriverPhase.STOPPED and draft.value("checkpoint") == draft.old.checkpoint:
            draft.act(StopDriver())  # all it has to say is in the status, and its pod waits for its end


def has_no_quota(draft: Draft, why: str) -> None:
    """Take back what was said of quota that the job no longer has, or no longer waits for."""
    if draft.conditions.get(ConditionType.QUOTA_RESERVED) is not None:
        draft.conditions.set(ConditionType.QUOTA_RESERVED, False, reasons.NOT_QUEUED, why)


def _without_words(draft: Draft, cluster: ClusterView, queue: QueueView) -> str:
    """What is said before Kueue says anything: the wait, and after a while that there should be somebody to end it."""
    waits = f"waits in LocalQueue {queue.queue}"
    doubt = cluster.created + PATIENCE
    if draft.now < doubt:
        draft.look_again_at(doubt)
        return waits
    return f"{waits}, and no Workload of Kueue's is seen: does Kueue run, with framework ray.io/raycluster?"
