"""`render --to modal`: a Modal app that runs upstream's driver in one container, or in a cluster of containers.

For Modal's Python library from 1.6 on. Volumes and secrets are taken by the names that the job has for them. What is
written into the file from the job is a Python literal each. This module must not know SkyRL's fields.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.names import claim_name
from rltrain_api.render.kubernetes import deadline_notes, notes_without_kubernetes
from rltrain_api.render.machines import Machines, machines_for_skyrl
from rltrain_api.render.rendered import Rendered
from rltrain_api.render.upstream import ENTRYPOINT, RAY_VERSION, VERSION, notes_for_skyrl, overrides_for_skyrl
from rltrain_api.render.variables import Variables, notes_without_pods, secret_notes, variables_for_skyrl

_MEBIBYTE = 1024 * 1024
_LARGEST_CONTAINER = 8  # GPUs
_MOST_RETRIES = 10
_LONGEST_DELAY = 60  # seconds
_DAY = 24 * 60 * 60  # the longest that Modal lets a function run

# Modal's names of GPUs, the more special ones first, as they are found in labels of nodes such as
# nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3.
_GPU_TYPES = ("B300", "B200", "H200", "H100", "A100-80GB", "A100-40GB", "A100", "L40S", "A10", "L4", "T4")
_USUAL_GPU = "H100"

_RUN_ON_ONE = """\
def train() -> None:
    subprocess.run(COMMAND, env=environment(), check=True)
"""

_RUN_ON_CLUSTER = """\
@modal.clustered(size=CONTAINERS, rdma=True)
def train() -> None:
    cluster = modal.Cluster.from_context()
    head = cluster.container_ips(family="ipv4")[0]
    start_ray = ["ray", "start", f"--num-gpus={GPUS}", "--disable-usage-stats"]
    if cluster.container_rank() > 0:
        # Ray's processes end with the head, and with them this container.
        subprocess.run([*start_ray, f"--address={head}:6379", "--block"], env=environment(), check=False)
        return
    subprocess.run([*start_ray, "--head", f"--node-ip-address={head}", "--port=6379"], env=environment(), check=True)
    try:
        subprocess.run(COMMAND, env=environment() | {"RAY_ADDRESS": f"{head}:6379"}, check=True)
    finally:
        subprocess.run(["ray", "stop"], env=environment(), check=True)
"""


class TooLargeForModal(ValueError):  # noqa: N818 - what is wrong with the job
    """The job needs more GPUs in one place than Modal has; the message says what to change."""


def render_modal(job: RLTrainingJob) -> Rendered:
    """The app for a job that `refusals_for_skyrl` has nothing against.

    Raises:
        TooLargeForModal: a model wants more GPUs of one node than a container can have.
    """
    containers, variables = _containers(job), variables_for_skyrl(job)
    gpu = _gpu_type(job)
    parts = [
        _docstring(job, containers) + "\n\nimport os\nimport subprocess\n\nimport modal",
        "\n".join([*_constants(job, containers, gpu or _USUAL_GPU), "", *_app(job, variables)]),
        _ENVIRONMENT.rstrip("\n"),
        "\n".join(_function(job, containers, variables)),
        "@app.local_entrypoint()\ndef main() -> None:\n    train.remote()",
    ]
    return Rendered("\n\n\n".join(parts) + "\n", tuple(_notes(job, variables, gpu)))


_ENVIRONMENT = """\
def environment() -> dict[str, str]:
    # Ray would load the hook that this names in every process, and it is made for runs out of a uv project.
    return {name: value for name, value in os.environ.items() if name != "RAY_RUNTIME_ENV_HOOK"}
"""


def _containers(job: RLTrainingJob) -> Machines:
    """One container where the whole run fits into one; else Modal wants all containers of a cluster to be whole."""
    machines = machines_for_skyrl(job, gpus=_LARGEST_CONTAINER)
    if machines.gpus > _LARGEST_CONTAINER:
        raise TooLargeForModal(
            f"a model has {machines.gpus} GPUs on each node, and Modal's containers have {_LARGEST_CONTAINER} at most; "
            f"lower the …_num_gpus_per_node in spec.config.trainer.placement to {_LARGEST_CONTAINER} and raise the "
            "number of nodes instead"
        )
    return machines


def _docstring(job: RLTrainingJob, containers: Machines) -> str:
    name = job.metadata.name
    return (
        f'"""The job {name} as a run of upstream SkyRL {VERSION} on {containers}.\n\n    modal run --detach FILE\n"""'
    )


def _constants(job: RLTrainingJob, containers: Machines, gpu: str) -> Iterator[str]:
    yield f"GPU = {_text(gpu)}"
    yield f"GPUS = {containers.gpus}  # of each container"
    if containers.nodes > 1:
        yield f"CONTAINERS = {containers.nodes}"
    yield "COMMAND = ["
    yield from (f"    {_text(word)}," for word in ("python", "-m", ENTRYPOINT, *overrides_for_skyrl(job)))
    yield "]"


def _app(job: RLTrainingJob, variables: Variables) -> Iterator[str]:
    yield f"app = modal.App({_text(job.metadata.name)})"
    yield f"image = modal.Image.from_registry({_text(job.spec.runtime.image)})"
    if variables.exported:
        yield "image = image.env("
        yield "    {"
        yield from (f"        {_text(name)}: {_text(value)}," for name, value in variables.exported.items())
        yield "    }"
        yield ")"
    yield "volumes = {"
    for path, name in _volumes(job).items():
        yield f"    {_text(path)}: modal.Volume.from_name({_text(name)}, create_if_missing=True),"
    yield "}"
    yield "secrets = ["
    yield from (f"    modal.Secret.from_name({_text(name)})," for name in variables.secret_sources)
    if variables.asked_for:
        keys = json.dumps(variables.asked_for)
        secret = names.environment_secret_name(job.metadata.name)
        yield f"    modal.Secret.from_name({_text(secret)}, required_keys={keys}),"
    yield "]"


def _function(job: RLTrainingJob, containers: Machines, variables: Variables) -> Iterator[str]:
    policy = job.spec.failure_policy
    yield "@app.function("
    yield "    image=image,"
    yield '    gpu=f"{GPU}:{GPUS}",'
    yield f"    cpu={containers.cpus},"
    if containers.memory_is_set:
        yield f"    memory={math.ceil(containers.memory / _MEBIBYTE)},  # MiB"
    yield "    volumes=volumes,"
    yield "    secrets=secrets,"
    longest = min(_DAY, job.spec.active_deadline_seconds or _DAY)
    yield f"    timeout={longest},  # seconds; a new attempt goes on from the last checkpoint"
    if policy.backoff_limit > 0:
        retries, delay = min(policy.backoff_limit, _MOST_RETRIES), min(policy.restart_delay_seconds, _LONGEST_DELAY)
        yield f"    retries=modal.Retries(max_retries={retries}, backoff_coefficient=1.0, initial_delay={delay}.0),"
    yield ")"
    yield (_RUN_ON_ONE if containers.nodes == 1 else _RUN_ON_CLUSTER).rstrip("\n")


def _volumes(job: RLTrainingJob) -> dict[str, str]:
    """Directory to the name of a Modal volume: the claim's own name."""
    name, storage = job.metadata.name, job.spec.storage
    found = {}
    if storage.checkpoints.url is None:
        found[storage.checkpoints.mount_path] = storage.checkpoints.claim_name or claim_name(name, "checkpoints")
    found |= {volume.mount_path: volume.claim_name or claim_name(name, volume.name) for volume in storage.data}
    if storage.cache is not None:
        found[storage.cache.mount_path] = storage.cache.claim_name or claim_name(name, "cache")
    return found


def _text(value: str) -> str:
    """A literal of Python: JSON's strings are some, and what cannot be printed is escaped in them."""
    return json.dumps(value, ensure_ascii=not value.isprintable())


def _gpu_type(job: RLTrainingJob) -> str | None:
    """The GPU that the job's node selectors name, in Modal's words."""
    labels = [*job.spec.pools.trainer.node_selector.values(), *job.spec.pools.inference.node_selector.values()]
    for label in labels:
        words = label.upper().replace("_", "-")
        for name in _GPU_TYPES:
            if all(part in words.split("-") for part in name.split("-")):
                return name
    return None


def _notes(job: RLTrainingJob, variables: Variables, gpu: str | None) -> Iterator[str]:
    yield from notes_for_skyrl(job)
    yield from notes_without_pods(variables)
    yield from secret_notes(variables)
    yield f"spec.runtime.image: {job.spec.runtime.image} must have SkyRL {VERSION} with Ray {RAY_VERSION} and vLLM"
    if gpu is None:
        yield f"GPU: the job does not say which GPUs it wants; {_USUAL_GPU} is written, change it in the file"
    else:
        yield f"GPU: {gpu}, by the node selectors in spec.pools"
    for path, name in _volumes(job).items():
        yield f"{path}: is Modal's volume {name}; fill it with `modal volume put {name} FILE PATH`"
    for name in variables.secret_sources:
        yield f"spec.runtime.envFrom: make Modal's secret {name} with what the Secret of that name holds"
    if variables.asked_for:
        pairs = " ".join(f"{name}=…" for name in variables.asked_for)
        secret = names.environment_secret_name(job.metadata.name)
        yield f"secrets: make Modal's secret with `modal secret create {secret} {pairs}`"
    selectors = ("pools.trainer.nodeSelector", "pools.inference.nodeSelector") if gpu else ()
    policy = ("failurePolicy.backoffLimit", "failurePolicy.restartDelaySeconds", "activeDeadlineSeconds")
    yield from notes_without_kubernetes(job, carried=(*policy, *selectors))
    yield from deadline_notes(job)
    if job.spec.failure_policy.backoff_limit > _MOST_RETRIES:
        yield f"spec.failurePolicy.backoffLimit: Modal tries again {_MOST_RETRIES} times at most"
