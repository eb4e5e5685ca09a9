"""Carrying out a decision's actions against the API server, Ray and the driver.

Every action may be repeated: children have fixed names and are created by POST, where "exists already" is fine if it is
ours. Nothing is ever adopted: an object of our name that belongs to somebody else stops the job with its name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.resolve import resolved_document
from rltrain_api.wire import CheckpointRequest, EnginesRequest, JobReference, StopRequest
from rltrain_operator import plan
from rltrain_operator.cache import WATCHED_CHILDREN, Cache, Key
from rltrain_operator.driver_client import DriverApi, DriverUnavailableError
from rltrain_operator.kube import (
    AlreadyExistsError,
    Body,
    ConflictError,
    ForbiddenError,
    InvalidError,
    KubeApi,
    NotFoundError,
)
from rltrain_operator.kube.resources import CONFIG_MAPS, RAY_CLUSTERS, SECRETS, resource_of
from rltrain_operator.rayjobs import RayJobsApi, RayUnavailableError
from rltrain_operator.recent import Recent
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.children import owned_by
from rltrain_operator.reconcile.references import RecentClaims, amiss
from rltrain_operator.reconcile.state import (
    Action,
    Blocked,
    CreateInitializer,
    CreateRayCluster,
    CreateRecords,
    DeleteRayCluster,
    Observed,
    RequestCheckpoint,
    ResizeEngines,
    StopDriver,
    StopRayJob,
    Subject,
    Submit,
    WantEngines,
    WriteHistory,
)
from rltrain_operator.tokens import TokenIssuer

logger = logging.getLogger(__name__)

# For so long a Secret of our name may still be that of a deleted job of the same name.
GARBAGE_COLLECTION_TIME = timedelta(seconds=15)
# A curve is written every 30 s while its job trains.
CURVE_SECONDS = 120.0
CURVES_HELD = 1000


class BlockedError(Exception):
    """Something cannot be created now; `blocked` goes into the next decision, which tells the user."""

    def __init__(self, blocked: Blocked) -> None:
        super().__init__(blocked.message)
        self.blocked = blocked


@dataclass(frozen=True)
class Context:
    """What the actions of one pass are about."""

    key: Key
    subject: Subject
    observed: Observed
    now: datetime

    @property
    def job(self) -> RLTrainingJob:
        """The job; actions that plan children are decided only for a spec that can be read."""
        assert self.subject.job is not None, "no child is planned from a spec that cannot be read"
        return self.subject.job


class Applier:
    """See the module's docstring. Raises BlockedError, and the clients' errors for what is worth another try."""

    def __init__(
        self,
        kube: KubeApi,
        cache: Cache,
        ray: RayJobsApi,
        driver: DriverApi,
        tokens: TokenIssuer,
        surroundings: plan.Surroundings | None = None,
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._ray = ray
        self._driver = driver
        self._tokens = tokens
        self._claims = RecentClaims(kube)
        self._curves: Recent[str, tuple[str, int]] = Recent(CURVES_HELD, CURVE_SECONDS)
        self._surroundings = surroundings or plan.Surroundings()

    async def carry_out(self, action: Action, context: Context) -> None:
        """One action."""
        match action:
            case CreateRecords():
                await self._create_records(context)
            case CreateInitializer(name=name):
                initializers = context.job.spec.storage.initializers
                initializer = next(one for one in initializers if one.name == name)
                variables = self._surroundings.environment
                await self._create_owned(plan.plan_initializer(context.job, initializer, variables), context)
            case CreateRayCluster():
                await self._write_disruption_budget(context)
                await self._write_network_policy(context)
                await self._create_owned(plan.plan_ray_cluster(context.job, self._surroundings.environment), context)
            case Submit():
                await self._submit(action, context)
            case StopRayJob(submission_id=submission_id):
                await self._stop_ray_job(submission_id, context)
            case WriteHistory():
                await self._write_history(action, context)
            case StopDriver():
                await self._stop_driver(action, context)
            case RequestCheckpoint(request=request):
                await self._request_checkpoint(request, context)
            case WantEngines(count=count):
                await self._want_engines(count, context)
            case ResizeEngines():
                await self._resize_engines(action, context)
            case DeleteRayCluster(uid=uid):
                await self._delete_ray_cluster(uid, context)

    async def _create_records(self, context: Context) -> None:
        uid, metadata = context.subject.metadata.uid, context.subject.metadata
        blocked = await amiss(context.job, self._claims)
        if blocked is not None:
            raise BlockedError(blocked)
        claims = plan.plan_data_claims(context.job)
        checkpoints = plan.plan_checkpoint_claim(context.job)
        if checkpoints is not None and "ownerReferences" in checkpoints["metadata"]:
            claims.append(checkpoints)
        elif checkpoints is not None:
            await self._create_unowned(checkpoints)
        for claim in claims:
            await self._create_owned(claim, context)
        await self._create_secret(context)
        # Last, because the status names the ConfigMap once all of this is there.
        overrides = plan.upstream_overrides(context.job)
        modules = context.job.spec.runtime.modules
        retention = context.job.spec.storage.checkpoints.retain
        record = plan.plan_config_map(metadata, resolved_document(context.job), overrides, modules, retention)
        await self._create_owned(record, context)
        logger.debug("records created", extra={"job_uid": uid})

    async def _create_secret(self, context: Context) -> None:
        """The Secret cannot be looked at, so whose it is when it exists already is told by the job's age."""
        metadata = context.subject.metadata
        manifest = plan.plan_secret(
            metadata,
            driver_token=self._tokens.driver_token(metadata.uid),
            ray_token=self._tokens.ray_token(metadata.uid),
        )
        try:
            await self._kube.create(manifest)
        except AlreadyExistsError as error:
            created = metadata.creation_timestamp
            if created is not None and context.now - created < GARBAGE_COLLECTION_TIME:
                name = f"{SECRETS.kind} {manifest['metadata']['name']}"
                message = f"{name} exists; if it is that of a deleted job of this name, it is about to be removed"
                raise BlockedError(Blocked(reasons.AWAITING_GARBAGE_COLLECTION, message, passing=True)) from error
        except (ForbiddenError, InvalidError) as error:
            raise _refused(manifest, error) from error

    async def _create_unowned(self, manifest: Body) -> None:
        """The checkpoints' claim: one that is there already, from an earlier job of this name, is meant to be used."""
        try:
            self._cache.upsert(resource_of(manifest), await self._kube.create(manifest))
        except AlreadyExistsError:
            return
        except (ForbiddenError, InvalidError) as error:
            raise _refused(manifest, error) from error

    async def _create_owned(self, manifest: Body, context: Context) -> Body:
        """POST, or the object that is there already if it is this job's own; returns what is in the cluster."""
        resource = resource_of(manifest)
        try:
            live = await self._kube.create(manifest)
        except AlreadyExistsError:
            live = await self._kube.get(resource, manifest["metadata"]["namespace"], manifest["metadata"]["name"])
            self._demand_own(live, manifest, context)
        except (ForbiddenError, InvalidError) as error:
            raise _refused(manifest, error) from error
        if resource in WATCHED_CHILDREN:
            self._cache.upsert(resource, live)
        return live

    def _demand_own(self, live: Body, manifest: Body, context: Context) -> None:
        """Stop unless the object is this very job's."""
        uid = context.subject.metadata.uid
        if owned_by(live, uid):
            return
        what = f"{manifest['kind']} {live['metadata']['name']}"
        owners = live["metadata"].get("ownerReferences") or []
        predecessor = any(o.get("kind") == names.KIND and o.get("name") == context.key[1] for o in owners)
        if predecessor or "deletionTimestamp" in live["metadata"]:
            message = f"{what} belongs to a deleted job of this name and is about to be removed"
            raise BlockedError(Blocked(reasons.AWAITING_GARBAGE_COLLECTION, message, passing=True))
        message = (
            f"{what} exists and does not belong to this job; it is left alone. "
            "Delete or rename it, or give the job another name."
        )
        raise BlockedError(Blocked(reasons.FOREIGN_OBJECT, message))

    async def _submit(self, action: Submit, context: Context) -> None:
        metadata, host = context.subject.metadata, _head_host(context)
        try:
            record = await self._kube.get(CONFIG_MAPS, metadata.namespace, action.config_map)
        except NotFoundError as error:
            message = f"ConfigMap {action.config_map} with the run's configuration is gone: create the job anew"
            raise BlockedError(Blocked(reasons.CREATION_REFUSED, message)) from error
        job = JobReference(namespace=metadata.namespace, name=metadata.name, uid=metadata.uid)
        planned = plan.plan_submission(record["data"], job, action.attempt)
        token = self._tokens.ray_token(metadata.uid)
        await self._ray.submit(host, token, action.submission_id, planned.entrypoint, planned.env_vars)

    async def _stop_ray_job(self, submission_id: str, context: Context) -> None:
        """An unreachable Ray is no reason to stay in the failed attempt: the next one waits for this driver's end."""
        cluster = context.observed.cluster
        if cluster is None or cluster.head_host is None:
            return
        token = self._tokens.ray_token(context.subject.metadata.uid)
        try:
            await self._ray.stop(cluster.head_host, token, submission_id)
        except RayUnavailableError as error:
            logger.warning("driver not stopped", extra={"error": str(error), "submission_id": submission_id})

    async def _write_history(self, action: WriteHistory, context: Context) -> None:
        """A curve that may not be written (a quota, somebody's object) does not hold up the run it tells of.

        One that was written a moment ago is neither made nor looked at before it is written again.
        """
        job_uid = context.subject.metadata.uid
        manifest = plan.plan_history(context.subject.metadata, action.history)
        known = self._curves.get(job_uid)
        self._curves.forget(job_uid)  # until it is written: whatever goes wrong, the next pass looks at what is there
        try:
            uid, written = known or _curve(await self._create_owned(manifest, context))
            _, wanted = _curve(manifest)
            if written != wanted:
                manifest["metadata"]["uid"] = uid
                await self._kube.apply(manifest, field_manager=names.FIELD_MANAGER)
            self._curves.put(job_uid, (uid, wanted))
        except BlockedError as error:
            logger.warning("history not written", extra={"error": error.blocked.message})

    async def _write_disruption_budget(self, context: Context) -> None:
        """A budget that may not be written (somebody's object, a missing right) does not hold up the run it guards."""
        manifest = plan.plan_disruption_budget(context.job)
        try:
            live = await self._create_owned(manifest, context)
            if live["spec"].get("minAvailable") != manifest["spec"]["minAvailable"]:
                manifest["metadata"]["uid"] = live["metadata"]["uid"]
                await self._kube.apply(manifest, field_manager=names.FIELD_MANAGER)
        except BlockedError as error:
            logger.warning("disruption budget not written", extra={"error": error.blocked.message})

    async def _write_network_policy(self, context: Context) -> None:
        """Where policies are wished for, a job does not run without its own: a refusal stops it before its pods are."""
        peer = self._surroundings.peer
        manifest = plan.plan_network_policy(context.job, peer) if peer is not None else None
        if manifest is None:
            return
        live = await self._create_owned(manifest, context)
        if live["spec"] != manifest["spec"]:
            manifest["metadata"]["uid"] = live["metadata"]["uid"]
            await self._kube.apply(manifest, field_manager=names.FIELD_MANAGER)

    async def _stop_driver(self, action: StopDriver, context: Context) -> None:
        """A driver that does not hear it is told again; one that has finished ends by itself in a minute."""
        token = self._tokens.driver_token(context.subject.metadata.uid)
        request = StopRequest(checkpoint=action.checkpoint, deadline_seconds=action.deadline_seconds)
        try:
            await self._driver.stop(_head_host(context), token, request)
        except DriverUnavailableError as error:
            logger.info("driver did not take /stop", extra={"error": str(error)})

    async def _request_checkpoint(self, request: str, context: Context) -> None:
        """A driver that does not hear it is told again."""
        token = self._tokens.driver_token(context.subject.metadata.uid)
        try:
            await self._driver.checkpoint(_head_host(context), token, CheckpointRequest(request=request))
        except DriverUnavailableError as error:
            logger.info("driver did not take /checkpoint", extra={"error": str(error)})

    async def _want_engines(self, count: int, context: Context) -> None:
        """A driver that does not hear it is told again."""
        token = self._tokens.driver_token(context.subject.metadata.uid)
        try:
            await self._driver.engines(_head_host(context), token, EnginesRequest(desired=count))
        except DriverUnavailableError as error:
            logger.info("driver did not take /engines", extra={"error": str(error)})

    async def _resize_engines(self, action: ResizeEngines, context: Context) -> None:
        """A patch that is refused was decided on what is no more, or may not be made: the next pass looks again."""
        namespace, name = context.key
        group = action.group
        patch = plan.plan_resize(group.number, group.replicas, action.replicas, action.leaving, action.cluster_uid)
        try:
            live = await self._kube.patch(RAY_CLUSTERS, namespace, names.ray_cluster_name(name), patch)
        except NotFoundError:
            return
        except (ForbiddenError, InvalidError, ConflictError) as error:
            logger.warning("engines not resized", extra={"error": error.message})
        else:
            self._cache.upsert(RAY_CLUSTERS, live)

    async def _delete_ray_cluster(self, uid: str, context: Context) -> None:
        namespace, name = context.key
        try:
            await self._kube.delete(RAY_CLUSTERS, namespace, names.ray_cluster_name(name), uid=uid)
        except (NotFoundError, ConflictError):
            return


def _curve(history: Body) -> tuple[str, int]:
    """The uid of a ConfigMap, and a hash of what it holds (good in this process)."""
    return str(history["metadata"].get("uid")), hash(frozenset((history.get("data") or {}).items()))


def _head_host(context: Context) -> str:
    cluster = context.observed.cluster
    assert cluster is not None, "decided only with a cluster"
    assert cluster.head_host is not None, "decided only when the head was reached"
    return cluster.head_host


def _refused(manifest: Body, error: ForbiddenError | InvalidError) -> BlockedError:
    reason = reasons.CREATION_FORBIDDEN if isinstance(error, ForbiddenError) else reasons.CREATION_REFUSED
    what = f"{manifest['kind']} {manifest['metadata']['name']}"
    return BlockedError(Blocked(reason, f"{what} could not be created: {error.message}"))
