"""What a job uses and what comes of it: GPU-seconds, goodput, and the time it spends in each phase of its life.

Pure, and made to be interrupted: what the status holds is the sum until `updated` and the rate since then, so any
process can go on from it, after any pause, as if it had been there all the time. docs/accounting.md defines the
numbers. This module must not know how often it is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rltrain_api.status import Accounting, ConditionType, Status
from rltrain_operator.reconcile.state import ClusterView, Observed


@dataclass(frozen=True)
class Sight:
    """What a pass sees of a job.

    Args:
        gpus: GPUs of the pods that are ready; None where there is no cluster.
        step: Training steps that the present attempt has done; None where no attempt trains.
        over: Whether the job had ended before this pass; its cluster may be there for a while yet.
    """

    gpus: int | None
    step: int | None
    over: bool = False


def account(old: Accounting | None, sight: Sight, now: datetime) -> Accounting | None:
    """The accounts until `now`; None before the first cluster, and unchanged while there is none."""
    if (old is None or old.gpus is None) and sight.gpus is None:
        return old
    old = old or Accounting(gpu_seconds=0, cluster_seconds=0, useful_seconds=0, updated=now)
    # A clock that was set back costs the time between, and no number falls.
    elapsed = max(0.0, (now - old.updated).total_seconds())
    cluster_seconds = old.cluster_seconds + (elapsed if old.gpus is not None and not sight.over else 0.0)
    steps, since, useful = _useful(old, sight.step, now)
    useful_seconds = min(old.useful_seconds + useful, cluster_seconds)
    return Accounting(
        gpu_seconds=round(old.gpu_seconds + elapsed * (old.gpus or 0), 1),
        goodput=round(useful_seconds / cluster_seconds, 4) if cluster_seconds else None,
        cluster_seconds=round(cluster_seconds, 1),
        useful_seconds=round(useful_seconds, 1),
        steps=steps,
        gpus=sight.gpus,
        step_since=since,
        updated=max(now, old.updated),
    )


def _useful(old: Accounting, step: int | None, now: datetime) -> tuple[int, datetime | None, float]:
    """The highest step that counts, since when the one after it is worked on, and the seconds that count now.

    A step below the highest is one that a restart does again: its time counts for nothing.
    """
    if step is None:
        return old.steps, None, 0.0
    if old.step_since is None:
        # Steps done before anybody looked: their time is not known, so it does not count.
        return max(old.steps, step), now if step >= old.steps else None, 0.0
    if step > old.steps:
        return step, max(now, old.step_since), max(0.0, (now - old.step_since).total_seconds())
    return old.steps, old.step_since, 0.0


def with_accounts(old: Status, new: Status, observed: Observed, now: datetime) -> Status:
    """`new`, decided on `old`, with its accounts, the time in its phases and since when it is in the present one."""
    working = _holds(new, ConditionType.TRAINING)
    done = new.progress.step if new.progress is not None else None
    sight = Sight(
        gpus=_gpus(observed.cluster),
        step=(done or 0) if working else None,
        over=_holds(old, ConditionType.COMPLETE) or _holds(old, ConditionType.FAILED),
    )
    phase_since, durations = time_in_phases(old, new, now)
    accounting = account(old.accounting, sight, now)
    return new.model_copy(update={"accounting": accounting, "phase_since": phase_since, "durations": durations})


def _gpus(cluster: ClusterView | None) -> int | None:
    """GPUs of ready pods; a cluster that a queue holds back, and which has no pods, is none."""
    if cluster is None or (cluster.queue is not None and cluster.queue.suspended and not cluster.ready_gpus):
        return None
    return cluster.ready_gpus


def time_in_phases(old: Status, new: Status, now: datetime) -> tuple[datetime | None, dict[str, float] | None]:
    """Since when the job is in its phase, and `new`'s durations with the seconds of the phase that has just ended."""
    if new.phase == old.phase:
        return old.phase_since, new.durations
    if old.phase is None or old.phase_since is None:
        return now, new.durations
    name, seconds = old.phase.value.lower(), max(0.0, (now - old.phase_since).total_seconds())
    durations = dict(new.durations or {})
    durations[name] = round(durations.get(name, 0.0) + seconds, 1)
    return now, durations


def _holds(status: Status, kind: ConditionType) -> bool:
    condition = status.condition(kind)
    return condition is not None and condition.status == "True"
