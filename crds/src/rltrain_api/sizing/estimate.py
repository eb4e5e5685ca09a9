"""The memory of a job's GPUs: which models are on which GPUs, what each keeps, and what its busiest moment adds.

Puts the formulas of `training` and `engines` together for one valid job. Estimates: a real run differs with kernels,
fragmentation and the lengths that responses really have. Megatron's ways of spreading a model are not estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rltrain_api.config import FSDPConfig, ModelConfig
from rltrain_api.rules.facts import Facts, Model
from rltrain_api.sizing import engines, training
from rltrain_api.sizing.batches import longest_sequence
from rltrain_api.sizing.shapes import ModelShape

ModelSize = ModelShape | int  # a number of parameters gives states, but neither activations nor caches

_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Share:
    """One part of a GPU's memory, in bytes."""

    what: str
    size: int


@dataclass(frozen=True, slots=True)
class Phase:
    """What one activity adds while it lasts."""

    name: str
    shares: tuple[Share, ...]

    @property
    def size(self) -> int:
        """Bytes of all parts together."""
        return sum(share.size for share in self.shares)


@dataclass(frozen=True, slots=True)
class TrainerMemory:
    """One GPU that trains; all of `gpus` are alike, but for what is said to be the first one's."""

    models: tuple[str, ...]
    gpus: int
    kept: tuple[Share, ...]
    phases: tuple[Phase, ...]
    in_cpu_memory: int  # bytes of pod memory that this GPU's states take instead

    @property
    def busiest(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.size)

    @property
    def total(self) -> int:
        """Bytes at the busiest moment."""
        return sum(share.size for share in self.kept) + self.busiest.size


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """One GPU of an engine; `cache` is None where the GPU's memory is not known."""

    gpus: int
    weights: int
    working: int
    cache_per_token: int
    cache: int | None
    longest_sequence: int

    @property
    def cached_tokens(self) -> int | None:
        """Tokens that the cache holds."""
        return None if self.cache is None else self.cache // self.cache_per_token

    @property
    def sequences_at_once(self) -> int | None:
        """Sequences of full length that the cache holds."""
        tokens = self.cached_tokens
        return None if tokens is None else tokens // self.longest_sequence


def parameters_of(size: ModelSize) -> int:
    """The number of parameters."""
    return size if isinstance(size, int) else size.parameters


def estimate_trainers(facts: Facts, policy: ModelSize, critic: ModelSize | None) -> tuple[TrainerMemory, ...]:
    """One estimate for each group of GPUs that trains; empty with Megatron.

    Args:
        facts: A valid job.
        policy: Size of the policy, and of the reference.
        critic: Size of the critic; None where there is none.
    """
    if facts.megatron:
        return ()
    parts = {"policy": _policy(facts, policy)}
    if facts.reference is not None:
        parts["ref"] = _reference(facts, facts.reference, policy)
    if facts.critic is not None and critic is not None:
        parts["critic"] = _critic(facts, facts.critic, critic)
    return tuple(_together(facts, [parts[name] for name in group]) for group in _groups(facts, list(parts)))


def estimate_engine(facts: Facts, shape: ModelShape, gpu_memory: int | None) -> EngineMemory:
    """One GPU of an engine that generates with a model of this shape."""
    engine = facts.engine
    bytes_each = _BYTES[engine.model_dtype]
    tensor_parallel, pipeline_parallel = engine.tensor_parallel_size, engine.pipeline_parallel_size
    weights = engines.weight_bytes(
        shape,
        bytes_each,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        expert_parallel=engine.expert_parallel_size,
    )
    working = training.RUNTIME_BYTES + engines.working_bytes(
        shape,
        bytes_each,
        batched_tokens=engine.max_num_batched_tokens,
        sequences=engine.max_num_seqs,
        tensor_parallel=tensor_parallel,
    )
    per_token = engines.cache_bytes_per_token(
        shape, bytes_each, tensor_parallel=tensor_parallel, pipeline_parallel=pipeline_parallel
    )
    cache = None
    if engine.backend == "builtin":
        cache = engines.builtin_cache_bytes(per_token, longest_sequence(facts))
    elif gpu_memory is not None:
        cache = engines.cache_capacity_bytes(
            gpu_memory, engine.gpu_memory_utilization, weights=weights, working=working
        )
    return EngineMemory(
        gpus=engine.num_engines * facts.gpus_per_engine,
        weights=weights,
        working=working,
        cache_per_token=per_token,
        cache=cache,
        longest_sequence=longest_sequence(facts),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """One model on its GPUs."""

    model: Model
    kept: tuple[Share, ...]
    phase: Phase
    in_cpu_memory: int


def _groups(facts: Facts, names: Sequence[str]) -> list[list[str]]:
    """The models by the GPUs that they share; the policy's first."""
    if facts.placement.colocate_all:
        return [list(names)]
    with_policy = ["policy"]
    if "ref" in names and facts.placement.colocate_policy_ref:
        with_policy.append("ref")
    return [with_policy, *([name] for name in names if name not in with_policy)]


def _together(facts: Facts, parts: Sequence[_Part]) -> TrainerMemory:
    """Models on the same GPUs: the builtin trainer keeps them all there, upstream only the one that works."""
    runtime = Share("CUDA, libraries, communication", training.RUNTIME_BYTES)
    swaps = facts.runs_upstream and len(parts) > 1
    if swaps:
        kept: tuple[Share, ...] = ()
        phases = tuple(Phase(part.phase.name, (*part.kept, *part.phase.shares)) for part in parts)
    else:
        kept = tuple(share for part in parts for share in part.kept)
        phases = tuple(part.phase for part in parts)
    swapped = sum(share.size for part in parts for share in part.kept) if swaps else 0
    return TrainerMemory(
        models=tuple(part.model.name for part in parts),
        gpus=parts[0].model.gpus,
        kept=(*kept, runtime),
        phases=phases,
        in_cpu_memory=swapped + sum(part.in_cpu_memory for part in parts),
    )


def _policy(facts: Facts, size: ModelSize) -> _Part:
    policy = facts.trainer.policy
    part = _trained(facts, facts.policy, size, policy.model, parameters_of(size))
    if facts.runs_upstream:
        return part
    # rltrain_trainer.weight_sync.sender keeps what it sent, so that a transfer can be repeated.
    staged = parameters_of(size) * _BYTES[facts.engine.model_dtype]
    staging = Share("weights staged for the engines (first GPU)", staged)
    return _Part(part.model, (*part.kept, staging), part.phase, part.in_cpu_memory)


def _critic(facts: Facts, model: Model, size: ModelSize) -> _Part:
    """A critic has one output in place of a vocabulary of them."""
    parameters = parameters_of(size)
    if isinstance(size, ModelShape):
        parameters += size.hidden - (0 if size.tied else size.vocabulary * size.hidden)
    return _trained(facts, model, size, facts.trainer.critic.model, parameters)


def _trained(facts: Facts, model: Model, size: ModelSize, config: ModelConfig, parameters: int) -> _Part:
    """A model with its gradients and its optimiser."""
    name, shards, lora = model.name, _shards(model), config.lora
    adapters = 0  # unknown, and small, where the shape is unknown
    if lora.rank > 0 and isinstance(size, ModelShape):
        adapters = training.adapter_parameters(size, lora.rank, lora.target_modules, lora.exclude_modules)
    trained = adapters if lora.rank > 0 else parameters
    states = (
        Share(f"{name}: weights", training.per_gpu(parameters + adapters, training.FLOAT32, shards)),
        Share(f"{name}: optimiser's moments", training.per_gpu(trained, training.MOMENTS, shards)),
    )
    gradients = Share(f"{name}: gradients", training.per_gpu(trained, training.FLOAT32, shards))
    working: list[Share] = []
    if isinstance(size, ModelShape):
        working = _update_shares(facts, model, size, trains_all=lora.rank == 0)
    if model.fsdp.cpu_offload:
        in_cpu_memory = gradients.size + sum(share.size for share in states)
        return _Part(model, (), Phase(f"update of the {name}", tuple(working)), in_cpu_memory)
    return _Part(model, states, Phase(f"update of the {name}", (gradients, *working)), 0)


def _update_shares(facts: Facts, model: Model, shape: ModelShape, *, trains_all: bool) -> list[Share]:
    """What forward and backward pass of one micro-batch take."""
    trainer, name = facts.trainer, model.name
    bytes_each = _computed_in(facts, model.fsdp)
    tokens = -(-trainer.micro_train_batch_size_per_gpu * longest_sequence(facts) // facts.gpus_per_copy(model))
    shares = [
        Share(
            f"{name}: gathered layers",
            training.gathered_bytes(shape, bytes_each, keeps_all=model.fsdp.reshard_after_forward is False),
        ),
        Share(
            f"{name}: activations of {trainer.micro_train_batch_size_per_gpu} sequences",
            training.activation_bytes(
                shape,
                tokens,
                bytes_each,
                checkpointing=trainer.gradient_checkpointing,
                masked_length=_masked_length(facts),
            ),
        ),
    ]
    if trains_all:
        shares.append(Share(f"{name}: whole gradient of a layer", training.whole_gradient_bytes(shape, bytes_each)))
    if name == "policy":
        shares.append(Share(f"{name}: log-probabilities", _logits_bytes(facts, shape, tokens, bytes_each)))
    return shares


def _reference(facts: Facts, model: Model, size: ModelSize) -> _Part:
    """The frozen reference: weights in the type that is computed in, and forward passes."""
    bytes_each = _computed_in(facts, model.fsdp)
    weights = Share("ref: weights", training.per_gpu(parameters_of(size), bytes_each, _shards(model)))
    working: list[Share] = []
    if isinstance(size, ModelShape):
        rows = facts.trainer.micro_forward_batch_size_per_gpu
        tokens = -(-rows * longest_sequence(facts) // facts.gpus_per_copy(model))
        passing = training.activation_bytes(
            size, tokens, bytes_each, checkpointing=True, masked_length=_masked_length(facts)
        )
        working = [
            Share("ref: gathered layers", training.gathered_bytes(size, bytes_each, keeps_all=False)),
            Share(f"ref: forward pass of {rows} sequences", passing),
            Share("ref: log-probabilities", _logits_bytes(facts, size, tokens, bytes_each)),
        ]
    kept = () if model.fsdp.cpu_offload else (weights,)
    return _Part(model, kept, Phase("reference's forward pass", tuple(working)), 0 if kept else weights.size)


def _logits_bytes(facts: Facts, shape: ModelShape, tokens: int, bytes_each: int) -> int:
    if facts.runs_upstream:
        return training.whole_logits_bytes(shape, tokens, bytes_each, in_place=facts.trainer.flash_attn)
    return training.chunked_logits_bytes(shape, tokens)


def _shards(model: Model) -> int:
    """GPUs that share one copy of the model."""
    size = model.fsdp.fsdp_size
    return min(size, model.gpus) if size > 0 else model.gpus


def _computed_in(facts: Facts, fsdp: FSDPConfig) -> int:
    """Bytes of the numbers that a model computes with."""
    if fsdp.mixed_precision is not None:
        return _BYTES[fsdp.mixed_precision.param_dtype]
    return training.BFLOAT16 if facts.trainer.bf16 else training.FLOAT32


def _masked_length(facts: Facts) -> int:
    """Length of padded sequences; packed ones need no mask, nor does the builtin trainer, which pads on the right."""
    unmasked = not facts.runs_upstream or (facts.trainer.use_sample_packing and facts.trainer.flash_attn)
    return 0 if unmasked else longest_sequence(facts)
