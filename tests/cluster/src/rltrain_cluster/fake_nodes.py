"""Fake nodes for an API server without any: they keep their leases, and play every pod that is scheduled to them.

A process of the control-plane back end. A node whose annotation `fake.rltrain.io/lost` is "true" falls silent, as a
machine does whose network is gone: no lease, no word about its pods, until the annotation goes. A node whose object is
deleted stays away. How a pod is played is decided by `fake_pods`; this module must not decide it.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import ipaddress
import itertools
import logging
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from rltrain_cluster.fake_pods import PREFIX, Delete, Patch, Wait, decide
from rltrain_cluster.kubernetes_api import APPLY_PATCH, MERGE_PATCH, ApiError, KubernetesApi, Object
from rltrain_cluster.settings import GPU_RESOURCE

LOG = logging.getLogger(__name__)
LOST = f"{PREFIX}lost"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
RETRY_SECONDS = 1.0


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def node_object(name: str) -> Object:
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        f"{PREFIX}node": "true",
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def node_status(gpus: int, time: datetime.datetime) -> Object:
    """A large machine that is well: nothing on it is ever short but GPUs."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ")
    resources = {"cpu": "256", "memory": "2Ti", "ephemeral-storage": "10Ti", "pods": "1000", GPU_RESOURCE: str(gpus)}
    good = {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}
    conditions = [
        {"type": kind, "status": status, "reason": "FakeNode", "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}
        for kind, status in good.items()
    ]
    return {"capacity": resources, "allocatable": resources, "conditions": conditions}


def lease(name: str, seconds: int, time: datetime.datetime) -> Object:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": seconds,
            "renewTime": time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }


def is_lost(node: Object) -> bool:
    return (node["metadata"].get("annotations") or {}).get(LOST) == "true"


def is_ready(node: Object) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


@dataclass
class PlayedPod:
    """A pod as last seen, and a bell that rings when that changes."""

    pod: Object
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, pod: Object) -> None:
        """Take the newer view: our own write may come back before an older event does."""
        if int(pod["metadata"]["resourceVersion"]) > int(self.pod["metadata"]["resourceVersion"]):
            self.pod = pod
            self.changed.set()


class FakeNodes:
    """All fake nodes of one cluster."""

    def __init__(self, api: KubernetesApi, names: list[str], gpus: int, lease_seconds: int) -> None:
        self._api = api
        self._names = names
        self._gpus = gpus
        self._lease_seconds = lease_seconds
        self._nodes: dict[str, Object] = {}
        self._pods: dict[str, PlayedPod] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._addresses = (str(ipaddress.IPv4Address("10.1.0.1") + count) for count in itertools.count())

    async def serve(self) -> None:
        """Register the nodes, then keep them alive and play their pods, for ever."""
        await asyncio.gather(*(self._register(name) for name in self._names))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_nodes())
            group.create_task(self._follow_pods())
            for name in self._names:
                group.create_task(self._keep_lease(name))

    async def _register(self, name: str) -> None:
        try:
            await self._api.request("POST", "/api/v1/nodes", node_object(name))
        except ApiError as error:
            if error.status != 409:  # this agent was restarted: the node is there
                raise
        await self._report_status(name)

    async def _report_status(self, name: str) -> None:
        body = {"status": node_status(self._gpus, now())}
        await self._api.request("PATCH", f"/api/v1/nodes/{name}/status", body, content_type=MERGE_PATCH)

    def _alive(self, name: str) -> bool:
        node = self._nodes.get(name)
        return node is not None and not is_lost(node)

    async def _keep_lease(self, name: str) -> None:
        query = {"fieldManager": "fake-nodes", "force": "true"}
        while True:
            if self._alive(name):
                try:
                    document = lease(name, self._lease_seconds, now())
                    await self._api.request(
                        "PATCH", f"{LEASES}/{name}", document, content_type=APPLY_PATCH, query=query
                    )
                    if not is_ready(self._nodes[name]):  # the controller manager gave the node up in the meantime
                        await self._report_status(name)
                except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                    LOG.warning("lease of %s: %s", name, error)
            await asyncio.sleep(self._lease_seconds / 4)

    async def _follow_nodes(self) -> None:
        query = {"labelSelector": f"{PREFIX}node=true"}
        async for event in self._api.watch("/api/v1/nodes", query=query):
            name = event.object["metadata"]["name"]
            was_alive = self._alive(name)
            if event.kind == "DELETED":
                self._nodes.pop(name, None)
            else:
                self._nodes[name] = event.object
            if self._alive(name) and not was_alive:
                for played in self._pods.values():
                    if played.pod["spec"].get("nodeName") == name:
                        played.changed.set()

    async def _follow_pods(self) -> None:
        async for event in self._api.watch("/api/v1/pods", query={"fieldSelector": "spec.nodeName!="}):
            pod = event.object
            if pod["spec"]["nodeName"] not in self._names:
                continue
            uid = pod["metadata"]["uid"]
            if event.kind == "DELETED":
                self._pods.pop(uid, None)
                task = self._tasks.pop(uid, None)
                if task is not None:
                    task.cancel()
            elif uid in self._pods:
                self._pods[uid].see(pod)
            else:
                self._pods[uid] = PlayedPod(pod)
                self._tasks[uid] = asyncio.create_task(self._play(self._pods[uid], next(self._addresses)))

    async def _play(self, played: PlayedPod, address: str) -> None:
        """Play one pod until it is gone."""
        while True:
            played.changed.clear()
            step = decide(played.pod, now(), address) if self._alive(played.pod["spec"]["nodeName"]) else Wait()
            try:
                if isinstance(step, Wait):
                    await asyncio.wait_for(played.changed.wait(), step.seconds)
                elif isinstance(step, Patch):
                    path = f"{_path(played.pod)}/status"
                    answer = await self._api.request("PATCH", path, {"status": step.status}, content_type=MERGE_PATCH)
                    played.see(answer)
                else:
                    assert isinstance(step, Delete)
                    body: Object = {"gracePeriodSeconds": 0, "preconditions": {"uid": played.pod["metadata"]["uid"]}}
                    await self._api.request("DELETE", _path(played.pod), body)
                    return
            except TimeoutError:
                continue  # the wait is over (or a request was too slow): look again
            except (ApiError, aiohttp.ClientError) as error:
                if isinstance(error, ApiError) and error.status in (404, 409):
                    return  # gone, or replaced by another pod of its name
                LOG.warning("%s: %s", _path(played.pod), error)
                await asyncio.sleep(RETRY_SECONDS)


def _path(pod: Object) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


async def serve(kubeconfig: Path, names: list[str], gpus: int, lease_seconds: int) -> None:
    async with KubernetesApi(kubeconfig) as api:
        await FakeNodes(api, names, gpus, lease_seconds).serve()


def main() -> None:
    parser = argparse.ArgumentParser(description="Play nodes and pods for an API server that has none.")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--gpus", type=int, required=True, help="of each node")
    parser.add_argument("--lease-seconds", type=int, required=True, help="how long a node may be silent")
    parser.add_argument("names", nargs="+", help="the nodes' names")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(serve(options.kubeconfig, options.names, options.gpus, options.lease_seconds))


if __name__ == "__main__":
    main()
