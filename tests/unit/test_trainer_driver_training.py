"""The order of things in the synchronous loop.

Policy and generator are scripted here: what they compute is tested where they live, and the whole of it on the cluster;
this is about what is asked of them, when, and with which weights.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from rltrain_api.config import SamplingParams, SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_api.wire import DriverPhase, JobReference, RunDocument
from rltrain_trainer.algorithms.kl import KLController
from rltrain_trainer.checkpoint.manifest import FileRecord
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.data.loader import PromptLoader
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.driver.checkpoints import RunCheckpoints
from rltrain_trainer.driver.dumps import Dumps
from rltrain_trainer.driver.evaluation import Evaluation
from rltrain_trainer.driver.training import TrainingLoop
from rltrain_trainer.rollout.trajectory import Trajectory, VersionSpan
from rltrain_trainer.tracking.backends import BACKENDS, RunDescription
from rltrain_trainer.tracking.run_state import RunState
from rltrain_trainer.tracking.trackers import Trackers

SOURCES = ("openai/gsm8k", "aime", "openai/gsm8k")
ROWS = [
    PromptRow(str(index), (), "gsm8k", {"data_source": SOURCES[index]} if index < len(SOURCES) else {})
    for index in range(8)
]


@dataclass
class Scripted:
    """Policy, generator and publisher in one; writes down what it was asked for."""

    calls: list[str] = field(default_factory=list)
    batches: list[TrainBatch] = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)  # the prompts of each training batch
    exported: list[str] = field(default_factory=list)
    sampling: list[tuple[SamplingParams, int]] = field(default_factory=list)
    evaluating: list[tuple[SamplingParams, int]] = field(default_factory=list)
    equal_rewards: int = 0  # so many batches have nothing to learn from
    served: int = -1
    on_update: Any = None

    async def logprobs(self, batch: TrainBatch) -> torch.Tensor:
        return self._scored("logprobs", batch)

    async def reference_logprobs(self, batch: TrainBatch) -> torch.Tensor:
        return self._scored("reference", batch) - 0.5

    async def values(self, batch: TrainBatch) -> torch.Tensor:
        return self._scored("values", batch)

    def _scored(self, name: str, batch: TrainBatch) -> torch.Tensor:
        self.calls.append(name)
        return torch.zeros_like(batch.token_rewards)

    async def update(self, batch: TrainBatch) -> dict[str, float]:
        self.calls.append("update")
        self.batches.append(batch)
        if self.on_update is not None:
            self.on_update()
        return {"policy/policy_loss": 0.0}

    async def update_critic(self, batch: TrainBatch) -> dict[str, float]:
        self.calls.append("update critic")
        return {"critic/critic_loss": 0.0}

    async def refresh_reference(self) -> None:
        self.calls.append("refresh")

    async def export(self, directory: str) -> None:
        self.calls.append("export")
        self.exported.append(directory)

    async def save(self, directory: str) -> None:
        self.calls.append("save")

    async def written(self) -> dict[str, FileRecord]:
        return {}

    async def generate(
        self, rows: Sequence[PromptRow], *, sampling: SamplingParams, samples_per_prompt: int, seed: int
    ) -> list[Trajectory]:
        (self.evaluating if sampling.temperature == 0 else self.sampling).append((sampling, seed))
        self.calls.append(f"generate {len(rows)}x{samples_per_prompt} at v{self.served}")
        if sampling.temperature > 0:
            self.asked.append([row.uid for row in rows])
            if self.equal_rewards:
                self.equal_rewards -= 1
                return [trajectory(row, 0) for row in rows for _ in range(samples_per_prompt)]
        return [trajectory(row, sample) for row in rows for sample in range(samples_per_prompt)]

    async def publish(self, version: int) -> dict[str, float]:
        self.calls.append(f"publish v{version}")
        self.served = version
        return {"weight_sync/bytes": 8.0}


def trajectory(row: PromptRow, sample: int) -> Trajectory:
    """Two tokens; every other sample of a prompt is right."""
    return Trajectory(
        group_id=row.uid,
        prompt_ids=(1, 2),
        response_ids=(3, 4),
        rollout_logprobs=(-0.1, -0.2),
        loss_mask=(1, 1),
        token_rewards=(0.0, float(sample % 2)),
        stop_reason="stop",
        version_spans=(VersionSpan(0, 0, 2),),
        sample=sample,
    )


class Memory:
    """A tracker that remembers."""

    def __init__(self, run: RunDescription) -> None:
        self.run_id = run.run_id or "run-1"

    def log(self, metrics: dict[str, float], step: int) -> None:
        SEEN.append((step, dict(metrics)))

    def close(self) -> None:
        SEEN.append((-1, {}))


SEEN: list[tuple[int, dict[str, float]]] = []


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, float]]]:
    monkeypatch.setitem(BACKENDS, "memory", Memory)
    SEEN.clear()
    return SEEN


def loop_of(parts: Scripted, root: Path, *, attempt: int = 1, generator: Any = None, **trainer: object) -> TrainingLoop:
    settings: dict[str, object] = {
        "ckpt_path": str(root),
        "export_path": str(root / "exports"),
        "train_batch_size": 2,
        "policy_mini_batch_size": 2,
        "eval_batch_size": 3,
        "eval_interval": 2,
        "ckpt_interval": 3,
        "dump_eval_results": False,
        **trainer,
    }
    settings["algorithm"] = {"use_kl_loss": False, **settings.get("algorithm", {})}  # type: ignore[dict-item]
    document = {"trainer": settings, "generator": {"n_samples_per_prompt": 2, **(generator or {})}}
    config = resolve(SkyRLTrainConfig.model_validate(document))
    run = RunDocument(
        job=JobReference(namespace="default", name="job", uid="u"),
        attempt=attempt,
        config=config.model_dump(mode="json"),
    )
    state = RunState(attempt=attempt)
    loader = PromptLoader(ROWS, config.trainer.train_batch_size, seed=config.trainer.seed)
    state.total_steps = loader.steps_per_epoch * config.trainer.epochs
    checkpoints = RunCheckpoints(config, run)
    resume = checkpoints.find_resume()
    dumps = Dumps(config.trainer.export_path, lambda ids: " ".join(map(str, ids)))
    loop = TrainingLoop(
        config=config,
        state=state,
        policy=parts,
        generator=parts,
        publish_weights=parts.publish,
        loader=loader,
        evaluation=Evaluation(config, ROWS[:5], parts, dumps),
        checkpoints=checkpoints,
        trackers=Trackers(["memory"], RunDescription("p", "n"), run_ids=resume and resume.loop_state["trackers"]),
        dumps=dumps,
        controller=KLController.of(config.trainer.algorithm),
        pad_token_id=0,
    )
    if resume is not None:
        loop.resume(resume)
    return loop


@pytest.mark.proves(
    "trainer.eval_before_train",
    "trainer.eval_interval",
    "trainer.eval_batch_size",
    "trainer.ckpt_interval",
    "trainer.train_batch_size",
    "generator.n_samples_per_prompt",
)
async def test_the_order_of_a_whole_run(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path)
    await loop.run()
    evaluation = ["generate 3x1 at v{0}", "generate 2x1 at v{0}"]
    step = ["generate 2x2 at v{0}", "update", "publish v{1}"]

    def at(lines: list[str], before: int) -> list[str]:
        return [line.format(before, before + 1) for line in lines]

    assert parts.calls == [
        "publish v0",
        *at(evaluation, 0),
        *at(step, 0),
        *at(step, 1),
        *at(evaluation, 2),
        *at(step, 2),
        "save",
        *at(step, 3),
        *at(evaluation, 4),
        "save",
    ]
    assert loop.state.status().checkpoint is not None
    assert (loop.state.step, loop.state.weight_version) == (4, 4)
    assert [point.step for point in loop.state.history().points if point.eval_score is not None] == [0, 2, 4]


@pytest.mark.proves("trainer.eval_interval", "trainer.ckpt_interval")
async def test_nothing_is_evaluated_and_only_the_end_is_saved_when_nothing_is_asked_for(tmp_path: Path) -> None:
    parts = Scripted()
    await loop_of(parts, tmp_path, eval_before_train=False, eval_interval=-1, ckpt_interval=-1).run()
    assert [call for call in parts.calls if call == "save" or "x1 " in call] == ["save"]
    assert parts.calls[-1] == "save"


@pytest.mark.proves("trainer.epochs")
async def test_epochs_are_passes_over_the_data(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path, epochs=3, eval_interval=-1, eval_before_train=False)
    await loop.run()
    assert (loop.state.step, loop.state.epoch) == (12, 2)
    for epoch in range(3):
        seen = [uid for batch in parts.asked[4 * epoch : 4 * epoch + 4] for uid in batch]
        assert sorted(seen) == [row.uid for row in ROWS]


async def test_advantages_are_of_the_group(tmp_path: Path) -> None:
    parts = Scripted()
    await loop_of(parts, tmp_path, eval_before_train=False, eval_interval=-1).run()
    advantages = parts.batches[0].advantages
    assert advantages is not None
    wrong, right = advantages[0, 0].item(), advantages[1, 0].item()
    assert wrong < 0 < right
    assert abs(wrong + right) < 1e-6


async def test_old_log_probabilities_only_where_a_batch_takes_several_steps(tmp_path: Path) -> None:
    one, several = Scripted(), Scripted()
    await loop_of(one, tmp_path / "one").run()
    await loop_of(several, tmp_path / "several", policy_mini_batch_size=1).run()
    assert "logprobs" not in one.calls
    assert several.calls.count("logprobs") == 4
    assert all(batch.old_logprobs is not None for batch in several.batches)


async def test_a_critic_is_asked_before_the_update_and_trained_before_the_policy(tmp_path: Path) -> None:
    parts = Scripted()
    critic = {"critic": {"model": {"path": "/data/critic"}}, "algorithm": {"advantage_estimator": "gae"}}
    await loop_of(parts, tmp_path, eval_before_train=False, eval_interval=-1, **critic).run()
    assert parts.calls[1:5] == ["generate 2x2 at v0", "values", "update critic", "update"]


@pytest.mark.proves("trainer.update_ref_every_epoch")
async def test_the_reference_becomes_the_policy_at_the_end_of_each_epoch(tmp_path: Path) -> None:
    parts, fixed = Scripted(), Scripted()
    settings = {"epochs": 2, "eval_interval": -1, "eval_before_train": False, "algorithm": {"use_kl_loss": True}}
    await loop_of(parts, tmp_path / "a", update_ref_every_epoch=True, **settings).run()
    await loop_of(fixed, tmp_path / "b", **settings).run()
    assert [call for call in parts.calls if call in ("update", "refresh")] == (["update"] * 4 + ["refresh"]) * 2
    assert "refresh" not in fixed.calls


@pytest.mark.proves("trainer.hf_save_interval", "trainer.export_path")
async def test_models_are_exported_when_due_and_at_the_end(tmp_path: Path) -> None:
    parts = Scripted()
    await loop_of(parts, tmp_path, hf_save_interval=3).run()
    assert parts.exported == [f"{tmp_path}/exports/global_step_{step}/policy" for step in (3, 4)]


@pytest.mark.proves("trainer.dump_data_batch", "trainer.export_path")
async def test_batches_are_dumped_with_every_tensor(tmp_path: Path) -> None:
    parts, quiet = Scripted(), Scripted()
    await loop_of(parts, tmp_path / "a", dump_data_batch=True).run()
    await loop_of(quiet, tmp_path / "b").run()
    assert not (tmp_path / "b/exports").exists()
    files = sorted((tmp_path / "a/exports/dumped_data").iterdir())
    assert [file.name for file in files] == [f"global_step_{step}_training_input.safetensors" for step in (1, 2, 3, 4)]
    tensors = safetensors.torch.load_file(files[0])
    assert torch.equal(tensors["sequences"], parts.batches[0].sequences)
    assert {"advantages", "loss_mask", "token_rewards", "rollout_logprobs"} <= tensors.keys()


@pytest.mark.proves("trainer.dump_eval_results", "generator.eval_n_samples_per_prompt")
async def test_evaluations_are_scored_and_dumped_by_data_source(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path, dump_eval_results=True, generator={"eval_n_samples_per_prompt": 2})
    await loop.run()
    dumped = tmp_path / "exports/dumped_evals/global_step_2_evals"
    assert sorted(file.name for file in dumped.iterdir()) == [
        "aggregated_results.jsonl",
        "aime.jsonl",
        "openai_gsm8k.jsonl",
        "unknown.jsonl",
    ]
    answers = [json.loads(line) for line in (dumped / "openai_gsm8k.jsonl").read_text().splitlines()]
    assert [(one["uid"], one["sample"], one["score"]) for one in answers] == [
        ("0", 0, 0.0),
        ("0", 1, 1.0),
        ("2", 0, 0.0),
        ("2", 1, 1.0),
    ]
    assert (answers[0]["input_prompt"], answers[0]["output_response"]) == ("1 2", "3 4")
    metrics = json.loads((dumped / "aggregated_results.jsonl").read_text())
    assert metrics["eval/all/pass_at_2"] == 1.0
    assert metrics["eval/aime/avg_score"] == 0.5
    assert dict(SEEN)[2].items() >= metrics.items()


@pytest.mark.proves(
    "generator.eval_sampling_params.max_generate_length",
    "generator.eval_sampling_params.repetition_penalty",
    "generator.eval_sampling_params.temperature",
    "generator.eval_sampling_params.top_p",
    "generator.eval_sampling_params.min_p",
    "generator.eval_sampling_params.top_k",
    "generator.eval_sampling_params.stop",
)
async def test_evaluations_are_sampled_by_parameters_of_their_own(tmp_path: Path) -> None:
    parts = Scripted()
    asked = {"temperature": 0.0, "max_generate_length": 7, "repetition_penalty": 1.1, "top_p": 0.9, "min_p": 0.1}
    own = SamplingParams.model_validate({**asked, "top_k": 5, "stop": ["</n>"]})
    loop = loop_of(parts, tmp_path, generator={"eval_sampling_params": own.model_dump()})
    await loop.run()
    assert [sampling for sampling, _ in parts.evaluating if sampling != own] == []
    assert parts.evaluating
    assert own not in [sampling for sampling, _ in parts.sampling]


async def test_a_dump_that_cannot_be_written_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "exports").write_text("a file where a directory should be")
    loop = loop_of(Scripted(), tmp_path, dump_eval_results=True, dump_data_batch=True)
    await loop.run()
    assert loop.state.step == 4
    assert loop.state.metrics["trainer/failed_dumps"] == 7.0


async def test_groups_that_teach_nothing_are_left_out_when_asked(tmp_path: Path) -> None:
    parts = Scripted(equal_rewards=1)
    await loop_of(parts, tmp_path, algorithm={"zero_variance_filter": True}).run()
    assert not parts.batches[0].loss_mask.any()
    assert parts.batches[1].loss_mask.all()


@pytest.mark.proves("trainer.algorithm.dynamic_sampling.type")
async def test_dynamic_sampling_asks_for_prompts_until_there_are_enough(tmp_path: Path) -> None:
    parts = Scripted(equal_rewards=2)
    sampling = {"dynamic_sampling": {"type": "filter"}}
    loop = loop_of(parts, tmp_path, eval_before_train=False, eval_interval=-1, algorithm=sampling)
    await loop.run()
    assert parts.calls[1:5] == ["generate 2x2 at v0"] * 3 + ["update"]
    assert loop.state.step == 4  # as many steps, over more of the data
    assert [seen["generate/sample_batches"] for step, seen in SEEN if step > 0] == [3.0, 1.0, 1.0, 1.0]
    assert all(batch.loss_mask.all() for batch in parts.batches)


@pytest.mark.proves("trainer.algorithm.dynamic_sampling.max_sample_batches")
async def test_dynamic_sampling_gives_up_by_name(tmp_path: Path) -> None:
    sampling = {"dynamic_sampling": {"type": "filter", "max_sample_batches": 2}}
    loop = loop_of(Scripted(equal_rewards=99), tmp_path, algorithm=sampling)
    with pytest.raises(ValueError, match=r"dynamic_sampling.max_sample_batches: 2 batches were sampled"):
        await loop.run()
    assert SEEN[-1][0] == -1  # trackers are closed even so


async def test_metrics_of_a_step_reach_the_trackers_under_skyrls_names(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path, policy_mini_batch_size=1)
    await loop.run()
    assert [step for step, _ in SEEN] == [0, 1, 2, 2, 3, 4, 4, -1]
    metrics = SEEN[1][1]
    assert metrics.keys() >= {
        "reward/avg_raw_reward",
        "reward/avg_pass_at_2",
        "loss/avg_final_rewards",
        "loss/avg_raw_advantages_abs",
        "policy/policy_loss",
        "generate/batch_num_seq",
        "generate/batch_padded_seq_len",
        "timing/step",
        "timing/generate",
        "timing/convert_to_training_input",
        "timing/fwd_logprobs_values_reward",
        "timing/compute_advantages_and_returns",
        "timing/policy_train",
        "timing/sync_weights",
        "trainer/epoch",
        "trainer/global_step",
        "trainer/tokens_per_second_per_gpu",
        "weight_sync/bytes",
    }
    assert metrics["trainer/global_step"] == 1
    assert loop.state.status().durations.keys() >= {"generate", "policy_train", "sync_weights", "eval"}
    evaluated = SEEN[0][1]
    assert evaluated.keys() >= {"eval/all/avg_score", "eval/openai_gsm8k/pass_at_1", "timing/eval"}


async def test_a_resumed_run_sees_the_rows_not_yet_seen_and_is_the_same_run_at_its_trackers(tmp_path: Path) -> None:
    """Also with dynamic sampling, where a step may take several batches."""
    settings: dict[str, Any] = {
        "eval_interval": -1,
        "eval_before_train": False,
        "ckpt_interval": 2,
        "epochs": 3,
        "algorithm": {
            "dynamic_sampling": {"type": "replace"},
            "use_kl_in_reward": True,
            "kl_ctrl": {"type": "adaptive", "kl_target": 0.01},
        },
    }
    whole = Scripted(equal_rewards=1)
    loop = loop_of(whole, tmp_path / "whole", **settings)
    await loop.run()

    first = Scripted(equal_rewards=1)
    begun = loop_of(first, tmp_path / "parts", **settings)
    first.on_update = lambda: begun.state.step == 4 and begun.state.request_stop(checkpoint=True, deadline_seconds=9)
    await begun.run()
    again = Scripted()
    resumed = loop_of(again, tmp_path / "parts", attempt=2, **settings)
    assert resumed.state.step == begun.state.step == 5
    await resumed.run()
    assert first.asked + again.asked == whole.asked
    assert first.sampling + again.sampling == whole.sampling
    assert resumed.controller.value == loop.controller.value != loop.config.trainer.algorithm.kl_loss_coef
    assert resumed.trackers.run_ids() == begun.trackers.run_ids() == {"memory": "run-1"}
    for mine, wanted in zip([*first.batches, *again.batches], whole.batches, strict=True):
        assert torch.equal(mine.token_rewards, wanted.token_rewards)


async def test_a_stop_ends_at_the_step_boundary_with_a_checkpoint(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path)
    parts.on_update = lambda: loop.state.request_stop(checkpoint=True, deadline_seconds=30)
    await loop.run()
    assert loop.state.step == 1
    assert parts.calls[-2:] == ["publish v1", "save"]
    assert loop.state.checkpoint is not None
    assert loop.state.checkpoint.step == 1


async def test_a_stop_without_a_checkpoint_saves_nothing(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path)
    parts.on_update = lambda: loop.state.request_stop(checkpoint=False, deadline_seconds=30)
    await loop.run()
    assert "save" not in parts.calls


async def test_a_checkpoint_asked_for_is_written_at_the_next_boundary_once(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path, ckpt_interval=-1)
    loop.state.checkpoint_requested.set()
    await loop.run()
    saves = [index for index, call in enumerate(parts.calls) if call == "save"]
    assert len(saves) == 2  # as asked, after step 1; and after the last step
    assert parts.calls[saves[0] - 1] == "publish v1"


async def test_a_resumed_run_does_not_evaluate_the_start_again(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path)
    loop.state.step = 3
    await loop.run()
    assert parts.calls[:2] == ["publish v3", "generate 2x2 at v3"]
    assert loop.state.phase is DriverPhase.CHECKPOINTING


@pytest.mark.proves("trainer.seed")
async def test_the_seed_decides_the_order_of_prompts_and_what_is_sampled(tmp_path: Path) -> None:
    runs = []
    for number, seed in enumerate((1, 1, 2)):
        parts = Scripted()
        await loop_of(parts, tmp_path / str(number), seed=seed).run()
        runs.append((parts.asked, [seed for _, seed in parts.sampling]))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]
    assert set(runs[0][1]).isdisjoint(runs[2][1])
    assert len(set(runs[0][1])) == len(runs[0][1])  # every step draws anew
