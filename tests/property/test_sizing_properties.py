"""Properties of sizing and reading that hold for all inputs: more never takes less, shards divide, texts are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.reading import UnusableInput, parse_documents
from rltrain_api.rules.facts import Facts
from rltrain_api.sizing import engines, training
from rltrain_api.sizing.batches import plan_batches, plan_steps
from rltrain_api.sizing.estimate import estimate_engine, estimate_trainers
from rltrain_api.sizing.pools import plan_pools
from rltrain_api.sizing.shapes import ModelShape, read_shape
from rltrain_api.yaml_text import yaml_text

# Time is no property of ours: a busy machine must not fail these tests.
untimed = settings(deadline=None, max_examples=60)
counts = st.integers(1, 64)

model_configs = st.fixed_dictionaries(
    {
        "model_type": st.sampled_from(["llama", "qwen2", "qwen3", "gemma2", "mixtral", "qwen3_moe"]),
        "vocab_size": st.integers(1, 200_000),
        "hidden_size": st.integers(1, 512).map(lambda number: 8 * number),
        "intermediate_size": st.integers(1, 20_000),
        "num_hidden_layers": st.integers(1, 40),
        "num_attention_heads": st.sampled_from([8, 16, 32]),
        "num_key_value_heads": st.sampled_from([1, 2, 4, 8]),
        "head_dim": st.sampled_from([32, 64, 128]),
        "num_local_experts": st.integers(1, 16),
        "num_experts_per_tok": st.integers(1, 4),
        "moe_intermediate_size": st.integers(1, 4096),
        "tie_word_embeddings": st.booleans(),
    }
)
# 100 tokens are a single chunk of logits whatever the vocabulary.
MEASURES: tuple[Callable[[ModelShape], int], ...] = (
    lambda shape: shape.parameters,
    lambda shape: training.activation_bytes(shape, 1000, 2, checkpointing=False),
    lambda shape: training.activation_bytes(shape, 1000, 2, checkpointing=True, masked_length=512),
    lambda shape: training.gathered_bytes(shape, 2, keeps_all=False),
    lambda shape: training.gathered_bytes(shape, 2, keeps_all=True),
    lambda shape: training.whole_gradient_bytes(shape, 2),
    lambda shape: training.chunked_logits_bytes(shape, 100),
    lambda shape: training.whole_logits_bytes(shape, 100, 2, in_place=True),
    lambda shape: training.adapter_parameters(shape, 8, "all-linear", None),
    lambda shape: engines.cache_bytes_per_token(shape, 2, tensor_parallel=1, pipeline_parallel=1),
    lambda shape: engines.working_bytes(shape, 2, batched_tokens=8192, sequences=256, tensor_parallel=1),
)
GROWING = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
)


def job(**sizes: int) -> RLTrainingJob:
    """A job of so many prompts, samples and GPUs that every division is even."""
    mini = sizes.get("mini_batch", 4)
    trainer: dict[str, Any] = {
        "placement": {
            "colocate_all": False,
            "policy_num_nodes": sizes.get("nodes", 1),
            "policy_num_gpus_per_node": sizes.get("gpus", 1),
        },
        "algorithm": {"use_kl_loss": False},
        "train_batch_size": mini * sizes.get("mini_batches", 2),
        "policy_mini_batch_size": mini,
        "micro_train_batch_size_per_gpu": sizes.get("micro", 1),
        "micro_forward_batch_size_per_gpu": sizes.get("forward", 1),
        "max_prompt_length": sizes.get("prompt", 512),
    }
    generator = {
        "n_samples_per_prompt": sizes.get("samples", 4),
        "sampling_params": {"max_generate_length": sizes.get("response", 1024)},
        "inference_engine": {"num_engines": sizes.get("engines", 1)},
    }
    parsed = parse_job(
        {
            "metadata": {"name": "job"},
            "spec": {
                "config": {"trainer": trainer, "generator": generator},
                "runtime": {"image": "trainer"},
                "storage": {"checkpoints": {"claimName": "checkpoints"}},
            },
        }
    )
    assert isinstance(parsed, RLTrainingJob), parsed
    return parsed


@untimed
@given(model_configs, st.sampled_from(GROWING), st.sampled_from([1, 2, 4]))
def test_a_larger_model_takes_more_of_everything(config: dict[str, Any], key: str, factor: int) -> None:
    assume(key != "num_key_value_heads" or config["num_attention_heads"] % (config[key] * factor) == 0)
    small, large = read_shape(config), read_shape({**config, key: config[key] * factor})
    for shape in (small, large):
        assert shape.parameters == shape.root_parameters + sum(block.parameters for block in shape.blocks)
    for measure in MEASURES:
        assert measure(small) <= measure(large)


@untimed
@given(model_configs, st.integers(1, 10**5), st.integers(0, 10**5), st.booleans(), st.sampled_from([2, 4]))
def test_activations_grow_with_tokens_and_checkpointing_saves(
    config: dict[str, Any], tokens: int, more: int, masked: bool, bytes_each: int
) -> None:
    shape, length = read_shape(config), 512 if masked else 0
    kept = training.activation_bytes(shape, tokens, bytes_each, checkpointing=False, masked_length=length)
    saved = training.activation_bytes(shape, tokens, bytes_each, checkpointing=True, masked_length=length)
    more_kept = training.activation_bytes(shape, tokens + more, bytes_each, checkpointing=False, masked_length=length)
    assert kept <= more_kept
    assert saved <= kept + shape.hidden * bytes_each * tokens * shape.layers  # one block more, at most
    if shape.layers > 2:
        assert saved < kept
    assert training.activation_bytes(shape, tokens, bytes_each, checkpointing=False) <= kept


@untimed
@given(st.integers(1, 10**13), st.sampled_from([2, 4, 8]), st.integers(1, 4096))
def test_shards_divide(parameters: int, bytes_each: int, shards: int) -> None:
    each = training.per_gpu(parameters, bytes_each, shards)
    assert each * shards >= parameters * bytes_each > (each - 1) * shards
    assert training.per_gpu(parameters, bytes_each, 1) == parameters * bytes_each
    assert training.per_gpu(parameters, bytes_each, shards + 1) <= each


@untimed
@given(model_configs, counts, counts)
def test_parallel_engines_take_less_each_and_no_less_together(
    config: dict[str, Any], tensor: int, pipeline: int
) -> None:
    shape = read_shape(config)
    one = engines.weight_bytes(shape, 2, tensor_parallel=1, pipeline_parallel=1, expert_parallel=1)
    each = engines.weight_bytes(shape, 2, tensor_parallel=tensor, pipeline_parallel=pipeline, expert_parallel=1)
    assert one == 2 * shape.parameters
    assert each <= one <= each * tensor * pipeline
    token = engines.cache_bytes_per_token(shape, 2, tensor_parallel=1, pipeline_parallel=1)
    shared = engines.cache_bytes_per_token(shape, 2, tensor_parallel=tensor, pipeline_parallel=pipeline)
    assert shared <= token <= shared * tensor * pipeline


@untimed
@given(
    st.integers(0, 2**40),
    st.integers(0, 2**38),
    st.floats(0.01, 1.0),
    st.integers(0, 2**38),
    st.integers(0, 2**38),
)
def test_cache_capacity_grows_with_the_gpu(memory: int, more: int, share: float, weights: int, working: int) -> None:
    capacity = engines.cache_capacity_bytes(memory, share, weights=weights, working=working)
    assert 0 <= capacity <= memory
    assert engines.cache_capacity_bytes(memory + more, share, weights=weights, working=working) >= capacity
    assert engines.cache_capacity_bytes(memory, share, weights=weights + more, working=working) <= capacity


@untimed
@given(
    nodes=st.integers(1, 8),
    gpus=st.integers(1, 8),
    micro=st.integers(1, 4),
    micro_batches=st.integers(1, 4),
    mini_batches=st.integers(1, 4),
    samples=st.sampled_from([1, 2, 4]),
    forward=st.integers(1, 9),
    rows=st.integers(0, 10**5),
)
def test_no_sequence_is_lost(
    nodes: int,
    gpus: int,
    micro: int,
    micro_batches: int,
    mini_batches: int,
    samples: int,
    forward: int,
    rows: int,
) -> None:
    mini_batch = nodes * gpus * micro * micro_batches  # prompts: a multiple of what one micro-batch of all GPUs takes
    facts = Facts(
        job(
            nodes=nodes,
            gpus=gpus,
            micro=micro,
            mini_batch=mini_batch,
            mini_batches=mini_batches,
            samples=samples,
            forward=forward,
        )
    )
    batches = plan_batches(facts)
    (update,) = batches.updates
    assert update.data_parallel * update.sequences_per_mini_batch * update.optimizer_steps == batches.sequences
    assert update.micro_batches * update.micro_batch_sequences == update.sequences_per_mini_batch
    each = batches.sequences // update.data_parallel
    assert batches.forward_passes * forward >= each > (batches.forward_passes - 1) * forward
    steps = plan_steps(facts, rows)
    assert steps.per_epoch * batches.prompts <= rows < (steps.per_epoch + 1) * batches.prompts
    pools = plan_pools(facts)
    assert sum(pool.gpus for pool in pools) == nodes * gpus + facts.engine.num_engines


@untimed
@given(
    model_configs,
    st.sampled_from(["micro", "forward", "prompt", "response"]),
    st.integers(1, 4),
    st.integers(2, 4),
)
def test_a_job_that_asks_for_more_needs_more(config: dict[str, Any], key: str, size: int, factor: int) -> None:
    shape = read_shape(config)
    little, much = Facts(job(**{key: 8 * size})), Facts(job(**{key: 8 * size * factor}))
    (small,), (large,) = (estimate_trainers(facts, shape, None) for facts in (little, much))
    assert small.total <= large.total
    fewer, more = (estimate_engine(facts, shape, 80 * 2**30).sequences_at_once for facts in (much, little))
    assert fewer is not None
    assert more is not None
    assert fewer <= more


@untimed
@given(model_configs, st.integers(1, 8), st.integers(1, 8))
def test_more_gpus_take_less_each(config: dict[str, Any], gpus: int, more: int) -> None:
    shape = read_shape(config)
    (few,), (many,) = (estimate_trainers(Facts(job(gpus=count)), shape, None) for count in (gpus, gpus + more))
    assert many.total <= few.total


texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=["\ufffe", "\uffff"]), min_size=1, max_size=12
)
plain_data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@untimed
@given(st.dictionaries(texts, plain_data, min_size=1, max_size=5))
def test_what_is_written_is_read_again(data: dict[str, Any]) -> None:
    (document,) = parse_documents(yaml_text(data), "job.yaml")
    assert document.data == data


@untimed
@given(st.text(max_size=200))
def test_any_text_is_documents_or_one_line(text: str) -> None:
    try:
        documents = parse_documents(text, "job.yaml")
    except UnusableInput as refusal:
        message = str(refusal)
    else:
        message = ""
        lines = len(f"{text} ".splitlines())
        assert all(1 <= document.line_of(path) <= lines for document in documents for path in document.data)
    assert "\n" not in message
