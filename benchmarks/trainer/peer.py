"""TRL's GRPOTrainer on the toy, with its fastest settings for a CPU, a step at a time.

TRL's `train()` owns the thread; a callback between two of its steps gives it to whoever wants to be measured in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from toy import Shape, prompts, share_of_vowels
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

SETTINGS = {
    # No recomputation, no mixed precision (the CPU's float32 is faster at this size), one forward pass per step.
    "gradient_checkpointing": False,
    "bf16": False,
    "fp16": False,
    "gradient_accumulation_steps": 1,
    "optim": "adamw_torch_fused",
    # Nothing beside the step itself.
    "logging_strategy": "no",
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "dataloader_num_workers": 0,
}


class TimedTrainer(GRPOTrainer):  # type: ignore[misc]  # transformers leaves the base class untyped
    """Adds up what the parts of a step take."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seconds: dict[str, float] = {}

    def _timed(self, name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = call()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        return result

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        parent = super()._generate_single_turn
        result = self._timed("generate", lambda: parent(*arguments, **options))
        assert all(len(ids) == self.args.max_completion_length for ids in result[0]), "a response ended early"
        return result

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        parent = super()._generate_and_score_completions
        return self._timed("rollout", lambda: parent(inputs))

    def _calculate_rewards(self, *arguments: Any, **options: Any) -> Any:
        parent = super()._calculate_rewards
        return self._timed("reward", lambda: parent(*arguments, **options))

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **options: Any) -> Any:
        parent = super()._get_per_token_logps_and_entropies
        # With entropy it is the loss's own forward pass, otherwise that of the old log-probabilities.
        name = "loss" if options.get("compute_entropy") else "logprobs"
        return self._timed(name, lambda: parent(*arguments, **options))


class BetweenSteps(TrainerCallback):  # type: ignore[misc]  # as above
    """Measures TRL's step from the end of one turn of the others to the beginning of the next.

    `cpu` is the processor time of this process, all threads; it does not depend on what else the machine does.
    """

    def __init__(self, turn: Callable[[dict[str, float]], bool], optimizer_steps: int) -> None:
        """`turn` takes the seconds of one of TRL's steps by part, and says whether to go on."""
        self._turn = turn
        self._optimizer_steps = optimizer_steps
        self._done = 0
        self._resumed = self._processor = 0.0
        self.trainer: TimedTrainer | None = None

    def on_train_begin(self, *arguments: Any, **options: Any) -> None:
        """The first step begins."""
        self._resumed, self._processor = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """One optimiser step is done."""
        self._done += 1
        if self._done % self._optimizer_steps:
            return
        total, processor = time.perf_counter() - self._resumed, time.process_time() - self._processor
        assert self.trainer is not None, "set before train()"
        parts = self.trainer.seconds
        inner = {name: parts.get(name, 0.0) for name in ("generate", "reward", "logprobs")}
        step = inner | {
            "batch": parts["rollout"] - sum(inner.values()),
            "update": total - parts["rollout"],
            "total": total,
            "cpu": processor,
        }
        self.trainer.seconds = {}
        control.should_training_stop = not self._turn(step)
        self._resumed, self._processor = time.perf_counter(), time.process_time()


def train(
    directory: Path,
    tokenizer: PreTrainedTokenizerBase,
    shape: Shape,
    *,
    optimizer_steps: int,
    learning_rate: float,
    turn: Callable[[dict[str, float]], bool],
    steps: int,
) -> None:
    """Run at most `steps` steps of TRL, with a turn of the others after each.

    optimizer_steps: of one step, each on its share of the batch; with more than one, TRL computes old
    log-probabilities.
    """
    callback = BetweenSteps(turn, optimizer_steps)
    config = GRPOConfig(
        output_dir=str(directory / "trl"),
        per_device_train_batch_size=shape.sequences // optimizer_steps,
        steps_per_generation=optimizer_steps,
        num_generations=shape.samples,
        max_completion_length=shape.response_tokens,
        temperature=1.0,
        top_k=0,
        beta=0.0,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        max_steps=steps * optimizer_steps,
        use_cpu=True,
        **SETTINGS,
    )
    trainer = TimedTrainer(
        model=str(directory),
        reward_funcs=_reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts(16 * shape.prompts, shape.prompt_tokens)}),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    callback.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def _reward(completions: list[str], **columns: Any) -> list[float]:
    return [share_of_vowels(completion) for completion in completions]
