"""Requests and answers of the builtin engine as JSON: what is accepted, what is refused, what is said back.

Field names are vLLM's. Whatever would silently change what is sampled is refused by name. Pure functions; it must not
know the HTTP server nor the working thread.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rltrain_trainer.engines.builtin.sampler import child_seed
from rltrain_trainer.engines.builtin.sequences import Sequence, StopRule
from rltrain_trainer.engines.contract import TokenSampling

DEFAULT_MAX_TOKENS = 16  # vLLM's
MAX_SAMPLES = 4096

TAKEN = frozenset(
    (
        *("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "n", "seed", "stop"),
        *("stop_token_ids", "ignore_eos"),
    )
)
WITHOUT_EFFECT = frozenset(
    # What they ask for is done always, or is about text that these routes do not return.
    ("logprobs", "skip_special_tokens", "include_stop_str_in_output", "spaces_between_special_tokens", "detokenize")
)


@dataclass(frozen=True)
class Model:
    """What requests are checked against and built with."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: frozenset[int]
    vocabulary_size: int
    max_length: int

    def decode(self, token_ids: list[int]) -> str:
        """Text of tokens, special tokens left out."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))


def parse_sampling(params: Mapping[str, Any], max_tokens: int = DEFAULT_MAX_TOKENS) -> tuple[TokenSampling, int]:
    """(sampling, number of samples) of `sampling_params`; ValueError names the field that is wrong or unknown."""
    unknown = sorted(set(params) - TAKEN - WITHOUT_EFFECT)
    if unknown:
        raise ValueError(f"sampling parameters not supported by the builtin engine: {', '.join(unknown)}")
    given = {key: value for key, value in params.items() if value is not None}
    stop = given.get("stop", ())
    sampling = TokenSampling(
        max_tokens=_number(given, "max_tokens", int, max_tokens, 1),
        temperature=_number(given, "temperature", float, 1.0, 0.0),
        top_p=_number(given, "top_p", float, 1.0, 0.0, 1.0),
        top_k=_number(given, "top_k", int, -1, -1),
        min_p=_number(given, "min_p", float, 0.0, 0.0, 1.0),
        repetition_penalty=_number(given, "repetition_penalty", float, 1.0, 1e-6),
        seed=None if "seed" not in given else _number(given, "seed", int, 0),
        stop=(stop,) if isinstance(stop, str) else tuple(str(text) for text in stop if text),
        stop_token_ids=tuple(int(token) for token in given.get("stop_token_ids", ())),
        ignore_eos=bool(given.get("ignore_eos", False)),
    )
    return sampling, _number(given, "n", int, 1, 1, MAX_SAMPLES)


def make_sequences(
    model: Model, request_id: str, token_ids: Rows[int], sampling: TokenSampling, samples: int
) -> list[Sequence]:
    """The sequences of one request; ValueError when the prompt cannot be continued."""
    if not token_ids:
        raise ValueError("the prompt is empty")
    if len(token_ids) >= model.max_length:
        raise ValueError(f"the prompt has {len(token_ids)} tokens, the engine's --max-model-len is {model.max_length}")
    strange = next((token for token in token_ids if not 0 <= token < model.vocabulary_size), None)
    if strange is not None:
        raise ValueError(f"token id {strange} is not in the model's vocabulary of {model.vocabulary_size}")
    seed = secrets.randbits(64) if sampling.seed is None else sampling.seed % 2**64
    rule = StopRule.of(sampling, model.eos_token_ids, model.decode)
    return [
        Sequence(
            request_id=request_id,
            prompt=list(token_ids),
            sampling=sampling,
            seed=seed if samples == 1 else child_seed(seed, index),
            stop_rule=rule,
            max_length=model.max_length,
        )
        for index in range(samples)
    ]


def generate_choice(index: int, sequence: Sequence) -> dict[str, Any]:
    """One choice of `/inference/v1/generate`."""
    assert sequence.finish_reason is not None, "only finished sequences are answered with"
    return {
        "index": index,
        "finish_reason": sequence.finish_reason.value,
        "stop_reason": sequence.stop_reason,
        "token_ids": sequence.response,
        "logprobs": {
            "content": [
                {"token_id": token, "logprob": logprob}
                for token, logprob in zip(sequence.response, sequence.logprobs, strict=True)
            ]
        },
        "weight_versions": sequence.spans(),
    }


def usage(sequences: Rows[Sequence]) -> dict[str, int]:
    """Token counts of one request."""
    prompt = len(sequences[0].prompt)
    completion = sum(len(sequence.response) for sequence in sequences)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def response_text(model: Model, sequence: Sequence) -> str:
    """The response as text, up to the stop string that ended it."""
    text = model.decode(sequence.response)
    if isinstance(sequence.stop_reason, str):
        text = text[: text.rfind(sequence.stop_reason)]
    return text


def _number(
    given: Mapping[str, Any],
    name: str,
    kind: type[Any],
    default: float,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (kind is int and value != int(value)):
        raise ValueError(f"{name} must be {'a whole' if kind is int else 'a'} number, got {value!r}")
    if (least is not None and value < least) or (most is not None and value > most):
        raise ValueError(f"{name} must be between {least} and {most if most is not None else 'infinity'}, got {value}")
    return kind(value)
