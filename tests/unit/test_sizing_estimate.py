"""One job's pools, batches, steps and memory put together, with every number worked out by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from rltrain_api.parse import parse_job
from rltrain_api.reading import read_documents
from rltrain_api.rules.facts import Facts
from rltrain_api.sizing import training
from rltrain_api.sizing.batches import Steps, UpdateBatches, plan_batches, plan_steps
from rltrain_api.sizing.estimate import TrainerMemory, estimate_engine, estimate_trainers
from rltrain_api.sizing.pools import plan_pools
from rltrain_api.sizing.shapes import read_shape
from rltrain_operator.plan import plan_ray_cluster

EXAMPLES = Path(__file__).parents[2] / "examples"
GIB = 2**30
SHAPE = read_shape(
    {
        "model_type": "qwen2",
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
)
DOCUMENT: dict[str, Any] = {
    "metadata": {"name": "job"},
    "spec": {
        "config": {
            "trainer": {
                "placement": {"colocate_all": False, "policy_num_nodes": 2, "policy_num_gpus_per_node": 4},
                "algorithm": {"use_kl_loss": False},
                "train_batch_size": 64,
                "policy_mini_batch_size": 32,
                "critic_mini_batch_size": 16,
                "micro_train_batch_size_per_gpu": 4,
                "micro_forward_batch_size_per_gpu": 8,
                "max_prompt_length": 512,
            },
            "generator": {"inference_engine": {"num_engines": 3}, "n_samples_per_prompt": 8},
        },
        "runtime": {"image": "trainer"},
        "storage": {"checkpoints": {"claimName": "checkpoints"}},
    },
}
UPSTREAM = {"runtime.trainer": "skyrl"}


def facts(changes: dict[str, Any] | None = None) -> Facts:
    """The job with the value at each dotted path below spec replaced; paths without a section are below config."""
    document = copy.deepcopy(DOCUMENT)
    for path, value in (changes or {}).items():
        in_config = path.split(".")[0] in ("trainer", "generator")
        inner = document["spec"]["config"] if in_config else document["spec"]
        *parents, last = path.split(".")
        for key in parents:
            inner = inner.setdefault(key, {})
        inner[last] = value
    job = parse_job(document)
    assert not isinstance(job, list), job
    return Facts(job)


def test_batches_of_a_step() -> None:
    batches = plan_batches(facts({"trainer.critic.model.path": "/data/critic"}))
    assert (batches.prompts, batches.samples, batches.sequences) == (64, 8, 512)
    assert batches.longest_sequence == 512 + 1024
    policy, critic = batches.updates
    # 8 GPUs; 32 prompts of 8 samples are 256 sequences, 32 on each GPU, in 8 micro-batches of 4.
    assert policy == UpdateBatches("policy", 8, 32, 2, 32, 4, 8)
    # One GPU; 16 prompts of 8 samples are 128 sequences, in 32 micro-batches of 4.
    assert critic == UpdateBatches("critic", 1, 16, 4, 128, 4, 32)
    # 512 sequences on 8 GPUs are 64 on each, in passes of 8.
    assert (batches.forward_sequences, batches.forward_passes) == (8, 8)


def test_sequence_parallel_gpus_share_a_sequence() -> None:
    (policy,) = plan_batches(facts({**UPSTREAM, "trainer.policy.sequence_parallel_size": 4})).updates
    assert (policy.data_parallel, policy.sequences_per_mini_batch) == (2, 128)


def test_longer_inputs_of_several_turns() -> None:
    assert plan_batches(facts({"generator.max_input_length": 4096})).longest_sequence == 4096 + 1024


STEPS: dict[str, tuple[dict[str, Any], int, Steps]] = {
    # 1000 = 15 · 64 + 40; evaluations before the first step, after every fifth, and after the last
    "a rest is left out": ({}, 1000, Steps(1000, 15, 1, 4, 2)),
    "epochs": ({"trainer.epochs": 3}, 1000, Steps(1000, 15, 3, 10, 5)),
    "too few rows": ({}, 63, Steps(63, 0, 1, 1, 0)),
    "no evaluation": ({"trainer.eval_before_train": False, "trainer.eval_interval": -1}, 640, Steps(640, 10, 1, 0, 1)),
    "checkpoint only at the end": ({"trainer.ckpt_interval": -1}, 640, Steps(640, 10, 1, 3, 1)),
}


@pytest.mark.parametrize("case", STEPS)
def test_steps(case: str) -> None:
    changes, rows, expected = STEPS[case]
    steps = plan_steps(facts(changes), rows)
    assert steps == expected
    assert steps.total == expected.per_epoch * expected.epochs


@pytest.mark.parametrize("example", ["quickstart.yaml", "backends/builtin.yaml"])
def test_pools_are_those_that_the_operator_makes(example: str) -> None:
    (document,) = read_documents(str(EXAMPLES / example))
    job = parse_job(document.data)
    assert not isinstance(job, list)
    made = {
        group["groupName"]: (group["replicas"], int(group["resources"][group["groupName"]]))
        for group in plan_ray_cluster(job)["spec"]["workerGroupSpecs"]
    }
    head, *workers = plan_pools(Facts(job))
    assert (head.name, head.pods, head.gpus) == ("head", 1, 0)
    assert {pool.name: (pool.pods, pool.gpus_each) for pool in workers} == made


POOLS: dict[str, tuple[dict[str, Any], list[tuple[str, int, int]]]] = {
    "engines on GPUs of their own": ({}, [("head", 1, 0), ("trainer", 2, 8), ("inference", 3, 3)]),
    "engines of several GPUs": (
        {"generator.inference_engine.tensor_parallel_size": 2, "generator.inference_engine.data_parallel_size": 2},
        [("head", 1, 0), ("trainer", 2, 8), ("inference", 3, 12)],
    ),
    "engines on the trainer's GPUs": (
        {**UPSTREAM, "trainer.placement.colocate_all": True},
        [("head", 1, 0), ("trainer", 2, 8)],
    ),
    "engines elsewhere": (
        {**UPSTREAM, "generator.inference_engine.run_engines_locally": False},
        [("head", 1, 0), ("trainer", 2, 8)],
    ),
    "a reference and a critic apart": (
        {
            **UPSTREAM,
            "trainer.algorithm.use_kl_loss": True,
            "trainer.placement.colocate_policy_ref": False,
            "trainer.placement.ref_num_gpus_per_node": 2,
            "trainer.critic.model.path": "/data/critic",
        },
        [("head", 1, 0), ("trainer", 2, 8), ("reference", 1, 2), ("critic", 1, 1), ("inference", 1, 4)],
    ),
    "the builtin trainer's reference and critic apart": (
        {
            "trainer.algorithm.use_kl_loss": True,
            "trainer.placement.colocate_policy_ref": False,
            "trainer.placement.ref_num_gpus_per_node": 2,
            "trainer.critic.model.path": "/data/critic",
        },
        [("head", 1, 0), ("trainer", 2, 8), ("reference", 1, 2), ("critic", 1, 1), ("inference", 3, 3)],
    ),
    "a reference beside the policy": (
        {**UPSTREAM, "trainer.algorithm.use_kl_loss": True},
        [("head", 1, 0), ("trainer", 2, 8), ("inference", 1, 4)],
    ),
}


@pytest.mark.parametrize("case", POOLS)
def test_pools(case: str) -> None:
    changes, expected = POOLS[case]
    assert [(pool.name, pool.pods, pool.gpus) for pool in plan_pools(facts(changes))] == expected


def sizes(memory: TrainerMemory) -> dict[str, int]:
    """Every part of a GPU at its busiest, by what it is."""
    return {share.what: share.size for share in (*memory.kept, *memory.busiest.shares)}


def test_memory_of_a_policy() -> None:
    (memory,) = estimate_trainers(facts(), SHAPE, None)
    parts = sizes(memory)
    parameters, tokens = SHAPE.parameters, 4 * 1536
    assert memory.gpus == 8
    assert parts == {
        "policy: weights": -(-4 * parameters // 8),
        "policy: optimiser's moments": parameters,  # 8 bytes each, on 8 GPUs
        "weights staged for the engines (first GPU)": 2 * parameters,
        "CUDA, libraries, communication": training.RUNTIME_BYTES,
        "policy: gradients": -(-4 * parameters // 8),
        "policy: gathered layers": 2 * (SHAPE.root_parameters + 2 * SHAPE.largest_block),
        "policy: activations of 4 sequences": training.activation_bytes(SHAPE, tokens, 2, checkpointing=True),
        "policy: whole gradient of a layer": 6 * SHAPE.root_parameters,
        "policy: log-probabilities": training.chunked_logits_bytes(SHAPE, tokens),
    }
    assert memory.total == sum(parts.values())
    assert memory.in_cpu_memory == 0


def test_float32_and_smaller_groups_of_shards() -> None:
    (memory,) = estimate_trainers(
        facts({"trainer.bf16": False, "trainer.policy.fsdp_config.fsdp_size": 2}), SHAPE, None
    )
    parts = sizes(memory)
    assert parts["policy: weights"] == 4 * SHAPE.parameters // 2
    assert parts["policy: gathered layers"] == 4 * (SHAPE.root_parameters + 2 * SHAPE.largest_block)


def test_states_in_cpu_memory() -> None:
    (memory,) = estimate_trainers(facts({"trainer.policy.fsdp_config.cpu_offload": True}), SHAPE, None)
    assert memory.in_cpu_memory == 16 * SHAPE.parameters // 8
    assert not {"policy: weights", "policy: gradients", "policy: optimiser's moments"} & set(sizes(memory))


def test_a_reference_stays_beside_the_policy() -> None:
    (alone,) = estimate_trainers(facts(), SHAPE, None)
    shared = {"trainer.placement.ref_num_nodes": 2, "trainer.placement.ref_num_gpus_per_node": 4}
    (memory,) = estimate_trainers(facts({**shared, "trainer.algorithm.use_kl_loss": True}), SHAPE, None)
    assert memory.models == ("policy", "ref")
    assert memory.total - alone.total == sizes(memory)["ref: weights"] == -(-2 * SHAPE.parameters // 8)


def test_upstream_moves_the_models_that_do_not_work_to_cpu_memory() -> None:
    changes = {
        **UPSTREAM,
        "trainer.placement.colocate_all": True,
        "trainer.placement.ref_num_nodes": 2,
        "trainer.placement.ref_num_gpus_per_node": 4,
        "trainer.placement.critic_num_nodes": 2,
        "trainer.placement.critic_num_gpus_per_node": 4,
        "trainer.algorithm.use_kl_loss": True,
        "trainer.critic.model.path": "/data/critic",
    }
    (memory,) = estimate_trainers(facts(changes), SHAPE, SHAPE)
    (policy,) = estimate_trainers(facts(UPSTREAM), SHAPE, None)
    assert memory.models == ("policy", "ref", "critic")
    assert memory.total == policy.total  # the policy's update needs most, and nothing else is there meanwhile
    critic_parameters = SHAPE.parameters + SHAPE.hidden  # the embedding is tied, so only the value head comes on top
    assert memory.in_cpu_memory == pytest.approx(
        (12 * SHAPE.parameters + 2 * SHAPE.parameters + 12 * critic_parameters) / 8, abs=8
    )


def test_models_apart_have_estimates_of_their_own() -> None:
    changes = {
        **UPSTREAM,
        "trainer.algorithm.use_kl_loss": True,
        "trainer.placement.colocate_policy_ref": False,
        "trainer.critic.model.path": "/data/critic",
    }
    memories = estimate_trainers(facts(changes), SHAPE, SHAPE)
    assert [(memory.models, memory.gpus) for memory in memories] == [(("policy",), 8), (("ref",), 1), (("critic",), 1)]


def test_adapters_have_few_states() -> None:
    (memory,) = estimate_trainers(facts({**UPSTREAM, "trainer.policy.model.lora.rank": 8}), SHAPE, None)
    adapters = training.adapter_parameters(SHAPE, 8, "all-linear", None)
    parts = sizes(memory)
    assert adapters < SHAPE.parameters // 100
    assert parts["policy: weights"] == -(-4 * (SHAPE.parameters + adapters) // 8)
    assert parts["policy: optimiser's moments"] == adapters
    assert "policy: whole gradient of a layer" not in parts


def test_adapters_of_a_model_of_unknown_shape_are_left_out() -> None:
    (memory,) = estimate_trainers(facts({**UPSTREAM, "trainer.policy.model.lora.rank": 8}), 8_000_000_000, None)
    assert memory.total == 4_000_000_000 + training.RUNTIME_BYTES


def test_a_mere_number_of_parameters_gives_states_alone() -> None:
    (memory,) = estimate_trainers(facts(UPSTREAM), 7_000_000_000, None)
    assert sizes(memory) == {
        "policy: weights": 3_500_000_000,
        "policy: optimiser's moments": 7_000_000_000,
        "policy: gradients": 3_500_000_000,
        "CUDA, libraries, communication": training.RUNTIME_BYTES,
    }


def test_megatron_is_not_estimated() -> None:
    assert estimate_trainers(facts({**UPSTREAM, "trainer.strategy": "megatron"}), SHAPE, None) == ()


def test_memory_of_an_engine() -> None:
    engine = estimate_engine(facts(), SHAPE, 80 * GIB)
    assert engine.gpus == 3
    assert engine.weights == 2 * SHAPE.parameters
    assert engine.cache_per_token == 2 * 2 * 128 * 28 * 2
    assert engine.cache == int(80 * GIB * 0.8) - engine.weights - engine.working
    assert engine.cached_tokens == engine.cache // engine.cache_per_token
    assert engine.sequences_at_once == engine.cached_tokens // 1536


def test_an_engine_on_a_gpu_of_unknown_size() -> None:
    engine = estimate_engine(facts(), SHAPE, None)
    assert (engine.cache, engine.cached_tokens, engine.sequences_at_once) == (None, None, None)


def test_the_builtin_engine_takes_what_it_takes() -> None:
    for gpu_memory in (None, 80 * GIB):
        engine = estimate_engine(facts({"generator.inference_engine.backend": "builtin"}), SHAPE, gpu_memory)
        assert engine.sequences_at_once == 4 * GIB // (engine.cache_per_token * 1536)
