"""Three training steps in plain torch: every sequence by itself, full logits, autograd, one process.

What the ranks of `fsdp_ranks` are compared with. Nothing of `rltrain_trainer.fsdp` is used.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM, get_scheduler

from fsdp_cases import LR, RUNS, TOTAL_STEPS, make_batch, make_config, make_model, make_reference
from rltrain_trainer.data.batch import TrainBatch


class Plain:
    """The policy of a run, or adapters in it."""

    def __init__(self, run: str, model: Qwen2ForCausalLM | None = None) -> None:
        self.config = make_config(Path("unused"), run)
        self.algorithm = self.config.trainer.algorithm
        self.model = model or make_model(tied=RUNS[run]["tied"])
        self.reference = make_reference()
        trainer = self.config.trainer
        per_batch = trainer.update_epochs_per_batch * trainer.train_batch_size // trainer.policy_mini_batch_size
        self.optimizer, self.scheduler = optimizer_of(self.model, TOTAL_STEPS * per_batch)

    def scores(self, model: Qwen2ForCausalLM, batch: TrainBatch, row: int) -> tuple[Tensor, Tensor]:
        length, response = int(batch.attention_mask[row].sum()), int(batch.response_mask[row].sum())
        tokens = batch.sequences[row, -length:]
        logits = model(tokens[None]).logits[0, -response - 1 : -1].double() / self.algorithm.temperature
        logprobs = logits.log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        return logprobs.gather(-1, tokens[-response:, None])[:, 0], entropy

    @torch.no_grad()
    def logprobs(self, batch: TrainBatch, model: Qwen2ForCausalLM | None = None) -> Tensor:
        result = torch.zeros(len(batch), batch.response_length)
        for row in range(len(batch)):
            scores, _ = self.scores(model or self.model, batch, row)
            result[row, -len(scores) :] = scores.float()
        return result

    def loss(self, batch: TrainBatch, *, with_kl: bool) -> dict[str, Tensor]:
        """The loss of one mini-batch, from the definitions; with_kl: the batch has reference_logprobs."""
        algorithm, tokens = self.algorithm, int(batch.loss_mask.sum())
        parts: dict[str, list[Tensor]] = {"policy_loss": [], "policy_entropy": [], "policy_kl": []}
        for row in range(len(batch)):
            mask = batch.loss_mask[row]
            if not mask.any():
                continue
            logprobs, entropy = self.scores(self.model, batch, row)
            mine = mask[-len(logprobs) :]
            assert batch.old_logprobs is not None
            assert batch.advantages is not None
            old, advantages = batch.old_logprobs[row][mask], batch.advantages[row][mask]
            logprobs, entropy = logprobs[mine], entropy[mine]
            ratio = (logprobs - old).exp()
            loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            if algorithm.policy_loss_type == "dual_clip":
                loss = torch.where(advantages < 0, torch.min(-3.0 * advantages, loss), loss)
            whole = tokens if algorithm.loss_reduction == "token_mean" else len(batch) * len(logprobs)
            parts["policy_loss"].append(loss.sum() / whole)
            parts["policy_entropy"].append(entropy.sum() / tokens)
            if with_kl:
                assert batch.reference_logprobs is not None
                base = batch.reference_logprobs[row][mask]
                divergence = (base - logprobs).exp() - (base - logprobs) - 1
                parts["policy_kl"].append(divergence.mean() / len(batch))
        sums = {name: torch.stack(values).sum() for name, values in parts.items() if values}
        final = sums["policy_loss"]
        if with_kl:
            final = final + algorithm.kl_loss_coef * sums["policy_kl"]
        if algorithm.use_entropy_loss:
            final = final - algorithm.entropy_loss_coef * sums["policy_entropy"]
        return sums | {"final_loss": final}

    def step(self, seed: int, *, reference: Tensor | None = None) -> dict[str, Any]:
        """One training step; reference: the log-probabilities of the KL term, of the reference model if not given."""
        trainer, batch = self.config.trainer, make_batch(seed)
        old = self.logprobs(batch)
        with_kl = reference is not None or self.algorithm.use_kl_loss
        if reference is None and with_kl:
            reference = self.logprobs(batch, self.reference)
        batch = replace(batch, old_logprobs=old, reference_logprobs=reference)
        size = trainer.policy_mini_batch_size * 2
        collected: list[dict[str, float]] = []
        for _ in range(trainer.update_epochs_per_batch):
            for start in range(0, len(batch), size):
                sums = self.loss(batch.rows(slice(start, start + size)), with_kl=with_kl)
                moved = optimizer_step(self.model, self.optimizer, self.scheduler, sums["final_loss"])
                collected.append(
                    {name: value.item() for name, value in sums.items()}
                    | {"grad_norm": moved["grad_norm"], "policy_lr": moved["lr"]}
                )
        metrics = {f"policy/{name}": sum(each[name] for each in collected) / len(collected) for name in collected[0]}
        parameters = {name: tensor.detach().clone() for name, tensor in self.model.named_parameters()}
        return {"logprobs": old, "metrics": metrics, "parameters": parameters}


class PlainCritic:
    """The critic: the reference's transformer, and an output layer that is given."""

    def __init__(self, head: Tensor) -> None:
        self.config = make_config(Path("unused"), "regular")
        self.body = make_reference().model
        self.head = nn.Linear(head.shape[1], 1, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(head)
        self.whole = nn.ModuleDict({"model": self.body, "value_head": self.head})
        self.optimizer, self.scheduler = optimizer_of(self.whole, TOTAL_STEPS * 2)

    def values(self, batch: TrainBatch) -> Tensor:
        rows = []
        for row in range(len(batch)):
            length, response = int(batch.attention_mask[row].sum()), int(batch.response_mask[row].sum())
            hidden = self.body(batch.sequences[row, -length:][None]).last_hidden_state[0, -response - 1 : -1]
            values = self.head(hidden)[:, 0]
            rows.append(nn.functional.pad(values, (batch.response_length - response, 0)))
        return torch.stack(rows)

    def step(self, seed: int) -> dict[str, Any]:
        batch = make_batch(seed)
        old = self.values(batch).detach()
        assert batch.returns is not None
        losses = []
        for start in (0, 4):
            rows = slice(start, start + 4)
            values, returns, mask = self.values(batch.rows(rows)), batch.returns[rows], batch.loss_mask[rows]
            near = old[rows] + (values - old[rows]).clamp(-0.2, 0.2)
            worse = torch.maximum((values - returns) ** 2, (near - returns) ** 2) / 2
            loss = ((worse * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()
            losses.append(loss.item())
            optimizer_step(self.whole, self.optimizer, self.scheduler, loss)
        return {"values": old, "critic_loss": sum(losses) / 2}


def optimizer_of(model: nn.Module, total_steps: int) -> tuple[torch.optim.AdamW, Any]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.999), weight_decay=1e-2)
    return optimizer, get_scheduler("linear", optimizer, num_warmup_steps=2, num_training_steps=total_steps)


def optimizer_step(model: nn.Module, optimizer: torch.optim.AdamW, scheduler: Any, loss: Tensor) -> dict[str, float]:
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    rate = scheduler.get_last_lr()[0]
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    return {"grad_norm": norm.item(), "lr": rate}
