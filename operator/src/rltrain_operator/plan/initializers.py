"""Initializers: batch Jobs that prepare data and models before any GPU is taken, one after the other."""

from __future__ import annotations

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.spec.storage import Initializer
from rltrain_operator.plan import pods
from rltrain_operator.plan.metadata import Manifest, child_metadata, pod_labels


def plan_initializer(job: RLTrainingJob, initializer: Initializer) -> Manifest:
    """The batch Job of one initializer: the trainer's image, every volume of the job, bounded tries and time."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(
            job.metadata, names.initializer_name(job.metadata.name, initializer.name), names.ROLE_INITIALIZER
        ),
        "spec": {
            "backoffLimit": initializer.backoff_limit,
            "activeDeadlineSeconds": initializer.deadline_seconds,
            "template": {
                "metadata": {
                    "labels": pod_labels(job.metadata, names.ROLE_INITIALIZER),
                    "annotations": dict(pods.POD_ANNOTATIONS),
                },
                "spec": _pod(job, initializer),
            },
        },
    }


def _pod(job: RLTrainingJob, initializer: Initializer) -> Manifest:
    container: Manifest = {
        "name": "initializer",
        "image": pods.image(job, names.ROLE_INITIALIZER),
        "imagePullPolicy": job.spec.runtime.image_pull_policy,
        "env": pods.environment(job, initializer.env),
        "envFrom": pods.environment_sources(job),
        "volumeMounts": pods.volume_mounts(job),
        "resources": pods.resources(initializer.resources),
        "securityContext": pods.container_security(),
        # The last lines of a failed run become the pod's termination message, and so reach the job's status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if initializer.command:
        container["command"] = list(initializer.command)
    if initializer.args:
        container["args"] = list(initializer.args)
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pods.pod_security(),
        "containers": [container],
        "volumes": pods.volumes(job),
        **pods.priority(job),
    }
