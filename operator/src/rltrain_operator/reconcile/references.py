"""What a job names and does not make: volume claims and scripts that have to be there before anything is made.

Asked once before the records are made, and again every 30 s while something is amiss. A job that names nothing costs no
request, and a hundred jobs that name one claim cost one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.rules.facts import Facts
from rltrain_api.rules.volumes import why_several_nodes
from rltrain_operator.kube import Body, KubeApi, NotFoundError, Resource
from rltrain_operator.kube.resources import CLAIMS, CONFIG_MAPS
from rltrain_operator.recent import Recent
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.state import Blocked

_CHECKPOINTS = "spec.storage.checkpoints"
_FOR_ALL_NODES = {"ReadWriteMany", "ReadOnlyMany"}

# Shorter than the wait before a job that lacks something is looked at again, so that it sees what was mended.
CLAIM_SECONDS = 20.0
CLAIMS_HELD = 200


class Reader(Protocol):
    """What is asked of the API server here."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Body: ...


class RecentClaims:
    """The API server, but that a claim which was there a moment ago is not asked for again."""

    def __init__(self, kube: KubeApi) -> None:
        self._kube = kube
        self._claims: Recent[tuple[str, str], Body] = Recent(CLAIMS_HELD, CLAIM_SECONDS)

    async def get(self, resource: Resource, namespace: str, name: str) -> Body:
        """The object; the client's errors go to the caller, and are not remembered."""
        if resource is not CLAIMS:
            return await self._kube.get(resource, namespace, name)
        claim = self._claims.get((namespace, name))
        if claim is None:
            claim = await self._kube.get(resource, namespace, name)
            self._claims.put((namespace, name), claim)
        return claim


async def amiss(job: RLTrainingJob, kube: Reader) -> Blocked | None:
    """The first thing that a job names and cannot have, or None; the client's errors go to the caller."""
    namespace, several = job.metadata.namespace, why_several_nodes(Facts(job))
    for path, name, written in claims_named(job):
        try:
            claim = await kube.get(CLAIMS, namespace, name)
        except NotFoundError:
            message = f"{path}: there is no PersistentVolumeClaim {name} in namespace {namespace}; make it, or correct "
            return Blocked(reasons.CLAIM_NOT_FOUND, f"{message}the name")
        problem = claim_problem(claim, several, written=written)
        if problem is not None:
            return Blocked(reasons.CLAIM_NOT_USABLE, f"{path}: PersistentVolumeClaim {name} {problem}")
    for path, name, key in scripts_named(job):
        try:
            script = await kube.get(CONFIG_MAPS, namespace, name)
        except NotFoundError:
            message = f"{path}: there is no ConfigMap {name} in namespace {namespace}; make it, or correct the name"
            return Blocked(reasons.SCRIPT_NOT_FOUND, message)
        if key not in {**(script.get("data") or {}), **(script.get("binaryData") or {})}:
            message = f"{path}: ConfigMap {name} has no key {key}; add it, or correct the key"
            return Blocked(reasons.SCRIPT_NOT_FOUND, message)
    return None


def claims_named(job: RLTrainingJob) -> Iterator[tuple[str, str, bool]]:
    """(path of the field, claim, whether pods write it) of every claim that the job does not make."""
    storage = job.spec.storage
    origin = storage.checkpoints.resume_from
    own = storage.checkpoints.claim_name or names.claim_name(job.metadata.name, "checkpoints")
    if storage.checkpoints.claim_name is not None:
        yield f"{_CHECKPOINTS}.claimName", storage.checkpoints.claim_name, True
    for index, volume in enumerate(storage.data):
        if volume.claim_name is not None:
            yield f"spec.storage.data[{index}].claimName", volume.claim_name, False
    if storage.cache is not None and storage.cache.claim_name is not None:
        yield "spec.storage.cache.claimName", storage.cache.claim_name, True
    if origin is not None and origin.url is None:
        claim = origin.claim_name or names.claim_name(origin.job, "checkpoints")
        if claim != own:
            yield f"{_CHECKPOINTS}.resumeFrom", claim, False


def scripts_named(job: RLTrainingJob) -> Iterator[tuple[str, str, str]]:
    """(path of the field, ConfigMap, key) of every script."""
    for index, initializer in enumerate(job.spec.storage.initializers):
        if initializer.script is not None:
            path = f"spec.storage.initializers[{index}].script"
            yield path, initializer.script.config_map, initializer.script.key


def claim_problem(claim: Body, several: str | None, *, written: bool) -> str | None:
    """Why the job's pods could not use a claim that is there, with what to do; None where they can.

    `several` is why the pods have to be on several nodes, None where they may all be on one.
    """
    if "deletionTimestamp" in claim["metadata"]:
        return "is being deleted; name another one, or make it again"
    if (claim.get("status") or {}).get("phase") == "Lost":
        return "has lost its volume; name another one"
    modes = set((claim.get("spec") or {}).get("accessModes") or [])
    if modes == {"ReadWriteOncePod"}:
        return "has access mode ReadWriteOncePod, which lets one pod mount it, and a job has several; use ReadWriteMany"
    if written and modes == {"ReadOnlyMany"}:
        return "has access mode ReadOnlyMany, and the job writes to it; use ReadWriteMany"
    if several is not None and not modes & _FOR_ALL_NODES:
        return (
            f"has access mode {', '.join(sorted(modes))}, which is for the pods of one node, and these are on several "
            f"({several}); use a claim with ReadWriteMany, or bring the pods to one node"
        )
    return None
