"""What is done to an operator and timed: jobs created, events mirrored, a restart, and nothing at all.

Times are seconds of this process's clock, from before a request is sent until a watch of this process tells of its
effect. This module must not know which operator it is, and asserts nothing about times.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accounting import WRITES, MachineTime, count_requests, cpu_seconds, difference, memory_megabytes
from sides import CLAIMS, RESYNCING, Ours, Side

from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.kubernetes_api import MERGE_PATCH, KubernetesApi
from rltrain_cluster.processes import ProcessTable

Object = dict[str, Any]

RAY_CLUSTERS = "/apis/ray.io/v1/namespaces/{}/rayclusters"
APPLIED_AT_ONCE = 16
LIMIT_SECONDS = 300.0
IDLE_SECONDS = 30.0
RESYNC_SECONDS = 10
QUIET_SECONDS = 5.0
EVENT_SECONDS = 20.0
LATE_SECONDS = 20.0


@dataclass
class Bench:
    """The cluster, and what the processes of the benchmark are."""

    api: KubernetesApi
    kubectl: Kubectl
    table: ProcessTable
    kubeconfigs: dict[str, Path]
    scratch: Path

    def requests(self, side: Side) -> dict[str, float]:
        """Requests of the side's account so far, by kind."""
        return count_requests(self.kubectl("get", "--raw", "/metrics", what="reading the counters"), side.account)

    def cluster_pids(self) -> list[int]:
        """The control plane's processes."""
        return [record.pid for record in self.table.records().values()]


@dataclass
class Cost:
    """What a window of time cost. CPU and `seconds` in seconds, memory in MB, requests by kind.

    `total_cpu` is that of all processes of the benchmark: control plane, operator and this one.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    api_server_cpu: float = 0.0
    total_cpu: float = 0.0
    memory: float = 0.0
    peak_memory: float = 0.0
    requests: dict[str, float] = field(default_factory=dict)
    other_cores: float = 0.0

    @property
    def writes(self) -> float:
        """Requests that change something that a person asked for or reads."""
        return sum(self.requests.get(kind, 0.0) for kind in (*WRITES, "event"))


@asynccontextmanager
async def accounted(bench: Bench, side: Side) -> AsyncIterator[Cost]:
    """Fills the cost in when the block ends. The process must live through the block."""
    cost = Cost()
    pid, own = side.pid, [side.pid, *bench.cluster_pids(), os.getpid()]
    server = bench.table.records()["kube-apiserver"].pid
    requests = bench.requests(side)
    machine, cpu, server_cpu, began = MachineTime.now(own), cpu_seconds(pid), cpu_seconds(server), time.monotonic()
    yield cost
    side.require_alive(bench.scratch)
    cost.seconds = time.monotonic() - began
    cost.cpu, cost.api_server_cpu = cpu_seconds(pid) - cpu, cpu_seconds(server) - server_cpu
    ended = MachineTime.now(own)
    cost.total_cpu, cost.other_cores = ended.own - machine.own, ended.others_since(machine)
    cost.memory, cost.peak_memory = memory_megabytes(pid)
    cost.requests = difference(bench.requests(side), requests)


@asynccontextmanager
async def followed(bench: Bench, path: str, see: Callable[[Object], None]) -> AsyncIterator[None]:
    """Call `see` with every object below `path` as it is and as it changes, while the block runs."""

    async def follow() -> None:
        async for event in bench.api.watch(path):
            see(event.object)

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def population(bench: Bench, side: Side, namespace: str) -> AsyncIterator[None]:
    """A namespace with the claims that jobs name, and the operator running in it alone until the block ends."""
    await bench.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    for name in CLAIMS:
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        await bench.api.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/persistentvolumeclaims",
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec},
        )
    side.start(bench.kubeconfigs[side.account], bench.scratch, namespace)
    try:
        await asyncio.to_thread(side.wait_ready)
        await create(bench, side, namespace, ["warm-up"])
        yield
    finally:
        side.stop()


@dataclass
class Creation:
    """Seconds from apply to the RayCluster's creation, and how long the API server took to take the job, per job."""

    latencies: list[float] = field(default_factory=list)
    applying: list[float] = field(default_factory=list)
    seconds: float = 0.0  # from the first apply until the last RayCluster
    cost: Cost = field(default_factory=Cost)


async def create(bench: Bench, side: Side, namespace: str, jobs: Sequence[str]) -> Creation:
    """Apply all jobs at once (at most sixteen requests at a time) and wait until all have RayClusters."""
    begun: dict[str, float] = {}
    result = Creation()
    missing, complete = set(jobs), asyncio.Event()
    manifests = [side.job(name, namespace) for name in jobs]

    def see(cluster: Object) -> None:
        owner = cluster["metadata"]["ownerReferences"][0]["name"]
        if owner in missing:
            missing.discard(owner)
            result.latencies.append(time.monotonic() - begun[owner])
            if not missing:
                complete.set()

    turns = asyncio.Semaphore(APPLIED_AT_ONCE)

    async def apply(manifest: Object) -> None:
        async with turns:
            began = begun[manifest["metadata"]["name"]] = time.monotonic()
            await bench.api.request("POST", side.path.format(namespace), manifest)
            result.applying.append(time.monotonic() - began)

    async with followed(bench, RAY_CLUSTERS.format(namespace), see):
        await asyncio.sleep(0.2)  # the watch stands before the first job is applied
        began = time.monotonic()
        await asyncio.gather(*(apply(manifest) for manifest in manifests))
        try:
            await asyncio.wait_for(complete.wait(), LIMIT_SECONDS)
        except TimeoutError as error:
            side.require_alive(bench.scratch)
            log = side.log_tail(bench.scratch)
            raise TimeoutError(f"{side.title}: {len(missing)} RayClusters missing; its log ends:\n{log}") from error
        result.seconds = time.monotonic() - began
    return result


async def settled(bench: Bench, side: Side, namespace: str, count: int) -> None:
    """Until the status of so many jobs says all that it can say without pods."""
    unsettled: dict[str, bool] = {}
    complete = asyncio.Event()

    def see(job: Object) -> None:
        unsettled[job["metadata"]["name"]] = not side.settled(job)
        if len(unsettled) >= count and not any(unsettled.values()):
            complete.set()

    async with followed(bench, side.path.format(namespace), see):
        try:
            await asyncio.wait_for(complete.wait(), LIMIT_SECONDS)
        except TimeoutError as error:
            log = side.log_tail(bench.scratch)
            raise TimeoutError(f"{side.title}: {sum(unsettled.values())} jobs without status; {log}") from error


async def creation(bench: Bench, side: Side, namespace: str, count: int) -> Creation:
    """Create `count` jobs at once; the cost counts until the last job's status is written."""
    async with accounted(bench, side) as cost:
        result = await create(bench, side, namespace, [f"job-{number}" for number in range(count)])
        await settled(bench, side, namespace, count + 1)  # and the one to warm up
    result.cost = cost
    return result


async def one_by_one(bench: Bench, side: Side, namespace: str, count: int) -> Creation:
    """Create a job, wait for its RayCluster, create the next: what a job takes while nothing else happens."""
    result = Creation()
    async with accounted(bench, side) as cost:
        for number in range(count):
            single = await create(bench, side, namespace, [f"job-{number}"])
            result.latencies += single.latencies
            result.applying += single.applying
            result.seconds += single.seconds
        await settled(bench, side, namespace, count + 1)
    result.cost = cost
    return result


@dataclass
class Mirroring:
    """Seconds from a change of a RayCluster's status until the job's status shows it.

    `unseen` were overtaken by the next change of the same RayCluster, or not shown LATE_SECONDS after the last one;
    `refused` are changes that the API server itself did not take in 30 s.
    """

    latencies: list[float] = field(default_factory=list)
    sent: int = 0
    unseen: int = 0
    refused: int = 0
    cost: Cost = field(default_factory=Cost)


async def mirroring(bench: Bench, side: Side, namespace: str, rate: int) -> Mirroring:
    """`rate` times a second another job's workers all become ready, or all stop being so, for EVENT_SECONDS."""
    clusters = (await bench.api.request("GET", RAY_CLUSTERS.format(namespace)))["items"]
    result = Mirroring()
    pending: dict[str, deque[tuple[bool, float]]] = {}
    all_seen = asyncio.Event()

    def see(job: Object) -> None:
        value, waiting = side.mirrored(job), pending.get(job["metadata"]["name"])
        now = time.monotonic()
        while waiting and any(wanted == value for wanted, _ in waiting):
            wanted, sent = waiting.popleft()
            if wanted == value:
                result.latencies.append(now - sent)
                break
            result.unseen += 1
        if not any(pending.values()):
            all_seen.set()

    async def tell(cluster: Object, ready: bool) -> None:
        job = cluster["metadata"]["ownerReferences"][0]["name"]
        event = (ready, time.monotonic())
        pending.setdefault(job, deque()).append(event)
        all_seen.clear()
        path = f"{RAY_CLUSTERS.format(namespace)}/{cluster['metadata']['name']}/status"
        try:
            await bench.api.request("PATCH", path, {"status": _ray_status(cluster, ready)}, content_type=MERGE_PATCH)
        except TimeoutError:
            result.refused += 1
            if event in pending[job]:
                pending[job].remove(event)

    async with followed(bench, side.path.format(namespace), see), accounted(bench, side) as cost:
        began, tasks = time.monotonic(), []
        for number in range(int(rate * EVENT_SECONDS)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            turn, index = divmod(number, len(clusters))
            tasks.append(asyncio.create_task(tell(clusters[index], turn % 2 == 0)))
        await asyncio.gather(*tasks)
        with suppress(TimeoutError):
            await asyncio.wait_for(all_seen.wait(), LATE_SECONDS if any(pending.values()) else 0)
    result.sent = len(tasks)
    result.unseen += sum(len(waiting) for waiting in pending.values())
    result.cost = cost
    return result


def _ray_status(cluster: Object, ready: bool) -> Object:
    """A ready head, and all workers or none. `state` stays away: KubeRay would go on to submit."""
    wanted = sum(group["replicas"] for group in cluster["spec"]["workerGroupSpecs"])
    head = {
        "type": "HeadPodReady",
        "status": "True",
        "reason": "HeadPodRunningAndReady",
        "message": "",
        "lastTransitionTime": cluster["metadata"]["creationTimestamp"],
    }
    return {"readyWorkerReplicas": wanted if ready else 0, "desiredWorkerReplicas": wanted, "conditions": [head]}


@dataclass
class Restart:
    """Seconds from the start of a new process until as many passes are done as there are jobs; then nothing happens."""

    seconds: float = 0.0
    at_start: Cost = field(default_factory=Cost)
    idle: Cost = field(default_factory=Cost)


async def _first_words(bench: Bench, side: Side, namespace: str) -> None:
    """Let every RayCluster say that no worker is ready yet; return when no job changes any more."""
    turns = asyncio.Semaphore(APPLIED_AT_ONCE)

    async def tell(cluster: Object) -> None:
        async with turns:
            path = f"{RAY_CLUSTERS.format(namespace)}/{cluster['metadata']['name']}/status"
            body = {"status": _ray_status(cluster, False)}
            await bench.api.request("PATCH", path, body, content_type=MERGE_PATCH)

    clusters = (await bench.api.request("GET", RAY_CLUSTERS.format(namespace)))["items"]
    await asyncio.gather(*(tell(cluster) for cluster in clusters))
    before: list[str] = []
    while True:
        jobs = (await bench.api.request("GET", side.path.format(namespace)))["items"]
        versions = [job["metadata"]["resourceVersion"] for job in jobs]
        if versions == before:
            return
        before = versions
        await asyncio.sleep(QUIET_SECONDS)


async def restart(bench: Bench, side: Side, namespace: str, jobs: int) -> Restart:
    """Stop the operator, start it anew, wait until every job was looked at, then watch it do nothing for a while.

    Ours lists everything every ten seconds here instead of every ten minutes; KubeRay looks at every RayJob that has
    not ended every three seconds anyway. Before that every RayCluster says its first word, and all jobs repeat it:
    what is written after the restart is written for nothing.
    """
    await _first_words(bench, side, namespace)
    side.stop()
    wrapper = ["-c", RESYNCING.format(seconds=RESYNC_SECONDS)] if isinstance(side, Ours) else []
    result = Restart()
    side.start(bench.kubeconfigs[side.account], bench.scratch, namespace, wrapper)
    async with accounted(bench, side) as result.at_start:
        while await asyncio.to_thread(side.pass_count) < jobs:
            if time.monotonic() - side.started > LIMIT_SECONDS:
                raise TimeoutError(f"{side.title}: not through all jobs after {LIMIT_SECONDS:.0f} s")
            await asyncio.sleep(0.1)
        result.seconds = time.monotonic() - side.started
    async with accounted(bench, side) as result.idle:
        await asyncio.sleep(IDLE_SECONDS)
    return result
