"""What `plan` says about one job, as lines of text: pools, batches, steps, memory, objects.

Pure: a job's facts, sizes and manifests in, lines out. Must not read a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from rltrain_api.quantity import parse_quantity
from rltrain_api.rules.facts import Facts
from rltrain_api.sizing.batches import Batches, Steps, UpdateBatches
from rltrain_api.sizing.estimate import EngineMemory, ModelSize, Share, TrainerMemory, parameters_of
from rltrain_api.sizing.pools import PoolSize
from rltrain_operator.cli.plan_objects import described
from rltrain_operator.plan.metadata import Manifest

GIB = 2**30
MODEL_REMEDY = (
    "Pass --model-config with the model's config.json (or its directory) for an estimate of all of it,",
    "or --parameters such as 7B for weights and optimiser alone.",
)
Row = Sequence[str]


def pool_lines(pools: Sequence[PoolSize]) -> list[str]:
    """The pods by pool with their GPUs, CPU and memory, and the sums."""
    rows: list[Row] = [("pool", "pods", "GPUs", "CPU", "memory")]
    all_cpu, all_memory = Decimal(0), Decimal(0)
    for pool in pools:
        cpu, memory = pool.resources.cpu, pool.resources.memory
        rows.append((pool.name, str(pool.pods), str(pool.gpus), f"{pool.pods} x {cpu}", f"{pool.pods} x {memory}"))
        all_cpu += pool.pods * parse_quantity(cpu)
        all_memory += pool.pods * parse_quantity(memory)
    pods, gpus = sum(pool.pods for pool in pools), sum(pool.gpus for pool in pools)
    rows.append(("in all", str(pods), str(gpus), f"{all_cpu.normalize():f}", gibibytes(int(all_memory))))
    return ["Pools", *table(rows, right=(1, 2, 3, 4))]


def batch_lines(batches: Batches, steps: Steps | None) -> list[str]:
    """One training step, and the run."""
    lines = [
        "Batches of one training step",
        f"  {batches.prompts:,} prompts x {batches.samples} samples = {batches.sequences:,} sequences of at most "
        f"{batches.longest_sequence:,} tokens",
    ]
    lines += [_update_line(update) for update in batches.updates]
    passes = "pass" if batches.forward_passes == 1 else "passes"
    lines.append(
        f"  log-probabilities: {batches.forward_passes:,} forward {passes} of {batches.forward_sequences:,} sequences "
        "on each data-parallel rank"
    )
    lines += ["", "Steps"]
    if steps is None:
        return [*lines, f"  unknown: pass --rows with the number of training prompts; {batches.prompts:,} make a step"]
    left = steps.rows % batches.prompts
    lines.append(
        f"  {steps.rows:,} rows / {batches.prompts:,} = {steps.per_epoch:,} steps an epoch ({left:,} rows left out), x "
        f"{steps.epochs:,} epochs = {steps.total:,} steps"
    )
    if steps.total == 0:
        return [*lines, f"  no step at all: lower train_batch_size to {steps.rows:,} or less"]
    return [*lines, f"  {steps.evaluations:,} evaluations, {steps.checkpoints:,} checkpoints"]


def model_lines(size: ModelSize | None) -> list[str]:
    """Which model the estimate is of."""
    if size is None:
        return ["Memory", "  unknown, as the model is.", *(f"  {line}" for line in MODEL_REMEDY)]
    kind = "" if isinstance(size, int) else f"{size.model_type}, "
    lines = ["Model", f"  {kind}{parameters_of(size):,} parameters"]
    if isinstance(size, int):
        lines.append("  Activations and the engines' cache need the model's shape: pass --model-config instead.")
    return lines


def trainer_lines(memory: TrainerMemory, gpu_memory: int | None) -> list[str]:
    """The memory of one GPU that trains."""
    title = (
        f"Memory of a GPU that trains ({' + '.join(memory.models)}; {memory.gpus} of them; an estimate, at full length)"
    )
    shares = [*memory.kept, *memory.busiest.shares, Share(f"in all, at the {memory.busiest.name}", memory.total)]
    lines = [title, *table([(share.what, gibibytes(share.size)) for share in shares], right=(1,))]
    if memory.in_cpu_memory:
        lines.append(f"  besides, {gibibytes(memory.in_cpu_memory)} in the pod's memory for each GPU")
    remedy = "lower micro_train_batch_size_per_gpu, turn gradient_checkpointing on, or shard over more GPUs"
    return [*lines, *_verdict(memory.total, gpu_memory, remedy)]


def engine_lines(facts: Facts, memory: EngineMemory, gpu_memory: int | None) -> list[str]:
    """The memory of one GPU that generates."""
    engine = facts.engine
    shares = [Share("weights", memory.weights), Share("working memory", memory.working)]
    if memory.cache is not None:
        shares.append(Share("cache of keys and values", memory.cache))
    lines = [f"Memory of a GPU that generates ({engine.backend}; {memory.gpus} of them; an estimate)"]
    lines += table([(share.what, gibibytes(share.size)) for share in shares], right=(1,))
    lines.append(f"  a token takes {memory.cache_per_token / 1024:,.1f} KiB of cache")
    if memory.cache is None:
        return [*lines, "  pass --gpu-memory, such as 80Gi, to see how many sequences the cache holds"]
    at_once = memory.sequences_at_once or 0
    limit = "" if engine.backend == "builtin" else f", and max_num_seqs is {engine.max_num_seqs:,}"
    lines.append(
        f"  the cache holds {memory.cached_tokens or 0:,} tokens: {at_once:,} sequences of {memory.longest_sequence:,} "
        f"at once{limit}"
    )
    if at_once == 0:
        lines.append("  DOES NOT FIT: raise gpu_memory_utilization or tensor_parallel_size, or generate shorter ones")
    if facts.placement.colocate_all:
        lines.append("  on the GPUs that train: engines sleep and free this while the models train")
    elif engine.backend == "builtin":
        lines += _verdict(memory.weights + memory.working + memory.cache, gpu_memory, "use a smaller model")
    return lines


def object_lines(objects: Sequence[Manifest]) -> list[str]:
    """The Kubernetes objects, one to a line."""
    if not objects:
        return ["Objects that would be made", "  none: see the note above"]
    rows = [(manifest["kind"], manifest["metadata"]["name"], described(manifest)) for manifest in objects]
    return ["Objects that would be made", *table(rows)]


def gibibytes(size: int) -> str:
    """A size as people compare it."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB // 10 else f"{size / 2**20:,.1f} MiB"


def table(rows: Sequence[Row], right: Sequence[int] = ()) -> list[str]:
    """Rows in columns, two spaces in; the columns in `right` have their right ends aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _update_line(update: UpdateBatches) -> str:
    prompts = f"{update.mini_batch_prompts:,} prompts"
    steps = f"{update.optimizer_steps:,} optimiser steps on {prompts} each"
    if update.optimizer_steps == 1:
        steps = f"1 optimiser step on {prompts}"
    micro = f"{update.micro_batches:,} micro-{'batch' if update.micro_batches == 1 else 'batches'}"
    return (
        f"  {update.model}: {steps}; {update.sequences_per_mini_batch:,} sequences on each of {update.data_parallel:,} "
        f"data-parallel ranks, in {micro} of {update.micro_batch_sequences:,}"
    )


def _verdict(needed: int, gpu_memory: int | None, remedy: str) -> list[str]:
    if gpu_memory is None:
        return []
    share = f"{gibibytes(needed)} of {gibibytes(gpu_memory)}, {needed / gpu_memory:.0%}"
    return [f"  fits: {share}" if needed <= gpu_memory else f"  DOES NOT FIT: {share}; {remedy}"]
