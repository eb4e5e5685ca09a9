"""Which claims the pods of a job mount, and where: the one list that volumes and mounts are made from.

A claim that is wanted in two places is one volume with two mounts: the kubelet waits for ever for the second of two
volumes of one claim.
"""

from __future__ import annotations

from dataclasses import dataclass

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_operator.plan.metadata import Manifest

CHECKPOINTS = "checkpoints"
CACHE = "cache"
RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Mount:
    """One directory of the pods, and the claim that it shows."""

    volume: str
    claim: str
    path: str
    read_only: bool = False


def job_mounts(job: RLTrainingJob) -> list[Mount]:
    """Every mount of every pod of the job: checkpoints, data, cache, and what it resumes from.

    What is in an object store is no mount: pods reach it over the network.
    """
    storage = job.spec.storage
    checkpoints = storage.checkpoints
    mounts = []
    if checkpoints.url is None:
        claim = claim_in_use(job, CHECKPOINTS, checkpoints.claim_name)
        mounts.append(Mount(CHECKPOINTS, claim, checkpoints.mount_path))
    mounts += [
        Mount(volume.name, claim_in_use(job, volume.name, volume.claim_name), volume.mount_path)
        for volume in storage.data
    ]
    if storage.cache is not None:
        mounts.append(Mount(CACHE, claim_in_use(job, CACHE, storage.cache.claim_name), storage.cache.mount_path))
    if checkpoints.resume_from is not None and checkpoints.resume_from.url is None:
        origin = checkpoints.resume_from
        claim = origin.claim_name or names.claim_name(origin.job, CHECKPOINTS)
        mounts.append(Mount(RESUME, claim, names.RESUME_MOUNT_PATH, read_only=True))
    return mounts


def claim_volumes(job: RLTrainingJob) -> list[Manifest]:
    """The volumes of a pod: one for each claim."""
    return [{"name": name, "persistentVolumeClaim": {"claimName": claim}} for claim, name in _volume_names(job).items()]


def claim_mounts(job: RLTrainingJob) -> list[Manifest]:
    """Where a container sees those volumes."""
    volume_of = _volume_names(job)
    return [
        {"name": volume_of[mount.claim], "mountPath": mount.path, **({"readOnly": True} if mount.read_only else {})}
        for mount in job_mounts(job)
    ]


def claim_in_use(job: RLTrainingJob, volume: str, claim_name: str | None) -> str:
    """The name of the claim a pod mounts: the existing one the job names, or the one made from the template."""
    return claim_name if claim_name is not None else names.claim_name(job.metadata.name, volume)


def _volume_names(job: RLTrainingJob) -> dict[str, str]:
    """The name of the volume that shows each claim: that of its first mount."""
    volume_of: dict[str, str] = {}
    for mount in job_mounts(job):
        volume_of.setdefault(mount.claim, mount.volume)
    return volume_of
