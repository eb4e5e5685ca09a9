from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rltrain_api.config import ChatTemplateConfig
from rltrain_trainer.models.attention import AttentionSettings
from rltrain_trainer.models.body import blocks_of
from rltrain_trainer.models.layout import lay_out
from rltrain_trainer.models.load import ModelOverrides, load_causal_lm, load_tokenizer
from rltrain_trainer.models.logprobs import token_scores
from rltrain_trainer.models.scored import ScoredCausalLM

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def qwen(dtype: torch.dtype = torch.float32, *, tied: bool = True) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=tied)).to(dtype)


def scores_case(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 5, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64).to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, 11, (7,), generator=generator)


def naive_scores(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    distribution = torch.distributions.Categorical(logits=hidden @ weight.t() / temperature)
    return distribution.log_prob(targets), distribution.entropy()


CHUNKS = {"one token at a time": 1, "three tokens": 33, "uneven": 44, "everything": 10_000}


@pytest.mark.parametrize("chunk_elements", CHUNKS.values(), ids=CHUNKS)
def test_scores_and_gradients_against_the_full_distribution(chunk_elements: int) -> None:
    hidden, weight, targets = scores_case(torch.float64)
    upstream = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    outcomes = []
    for scores in (
        token_scores(hidden, weight, targets, temperature=0.7, chunk_elements=chunk_elements),
        naive_scores(hidden, weight, targets, 0.7),
    ):
        gradients = torch.autograd.grad((torch.stack(scores) * upstream).sum(), (hidden, weight))
        outcomes.append((*scores, *gradients))
    for ours, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


PARTS: dict[str, Callable[[tuple[Tensor, Tensor]], Tensor]] = {
    "logprobs only": lambda scores: scores[0].sum(),
    "entropy only": lambda scores: scores[1].sum(),
}


@pytest.mark.parametrize("part", PARTS)
def test_gradients_of_one_of_the_two(part: str) -> None:
    hidden, weight, targets = scores_case(torch.float64)
    pick = PARTS[part]
    ours = torch.autograd.grad(pick(token_scores(hidden, weight, targets, temperature=1.3)), (hidden, weight))
    expected = torch.autograd.grad(pick(naive_scores(hidden, weight, targets, 1.3)), (hidden, weight))
    for gradient, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)


def test_bfloat16_states_give_float32_scores() -> None:
    hidden, weight, targets = scores_case(torch.bfloat16)
    logprobs, entropy = token_scores(hidden, weight, targets, temperature=1.0)
    expected, _ = naive_scores(hidden.double(), weight.double(), targets, 1.0)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=0.05)
    logprobs.sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16


def test_no_tokens_give_no_scores_and_zero_gradients() -> None:
    hidden, weight, targets = scores_case(torch.float32)
    logprobs, _ = token_scores(hidden[:0], weight, targets[:0], temperature=1.0)
    logprobs.sum().backward()  # type: ignore[no-untyped-call]
    assert logprobs.shape == (0,)
    assert weight.grad is not None
    assert weight.grad.abs().sum() == 0


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_of_all_tokens_by_all_words_ever_exists() -> None:
    tokens, width, vocabulary, chunk = 512, 4, 1000, 16_000
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.zeros(tokens, dtype=torch.long)
    with LargestTensor() as ours:
        logprobs, entropy = token_scores(hidden, weight, targets, temperature=1.0, chunk_elements=chunk)
        (logprobs.sum() + entropy.sum()).backward()  # type: ignore[no-untyped-call]
    with LargestTensor() as naive:
        torch.stack(naive_scores(hidden, weight, targets, 1.0)).sum().backward()  # type: ignore[no-untyped-call]
    assert ours.elements <= chunk
    assert naive.elements == tokens * vocabulary


def test_responses_are_scored_as_if_each_sequence_were_alone() -> None:
    model = qwen(torch.float64)
    generator = torch.Generator().manual_seed(3)
    prompts, responses, total = [2, 4, 1], [3, 1, 5], 6
    sequences = torch.randint(0, 64, (3, total), generator=generator)
    lengths = torch.tensor([p + r for p, r in zip(prompts, responses, strict=True)])
    attention_mask = torch.arange(total, 0, -1) <= lengths[:, None]
    response_mask = torch.arange(5, 0, -1) <= torch.tensor(responses)[:, None]
    scored = ScoredCausalLM(qwen(torch.float64))
    logprobs, entropy = scored(sequences, attention_mask, response_mask, 0.8)
    for row, (length, response) in enumerate(zip(lengths.tolist(), responses, strict=True)):
        tokens = sequences[row, -length:]
        logits = model(tokens[None]).logits[0, -response - 1 : -1] / 0.8
        distribution = torch.distributions.Categorical(logits=logits)
        torch.testing.assert_close(logprobs[row, -response:], distribution.log_prob(tokens[-response:]))
        torch.testing.assert_close(entropy[row, -response:], distribution.entropy())
        assert logprobs[row, :-response].abs().sum() == 0


def test_padding_leaves_no_trace_in_the_gradient() -> None:
    def gradient(pad: int, left: int) -> Tensor:
        model = ScoredCausalLM(qwen(torch.float64))
        sequences = torch.tensor([[5, 6, 7, 8]])
        mask = torch.ones(1, 4, dtype=torch.bool)
        sequences = torch.nn.functional.pad(sequences, (left, 0), value=pad)
        mask = torch.nn.functional.pad(mask, (left, 0), value=False)
        logprobs, _ = model(sequences, mask, mask[:, -3:] & torch.tensor([[False, True, True]]), 1.0)
        logprobs.sum().backward()
        weight = model.causal_lm.get_input_embeddings().weight
        assert isinstance(weight.grad, Tensor)
        return weight.grad

    expected = gradient(0, 0)
    assert expected.abs().sum() > 0
    for pad in (0, 9):
        torch.testing.assert_close(gradient(pad, 3), expected)


def test_a_model_that_changes_its_logits_is_refused() -> None:
    model = GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=4.0))
    with pytest.raises(ValueError, match=r"GraniteForCausalLM.*transforms its logits"):
        ScoredCausalLM(model)


def test_the_blocks_are_the_decoder_layers() -> None:
    body = qwen().base_model
    assert [type(block).__name__ for block in blocks_of(body)] == ["Qwen2DecoderLayer"] * 2
    assert [type(block).__name__ for block in blocks_of(body, ["Qwen2MLP"])] == ["Qwen2MLP"] * 2
    with pytest.raises(ValueError, match=r"has no module of class LlamaDecoderLayer; it has .*Qwen2DecoderLayer"):
        blocks_of(body, ["LlamaDecoderLayer"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_is_loaded_ready_for_training(tmp_path: Path, dtype: torch.dtype) -> None:
    qwen().save_pretrained(tmp_path)
    model = load_causal_lm(str(tmp_path), dtype)
    assert model.training
    assert model.config.use_cache is False
    assert model.config._attn_implementation == "sdpa"
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    expected = dict(qwen().to(dtype).named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name]), name


def save_tokenizer(path: Path, **special: str) -> None:
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "hello": 2}, unk_token="<eos>"))
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(path)


def test_a_tokenizer_without_padding_pads_with_its_end_token(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "own", pad_token="<pad>", eos_token="<eos>")
    save_tokenizer(tmp_path / "none", eos_token="<eos>")
    assert load_tokenizer(str(tmp_path / "own")).pad_token_id == 0
    assert load_tokenizer(str(tmp_path / "none")).pad_token_id == 1


def test_a_tokenizer_with_neither_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="neither a padding nor an end-of-sequence token"):
        load_tokenizer(str(tmp_path))


LOADERS: dict[str, Callable[[str], object]] = {
    "tokenizer": load_tokenizer,
    "model": lambda path: load_causal_lm(path, torch.float32),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_a_path_without_a_model_is_refused(tmp_path: Path, load: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match=r"missing: no such directory"):
        load(str(tmp_path / "missing"))
    with pytest.raises(ValueError, match=r"it cannot be loaded \("):
        load(str(tmp_path))


FORMS: dict[str, dict[str, Any]] = {
    "full attention": {},
    "grouped heads": {"num_key_value_heads": 1},
    "a sliding window": {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0},
}
# Of similar length, computed side by side; one much longer than the others, computed one after the other.
LENGTHS = {"similar": [5, 7, 6], "uneven": [3, 3, 3, 24]}


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_sequences_of_one_batch_do_not_see_each_other(form: dict[str, Any], lengths: list[int], packed: bool) -> None:
    def model() -> Qwen2ForCausalLM:
        torch.manual_seed(0)
        shape = SHAPE | {"initializer_range": 0.3} | form
        return Qwen2ForCausalLM(Qwen2Config(**shape)).double()

    total, generator = max(lengths), torch.Generator().manual_seed(4)
    sequences = torch.randint(0, 64, (len(lengths), total), generator=generator)
    attention_mask = torch.arange(total, 0, -1) <= torch.tensor(lengths)[:, None]
    response_mask = attention_mask[:, 1:] & (torch.arange(total - 1, 0, -1) <= 2)
    scored = ScoredCausalLM(model(), AttentionSettings(packed=packed))
    logprobs, _ = scored(sequences, attention_mask, response_mask, 1.0)
    logprobs.sum().backward()
    plain = model()
    expected = torch.zeros_like(logprobs)
    for row, length in enumerate(lengths):
        tokens = sequences[row, -length:]
        scores = plain(tokens[None]).logits[0, -3:-1].log_softmax(-1).gather(-1, tokens[-2:, None])[:, 0]
        scores.sum().backward()
        expected[row, -2:] = scores.detach()
    torch.testing.assert_close(logprobs, expected)
    for ours, wanted in zip(scored.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, wanted.grad)


def test_packed_tokens_lie_end_to_end() -> None:
    sequences = torch.tensor([[0, 0, 11, 12, 13], [21, 22, 23, 24, 25]])
    attention_mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    response_mask = torch.tensor([[0, 0, 1], [1, 1, 1]], dtype=torch.bool)
    packed = lay_out(sequences, attention_mask, response_mask, packed=True, multiple=5)
    assert packed.tokens.tolist() == [[11, 12, 13, 21, 22, 23, 24, 25, 0, 0]]
    assert packed.position_ids.tolist()[0][:8] == [0, 1, 2, 0, 1, 2, 3, 4]
    assert packed.targets[packed.scored].tolist() == [13, 23, 24, 25]
    assert packed.lengths == (3, 5, 2)
    assert packed.offsets().tolist() == [0, 3, 8, 10]
    padded = lay_out(sequences, attention_mask, response_mask, packed=False, multiple=2)
    assert padded.tokens.shape == (2, 6)
    assert padded.tokens[0, :3].tolist() == [11, 12, 13]
    assert padded.targets[padded.scored].tolist() == [13, 23, 24, 25]
    assert padded.placed(torch.tensor([1.0, 2.0, 3.0, 4.0]), response_mask).tolist() == [[0, 0, 1], [2, 3, 4]]


@pytest.mark.proves("trainer.policy.use_torch_compile")
def test_the_compiled_computation_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda work, **how: compile_(work, backend="eager", **how))  # seconds faster
    hidden, weight, targets = scores_case(torch.float64)
    outcomes = []
    for compiled in (True, False):
        scores = token_scores(hidden, weight, targets, temperature=0.7, chunk_elements=33, compiled=compiled)
        outcomes.append((*scores, *torch.autograd.grad(torch.stack(scores).square().sum(), (hidden, weight))))
    for ours, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2


OVERRIDES: dict[str, tuple[ModelOverrides, dict[str, Any]]] = {
    "a setting": (ModelOverrides({"attention_dropout": 0.25}), {}),
    "base of rotary embeddings": (ModelOverrides(rope_theta=5e5), {"rope_theta": 5e5, "rope_type": "default"}),
    "scaling of rotary embeddings": (
        ModelOverrides(rope_scaling={"type": "linear", "factor": 2.0}),
        {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0},
    ),
    "the same by the model's settings": (
        ModelOverrides({"rope_theta": 3e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        {"rope_theta": 3e5, "rope_type": "linear", "factor": 2.0},
    ),
}


@pytest.mark.parametrize("case", OVERRIDES.values(), ids=OVERRIDES)
def test_a_models_configuration_is_overridden(tmp_path: Path, case: tuple[ModelOverrides, dict[str, Any]]) -> None:
    qwen().save_pretrained(tmp_path)
    overrides, rope = case
    model = load_causal_lm(str(tmp_path), torch.float32, overrides)
    assert {name: model.config.rope_parameters[name] for name in rope} == rope
    assert model.config.attention_dropout == overrides.settings.get("attention_dropout", 0.0)
    own = load_causal_lm(str(tmp_path), torch.float32)
    tokens = torch.arange(12)[None]
    changed = not torch.allclose(model.eval()(tokens).logits, own.eval()(tokens).logits, atol=1e-6)
    assert changed is bool(rope)


CONTRADICTIONS: dict[str, tuple[ModelOverrides, str]] = {
    "an unknown setting": (ModelOverrides({"hidden_droput": 0.1}), r"Qwen2Config\) has not: hidden_droput"),
    "a type of numbers": (ModelOverrides({"dtype": "float16"}), r"dtype is decided by trainer\.bf16"),
    "rotary embeddings said twice": (ModelOverrides({"rope_theta": 3e5}, rope_theta=1e4), "both say how rotary"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_overrides_that_cannot_be_are_refused(tmp_path: Path, case: tuple[ModelOverrides, str]) -> None:
    qwen().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=case[1]):
        load_causal_lm(str(tmp_path), torch.float32, case[0])


def test_a_chat_template_comes_from_a_file_or_by_its_name(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, eos_token="<eos>")
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}!")
    path = str(tmp_path)
    assert load_tokenizer(path, ChatTemplateConfig()).chat_template is None
    by_file = load_tokenizer(path, ChatTemplateConfig(source="file", name_or_path=str(file)))
    assert by_file.chat_template == "{{ messages[0].content }}!"
    by_file.chat_template = {"default": "one", "tool_use": "two"}
    by_file.save_pretrained(tmp_path)
    assert load_tokenizer(path, ChatTemplateConfig(name_or_path="tool_use")).chat_template == "two"
    with pytest.raises(ValueError, match=r"has no chat template other \(it has: default, tool_use\)"):
        load_tokenizer(path, ChatTemplateConfig(name_or_path="other"))
    with pytest.raises(ValueError, match=r"missing\.jinja cannot be read"):
        load_tokenizer(path, ChatTemplateConfig(source="file", name_or_path=str(tmp_path / "missing.jinja")))
