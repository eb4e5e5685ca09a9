"""Volume claims. Checkpoints outlive the job, so their claim has no owner; data from a template goes with the job."""

from __future__ import annotations

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.spec.storage import ClaimTemplate
from rltrain_operator.plan.metadata import Manifest, child_metadata

CHECKPOINTS = "checkpoints"


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
    """The claim for checkpoints, or None when the job names an existing one."""
    template = job.spec.storage.checkpoints.claim_template
    return _claim(job, CHECKPOINTS, template, owned=False) if template is not None else None


def plan_data_claims(job: RLTrainingJob) -> list[Manifest]:
    """One claim per data volume that has a template."""
    return [
        _claim(job, volume.name, volume.claim_template, owned=True)
        for volume in job.spec.storage.data
        if volume.claim_template is not None
    ]


def claim_in_use(job: RLTrainingJob, volume: str, claim_name: str | None) -> str:
    """The name of the claim a pod mounts: the existing one the job names, or the one made from the template."""
    return claim_name if claim_name is not None else names.claim_name(job.metadata.name, volume)
