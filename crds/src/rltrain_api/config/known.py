"""The names of SkyRL's fields that this release does not carry yet.

They let a refusal tell "SkyRL knows this, we do not yet" from a misspelt key. A name moves from here into a model when
the trainer honours it; together with the models these are all fields of SkyRLTrainConfig. Data only.
"""

from __future__ import annotations

_LORA = "rank alpha dropout lora_sync_path target_modules exclude_modules init_method"
_MIXED_PRECISION = "param_dtype reduce_dtype buffer_dtype"
_MEGATRON = {
    "": "tensor_model_parallel_size pipeline_model_parallel_size context_parallel_size expert_model_parallel_size "
    "expert_tensor_parallel_size moe_token_dispatcher_type moe_router_load_balancing_type moe_grouped_gemm "
    "moe_router_score_function moe_router_enable_expert_bias optimizer_config_kwargs transformer_config_kwargs "
    "empty_cuda_cache model_config_kwargs dist_ckpt_optim_fully_reshardable",
    ".ddp_config": "grad_reduce_in_fp32 overlap_grad_reduce overlap_param_gather average_in_collective",
    ".torch_profiler_config": "enable ranks save_path",
    ".lora_config": "lora_type",
}

_FIELDS_BY_SECTION: dict[str, str] = {
    "trainer": "sequence_parallel_backend gradient_checkpointing_use_reentrant hf_save_interval "
    "critic_mini_batch_size update_ref_every_epoch use_sample_packing flash_attn disable_fast_tokenizer "
    "dump_data_batch dump_eval_results rope_scaling rope_theta log_path export_path",
    "trainer.placement": "critic_num_nodes critic_num_gpus_per_node",
    "trainer.policy": "use_torch_compile record_memory model_config_kwargs",
    "trainer.policy.model.lora": _LORA,
    "trainer.policy.optimizer_config": "offload_after_step",
    "trainer.policy.fsdp_config": "cpu_offload fsdp_size wrap_policy",
    "trainer.policy.fsdp_config.mixed_precision": _MIXED_PRECISION,
    **{f"trainer.policy.megatron_config{section}": fields for section, fields in _MEGATRON.items()},
    "trainer.ref": "sequence_parallel_size model_config_kwargs",
    "trainer.ref.model.lora": _LORA,
    "trainer.ref.fsdp_config": "cpu_offload reshard_after_forward fsdp_size wrap_policy",
    "trainer.ref.fsdp_config.mixed_precision": _MIXED_PRECISION,
    **{f"trainer.ref.megatron_config{section}": fields for section, fields in _MEGATRON.items()},
    "trainer.critic": "sequence_parallel_size model_config_kwargs",
    "trainer.critic.model": "path",
    "trainer.critic.model.lora": _LORA,
    "trainer.critic.optimizer_config": "lr adam_betas weight_decay max_grad_norm offload_after_step num_warmup_steps "
    "scheduler",
    "trainer.critic.fsdp_config": "cpu_offload reshard_after_forward fsdp_size wrap_policy",
    "trainer.critic.fsdp_config.mixed_precision": _MIXED_PRECISION,
    "trainer.algorithm": "use_kl_in_reward advantage_batch_normalize value_head_prefix lambd gamma tis_imp_ratio_cap "
    "use_tis value_clip",
    "trainer.algorithm.kl_ctrl": "type kl_target horizon",
    "trainer.algorithm.off_policy_correction": "tis_ratio_type token_tis_ratio_clip_high sequence_tis_ratio_clip_high "
    "sequence_mask_metric geo_mask_high geo_mask_low product_mask_high product_mask_low "
    "outlier_token_is_threshold_low outlier_token_is_threshold_high token_mask_is_threshold_low "
    "token_mask_is_threshold_high",
    "trainer.algorithm.sapo": "tau_pos tau_neg",
    "trainer.algorithm.dynamic_sampling": "type max_sample_batches min_replace_ratio",
    "trainer.algorithm.clip_cov": "clip_ratio clip_cov_lb clip_cov_ub",
    "trainer.algorithm.kl_cov": "kl_cov_frac ppo_kl_coef",
    "trainer.algorithm.cispo": "cispo_eps_clip_low cispo_eps_clip_high",
    "trainer.fully_async": "max_staleness_steps num_parallel_generation_workers",
    "generator": "batched chat_template_kwargs use_conversation_multi_turn "
    "append_eos_token_after_stop_str_in_multi_turn rope_scaling rope_theta step_wise_trajectories",
    "generator.chat_template": "source name_or_path",
    "generator.inference_engine": "run_engines_locally weight_transfer_threshold_cuda_ipc_GB async_engine "
    "vllm_v1_disable_multiproc enable_prefix_caching enable_chunked_prefill max_num_batched_tokens enforce_eager "
    "fully_sharded_loras enable_ray_prometheus_stats gpu_memory_utilization max_num_seqs remote_urls "
    "enable_http_endpoint http_endpoint_host http_endpoint_port served_model_name distributed_executor_backend "
    "engine_init_kwargs override_existing_update_group external_proxy_url external_server_urls",
    "environment.skyrl_gym.text2sql": "db_path",
    "environment.skyrl_gym.llm_as_a_judge": "model base_url",
    "environment.skyrl_gym.search": "log_requests search_url topk timeout",
}

# Dotted paths from the root of the tree, such as "trainer.critic.model.path".
NOT_CARRIED_FIELDS = frozenset(
    f"{section}.{field}" for section, fields in _FIELDS_BY_SECTION.items() for field in fields.split()
)


def _with_sections(fields: frozenset[str]) -> frozenset[str]:
    paths = set(fields)
    for field in fields:
        parts = field.split(".")
        paths.update(".".join(parts[:depth]) for depth in range(1, len(parts)))
    return frozenset(paths)


# The same, with every section on the way, such as "trainer.critic" and "trainer" itself.
NOT_CARRIED_PATHS = _with_sections(NOT_CARRIED_FIELDS)
