"""Layers of variables: who wins, what is left out, and what each value remembers."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rltrain_api.env.compose import (
    PRECEDENCE,
    Absent,
    Earlier,
    Environment,
    Layer,
    LayerValues,
    compose,
    doubts,
)
from rltrain_api.env.secrecy import HIDDEN, shown


def layer(which: Layer, removed: str = "", **values: str) -> LayerValues:
    return LayerValues(which, values, frozenset(removed.split()))


def test_the_order_of_the_layers() -> None:
    assert PRECEDENCE == (
        Layer.DEFAULTS,
        Layer.PRESET,
        Layer.DERIVED,
        Layer.CLUSTER,
        Layer.FORWARDED,
        Layer.JOB,
        Layer.SUBMISSION,
    )


@pytest.mark.parametrize(("lower", "higher"), list(pairwise(PRECEDENCE)))
def test_of_two_layers_the_higher_one_wins_and_remembers_the_lower(lower: Layer, higher: Layer) -> None:
    (setting,) = compose([layer(higher, A="high"), layer(lower, A="low")]).settings
    assert (setting.value, setting.layer) == ("high", higher)
    assert setting.overrides == (Earlier("low", lower.value),)


def test_all_overridden_values_are_remembered_highest_first() -> None:
    (setting,) = compose(layer(which, A=which.value) for which in Layer).settings
    assert [earlier.value for earlier in setting.overrides] == [which.value for which in reversed(PRECEDENCE[:-1])]


def test_lower_layers_come_first_and_each_keeps_its_own_order() -> None:
    # Kubernetes expands $(A) in a value only where A stands before it.
    environment = compose([layer(Layer.JOB, Z="1", B="$(Z)", A="2"), layer(Layer.PRESET, B="0", P="3")])
    assert list(environment.values) == ["P", "Z", "B", "A"]


def test_a_layer_removes_what_is_below_it() -> None:
    environment = compose([layer(Layer.DEFAULTS, A="1", B="2"), layer(Layer.PRESET, removed="A C")])
    assert environment.values == {"B": "2"}
    assert environment.absent == (
        Absent("A", "is removed by preset", (Earlier("1", "defaults"),)),
        Absent("C", "is removed by preset"),
    )


def test_a_higher_layer_sets_again_what_was_removed() -> None:
    environment = compose([layer(Layer.DEFAULTS, A="1"), layer(Layer.PRESET, removed="A"), layer(Layer.JOB, A="2")])
    (setting,) = environment.settings
    assert (setting.value, setting.overrides) == ("2", (Earlier("1", "defaults"),))
    assert environment.absent == ()


@pytest.mark.parametrize("which", [Layer.DEFAULTS, Layer.PRESET, Layer.DERIVED, Layer.CLUSTER, Layer.FORWARDED])
def test_exclusion_leaves_a_name_out_of_every_layer_below_the_job(which: Layer) -> None:
    environment = compose([layer(which, VLLM_A="1", B="2")], ["VLLM*"])
    assert environment.values == {"B": "2"}
    assert environment.absent == (Absent("VLLM_A", "is excluded by 'VLLM*'", (Earlier("1", which.value),)),)


@pytest.mark.parametrize("which", [Layer.JOB, Layer.SUBMISSION])
def test_exclusion_leaves_alone_what_is_set_on_purpose(which: Layer) -> None:
    environment = compose([layer(Layer.PRESET, A="1"), layer(which, A="2")], ["A"])
    assert environment.values == {"A": "2"}
    assert environment.absent == ()
    assert environment.warnings == ()


def test_what_would_have_been_is_remembered_over_all_layers() -> None:
    environment = compose([layer(Layer.DEFAULTS, A="1"), layer(Layer.DERIVED, A="2")], ["A"])
    (absent,) = environment.absent
    assert absent.would_be == (Earlier("2", "derived"), Earlier("1", "defaults"))


def test_doubtful_exclusions_are_said() -> None:
    (warning,) = compose([layer(Layer.PRESET, VLLM_A="1")], ["VLLM"]).warnings
    assert warning.startswith("spec.runtime.excludeEnv 'VLLM': fits no variable")


@pytest.mark.parametrize("which", PRECEDENCE)
@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "RAY_ADDRESS", "RLTRAIN_RUN"])
def test_what_pods_must_not_have_comes_from_no_layer(which: Layer, name: str) -> None:
    environment = compose([layer(which, **{name: "x", "A": "1"})])
    assert environment.values == {"A": "1"}
    (absent,) = environment.absent
    assert absent.name == name
    assert "remove it" in absent.reason


def test_nothing_gives_nothing() -> None:
    assert compose([]) == Environment()


DOUBTS = {
    "the job's": (layer(Layer.JOB, NCCL_DEBUG="LOUD"), ["job: NCCL_DEBUG must be one of"]),
    "the shell's": (layer(Layer.FORWARDED, TRANSFORMERS_CACHE="/x"), ["TRANSFORMERS_CACHE is read by nobody"]),
    "the submission's": (
        layer(Layer.SUBMISSION, HF_TOKEN="hf_x"),
        ["looks like a secret, in the open for whoever sees Ray"],
    ),
    "a secret under a wrong name": (
        layer(Layer.JOB, HF_TOKNE="x"),
        ["did you mean HF_TOKEN?", "looks like a secret, in the open for whoever sees the job"],
    ),
    "a preset's own dead names are documented": (layer(Layer.PRESET, NCCL_TIMEOUT="3600"), []),
    "the chart's are the administrator's": (layer(Layer.CLUSTER, NCCL_DEBUG="LOUD"), []),
}


@pytest.mark.parametrize(("values", "words"), DOUBTS.values(), ids=DOUBTS.keys())
def test_doubts_about_what_a_person_wrote_for_this_job(values: LayerValues, words: list[str]) -> None:
    lines = doubts(compose([values]))
    assert len(lines) == len(words)
    for line, word in zip(lines, words, strict=True):
        assert word in line


SECRETS = {
    "catalogued": ("WANDB_API_KEY", "0123"),
    "a token": ("MY_SERVICE_TOKEN", "x"),
    "a key": ("AWS_SECRET_ACCESS_KEY", "x"),
    "a key's id": ("AWS_ACCESS_KEY_ID", "x"),
    "a password": ("PGPASSWORD", "x"),
    "in small letters": ("db_password", "x"),
    "almost a catalogued one": ("WANDB_APIKEY", "x"),
    "a Hub token under any name": ("NOTES", "use hf_abcdefghijklmnopqrstu for it"),
    "an AWS key under any name": ("NOTES", "AKIAIOSFODNN7EXAMPLE"),
    "a password in a URI": ("MLFLOW_TRACKING_URI", "https://me:hunter2@mlflow.example"),
    "a private key": ("CERT", "-----BEGIN RSA PRIVATE KEY-----"),
}


@pytest.mark.parametrize(("name", "value"), SECRETS.values(), ids=SECRETS.keys())
def test_secrets_are_hidden(name: str, value: str) -> None:
    assert shown(name, value) == HIDDEN


OPEN = {
    "parallelism of tokenizers": ("TOKENIZERS_PARALLELISM", "true"),
    "a limit on tokens": ("MAX_TOKENS", "512"),
    "a plain URI": ("MLFLOW_TRACKING_URI", "https://mlflow.example:5000/path"),
    "a keyboard": ("KEYBOARD", "us"),
    "a Modal environment": ("MODAL_ENVIRONMENT", "main"),
}


@pytest.mark.parametrize(("name", "value"), OPEN.values(), ids=OPEN.keys())
def test_what_is_no_secret_is_shown(name: str, value: str) -> None:
    assert shown(name, value) == value
