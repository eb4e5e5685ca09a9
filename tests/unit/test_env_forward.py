"""Forwarding from a shell: prefixes, exclusions, and what stays behind whatever the list says."""

from __future__ import annotations

import pytest

from rltrain_api.env.forward import FORWARD_PREFIXES, forward

# The table of rLLM's documentation, row by row.
PREFIXES_OF_RLLM = {
    "Inference engines": ("VLLM_", "SGL_", "SGLANG_"),
    "HuggingFace": ("HF_", "TOKENIZERS_", "DATASETS_"),
    "Training frameworks": ("TORCH_", "PYTORCH_", "DEEPSPEED_", "MEGATRON_"),
    "CUDA / NCCL": ("NCCL_", "CUDA_", "CUBLAS_", "CUDNN_", "NV_", "NVIDIA_"),
}


def test_the_prefixes_are_rllm_s() -> None:
    assert tuple(prefix for row in PREFIXES_OF_RLLM.values() for prefix in row) == FORWARD_PREFIXES


@pytest.mark.parametrize("prefix", FORWARD_PREFIXES)
def test_a_variable_with_a_prefix_goes_along(prefix: str) -> None:
    assert forward({f"{prefix}SETTING": "1"}).values == {f"{prefix}SETTING": "1"}


STAYS = {
    "no prefix": "PATH",
    "Ray's": "RAY_ADDRESS",
    "Ray's settings too": "RAY_DEDUP_LOGS",
    "rLLM's own": "RLLM_EXCLUDE",
    "the prefix is not at the start": "MY_VLLM_SETTING",
    "another case": "vllm_setting",
    "the prefix without its underscore": "VLLMX",
}


@pytest.mark.parametrize("name", STAYS.values(), ids=STAYS.keys())
def test_a_variable_without_a_prefix_stays_and_nothing_is_said(name: str) -> None:
    forwarded = forward({name: "1"})
    assert (forwarded.values, forwarded.left_out, forwarded.warnings) == ({}, {}, ())


def test_what_describes_this_machine_stays_behind() -> None:
    forwarded = forward({"CUDA_VISIBLE_DEVICES": "4,5", "NVIDIA_VISIBLE_DEVICES": "all", "NCCL_DEBUG": "INFO"})
    assert forwarded.values == {"NCCL_DEBUG": "INFO"}
    assert set(forwarded.left_out) == {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"}


def test_secrets_stay_behind_with_a_remedy() -> None:
    forwarded = forward({"HF_TOKEN": "hf_abc", "VLLM_API_KEY": "k", "HF_ENDPOINT": "https://me:pw@hub.example"})
    assert forwarded.values == {}
    for reason in forwarded.left_out.values():
        assert "spec.runtime.envFrom" in reason
        assert "pw@" not in reason


def test_paths_of_this_machine_are_doubtful() -> None:
    forwarded = forward({"HF_HOME": "/scratch/hf"})
    assert forwarded.values == {"HF_HOME": "/scratch/hf"}
    assert forwarded.warnings == ("HF_HOME is a path of this machine: /scratch/hf; is it the same in the pods?",)


SHELL = {"VLLM_A": "1", "VLLM_B": "2", "NVIDIA_X": "3", "NV_Y": "4", "HF_HUB_OFFLINE": "5"}
EXCLUSIONS = {
    "a prefix": ("VLLM*", {"NVIDIA_X", "NV_Y", "HF_HUB_OFFLINE"}, []),
    "a name": ("HF_HUB_OFFLINE", {"VLLM_A", "VLLM_B", "NVIDIA_X", "NV_Y"}, []),
    "both": ("VLLM*,NV_Y", {"NVIDIA_X", "HF_HUB_OFFLINE"}, []),
    "rLLM would do nothing": ("VLLM_*", {"NVIDIA_X", "NV_Y", "HF_HUB_OFFLINE"}, ["leave out nothing"]),
    "rLLM would do less": ("NV*", {"VLLM_A", "VLLM_B", "HF_HUB_OFFLINE"}, ["leave out less"]),
    "a space after the comma": (
        "NV_Y, VLLM*",
        {"NVIDIA_X", "HF_HUB_OFFLINE"},
        ["spaces", "leave out nothing"],
    ),
    "all": ("*", set[str](), ["leave out nothing"]),
    "nothing that is here": ("SGLANG*", set(SHELL), []),
    "nothing at all": ("", set(SHELL), []),
    "a slip": ("HF_HUB_OFLINE", set(SHELL), ["did you mean HF_HUB_OFFLINE?"]),
}


@pytest.mark.parametrize(("excluded", "kept", "words"), EXCLUSIONS.values(), ids=EXCLUSIONS.keys())
def test_exclusions(excluded: str, kept: set[str], words: list[str]) -> None:
    forwarded = forward(SHELL, excluded)
    assert set(forwarded.values) == kept
    assert set(forwarded.left_out) == set(SHELL) - kept
    assert len(forwarded.warnings) == len(words)
    for warning, word in zip(forwarded.warnings, words, strict=True):
        assert word in warning
