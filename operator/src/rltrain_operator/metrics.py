"""Prometheus metrics of the operator. Names follow Prometheus' conventions; nothing here is read by decisions."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rltrain_api.status import Phase
from rltrain_operator.kube import Body


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

    def observe_request(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """One request of the Kubernetes client."""
        self.api_requests.labels(verb, resource, str(code)).inc()
        self.api_seconds.labels(verb).observe(seconds)

    def count_jobs(self, jobs: Iterable[Body]) -> None:
        """Set the gauge of jobs by phase; phases without jobs show 0."""
        tally = Tally(str((job.get("status") or {}).get("phase") or Phase.PENDING.value) for job in jobs)
        for phase in Phase:
            self.jobs.labels(phase.value).set(tally.get(phase.value, 0))
