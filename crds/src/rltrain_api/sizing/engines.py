"""Memory of one GPU of an inference engine, in bytes: weights, working memory, and the cache of keys and values.

Every number is an estimate; vLLM measures its own working memory when it starts. Must not know jobs.
"""

from __future__ import annotations

from rltrain_api.sizing.shapes import ModelShape

FLOAT32 = 4
# The builtin engine takes this much for its cache and runs so many sequences, whatever the GPU has.
BUILTIN_CACHE_BYTES = 4 * 2**30
BUILTIN_SEQUENCES = 256


def weight_bytes(
    shape: ModelShape, bytes_each: int, *, tensor_parallel: int, pipeline_parallel: int, expert_parallel: int
) -> int:
    """One GPU's part of the weights; experts are dealt out to `expert_parallel` GPUs where that is more than 1."""
    experts = shape.expert_parameters
    share = -(-(shape.parameters - experts) // tensor_parallel)
    share += -(-experts // (expert_parallel if expert_parallel > 1 else tensor_parallel))
    return -(-share // pipeline_parallel) * bytes_each


def cache_bytes_per_token(shape: ModelShape, bytes_each: int, *, tensor_parallel: int, pipeline_parallel: int) -> int:
    """Keys and values of one token on one GPU.

    Every layer keeps every token, although a layer with a sliding window needs fewer. Heads are dealt out to
    tensor-parallel GPUs, each of which has one at least.
    """
    heads = -(-shape.key_value_heads // tensor_parallel)
    return 2 * heads * shape.head_size * -(-shape.layers // pipeline_parallel) * bytes_each


def working_bytes(
    shape: ModelShape, bytes_each: int, *, batched_tokens: int, sequences: int, tensor_parallel: int
) -> int:
    """What one forward pass over a full batch needs: the widest layer's tensors and the logits in float32.

    Args:
        shape: The model.
        bytes_each: Size of the numbers that are computed with.
        batched_tokens: Most tokens of one pass (max_num_batched_tokens).
        sequences: Most sequences of one pass, of which each gives one row of logits (max_num_seqs).
        tensor_parallel: GPUs that share each layer.
    """
    widest = max(sum(block.widths) for block in shape.blocks)
    per_token = 4 * shape.hidden + -(-3 * widest // tensor_parallel)
    logits = min(batched_tokens, sequences) * shape.vocabulary * FLOAT32
    return batched_tokens * per_token * bytes_each + logits


def cache_capacity_bytes(gpu_memory: int, utilization: float, *, weights: int, working: int) -> int:
    """What is left for the cache of the share of a GPU's memory that the engine may take; 0 where nothing is."""
    return max(0, int(gpu_memory * utilization) - weights - working)


def builtin_cache_bytes(per_token: int, sequence_length: int) -> int:
    """The builtin engine's cache: whole sequences of full length, as many as its bounds let in."""
    per_sequence = per_token * sequence_length
    return per_sequence * min(BUILTIN_SEQUENCES, BUILTIN_CACHE_BYTES // per_sequence)
