"""The committed CustomResourceDefinition: up to date, and what the design asks of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from rltrain_api import crdgen, names
from rltrain_api.status import ConditionType, Phase

VERSION = crdgen.custom_resource_definition()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below this one with its path; `[]` is an entry of a list and `*` of a map."""
    for key, inner in schema.get("properties", {}).items():
        yield f"{path}.{key}", inner
        yield from fields(inner, f"{path}.{key}")
    for key, step in (("items", "[]"), ("additionalProperties", ".*")):
        if key in schema:
            yield f"{path}{step}", schema[key]
            yield from fields(schema[key], f"{path}{step}")


def at(path: str) -> dict[str, Any]:
    return dict(fields(SCHEMA))[path]


def test_the_committed_manifest_is_up_to_date() -> None:
    assert crdgen.MANIFEST.read_text(encoding="utf-8") == crdgen.manifest_text(), (
        "stale: run `python -m rltrain_api.crdgen` and commit crds/manifests"
    )


def test_the_text_reads_as_the_definition() -> None:
    assert yaml.safe_load(crdgen.manifest_text()) == crdgen.custom_resource_definition()


def test_writing_it_elsewhere(tmp_path: Any) -> None:
    crdgen.main([str(tmp_path / "crd.yaml")])
    assert (tmp_path / "crd.yaml").read_text(encoding="utf-8") == crdgen.manifest_text()


def test_it_is_small_enough_for_client_side_apply() -> None:
    """kubectl copies an object into an annotation, and annotations may have 262144 bytes in all."""
    assert len(crdgen.manifest_text()) < 230_000


def test_names() -> None:
    spec = crdgen.custom_resource_definition()["spec"]
    assert spec["group"] == names.GROUP
    assert spec["names"]["plural"] == names.PLURAL
    assert spec["names"]["shortNames"] == ["rltj"]
    assert spec["names"]["categories"] == ["all", "rltrain"]
    assert crdgen.MANIFEST.stem == f"{names.PLURAL}.{names.GROUP}"


def test_columns() -> None:
    columns = {column["name"]: column.get("priority", 0) for column in VERSION["additionalPrinterColumns"]}
    assert [name for name, priority in columns.items() if priority == 0] == [
        "Phase",
        "Step",
        "Progress",
        "Reward",
        "Engines",
        "Age",
    ]
    assert [name for name, priority in columns.items() if priority == 1] == [
        "ETA",
        "Goodput",
        "GPU-seconds",
        "Attempt",
        "Cluster",
    ]


def test_every_path_outside_the_schema_exists_in_it() -> None:
    paths = [column["jsonPath"] for column in VERSION["additionalPrinterColumns"]]
    paths += VERSION["subresources"]["scale"].values()
    known = {path for path, _ in fields(SCHEMA)} | {".metadata.creationTimestamp"}
    assert set(paths) <= known


def test_nothing_in_config_or_status_has_a_default() -> None:
    filled = [path for path, schema in fields(SCHEMA) if "default" in schema]
    assert [path for path in filled if path.startswith((".spec.config", ".status"))] == []
    assert ".spec.failurePolicy.backoffLimit" in filled
    assert ".spec.pools.trainer.gpuResource" in filled


def test_only_config_may_hold_nulls() -> None:
    nullable = [path for path, schema in fields(SCHEMA) if schema.get("nullable")]
    assert ".spec.config.generator.max_input_length" in nullable
    assert all(path.startswith(".spec.config.") for path in nullable)


def test_an_enumeration_never_allows_null() -> None:
    """The API server refuses null for an enum whatever it lists, so a nullable one must be a pattern."""
    assert [path for path, schema in fields(SCHEMA) if schema.get("nullable") and "enum" in schema] == []
    assert at(".spec.config.trainer.resume_mode")["pattern"] == "^(none|latest|from_path)$"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (".spec.storage.data", "name"),
        (".spec.storage.initializers", "name"),
        (".spec.runtime.env", "name"),
        (".status.conditions", "type"),
    ],
)
def test_lists_of_named_entries_merge_by_name(path: str, key: str) -> None:
    schema = at(path)
    assert (schema["x-kubernetes-list-type"], schema["x-kubernetes-list-map-keys"]) == ("map", [key])
    assert key in schema["items"]["required"]


def test_checkpoints_cannot_change_and_the_message_names_the_way_round() -> None:
    rules = {rule["rule"]: rule["message"] for rule in at(".spec.storage.checkpoints")["x-kubernetes-validations"]}
    assert "create another RLTrainingJob" in rules["self == oldSelf"]
    sources = "[has(self.claimTemplate), has(self.claimName), has(self.url)]"
    assert "exactly one" in rules[f"{sources}.exists_one(one, one)"]


def test_phases() -> None:
    assert at(".status.phase")["enum"] == [phase.value for phase in Phase]


def test_every_type_of_condition_fits() -> None:
    longest = max(len(condition) for condition in ConditionType)
    assert longest <= at(".status.conditions[].type")["maxLength"]
    assert len(ConditionType) <= at(".status.conditions")["maxItems"]
