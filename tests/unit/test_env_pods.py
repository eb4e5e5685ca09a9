"""What every pod of a job gets: presets, what the configuration needs, and the job's own variables over both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from reference_pages import reference_page
from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.env.catalogue import CATALOGUE
from rltrain_api.env.derive import RLLM_DEFAULTS, clashes, default_variables, job_derived
from rltrain_api.env.pods import job_environment, pod_environment, submitted_variables
from rltrain_api.env.presets import PRESETS, PresetName
from rltrain_api.env.refused import refused_in_pods
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
VLLM_AND_NCCL = {"backend": "vllm", "weight_sync_backend": "nccl"}
BUILTIN_ON_GPUS = {"backend": "builtin", "weight_sync_backend": "nccl"}
BUILTIN_ON_CPUS = {"backend": "builtin", "weight_sync_backend": "gloo"}


def make_config(engine: Mapping[str, Any], **trainer: Any) -> SkyRLTrainConfig:
    return SkyRLTrainConfig.model_validate({"generator": {"inference_engine": dict(engine)}, "trainer": trainer})


def make_job(engine: Mapping[str, Any] | None = None, **runtime: Any) -> RLTrainingJob:
    document = yaml.safe_load(EXAMPLE.read_text())
    document["spec"]["runtime"] |= runtime
    document["spec"]["config"]["generator"]["inference_engine"] |= engine or {}
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob), job
    return job


def variable(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


def test_the_quickstart_s_pods_get_nothing() -> None:
    assert pod_environment(make_job()) == []


DERIVED: dict[str, tuple[SkyRLTrainConfig, dict[str, str]]] = {
    "nothing on CPUs": (make_config(BUILTIN_ON_CPUS), {}),
    "NCCL": (make_config(BUILTIN_ON_GPUS), {"NCCL_CUMEM_ENABLE": "0"}),
    "vLLM without pickles": (
        make_config(VLLM_AND_NCCL | {"weight_sync_backend": "gloo"}),
        {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true", "VLLM_DISABLE_COMPILE_CACHE": "1"},
    ),
    "Megatron": (
        make_config(BUILTIN_ON_CPUS, strategy="megatron", flash_attn=False),
        {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "CUDA_DEVICE_MAX_CONNECTIONS": "1"},
    ),
    "Megatron with flash attention": (
        make_config(BUILTIN_ON_CPUS, strategy="megatron"),
        {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "CUDA_DEVICE_MAX_CONNECTIONS": "1", "NVTE_FUSED_ATTN": "0"},
    ),
}


@pytest.mark.parametrize(("config", "expected"), DERIVED.values(), ids=DERIVED.keys())
def test_what_a_configuration_needs(config: SkyRLTrainConfig, expected: dict[str, str]) -> None:
    assert job_derived(config) == expected


DEFAULTS: dict[str, tuple[SkyRLTrainConfig, set[str]]] = {
    "none on CPUs": (make_config(BUILTIN_ON_CPUS), set()),
    "NCCL's": (make_config(BUILTIN_ON_GPUS), {"NCCL_DEBUG", "NCCL_CUMEM_ENABLE"}),
    "all but Megatron's": (make_config(VLLM_AND_NCCL), RLLM_DEFAULTS.keys() - {"CUDA_DEVICE_MAX_CONNECTIONS"}),
    "all": (make_config(VLLM_AND_NCCL, strategy="megatron"), set(RLLM_DEFAULTS)),
}


@pytest.mark.parametrize(("config", "expected"), DEFAULTS.values(), ids=DEFAULTS.keys())
def test_which_of_rllm_s_defaults_apply(config: SkyRLTrainConfig, expected: set[str]) -> None:
    assert default_variables(config) == {name: RLLM_DEFAULTS[name] for name in RLLM_DEFAULTS if name in expected}


def test_every_layer_in_its_place() -> None:
    job = make_job(
        VLLM_AND_NCCL,
        trainer="skyrl",
        envPreset="multinode",
        excludeEnv=["TOKENIZERS*"],
        env=[variable("NCCL_IB_DISABLE", "1"), variable("VLLM_LOGGING_LEVEL", "INFO")],
    )
    environment = job_environment(
        job,
        cluster_wide={"NCCL_SOCKET_IFNAME": "eno1", "NCCL_IB_DISABLE": "0"},
        forwarded={"VLLM_LOGGING_LEVEL": "DEBUG", "NCCL_SOCKET_IFNAME": "wlan0"},
        submission={"NCCL_DEBUG": "INFO"},
    )
    by_name = {setting.name: (setting.value, setting.origin) for setting in environment.settings}
    assert by_name["NCCL_DEBUG"] == ("INFO", "runtime_env")
    assert by_name["NCCL_IB_DISABLE"] == ("1", "spec.runtime.env")
    assert by_name["VLLM_LOGGING_LEVEL"] == ("INFO", "spec.runtime.env")
    assert by_name["NCCL_SOCKET_IFNAME"] == ("wlan0", "shell")
    assert by_name["GLOO_SOCKET_IFNAME"] == ("eth0", "preset multinode")
    assert by_name["NCCL_CUMEM_ENABLE"] == ("0", "spec.config")
    assert "TOKENIZERS_PARALLELISM" not in by_name
    (setting,) = (setting for setting in environment.settings if setting.name == "NCCL_DEBUG")
    assert [(earlier.value, earlier.origin) for earlier in setting.overrides] == [
        ("WARN", "preset multinode"),
        ("WARN", "defaults"),
    ]


def test_the_operator_writes_preset_derived_chart_and_job() -> None:
    job = make_job(envPreset="lowmemory", env=[variable("B", "$(A)"), variable("A", "1")])
    assert pod_environment(job, {"NCCL_IB_HCA": "mlx5"}) == [
        ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:256"),
        ("NCCL_IB_HCA", "mlx5"),
        ("B", "$(A)"),
        ("A", "1"),
    ]


def test_the_job_may_set_what_it_excludes() -> None:
    job = make_job(envPreset="production", excludeEnv=["*"], env=[variable("OMP_NUM_THREADS", "2")])
    assert pod_environment(job) == [("OMP_NUM_THREADS", "2")]


def test_expandable_segments_clash_with_sleep_mode_only() -> None:
    values = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    apart = {"placement": {"colocate_all": False}}
    (line,) = clashes(values, make_config(VLLM_AND_NCCL))
    assert "spec.runtime.excludeEnv" in line
    assert clashes(values, make_config(VLLM_AND_NCCL, **apart)) == []
    assert clashes(values, make_config(BUILTIN_ON_GPUS)) == []
    assert clashes({}, make_config(VLLM_AND_NCCL)) == []


def test_the_names_of_the_presets_are_those_that_a_job_may_write() -> None:
    annotation = RLTrainingJob.model_fields["spec"].annotation
    assert annotation is not None
    runtime = annotation.model_fields["runtime"].annotation
    allowed = {name for choice in get_args(runtime.model_fields["env_preset"].annotation) for name in get_args(choice)}
    assert set(PRESETS) == set(get_args(PresetName)) == allowed


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_made_of_known_variables_with_good_values(name: str) -> None:
    preset = PRESETS[name]
    assert preset.name == name
    assert preset.removed <= CATALOGUE.keys()
    for variable_name, value in preset.values.items():
        assert CATALOGUE[variable_name].values.allows(value), variable_name
        assert refused_in_pods(variable_name) is None
        assert not CATALOGUE[variable_name].secret


# The configurations of section 10, as the reference has them; None where it unsets.
REFERENCE: dict[str, dict[str, str | None]] = {
    "debug": {
        "CUDA_LAUNCH_BLOCKING": "1",
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "ALL",
        "RAY_DEDUP_LOGS": "0",
        "SGLANG_LOG_LEVEL": "debug",
        "SKYRL_LOG_LEVEL": "DEBUG",
        "TORCH_DISTRIBUTED_DEBUG": "DETAIL",
        "TORCH_SHOW_CPP_STACKTRACES": "1",
        "RAY_RUNTIME_ENV_HOOK": None,
    },
    "production": {
        "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
        "NCCL_TIMEOUT": "3600",
        "HF_HUB_ENABLE_HF_TRANSFER": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "8",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    },
    "multinode": {
        "NCCL_DEBUG": "WARN",
        "NCCL_TIMEOUT": "3600",
        "NCCL_IB_DISABLE": "0",
        "NCCL_SOCKET_IFNAME": "eth0",
        "GLOO_SOCKET_IFNAME": "eth0",
        "RAY_ADDRESS": "auto",
    },
    "lowmemory": {
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:256",
        "CUDA_VISIBLE_DEVICES": "0",
    },
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_depart_from_the_reference_only_where_they_say_so(name: str) -> None:
    preset, reference = PRESETS[name], REFERENCE[name]
    ours: dict[str, str | None] = {**preset.values, **dict.fromkeys(preset.removed)}
    differing = {key for key in ours.keys() | reference.keys() if ours.get(key, "") != reference.get(key, "")}
    assert differing == set(preset.departures)


def test_the_committed_configurations_are_those_of_the_reference_page() -> None:
    text = reference_page("skyrl-environment-variables.txt")
    section = text[text.index("\n## 10. ") : text.index("\n## 11. ")]
    scripts = {"debug": "debug_env", "production": "prod_env", "multinode": "multinode_env", "lowmemory": "lowmem_env"}
    for name, script in scripts.items():
        body = section[section.index(f"# {script}.sh") :]
        body = body[: body.index("```")]
        page: dict[str, str | None] = dict(re.findall(r"^export (\w+)=(\S+)", body, flags=re.MULTILINE))
        page |= dict.fromkeys(re.findall(r"^unset (\w+)", body, flags=re.MULTILINE))
        assert page == REFERENCE[name]


BAD_JSON = {
    "no JSON": ("{env_vars}", "is not JSON: "),
    "a list": ("[1]", "must be an object such as"),
    "variables as a list": ('{"env_vars": ["A=1"]}', "must be an object such as"),
    "a number": ('{"env_vars": {"A": 1}}', "env_vars.A must be text"),
}


@pytest.mark.parametrize(("text", "message"), BAD_JSON.values(), ids=BAD_JSON.keys())
def test_a_runtime_env_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        submitted_variables(text)


def test_the_variables_of_a_runtime_env() -> None:
    assert submitted_variables('{"env_vars": {"A": "1"}, "working_dir": "."}') == {"A": "1"}
    assert submitted_variables('{"working_dir": "."}') == {}
