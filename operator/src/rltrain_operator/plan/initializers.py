"""Initializers: batch Jobs that prepare data and models before any GPU is taken, one after the other.

What each one runs is `rltrain_api.fetching`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from rltrain_api import names
from rltrain_api.fetching import EXIT_FINAL, SCRIPT_DIRECTORY, fetches, program_of
from rltrain_api.job import RLTrainingJob
from rltrain_api.spec.storage import Initializer
from rltrain_operator.plan import pods
from rltrain_operator.plan.metadata import Manifest, child_metadata, pod_labels

CONTAINER = "initializer"
SCRIPT_VOLUME = "initializer-script"


# A program that fetches knows when trying again cannot help; a pod that the cluster took away is nobody's failure.
_POD_FAILURE_POLICY: Manifest = {
    "rules": [
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [EXIT_FINAL]},
        },
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
}


def plan_initializer(
    job: RLTrainingJob, initializer: Initializer, cluster_wide: Mapping[str, str] = pods.NO_VARIABLES
) -> Manifest:
    """The batch Job of one initializer: the trainer's image, every volume of the job, bounded tries and time.

    `cluster_wide` are the installation's variables for all jobs.
    """
    spec: Manifest = {
        "backoffLimit": initializer.backoff_limit,
        "activeDeadlineSeconds": initializer.deadline_seconds,
        "template": {
            "metadata": {
                "labels": pod_labels(job.metadata, names.ROLE_INITIALIZER),
                "annotations": dict(pods.POD_ANNOTATIONS),
            },
            "spec": _pod(job, initializer, cluster_wide),
        },
    }
    if fetches(initializer):
        spec["podFailurePolicy"] = copy.deepcopy(_POD_FAILURE_POLICY)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(
            job.metadata, names.initializer_name(job.metadata.name, initializer.name), names.ROLE_INITIALIZER
        ),
        "spec": spec,
    }


def program(initializer: Initializer) -> Manifest:
    """What the container runs, as a part of it."""
    wanted = program_of(initializer)
    arguments = {"args": list(wanted.arguments)} if wanted.arguments else {}
    return {"command": list(wanted.command), **arguments}


def script_volumes(initializer: Initializer) -> list[Manifest]:
    """The volume of an initializer's script; none where it has no script."""
    if initializer.script is None:
        return []
    return [{"name": SCRIPT_VOLUME, "configMap": {"name": initializer.script.config_map}}]


def script_mounts(initializer: Initializer) -> list[Manifest]:
    """Where a container sees that volume."""
    if initializer.script is None:
        return []
    return [{"name": SCRIPT_VOLUME, "mountPath": SCRIPT_DIRECTORY, "readOnly": True}]


def _pod(job: RLTrainingJob, initializer: Initializer, cluster_wide: Mapping[str, str]) -> Manifest:
    container: Manifest = {
        "name": CONTAINER,
        "image": initializer.image or pods.image(job, names.ROLE_INITIALIZER),
        "imagePullPolicy": job.spec.runtime.image_pull_policy,
        "env": pods.environment(job, initializer.env, cluster_wide),
        "envFrom": pods.environment_sources(job),
        "volumeMounts": [*pods.volume_mounts(job), *script_mounts(initializer)],
        "resources": pods.resources(initializer.resources),
        "securityContext": pods.container_security(),
        # The last lines of a failed run become the pod's termination message, and so reach the job's status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **program(initializer),
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pods.pod_security(),
        "containers": [container],
        "volumes": [*pods.volumes(job), *script_volumes(initializer)],
        **pods.pull_secrets(job),
        **pods.priority(job),
    }
