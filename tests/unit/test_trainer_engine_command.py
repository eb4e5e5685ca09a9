"""What the builtin engine is started with, for a job's configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_trainer.driver.engine_hosts import builtin_command


def arguments_of(**engine: Any) -> dict[str, str]:
    document = {"generator": {"inference_engine": {"backend": "builtin", **engine}}}
    words = builtin_command(resolve(SkyRLTrainConfig.model_validate(document)), "127.0.0.1", 8000)[3:]
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.proves("generator.inference_engine.weight_sync_backend")
@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_weights_come_by_the_backend_that_is_asked_for(backend: str) -> None:
    told = json.loads(arguments_of(weight_sync_backend=backend)["--weight-transfer-config"])
    assert told["backend"] == backend


@pytest.mark.proves("generator.inference_engine.model_dtype")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_models_are_of_the_type_that_is_asked_for(dtype: str) -> None:
    assert arguments_of(model_dtype=dtype)["--dtype"] == dtype
