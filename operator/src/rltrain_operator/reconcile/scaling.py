"""The number of engines of a run that goes on: how many the spec asks for, and the next step towards it.

    more    pods first (ResizeEngines), then, pod by pod as they become ready, the driver (WantEngines)
    fewer   the driver first (WantEngines), which drains; then the pods without an engine (ResizeEngines)

Everything follows from what is: the replicas of the cluster's inference group, its pods, and what the driver says. So a
wish that is taken back half-way is only another wish, and a step that was lost is taken again. Training never waits for
any of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from rltrain_api.status import ConditionType
from rltrain_api.wire import DriverStatus, EngineState
from rltrain_operator.plan import engines_of
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.edits import Edit, can_scale, edit
from rltrain_operator.reconcile.state import EngineGroup, EnginePod, ResizeEngines, WantEngines


def desired_engines(draft: Draft) -> int | None:
    """How many engines there shall be; None where their number cannot change, or an edit of more is not applied."""
    job, cluster = draft.subject.job, draft.observed.cluster
    if job is None or cluster is None or cluster.engine_group is None or cluster.deleting:
        return None
    if not can_scale(job) or edit(draft) not in (Edit.NOTHING, Edit.ENGINES):
        return None
    return engines_of(job)


def level_engines(draft: Draft, driver: DriverStatus) -> None:
    """One step towards the number of engines that is asked for, while a driver runs; nothing where it is there."""
    desired, group = desired_engines(draft), _group(draft)
    if desired is None or group is None or driver.engines_wanted is None or driver.stopping:
        return
    cluster = draft.observed.cluster
    assert cluster is not None, "a group is a cluster's"
    if group.replicas < desired:
        draft.act(ResizeEngines(cluster.uid, group, desired))
    # Never more than have a pod, and never fewer than it has been told already because one of them is away.
    target = min(desired, max(ready_replicas(group), driver.engines_wanted, 1))
    if driver.engines_wanted != target:
        draft.act(WantEngines(target))
    elif group.replicas > desired and _has_drained(driver, desired):
        draft.act(ResizeEngines(cluster.uid, group, desired, leaving_pods(group, driver, desired)))
    if group.replicas != desired or driver.engines_wanted != desired:
        since = _unready_since(draft)
        reason = reasons.ENGINES_NOT_AVAILABLE if is_late(draft, since) else reasons.SCALING_ENGINES
        message = f"training goes on while its {driver.engines_wanted} engines become {desired}"
        draft.conditions.set(ConditionType.RECONCILING, True, reason, message)


def resize_between_attempts(draft: Draft) -> str | None:
    """Give the group its size while no driver runs; what is then to be waited for."""
    desired, group, cluster = desired_engines(draft), _group(draft), draft.observed.cluster
    if desired is None or group is None or cluster is None or group.replicas == desired:
        return None
    draft.act(ResizeEngines(cluster.uid, group, desired))
    return f"the cluster to be resized from {group.replicas} to {desired} engines"


def state_engines(draft: Draft, ready: int, desired: int, *, driver_answers: bool) -> None:
    """EnginesReady: how many serve, and what keeps the others away, for how long."""
    if ready > desired:
        message = f"{ready} engines serve and {desired} are wanted: the others are drained"
    else:
        message = f"{ready} of {desired} engines serve"
    if driver_answers and ready >= desired:
        draft.conditions.set(ConditionType.ENGINES_READY, True, reasons.ENGINES_READY, message)
        return
    group, reason = _group(draft), reasons.ENGINES_NOT_READY
    missing = desired - ready_replicas(group) if group is not None else 0
    if driver_answers and ready and missing > 0:
        since = _unready_since(draft)
        seconds = _patience(draft)
        if is_late(draft, since):
            reason = reasons.ENGINES_NOT_AVAILABLE
            message += f"; the pods of {missing} did not come within spec.startupDeadlineSeconds ({seconds:.0f} s)"
        else:
            due = since + timedelta(seconds=seconds)
            message += f"; the pods of {missing} are awaited until {due:%H:%M:%S} UTC"
            draft.look_again_at(due)
        cluster = draft.observed.cluster
        why = [*draft.observed.shortfalls, *(cluster.troubles if cluster is not None else ())]
        message += ", and training goes on with the others" + (f": {'; '.join(why)}" if why else "")
    draft.conditions.set(ConditionType.ENGINES_READY, False, reason, message)


def is_late(draft: Draft, since: datetime) -> bool:
    """Whether engines have been awaited for longer than a start may take."""
    return draft.now >= since + timedelta(seconds=_patience(draft))


def ready_replicas(group: EngineGroup) -> int:
    """Engines whose pods are all ready."""
    return sum(len(pods) >= group.hosts and all(pod.ready for pod in pods) for pods in _by_replica(group.pods).values())


def leaving_pods(group: EngineGroup, driver: DriverStatus, desired: int) -> tuple[str, ...]:
    """The pods to name: of as many replicas as are too many, those without an engine, unready ones first.

    What KubeRay then still has to pick itself are pods that have not been seen here yet.
    """
    replicas = _by_replica(group.pods)
    with_engine = {engine.pod for engine in driver.engines}
    free = [name for name, pods in replicas.items() if not any(pod.name in with_engine for pod in pods)]
    free.sort(key=lambda name: (all(pod.ready for pod in replicas[name]), name))
    surplus = max(0, len(replicas) - desired)
    return tuple(sorted(pod.name for name in free[:surplus] for pod in replicas[name]))


def _group(draft: Draft) -> EngineGroup | None:
    cluster = draft.observed.cluster
    return cluster.engine_group if cluster is not None else None


def _by_replica(pods: Sequence[EnginePod]) -> dict[str, list[EnginePod]]:
    found: dict[str, list[EnginePod]] = {}
    for pod in pods:
        found.setdefault(pod.replica, []).append(pod)
    return found


def _has_drained(driver: DriverStatus, desired: int) -> bool:
    draining = any(engine.state is EngineState.DRAINING for engine in driver.engines)
    return not draining and len(driver.engines) <= desired


def _unready_since(draft: Draft) -> datetime:
    """Since when not all engines serve; now, where they have until now."""
    condition = draft.conditions.get(ConditionType.ENGINES_READY)
    return condition.last_transition_time if condition is not None and condition.status == "False" else draft.now


def _patience(draft: Draft) -> float:
    return float(draft.spec.startup_deadline_seconds if draft.spec else 1800)
