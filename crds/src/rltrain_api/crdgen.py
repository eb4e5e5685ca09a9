"""The CustomResourceDefinition of RLTrainingJob, made from the models.

    python -m rltrain_api.crdgen            writes crds/manifests/rltrainingjobs.rltrain.io.yaml
    python -m rltrain_api.crdgen PATH       writes it there

The file is committed, and a test fails where it differs from what this module makes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rltrain_api import names
from rltrain_api.job import RLTrainingJob, Spec
from rltrain_api.schema_marks import cel
from rltrain_api.status import Status
from rltrain_api.structural import structural_schema
from rltrain_api.yaml_text import yaml_text

MANIFEST = Path(__file__).parents[2] / "manifests" / f"{names.PLURAL}.{names.GROUP}.yaml"

_HEADER = "# Made by `python -m rltrain_api.crdgen` from the models in crds/src/rltrain_api; change those instead.\n"

# At the root, the API server lets rules see no more of metadata than the name.
_NAME_RULES = cel(
    (
        f"size(self.metadata.name) <= {names.MAX_JOB_NAME_LENGTH}",
        f"metadata.name may have at most {names.MAX_JOB_NAME_LENGTH} characters, because the names of the job's "
        "children are made from it: choose a shorter one",
    ),
    (
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must begin with a letter and hold only a-z, 0-9 and '-', because Services are named after it: "
        "choose another one",
    ),
)


def _column(name: str, kind: str, path: str, description: str, *, wide: bool = False) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path, "description": description}
    if wide:
        column["priority"] = 1
    return column


# What `kubectl get rltj` shows; the wide ones with `-o wide`.
_COLUMNS = [
    _column("Phase", "string", ".status.phase", "Where the job is in its life."),
    _column("Step", "integer", ".status.progress.step", "Training steps done."),
    _column("Progress", "integer", ".status.progress.percent", "Steps done of all steps, in percent."),
    _column("Reward", "number", ".status.progress.reward", "Mean reward of the newest step."),
    _column("Engines", "integer", ".status.engines.ready", "Inference engines that serve."),
    _column("Age", "date", ".metadata.creationTimestamp", "Time since the job was created."),
    _column("ETA", "integer", ".status.progress.etaSeconds", "Seconds until the end.", wide=True),
    _column("Goodput", "number", ".status.accounting.goodput", "Share of the time that went into steps.", wide=True),
    _column("GPU-seconds", "number", ".status.accounting.gpuSeconds", "GPUs times seconds, so far.", wide=True),
    _column("Attempt", "integer", ".status.attempt", "Attempts so far.", wide=True),
    _column("Cluster", "string", ".status.rayCluster.name", "The RayCluster that the job runs in.", wide=True),
]

_SUBRESOURCES: dict[str, Any] = {
    "status": {},
    "scale": {
        "specReplicasPath": ".spec.config.generator.inference_engine.num_engines",
        "statusReplicasPath": ".status.engines.ready",
        "labelSelectorPath": ".status.engines.selector",
    },
}


def custom_resource_definition() -> dict[str, Any]:
    """The CustomResourceDefinition as plain data."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{names.PLURAL}.{names.GROUP}",
            "labels": {"app.kubernetes.io/name": "rltrain"},
        },
        "spec": {
            "group": names.GROUP,
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.KIND.lower(),
                "shortNames": ["rltj"],
                "categories": ["all", "rltrain"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": _COLUMNS,
                    "subresources": _SUBRESOURCES,
                    "schema": {"openAPIV3Schema": _schema()},
                }
            ],
        },
    }


def _schema() -> dict[str, Any]:
    fields = RLTrainingJob.model_fields
    spec, status = structural_schema(Spec), structural_schema(Status)
    return {
        "type": "object",
        "description": RLTrainingJob.__doc__,
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": {
                "type": "string",
                "description": f"Group and version of this resource: {names.API_VERSION}.",
            },
            "kind": {"type": "string", "description": f"Kind of this resource: {names.KIND}."},
            # The API server has a schema of its own for metadata and allows no other here.
            "metadata": {"type": "object"},
            "spec": {**spec, "description": fields["spec"].description},
            "status": {**status, "description": fields["status"].description},
        },
        **_NAME_RULES,
    }


def manifest_text() -> str:
    """The text of the committed file."""
    return _HEADER + yaml_text(custom_resource_definition())


def main(arguments: list[str]) -> None:
    """Write the manifest to the path given, or to its place in the repository."""
    path = Path(arguments[0]) if arguments else MANIFEST
    path.write_text(manifest_text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
