"""What upstream's SkyRL 0.1.0 refuses before a run is refused here too, at the field that is wrong.

Each case is one of the checks that upstream makes (the numbers are those of docs/validation.md), broken by the fewest
overrides. The other way around does not hold: here more is refused, and `STRICTER` says by which rules, for the draws
of batch sizes and placements at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

import upstream_skyrl
from rltrain_api.job import RLTrainingJob
from rltrain_api.overrides import apply_overrides, parse_override, write_override
from rltrain_api.parse import parse_job
from rltrain_api.render import overrides_for_skyrl
from rltrain_api.rules.facts import Facts
from rltrain_api.validate import RULES, SKYRL_RULES, validate
from skyrl_jobs import skyrl_document, skyrl_job

BASE = overrides_for_skyrl(skyrl_job())


def ours(overrides: list[str], environment: Mapping[str, str] | None = None) -> RLTrainingJob | dict[str, str]:
    """The job with these overrides, or what is wrong with it, by path."""
    tree = apply_overrides({}, [parse_override(text) for text in overrides])
    variables = [{"name": name, "value": value} for name, value in (environment or {}).items()]
    job = parse_job(skyrl_document(config=tree, runtime={"env": variables}))
    errors = validate(job) if isinstance(job, RLTrainingJob) else job
    return {error.path.removeprefix("spec.config."): error.message for error in errors} or job


@dataclass(frozen=True)
class Mistake:
    """Overrides that upstream refuses.

    Args:
        overrides: What is set besides `BASE`.
        said: A part of upstream's message.
        path: The field, or one of several, that we name.
        environment: The variables of upstream's process, and of our pods.
    """

    overrides: list[str]
    said: str
    path: str
    environment: dict[str, str] = field(default_factory=dict)


ENGINE = "generator.inference_engine"
APART = "trainer.placement.colocate_all=false"
MEGATRON = ["trainer.strategy=megatron", "trainer.flash_attn=false"]  # upstream imports the package to look at it
CRITIC = "trainer.critic.model.path=/data/critic"
CRITIC_GPUS = "trainer.placement.critic_num_gpus_per_node=4"
REMOTE = [APART, f"{ENGINE}.run_engines_locally=false", "generator.sampling_params.logprobs=null"]
CORRECTED = "trainer.algorithm.off_policy_correction.tis_ratio_type=token"
MISTAKES: dict[str, Mistake] = {
    "C2 another sequence parallelism": Mistake(
        ["trainer.sequence_parallel_backend=ring"], "only ulysses", "trainer.sequence_parallel_backend"
    ),
    "C3 gae without a critic": Mistake(
        ["trainer.algorithm.advantage_estimator=gae"], "critic.model.path", "trainer.critic.model.path"
    ),
    "C4 KL in the reward and in the loss": Mistake(
        ["trainer.algorithm.use_kl_in_reward=true"], "mutually exclusive", "trainer.algorithm.use_kl_loss"
    ),
    "C5 FSDP1 with the policy in CPU memory": Mistake(
        ["trainer.strategy=fsdp", "trainer.policy.fsdp_config.cpu_offload=true"],
        "FSDP1 policy worker",
        "trainer.policy.fsdp_config.cpu_offload",
    ),
    "C5 FSDP1 with the critic in CPU memory": Mistake(
        ["trainer.strategy=fsdp", CRITIC, CRITIC_GPUS, "trainer.critic.fsdp_config.cpu_offload=true"],
        "FSDP1 critic worker",
        "trainer.critic.fsdp_config.cpu_offload",
    ),
    "C7 no checkpoint is kept": Mistake(
        ["trainer.max_ckpts_to_keep=0"], "max_ckpts_to_keep", "trainer.max_ckpts_to_keep"
    ),
    "C8 an unknown loss": Mistake(
        ["trainer.algorithm.policy_loss_type=ppo"], "invalid policy_loss_type", "trainer.algorithm.policy_loss_type"
    ),
    "C9 an unknown estimator": Mistake(
        ["trainer.algorithm.advantage_estimator=ppo"],
        "invalid advantage_estimator",
        "trainer.algorithm.advantage_estimator",
    ),
    "C12 an unknown reduction": Mistake(
        ["trainer.algorithm.loss_reduction=mean"], "invalid loss_reduction", "trainer.algorithm.loss_reduction"
    ),
    "C15 an unknown ratio": Mistake(
        ["trainer.algorithm.off_policy_correction.tis_ratio_type=batch"],
        "tis_ratio_type",
        "trainer.algorithm.off_policy_correction.tis_ratio_type",
    ),
    "C15 an unknown mask": Mistake(
        ["trainer.algorithm.off_policy_correction.sequence_mask_metric=mean"],
        "sequence_mask_metric",
        "trainer.algorithm.off_policy_correction.sequence_mask_metric",
    ),
    "C17 a correction that the loss clip_cov leaves out": Mistake(
        [CORRECTED, "trainer.algorithm.policy_loss_type=clip_cov"],
        "doesn't support clip_cov or kl_cov",
        "trainer.algorithm.policy_loss_type",
    ),
    "C17 a mask that the loss kl_cov leaves out": Mistake(
        [
            "trainer.algorithm.off_policy_correction.sequence_mask_metric=product",
            "trainer.algorithm.policy_loss_type=kl_cov",
        ],
        "doesn't support clip_cov or kl_cov",
        "trainer.algorithm.policy_loss_type",
    ),
    "C18 LoRA without vLLM": Mistake(
        ["trainer.policy.model.lora.rank=8", f"{ENGINE}.backend=sglang"], "requires vLLM", f"{ENGINE}.backend"
    ),
    "C19 engines and policy on different numbers of GPUs": Mistake(
        [f"{ENGINE}.num_engines=3"], "must be the same when colocating all", f"{ENGINE}.num_engines"
    ),
    "C20 a reference model on other nodes": Mistake(
        [APART, "trainer.placement.ref_num_nodes=2"],
        "policy_num_nodes (1) and ref_num_nodes",
        "trainer.placement.ref_num_nodes",
    ),
    "C20 a reference model on other GPUs": Mistake(
        [APART, "trainer.placement.ref_num_gpus_per_node=2"],
        "ref_num_gpus_per_node (2) must be the same",
        "trainer.placement.ref_num_gpus_per_node",
    ),
    "G1 one turn with an input of its own": Mistake(
        ["generator.max_input_length=1024"], "single-turn", "generator.max_input_length"
    ),
    "G1 several turns shorter than the prompt": Mistake(
        ["generator.max_turns=2", "generator.max_input_length=100"], "multi-turn", "generator.max_input_length"
    ),
    "G2 remote engines without addresses": Mistake(
        [*REMOTE, f"{ENGINE}.remote_urls=['a:1']"], "number of remote_urls", f"{ENGINE}.remote_urls"
    ),
    "G3 offline engines without batches": Mistake(
        [f"{ENGINE}.async_engine=false"], "batched mode", f"{ENGINE}.async_engine"
    ),
    "G4 W&B without a key": Mistake(["trainer.logger=wandb"], "WANDB_API_KEY", "trainer.logger"),
    "G6 two log-probabilities": Mistake(
        ["generator.sampling_params.logprobs=2"], "should be 0 or 1", "generator.sampling_params.logprobs"
    ),
    "G7 log-probabilities of remote engines": Mistake(
        [*REMOTE[:2], f"{ENGINE}.num_engines=1", f"{ENGINE}.remote_urls=['a:1']"],
        "Remote inference mode",
        "generator.sampling_params.logprobs",
    ),
    "G10 an endpoint of offline engines": Mistake(
        [f"{ENGINE}.enable_http_endpoint=true", f"{ENGINE}.async_engine=false", "generator.batched=true"],
        "async_engine must be True",
        f"{ENGINE}.enable_http_endpoint",
    ),
    "I1 experts that do not fill tensor and data parallel": Mistake(
        [f"{ENGINE}.expert_parallel_size=2"], "must equal expert parallel size", f"{ENGINE}.expert_parallel_size"
    ),
    "I4 external engines on the policy's GPUs": Mistake(
        [f"{ENGINE}.external_proxy_url='http://a'"],
        "Cannot use external_proxy_url",
        f"{ENGINE}.external_proxy_url",
        {"_SKYRL_USE_NEW_INFERENCE": "1"},
    ),
    "M weights by gloo": Mistake(
        [*MEGATRON, f"{ENGINE}.weight_sync_backend=gloo"], "only nccl", f"{ENGINE}.weight_sync_backend"
    ),
    "M an engine other than vLLM": Mistake([*MEGATRON, f"{ENGINE}.backend=sglang"], "only vllm", f"{ENGINE}.backend"),
    "M a critic": Mistake([*MEGATRON, CRITIC, CRITIC_GPUS], "only GRPO", "trainer.critic.model.path"),
    "M context parallel without packing": Mistake(
        [
            *MEGATRON,
            "trainer.policy.megatron_config.context_parallel_size=2",
            "trainer.use_sample_packing=false",
        ],
        "only supported with sample packing",
        "trainer.policy.megatron_config.context_parallel_size",
    ),
    "M ulysses for the policy": Mistake(
        [*MEGATRON, "trainer.policy.sequence_parallel_size=2"],
        "policy.sequence_parallel_size=2",
        "trainer.policy.sequence_parallel_size",
    ),
    "M ulysses for the reference model": Mistake(
        [*MEGATRON, "trainer.ref.sequence_parallel_size=2"],
        "ref.sequence_parallel_size=2",
        "trainer.ref.sequence_parallel_size",
    ),
    "B1 a batch smaller than its mini-batch": Mistake(
        ["trainer.train_batch_size=8", "trainer.policy_mini_batch_size=16"], "", "trainer.train_batch_size"
    ),
    "B1 no mini-batch": Mistake(
        ["trainer.policy_mini_batch_size=0"], "must be greater than 0", "trainer.policy_mini_batch_size"
    ),
    "B1 no micro-batch": Mistake(
        ["trainer.micro_train_batch_size_per_gpu=0"],
        "must be greater than 0",
        "trainer.micro_train_batch_size_per_gpu",
    ),
    "B1 no micro-batch without gradients": Mistake(
        ["trainer.micro_forward_batch_size_per_gpu=0"],
        "must be greater than 0",
        "trainer.micro_forward_batch_size_per_gpu",
    ),
    "B1 a batch smaller than the critic's mini-batch": Mistake(
        [CRITIC, CRITIC_GPUS, "trainer.critic_mini_batch_size=2048"], "", "trainer.train_batch_size"
    ),
    "B2 Megatron's policy does not fill its GPUs": Mistake(
        [*MEGATRON, "trainer.policy.megatron_config.tensor_model_parallel_size=3"],
        "policy_world_size 4 should be divisible",
        "trainer.policy.megatron_config.tensor_model_parallel_size",
    ),
    "B2 Megatron's reference model does not fill its GPUs": Mistake(
        [*MEGATRON, "trainer.ref.megatron_config.pipeline_model_parallel_size=3"],
        "ref_world_size 4 should be divisible",
        "trainer.ref.megatron_config.tensor_model_parallel_size",
    ),
    "B3 mini-batches do not fill the batch": Mistake(
        ["trainer.train_batch_size=1000"], "should be divisible by", "trainer.train_batch_size"
    ),
    "B4 fewer sequences than GPUs": Mistake(
        [
            "trainer.train_batch_size=1",
            "trainer.policy_mini_batch_size=1",
            "generator.n_samples_per_prompt=2",
        ],
        "Invalid policy_mini_batch_size_per_gpu: 0",
        "trainer.policy_mini_batch_size",
    ),
    "B4 micro-batches do not fill a GPU's share": Mistake(
        ["trainer.micro_train_batch_size_per_gpu=3"],
        "should be divisible by micro_train_batch_size_per_gpu",
        "trainer.micro_train_batch_size_per_gpu",
    ),
    "B5 shares of a batch that do not divide": Mistake(
        [
            "trainer.train_batch_size=22",
            "trainer.policy_mini_batch_size=11",
            "generator.n_samples_per_prompt=1",
        ],
        "should be divisible by policy_mini_batch_size_per_gpu",
        "trainer.policy_mini_batch_size",
    ),
    "B6 the critic's mini-batches do not fill the batch": Mistake(
        [CRITIC, CRITIC_GPUS, "trainer.critic_mini_batch_size=300"],
        "critic_mini_batch_size 300",
        "trainer.train_batch_size",
    ),
    "B6 micro-batches do not fill the critic's share": Mistake(
        [
            CRITIC,
            CRITIC_GPUS,
            "trainer.critic_mini_batch_size=4",
            "trainer.micro_train_batch_size_per_gpu=10",
        ],
        "critic_mini_batch_size_per_gpu 5",
        "trainer.micro_train_batch_size_per_gpu",
    ),
    "B7 a batch smaller than policy and reference together": Mistake(
        [
            APART,
            "trainer.placement.colocate_policy_ref=false",
            "trainer.placement.ref_num_gpus_per_node=3",
            "trainer.train_batch_size=1",
            "trainer.policy_mini_batch_size=1",
            "generator.n_samples_per_prompt=4",
        ],
        "least common multiple",
        "trainer.train_batch_size",
    ),
}


def test_the_base_is_right_on_both_sides() -> None:
    assert upstream_skyrl.refusal(BASE) is None
    assert isinstance(ours([]), RLTrainingJob), ours([])


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_the_same_mistake_is_refused(mistake: Mistake) -> None:
    theirs = upstream_skyrl.refusal([*BASE, *mistake.overrides], mistake.environment)
    assert theirs is not None, "upstream accepts it"
    assert mistake.said in theirs
    errors = ours(mistake.overrides, mistake.environment)
    assert isinstance(errors, dict), "we accept it"
    assert mistake.path in errors, errors


PUT_RIGHT: dict[str, tuple[list[str], dict[str, str]]] = {
    "a critic": (["trainer.algorithm.advantage_estimator=gae", CRITIC, CRITIC_GPUS], {}),
    "KL in the reward alone": (
        ["trainer.algorithm.use_kl_in_reward=true", "trainer.algorithm.use_kl_loss=false"],
        {},
    ),
    "FSDP2 with the policy in CPU memory": (["trainer.policy.fsdp_config.cpu_offload=true"], {}),
    "a correction of the usual loss": ([CORRECTED], {}),
    "engines apart": ([APART, f"{ENGINE}.num_engines=3"], {}),
    "several turns longer than the prompt": (["generator.max_turns=2", "generator.max_input_length=1024"], {}),
    "remote engines": ([*REMOTE, f"{ENGINE}.num_engines=1", f"{ENGINE}.remote_urls=['a:1']"], {}),
    "offline engines with batches": ([f"{ENGINE}.async_engine=false", "generator.batched=true"], {}),
    "W&B with a key": (["trainer.logger=wandb"], {"WANDB_API_KEY": "0" * 40}),
    "experts that fill tensor parallel": (
        [f"{ENGINE}.expert_parallel_size=2", f"{ENGINE}.tensor_parallel_size=2", f"{ENGINE}.num_engines=2"],
        {},
    ),
    "external engines apart": (
        [APART, f"{ENGINE}.external_proxy_url='http://a'"],
        {"_SKYRL_USE_NEW_INFERENCE": "1"},
    ),
    "Megatron": ([*MEGATRON, "trainer.policy.megatron_config.tensor_model_parallel_size=2"], {}),
    "a smaller batch": (["trainer.train_batch_size=32", "trainer.policy_mini_batch_size=16"], {}),
}


@pytest.mark.parametrize(("overrides", "environment"), PUT_RIGHT.values(), ids=PUT_RIGHT.keys())
def test_the_mistake_put_right_is_accepted(overrides: list[str], environment: dict[str, str]) -> None:
    assert upstream_skyrl.refusal([*BASE, *overrides], environment) is None
    assert isinstance(ours(overrides, environment), RLTrainingJob), ours(overrides, environment)


# Rules that refuse what upstream's checks let through in the draws below, and why.
STRICTER = {
    "policy_mini_batch_divides_among_gpus": "SkyRL rounds a GPU's share down and leaves sequences out",
    "critic_mini_batch_divides_among_gpus": "the same",
    "batch_divides_among_all_models": "SkyRL asks for as many sequences, and leaves out what does not divide",
    "sequence_parallel_divides_the_gpus": "SkyRL rounds the number of groups down, and its device mesh fails",
    "reference_fills_the_policys_gpus": "SkyRL asks when it builds the models",
    "critic_fills_the_policys_gpus": "SkyRL asks when it builds the models",
    "groups_have_members": "SkyRL trains on advantages that are all zero",
    "models_get_the_pods_made_for_them": "SkyRL knows no pods",
}

SMALL = st.integers(1, 4)
SELDOM_TWO = st.sampled_from([1, 1, 1, 1, 2])


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Batch sizes, models and engines; numbers are small and often multiples, so that many draws are right."""
    mini, nodes, gpus = draw(st.integers(1, 12)), draw(st.integers(1, 2)), draw(SMALL)

    def mostly(usual: int) -> int:
        return draw(st.sampled_from([usual] * 5 + [draw(SMALL)]))

    found: dict[str, Any] = {
        "trainer.policy_mini_batch_size": mini,
        "trainer.train_batch_size": draw(st.sampled_from([mini, 2 * mini, 3 * mini, mini + 1])),
        "trainer.micro_train_batch_size_per_gpu": mostly(1),
        "generator.n_samples_per_prompt": draw(st.sampled_from([1, 4, 8, 8, 24, 24])),
        "trainer.placement.policy_num_nodes": nodes,
        "trainer.placement.policy_num_gpus_per_node": gpus,
        "trainer.placement.ref_num_nodes": mostly(nodes),
        "trainer.placement.ref_num_gpus_per_node": mostly(gpus),
        "trainer.placement.colocate_all": draw(st.booleans()),
        "trainer.placement.colocate_policy_ref": draw(st.booleans()),
        "trainer.algorithm.use_kl_loss": draw(st.booleans()),
        "generator.inference_engine.num_engines": mostly(nodes * gpus),
        "generator.inference_engine.data_parallel_size": draw(st.sampled_from([1, 1, 1, 2])),
    }
    if draw(st.booleans()):
        for key, value in (override.split("=") for override in MEGATRON):
            found[key] = value == "true" if value in ("true", "false") else value
        for model in ("policy", "ref"):
            found[f"trainer.{model}.megatron_config.tensor_model_parallel_size"] = draw(
                st.sampled_from([1, 1, 1, 1, 2])
            )
            found[f"trainer.{model}.megatron_config.pipeline_model_parallel_size"] = draw(
                st.sampled_from([1, 1, 1, 1, 2])
            )
        return found
    for model in ("policy", "ref", "critic"):
        found[f"trainer.{model}.sequence_parallel_size"] = draw(SELDOM_TWO)
    if draw(st.booleans()):
        found["trainer.critic.model.path"] = "/data/critic"
        found["trainer.critic_mini_batch_size"] = mostly(mini)
        found["trainer.placement.critic_num_nodes"] = nodes
        found["trainer.placement.critic_num_gpus_per_node"] = mostly(gpus)
    return found


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(batches())
@example({"trainer.policy_mini_batch_size": 256})
def test_batches_that_upstream_refuses_are_refused_and_we_say_where_we_are_stricter(drawn: dict[str, Any]) -> None:
    overrides = [write_override(tuple(key.split(".")), value) for key, value in drawn.items()]
    theirs = upstream_skyrl.refusal([*BASE, *overrides])
    errors = ours(overrides)
    event("upstream refuses" if theirs else "both accept" if isinstance(errors, RLTrainingJob) else "we are stricter")
    if theirs is not None:
        assert isinstance(errors, dict), f"only upstream refuses: {theirs}"
        return
    tree = apply_overrides({}, [parse_override(text) for text in overrides])
    facts = Facts(skyrl_job(config=tree))
    complaining = {rule.__name__ for rule in (*RULES, *SKYRL_RULES) if list(rule(facts))}
    assert complaining <= STRICTER.keys(), errors
