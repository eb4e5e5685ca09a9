"""The rows of a run: read, checked and filtered before anything is started. It must not know Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.data.loader import PromptLoader
from rltrain_trainer.data.rows import PromptRow, filter_by_length, load_rows
from rltrain_trainer.rollout.conversation import ConversationTemplate
from rltrain_trainer.rollout.environments import check_registered


@dataclass(frozen=True)
class Datasets:
    """The rows of a run; none for evaluation where there is no evaluation."""

    training: PromptLoader
    evaluation: Sequence[PromptRow]


def is_evaluated(config: SkyRLTrainConfig) -> bool:
    """Whether the run evaluates at any time."""
    return config.trainer.eval_before_train or config.trainer.eval_interval > 0


def load_datasets(config: SkyRLTrainConfig, tokenizer: PreTrainedTokenizerBase) -> Datasets:
    """Read, check and filter the datasets; val_data is not touched where nothing is evaluated.

    Raises ValueError naming file and row, or the row whose environment nobody registered.
    """
    trainer = config.trainer
    template = ConversationTemplate.of(tokenizer, config.generator)

    def rows_of(names: list[str]) -> list[PromptRow]:
        rows = load_rows(names, default_env_class=config.environment.env_class)
        check_registered(rows)
        return filter_by_length(rows, template.prompt, trainer.max_prompt_length)

    training = rows_of(config.data.train_data)
    if len(training) < trainer.train_batch_size:
        raise ValueError(
            f"data.train_data: {len(training)} prompts of at most {trainer.max_prompt_length} tokens are fewer than "
            f"trainer.train_batch_size = {trainer.train_batch_size}; add rows, raise trainer.max_prompt_length or "
            "lower the batch size"
        )
    return Datasets(
        training=PromptLoader(training, trainer.train_batch_size, trainer.seed),
        evaluation=rows_of(config.data.val_data) if is_evaluated(config) else [],
    )
