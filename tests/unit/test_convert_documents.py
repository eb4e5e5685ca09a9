"""Configurations in YAML: Hydra's, resolved ones and those of Weights & Biases, with the line of every value."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.convert import Conversion, ConversionError, Kind, Options, convert
from rltrain_api.convert.detect import detect_kind
from rltrain_api.convert.documents import read_document
from rltrain_api.convert.interpolation import InterpolationError, resolve_value
from rltrain_api.convert.report import Report
from rltrain_api.convert.resolved import is_written_out, minimal
from rltrain_api.resolve import resolve

LEGACY = """\
defaults:
  - _self_
  - megatron_config@trainer.policy.megatron_config: policy

data:
  train_data: ["${oc.env:HOME}/data/gsm8k/train.parquet"]

trainer:
  policy:
    model:
      path: "Qwen/Qwen2.5-0.5B-Instruct"
  ref:
    model:
      path: ${trainer.policy.model.path}
  max_prompt_length: 256
  project_name: grid
  run_name: ${.project_name}-${oc.env:USER}
  logger: console
  eval_interval: ???
generator:
  model_name: ${trainer.policy.model.path}
  num_inference_engines: 2
  backend: vllm
  max_input_length: ${trainer.max_prompt_length}
  engine_init_kwargs:
    attention_backend: flashinfer
  sampling_params:
    temperature: 1e-1
hydra:
  run: {dir: outputs}
"""


def resolved_tree(**sections: Any) -> dict[str, Any]:
    return resolve(SkyRLTrainConfig.model_validate(sections)).model_dump(mode="json")


def lines_of(conversion: Conversion) -> list[str]:
    return [f"{note.level} {note.line}: {note.text}" for note in conversion.notes if note.line is not None]


def test_a_configuration_of_hydras_days_is_translated_line_by_line() -> None:
    conversion = convert(LEGACY, options=Options(source="train.yaml", image="x/y:1", variables={"USER": "me"}))
    config = conversion.document["spec"]["config"]
    assert config["data"]["train_data"] == ["/data/gsm8k/train.parquet"]
    assert config["trainer"] == {
        "policy": {"model": {"path": "Qwen/Qwen2.5-0.5B-Instruct"}},
        "ref": {"model": {"path": "Qwen/Qwen2.5-0.5B-Instruct"}},
        "ckpt_path": "/checkpoints",
        "max_prompt_length": 256,
        "project_name": "grid",
        "run_name": "grid-me",
        "logger": "console",
    }
    assert config["generator"] == {
        "inference_engine": {
            "num_engines": 2,
            "backend": "vllm",
            "engine_init_kwargs": {"attention_backend": "flashinfer"},
        },
        "max_input_length": 256,
        "sampling_params": {"temperature": 0.1},
    }
    assert lines_of(conversion) == [
        "missing 1: defaults: the YAML files that it names are not read; what they set has SkyRL's default here",
        "note 6: data.train_data is /data/gsm8k/train.parquet instead of ~/data/gsm8k/train.parquet",
        "missing 19: trainer.eval_interval is left out: '???' marks a value that is still missing; set it",
        "note 21: generator.model_name is left out: the engines' model is that of trainer.policy.model.path",
        "note 22: generator.num_inference_engines is generator.inference_engine.num_engines since SkyRL 0.1",
        "note 23: generator.backend is generator.inference_engine.backend since SkyRL 0.1",
        "note 25: generator.engine_init_kwargs is generator.inference_engine.engine_init_kwargs since SkyRL 0.1",
        "note 29: hydra is left out: it sets up Hydra, not the run",
    ]


ROOT: dict[str, Any] = {
    "trainer": {
        "a": 1,
        "b": "${trainer.a}",
        "c": "${.a}",
        "d": {"e": "${..a}", "f": "x-${trainer.a}-${.g}", "g": None},
    },
    "loop": "${other}",
    "other": "${loop}",
    "list": ["${trainer.a}", {"x": "${trainer.b}"}],
}

INTERPOLATIONS: dict[str, tuple[tuple[str, ...], object]] = {
    "a reference": (("trainer", "b"), 1),
    "a relative one": (("trainer", "c"), 1),
    "one level up": (("trainer", "d", "e"), 1),
    "inside a text": (("trainer", "d", "f"), "x-1-"),
    "in lists and maps": (("list",), [1, {"x": 1}]),
}


@pytest.mark.parametrize("case", INTERPOLATIONS)
def test_interpolations_stand_for_other_values(case: str) -> None:
    path, expected = INTERPOLATIONS[case]
    value: Any = ROOT
    for name in path:
        value = value[name]
    assert resolve_value(value, path, ROOT, {}) == expected


ENVIRONMENT: dict[str, object] = {
    "${oc.env:HOME}/x": "~/x",
    "${oc.env:SCRATCH}/x": "/scratch/x",
    "${env:SCRATCH}": "/scratch",
    "${oc.env:NOPE,/tmp/x}": "/tmp/x",
    "${oc.env:NOPE, null}": None,
    "${trainer.max_prompt_length}": 512,
    "no interpolation": "no interpolation",
}


@pytest.mark.parametrize("text", ENVIRONMENT)
def test_variables_are_those_that_are_given_and_absent_keys_have_their_defaults(text: str) -> None:
    assert resolve_value(text, ("trainer", "x"), {}, {"SCRATCH": "/scratch"}) == ENVIRONMENT[text]


UNKNOWN = {
    "${oc.env:NOPE}": "NOPE comes from the environment; give its value with --set NOPE=VALUE",
    "${oc.env:HF_TOKEN}": "HF_TOKEN looks like a secret by its name, and secrets are not carried over",
    "${now:%Y}": "'${now:%Y}' is known to Hydra only; write the value itself",
    "${trainer.nothing}": "'${trainer.nothing}' stands for trainer.nothing, which is not there; write the value itself",
    "${trainer": "'${trainer' has an interpolation that is not closed; write the value itself",
    "x${trainer.d}": "'${trainer.d}' stands for a list or a map inside a text; write the value itself",
    "${loop}": "it refers to itself, or to too many others; write the value that is meant",
}


@pytest.mark.parametrize("text", UNKNOWN)
def test_an_interpolation_that_cannot_be_known_says_why(text: str) -> None:
    with pytest.raises(InterpolationError) as caught:
        resolve_value(text, ("trainer", "x"), ROOT, {})
    assert str(caught.value) == UNKNOWN[text]


def test_interpolations_cannot_grow_without_bounds() -> None:
    root = {f"k{level}": f"${{k{level + 1}}}${{k{level + 1}}}" for level in range(19)} | {"k19": "x"}
    with pytest.raises(InterpolationError, match="too many others"):
        resolve_value("${k0}", ("a",), root, {})


SETTINGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a derived value that is asked for": {
        "generator": {"max_input_length": 600},
        "trainer": {"max_prompt_length": 512},
    },
    "evaluation in part": {"generator": {"eval_sampling_params": {"top_p": 0.5}}},
    "a section with a default of its own": {"trainer": {"policy": {"model": {"path": "a/b", "lora": {"rank": 8}}}}},
    "the critic": {"trainer": {"critic": {"optimizer_config": {"lr": 5e-6, "weight_decay": 0.5}}}},
    "temperature": {
        "generator": {"sampling_params": {"temperature": 0.5}},
        "trainer": {"algorithm": {"temperature": 1.0}},
    },
    "maps": {"trainer": {"policy": {"megatron_config": {"transformer_config_kwargs": {"a": 1}}}}},
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_resolved_configuration_is_reduced_to_what_makes_it(case: str) -> None:
    tree = SETTINGS[case]
    full = resolved_tree(**tree)
    assert is_written_out(full)
    assert not is_written_out(tree)
    reduced = minimal(full)
    assert resolved_tree(**reduced) == full
    assert len(json.dumps(reduced)) <= len(json.dumps(tree)) + 60


def test_a_resolved_configuration_is_known_by_its_size_and_comes_out_short() -> None:
    tree = {"trainer": {"run_name": "mine", "epochs": 3}, "generator": {"n_samples_per_prompt": 8}}
    full = resolved_tree(**tree)
    texts = {
        "yaml": yaml.safe_dump(full),
        "json": json.dumps(full, indent=1),
        "wandb": yaml.safe_dump(
            {**{key: {"desc": None, "value": part} for key, part in full.items()}, "_wandb": {"value": {}}}
        ),
    }
    for text in texts.values():
        conversion = convert(text, options=Options(image="x/y:1"))
        config = conversion.document["spec"]["config"]
        paths = {"data", "ckpt_path"}
        assert {key: part for key, part in config["trainer"].items() if key not in paths} == tree["trainer"]
        assert config["generator"] == tree["generator"]
        assert conversion.is_complete
        assert any("fields are left out, having the values" in note.text for note in conversion.notes)


def test_what_a_person_wrote_stays_even_where_it_repeats_a_default() -> None:
    text = "trainer:\n  epochs: 1\n"
    assert convert(text).document["spec"]["config"]["trainer"]["epochs"] == 1
    assert "epochs" not in convert(text, Kind.RESOLVED).document["spec"]["config"]["trainer"]


def test_the_lines_of_a_weights_and_biases_file_are_its_own() -> None:
    report = Report()
    reading = read_document("trainer:\n  desc: null\n  value:\n    seed: 1\n", "config.yaml", {}, report)
    assert [(item.line, item.key, item.value) for item in reading.items] == [(4, "trainer.seed", 1)]


REFUSED = {
    "apiVersion: rltrain.io/v1alpha1\nkind: RLTrainingJob\n": "is an RLTrainingJob already; `kubectl rltrain validate` "
    "checks it",
    "apiVersion: v1\nkind: Pod\n": "is a Kubernetes object of kind 'Pod', no configuration of SkyRL's",
    "defaults: []\nmodel: x\n": "has none of the sections data, trainer, generator, environment, so it is no "
    "configuration of SkyRL's; put its keys below the section that they belong to",
    "trainer: {}\n---\ntrainer: {}\n": "holds 2 documents; convert one at a time",
    "trainer: {seed: 1, seed: 2}\n": "line 1: ",
    "trainer:\n\tseed: 1\n": "line 2: ",
    "  \n": "is empty; give a SkyRL launch script, overrides or a configuration",
    "hello world\n": "looks like neither a launch script, nor overrides (key.path=value), nor a SkyRL configuration",
    "trainer:\n" + "".join(f"  k{number}: 1\n" for number in range(1001)): "sets 1001 values, more than 1000",
    "#!/bin/bash\n" + "#" * 300_000: "has 300012 characters, more than 262144",
    "x" * 4_000_000: "has 4000000 characters, more than 3145728",
    "python -m skyrl.train.main_sft trainer.epochs=1\n": "skyrl.train.main_sft is supervised fine-tuning",
    "python -m skyrl.train.entrypoints.serve a.b=1\n": "skyrl.train.entrypoints.serve only serves a model",
    "#!/bin/bash\necho\n": "no training program was found",
    "python -m skyrl.train.entrypoints.main_base 'a=1\n": "line 1: the quote ' is not closed",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:30]))
def test_what_no_job_can_be_made_of_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConversionError) as caught:
        convert(text)
    assert str(caught.value).startswith(REFUSED[text])
    assert "\n" not in str(caught.value)


KINDS = {
    "#!/bin/bash\ntrainer: x": Kind.SCRIPT,
    "A=1 uv run -m x \\\n  trainer.epochs=1": Kind.SCRIPT,
    "export A=1\npython -m skyrl_train.entrypoints.main_base": Kind.SCRIPT,
    "set -x\nfoo": Kind.SCRIPT,
    "trainer:\n  epochs: 1": Kind.YAML,
    '{"trainer": {}}': Kind.YAML,
    "# c\n\ntrainer.epochs=1 \\\n  ++generator.backend=vllm": Kind.OVERRIDES,
    "'data.train_data=[/a]'": Kind.OVERRIDES,
    "hello": None,
    "x: 1": None,
}


@pytest.mark.parametrize("text", KINDS)
def test_the_kind_of_an_input_is_seen(text: str) -> None:
    assert detect_kind(text) is KINDS[text]


LISTS: dict[str, tuple[str, dict[str, Any]]] = {
    "as on a command line": (
        "trainer.epochs=2 trainer.seed=1 \\\n  data.train_data=\"['/d/a.parquet']\"",
        {"trainer": {"epochs": 2, "seed": 1}, "data": {"train_data": ["/d/a.parquet"]}},
    ),
    "a line each": (
        "# mine\ntrainer.epochs=2\ndata.train_data=['/d/a b.parquet', '/d/c.parquet']\n",
        {"trainer": {"epochs": 2}, "data": {"train_data": ["/d/a b.parquet", "/d/c.parquet"]}},
    ),
    "with a quote that is not closed": (
        "trainer.run_name=it's\n",
        {"trainer": {"run_name": "it's"}, "data": {}},
    ),
}


@pytest.mark.parametrize("case", LISTS)
def test_overrides_come_as_words_of_a_shell_or_as_lines(case: str) -> None:
    text, tree = LISTS[case]
    config = convert(text, Kind.OVERRIDES).document["spec"]["config"]
    assert {**config["trainer"], **tree["trainer"]} == config["trainer"]
    assert {**config["data"], **tree["data"]} == config["data"]
