"""What RLTrain's own trainer does with every leaf of SkyRL's tree, and the few values that upstream's cannot do.

Each leaf is in exactly one place: HONOURED (any valid value is done), a `Row` (some values are done), or below a
`Section` (nothing of it is done, so only SkyRL's own default, which asks for nothing, is accepted). A test fails where
a leaf is in none or in two. When the trainer learns something, its line moves; nothing else has to change. Data only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from rltrain_api.config.algorithm import AdvantageEstimator, PolicyLossType


@dataclass(frozen=True, slots=True)
class Row:
    """One field, the values of it that are done, and what the reader has to know.

    Args:
        path: Dotted path from the root of the tree; a section's path stands for everything in it.
        honoured: The values that are done; none where the field is refused whenever it is set.
        why: The reason, in a few words.
        unset_too: Whether SkyRL's default is refused even where nobody set it, because it changes what is computed or
            where it runs. Otherwise the default is a detail of upstream's performance, and silence about it is fine.
        registrable: Whether one of spec.runtime.modules may register further values. Which ones is known only when the
            job starts, so that with modules every value is let pass.
    """

    path: str
    honoured: tuple[object, ...]
    why: str
    unset_too: bool = False
    registrable: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """Fields that mean something only with a feature that is not done.

    Args:
        path: Dotted path of the section, or of a single leaf.
        why: The reason, in a few words.
        switch: The leaf that turns the feature on: where that one is refused, it alone is named.
    """

    path: str
    why: str
    switch: str | None = None


_TRAINER = (
    "placement.policy_num_nodes placement.policy_num_gpus_per_node placement.ref_num_nodes "
    "placement.ref_num_gpus_per_node sequence_parallel_backend ref.model.path algorithm.kl_estimator_type "
    "algorithm.use_kl_loss algorithm.kl_loss_coef algorithm.use_entropy_loss algorithm.entropy_loss_coef "
    "algorithm.temperature algorithm.loss_reduction algorithm.grpo_norm_by_std algorithm.zero_variance_filter "
    "algorithm.eps_clip_low "
    "algorithm.eps_clip_high algorithm.clip_ratio_c algorithm.max_seq_len algorithm.use_kl_in_reward "
    "algorithm.kl_ctrl.type algorithm.kl_ctrl.kl_target algorithm.kl_ctrl.horizon algorithm.advantage_batch_normalize "
    "algorithm.lambd algorithm.gamma algorithm.value_clip algorithm.use_tis algorithm.tis_imp_ratio_cap "
    "algorithm.sapo.tau_pos algorithm.sapo.tau_neg algorithm.clip_cov.clip_ratio algorithm.clip_cov.clip_cov_lb "
    "algorithm.clip_cov.clip_cov_ub algorithm.kl_cov.kl_cov_frac algorithm.kl_cov.ppo_kl_coef "
    "algorithm.cispo.cispo_eps_clip_low algorithm.cispo.cispo_eps_clip_high algorithm.dynamic_sampling.type "
    "algorithm.dynamic_sampling.max_sample_batches algorithm.dynamic_sampling.min_replace_ratio "
    "gradient_checkpointing seed resume_mode "
    "resume_path ckpt_path max_ckpts_to_keep ckpt_interval bf16 epochs update_epochs_per_batch train_batch_size "
    "policy_mini_batch_size micro_train_batch_size_per_gpu micro_forward_batch_size_per_gpu eval_batch_size "
    "eval_before_train eval_interval max_prompt_length project_name run_name logger log_path export_path "
    "hf_save_interval dump_data_batch dump_eval_results"
)
_CORRECTION = (
    "tis_ratio_type token_tis_ratio_clip_high sequence_tis_ratio_clip_high sequence_mask_metric geo_mask_high "
    "geo_mask_low product_mask_high product_mask_low outlier_token_is_threshold_low outlier_token_is_threshold_high "
    "token_mask_is_threshold_low token_mask_is_threshold_high"
)
_MODELS = (  # of policy and critic
    "sequence_parallel_size model_config_kwargs optimizer_config.lr optimizer_config.adam_betas "
    "optimizer_config.weight_decay optimizer_config.max_grad_norm optimizer_config.offload_after_step "
    "optimizer_config.num_warmup_steps optimizer_config.scheduler model.path model.lora.rank model.lora.alpha "
    "model.lora.dropout model.lora.target_modules model.lora.exclude_modules"
)
_FSDP = "cpu_offload reshard_after_forward fsdp_size wrap_policy"  # of all three models
_FURTHER = (
    "placement.colocate_policy_ref placement.critic_num_nodes placement.critic_num_gpus_per_node "
    "policy.use_torch_compile policy.record_memory ref.sequence_parallel_size ref.model_config_kwargs "
    "critic_mini_batch_size algorithm.value_head_prefix gradient_checkpointing_use_reentrant update_ref_every_epoch "
    "use_sample_packing flash_attn rope_scaling rope_theta"
)
_SAMPLING = "max_generate_length repetition_penalty temperature top_p min_p top_k logprobs stop"
_GENERATOR = (
    "inference_engine.model_dtype inference_engine.num_engines inference_engine.weight_sync_backend "
    "n_samples_per_prompt max_turns max_input_length eval_n_samples_per_prompt zero_reward_on_non_stop "
    "apply_overlong_filtering batched chat_template.source chat_template.name_or_path chat_template_kwargs "
    "use_conversation_multi_turn append_eos_token_after_stop_str_in_multi_turn step_wise_trajectories"
)

_ENVIRONMENTS = (
    "max_env_workers text2sql.db_path llm_as_a_judge.model llm_as_a_judge.base_url search.log_requests "
    "search.search_url search.topk search.timeout"
)

# Any valid value is done.
HONOURED = frozenset(
    {"data.train_data", "data.val_data"}
    | {f"environment.skyrl_gym.{name}" for name in _ENVIRONMENTS.split()}
    | {f"trainer.{name}" for name in _TRAINER.split()}
    | {f"trainer.algorithm.off_policy_correction.{name}" for name in _CORRECTION.split()}
    | {f"trainer.{name}" for name in _FURTHER.split()}
    | {f"trainer.{model}.{name}" for model in ("policy", "critic") for name in _MODELS.split()}
    | {f"trainer.{model}.fsdp_config.{name}" for model in ("policy", "critic", "ref") for name in _FSDP.split()}
    | {f"generator.{name}" for name in _GENERATOR.split()}
    | {"generator.rope_scaling", "generator.rope_theta"}
    | {
        f"generator.{section}.{name}"
        for section in ("sampling_params", "eval_sampling_params")
        for name in _SAMPLING.split()
    }
)

_ONE_GPU = "an engine has one GPU"
_NO_SCALING = "float16 would need its gradients scaled"
_INIT_METHODS = ("kaiming", "xavier", "normal", "gaussian", "orthogonal")
_ADAPTERS_BEGIN = "others leave adapters at rest for ever, or change the model beneath them"
_ADDRESSES = "engines are started by the run"

ROWS: tuple[Row, ...] = (
    Row("trainer.placement.colocate_all", (False,), "engines run in pods of their own", unset_too=True),
    Row("trainer.strategy", ("fsdp2", "fsdp"), "models are sharded with FSDP2, under either name"),
    *(
        Row(f"trainer.{model}.fsdp_config.mixed_precision.{name}", ("bf16", "fp32"), _NO_SCALING)
        for model in ("policy", "critic", "ref")
        for name in ("param_dtype", "reduce_dtype", "buffer_dtype")
    ),
    *(Row(f"trainer.{model}.model.lora.init_method", _INIT_METHODS, _ADAPTERS_BEGIN) for model in ("policy", "critic")),
    Row(
        "trainer.algorithm.advantage_estimator",
        (*get_args(AdvantageEstimator), "maxrl"),
        "these estimators come with it",
        registrable=True,
    ),
    Row(
        "trainer.algorithm.policy_loss_type",
        (*get_args(PolicyLossType), "rollout_is", "dppo"),
        "these losses come with it",
        registrable=True,
    ),
    Row("trainer.disable_fast_tokenizer", (False,), "transformers 5 has fast tokenizers only"),
    Row("generator.inference_engine.backend", ("builtin",), "it has engines of its own only", unset_too=True),
    Row("generator.inference_engine.run_engines_locally", (True,), _ADDRESSES),
    Row("generator.inference_engine.tensor_parallel_size", (1,), _ONE_GPU),
    Row("generator.inference_engine.pipeline_parallel_size", (1,), _ONE_GPU),
    Row("generator.inference_engine.expert_parallel_size", (1,), _ONE_GPU),
    Row("generator.inference_engine.data_parallel_size", (1,), _ONE_GPU),
    Row("generator.inference_engine.async_engine", (True,), "engines always take requests while they generate"),
    Row("generator.inference_engine.enable_prefix_caching", (False,), "prompts are computed each time"),
    Row("generator.inference_engine.enable_chunked_prefill", (False,), "a prompt is read at once"),
    Row("generator.inference_engine.max_num_batched_tokens", (), "an engine bounds sequences, not tokens"),
    Row("generator.inference_engine.max_num_seqs", (), "an engine runs up to 256 sequences at once"),
    Row("generator.inference_engine.gpu_memory_utilization", (), "an engine's cache has a fixed size"),
    Row("generator.inference_engine.enforce_eager", (True,), "engines use no CUDA graphs"),
    Row("generator.inference_engine.enable_ray_prometheus_stats", (False,), "metrics are at the driver's /metrics"),
    Row("generator.inference_engine.remote_urls", ([],), _ADDRESSES),
    Row("generator.inference_engine.external_proxy_url", (None,), _ADDRESSES),
    Row("generator.inference_engine.external_server_urls", (None,), _ADDRESSES),
    Row("generator.inference_engine.enable_http_endpoint", (False,), "engines serve the run only"),
    Row("generator.inference_engine.served_model_name", (None,), "engines serve the run only"),
    Row("generator.inference_engine.engine_init_kwargs", ({},), "the builtin engine knows no others"),
    Row("generator.sampling_params.additional_kwargs", (None, {}), "the builtin engine knows no others"),
    Row("generator.eval_sampling_params.additional_kwargs", (None, {}), "the builtin engine knows no others"),
    Row(
        "environment.env_class",
        ("gsm8k", "gsm8k_multi_turn", "aime", "lcb", "searchcode", "text2sql", "search", "llm_as_a_judge"),
        "these environments are registered",
        registrable=True,
    ),
)

_NO_MEGATRON = "it has no Megatron"
_NOT_TRAINED = "the reference model is never trained"
_MERGED = "engines get adapters merged into the weights"
_VLLM = "it is a setting of vLLM, and engines are RLTrain's own"

SECTIONS: tuple[Section, ...] = (
    Section("trainer.policy.model.lora.lora_sync_path", _MERGED),
    Section("trainer.critic.model.lora.lora_sync_path", "engines have no critic"),
    Section("trainer.policy.megatron_config", _NO_MEGATRON, "trainer.strategy"),
    Section("trainer.ref.megatron_config", _NO_MEGATRON, "trainer.strategy"),
    Section("trainer.ref.model.lora", _NOT_TRAINED),
    Section("trainer.fully_async", "generation and training take turns"),
    Section(
        "generator.inference_engine.weight_transfer_threshold_cuda_ipc_GB",
        "weights are sent between GPUs",
        "trainer.placement.colocate_all",
    ),
    Section("generator.inference_engine.vllm_v1_disable_multiproc", _VLLM),
    Section("generator.inference_engine.fully_sharded_loras", _MERGED),
    Section(
        "generator.inference_engine.http_endpoint_host",
        "engines serve the run only",
        "generator.inference_engine.enable_http_endpoint",
    ),
    Section(
        "generator.inference_engine.http_endpoint_port",
        "engines serve the run only",
        "generator.inference_engine.enable_http_endpoint",
    ),
    Section("generator.inference_engine.distributed_executor_backend", _ONE_GPU),
    Section("generator.inference_engine.override_existing_update_group", _ADDRESSES),
)

# Upstream's trainer does everything else that its own checks let pass.
UPSTREAM_ROWS: tuple[Row, ...] = (
    Row("trainer.algorithm.advantage_estimator", get_args(AdvantageEstimator), "SkyRL 0.1 has no others"),
    Row("trainer.algorithm.policy_loss_type", get_args(PolicyLossType), "SkyRL 0.1 has no others"),
    Row(
        "trainer.algorithm.loss_reduction",
        ("token_mean", "sequence_mean", "seq_mean_token_sum_norm"),
        "SkyRL 0.1 has no others",
    ),
    Row("generator.inference_engine.backend", ("vllm",), "SkyRL 0.1 drives vLLM only"),
    Row("generator.inference_engine.weight_sync_backend", ("nccl",), "SkyRL 0.1 sends weights to vLLM with NCCL only"),
)
