"""Volume claims made from templates, and who owns them: what the job owns is deleted with it.

Checkpoints outlive the job, so their claim has no owner unless the job says so; data and cache go with the job.
"""

from __future__ import annotations

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.spec.storage import ClaimTemplate
from rltrain_operator.plan.metadata import Manifest, child_metadata
from rltrain_operator.plan.mounts import CACHE, CHECKPOINTS


def _claim(job: RLTrainingJob, volume: str, template: ClaimTemplate, *, owned: bool) -> Manifest:
    spec: Manifest = {
        "accessModes": list(template.access_modes),
        "resources": {"requests": {"storage": template.storage}},
    }
    if template.storage_class_name is not None:
        spec["storageClassName"] = template.storage_class_name
    name = names.claim_name(job.metadata.name, volume)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": child_metadata(job.metadata, name, "storage", owned=owned),
        "spec": spec,
    }


def plan_checkpoint_claim(job: RLTrainingJob) -> Manifest | None:
    """The claim for checkpoints, or None when the job names an existing one; it has an owner where it goes with it."""
    checkpoints = job.spec.storage.checkpoints
    if checkpoints.claim_template is None:
        return None
    return _claim(job, CHECKPOINTS, checkpoints.claim_template, owned=checkpoints.delete_policy == "Delete")


def plan_data_claims(job: RLTrainingJob) -> list[Manifest]:
    """One claim per data volume that has a template, and one for the cache where it has one."""
    storage = job.spec.storage
    templates = [(volume.name, volume.claim_template) for volume in storage.data]
    if storage.cache is not None:
        templates.append((CACHE, storage.cache.claim_template))
    return [_claim(job, name, template, owned=True) for name, template in templates if template is not None]
