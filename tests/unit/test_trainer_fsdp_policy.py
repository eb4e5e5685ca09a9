"""PolicyRank on one and on two gloo processes against plain torch in one process.

Run as a script, this file is one rank: it writes what it computed to a file, and the tests compare. Each world size
starts its processes once; importing torch takes far longer than the work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, get_scheduler

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.data.batch import TrainBatch, build_batch
from rltrain_trainer.fsdp.gradients import accumulate_gradients
from rltrain_trainer.fsdp.minibatches import deal
from rltrain_trainer.fsdp.policy import PolicyRank
from rltrain_trainer.fsdp.sharding import clip_gradients, data_parallel_mesh, full_tensor, shard_model
from rltrain_trainer.models.scored import PREFIX, ScoredCausalLM
from rltrain_trainer.rollout.trajectory import Trajectory

WORLD_SIZES = (1, 2)
VOCABULARY = 256
LR = 1e-4
RANK_SECONDS = 180

pytestmark = pytest.mark.timeout(2 * RANK_SECONDS + 60)  # both world sizes start in the first test's set-up

# What each run of three training steps has that the others have not.
RUNS: dict[str, dict[str, Any]] = {
    "regular": {
        "tied": True,
        "trainer": {"policy_mini_batch_size": 4, "micro_train_batch_size_per_gpu": 3},
        "algorithm": {"use_kl_loss": False, "temperature": 1.0},
    },
    "everything": {
        "tied": False,
        "trainer": {
            "policy_mini_batch_size": 2,
            "micro_train_batch_size_per_gpu": 1,
            "update_epochs_per_batch": 2,
            "gradient_checkpointing": True,
        },
        "algorithm": {
            "use_kl_loss": True,
            "kl_loss_coef": 0.1,
            "use_entropy_loss": True,
            "entropy_loss_coef": 0.05,
            "temperature": 0.7,
            "policy_loss_type": "dual_clip",
            "loss_reduction": "sequence_mean",
        },
    },
}


def make_model(*, tied: bool) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.1,
    )
    return Qwen2ForCausalLM(shape)


def make_config(directory: Path, run: str) -> SkyRLTrainConfig:
    """Resolved far enough for a rank: four prompts of two samples each."""
    settings = RUNS[run]
    trainer = {
        "policy": {
            "model": {"path": str(directory / run)},
            "optimizer_config": {"lr": LR, "scheduler": "linear", "num_warmup_steps": 2, "max_grad_norm": 0.5},
        },
        "ref": {"model": {"path": str(directory / "reference")}},
        "bf16": False,
        "gradient_checkpointing": False,
        "train_batch_size": 4,
        "micro_forward_batch_size_per_gpu": 3,
    }
    return SkyRLTrainConfig.model_validate(
        {
            "trainer": trainer | settings["trainer"] | {"algorithm": settings["algorithm"]},
            "generator": {"n_samples_per_prompt": 2, "inference_engine": {"model_dtype": "float32"}},
        }
    )


def make_batch(seed: int) -> TrainBatch:
    """Eight ragged sequences with advantages; some tokens are the environment's, one response is masked out."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, count: int) -> tuple[int, ...]:
        return tuple(torch.randint(low, high, (count,), generator=generator).tolist())

    trajectories = []
    for index in range(8):
        response = integers(1, 9, 1)[0]
        trajectories.append(
            Trajectory(
                group_id=str(index // 2),
                prompt_ids=integers(0, VOCABULARY, integers(2, 7, 1)[0]),
                response_ids=integers(0, VOCABULARY, response),
                rollout_logprobs=(-5.0,) * response,
                loss_mask=(0,) * response if index == 5 else (1, *integers(0, 2, response - 1)),
                token_rewards=(0.0,) * response,
                stop_reason="stop",
                version_spans=(),
            )
        )
    batch = build_batch(trajectories, pad_token_id=0)
    advantages = torch.randn(8, 1, generator=generator) * batch.response_mask
    return batch.with_advantages(advantages, advantages)


# --- one rank ---------------------------------------------------------------------------------------------------------


def parameters_of(policy: PolicyRank) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in policy.gather_parameters()}


def gathered_logprobs(policy: PolicyRank, batch: TrainBatch) -> Tensor:
    mine = policy.logprobs(batch.shard(dist.get_rank(), dist.get_world_size()))
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    return torch.cat(everyone)


def one_step(policy: PolicyRank, seed: int) -> dict[str, Any]:
    batch = make_batch(seed)
    old = gathered_logprobs(policy, batch)
    metrics = policy.update(batch.with_old_logprobs(old))
    return {"logprobs": old, "metrics": metrics, "parameters": parameters_of(policy)}


def run_steps(directory: Path, run: str) -> dict[str, Any]:
    """Three training steps, saved after the second, whose third is repeated from what was saved."""
    config = make_config(directory, run)
    checkpoint = directory / f"checkpoint_{run}_{dist.get_world_size()}"
    policy = PolicyRank(config, total_steps=5)
    result: dict[str, Any] = {"steps": [one_step(policy, 0), one_step(policy, 1)]}
    policy.save(checkpoint)
    result["steps"].append(one_step(policy, 2))
    fresh = PolicyRank(config, total_steps=5)
    fresh.load(checkpoint)
    result["resumed"] = one_step(fresh, 2)
    result["specs"] = [(spec.name, spec.shape, spec.dtype) for spec in fresh.parameter_specs()]
    other = directory / f"checkpoint_{run}_2"
    if dist.get_world_size() == 1 and other.exists():
        fresh.load(other)
        result["resumed_from_two"] = one_step(fresh, 2)
    return result


def first_gradient(directory: Path, run: str) -> dict[str, Any]:
    config = make_config(directory, run)
    model = ScoredCausalLM(make_model(tied=RUNS[run]["tied"]))
    shard_model(model, data_parallel_mesh(torch.device("cpu")), bf16=False, reshard_after_forward=True)
    batch = make_batch(0)
    share = deal(
        batch.with_old_logprobs(batch.rollout_logprobs), config, rank=dist.get_rank(), world_size=dist.get_world_size()
    )[0]
    algorithm = config.trainer.algorithm.model_copy(update={"use_kl_loss": False})
    accumulate_gradients(model, share, algorithm, micro_batch_size=2, device=torch.device("cpu"))
    gradients = {
        name.removeprefix(PREFIX): full_tensor(parameter.grad).clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    norm = clip_gradients(model, 0.01)
    return {"gradients": gradients, "norm": norm, "clipped_norm": clip_gradients(model, 0.0)}


def special_cases(directory: Path) -> dict[str, Any]:
    config = make_config(directory, "regular")
    policy = PolicyRank(config, total_steps=5)
    before, batch = parameters_of(policy), make_batch(0)
    assert batch.advantages is not None
    poisoned = batch.with_advantages(batch.advantages * torch.inf, batch.advantages)
    result: dict[str, Any] = {"poisoned": policy.update(poisoned), "before": before, "after": parameters_of(policy)}
    without_old = PolicyRank(config, total_steps=5)
    without_old.update(batch)
    result["without_old_logprobs"] = parameters_of(without_old)
    half = config.model_dump(mode="json")
    half["trainer"]["bf16"] = True
    half["generator"]["inference_engine"]["model_dtype"] = "bfloat16"
    half["trainer"]["algorithm"]["use_kl_loss"] = True
    policy = PolicyRank(SkyRLTrainConfig.model_validate(half), total_steps=5)
    result["bf16"] = {"first": one_step(policy, 0), "second": one_step(policy, 1)}
    result["bf16"]["master_types"] = sorted({str(parameter.dtype) for parameter in policy._model.parameters()})
    return result


def rank_main(directory: Path, rank: int, world_size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{directory}/store_{world_size}", rank=rank, world_size=world_size
    )
    result = {run: run_steps(directory, run) | first_gradient(directory, run) for run in RUNS}
    result["special"] = special_cases(directory)
    torch.save(result, directory / f"result_{world_size}_{rank}.pt")
    dist.destroy_process_group()


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small only lose by being shared between threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """By world size: what every rank computed. Two ranks go first: the single one resumes from what they saved."""
    directory = tmp_path_factory.mktemp("ranks")
    for run, settings in RUNS.items():
        make_model(tied=settings["tied"]).save_pretrained(directory / run)
    make_reference().save_pretrained(directory / "reference")
    outcome = {}
    for world_size in sorted(WORLD_SIZES, reverse=True):
        run_ranks(directory, world_size)
        outcome[world_size] = [
            torch.load(directory / f"result_{world_size}_{rank}.pt", weights_only=True) for rank in range(world_size)
        ]
    return outcome


def make_reference() -> Qwen2ForCausalLM:
    model = make_model(tied=False)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.9)
    return model


def run_ranks(directory: Path, world_size: int) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(directory), str(rank), str(world_size)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [rank.communicate(timeout=RANK_SECONDS)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for process, output in zip(ranks, outputs, strict=True):
        assert process.returncode == 0, output


class Plain:
    """The same three steps in plain torch: every sequence by itself, full logits, autograd, one process."""

    def __init__(self, run: str) -> None:
        self.config = SkyRLTrainConfig.model_validate(make_config(Path("unused"), run).model_dump(mode="json"))
        self.algorithm = self.config.trainer.algorithm
        self.model = make_model(tied=RUNS[run]["tied"])
        self.reference = make_reference()
        optimizer = self.config.trainer.policy.optimizer_config
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LR, betas=(0.9, 0.999), weight_decay=optimizer.weight_decay
        )
        trainer = self.config.trainer
        per_batch = trainer.update_epochs_per_batch * trainer.train_batch_size // trainer.policy_mini_batch_size
        self.scheduler = get_scheduler("linear", self.optimizer, num_warmup_steps=2, num_training_steps=5 * per_batch)

    def scores(self, model: Qwen2ForCausalLM, batch: TrainBatch, row: int) -> tuple[Tensor, Tensor]:
        length, response = int(batch.attention_mask[row].sum()), int(batch.response_mask[row].sum())
        tokens = batch.sequences[row, -length:]
        logits = model(tokens[None]).logits[0, -response - 1 : -1].double() / self.algorithm.temperature
        logprobs = logits.log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        return logprobs.gather(-1, tokens[-response:, None])[:, 0], entropy

    def logprobs(self, batch: TrainBatch) -> Tensor:
        result = torch.zeros(len(batch), batch.response_length)
        with torch.no_grad():
            for row in range(len(batch)):
                scores, _ = self.scores(self.model, batch, row)
                result[row, -len(scores) :] = scores.float()
        return result

    def loss(self, batch: TrainBatch, *, with_kl: bool) -> dict[str, Tensor]:
        """The loss of one mini-batch, from the definitions."""
        algorithm, tokens = self.algorithm, int(batch.loss_mask.sum())
        parts = {"policy_loss": [], "policy_entropy": [], "policy_kl": []}
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
                with torch.no_grad():
                    base = self.scores(self.reference, batch, row)[0][mine]
                divergence = (base - logprobs).exp() - (base - logprobs) - 1
                parts["policy_kl"].append(divergence.mean() / len(batch))
        sums = {name: torch.stack(values).sum() for name, values in parts.items() if values}
        final = sums["policy_loss"]
        if with_kl:
            final = final + algorithm.kl_loss_coef * sums["policy_kl"]
        if algorithm.use_entropy_loss:
            final = final - algorithm.entropy_loss_coef * sums["policy_entropy"]
        return sums | {"final_loss": final}

    def step(self, seed: int) -> dict[str, Any]:
        trainer, batch = self.config.trainer, make_batch(seed)
        old = self.logprobs(batch)
        batch = batch.with_old_logprobs(old)
        size = trainer.policy_mini_batch_size * 2
        collected: list[dict[str, float]] = []
        for _ in range(trainer.update_epochs_per_batch):
            for start in range(0, len(batch), size):
                sums = self.loss(batch.rows(slice(start, start + size)), with_kl=self.algorithm.use_kl_loss)
                sums["final_loss"].backward()
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
                rate = self.scheduler.get_last_lr()[0]
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
                collected.append(
                    {name: value.item() for name, value in sums.items()} | {"grad_norm": norm.item(), "policy_lr": rate}
                )
        metrics = {f"policy/{name}": sum(each[name] for each in collected) / len(collected) for name in collected[0]}
        parameters = {name: tensor.detach().clone() for name, tensor in self.model.named_parameters()}
        return {"logprobs": old, "metrics": metrics, "parameters": parameters}


@pytest.fixture(scope="module")
def plain() -> dict[str, list[dict[str, Any]]]:
    outcome = {}
    for run in RUNS:
        reference = Plain(run)
        outcome[run] = [reference.step(seed) for seed in range(3)]
    return outcome


each_world_size = pytest.mark.parametrize("world_size", WORLD_SIZES)
each_run = pytest.mark.parametrize("run", RUNS)
Results = dict[int, list[dict[str, Any]]]


def assert_same_parameters(ours: dict[str, Tensor], expected: dict[str, Tensor], *, tolerance: float = 1e-5) -> None:
    assert list(ours) == list(expected)
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, expected[name], rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


@each_world_size
@each_run
def test_three_steps_agree_with_plain_torch(
    results: Results, plain: dict[str, list[dict[str, Any]]], run: str, world_size: int
) -> None:
    for rank, result in enumerate(results[world_size]):
        for number, (ours, expected) in enumerate(zip(result[run]["steps"], plain[run], strict=True)):
            where = f"rank {rank}, step {number}"
            torch.testing.assert_close(ours["logprobs"], expected["logprobs"], rtol=0, atol=1e-5, msg=where)
            for name, value in expected["metrics"].items():
                assert ours["metrics"][name] == pytest.approx(value, rel=1e-5, abs=1e-5), f"{where}: {name}"
            assert_same_parameters(ours["parameters"], expected["parameters"])
    moved = plain[run][2]["parameters"]["model.norm.weight"] - plain[run][0]["parameters"]["model.norm.weight"]
    assert moved.abs().max() > LR / 10


@each_world_size
@each_run
def test_gradients_agree_with_plain_torch(results: Results, run: str, world_size: int) -> None:
    reference = Plain(run)
    batch = make_batch(0)
    rows = slice(0, 2 * reference.config.trainer.policy_mini_batch_size)
    batch = replace(batch, old_logprobs=batch.rollout_logprobs).rows(rows)
    reference.loss(batch, with_kl=False)["final_loss"].backward()
    expected = {name: parameter.grad for name, parameter in reference.model.named_parameters()}
    norm = torch.stack([gradient.norm() for gradient in expected.values() if gradient is not None]).norm().item()
    result = results[world_size][0][run]
    assert_same_parameters(result["gradients"], {name: g for name, g in expected.items() if g is not None})
    assert result["norm"] == pytest.approx(norm, rel=1e-5)
    assert norm > 0.01
    assert result["clipped_norm"] == pytest.approx(0.01, rel=1e-3)


@each_world_size
@each_run
def test_every_rank_reports_the_same(results: Results, run: str, world_size: int) -> None:
    metrics = [[step["metrics"] for step in result[run]["steps"]] for result in results[world_size]]
    assert all(each == metrics[0] for each in metrics)
    assert metrics[0][0]["policy/skipped_steps"] == 0
    assert json.dumps(metrics[0])
    assert {
        "policy/loss_metrics/clip_ratio",
        "policy/response_length",
        "policy/rollout_train_logprobs_abs_diff_mean",
    } <= {*metrics[0][0]}


@each_world_size
@each_run
def test_a_resumed_run_repeats_the_step_bit_for_bit(results: Results, run: str, world_size: int) -> None:
    result = results[world_size][0][run]
    assert result["resumed"]["metrics"] == result["steps"][2]["metrics"]
    assert_same_parameters(result["resumed"]["parameters"], result["steps"][2]["parameters"], tolerance=0)


@each_run
def test_one_rank_resumes_what_two_saved(results: Results, run: str) -> None:
    ours = results[1][0][run]["resumed_from_two"]
    expected = results[2][0][run]["steps"][2]
    torch.testing.assert_close(ours["logprobs"], expected["logprobs"], rtol=0, atol=1e-5)
    assert_same_parameters(ours["parameters"], expected["parameters"])
    assert ours["metrics"]["policy/policy_lr"] == expected["metrics"]["policy/policy_lr"]


@each_run
def test_gathered_parameters_are_those_that_were_announced(results: Results, run: str) -> None:
    result = results[2][1][run]
    tied = RUNS[run]["tied"]
    expected = [(name, tuple(p.shape), "float32") for name, p in make_model(tied=tied).named_parameters()]
    assert [(name, tuple(shape), dtype) for name, shape, dtype in result["specs"]] == expected
    assert [name for name, _, _ in expected] == list(result["steps"][0]["parameters"])
    assert ("lm_head.weight" in result["steps"][0]["parameters"]) is not tied


@each_world_size
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(results: Results, world_size: int) -> None:
    special = results[world_size][0]["special"]
    assert special["poisoned"]["policy/skipped_steps"] == 1
    assert_same_parameters(special["after"], special["before"], tolerance=0)


@each_world_size
def test_a_single_optimiser_step_needs_no_old_logprobs(results: Results, world_size: int) -> None:
    result = results[world_size][0]
    assert_same_parameters(result["special"]["without_old_logprobs"], result["regular"]["steps"][0]["parameters"])


@each_world_size
def test_bfloat16_compute_keeps_float32_master_weights(results: Results, world_size: int) -> None:
    special, exact = results[world_size][0]["special"]["bf16"], results[world_size][0]["regular"]["steps"]
    assert special["master_types"] == ["torch.float32"]
    for ours, expected in zip((special["first"], special["second"]), exact, strict=False):
        assert {tensor.dtype for tensor in ours["parameters"].values()} == {torch.bfloat16}
        torch.testing.assert_close(ours["logprobs"], expected["logprobs"], rtol=0, atol=0.2)
    assert special["first"]["logprobs"].dtype == torch.float32
    assert special["second"]["metrics"]["policy/grad_norm"] > 0
    assert special["second"]["metrics"]["policy/policy_kl"] > 0


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
