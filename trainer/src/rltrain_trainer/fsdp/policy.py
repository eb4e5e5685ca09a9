"""One trainer rank: the sharded policy with its optimiser, on an already initialised process group.

Every method but `parameter_specs` is a collective: all ranks call it in the same order. It must not know of rollouts,
engines, Ray or the order of things in the training loop.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.fsdp.gradients import accumulate_gradients
from rltrain_trainer.fsdp.metrics import batch_metrics
from rltrain_trainer.fsdp.minibatches import MiniBatchShare, deal, needs_old_logprobs, optimizer_steps_per_batch
from rltrain_trainer.fsdp.sharding import (
    clip_gradients,
    data_parallel_mesh,
    free_gathered,
    full_tensor,
    rank_device,
    shard_model,
)
from rltrain_trainer.fsdp.state import load_state, save_state
from rltrain_trainer.models.load import load_causal_lm
from rltrain_trainer.models.scored import PREFIX, ScoredCausalLM
from rltrain_trainer.weight_sync.buckets import DTYPES, ParameterSpec

log = logging.getLogger(__name__)


class PolicyRank:
    """The policy on this rank.

    total_steps: training steps of the whole run, which the learning-rate schedule spans. Loads the model (float32
    master weights; bfloat16 compute when trainer.bf16) and, when trainer.algorithm.use_kl_loss, a frozen copy of
    trainer.ref.model. Raises ValueError for a model that cannot be loaded or trained.
    """

    def __init__(self, config: SkyRLTrainConfig, *, total_steps: int) -> None:
        trainer = config.trainer
        self._config = config
        self._device = rank_device()
        self._mesh = data_parallel_mesh(self._device)
        torch.manual_seed(trainer.seed + dist.get_rank())
        assert trainer.policy.model.path is not None, "validate() demands a model"
        self._model = ScoredCausalLM(load_causal_lm(trainer.policy.model.path, torch.float32))
        if trainer.gradient_checkpointing:
            enable = self._model.causal_lm.activation_checkpointing_enable
            enable(activation_checkpointing_kwargs={"use_reentrant": False})
        self._groups = self._shard(self._model)
        self._reference, self._reference_groups = self._load_reference()
        optimizer = trainer.policy.optimizer_config
        self._optimizer = AdamW(
            self._model.parameters(),
            lr=optimizer.lr,
            betas=(optimizer.adam_betas[0], optimizer.adam_betas[1]),
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self._scheduler: LambdaLR = get_scheduler(
            optimizer.scheduler,
            self._optimizer,
            num_warmup_steps=optimizer.num_warmup_steps,
            num_training_steps=total_steps * optimizer_steps_per_batch(config),
        )

    def logprobs(self, batch: TrainBatch) -> Tensor:
        """Log-probabilities of this rank's rows under the current policy, [rows, response] float32 on the CPU."""
        return self._score(self._model, self._groups, batch)

    def update(self, batch: TrainBatch) -> dict[str, float]:
        """One training step over the whole batch, of which this rank takes its shares; the same metrics on every rank.

        The batch needs advantages, and old_logprobs unless it is trained on in a single optimiser step. An optimiser
        step whose gradient is not finite is skipped and counted in policy/skipped_steps; it does not move the
        learning-rate schedule. Raises ValueError when the rows cannot be dealt out evenly to the ranks.
        """
        assert batch.old_logprobs is not None or not needs_old_logprobs(self._config), "old_logprobs are missing"
        trainer = self._config.trainer
        shares = deal(batch, self._config, rank=dist.get_rank(), world_size=dist.get_world_size())
        if self._reference is not None:
            shares = [
                share.with_reference(self._score(self._reference, self._reference_groups, share.batch))
                for share in shares
            ]
        steps = [self._optimizer_step(share) for _ in range(trainer.update_epochs_per_batch) for share in shares]
        mean = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
        mean["policy/skipped_steps"] *= len(steps)  # the one that is a count
        return batch_metrics(batch) | mean

    def parameter_specs(self) -> list[ParameterSpec]:
        """What `gather_parameters` yields: Hugging Face names, full shapes, wire type; tied parameters once."""
        return [
            ParameterSpec(name.removeprefix(PREFIX), tuple(parameter.shape), self._wire_dtype)
            for name, parameter in self._model.named_parameters()
        ]

    @torch.no_grad()
    def gather_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The full parameters one by one, in the order and type of `parameter_specs`, on this rank's device.

        A collective per parameter: every rank must exhaust the iterator.
        """
        dtype = DTYPES[self._wire_dtype]
        for name, parameter in self._model.named_parameters():
            yield name.removeprefix(PREFIX), full_tensor(parameter.to(dtype))

    def save(self, directory: Path) -> None:
        """Write model, optimiser, schedule and random-number state below `directory`, which all ranks share."""
        save_state(directory, self._model, self._optimizer, self._scheduler.last_epoch)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote, by any number of ranks; the learning rate follows the current configuration.

        Raises ValueError when `directory` is no such checkpoint.
        """
        steps = load_state(directory, self._model, self._optimizer)
        self._scheduler.last_epoch = steps
        schedule = zip(self._optimizer.param_groups, self._scheduler.base_lrs, self._scheduler.lr_lambdas, strict=True)
        for group, base, factor in schedule:
            group["lr"] = base * factor(steps)

    @property
    def _wire_dtype(self) -> str:
        return self._config.generator.inference_engine.model_dtype

    def _shard(self, model: ScoredCausalLM) -> list[FSDPModule]:
        trainer = self._config.trainer
        return shard_model(
            model,
            self._mesh,
            bf16=trainer.bf16,
            reshard_after_forward=trainer.policy.fsdp_config.reshard_after_forward,
        )

    def _load_reference(self) -> tuple[ScoredCausalLM | None, list[FSDPModule]]:
        """The frozen reference, sharded like the policy, where the loss asks for one."""
        trainer = self._config.trainer
        if not trainer.algorithm.use_kl_loss:
            return None, []
        assert trainer.ref.model.path is not None, "resolve() sets the reference's path"
        dtype = torch.bfloat16 if trainer.bf16 else torch.float32
        reference = ScoredCausalLM(load_causal_lm(trainer.ref.model.path, dtype)).eval().requires_grad_(False)
        return reference, self._shard(reference)

    @torch.no_grad()
    def _score(self, model: ScoredCausalLM, groups: list[FSDPModule], batch: TrainBatch) -> Tensor:
        """[rows, response] float32 on the CPU, in micro-batches without gradient.

        The temperature divides the logits of policy and reference alike. The seed release of SkyRL left it out of the
        reference, which made their divergence depend on it.
        """
        temperature = self._config.trainer.algorithm.temperature
        assert temperature is not None, "resolve() sets the temperature"
        result = torch.zeros((len(batch), batch.response_length))
        size = self._config.trainer.micro_forward_batch_size_per_gpu
        for start in range(0, len(batch), size):
            rows = slice(start, start + size)
            micro = batch.rows(rows).trimmed().to(self._device)
            logprobs, _ = model(micro.sequences, micro.attention_mask, micro.response_mask, temperature)
            result[rows, -micro.response_length :] = logprobs.float().cpu()
        free_gathered(groups)
        return result

    def _optimizer_step(self, share: MiniBatchShare) -> dict[str, float]:
        """Gradient, clipping and step of one mini-batch; its metrics, the same on every rank."""
        trainer = self._config.trainer
        sums = accumulate_gradients(
            self._model,
            share,
            trainer.algorithm,
            micro_batch_size=trainer.micro_train_batch_size_per_gpu,
            device=self._device,
        )
        learning_rate = self._optimizer.param_groups[0]["lr"]
        norm = clip_gradients(self._model, trainer.policy.optimizer_config.max_grad_norm)
        if math.isfinite(norm):
            self._optimizer.step()
            self._scheduler.step()
        else:
            log.warning("optimiser step skipped: the gradient's norm is %s", norm)
        self._optimizer.zero_grad(set_to_none=True)
        totals = torch.stack(list(sums.values()))
        dist.all_reduce(totals)
        metrics = {f"policy/{name}": total for name, total in zip(sums, totals.tolist(), strict=True)}
        return metrics | {
            "policy/grad_norm": norm,
            "policy/policy_lr": learning_rate,
            "policy/skipped_steps": float(not math.isfinite(norm)),
        }
