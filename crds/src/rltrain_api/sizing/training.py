"""Memory of one GPU that trains a model with FSDP2, part by part, in bytes. Every number is an estimate.

States follow the ZeRO paper (Rajbhandari et al. 2020, arXiv:1910.02054, stage 3: everything is sharded). Activations
are counted as Korthikanti et al. 2022 (arXiv:2205.05198) count them, anew for Hugging Face's Llama-like decoder layer:
no dropout, norms in float32, a gated feed-forward, and attention that keeps no scores. Tests compare the count with
what torch keeps. Must not know jobs; every argument is a number or a model's shape.
"""

from __future__ import annotations

import re

from rltrain_api.sizing.shapes import Block, ModelShape

FLOAT32 = 4
BFLOAT16 = 2
# AdamW keeps two moments of each trained number, in float32.
MOMENTS = 2 * FLOAT32
# rltrain_trainer.models.logprobs computes this many logits at a time, in float32, and holds three such tensors at most.
LOGITS_AT_ONCE = 2**25
LOGITS_TENSORS = 3
# CUDA's context, its libraries and NCCL's buffers: seldom below 1 GiB, seldom above 2.
RUNTIME_BYTES = 3 * 2**29


def per_gpu(numbers: int, bytes_each: int, shards: int) -> int:
    """Bytes of one GPU's part of `numbers` that `shards` GPUs share evenly."""
    return -(-numbers * bytes_each // shards)


def gathered_bytes(shape: ModelShape, bytes_each: int, *, keeps_all: bool) -> int:
    """Whole parameters that FSDP holds while it computes.

    The embeddings stay for the whole pass; of the blocks there are two, the one at work and the next one, which is
    fetched early; with `keeps_all` (reshard_after_forward false) all of them are kept until the backward pass.
    """
    blocks = sum(block.parameters for block in shape.blocks)
    at_once = blocks if keeps_all else min(blocks, 2 * shape.largest_block)
    return bytes_each * (shape.root_parameters + at_once)


def whole_gradient_bytes(shape: ModelShape, bytes_each: int) -> int:
    """The gradient of the largest unit before it is summed and sharded: as computed, and in float32 to be summed."""
    return (bytes_each + FLOAT32) * max(shape.root_parameters, shape.largest_block)


def activation_bytes(
    shape: ModelShape, tokens: int, bytes_each: int, *, checkpointing: bool, masked_length: int = 0
) -> int:
    """What a forward pass over one micro-batch keeps for the backward pass.

    Args:
        shape: The model.
        tokens: Tokens of the micro-batch on this GPU, padding included.
        bytes_each: Size of the numbers that are computed with (2 for bfloat16).
        checkpointing: Whether only each block's input is kept, and one block at a time computed again.
        masked_length: Length to which sequences are padded where attention needs a mask for that, which also keeps a
            copy of each key and value for every query head; 0 where sequences are packed or never padded.
    """
    blocks = [_block_bytes(shape, block, bytes_each, masked_length) for block in shape.blocks]
    kept = shape.layers * shape.hidden * bytes_each + max(blocks) if checkpointing else sum(blocks)
    return tokens * (kept + _norm_bytes(shape.hidden, bytes_each) + shape.hidden * bytes_each)


def chunked_logits_bytes(shape: ModelShape, tokens: int) -> int:
    """The builtin trainer's log-probabilities: logits of a chunk of tokens, and the output embedding's gradient."""
    at_once = min(tokens, max(1, LOGITS_AT_ONCE // shape.vocabulary))
    return FLOAT32 * shape.vocabulary * (LOGITS_TENSORS * at_once + shape.hidden)


def whole_logits_bytes(shape: ModelShape, tokens: int, bytes_each: int, *, in_place: bool) -> int:
    """Upstream's log-probabilities: the logits of all tokens at once.

    With flash-attn their gradient takes their place (`in_place`); without it there are the logits, their log-softmax
    and the gradient. Read from SkyRL 0.1's `logprobs_from_logits`, not measured.
    """
    return tokens * shape.vocabulary * bytes_each * (1 if in_place else 3)


def adapter_parameters(shape: ModelShape, rank: int, target_modules: str, exclude_modules: str | None) -> int:
    """Trained numbers of low-rank adapters (Hu et al. 2021, arXiv:2106.09685): rank·(inputs + outputs) for each matrix.

    Modules are chosen as PEFT chooses them: `all-linear` is every matrix of the blocks, any other text a name or a
    regular expression over the whole path. The experts of a mixture are no modules of their own and get none.
    """
    return sum(
        rank * (linear.inputs + linear.outputs)
        for index, block in enumerate(shape.blocks)
        for linear in block.linears
        if _is_chosen(f"model.layers.{index}.{linear.name}", target_modules, all_match="all-linear")
        and not (exclude_modules and _is_chosen(f"model.layers.{index}.{linear.name}", exclude_modules))
    )


def _block_bytes(shape: ModelShape, block: Block, bytes_each: int, masked_length: int) -> int:
    """Bytes that one block keeps of each token."""
    queries, keys = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
    norms = shape.norms * _norm_bytes(shape.hidden, bytes_each)
    if shape.query_key_norms:
        norms += _norm_bytes(queries + keys, bytes_each) + FLOAT32 * (shape.heads + shape.key_value_heads - 1)
    # The inputs of both halves, the queries and the attention's output, keys and values, the scores' normalisers.
    attention = bytes_each * (2 * shape.hidden + 2 * queries + 2 * (queries if masked_length else keys))
    attention += FLOAT32 * shape.heads + bytes_each * masked_length
    # Gate, activation, up and product; a mixture also sorts the tokens to their experts and back.
    feed_forward = bytes_each * 4 * sum(block.widths)
    if block.experts:
        feed_forward += bytes_each * 2 * shape.hidden * len(block.widths)
    return norms + attention + feed_forward


def _norm_bytes(width: int, bytes_each: int) -> int:
    """A root-mean-square norm of one token: its input in float32, the normalised input, and one factor."""
    return (FLOAT32 + bytes_each) * width + FLOAT32


def _is_chosen(path: str, pattern: str, all_match: str | None = None) -> bool:
    if pattern == all_match or path.endswith(f".{pattern}"):
        return True
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error:
        return False
