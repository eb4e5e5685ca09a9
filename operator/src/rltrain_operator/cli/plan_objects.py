"""The Kubernetes objects that the operator would make for a new job, in the order in which it makes them.

The operator's own functions make them, from the job as it stands in the file: what only the cluster knows (the job's
uid, the tokens) is a placeholder, so the same file always gives the same objects. Values of variables that look like
secrets are not shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from rltrain_api.env.secrecy import shown
from rltrain_api.job import RLTrainingJob
from rltrain_api.resolve import resolved_document
from rltrain_api.wire import History
from rltrain_api.yaml_scalars import scalar_value
from rltrain_operator import plan
from rltrain_operator.plan.metadata import Manifest

FIRST_GENERATION = 1
UID_PLACEHOLDER = "<uid of the job>"
TOKEN_PLACEHOLDER = "<made by the operator>"  # noqa: S105 - stands where a token would be


def planned_objects(job: RLTrainingJob) -> list[Manifest]:
    """Every object of a valid job; the last one, the curve's ConfigMap, is written when there is a curve."""
    metadata = job.metadata.model_copy(update={"uid": UID_PLACEHOLDER, "generation": FIRST_GENERATION})
    job = job.model_copy(update={"metadata": metadata})
    checkpoints = plan.plan_checkpoint_claim(job)
    objects = [
        *([] if checkpoints is None else [checkpoints]),
        *plan.plan_data_claims(job),
        plan.plan_secret(metadata, driver_token=TOKEN_PLACEHOLDER, ray_token=TOKEN_PLACEHOLDER),
        plan.plan_config_map(
            metadata,
            resolved_document(job),
            plan.upstream_overrides(job),
            job.spec.runtime.modules,
            job.spec.storage.checkpoints.retain,
        ),
        *(plan.plan_initializer(job, initializer) for initializer in job.spec.storage.initializers),
        plan.plan_disruption_budget(job),
        plan.plan_ray_cluster(job),
        plan.plan_history(metadata, History()),
    ]
    return [_without_secrets(manifest) for manifest in objects]


def described(manifest: Manifest) -> str:
    """A few words about an object: what is in it, and what becomes of it."""
    kind, spec = manifest["kind"], manifest.get("spec", {})
    if kind == "PersistentVolumeClaim":
        size = spec["resources"]["requests"]["storage"]
        kept = "goes with the job" if "ownerReferences" in manifest["metadata"] else "outlives the job"
        return f"{size}, {' and '.join(spec['accessModes'])}, {kept}"
    if kind == "Job":
        container = spec["template"]["spec"]["containers"][0]
        return " ".join([*container.get("command", []), *container.get("args", [])])
    if kind == "RayCluster":
        return ", ".join(
            [
                "1 head",
                *(
                    f"{group['replicas'] * group['numOfHosts']} {group['groupName']}"
                    for group in spec["workerGroupSpecs"]
                ),
            ]
        )
    if kind == "PodDisruptionBudget":
        (expression,) = spec["selector"]["matchExpressions"]
        return f"{spec['minAvailable']} of {', '.join(expression['values'])}: none is evicted"
    return ", ".join([*manifest.get("data", {}), *manifest.get("stringData", {})])


def yaml_lines(objects: Sequence[Manifest]) -> list[str]:
    """The objects as YAML documents for `diff`, the same on every terminal; text of several lines stays lines."""
    text: str = yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=10**6)
    return text.splitlines()


def _without_secrets(value: Any) -> Any:
    """The same data; what has a name and a value is a variable."""
    if isinstance(value, list):
        return [_without_secrets(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"name", "value"}:
        return {"name": value["name"], "value": shown(value["name"], value["value"])}
    return {key: _without_secrets(entry) for key, entry in value.items()}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _is_text_unquoted(text) else '"'
    if "\n" in text and all(line.isprintable() for line in text.split("\n")):
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_text_unquoted(text: str) -> bool:
    """Whether kubectl takes it for text without quotes; PyYAML sees `1e-6` and `y` otherwise."""
    try:
        return scalar_value(text) == text
    except ValueError:  # .inf
        return False


_Dumper.add_representer(str, _represent_text)
