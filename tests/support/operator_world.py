"""A cluster that fails on command, and the operator in it: the model for what a real cluster cannot be told to do.

Every call may be refused, may be carried out without an answer, or may be the last thing the operator's process does;
what the operator sees arrives late, twice and out of order. The operator's own code is all real.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from rltrain_api import names
from rltrain_api.wire import (
    CheckpointRequest,
    CheckpointStatus,
    DriverPhase,
    DriverStatus,
    EnginesRequest,
    EngineState,
    EngineStatus,
    History,
    HistoryPoint,
    RunDocument,
    StopRequest,
)
from rltrain_operator.cache import WATCHED_CHILDREN, Cache
from rltrain_operator.driver_client import DriverUnavailableError
from rltrain_operator.events import EventRecorder
from rltrain_operator.kube import (
    AlreadyExistsError,
    ApiError,
    Body,
    ConflictError,
    InvalidError,
    NotFoundError,
    Resource,
    TooManyRequestsError,
    UnavailableError,
)
from rltrain_operator.kube.resources import (
    BATCH_JOBS,
    PODS,
    RAY_CLUSTERS,
    RL_TRAINING_JOBS,
    resource_of,
)
from rltrain_operator.metrics import Metrics
from rltrain_operator.rayjobs import RayJob, RayJobState, RayUnavailableError
from rltrain_operator.reconcile.apply import Applier
from rltrain_operator.reconcile.controller import Controller
from rltrain_operator.reconcile.observe import Poller
from rltrain_operator.tokens import TokenIssuer

ROOT = Path(__file__).parents[2]


NAMESPACE, JOB = "team", "quickstart"


KEY = (NAMESPACE, JOB)


WATCHED = (RL_TRAINING_JOBS, *WATCHED_CHILDREN)


START = datetime(2026, 1, 1, tzinfo=UTC)


STEPS = 6


CHECKPOINT_EVERY = 2


WISHES = ("suspend", "resume", "edit config", "edit pods", "ask for a restart", "ask for a checkpoint", "scale")


class ProcessDied(BaseException):
    """The operator's process ends at this very point."""


class Faults:
    """What goes wrong with the next calls, in order; when the list is used up, nothing does."""

    def __init__(self, planned: list[str], *, fatal_write: int | None = None) -> None:
        self._planned = list(planned)
        self._fatal_write = fatal_write
        self.asked = 0
        self.writes = 0

    def next(self) -> str:
        self.asked += 1
        return self._planned.pop(0) if self._planned else "fine"

    def next_write(self) -> str:
        """As `next`, of a call that changes something; after the one with the fatal number the process dies."""
        self.writes += 1
        fault = self.next()
        return "died after" if self.writes - 1 == self._fatal_write else fault

    def before(self, fault: str, error: Exception) -> None:
        if fault == "refused":
            raise error
        if fault == "died before":
            raise ProcessDied

    def after(self, fault: str, error: Exception) -> None:
        if fault == "no answer":
            raise error
        if fault == "died after":
            raise ProcessDied


@dataclass
class Driver:
    """One driver process: a step per tick, a checkpoint now and then, and it may be told to fail at a step.

    It fails by exiting, or by reporting the failure and hanging: then it ends only when it is stopped.
    """

    attempt: int
    first_step: int
    failure: tuple[int, str] | None
    phase: DriverPhase = DriverPhase.STARTING
    state: RayJobState = RayJobState.RUNNING
    step: int = 0
    config: Body = field(default_factory=dict)
    stop_wanted: bool = False
    dismissed: bool = False
    lingers: int = 3
    open_request: str | None = None
    saved_request: str | None = None
    engines_wanted: int = 0
    engines: dict[str, EngineState] = field(default_factory=dict)  # by pod


@dataclass
class World:
    """The API server, KubeRay, the batch controller, Ray and the drivers, as far as the operator can tell."""

    faults: Faults
    failures: list[tuple[int, str]]
    now: datetime = START
    version: int = 100
    objects: dict[tuple[str, str], Body] = field(default_factory=dict)
    events: list[tuple[str, Resource, Body]] = field(default_factory=list)
    created: Counter[tuple[str, str]] = field(default_factory=Counter)
    writes: int = 0
    drivers: dict[str, Driver] = field(default_factory=dict)
    submissions: Counter[str] = field(default_factory=Counter)
    newest_checkpoint: int = 0
    head_restarts: int = 0
    head_address: str | None = None
    steps: int = STEPS
    answered: Counter[str] = field(default_factory=Counter)
    leaving: list[str] = field(default_factory=list)
    drivers_of_old_clusters: dict[str, Driver] = field(default_factory=dict)
    engine_pods: int = 0  # made so far
    room_for_engines: int = 100

    # -- the API server

    def _store(self, resource: Resource, body: Body) -> Body:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.objects[(resource.plural, body["metadata"]["name"])] = body
        if resource in WATCHED:
            self.events.append(("MODIFIED", resource, copy.deepcopy(body)))
        return copy.deepcopy(body)

    def _remove(self, resource: Resource, name: str) -> None:
        assert resource in WATCHED
        body = self.objects.pop((resource.plural, name))
        self.events.append(("DELETED", resource, copy.deepcopy(body)))

    async def get(self, resource: Resource, namespace: str, name: str) -> Body:
        fault = self.faults.next()
        self.faults.before(fault, UnavailableError(0, "timeout"))
        if (resource.plural, name) not in self.objects:
            raise NotFoundError(404, f"{resource.plural} {name} not found")
        return copy.deepcopy(self.objects[(resource.plural, name)])

    async def create(self, manifest: Body) -> Body:
        resource, name = resource_of(manifest), manifest["metadata"]["name"]
        fault = self.faults.next_write()
        self.faults.before(fault, TooManyRequestsError(429, "busy", retry_after=1))
        if (resource.plural, name) in self.objects:
            raise AlreadyExistsError(409, f"{name} exists")
        if resource is RAY_CLUSTERS:
            assert not [key for key in self.objects if key[0] == PODS.plural], "KubeRay would take them for its own"
        self.writes += 1
        self.created[(resource.plural, name)] += 1
        body = copy.deepcopy(manifest)
        body["metadata"]["uid"] = f"uid-{self.version}"
        body["metadata"]["creationTimestamp"] = self.now.isoformat().replace("+00:00", "Z")
        live = self._store(resource, body)
        self.faults.after(fault, UnavailableError(504, "gateway timeout"))
        return live

    async def apply(self, manifest: Body, *, field_manager: str, subresource: str | None = None) -> Body:
        assert field_manager == names.FIELD_MANAGER
        resource, metadata = resource_of(manifest), manifest["metadata"]
        fault = self.faults.next_write()
        self.faults.before(fault, ConflictError(409, "changed"))
        live = self.objects.get((resource.plural, metadata["name"]))
        if live is None:
            raise NotFoundError(404, "gone")
        if metadata.get("uid", live["metadata"]["uid"]) != live["metadata"]["uid"]:
            raise ConflictError(409, "another object")
        if metadata.get("resourceVersion", live["metadata"]["resourceVersion"]) != live["metadata"]["resourceVersion"]:
            raise ConflictError(409, "changed since")
        self.writes += 1
        changed = copy.deepcopy(live)
        if subresource == "status":
            self._check_status(live.get("status") or {}, manifest["status"])
            changed["status"] = copy.deepcopy(manifest["status"])
        else:
            changed["data"] = copy.deepcopy(manifest["data"])
        result = self._store(resource, changed)
        self.faults.after(fault, UnavailableError(0, "connection reset"))
        return result

    async def patch(self, resource: Resource, namespace: str, name: str, operations: list[Body]) -> Body:
        """A JSON patch: its tests hold, or nothing is done."""
        fault = self.faults.next_write()
        self.faults.before(fault, UnavailableError(0, "timeout"))
        live = self.objects.get((resource.plural, name))
        if live is None:
            raise NotFoundError(404, "gone")
        changed = copy.deepcopy(live)
        for operation in operations:
            *parents, key = operation["path"].strip("/").split("/")
            place: Any = changed
            for parent in parents:
                place = place[int(parent)] if isinstance(place, list) else place[parent]
            if operation["op"] == "test" and place[key] != operation["value"]:
                raise InvalidError(422, "the test operation failed")
            place[key] = operation["value"]
        self.writes += 1
        result = self._store(resource, changed)
        self.faults.after(fault, UnavailableError(0, "timeout"))
        return result

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        fault = self.faults.next_write()
        self.faults.before(fault, UnavailableError(500, "etcd"))
        live = self.objects.get((resource.plural, name))
        if live is None:
            raise NotFoundError(404, "gone")
        assert live["metadata"]["uid"] == uid, "the operator deletes only what it decided about"
        self.writes += 1
        self._remove(resource, name)
        self.leaving = [key[1] for key in self.objects if key[0] == PODS.plural]  # they take their time
        self.head_address = None
        for driver in self.drivers.values():
            driver.state = RayJobState.STOPPED if driver.state is RayJobState.RUNNING else driver.state
        self.drivers_of_old_clusters.update(self.drivers)
        self.faults.after(fault, UnavailableError(0, "timeout"))

    def _check_status(self, old: Body, new: Body) -> None:
        """What must hold between any two statuses of one job."""
        assert new["attempt"] >= old.get("attempt", 0), "attempts only count up"
        assert new["attempt"] <= old.get("attempt", 0) + 1, "no attempt is skipped"
        if new.get("phase") == "Suspended":
            left = [key for key in self.objects if key[0] in (RAY_CLUSTERS.plural, PODS.plural)]
            assert not left, "a suspended job has given everything back"
        if "progress" in new and "step" in new["progress"]:
            shown = new.get("checkpoint", {}).get("latestStep", 0)
            assert new["progress"]["step"] >= shown, "the step never falls below the newest checkpoint"

    # -- controllers of the cluster, one step each

    def run_controllers(self) -> None:
        while self.leaving:
            self._remove(PODS, self.leaving.pop())
        for (plural, name), body in list(self.objects.items()):
            if plural == BATCH_JOBS.plural:
                self._run_batch_job(name, body)
            elif plural == RAY_CLUSTERS.plural:
                self._run_ray_cluster(body)
        for driver in self.drivers.values():
            self._run_driver(driver)

    def _run_batch_job(self, name: str, body: Body) -> None:
        if not body.get("status"):
            body["status"] = {"active": 1}
        elif "conditions" not in body["status"]:
            body["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
        else:
            return
        self._store(BATCH_JOBS, body)

    def _run_ray_cluster(self, body: Body) -> None:
        if self.head_address is None:
            self.head_restarts += 1
            self.head_address = f"10.0.0.{self.head_restarts}"
            labels = {names.JOB_LABEL: JOB, names.ROLE_LABEL: names.ROLE_HEAD, "ray.io/cluster": JOB}
            metadata = {"name": f"head-{self.head_restarts}", "namespace": NAMESPACE, "labels": labels, "uid": "pod"}
            status = {"phase": "Running", "podIP": self.head_address}
            self._store(PODS, {"metadata": metadata, "status": status})
        else:
            ready = 1 + self._run_engine_pods(self._engine_group(body))
            if (body.get("status") or {}).get("readyWorkerReplicas") != ready:
                conditions = [{"type": "HeadPodReady", "status": "True"}]
                body["status"] = {"conditions": conditions, "readyWorkerReplicas": ready}
                self._store(RAY_CLUSTERS, body)

    @staticmethod
    def _engine_group(body: Body) -> Body:
        groups: list[Body] = body["spec"]["workerGroupSpecs"]
        return next(group for group in groups if group["groupName"] == names.ROLE_INFERENCE)

    def pods_of_engines(self) -> list[str]:
        pods = [body for key, body in self.objects.items() if key[0] == PODS.plural]
        labelled = [pod for pod in pods if pod["metadata"]["labels"][names.ROLE_LABEL] == names.ROLE_INFERENCE]
        return [pod["metadata"]["name"] for pod in labelled]

    def _run_engine_pods(self, group: Body) -> int:
        """As KubeRay does: named pods go whatever the replicas are, then any that are too many; how many there are."""
        wanted, there = group["replicas"], self.pods_of_engines()
        leaving = [name for name in (group.get("scaleStrategy") or {}).get("workersToDelete", []) if name in there]
        left = [name for name in there if name not in leaving]
        leaving += left[: max(0, len(left) - wanted)]
        for name in leaving:
            for driver in self.drivers.values():
                alive = driver.state is RayJobState.RUNNING and driver.phase is DriverPhase.TRAINING
                assert not (alive and not driver.stop_wanted and name in driver.engines), "an engine was not drained"
            self._remove(PODS, name)
        for _ in range(min(wanted, self.room_for_engines) - len(self.pods_of_engines())):
            self.engine_pods += 1
            labels = {names.JOB_LABEL: JOB, names.ROLE_LABEL: names.ROLE_INFERENCE, "ray.io/cluster": JOB}
            metadata = {"name": f"engine-{self.engine_pods}", "namespace": NAMESPACE, "labels": labels, "uid": "pod"}
            ready = [{"type": "Ready", "status": "True"}]
            self._store(PODS, {"metadata": metadata, "status": {"phase": "Running", "conditions": ready}})
        return len(self.pods_of_engines())

    def _run_driver(self, driver: Driver) -> None:
        if driver.state is not RayJobState.RUNNING:
            return
        self._run_engines(driver)
        if driver.phase is DriverPhase.STARTING:
            driver.phase, driver.step = DriverPhase.TRAINING, driver.first_step
        elif driver.phase is DriverPhase.TRAINING and driver.stop_wanted:
            self.newest_checkpoint = max(self.newest_checkpoint, driver.step)
            self._answer(driver)
            driver.phase = DriverPhase.STOPPED
        elif driver.phase is DriverPhase.STOPPED:
            driver.lingers -= 1
            if driver.dismissed or not driver.lingers:
                driver.state = RayJobState.FAILED  # exit code 3
        elif driver.phase is DriverPhase.TRAINING:
            if driver.failure is not None and driver.step >= driver.failure[0]:
                self._fail_driver(driver, driver.failure[1])
                return
            driver.step += 1
            if driver.open_request is not None:
                self.newest_checkpoint = max(self.newest_checkpoint, driver.step)
                self._answer(driver)
            if driver.step % CHECKPOINT_EVERY == 0:
                self.newest_checkpoint = max(self.newest_checkpoint, driver.step)
            if driver.step >= self.steps:
                driver.phase = DriverPhase.FINISHED
        elif driver.dismissed and driver.phase is DriverPhase.FINISHED:
            driver.state = RayJobState.SUCCEEDED

    def _run_engines(self, driver: Driver) -> None:
        """Engines that drain end, those that are too many begin to, and free pods get new ones."""
        there = self.pods_of_engines()
        for pod in [pod for pod, state in driver.engines.items() if state is EngineState.DRAINING or pod not in there]:
            del driver.engines[pod]
        for pod in list(driver.engines)[driver.engines_wanted :]:
            driver.engines[pod] = EngineState.DRAINING
        free = [pod for pod in there if pod not in driver.engines]
        for pod in free[: max(0, driver.engines_wanted - len(driver.engines))]:
            driver.engines[pod] = EngineState.SERVING

    def _answer(self, driver: Driver) -> None:
        if driver.open_request is not None:
            self.answered[driver.open_request] += 1
            driver.saved_request, driver.open_request = driver.open_request, None

    def _fail_driver(self, driver: Driver, how: str) -> None:
        if how == "exits":
            driver.state = RayJobState.FAILED
        else:
            driver.phase = DriverPhase.FAILED

    # -- Ray's Jobs API

    async def submit(
        self, host: str, token: str, submission_id: str, entrypoint: str, env_vars: dict[str, str]
    ) -> None:
        fault = self.faults.next_write()
        self.faults.before(fault, RayUnavailableError("timeout"))
        assert host == self.head_address, "an old address of the head is never used for a submission"
        running = [d for d in self.drivers.values() if d.state is RayJobState.RUNNING]
        if submission_id not in self.drivers:
            assert not running, "two drivers never run at once"
            attempt = int(submission_id.rsplit("-", 1)[1])
            failure = self.failures[attempt - 1] if attempt <= len(self.failures) else None
            config = RunDocument.model_validate_json(env_vars[names.RUN_ENV]).config
            engines = config["generator"]["inference_engine"]["num_engines"]
            self.drivers[submission_id] = Driver(
                attempt, self.newest_checkpoint, failure, config=config, engines_wanted=engines
            )
            self.submissions[submission_id] += 1
        self.faults.after(fault, RayUnavailableError("no answer"))

    async def status(self, host: str, token: str, submission_id: str) -> RayJob | None:
        self.faults.before(self.faults.next(), RayUnavailableError("timeout"))
        driver = self.drivers.get(submission_id)
        known = driver is not None and submission_id not in self.drivers_of_old_clusters
        return RayJob(driver.state) if driver is not None and known else None

    async def stop(self, host: str, token: str, submission_id: str) -> None:
        self.faults.before(self.faults.next_write(), RayUnavailableError("timeout"))
        driver = self.drivers.get(submission_id)
        if driver is not None and driver.state is RayJobState.RUNNING:
            driver.state = RayJobState.STOPPED

    async def log(self, host: str, token: str, submission_id: str, node: str, lines: int) -> str:
        return "the end of the log"


@dataclass
class DriverDoor:
    """The driver's HTTP routes."""

    world: World

    def _driver(self) -> Driver:
        self.world.faults.before(self.world.faults.next(), DriverUnavailableError("timeout"))
        running = [d for d in self.world.drivers.values() if d.state is RayJobState.RUNNING]
        if not running:
            raise DriverUnavailableError("connection refused")
        return running[0]

    async def status(self, host: str, token: str) -> DriverStatus:
        driver = self._driver()
        newest = self.world.newest_checkpoint
        checkpoint = (
            CheckpointStatus(step=newest, path=f"/checkpoints/{newest}", time=START, bytes=1) if newest else None
        )
        return DriverStatus(
            phase=driver.phase,
            attempt=driver.attempt,
            step=driver.step,
            total_steps=self.world.steps,
            engines=[EngineStatus(name=pod, state=state, pod=pod) for pod, state in driver.engines.items()],
            engines_wanted=driver.engines_wanted,
            saved_request=driver.saved_request,
            checkpoint=checkpoint,
            updated=self.world.now,
        )

    async def history(self, host: str, token: str) -> History:
        return History(points=[HistoryPoint(step=step) for step in range(self._driver().step + 1)])

    async def checkpoint(self, host: str, token: str, request: CheckpointRequest) -> None:
        driver = self._driver()
        if request.request != driver.saved_request:
            driver.open_request = request.request

    async def engines(self, host: str, token: str, request: EnginesRequest) -> None:
        self._driver().engines_wanted = request.desired

    async def stop(self, host: str, token: str, request: StopRequest) -> None:
        driver = self._driver()
        driver.stop_wanted |= request.checkpoint
        driver.dismissed |= not request.checkpoint


class Operator:
    """One process of the operator: it starts with full caches and no memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.cache = Cache()
        for (plural, _), body in world.objects.items():
            resource = next((resource for resource in WATCHED if resource.plural == plural), None)
            if resource is not None:
                self.cache.upsert(resource, copy.deepcopy(body))
        tokens = TokenIssuer(b"k" * 32)
        door = DriverDoor(world)
        self.controller = Controller(
            kube=world,
            cache=self.cache,
            poller=Poller(world, door, tokens),
            applier=Applier(world, self.cache, world, door, tokens),
            recorder=EventRecorder(world),
            metrics=Metrics(),
            clock=lambda: world.now,
        )

    def deliver(self, event: tuple[str, Resource, Body]) -> None:
        kind, resource, body = event
        body = copy.deepcopy(body)
        self.cache.remove(resource, body) if kind == "DELETED" else self.cache.upsert(resource, body)

    async def reconcile(self) -> None:
        try:
            await self.controller.reconcile(KEY)
        except (ApiError, RayUnavailableError, DriverUnavailableError):
            return  # the queue tries again


def job_document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())
    document["metadata"] = {
        "name": JOB,
        "namespace": NAMESPACE,
        "uid": "11112222-3333",
        "generation": 1,
        "creationTimestamp": "2025-12-31T00:00:00Z",
    }
    document["spec"]["failurePolicy"] = {"backoffLimit": 3, "restartDelaySeconds": 2}
    document["spec"]["ttlSecondsAfterFinished"] = 30
    return document


def new_world(faults: list[str], failures: list[tuple[int, str]]) -> World:
    world = World(faults=Faults(faults), failures=failures)
    world._store(RL_TRAINING_JOBS, job_document())
    return world


Agenda = list[tuple[Callable[[World], bool], str]]


async def play(world: World, script: list[str], agenda: Agenda | None = None) -> Operator:
    """Follow the script, then let everything settle in order, with each point of the agenda as soon as it is time."""
    agenda = list(agenda or [])
    operator = predecessor = Operator(world)
    for move in script:
        try:
            if move == "predecessor":
                await predecessor.reconcile()
                continue
            successor = await make_move(world, operator, move)
        except ProcessDied:
            world.events.clear()  # a new process lists; what the old one had not been told is in the list
            successor = Operator(world)
        if successor is not operator:
            operator, predecessor = successor, operator
    for _ in range(400):
        try:
            while world.events:
                operator.deliver(world.events.pop(0))
            await operator.reconcile()
        except ProcessDied:
            operator = Operator(world)
            world.events.clear()
        world.run_controllers()
        world.now += timedelta(seconds=1)
        if agenda and agenda[0][0](world):
            wish_for(world, agenda.pop(0)[1])
        over = status_of(world).get("completionTime") and (RAY_CLUSTERS.plural, JOB) not in world.objects
        if over and not world.events:
            break
    return operator


async def make_move(world: World, operator: Operator, move: str) -> Operator:
    match move:
        case "reconcile":
            await operator.reconcile()
        case "deliver first" if world.events:
            operator.deliver(world.events.pop(0))
        case "deliver last" if world.events:
            operator.deliver(world.events.pop())
        case "deliver twice" if world.events:
            operator.deliver(world.events[0])
        case "controllers":
            world.run_controllers()
        case "time":
            world.now += timedelta(seconds=1)
        case "restart":
            world.events.clear()
            return Operator(world)
        case _ if move in WISHES:
            wish_for(world, move)
    return operator


def wish_for(world: World, wish: str) -> None:
    """What a person does to the job; every wish of its kind is a new one."""
    body = copy.deepcopy(world.objects[(RL_TRAINING_JOBS.plural, JOB)])
    spec, metadata = body["spec"], body["metadata"]
    before, number = copy.deepcopy(spec), world.version
    if wish.startswith("scale"):
        count = wish.removeprefix("scale").strip()  # "scale 3", or "scale" to some number
        spec["config"]["generator"]["inference_engine"]["num_engines"] = int(count) if count else 1 + number % 4
    match wish:
        case "suspend":
            spec["suspend"] = True
        case "resume":
            spec["suspend"] = False
        case "edit config":
            spec["config"]["trainer"]["policy"]["optimizer_config"]["lr"] = 1e-6 * number
        case "edit pods":
            spec["runtime"]["image"] = f"trainer:{number}"
        case "ask for a restart":
            metadata.setdefault("annotations", {})[names.RESTART_REQUEST_ANNOTATION] = str(number)
        case "ask for a checkpoint":
            metadata.setdefault("annotations", {})[names.CHECKPOINT_REQUEST_ANNOTATION] = str(number)
    metadata["generation"] += spec != before
    world._store(RL_TRAINING_JOBS, body)


def status_of(world: World) -> Body:
    status: Body = world.objects[(RL_TRAINING_JOBS.plural, JOB)].get("status") or {}
    return status


def condition(status: Body, kind: str) -> Body:
    found: Body = next(c for c in status["conditions"] if c["type"] == kind)
    return found
