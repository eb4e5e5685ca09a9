"""Names of every age of SkyRL: old ones are translated, newer ones mapped or refused by name, and none is lost."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from rltrain_api.convert.arguments import read_arguments
from rltrain_api.convert.fields import Place, fit_value, in_tree_order, leaf_paths, place_of, similar_to
from rltrain_api.convert.items import Item
from rltrain_api.convert.launch import Argument
from rltrain_api.convert.legacy import GONE, RENAMED
from rltrain_api.convert.report import Level, Report
from rltrain_api.convert.translate import Translation, translate
from rltrain_api.convert.versions import NEWER, NEWER_VALUES, Release


def translated(*overrides: str, hydra: bool = False) -> tuple[Translation, list[str]]:
    """The tree that the overrides come to, and what was told, each override standing in a line of its own."""
    report = Report()
    reading = read_arguments([Argument(line, text) for line, text in enumerate(overrides, start=1)], report)
    translation = translate(reading.items, report, hydra=hydra or reading.hydra)
    return translation, [f"{note.level} {note.line}: {note.text}" for note in report.in_order()]


def tree_of(*overrides: str) -> dict[str, Any]:
    return translated(*overrides)[0].tree


# SkyRL's own table (skyrl 0.1.0, train/config/legacy.py), written down apart from ours: old name -> new name.
MOVED = (
    "model_dtype run_engines_locally backend weight_sync_backend weight_transfer_threshold_cuda_ipc_GB async_engine "
    "vllm_v1_disable_multiproc enable_prefix_caching enable_chunked_prefill max_num_batched_tokens enforce_eager "
    "fully_sharded_loras enable_ray_prometheus_stats gpu_memory_utilization max_num_seqs enable_http_endpoint "
    "http_endpoint_host http_endpoint_port served_model_name engine_init_kwargs override_existing_update_group "
    "external_proxy_url external_server_urls"
)
LEGACY = {
    **dict.fromkeys(MOVED.split()),
    "num_inference_engines": "num_engines",
    "inference_engine_tensor_parallel_size": "tensor_parallel_size",
    "inference_engine_pipeline_parallel_size": "pipeline_parallel_size",
    "inference_engine_expert_parallel_size": "expert_parallel_size",
    "inference_engine_data_parallel_size": "data_parallel_size",
    "remote_inference_engine_urls": "remote_urls",
}


@pytest.mark.parametrize("old", LEGACY)
def test_every_flat_key_of_the_generator_is_translated(old: str) -> None:
    new = LEGACY[old] or old
    value = {"engine_init_kwargs": {"a": 1}}.get(old, "x")
    report = Report()
    translation = translate([Item(1, ("generator", old), value)], report)
    engine = translation.tree["generator"]["inference_engine"]
    assert engine[new] in (value, [value])
    assert translation.legacy
    assert report.in_order()[0].text == f"generator.{old} is generator.inference_engine.{new} since SkyRL 0.1"


def test_the_table_of_flat_keys_is_upstreams() -> None:
    ours = {old[1]: new[-1] for old, new in RENAMED.items() if old[0] == "generator"}
    assert ours == {old: new or old for old, new in LEGACY.items()}


@pytest.mark.parametrize("new", sorted(RENAMED.values()), ids=".".join)
def test_every_old_name_becomes_a_field(new: tuple[str, ...]) -> None:
    assert place_of(new) is Place.FIELD


@pytest.mark.parametrize("path", sorted(GONE), ids=".".join)
def test_every_name_that_is_gone_is_refused_with_the_reason(path: tuple[str, ...]) -> None:
    assert place_of(path) is Place.NOTHING
    translation, notes = translated(f"{'.'.join(path)}.x=1")
    assert translation.tree == {}
    assert notes[0].endswith(f"is left out: {GONE[path]}")


# What SkyRL's releases added to its dataclasses, written down from those classes, apart from the table under test.
ADDED_IN_0_2 = (
    "generator.vision_language_generator generator.merge_stepwise_output "
    "generator.inference_engine.enable_return_routed_experts generator.inference_engine.language_model_only "
    "generator.inference_engine.enable_pd generator.inference_engine.num_prefill "
    "generator.inference_engine.router_init_kwargs trainer.policy.megatron_config.moe_enable_routing_replay "
    "trainer.ref.megatron_config.moe_enable_routing_replay trainer.policy.language_model_only "
    "trainer.ref.language_model_only"
)
MEGATRON_0_3 = (
    "moe_aux_loss_coeff moe_per_layer_logging moe_router_dtype hf_export_config.distributed_save "
    "hf_export_config.save_every_n_ranks freeze_moe_router mtp_num_layers mtp_loss_weight mtp_loss_chunk_size "
    "mtp_loss_topk lora_config.merge_lora"
)
MODEL_0_3 = (
    "lora.max_loras lora.max_cpu_loras fake_int4_qat.enabled fake_int4_qat.group_size fake_int4_qat.symmetric "
    "fake_int4_qat.scale_divisor fake_int4_qat.q_min fake_int4_qat.bf16_base_path"
)
PROFILER_0_3 = (
    "enable ranks save_path skip_first wait warmup active repeat activities record_shapes profile_memory with_stack "
    "with_flops with_modules export_type"
)
TRAINER_0_3 = (
    "use_expandable_segments max_training_steps max_tokens_per_microbatch recompute_old_logprobs_per_minibatch "
    "remove_microbatch_padding enable_ray_gpu_monitor tags print_example_interval num_logger_eval_samples "
    "num_logger_train_samples log_example_interval logprobs_chunk_size fused_lm_head_logprob "
    "fused_lm_head_logprob_backend mtp.enabled mtp.num_speculative_tokens mtp.loss_weight fully_async.enabled "
    "fully_async.sample_full_batch fully_async.clear_kv_cache_on_weight_sync fully_async.simulate_training "
    "fully_async.simulate_training_step_seconds fully_async.simulate_weight_sync_seconds policy.inference_only_init "
    "algorithm.zero_variance_filter_tol algorithm.dppo.dppo_type algorithm.dppo.delta_low algorithm.dppo.delta_high"
)
ADDED_LATER = (
    "trainer.algorithm.cispo.cispo_anchor trainer.vocab_entropy_chunk_size trainer.vocab_entropy_chunk_memory_mb "
    "trainer.eval.before_train trainer.eval.interval trainer.eval.batch_size trainer.override_entrypoint "
    "generator.inference_engine.delta_weight_sync generator.inference_engine.offload_kv_for_weight_sync "
    "generator.inference_engine.delta_weight_sync.sync_dir "
    "generator.inference_engine.delta_weight_sync.local_checkpoint_dir "
    "generator.inference_engine.delta_weight_sync.publish_staging_dir "
    "generator.inference_engine.delta_weight_sync.max_file_size_in_gb "
    "generator.inference_engine.delta_weight_sync.cloud_download_workers "
    "generator.inference_engine.delta_weight_sync.publish_num_workers "
    "generator.inference_engine.delta_weight_sync.checkpoint_load_format "
    "generator.inference_engine.delta_weight_sync.multi_thread_safetensors_max_workers "
    "trainer.policy.megatron_config.async_dist_ckpt_save trainer.policy.megatron_config.async_dist_ckpt_strategy "
    "trainer.policy.megatron_config.async_save_prestage_to_cpu"
)
ELSEWHERE_0_3 = (
    "data.dataloader.num_workers data.dataloader.persistent_workers generator.use_cache_salt "
    "generator.inference_engine.use_expandable_segments generator.inference_engine.speculative_config"
)
ADDED = [
    *itertools.product(["0.2"], ADDED_IN_0_2.split()),
    *itertools.product(["0.3"], (f"trainer.{name}" for name in TRAINER_0_3.split())),
    *itertools.product(["0.3"], (f"trainer.policy.torch_profiler_config.{name}" for name in PROFILER_0_3.split())),
    *itertools.product(
        ["0.3"],
        (f"trainer.{owner}.megatron_config.{name}" for owner in ("policy", "ref") for name in MEGATRON_0_3.split()),
    ),
    *itertools.product(
        ["0.3"],
        (f"trainer.{owner}.model.{name}" for owner in ("policy", "ref", "critic") for name in MODEL_0_3.split()),
    ),
    *itertools.product(["0.3"], ELSEWHERE_0_3.split()),
    *itertools.product(["after 0.3"], ADDED_LATER.split()),
]


@pytest.mark.parametrize(("release", "key"), ADDED)
def test_every_newer_name_is_known_with_its_release_and_mapped_or_refused_by_name(release: str, key: str) -> None:
    path = tuple(key.split("."))
    assert place_of(path) is Place.NOTHING, "the name is one of SkyRL 0.1"
    newer = NEWER[path]
    assert str(newer.since) == f"SkyRL {release}"
    translation, notes = translated(f"{key}=12345")
    assert len(notes) >= 1
    assert key in notes[0]
    assert f"SkyRL {release}" in notes[0]
    if newer.becomes is not None:
        assert place_of(newer.becomes) is Place.FIELD
        assert newer.becomes in translation.lines
    else:
        assert path not in translation.lines


@pytest.mark.parametrize("path", [path for path, newer in NEWER.items() if newer.neutral], ids=".".join)
def test_a_newer_name_that_asks_for_what_happens_anyway_costs_nothing(path: tuple[str, ...]) -> None:
    for value in NEWER[path].neutral:
        report = Report()
        translate([Item(1, path, value)], report)
        assert [note.level for note in report.in_order() if note.line == 1] == [Level.NOTE]


def test_every_switch_stands_beside_what_it_switches() -> None:
    for path, newer in NEWER.items():
        if newer.switch is not None:
            assert (*path[:-1], newer.switch) in NEWER


NOTES: dict[str, tuple[list[str], dict[str, Any], list[str]]] = {
    "an unknown field": (
        ["trainer.train_batch_szie=1"],
        {},
        [
            "missing 1: trainer.train_batch_szie is no field of SkyRL's configuration and is left out; did you mean "
            "trainer.train_batch_size?"
        ],
    ),
    "a field in the wrong section": (
        ["generator.train_batch_size=1"],
        {},
        [
            "missing 1: generator.train_batch_size is no field of SkyRL's configuration and is left out; did you mean "
            "trainer.train_batch_size?"
        ],
    ),
    "a section as a value": (
        ["trainer.policy=x"],
        {},
        ["missing 1: trainer.policy is a section and has no value of its own; set its fields"],
    ),
    "a section as a map": (
        ["trainer.policy={model: {path: a/b}, nothing: {x: 1}}"],
        {"trainer": {"policy": {"model": {"path": "a/b"}}}},
        ["missing 1: trainer.policy.nothing is no field of SkyRL's configuration and is left out"],
    ),
    "a value that is set twice": (
        ["trainer.epochs=1", "trainer.epochs=2"],
        {"trainer": {"epochs": 2}},
        ["note 2: trainer.epochs was set in line 1; the last value counts"],
    ),
    "text and lists": (
        ["trainer.run_name=20250101", "data.train_data=/a.parquet", "trainer.train_batch_size=1e3", "trainer.seed=x"],
        {
            "trainer": {"run_name": "20250101", "train_batch_size": 1000, "seed": "x"},
            "data": {"train_data": ["/a.parquet"]},
        },
        [
            "note 1: trainer.run_name: 20250101 is text and is written in quotes",
            "note 2: data.train_data: a single entry is written as a list",
            "note 3: trainer.train_batch_size: 1000.0 is written as the integer 1000",
        ],
    ),
    "free maps": (
        ["generator.inference_engine.engine_init_kwargs.a.b=1", "generator.chat_template_kwargs={x: {y: 1}}"],
        {
            "generator": {
                "inference_engine": {"engine_init_kwargs": {"a": {"b": 1}}},
                "chat_template_kwargs": {"x": {"y": 1}},
            }
        },
        [],
    ),
    "a secret": (
        ["generator.inference_engine.engine_init_kwargs.hf_token=abc"],
        {},
        [
            "missing 1: generator.inference_engine.engine_init_kwargs.hf_token is left out: it looks like a secret, "
            "and jobs can be read"
        ],
    ),
    "contradictions": (
        ["trainer.seed=1", "generator.inference_engine.engine_init_kwargs.a=1",
         "generator.inference_engine.engine_init_kwargs.a.b=1"],
        {"trainer": {"seed": 1}, "generator": {"inference_engine": {"engine_init_kwargs": {"a": 1}}}},
        [
            "missing 3: generator.inference_engine.engine_init_kwargs.a.b: generator.inference_engine."
            "engine_init_kwargs.a is 1, which has no fields; set it to a map, or remove one of the two"
        ],
    ),
    "Hydra's prefixes": (
        ["+generator.inference_engine.engine_init_kwargs.x=1", "++trainer.seed=1", "~trainer.rope_theta"],
        {"trainer": {"seed": 1}, "generator": {"inference_engine": {"engine_init_kwargs": {"x": 1}}}},
        [
            "note 1: +generator.inference_engine.engine_init_kwargs.x: '+' is Hydra's prefix for a new key; not needed "
            "here",
            "note 2: ++trainer.seed: '++' is Hydra's prefix for a new key; not needed here",
            "check 3: ~trainer.rope_theta: '~' removes a key from Hydra's files; the field has its default here",
        ],
    ),
    "Hydra's files": (
        ["+experiment=grpo", "--config-name", "train", "--config-path=/x", "hydra.run.dir=x", "--multirun"],
        {},
        [
            "missing 1: +experiment=grpo: lets Hydra add a file of your checkout, config/experiment/grpo.yaml, whose "
            "values are not in this input: convert that file, and put the overrides from here into its spec.overrides",
            "missing 2: --config-name names a YAML file (train) whose values are not in this input: convert that file, "
            "and put the overrides from here into its spec.overrides",
            "missing 4: --config-path names a YAML file (/x) whose values are not in this input: convert that file, "
            "and put the overrides from here into its spec.overrides",
            "note 5: hydra.run.dir is left out: it sets up Hydra, not the run",
            "missing 6: --multirun is an option of Hydra's and is left out; a job is one run",
        ],
    ),
    "no overrides": (
        ["--verbose", "trainer.seed", "", "trainer.seed=[1"],
        {},
        [
            "missing 1: --verbose is an option of the program's and is not carried over",
            "missing 2: trainer.seed: has no '='; write key.path=value, without spaces around '=', and key.path=null "
            "where null is meant",
            "missing 3: an empty argument is left out; SkyRL would not have started with it",
            "missing 4: trainer.seed=[1: the value is no YAML: expected ',' or ']', but got '<stream end>'; close "
            "every bracket and quote, and quote the whole override for the shell",
        ],
    ),
    "a strategy that changed its name": (
        ["trainer.strategy=fsdp", "trainer.remove_microbatch_padding=false", "trainer.algorithm.use_kl_loss=false",
         "trainer.algorithm.loss_reduction=sequence_mean"],
        {
            "trainer": {
                "strategy": "fsdp2",
                "use_sample_packing": False,
                "algorithm": {"use_kl_loss": False, "loss_reduction": "sequence_mean"},
            },
            "generator": {"inference_engine": {"enforce_eager": False}},
        },
        [
            "note 1: trainer.strategy: fsdp is fsdp2 here; SkyRL 0.3 renamed it",
            "note 2: trainer.remove_microbatch_padding (SkyRL 0.3) is trainer.use_sample_packing here: it had that "
            "name until 0.3",
            "note None: generator.inference_engine.enforce_eager is written out as false, the default of newer "
            "releases: CUDA graphs are used",
        ],
    ),
    "a strategy that may have": (
        ["trainer.strategy=fsdp"],
        {"trainer": {"strategy": "fsdp"}},
        [
            "check 1: trainer.strategy: fsdp is PyTorch's first FSDP; if the input is for SkyRL 0.3 or later, set fsdp2"
        ],
    ),
    "values that changed their name or came later": (
        ["trainer.algorithm.loss_reduction=token_mean_legacy", "trainer.algorithm.policy_loss_type=dppo",
         "trainer.algorithm.use_kl_loss=false", "generator.inference_engine.enforce_eager=true"],
        {
            "trainer": {
                "algorithm": {"loss_reduction": "token_mean", "policy_loss_type": "dppo", "use_kl_loss": False}
            },
            "generator": {"inference_engine": {"enforce_eager": True}},
        },
        [
            "note 1: trainer.algorithm.loss_reduction: token_mean_legacy is token_mean here: until 0.2 this was called "
            "token_mean",
            "note 2: trainer.algorithm.policy_loss_type: dppo came with SkyRL 0.3: the builtin trainer has it, "
            "SkyRL 0.1 has not; eps_clip_low and eps_clip_high are its bounds",
        ],
    ),
    "settings that mean something else since": (
        ["generator.merge_stepwise_output=false"],
        {},
        [
            "note 1: generator.merge_stepwise_output came with SkyRL 0.2 and is left out: false is what happens here "
            "anyway",
            "check None: trainer.algorithm.loss_reduction token_mean is one mean over the whole mini-batch since SkyRL "
            "0.2; in 0.1 it is a mean per micro-batch, and then over those",
            "check None: trainer.algorithm.use_kl_loss has no gradient in upstream's SkyRL 0.1.0, by a mistake that "
            "0.2 has mended; it matters with runtime.trainer skyrl",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTES)
def test_what_becomes_of_a_setting_is_told(case: str) -> None:
    overrides, tree, expected = NOTES[case]
    arguments = [Argument(line, text) for line, text in enumerate(overrides, start=1)]
    report = Report()
    reading = read_arguments(arguments, report)
    translation = translate(reading.items, report)
    notes = [f"{note.level} {note.line}: {note.text}" for note in report.in_order()]
    assert (translation.tree, notes) == (tree, expected)


def test_the_cispo_bounds_of_later_releases_are_written_out() -> None:
    tree = tree_of("trainer.algorithm.policy_loss_type=cispo", "trainer.algorithm.cispo.cispo_anchor=old")
    assert tree["trainer"]["algorithm"]["cispo"] == {"cispo_eps_clip_low": 1.0, "cispo_eps_clip_high": 4.0}


def test_megatron_settings_matter_with_megatron_only() -> None:
    key = "trainer.policy.megatron_config.freeze_moe_router=true"
    assert "no effect, since trainer.strategy is not megatron" in translated(key)[1][0]
    notes = translated("trainer.strategy=megatron", key)[1]
    assert "missing 2: trainer.policy.megatron_config.freeze_moe_router came with SkyRL 0.3" in notes[0]


# With Hydra, overrides came on top of a full YAML file; with dataclasses, a section that is set in part has the
# class's defaults (measured with skyrl 0.1.0).
IMPLIED: dict[str, tuple[list[str], dict[str, Any]]] = {
    "evaluation": (
        ["generator.backend=vllm", "generator.eval_sampling_params.top_p=0.7",
         "generator.sampling_params.max_generate_length=64"],
        {
            "generator": {
                "inference_engine": {"backend": "vllm"},
                "sampling_params": {"max_generate_length": 64},
                "eval_sampling_params": {"top_p": 0.7, "temperature": 0.0, "max_generate_length": 64},
            }
        },
    ),
    "the policy's model": (
        ["+trainer.policy.model.lora.rank=8"],
        {"trainer": {"policy": {"model": {"lora": {"rank": 8}, "path": "Qwen/Qwen2.5-1.5B-Instruct"}}}},
    ),
    "the critic's optimiser": (
        ["+trainer.critic.optimizer_config.weight_decay=0.1"],
        {"trainer": {"critic": {"optimizer_config": {"weight_decay": 0.1, "lr": 5e-6}}}},
    ),
    "remote engines": (
        ["generator.run_engines_locally=false"],
        {"generator": {"inference_engine": {"run_engines_locally": False, "remote_urls": ["127.0.0.1:8001"]}}},
    ),
    "nothing in today's form": (
        ["trainer.policy.model.lora.rank=8", "generator.eval_sampling_params.top_p=0.7"],
        {
            "trainer": {"policy": {"model": {"lora": {"rank": 8}}}},
            "generator": {"eval_sampling_params": {"top_p": 0.7}},
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", IMPLIED)
def test_what_hydras_file_held_besides_is_written_out(case: str) -> None:
    overrides, tree = IMPLIED[case]
    assert tree_of(*overrides) == tree


def test_megatrons_maps_were_merged_into_hydras_file() -> None:
    tree = tree_of("+trainer.policy.megatron_config.transformer_config_kwargs.recompute_num_layers=2")
    kwargs = tree["trainer"]["policy"]["megatron_config"]["transformer_config_kwargs"]
    assert kwargs["recompute_num_layers"] == 2
    assert kwargs["recompute_granularity"] == "full"


def test_releases_are_in_order() -> None:
    assert Release.V0_2 < Release.V0_3 < Release.LATER
    assert {newer.since for newer in NEWER.values()} == set(Release)
    assert all(place_of(tuple(key.split("."))) is Place.FIELD for key, _ in NEWER_VALUES)


def test_fields_are_found_by_path() -> None:
    assert place_of(()) is Place.SECTION
    assert place_of(("trainer", "policy", "model")) is Place.SECTION
    assert place_of(("generator", "eval_sampling_params")) is Place.SECTION
    assert place_of(("trainer", "seed")) is Place.FIELD
    assert place_of(("trainer", "seed", "x")) is Place.NOTHING
    assert place_of(("generator", "inference_engine", "engine_init_kwargs", "x", "y")) is Place.FREE
    assert all(place_of(path) is Place.FIELD for path in leaf_paths())
    assert similar_to(("trainer", "nothing_of_the_kind")) is None


def test_values_fit_their_fields() -> None:
    assert fit_value(("trainer", "policy", "optimizer_config", "lr"), 1).value == 1
    assert fit_value(("trainer", "policy", "fsdp_config", "reshard_after_forward"), 2).value == 2
    assert fit_value(("trainer", "flash_attn"), 1).value == 1
    assert fit_value(("trainer", "resume_mode"), None).value is None
    assert fit_value(("trainer", "run_name"), True, "yes").value == "yes"
    assert fit_value(("trainer", "policy"), "x").value == "x"


def test_a_tree_is_put_into_skyrls_order() -> None:
    tree = {"generator": {"batched": True}, "x": 1, "trainer": {"seed": 1, "placement": {}, "a": 2}, "data": {}}
    ordered = in_tree_order(tree)
    assert ordered == tree
    assert list(ordered) == ["data", "trainer", "generator", "x"]
    assert list(ordered["trainer"]) == ["placement", "seed", "a"]
