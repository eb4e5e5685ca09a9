"""Prometheus metrics of the operator, each with a line in docs/metrics.md; nothing here is read by decisions.

Names follow Prometheus' conventions. The name of a job is a label of gauges only, and only while the job has a cluster:
so there are never more series than clusters. Sums that outlive jobs are counters by namespace.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import ValidationError

from rltrain_api.status import Accounting, Checkpoint, Phase
from rltrain_operator.kube import Body

_JOB = ("namespace", "name")


class Metrics:
    """All of the operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "rltrain_reconcile_seconds", "Time of one pass over one job.", registry=self.registry
        )
        self.reconcile_failures = Counter(
            "rltrain_reconcile_failures",
            "Passes that ended in an error and are retried.",
            ["error"],
            registry=self.registry,
        )
        self.queue_depth = Gauge("rltrain_queue_depth", "Jobs that wait for a worker.", registry=self.registry)
        self.queue_oldest_seconds = Gauge(
            "rltrain_queue_oldest_seconds", "For how long the first of them has waited.", registry=self.registry
        )
        self.api_requests = Counter(
            "rltrain_api_requests",
            "Requests to the Kubernetes API server; code 0 is no answer.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.api_seconds = Histogram(
            "rltrain_api_request_seconds", "Time of those requests.", ["verb"], registry=self.registry
        )
        self.status_writes = Counter("rltrain_status_writes", "Writes of a job's status.", registry=self.registry)
        self.attempts = Counter("rltrain_attempts", "Attempts of drivers that were submitted.", registry=self.registry)
        self.jobs = Gauge("rltrain_jobs", "RLTrainingJobs by phase.", ["phase"], registry=self.registry)
        self.leader = Gauge("rltrain_leader", "1 while this process holds the lease.", registry=self.registry)
        self.drift = Counter(
            "rltrain_resync_drift",
            "Objects whose change a resync found and a watch had not told.",
            ["resource"],
            registry=self.registry,
        )
        self.gpu_seconds = Counter(
            "rltrain_gpu_seconds", "GPU-seconds that jobs have used.", ["namespace"], registry=self.registry
        )
        self.cluster_seconds = Counter(
            "rltrain_cluster_seconds", "Seconds that jobs had a cluster.", ["namespace"], registry=self.registry
        )
        self.useful_seconds = Counter(
            "rltrain_useful_seconds",
            "Seconds of those that went into steps that were done once; over cluster seconds it is goodput.",
            ["namespace"],
            registry=self.registry,
        )
        self.job_gpus = Gauge("rltrain_job_gpus", "GPUs of a job's ready pods.", _JOB, registry=self.registry)
        self.job_goodput = Gauge(
            "rltrain_job_goodput",
            "Share of a job's time with a cluster that went into steps that were done once.",
            _JOB,
            registry=self.registry,
        )
        self.job_checkpoint_age = Gauge(
            "rltrain_job_checkpoint_age_seconds",
            "Age of a job's newest checkpoint; none before its first.",
            _JOB,
            registry=self.registry,
        )

    def count_accounts(self, namespace: str, old: Accounting | None, new: Accounting | None) -> None:
        """Add what a job's status says that the status before it did not; only for a status that was written."""
        if new is None:
            return
        for counter, field in (
            (self.gpu_seconds, "gpu_seconds"),
            (self.cluster_seconds, "cluster_seconds"),
            (self.useful_seconds, "useful_seconds"),
        ):
            # Accounts that somebody has edited may have fallen; a counter cannot.
            counter.labels(namespace).inc(max(0.0, getattr(new, field) - (getattr(old, field) if old else 0.0)))

    def observe_clusters(self, jobs: Iterable[Body], now: datetime) -> None:
        """Set the gauges of the jobs that have a cluster; those of all others are gone."""
        for gauge in (self.job_gpus, self.job_goodput, self.job_checkpoint_age):
            gauge.clear()
        for job in jobs:
            accounting, checkpoint = _accounts(job)
            if accounting is None or accounting.gpus is None:
                continue
            labels = (job["metadata"]["namespace"], job["metadata"]["name"])
            self.job_gpus.labels(*labels).set(accounting.gpus)
            if accounting.goodput is not None:
                self.job_goodput.labels(*labels).set(accounting.goodput)
            if checkpoint is not None and checkpoint.time is not None:
                age = (now - checkpoint.time).total_seconds()
                self.job_checkpoint_age.labels(*labels).set(max(0.0, age))

    def observe_request(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """One request of the Kubernetes client."""
        self.api_requests.labels(verb, resource, str(code)).inc()
        self.api_seconds.labels(verb).observe(seconds)

    def count_jobs(self, jobs: Iterable[Body]) -> None:
        """Set the gauge of jobs by phase; phases without jobs show 0."""
        tally = Tally(str((job.get("status") or {}).get("phase") or Phase.PENDING.value) for job in jobs)
        for phase in Phase:
            self.jobs.labels(phase.value).set(tally.get(phase.value, 0))


def _accounts(job: Body) -> tuple[Accounting | None, Checkpoint | None]:
    """Two parts of a job's status; all of it would cost a scrape three times as much. None where unreadable."""
    status = job.get("status") or {}
    if status.get("accounting") is None:
        return None, None
    try:
        accounting = Accounting.model_validate(status["accounting"])
        checkpoint = Checkpoint.model_validate(status["checkpoint"]) if status.get("checkpoint") else None
    except ValidationError:
        return None, None
    return accounting, checkpoint
