"""Policy, critic and adapters on one, two and four gloo ranks, in every layout, against plain torch in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2ForCausalLM

import fsdp_ranks
from fsdp_cases import LAYOUTS, LR, ONE_LAYOUT, RUNS, RUNS_BY_LAYOUT, make_batch, make_model, make_reference
from fsdp_plain import Plain, PlainCritic
from rltrain_api.config import SkyRLLoraConfig
from rltrain_trainer.models.adapters import adapted_layers, add_adapters

RANK_SECONDS = 900  # some thirty on two cores that have nothing else to do
RESUMING = (1, 2)  # numbers of ranks that save and resume

pytestmark = pytest.mark.timeout(RANK_SECONDS + 60)  # all ranks start in the first test's set-up

Results = dict[int, list[dict[str, Any]]]
Expected = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small only lose by being shared between threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the models, and after `results` what the ranks have saved and exported."""
    directory = tmp_path_factory.mktemp("ranks")
    models = {run: make_model(tied=settings["tied"]) for run, settings in RUNS.items()}
    words = Tokenizer(WordLevel({"a": 0, "<eos>": 1}, unk_token="a"))
    for name, model in (models | {"reference": make_reference()}).items():
        model.save_pretrained(directory / name)
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(directory / name)
    return directory


@pytest.fixture(scope="module")
def results(directory: Path) -> Results:
    """By the number of ranks: what every rank computed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, fsdp_ranks.__file__, str(directory)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RANK_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return {
        world: [torch.load(directory / f"{world}_{rank}.pt", weights_only=True) for rank in range(world)]
        for world in LAYOUTS
    }


@pytest.fixture(scope="module")
def plain() -> Expected:
    outcome = {}
    for run in RUNS:
        reference = Plain(run)
        outcome[run] = [reference.step(seed) for seed in range(3)]
    return outcome


each_run_and_layout = pytest.mark.parametrize(
    ("world", "layout", "run"), RUNS_BY_LAYOUT, ids=[", ".join(map(str, case)) for case in RUNS_BY_LAYOUT]
)
each_world = pytest.mark.parametrize("world", LAYOUTS)
each_resuming = pytest.mark.parametrize("world", RESUMING)
each_layout = pytest.mark.parametrize(
    ("world", "layout"),
    [(world, layout) for world, layouts in LAYOUTS.items() for layout in layouts],
    ids=[f"{world}, {layout}" for world, layouts in LAYOUTS.items() for layout in layouts],
)


def assert_same_parameters(ours: dict[str, Tensor], expected: dict[str, Tensor], *, tolerance: float = 1e-5) -> None:
    assert list(ours) == list(expected)
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, expected[name], rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.proves(
    "trainer.policy.model.path",
    "trainer.ref.model.path",
    "trainer.update_epochs_per_batch",
    "trainer.policy_mini_batch_size",
    "trainer.policy.optimizer_config.lr",
    "trainer.policy.optimizer_config.max_grad_norm",
    "trainer.algorithm.temperature",
    "trainer.algorithm.use_kl_loss",
    "trainer.algorithm.kl_loss_coef",
    "trainer.algorithm.use_entropy_loss",
    "trainer.algorithm.entropy_loss_coef",
    "trainer.algorithm.policy_loss_type",
    "trainer.algorithm.loss_reduction",
)
@each_run_and_layout
def test_three_steps_agree_with_plain_torch(
    results: Results, plain: Expected, run: str, world: int, layout: str
) -> None:
    for rank, result in enumerate(results[world]):
        for number, (ours, expected) in enumerate(zip(result[layout][run]["steps"], plain[run], strict=True)):
            where = f"rank {rank}, step {number}"
            torch.testing.assert_close(ours["logprobs"], expected["logprobs"], rtol=0, atol=1e-5, msg=where)
            for name, value in expected["metrics"].items():
                assert ours["metrics"][name] == pytest.approx(value, rel=1e-5, abs=1e-5), f"{where}: {name}"
            assert_same_parameters(ours["parameters"], expected["parameters"])
    moved = plain[run][2]["parameters"]["model.norm.weight"] - plain[run][0]["parameters"]["model.norm.weight"]
    assert moved.abs().max() > LR / 10


@pytest.mark.proves(
    "trainer.policy.sequence_parallel_size",
    "trainer.policy.fsdp_config.fsdp_size",
    "trainer.policy.fsdp_config.reshard_after_forward",
    "trainer.ref.sequence_parallel_size",
    "trainer.ref.fsdp_config.fsdp_size",
    "trainer.ref.fsdp_config.reshard_after_forward",
    "trainer.critic.sequence_parallel_size",
    "trainer.critic.fsdp_config.fsdp_size",
)
@each_layout
def test_models_lie_on_their_ranks_as_the_layout_says(results: Results, world: int, layout: str) -> None:
    settings = LAYOUTS[world][layout]
    copy, sequence = settings.get("fsdp", world), settings.get("sequence", 1)
    expected = {
        "fsdp": copy,
        "sequence": sequence,
        "different": world // sequence,
        "reshard": settings.get("reshard", copy),
    }
    for result in results[world]:
        assert result[layout]["everything"]["spread"] == [expected, expected]  # the policy, the reference
        if layout == ONE_LAYOUT[world]:
            assert result["critic"]["spread"] == expected


@each_run_and_layout
def test_gradients_agree_with_plain_torch(results: Results, run: str, world: int, layout: str) -> None:
    reference = Plain(run)
    batch = make_batch(0).rows(slice(0, 3))
    batch = batch.with_old_logprobs(batch.rollout_logprobs)
    reference.loss(batch, with_kl=False)["final_loss"].backward()  # type: ignore[no-untyped-call]
    expected = {name: parameter.grad for name, parameter in reference.model.named_parameters()}
    norm = torch.stack([gradient.norm() for gradient in expected.values() if gradient is not None]).norm().item()
    assert norm > 0.01
    for result in results[world]:
        ours = result[layout][run]
        assert_same_parameters(ours["gradients"], {name: g for name, g in expected.items() if g is not None})
        assert ours["norm"] == pytest.approx(norm, rel=1e-5)
        assert ours["clipped"] == pytest.approx(0.01, rel=1e-3)


@each_run_and_layout
def test_every_rank_reports_the_same(results: Results, run: str, world: int, layout: str) -> None:
    metrics = [[step["metrics"] for step in result[layout][run]["steps"]] for result in results[world]]
    assert all(each == metrics[0] for each in metrics)
    assert metrics[0][0]["policy/skipped_steps"] == 0
    assert json.dumps(metrics[0])
    assert {
        "policy/loss_metrics/clip_ratio",
        "policy/response_length",
        "policy/rollout_train_logprobs_abs_diff_mean",
    } <= {*metrics[0][0]}


@pytest.mark.proves(
    "trainer.critic.model.path",
    "trainer.critic.optimizer_config.lr",
    "trainer.critic.optimizer_config.max_grad_norm",
    "trainer.critic.optimizer_config.scheduler",
    "trainer.critic.optimizer_config.num_warmup_steps",
    "trainer.critic_mini_batch_size",
)
@each_world
def test_the_critic_agrees_with_plain_torch(results: Results, world: int) -> None:
    for result in results[world]:
        ours = result["critic"]
        assert torch.equal(ours["head"], results[1][0]["critic"]["head"])
        assert ours["head"].std() == pytest.approx(1 / 65, rel=0.4)
        plain = PlainCritic(ours["head"])
        for seed, step in enumerate(ours["steps"]):
            expected = plain.step(seed)
            torch.testing.assert_close(step["values"], expected["values"], rtol=0, atol=1e-5)
            assert step["metrics"]["critic/critic_loss"] == pytest.approx(expected["critic_loss"], rel=1e-4)
            assert {"critic/values_mean", "critic/values_clipfrac", "critic/critic_lr", "critic/grad_norm"} <= {
                *step["metrics"]
            }
        parameters = {name: tensor.detach() for name, tensor in plain.whole.named_parameters()}
        assert_same_parameters(ours["parameters"], parameters)


@pytest.mark.proves("trainer.algorithm.value_head_prefix")
def test_an_exported_critic_is_a_model_and_its_output_layer(results: Results, directory: Path) -> None:
    exported = directory / "critic_2"
    plain = PlainCritic(results[1][0]["critic"]["head"])
    for seed in range(3):
        plain.step(seed)
    saved = load_file(exported / "model.safetensors")
    torch.testing.assert_close(saved["value_head.weight"], plain.head.weight.detach(), rtol=0, atol=1e-5)


def adapted(model: Qwen2ForCausalLM) -> Qwen2ForCausalLM:
    torch.manual_seed(42)  # trainer.seed
    add_adapters(model, SkyRLLoraConfig.model_validate(fsdp_ranks.LORA))
    return model


@pytest.mark.proves(
    "trainer.policy.model.lora.rank",
    "trainer.policy.model.lora.alpha",
    "trainer.policy.model.lora.target_modules",
    "trainer.policy.model.lora.exclude_modules",
)
@each_world
def test_adapters_agree_with_plain_torch(results: Results, world: int) -> None:
    original = make_model(tied=True)
    untouched = dict(original.named_parameters())
    plain = Plain("regular", adapted(make_model(tied=True)))
    expected = []
    for seed in range(3):
        reference = plain.logprobs(make_batch(seed), original)
        expected.append((reference, plain.step(seed, reference=reference)["metrics"]))
    merged = {
        name.replace(".base_layer.", "."): parameter.detach().clone()
        for name, parameter in plain.model.named_parameters()
        if ".lora_" not in name
    }
    for name, layer in adapted_layers(plain.model):
        assert isinstance(layer, LoraLayer)
        merged[f"{name}.weight"] += layer.get_delta_weight("default")  # type: ignore[operator]
    for result in results[world]:
        ours = result["adapters"]
        assert_same_parameters(ours["before"], {name: part.detach() for name, part in untouched.items()}, tolerance=0)
        for step, (reference, metrics) in zip(ours["steps"], expected, strict=True):
            torch.testing.assert_close(step["reference"], reference, rtol=0, atol=1e-5)
            for name, value in metrics.items():
                assert step["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
        assert all(".lora_" in name for name in ours["trained"])
        assert not any("down_proj" in name for name in ours["trained"])
        assert_same_parameters(ours["parameters"], merged)
        assert_same_parameters(ours["resumed"], ours["parameters"], tolerance=0)


@each_world
def test_an_exported_model_is_one_that_transformers_loads(results: Results, directory: Path, world: int) -> None:
    exported = directory / f"export_{world}"
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert model.config.use_cache is True
    assert model.dtype == torch.float32
    ours = results[world][0]["adapters"]["parameters"]
    merged = make_model(tied=True)
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            parameter.copy_(ours[name])
    tokens = torch.arange(20)[None]
    assert torch.equal(model(tokens).logits, merged(tokens).logits)
    assert not torch.allclose(model(tokens).logits, make_model(tied=True)(tokens).logits)
    assert (exported / "tokenizer.json").is_file()


@pytest.mark.proves("trainer.seed")
@each_resuming
def test_a_resumed_run_repeats_the_step_bit_for_bit(results: Results, world: int) -> None:
    result = results[world][0]["resumed"]
    assert result["again"]["metrics"] == result["third"]["metrics"]
    assert_same_parameters(result["again"]["parameters"], result["third"]["parameters"], tolerance=0)
    # Two runs from the beginning, too, are the same to the last bit.
    first = results[world][0]["padded"]["everything"]["steps"][2]
    assert result["third"]["metrics"] == first["metrics"]
    assert_same_parameters(result["third"]["parameters"], first["parameters"], tolerance=0)


def test_one_rank_resumes_what_two_saved(results: Results) -> None:
    ours = results[1][0]["resumed"]["from two"]
    expected = results[2][0]["resumed"]["third"]
    torch.testing.assert_close(ours["logprobs"], expected["logprobs"], rtol=0, atol=1e-5)
    assert_same_parameters(ours["parameters"], expected["parameters"])
    assert ours["metrics"]["policy/policy_lr"] == expected["metrics"]["policy/policy_lr"]


def test_gathered_parameters_are_those_that_were_announced(results: Results) -> None:
    result = results[2][1]
    expected = [(name, tuple(p.shape), "float32") for name, p in make_model(tied=False).named_parameters()]
    assert [(name, tuple(shape), dtype) for name, shape, dtype in result["resumed"]["specs"]] == expected
    for run, settings in RUNS.items():
        names = [name for name, _ in make_model(tied=settings["tied"]).named_parameters()]
        assert list(result["padded"][run]["steps"][0]["parameters"]) == names
        assert ("lm_head.weight" in names) is not settings["tied"]


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(results: Results) -> None:
    special = results[2][0]["special"]
    assert special["poisoned"]["policy/skipped_steps"] == 1
    assert_same_parameters(special["after"], special["before"], tolerance=0)


# What changes how a step is computed, and not what comes out.
SAME_STEP = ("without old", "reentrant", "wrapped", "offloaded")


@pytest.mark.proves(
    "trainer.gradient_checkpointing",
    "trainer.gradient_checkpointing_use_reentrant",
    "trainer.policy.fsdp_config.wrap_policy",
    "trainer.policy.fsdp_config.cpu_offload",
    "trainer.policy.optimizer_config.offload_after_step",
)
@pytest.mark.parametrize("way", SAME_STEP)
def test_other_ways_to_compute_a_step_lead_to_the_same(results: Results, way: str) -> None:
    result = results[2][0]
    first, second = (step["parameters"] for step in result["padded"]["regular"]["steps"][:2])
    assert_same_parameters(result["special"][way], second)
    assert (first["model.norm.weight"] - second["model.norm.weight"]).abs().max() > LR / 10


@pytest.mark.proves(
    "trainer.bf16",
    "trainer.policy.fsdp_config.mixed_precision.param_dtype",
    "generator.inference_engine.model_dtype",
)
@pytest.mark.parametrize("way", ["by bf16", "by mixed_precision"])
def test_bfloat16_compute_keeps_float32_master_weights(results: Results, way: str) -> None:
    half, exact = results[2][0]["special"]["bf16"][way], results[2][0]["padded"]["regular"]["steps"]
    assert half["masters"] == ["torch.float32"]
    for ours, expected in zip(half["steps"], exact, strict=False):
        assert {tensor.dtype for tensor in ours["parameters"].values()} == {torch.bfloat16}
        torch.testing.assert_close(ours["logprobs"], expected["logprobs"], rtol=0, atol=0.2)
        assert not torch.allclose(ours["logprobs"], expected["logprobs"], rtol=0, atol=1e-5)
        assert ours["logprobs"].dtype == torch.float32
        assert ours["metrics"]["policy/grad_norm"] > 0


@pytest.mark.proves("trainer.update_ref_every_epoch")
def test_the_reference_becomes_the_policy(results: Results) -> None:
    refreshed = results[2][0]["special"]["refreshed"]
    torch.testing.assert_close(refreshed["after"], refreshed["policy"], rtol=0, atol=1e-6)
    assert torch.equal(refreshed["resumed"], refreshed["after"])
    assert (refreshed["after"] - refreshed["before"]).abs().max() > 1e-3
