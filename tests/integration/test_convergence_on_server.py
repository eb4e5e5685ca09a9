"""Whatever goes wrong on the way, a job ends in the same state with each child made once: on a real API server.

KubeRay's operator, the controllers of Kubernetes and fake nodes are real; Ray and the driver stand in for pods that do
not run. What the simulated lives (tests/property) draw without end is drawn here a bounded number of times.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from api_server import changed, example
from audit import Audit, audited
from faulty_calls import Faults, FaultyKube, ProcessDied, StandInDriver, StandInRay
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.kubernetes_api import KubernetesApi
from rltrain_operator.cache import WATCHED_CHILDREN, Cache, job_key
from rltrain_operator.driver_client import DriverUnavailableError
from rltrain_operator.events import EventRecorder
from rltrain_operator.kube import ApiError, Body, KubeClient, Resource, TokenBucket, named_context
from rltrain_operator.kube.resources import (
    BATCH_JOBS,
    CLAIMS,
    CONFIG_MAPS,
    DISRUPTION_BUDGETS,
    EVENTS,
    RAY_CLUSTERS,
    RL_TRAINING_JOBS,
    SECRETS,
)
from rltrain_operator.metrics import Metrics
from rltrain_operator.rayjobs import RayUnavailableError
from rltrain_operator.reconcile.apply import Applier
from rltrain_operator.reconcile.controller import Controller
from rltrain_operator.reconcile.observe import Poller
from rltrain_operator.resync import resync
from rltrain_operator.tokens import TokenIssuer

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]

SECONDS = 240  # for all lives of a test together
PAUSE_SECONDS = 0.3  # between the passes of one life
WATCHED = (RL_TRAINING_JOBS, *WATCHED_CHILDREN)
MADE = (RAY_CLUSTERS, BATCH_JOBS, CLAIMS, CONFIG_MAPS, SECRETS, DISRUPTION_BUDGETS)
CHILDREN = {
    ("configmaps", "-config-1"),
    ("configmaps", "-history"),
    ("secrets", "-tokens"),
    ("persistentvolumeclaims", "-checkpoints"),
    ("persistentvolumeclaims", "-data"),
    ("jobs", "-init-arithmetic"),
    ("poddisruptionbudgets", ""),
    ("rayclusters", ""),
}
# All of those that make something at first, then every third; the simulated lives die after every single one.
FATAL_WRITES = (*range(14), *range(14, 33, 3))
SEEDS = range(6)


@dataclass(frozen=True)
class Place:
    """The API server, and a namespace of these tests."""

    kubeconfig: Path
    namespace: str


@pytest.fixture(scope="module")
def place(control_plane: Kubectl) -> Iterator[Place]:
    """A namespace with an account for pods."""
    namespace = f"lives-{uuid.uuid4().hex[:6]}"
    control_plane.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}], "a namespace")
    control_plane("wait", "--for=create", "serviceaccount/default", f"--namespace={namespace}", what="an account")
    assert control_plane.kubeconfig is not None
    yield Place(control_plane.kubeconfig, namespace)
    control_plane("delete", "namespace", namespace, "--wait=false", what="cleaning up")


def job_document(namespace: str, name: str) -> Body:
    """The quickstart with one trainer and one engine, whose first attempt fails; its cluster goes when it ends."""
    changes = {
        "metadata": {"name": name, "namespace": namespace},
        "spec.config.trainer.placement.policy_num_gpus_per_node": 1,
        "spec.config.generator.inference_engine.num_engines": 1,
        "spec.failurePolicy": {"backoffLimit": 3, "restartDelaySeconds": 0},
        "spec.ttlSecondsAfterFinished": 0,
    }
    return changed(example("quickstart.yaml"), changes)


@dataclass
class Ears:
    """What one operator hears of its job: late, twice, and again when it is long past."""

    draw: random.Random
    waiting: list[tuple[str, Resource, Body]] = field(default_factory=list)
    past: dict[str, list[tuple[str, Resource, Body]]] = field(default_factory=dict)

    def hear(self, cache: Cache) -> None:
        """Tell the cache a part of what waits, in order, and some of it again."""
        count = len(self.waiting) if self.draw.random() < 0.6 else self.draw.randint(0, len(self.waiting))
        for event in self.waiting[:count]:
            for _ in range(self.draw.choice([1, 1, 2])):
                _tell(cache, event)
            kind, _, body = event
            uid = body["metadata"]["uid"]
            if kind == "DELETED":
                self.past.pop(uid, None)  # no watch tells of an object as it was after it has told of its end
            else:
                self.past.setdefault(uid, []).append(event)
        del self.waiting[:count]
        if self.past and self.draw.random() < 0.5:
            versions = self.past[self.draw.choice(sorted(self.past))]
            _tell(cache, self.draw.choice(versions))


def _tell(cache: Cache, event: tuple[str, Resource, Body]) -> None:
    kind, resource, body = event
    if kind == "DELETED":
        cache.remove(resource, body)
    else:
        cache.upsert(resource, dict(body, metadata=dict(body["metadata"])))


@dataclass
class Life:
    """A job, its operator, and what goes wrong between it and the API server."""

    namespace: str
    name: str
    kube: KubeClient
    faults: Faults
    ears: Ears
    ray: StandInRay = field(init=False)

    def __post_init__(self) -> None:
        self.ray = StandInRay(self.faults)

    async def operator(self) -> tuple[Cache, Controller]:
        """A new process: it lists before it does anything."""
        kube, tokens, cache = FaultyKube(self.kube, self.faults), TokenIssuer(b"k" * 32), Cache()
        driver = StandInDriver(self.ray)
        await resync(self.kube, cache, [self.namespace], lambda *_: None)
        controller = Controller(
            kube=kube,
            cache=cache,
            poller=Poller(self.ray, driver, tokens),
            applier=Applier(kube, cache, self.ray, driver, tokens),
            recorder=EventRecorder(kube),
            metrics=Metrics(),
        )
        return cache, controller

    async def live(self, deadline: float) -> Body:
        """From the job's creation until it is over and its cluster is gone; returns the job as it is then."""
        await self.kube.create(job_document(self.namespace, self.name))
        key = (self.namespace, self.name)
        cache, controller = await self.operator()
        while True:
            assert time.monotonic() < deadline, f"{self.name}: {cache.job(key)}"
            self.ears.hear(cache)
            try:
                await controller.reconcile(key)
            except ProcessDied:
                cache, controller = await self.operator()
            except (ApiError, RayUnavailableError, DriverUnavailableError):
                pass  # the queue would try again, and so does the next pass
            job = await self.kube.get(RL_TRAINING_JOBS, *key)
            if is_over(job) and not self.ears.waiting and cache.child(key, RAY_CLUSTERS, self.name) is None:
                return job
            await asyncio.sleep(PAUSE_SECONDS)


def is_over(job: Body) -> bool:
    return "completionTime" in (job.get("status") or {})


def end_of(job: Body, ray: StandInRay) -> dict[str, Any]:
    """What must be the same at the end of every life."""
    status = job["status"]
    return {
        "phase": status["phase"],
        "attempt": status["attempt"],
        "step": status["progress"]["step"],
        "failures": status.get("failures", 0),
        "last failure": status["lastFailure"]["reason"],
        "conditions": {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]},
        "named": [name in status for name in ("rayCluster", "resolvedConfig", "startTime", "completionTime")],
        "submissions": ray.submissions,
    }


@asynccontextmanager
async def lives_of(place: Place, faults: dict[str, Faults]) -> AsyncIterator[tuple[list[Life], Audit]]:
    """A life under each name with these faults, an ear for each, and the API server's own account."""
    draws = {name: random.Random(name) for name in faults}
    ears = {(place.namespace, name): Ears(draws[name]) for name in faults}

    def hear(kind: str, resource: Resource, body: Body) -> None:
        key = job_key(resource, body) if resource in WATCHED else None
        if key in ears:
            ears[key].waiting.append((kind, resource, body))

    connection = named_context(place.kubeconfig)
    async with (
        KubernetesApi(place.kubeconfig) as api,
        KubeClient(connection, bucket=TokenBucket(1000, 1000)) as kube,
        audited(api, place.namespace, {*WATCHED, *MADE, EVENTS}, hear) as audit,
    ):
        yield [Life(place.namespace, name, kube, faults[name], ears[(place.namespace, name)]) for name in faults], audit


async def live_all(lives: list[Life]) -> dict[str, dict[str, Any]]:
    """All at the same time; the end of each."""
    deadline = time.monotonic() + SECONDS
    jobs = await asyncio.gather(*(life.live(deadline) for life in lives))
    return {life.name: end_of(job, life.ray) for life, job in zip(lives, jobs, strict=True)}


def assert_made_once(audit: Audit, lives: list[Life]) -> None:
    """Every child of every life was made, and made once; what must stay is there; nothing was said twice."""
    for life in lives:
        plurals = {resource.plural for resource in MADE}
        made = {key: count for key, count in audit.made(life.name).items() if key[0] in plurals}
        assert made == dict.fromkeys(CHILDREN, 1), life.name
        left = {key for key in audit.left(life.name) if key[0] in plurals}
        assert left == CHILDREN - {("rayclusters", "")}, life.name
    told = [
        (one["involvedObject"]["uid"], one["reason"], one["message"])
        for (plural, _), one in audit.present.items()
        if plural == EVENTS.plural and one["involvedObject"]["kind"] == "RLTrainingJob"
    ]
    assert told
    assert len(told) == len(set(told))


EXPECTED = {
    "phase": "Succeeded",
    "attempt": 2,
    "step": 4,
    "failures": 1,
    "last failure": "DriverFailed",
    "submissions": 2,
}


async def test_the_process_may_die_after_any_write(place: Place) -> None:
    faults = {f"dies-{number:02}": Faults(fatal_write=number) for number in FATAL_WRITES} | {"calm": Faults()}
    async with lives_of(place, faults) as (lives, audit):
        ends = await live_all(lives)
        assert_made_once(audit, lives)
    whole = ends.pop("calm")
    assert sum(life.faults.deaths for life in lives) > 14, "there are fewer writes than deaths were planned"
    assert EXPECTED.items() <= whole.items()
    assert {name: end for name, end in ends.items() if end != whole} == {}


async def test_any_call_may_be_refused_or_stay_without_an_answer(place: Place) -> None:
    faults = {f"faulty-{seed}": Faults(random.Random(seed), share=0.4) for seed in SEEDS} | {"answered": Faults()}
    async with lives_of(place, faults) as (lives, audit):
        ends = await live_all(lives)
        assert_made_once(audit, lives)
    whole = ends.pop("answered")
    assert EXPECTED.items() <= whole.items()
    assert {name: end for name, end in ends.items() if end != whole} == {}
