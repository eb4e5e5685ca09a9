"""Whatever is written, and through whichever door, the API server and our own code read the same and judge alike.

A small number through every door; then a sample of documents with one field set to a value at or beyond its bounds,
generated from the models; and, one by one, where the two differ and why that is so. Needs kubectl and an API server,
as test_api_on_server.py.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from api_server import (
    DRY_RUN,
    EXAMPLES,
    MANAGER,
    Document,
    Verdicts,
    changed,
    errors_of,
    example,
    rule_messages,
    run,
    try_all,
    try_to_create,
)
from drawn_configs import leaves
from rltrain_api.job import RLTrainingJob
from rltrain_api.reading import parse_documents
from rltrain_api.validate import parse_job, validate

pytestmark = pytest.mark.controlplane

QUICKSTART = example("quickstart.yaml")
CONFIG = "spec.config"
TRAINER = f"{CONFIG}.trainer"
RATE = "trainer.policy.optimizer_config.lr"


def job_of(document: Document) -> RLTrainingJob:
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob), job
    return job


# --- 1e-6: YAML 1.2, and with it kubectl, reads a number; YAML 1.1 wants a point in it and reads text

TEXT = (EXAMPLES / "quickstart.yaml").read_text(encoding="utf-8").replace("lr: 3.0e-4", "lr: 1e-6")

DOORS: dict[str, Callable[[str], Document]] = {
    "kubectl apply": lambda namespace: applied(namespace, TEXT),
    "kubectl apply on the server": lambda namespace: applied(namespace, TEXT, "--server-side", MANAGER),
    "our reader, posted as JSON": lambda namespace: posted(namespace, parse_documents(TEXT, "quickstart.yaml")[0].data),
    "our reader alone": lambda _: parse_documents(TEXT, "quickstart.yaml")[0].data,
    "PyYAML, not posted": lambda _: read_by_pyyaml(),
    "an override": lambda namespace: posted(namespace, changed(QUICKSTART, {"spec.overrides": [f"{RATE}=1e-6"]})),
}


def applied(namespace: str, text: str, *options: str) -> Document:
    """What `kubectl apply` would leave on the server."""
    options = ("--namespace", namespace, *options, *DRY_RUN, "--output=json", "--filename=-")
    document: Document = json.loads(run("apply", *options, text=text))
    return document


def posted(namespace: str, document: Document) -> Document:
    created = try_to_create(namespace, document)
    assert created.returncode == 0, created.stderr
    kept: Document = json.loads(created.stdout)
    return kept


def read_by_pyyaml() -> Document:
    document: Document = yaml.safe_load(TEXT)
    assert document["spec"]["config"]["trainer"]["policy"]["optimizer_config"]["lr"] == "1e-6", "this door is no longer"
    return document


@pytest.mark.parametrize("door", DOORS)
def test_a_small_number_comes_through_every_door(door: str, namespace: str) -> None:
    rate = job_of(DOORS[door](namespace)).spec.config.trainer.policy.optimizer_config.lr
    assert rate == 1e-6


# --- a sample of documents, each with one field of config set to a value at or beyond its bounds

Schema = dict[str, Any]
SEED, FIELDS_OF_EACH_KIND = 20260131, 3
NONE = object()  # the kind does not fit a field


def bound(keyword: str, by: float = 0) -> Callable[[Schema], Any]:
    """The bound that the schema has under this keyword, moved by so much (rounded, for integers)."""

    def value_for(schema: Schema) -> Any:
        if keyword not in schema:
            return NONE
        return schema[keyword] + (by if schema["type"] == "number" else round(by))

    return value_for


def of_type(kind: str, value: Any) -> Callable[[Schema], Any]:
    return lambda schema: value if schema.get("type") == kind and "enum" not in schema else NONE


def word(choose: Callable[[list[str]], str]) -> Callable[[Schema], Any]:
    return lambda schema: choose(schema["enum"]) if "enum" in schema else NONE


def text(length: Callable[[int], int]) -> Callable[[Schema], Any]:
    return lambda schema: "x" * length(schema["maxLength"]) if "maxLength" in schema else NONE


# What is set, by what it is: a function from the field's schema to the value.
KINDS: dict[str, Callable[[Schema], Any]] = {
    "at its least": bound("minimum"),
    "under its least": bound("minimum", -1),
    "at its most": bound("maximum"),
    "over its most": bound("maximum", 1),
    "at its exclusive least": bound("exclusiveMinimum"),
    "over its exclusive least": bound("exclusiveMinimum", 1e-3),
    "at its exclusive most": bound("exclusiveMaximum"),
    "fraction for an integer": of_type("integer", 1.5),
    "text for an integer": of_type("integer", "1"),
    "truth for a number": of_type("number", True),
    "integer for a number": of_type("number", 1),
    "text for a truth": of_type("boolean", "true"),
    "number for a truth": of_type("boolean", 1),
    "truth": of_type("boolean", True),
    "last word": word(lambda words: words[-1]),
    "no such word": word(lambda _: "no-such-word"),
    "word in capitals": word(lambda words: words[0].upper()),
    "longest text": text(lambda most: most),
    "text too long": text(lambda most: most + 1),
    "empty text": text(lambda _: 0),
    "number for text": of_type("string", 1),
    "text for a list": of_type("array", "x"),
    "empty list": of_type("array", []),
    "list of nothing": of_type("array", [None]),
    "free map": of_type("object", {"a": {"b": [1, None, "c"]}}),
    "text for a free map": of_type("object", "x"),
    "null where null is a value": lambda schema: None if schema.get("nullable") else NONE,
}


def sample() -> dict[str, Document]:
    """Case -> document, the same ones every time; each document is named after its case's number."""
    chance = random.Random(SEED)
    fields = {".".join(path): plain(schema) for path, schema in leaves().items()}
    found: dict[str, Document] = {}
    for kind, value_for in KINDS.items():
        fitting = {path: value for path, schema in fields.items() if (value := value_for(schema)) is not NONE}
        for path in chance.sample(sorted(fitting), min(FIELDS_OF_EACH_KIND, len(fitting))):
            changes = {"metadata.name": f"case-{len(found)}", f"{CONFIG}.{path}": fitting[path]}
            found[f"{kind}: {path}"] = changed(QUICKSTART, changes)
    return found


def plain(schema: Schema) -> Schema:
    """The schema of what a field holds when it is not null; a nullable one says so by `nullable`."""
    options = schema.get("anyOf", [schema])
    holds = next(option for option in options if option.get("type") != "null")
    return {**holds, "nullable": len(options) > 1}


SAMPLE = sample()


@pytest.fixture(scope="module")
def verdicts(namespace: str) -> Verdicts:
    return try_all(namespace, SAMPLE.values())


def test_the_sample_is_large_and_mixed(verdicts: Verdicts) -> None:
    assert len(SAMPLE) >= 60
    assert all(any(case.startswith(kind) for case in SAMPLE) for kind in KINDS)
    assert len(verdicts.accepted) >= 15
    assert len(verdicts.refused) >= 15
    assert len(verdicts.accepted) + len(verdicts.refused) == len(SAMPLE)


@pytest.mark.parametrize("case", SAMPLE)
def test_both_judge_alike(case: str, verdicts: Verdicts) -> None:
    document = SAMPLE[case]
    name, form = document["metadata"]["name"], parse_job(document)
    if name in verdicts.accepted:
        assert isinstance(form, RLTrainingJob), form
    elif isinstance(form, RLTrainingJob):
        # Only a rule between fields can be the reason then, and `validate` has its like.
        assert any(message in verdicts.refused[name] for message in rule_messages()), verdicts.refused[name]
        assert validate(form), verdicts.refused[name]


# --- where the two differ, and why

# Case -> (changes, whether the server accepts, whether we accept).
DIFFERENCES: dict[str, tuple[dict[str, Any], bool, bool]] = {
    # A schema of the API server has no word for "boolean or integer".
    "text for resharding": ({f"{TRAINER}.policy.fsdp_config.reshard_after_forward": "yes"}, True, False),
    "zero for resharding": ({f"{TRAINER}.policy.fsdp_config.reshard_after_forward": 0}, True, False),
    # The API server drops a null that has no meaning; a person who wrote it meant something.
    "null for a field of config that has none": ({f"{TRAINER}.epochs": None}, True, False),
    "null for a section outside of config": ({"spec.pools": None}, True, False),
    # Readers of YAML 1.1 hand over text, and our own code can tell what was meant.
    "number as text": ({f"{CONFIG}.{RATE}": "1e-6"}, False, True),
    # Overrides are one string each to the API server.
    "override without a value": ({"spec.overrides": ["trainer.epochs"]}, True, False),
    "override of an unknown field": ({"spec.overrides": ["trainer.epoch=3"]}, True, False),
    # Only `validate` compares with what a trainer does.
    "loss that the builtin trainer has not": ({f"{TRAINER}.algorithm.policy_loss_type": "best"}, True, False),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_known_differences(case: str, namespace: str) -> None:
    changes, server, ours = DIFFERENCES[case]
    document = changed(QUICKSTART, changes)
    assert (try_to_create(namespace, document).returncode == 0) == server
    assert (not errors_of(document)) == ours


# A null that means something: SkyRL's default is another value.
NULL = {f"{CONFIG}.generator.sampling_params.logprobs": None}
NULL_AS_OVERRIDE = {"spec.overrides": ["generator.sampling_params.logprobs=null"]}
NULLS: dict[str, tuple[dict[str, Any], tuple[str, ...], int | None]] = {
    # kubectl itself leaves nulls out of what it sends, because in its patches null means "remove".
    "kubectl apply drops it": (NULL, (), 1),
    "kubectl apply on the server keeps it": (NULL, ("--server-side", MANAGER), None),
    "an override always comes through": (NULL_AS_OVERRIDE, (), None),
}


@pytest.mark.parametrize("case", NULLS)
def test_what_becomes_of_null(case: str, namespace: str) -> None:
    changes, options, expected = NULLS[case]
    kept = applied(namespace, json.dumps(changed(QUICKSTART, changes)), *options)
    assert job_of(kept).spec.config.generator.sampling_params.logprobs == expected
