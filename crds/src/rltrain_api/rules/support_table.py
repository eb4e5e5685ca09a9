"""What RLTrain's own trainer does with every leaf of SkyRL's tree, and the few values that upstream's cannot do.

Each leaf is in exactly one place: HONOURED (any valid value is done), a `Row` (some values are done), or below a
`Section` (nothing of it is done, so only SkyRL's own default, which asks for nothing, is accepted). A test fails where
a leaf is in none or in two. When the trainer learns something, its line moves; nothing else has to change. Data only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One field, the values of it that are done, and what the reader has to know.

    Args:
        path: Dotted path from the root of the tree; a section's path stands for everything in it.
        honoured: The values that are done; none where the field is refused whenever it is set.
        why: The reason, in a few words.
        unset_too: Whether SkyRL's default is refused even where nobody set it, because it changes what is computed or
            where it runs. Otherwise the default is a detail of upstream's performance, and silence about it is fine.
    """

    path: str
    honoured: tuple[object, ...]
    why: str
    unset_too: bool = False


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
    "placement.ref_num_gpus_per_node sequence_parallel_backend policy.model.path policy.optimizer_config.lr "
    "policy.optimizer_config.adam_betas policy.optimizer_config.weight_decay policy.optimizer_config.max_grad_norm "
    "policy.optimizer_config.num_warmup_steps policy.optimizer_config.scheduler "
    "policy.fsdp_config.reshard_after_forward ref.model.path algorithm.kl_estimator_type algorithm.use_kl_loss "
    "algorithm.kl_loss_coef algorithm.use_entropy_loss algorithm.entropy_loss_coef algorithm.temperature "
    "algorithm.loss_reduction algorithm.grpo_norm_by_std algorithm.zero_variance_filter algorithm.eps_clip_low "
    "algorithm.eps_clip_high algorithm.clip_ratio_c algorithm.max_seq_len gradient_checkpointing seed resume_mode "
    "resume_path ckpt_path max_ckpts_to_keep ckpt_interval bf16 epochs update_epochs_per_batch train_batch_size "
    "policy_mini_batch_size micro_train_batch_size_per_gpu micro_forward_batch_size_per_gpu eval_batch_size "
    "eval_before_train eval_interval max_prompt_length project_name run_name"
)
_SAMPLING = "max_generate_length repetition_penalty temperature top_p min_p top_k logprobs stop"
_GENERATOR = (
    "inference_engine.model_dtype inference_engine.num_engines inference_engine.weight_sync_backend "
    "n_samples_per_prompt max_turns max_input_length eval_n_samples_per_prompt zero_reward_on_non_stop "
    "apply_overlong_filtering"
)

# Any valid value is done.
HONOURED = frozenset(
    {"data.train_data", "data.val_data", "environment.skyrl_gym.max_env_workers"}
    | {f"trainer.{name}" for name in _TRAINER.split()}
    | {f"generator.{name}" for name in _GENERATOR.split()}
    | {
        f"generator.{section}.{name}"
        for section in ("sampling_params", "eval_sampling_params")
        for name in _SAMPLING.split()
    }
)

_ONE_GPU = "an engine has one GPU"
_NO_EXPORT = "nothing is exported or dumped"
_ADDRESSES = "engines are started by the run"
_ROPE = "models are loaded with the rotary embeddings of their own configuration"
_SHARDING = "a model is sharded over all ranks, block by block"

ROWS: tuple[Row, ...] = (
    Row("trainer.placement.colocate_all", (False,), "engines run in pods of their own", unset_too=True),
    Row("trainer.placement.colocate_policy_ref", (True,), "the reference model shares the policy's GPUs"),
    Row("trainer.strategy", ("fsdp2",), "models are sharded with FSDP2"),
    Row("trainer.policy.sequence_parallel_size", (1,), "every sequence stays on one GPU"),
    Row("trainer.policy.optimizer_config.offload_after_step", (False,), "the optimiser's state stays on the GPU"),
    Row("trainer.policy.fsdp_config.cpu_offload", (False,), "parameters stay on the GPU"),
    Row("trainer.policy.fsdp_config.fsdp_size", (-1,), _SHARDING),
    Row("trainer.policy.fsdp_config.mixed_precision", (None,), "trainer.bf16 alone decides the types of numbers"),
    Row("trainer.policy.fsdp_config.wrap_policy", ({},), _SHARDING),
    Row("trainer.policy.use_torch_compile", (False,), "nothing is compiled"),
    Row("trainer.policy.record_memory", (False,), "no snapshots of GPU memory are taken"),
    Row("trainer.policy.model_config_kwargs", ({},), "a model is loaded with its own configuration"),
    Row("trainer.algorithm.advantage_estimator", ("grpo",), "other estimators are still to come"),
    Row("trainer.algorithm.policy_loss_type", ("regular", "dual_clip"), "other losses are still to come"),
    Row("trainer.algorithm.use_kl_in_reward", (False,), "the divergence is a term of the loss, see use_kl_loss"),
    Row("trainer.algorithm.advantage_batch_normalize", (False,), "advantages stay as they are estimated"),
    Row("trainer.algorithm.use_tis", (False,), "there is no off-policy correction"),
    Row("trainer.gradient_checkpointing_use_reentrant", (False,), "checkpointing is not reentrant"),
    Row("trainer.hf_save_interval", (-1, 0), _NO_EXPORT),
    Row("trainer.dump_data_batch", (False,), _NO_EXPORT),
    Row("trainer.dump_eval_results", (False,), _NO_EXPORT),
    Row("trainer.update_ref_every_epoch", (False,), "the reference model stays as it was loaded"),
    Row("trainer.use_sample_packing", (False,), "sequences are padded in small groups"),
    Row("trainer.flash_attn", (False,), "attention is PyTorch's own, which needs no package"),
    Row("trainer.disable_fast_tokenizer", (False,), "the fast tokenizer is used where there is one"),
    Row("trainer.logger", ("console",), "metrics go to the driver's log and /metrics", unset_too=True),
    Row("trainer.rope_scaling", (None,), _ROPE),
    Row("trainer.rope_theta", (None,), _ROPE),
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
    Row("generator.batched", (False,), "every prompt is a request of its own"),
    Row("generator.chat_template.name_or_path", (None,), "the tokenizer's own template is used"),
    Row("generator.chat_template_kwargs", ({},), "the tokenizer's template gets no further arguments"),
    Row("generator.sampling_params.additional_kwargs", (None, {}), "the builtin engine knows no others"),
    Row("generator.eval_sampling_params.additional_kwargs", (None, {}), "the builtin engine knows no others"),
    Row("generator.use_conversation_multi_turn", (True,), "every turn is a message of its own"),
    Row("generator.append_eos_token_after_stop_str_in_multi_turn", (True,), "every turn is a whole message"),
    Row("generator.rope_scaling", (None,), _ROPE),
    Row("generator.rope_theta", (None,), _ROPE),
    Row("generator.step_wise_trajectories", (False,), "a trajectory is one sample"),
    Row(
        "environment.env_class",
        ("gsm8k", "gsm8k_multi_turn", "aime", "lcb", "searchcode"),
        "these environments of skyrl-gym run without settings of their own",
    ),
)

_CRITIC = "it has no critic"
_OTHER_LOSS = "other losses are still to come"
_NO_CORRECTION = "there is no off-policy correction"
_NO_MEGATRON = "it has no Megatron"
_LORA = "whole models are trained, without adapters"
_VLLM = "it is a setting of vLLM, and engines are RLTrain's own"

SECTIONS: tuple[Section, ...] = (
    Section("trainer.policy.model.lora", _LORA, "trainer.policy.model.lora.rank"),
    Section("trainer.policy.megatron_config", _NO_MEGATRON, "trainer.strategy"),
    Section("trainer.ref.megatron_config", _NO_MEGATRON, "trainer.strategy"),
    Section("trainer.ref.model.lora", _LORA),
    Section("trainer.ref.fsdp_config", "the reference model is sharded as the policy is"),
    Section("trainer.ref.sequence_parallel_size", "every sequence stays on one GPU"),
    Section("trainer.ref.model_config_kwargs", "a model is loaded with its own configuration"),
    Section("trainer.critic", _CRITIC, "trainer.critic.model.path"),
    Section("trainer.critic_mini_batch_size", _CRITIC, "trainer.critic.model.path"),
    Section("trainer.placement.critic_num_nodes", _CRITIC, "trainer.critic.model.path"),
    Section("trainer.placement.critic_num_gpus_per_node", _CRITIC, "trainer.critic.model.path"),
    Section("trainer.algorithm.value_head_prefix", _CRITIC, "trainer.critic.model.path"),
    Section("trainer.algorithm.value_clip", _CRITIC, "trainer.critic.model.path"),
    Section("trainer.algorithm.lambd", "it has no gae", "trainer.algorithm.advantage_estimator"),
    Section("trainer.algorithm.gamma", "it has no gae", "trainer.algorithm.advantage_estimator"),
    Section(
        "trainer.algorithm.kl_ctrl",
        "the weight of the divergence is kl_loss_coef",
        "trainer.algorithm.use_kl_in_reward",
    ),
    Section("trainer.algorithm.tis_imp_ratio_cap", _NO_CORRECTION, "trainer.algorithm.use_tis"),
    Section("trainer.algorithm.off_policy_correction", _NO_CORRECTION),
    Section("trainer.algorithm.sapo", _OTHER_LOSS, "trainer.algorithm.policy_loss_type"),
    Section("trainer.algorithm.clip_cov", _OTHER_LOSS, "trainer.algorithm.policy_loss_type"),
    Section("trainer.algorithm.kl_cov", _OTHER_LOSS, "trainer.algorithm.policy_loss_type"),
    Section("trainer.algorithm.cispo", _OTHER_LOSS, "trainer.algorithm.policy_loss_type"),
    Section(
        "trainer.algorithm.dynamic_sampling",
        "every sampled prompt is trained on, see zero_variance_filter",
        "trainer.algorithm.dynamic_sampling.type",
    ),
    Section("trainer.fully_async", "generation and training take turns"),
    Section("trainer.log_path", "logs go to the pods' own"),
    Section("trainer.export_path", _NO_EXPORT),
    Section(
        "generator.inference_engine.weight_transfer_threshold_cuda_ipc_GB",
        "weights are sent between GPUs",
        "trainer.placement.colocate_all",
    ),
    Section("generator.inference_engine.vllm_v1_disable_multiproc", _VLLM),
    Section("generator.inference_engine.fully_sharded_loras", _LORA, "trainer.policy.model.lora.rank"),
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
    Section(
        "generator.chat_template.source", "the tokenizer's own template is used", "generator.chat_template.name_or_path"
    ),
    Section("environment.skyrl_gym.text2sql", "that environment does not run yet", "environment.env_class"),
    Section("environment.skyrl_gym.llm_as_a_judge", "that environment does not run yet", "environment.env_class"),
    Section("environment.skyrl_gym.search", "that environment does not run yet", "environment.env_class"),
)

# Upstream's trainer does everything else that its own checks let pass.
UPSTREAM_ROWS: tuple[Row, ...] = (
    Row("generator.inference_engine.backend", ("vllm",), "SkyRL 0.1 drives vLLM only"),
    Row("generator.inference_engine.weight_sync_backend", ("nccl",), "SkyRL 0.1 sends weights to vLLM with NCCL only"),
)
