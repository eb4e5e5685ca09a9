"""What the configuration needs, beside what SkyRL 0.1.0 sets for the same configuration in its own runtime_env."""

from __future__ import annotations

import importlib
import importlib.util
from unittest.mock import patch

import pytest

import upstream_skyrl
from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.env.derive import job_derived
from rltrain_api.overrides import apply_overrides, parse_override

SETTINGS = {
    "vLLM and NCCL": [],
    "vLLM and Gloo": ["generator.inference_engine.weight_sync_backend=gloo"],
    "no vLLM": ["generator.inference_engine.backend=sglang"],
    "Megatron": ["trainer.strategy=megatron"],
    "Megatron without flash attention": ["trainer.strategy=megatron", "trainer.flash_attn=false"],
    "vLLM with processes": ["generator.inference_engine.vllm_v1_disable_multiproc=false"],
}


@pytest.mark.parametrize("overrides", SETTINGS.values(), ids=SETTINGS.keys())
def test_upstream_sets_the_same(overrides: list[str]) -> None:
    upstream_skyrl.refusal(overrides)  # loads upstream's modules with what they miss here
    utils = importlib.import_module("skyrl.train.utils.utils")
    config = importlib.import_module("skyrl.train.config.config").SkyRLTrainConfig.from_cli_overrides(overrides)
    # It asks the GPUs of the cluster whether they reach each other, which no configuration can answer.
    with patch.dict("os.environ", {}, clear=True), patch.object(utils, "peer_access_supported", return_value=True):
        theirs = utils.prepare_runtime_environment(config)
    ours = apply_overrides({}, [parse_override(text) for text in overrides])
    assert job_derived(SkyRLTrainConfig.model_validate(ours), trainer="skyrl") == theirs
