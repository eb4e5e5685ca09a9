"""The Modal app: Python that says what the job says."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from rltrain_api.job import RLTrainingJob
from rltrain_api.render import TooLargeForModal, overrides_for_skyrl, render_modal
from rltrain_api.render.upstream import ENTRYPOINT
from skyrl_jobs import skyrl_job

APART = {"placement": {"colocate_all": False, "policy_num_gpus_per_node": 8}}


def constants(job: RLTrainingJob) -> dict[str, Any]:
    """What the file assigns at its top, where that is a literal."""
    found = {}
    for node in ast.parse(render_modal(job).text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def calls(job: RLTrainingJob, name: str) -> list[tuple[list[Any], dict[str, str]]]:
    """The calls of `name` in the file: literal arguments, and keywords as they are written."""
    return [
        (
            [ast.literal_eval(argument) for argument in node.args if isinstance(argument, ast.Constant | ast.Dict)],
            {keyword.arg or "**": ast.unparse(keyword.value) for keyword in node.keywords},
        )
        for node in ast.walk(ast.parse(render_modal(job).text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]


def test_the_command_is_the_job() -> None:
    awkward = 'it\'s "a"\n\\ é 日本 \u2028 \x7f'
    job = skyrl_job(config={"trainer": {"run_name": awkward}, "generator": {"sampling_params": {"stop": [awkward]}}})
    assert constants(job)["COMMAND"] == ["python", "-m", ENTRYPOINT, *overrides_for_skyrl(job)]


def test_variables_are_in_the_image() -> None:
    value = "a 'b' \"c\"\n$HOME {x} \\"
    job = skyrl_job(runtime={"env": [{"name": "GREETING", "value": value}, {"name": "A-B", "value": "1"}]})
    [([variables], _)] = calls(job, "image.env")
    assert variables["GREETING"] == value
    assert "A-B" not in variables
    assert any("A-B is left out" in note for note in render_modal(job).notes)


# Name -> (config, GPUs of a container, number of containers).
SIZES: dict[str, tuple[dict[str, Any], int, int]] = {
    "one container": ({}, 4, 1),
    "a whole container": ({"trainer": APART, "generator": {"inference_engine": {"num_engines": 8}}}, 8, 2),
    "two models in one": (
        {
            "trainer": {"placement": {"colocate_all": False, "policy_num_gpus_per_node": 4}},
            "generator": {"inference_engine": {"num_engines": 3}},
        },
        7,
        1,
    ),
}


@pytest.mark.parametrize(("config", "gpus", "containers"), SIZES.values(), ids=SIZES.keys())
def test_size(config: dict[str, Any], gpus: int, containers: int) -> None:
    job = skyrl_job(config=config)
    found = constants(job)
    assert (found["GPUS"], found.get("CONTAINERS", 1)) == (gpus, containers)
    assert [keywords["size"] for _, keywords in calls(job, "modal.clustered")] == ["CONTAINERS"] * (containers > 1)
    assert ('"ray", "start"' in render_modal(job).text) == (containers > 1)


def test_a_model_that_no_container_holds_is_refused_with_a_remedy() -> None:
    job = skyrl_job(
        config={
            "trainer": {"placement": {"policy_num_gpus_per_node": 16, "ref_num_gpus_per_node": 16}},
            "generator": {"inference_engine": {"num_engines": 16}},
        }
    )
    with pytest.raises(TooLargeForModal, match=r"16 GPUs on each node.* to 8 and raise the number of nodes"):
        render_modal(job)


GPU_TYPES = {
    "nothing said": ({}, "H100", True),
    "a product": ({"trainer": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H200"}}}, "H200", False),
    "a product with its memory": (
        {"trainer": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}}},
        "A100-80GB",
        False,
    ),
    "a cloud's own word": ({"trainer": {"nodeSelector": {"accelerator": "nvidia-l4"}}}, "L4", False),
    "another label": ({"trainer": {"nodeSelector": {"topology.kubernetes.io/zone": "eu-l4b"}}}, "H100", True),
}


@pytest.mark.parametrize(("pools", "gpu", "asked"), GPU_TYPES.values(), ids=GPU_TYPES.keys())
def test_type_of_gpu(pools: dict[str, Any], gpu: str, asked: bool) -> None:
    job = skyrl_job(pools=pools)
    assert constants(job)["GPU"] == gpu
    notes = render_modal(job).notes
    assert any("does not say which GPUs" in note for note in notes) == asked
    assert any("nodeSelector: left out" in note for note in notes) == (asked and bool(pools))


def test_volumes_have_the_names_of_the_claims() -> None:
    job = skyrl_job(storage={"cache": {"claimTemplate": {"storage": "50Gi"}}})
    volumes = [arguments for arguments, _ in calls(job, "modal.Volume.from_name")]
    assert volumes == [["words-checkpoints"], ["prompts"], ["words-cache"]]
    [([variables], _)] = calls(job, "image.env")
    assert variables["HF_HOME"] == "/cache/huggingface"
    assert '"/checkpoints": modal.Volume' in render_modal(job).text


SECRET = "hf_" + "a" * 30
# Name -> (logger, runtime, secrets by name with the keys that are required).
SECRETS: dict[str, tuple[str, dict[str, Any], list[tuple[str, list[str]]]]] = {
    "none": ("console", {}, []),
    "the tracker's key": ("wandb", {}, [("words-environment", ["WANDB_API_KEY"])]),
    "the tracker's key may be in a Secret": ("wandb", {"envFrom": [{"secretRef": {"name": "keys"}}]}, [("keys", [])]),
    "a value that looks like one": (
        "console",
        {"env": [{"name": "HF_TOKEN", "value": SECRET}]},
        [("words-environment", ["HF_TOKEN"])],
    ),
}


@pytest.mark.parametrize(("logger", "runtime", "secrets"), SECRETS.values(), ids=SECRETS.keys())
def test_secrets_come_by_name(logger: str, runtime: dict[str, Any], secrets: list[tuple[str, list[str]]]) -> None:
    job = skyrl_job(config={"trainer": {"logger": logger}}, runtime=runtime)
    rendered = render_modal(job)
    found = [
        (arguments[0], ast.literal_eval(keywords.get("required_keys", "[]")))
        for arguments, keywords in calls(job, "modal.Secret.from_name")
    ]
    assert found == secrets
    assert SECRET not in rendered.text + "".join(rendered.notes)


TIMEOUTS = {"none": ({}, "86400"), "an hour": ({"activeDeadlineSeconds": 3600}, "3600")}
TIMEOUTS["more than Modal has"] = ({"activeDeadlineSeconds": 10**6}, "86400")


@pytest.mark.parametrize(("spec", "timeout"), TIMEOUTS.values(), ids=TIMEOUTS.keys())
def test_timeout(spec: dict[str, Any], timeout: str) -> None:
    [(_, keywords)] = calls(skyrl_job(**spec), "app.function")
    assert keywords["timeout"] == timeout


def test_retries_are_within_what_modal_takes() -> None:
    job = skyrl_job(failurePolicy={"backoffLimit": 50, "restartDelaySeconds": 600})
    [(_, keywords)] = calls(job, "modal.Retries")
    assert keywords == {"max_retries": "10", "backoff_coefficient": "1.0", "initial_delay": "60.0"}
    assert any("10 times at most" in note for note in render_modal(job).notes)
    assert calls(skyrl_job(failurePolicy={"backoffLimit": 0}), "modal.Retries") == []
