"""Observation: the caches turned into what `decide` reads, and the polls of Ray, of the driver and of fetches.

`view_*` are pure; `Poller` asks over the network and remembers, per job, since when a driver is silent. That memory is
lost with the process on purpose: a new operator gives a silent driver the full limit again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from rltrain_api import names
from rltrain_api.job import ObjectMeta
from rltrain_api.judge import Judgement, judge
from rltrain_api.spec.policies import FailurePolicy
from rltrain_api.status import ConditionType, Status
from rltrain_api.wire import DriverPhase, DriverStatus, History
from rltrain_operator.cache import Cache, Key
from rltrain_operator.driver_client import DriverApi, DriverUnavailableError
from rltrain_operator.kube import Body
from rltrain_operator.kube.resources import BATCH_JOBS, PODS, RAY_CLUSTERS, WORKLOADS
from rltrain_operator.plan import beyond_this_release, worker_pods_wanted
from rltrain_operator.rayjobs import LOG_TAIL_BYTES, LOG_TAIL_LINES, RayJob, RayJobsApi, RayUnavailableError
from rltrain_operator.recent import Recent
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.children import condition_of, is_leaving, owned_by, role_of
from rltrain_operator.reconcile.engine_pods import view_engine_group
from rltrain_operator.reconcile.fetch_watch import FetchWatch
from rltrain_operator.reconcile.queueing import view_queue
from rltrain_operator.reconcile.stall import judge_pace
from rltrain_operator.reconcile.state import (
    ClusterView,
    InitializerState,
    InitializerView,
    Observed,
    PodEnd,
    Subject,
    Unreachable,
)
from rltrain_operator.reconcile.upstream_watch import Run, UpstreamWatch
from rltrain_operator.tokens import TokenIssuer

HISTORY_INTERVAL = timedelta(seconds=30)
MAX_TROUBLES = 8
# Some 40 kB each: what is polled or changes now fits, what is idle goes.
JUDGEMENTS_HELD = 400
JUDGEMENT_SECONDS = 60.0


class Judgements:
    """What was said of specs of late, so that a job that is looked at every 3 s is not judged every time.

    A judgement rests on the name and the spec. Of the metadata of the job in it only name, uid and generation are those
    of the document; the rest may be older.
    """

    def __init__(self) -> None:
        self._known: Recent[tuple[str, int], tuple[Any, Judgement]] = Recent(JUDGEMENTS_HELD, JUDGEMENT_SECONDS)

    def judge(self, document: Mapping[str, Any]) -> Judgement:
        """As `rltrain_api.judge.judge`."""
        metadata, spec = document["metadata"], document.get("spec")
        key = (str(metadata.get("uid")), int(metadata.get("generation") or 0))
        judged, judgement = self._known.get(key) or (None, None)
        if judgement is None or judged != spec:  # a definition with other defaults changes specs of one generation
            judgement = judge(document)
        self._known.put(key, (spec, judgement))
        return judgement


def view_subject(body: Body, judge: Callable[[Mapping[str, Any]], Judgement] = judge) -> Subject:
    """The job as models. A status that cannot be read (edited by hand) counts as none: it is derived anew."""
    document = {key: value for key, value in body.items() if key != "status"}
    metadata = ObjectMeta.model_validate(body["metadata"])
    try:
        status = Status.model_validate(body.get("status") or {})
    except ValidationError:
        status = Status()
    spec = body.get("spec")
    manager = spec.get("managedBy", names.MANAGER) if isinstance(spec, dict) else names.MANAGER
    if manager != names.MANAGER:
        return Subject(metadata, status, job=None, managed_elsewhere=True)
    judgement = judge(document)
    beyond = beyond_this_release(judgement.job) if judgement.job is not None else []
    return Subject(metadata, status, judgement.job, (*judgement.errors, *beyond))


def pod_trouble(pod: Body) -> str | None:
    """What keeps a pod from being ready, in Kubernetes' own words, or None when nothing in particular does."""
    scheduled = condition_of(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason')}: {scheduled.get('message')}"
    for container in (pod.get("status") or {}).get("containers") or []:
        waiting = container["state"].get("waiting") or {}
        if waiting.get("reason") in (None, "PodInitializing", "ContainerCreating"):
            continue
        trouble = _steady(str(waiting["reason"]), str(waiting.get("message") or ""))
        ended = container["last"].get("terminated") or {}
        if ended:
            last = f"{ended.get('reason')}, exit code {ended.get('exitCode')}: {str(ended.get('message') or '')[-400:]}"
            trouble += f" (last: {last.rstrip(': ')})"
        return trouble
    return None


def _steady(reason: str, message: str) -> str:
    """One text for a pull that fails and for the pause before the next: the kubelet flips between the two for ever."""
    if reason in ("ErrImagePull", "ImagePullBackOff"):
        reason = "ImagePullBackOff"
        message = re.sub(r'^Back-off pulling image "[^"]*": ErrImagePull: ', "", message)
    return f"{reason}: {message}".rstrip(": ")


def group_troubles(pods: list[Body]) -> list[str]:
    """The troubles of many pods, those with the same one together."""
    by_trouble: dict[str, list[str]] = {}
    for pod in pods:
        trouble = pod_trouble(pod)
        if trouble is not None:
            by_trouble.setdefault(trouble, []).append(pod["metadata"]["name"])
    return [f"{', '.join(affected)}: {trouble}" for trouble, affected in by_trouble.items()]


def view_initializers(cache: Cache, key: Key, job_uid: str) -> dict[str, InitializerView]:
    """The job's initializer batch Jobs by initializer name, with their newest pod's words."""
    prefix = names.initializer_name(key[1], "")
    pods = cache.children(key, PODS)
    found: dict[str, InitializerView] = {}
    for batch_job in cache.children(key, BATCH_JOBS):
        name = batch_job["metadata"]["name"]
        if name.startswith(prefix) and owned_by(batch_job, job_uid):
            own = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("job-name") == name]
            found[name.removeprefix(prefix)] = _view_batch_job(batch_job, own)
    return found


def _view_batch_job(batch_job: Body, pods: list[Body]) -> InitializerView:
    oldest_first = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    newest = oldest_first[-1] if pods else None
    ended = _last_end(newest) if newest else {}
    failures = int((batch_job.get("status") or {}).get("failed") or 0)
    if condition_of(batch_job, "Complete").get("status") == "True":
        words = str(ended.get("message") or "").strip()
        return InitializerView(InitializerState.COMPLETE, words[-800:], attempts=failures + 1)
    failed = condition_of(batch_job, "Failed")
    pod_name = newest["metadata"]["name"] if newest else None
    if failed.get("status") == "True":
        message = str(ended.get("message") or failed.get("message") or "").strip()
        return InitializerView(InitializerState.FAILED, message[-800:], pod_name, ended.get("exitCode"), failures)
    trouble = pod_trouble(newest) if newest else None
    message = f"{pod_name}: {trouble}" if trouble else ""
    last_words = [str(end["message"]).strip() for end in map(_last_end, oldest_first) if end.get("message")]
    if failures and not message and last_words:
        message = f"try {failures + 1}; the one before ended: {last_words[-1][-400:]}"
    return InitializerView(InitializerState.RUNNING, message, pod_name, attempts=failures + 1)


def _last_end(pod: Body) -> Mapping[str, Any]:
    for container in (pod.get("status") or {}).get("containers") or []:
        ended = container["state"].get("terminated") or container["last"].get("terminated")
        if ended:
            found: Mapping[str, Any] = ended
            return found
    return {}


def view_cluster(cache: Cache, key: Key, job_uid: str) -> ClusterView | None:
    """The job's own RayCluster; one that belongs to somebody else is as good as none (its creation then conflicts)."""
    ray_cluster = cache.child(key, RAY_CLUSTERS, names.ray_cluster_name(key[1]))
    if ray_cluster is None or not owned_by(ray_cluster, job_uid):
        return None
    metadata = ray_cluster["metadata"]
    head = condition_of(ray_cluster, "HeadPodReady")
    failure = condition_of(ray_cluster, "ReplicaFailure")
    pods = [pod for pod in cache.children(key, PODS) if role_of(pod) != names.ROLE_INITIALIZER]
    troubles = group_troubles(pods)
    head_pod = _running_head(pods, metadata["name"])
    labels = metadata.get("labels") or {}
    if failure.get("status") == "True":
        troubles.insert(0, f"KubeRay: {failure.get('reason')}: {failure.get('message')}")
    return ClusterView(
        uid=metadata["uid"],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        trainer=labels.get(names.TRAINER_LABEL, "builtin"),
        spec_hash=(metadata.get("annotations") or {}).get(names.SPEC_HASH_ANNOTATION, ""),
        deleting="deletionTimestamp" in metadata,
        head_ready=head.get("status") == "True",
        head_message=str(head.get("message") or head.get("reason") or ""),
        ready_workers=int((ray_cluster.get("status") or {}).get("readyWorkerReplicas") or 0),
        wanted_workers=worker_pods_wanted(ray_cluster),
        engine_group=view_engine_group(ray_cluster, pods),
        ready_gpus=sum(_gpus(pod) for pod in pods if condition_of(pod, "Ready").get("status") == "True"),
        head_host=_head_host(head_pod),
        head_pod=head_pod["metadata"]["name"] if head_pod is not None else None,
        head_leaving=head_pod is not None and is_leaving(head_pod),
        ends=tuple(end for pod in pods for end in pod_ends(pod)),
        troubles=tuple(troubles[:MAX_TROUBLES]),
        queue=view_queue(ray_cluster, cache.children(key, WORKLOADS)),
    )


def _gpus(pod: Body) -> int:
    """GPUs of a pod, by the annotation of its template; an annotation that is no number was not written by us."""
    value = str((pod["metadata"].get("annotations") or {}).get(names.GPUS_ANNOTATION, ""))
    return int(value) if value.isdecimal() else 0


def pod_ends(pod: Body) -> list[PodEnd]:
    """How the pod's containers last ended, those that ended well left out."""
    found = []
    for container in (pod.get("status") or {}).get("containers") or []:
        ended = container["state"].get("terminated") or container["last"].get("terminated") or {}
        if ended.get("exitCode") and ended.get("finishedAt"):
            end = PodEnd(
                pod=pod["metadata"]["name"],
                role=role_of(pod),
                reason=str(ended.get("reason") or "Error"),
                exit_code=int(ended["exitCode"]),
                time=datetime.fromisoformat(ended["finishedAt"]),
            )
            found.append(end)
    return found


def view_leftovers(cache: Cache, key: Key) -> tuple[str, ...]:
    """Pods of a RayCluster of the job, whichever it was; asked only while there is none."""
    pods = cache.children(key, PODS)
    return tuple(pod["metadata"]["name"] for pod in pods if "ray.io/cluster" in (pod["metadata"].get("labels") or {}))


def _running_head(pods: list[Body], cluster_name: str) -> Body | None:
    """The head pod that runs; the one that is being deleted only while there is no other."""
    heads = [
        pod
        for pod in pods
        if role_of(pod) == names.ROLE_HEAD
        and (pod["metadata"].get("labels") or {}).get("ray.io/cluster") == cluster_name
        and pod["status"].get("phase") == "Running"
    ]
    return min(heads, key=is_leaving, default=None)


def _head_host(head_pod: Body | None) -> str | None:
    """The address of the running head pod.

    The pod's own address rather than the head Service's name: it is right the moment the pod is, without a name cache
    that may still hold the address of the pod before it.
    """
    address: str | None = head_pod["status"].get("podIP") if head_pod is not None else None
    return address


@dataclass
class _Contact:
    """What is remembered of one attempt's driver."""

    submission_id: str
    last_answer: datetime
    history_at: datetime | None = None


class Poller:
    """Asks Ray and the driver of a job, and its initializers' logs if it is told how; see the module's docstring."""

    def __init__(
        self, ray: RayJobsApi, driver: DriverApi, tokens: TokenIssuer, fetches: FetchWatch | None = None
    ) -> None:
        self._ray = ray
        self._driver = driver
        self._tokens = tokens
        self._fetches = fetches
        self._contacts: dict[str, _Contact] = {}
        self._upstream = UpstreamWatch(ray)

    def forget(self, job_uid: str) -> None:
        """The job is gone or over."""
        self._contacts.pop(job_uid, None)
        self._upstream.forget(job_uid)

    async def observe(self, cache: Cache, key: Key, subject: Subject, now: datetime) -> Observed:
        """Everything `decide` wants to know about the job; asks the network only while an attempt may be alive."""
        uid = subject.metadata.uid
        initializers = view_initializers(cache, key, uid)
        cluster = view_cluster(cache, key, uid)
        submission_id = subject.status.submission_id
        over = any(_is_true(subject.status, kind) for kind in (ConditionType.COMPLETE, ConditionType.FAILED))
        if cluster is None or submission_id is None or over:
            self.forget(uid)
            leftovers = view_leftovers(cache, key) if cluster is None else ()
            if self._fetches is not None and cluster is None and not over:
                initializers = await self._fetches.with_progress(cache, key, subject, initializers)
            return Observed(initializers=initializers, cluster=cluster, leftovers=leftovers)
        contact = self._contacts.get(uid)
        if contact is None or contact.submission_id != submission_id:
            contact = self._contacts[uid] = _Contact(submission_id, last_answer=now)
        ray = await self._ask_ray(cluster, uid, submission_id)
        upstream = cluster.trainer == "skyrl"
        ask = self._ask_upstream(cluster, subject, ray, now) if upstream else self._ask_driver(cluster, uid, ray)
        driver = await ask
        if driver is not None:
            contact.last_answer = now
            ray = await self._with_log_of_failing(cluster, subject, driver, ray)
        return Observed(
            initializers=initializers,
            cluster=cluster,
            ray=ray,
            driver=driver,
            driver_silent_since=None if driver is not None else contact.last_answer,
            history=None if upstream else await self._ask_history(cluster, uid, subject.status, driver, contact, now),
        )

    async def _ask_ray(self, cluster: ClusterView, uid: str, submission_id: str) -> RayJob | Unreachable | None:
        if cluster.head_host is None:
            return Unreachable("the head pod is not running")
        try:
            return await self._ray.status(cluster.head_host, self._tokens.ray_token(uid), submission_id)
        except RayUnavailableError as error:
            return Unreachable(str(error))

    async def _with_log_of_failing(
        self, cluster: ClusterView, subject: Subject, driver: DriverStatus, ray: RayJob | Unreachable | None
    ) -> RayJob | Unreachable | None:
        """The log's end of a driver that is about to be stopped for a failure: its cluster may be gone soon."""
        policy = subject.job.spec.failure_policy if subject.job is not None else FailurePolicy()
        failing = driver.phase is DriverPhase.FAILED or judge_pace(driver, policy.stalled_after_steps).stalled
        submission_id = subject.status.submission_id
        if not failing or not isinstance(ray, RayJob) or cluster.head_host is None or submission_id is None:
            return ray
        token = self._tokens.ray_token(subject.metadata.uid)
        try:
            log = await self._ray.log(cluster.head_host, token, submission_id, ray.node, LOG_TAIL_LINES)
        except RayUnavailableError:
            return ray
        return replace(ray, log_tail=log[-LOG_TAIL_BYTES:].strip())

    async def _ask_driver(
        self, cluster: ClusterView, uid: str, ray: RayJob | Unreachable | None
    ) -> DriverStatus | None:
        if cluster.head_host is None or ray is None or (isinstance(ray, RayJob) and ray.state.ended):
            return None
        try:
            return await self._driver.status(cluster.head_host, self._tokens.driver_token(uid))
        except DriverUnavailableError:
            return None

    async def _ask_upstream(
        self, cluster: ClusterView, subject: Subject, ray: RayJob | Unreachable | None, now: datetime
    ) -> DriverStatus | None:
        submission_id, job = subject.status.submission_id, subject.job
        if cluster.head_host is None or not isinstance(ray, RayJob) or submission_id is None:
            return None
        run = Run(
            host=cluster.head_host,
            token=self._tokens.ray_token(subject.metadata.uid),
            submission_id=submission_id,
            attempt=subject.status.attempt or 0,
            bar_counts_steps=job is None or job.spec.config.trainer.algorithm.dynamic_sampling.type is None,
        )
        return await self._upstream.ask(subject.metadata.uid, run, ray, now)

    async def _ask_history(
        self,
        cluster: ClusterView,
        uid: str,
        status: Status,
        driver: DriverStatus | None,
        contact: _Contact,
        now: datetime,
    ) -> History | None:
        if driver is None or cluster.head_host is None:
            return None
        training = status.condition(ConditionType.TRAINING)
        if training is not None and training.reason == reasons.FINISHED:
            return None
        fresh = contact.history_at is not None and now - contact.history_at < HISTORY_INTERVAL
        if fresh and driver.phase is not DriverPhase.FINISHED:
            return None
        try:
            history = await self._driver.history(cluster.head_host, self._tokens.driver_token(uid))
        except DriverUnavailableError:
            return None
        contact.history_at = now
        return history


def _is_true(status: Status, kind: ConditionType) -> bool:
    condition = status.condition(kind)
    return condition is not None and condition.status == "True"
