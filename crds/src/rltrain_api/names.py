"""Names that more than one room must agree on: labels, ports, environment variables, names of children.

Every child's name is a function of the job's name (and attempt), so that a crash between any two lines can be repeated
without making anything twice. This module must not know how the children look.
"""

from __future__ import annotations

GROUP = "rltrain.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "RLTrainingJob"
PLURAL = "rltrainingjobs"
FIELD_MANAGER = "rltrain-operator"

JOB_LABEL = "rltrain.io/job"  # on every child: the job's name
ROLE_LABEL = "rltrain.io/role"  # on every pod: one of the roles below
TRAINER_LABEL = "rltrain.io/trainer"  # on the RayCluster: whose trainer runs on it, builtin | skyrl
SPEC_HASH_ANNOTATION = "rltrain.io/spec-hash"
GPUS_ANNOTATION = "rltrain.io/gpus"  # on pods that have GPUs: how many

# Annotations by which people and programs ask something of a running job: a value that is new is one request.
CHECKPOINT_REQUEST_ANNOTATION = "rltrain.io/checkpoint-requested-at"
RESTART_REQUEST_ANNOTATION = "rltrain.io/restart-requested-at"
MANAGER = "rltrain.io/operator"  # spec.managedBy of the jobs that our operator carries out

ROLE_HEAD = "head"
ROLE_TRAINER = "trainer"
ROLE_INFERENCE = "inference"
ROLE_REFERENCE = "reference"
ROLE_CRITIC = "critic"
ROLE_ENVIRONMENT = "environment"
ROLE_INITIALIZER = "initializer"

RESUME_MOUNT_PATH = "/resume"  # where pods see the volume of the job that theirs begins from

DASHBOARD_PORT = 8265  # Ray's Jobs API
DRIVER_PORT = 8700  # the driver's /status, /metrics, /history, /checkpoint, /stop

# Environment variables of the driver. The run document travels inside the submission; the tokens come from the job's
# Secret into every pod and never through Ray's metadata, which the dashboard shows to everybody.
RUN_ENV = "RLTRAIN_RUN"  # a RunDocument as JSON
DRIVER_TOKEN_ENV = "RLTRAIN_DRIVER_TOKEN"  # noqa: S105 - the name of a variable, not a token
DRIVER_TOKEN_KEY = "driver_token"  # noqa: S105 - the Secret's key
RAY_TOKEN_KEY = "auth_token"  # noqa: S105 - the Secret's key that Ray and KubeRay expect

# A RayCluster's name may have 53 characters (63 less "-serve-svc"): ours is the job's own name, so that is the bound.
MAX_JOB_NAME_LENGTH = 45


def ray_cluster_name(job: str) -> str:
    """The RayCluster carries the job's own name: what `kubectl get` shows side by side belongs together."""
    return job


def head_service_host(job: str, namespace: str) -> str:
    """KubeRay's headless Service in front of the head pod (kuberay: `<cluster>-head-svc`)."""
    return f"{ray_cluster_name(job)}-head-svc.{namespace}.svc"


def config_map_name(job: str, generation: int) -> str:
    """The immutable record of the resolved configuration of one generation."""
    return f"{job}-config-{generation}"


def history_name(job: str) -> str:
    """The ConfigMap that keeps the run's curve after the cluster is gone."""
    return f"{job}-history"


def secret_name(job: str) -> str:
    """The Secret with the driver's and Ray's tokens."""
    return f"{job}-tokens"


def environment_secret_name(job: str) -> str:
    """The Secret with a job's own secret variables where it runs without the operator (`kubectl rltrain render`)."""
    return f"{job}-environment"


def claim_name(job: str, volume: str) -> str:
    """A claim made from a template of the job; `volume` is "checkpoints" or a data volume's name."""
    return f"{job}-{volume}"


def disruption_budget_name(job: str) -> str:
    """The PodDisruptionBudget of the pods whose loss costs the run its progress since the last checkpoint."""
    return job


def network_policy_name(job: str) -> str:
    """The NetworkPolicy that keeps a job's ports to itself and to the operator."""
    return job


def initializer_name(job: str, initializer: str) -> str:
    """The batch Job that runs one initializer."""
    return f"{job}-init-{initializer}"


def submission_id(job: str, uid: str, attempt: int) -> str:
    """Ray's submission id of one attempt: unique over re-created jobs of one name, repeatable after a crash."""
    return f"{job}-{uid[:8]}-{attempt}"
