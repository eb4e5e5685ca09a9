"""Upstream's runs as the operator sees them: what their log says, what Ray says, and what becomes of it in a status.

The lines are those of SkyRL 0.1.0 through Ray 2.60, as `integration/test_upstream_on_ray.py` sees them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rltrain_api import names
from rltrain_api.resolve import document_hash, resolved_document
from rltrain_api.status import (
    Checkpoint,
    Condition,
    ConditionType,
    RayClusterReference,
    ResolvedConfigReference,
    Status,
)
from rltrain_api.wire import CheckpointStatus, DriverPhase, DriverStatus
from rltrain_operator.cache import Cache
from rltrain_operator.kube.resources import PODS, RAY_CLUSTERS
from rltrain_operator.plan import cluster_hash
from rltrain_operator.rayjobs import RayJob, RayJobState, RayUnavailableError
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.decide import decide
from rltrain_operator.reconcile.mirror import mirror_checkpoint, mirror_progress
from rltrain_operator.reconcile.observe import Poller
from rltrain_operator.reconcile.state import ClusterView, Decision, Observed, StopRayJob, Subject, Submit, Unreachable
from rltrain_operator.reconcile.upstream import STEP_TIMES_KEPT, RunLog, as_driver, joined, read_log
from rltrain_operator.reconcile.upstream_watch import FIRST_LINES, LINES, LOG_INTERVAL, Run, UpstreamWatch
from rltrain_operator.tokens import TokenIssuer
from skyrl_jobs import skyrl_job

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ORIGIN = "(skyrl_entrypoint pid=411, ip=10.0.0.7) "


def logged(message: str, *, time: str = "2026-01-01 11:00:00.123") -> str:
    """One record of SkyRL's logger, as Ray hands it to the driver's log; further lines of it follow as they are."""
    first, *rest = message.split("\n")
    record = f"{time} | INFO     | skyrl.train.trainer:train:316 - {first}"
    return "\n".join(ORIGIN + line for line in [record, *rest])


CONSOLE = logged(
    "Step 7: \n"
    "{'eval/all/avg_score': '0.3750',\n"
    " 'generate/avg_num_tokens': '210.5000',\n"
    " 'policy/grad_norm': 'nan',\n"
    " 'reward/avg_raw_reward': '-0.2500',\n"
    " 'timing/step': '31.0210',\n"
    " 'trainer/epoch': 2,\n"
    " 'trainer/global_step': 7}"
)
BAR = "\rTraining Batches Processed:  35%|███▌      | 7/20 [03:37<06:43, 31.02s/it]"
SAVED = "Successfully saved checkpoint for global_step_8 to: /checkpoints/run/global_step_8"
SAVED_AT = datetime(2026, 1, 1, 11, tzinfo=UTC)
CHECKPOINT = CheckpointStatus(step=8, path="/checkpoints/run/global_step_8", time=SAVED_AT, bytes=None)

LOGS: dict[str, tuple[str, RunLog]] = {
    "nothing": ("", RunLog()),
    "words that mean nothing": ("INFO 01-01 vllm is loading\n" + logged("Total steps: 9"), RunLog()),
    "a step's metrics on the console": (
        CONSOLE,
        RunLog(trains=True, step=7, epoch=2, reward=-0.25, eval_score=0.375),
    ),
    "an evaluation before training, on one line": (
        logged("Step 0: \n{'eval/all/avg_score': '0.1000', 'eval/all/pass_at_1': '0.2000'}"),
        RunLog(eval_score=0.1),
    ),
    "a number of numpy's, and one with an exponent": (
        logged("Step 1: \n{'eval/all/avg_score': np.float32(0.5),\n 'reward/avg_raw_reward': 1.5e-05}"),
        RunLog(step=1, eval_score=0.5, reward=1.5e-05),
    ),
    "the progress bar": (ORIGIN + BAR, RunLog(trains=True, step=7, total_steps=20)),
    "the progress bar with a record behind it": (
        ORIGIN + BAR + logged("Resuming from global_step: 9").removeprefix(ORIGIN),
        RunLog(trains=True, step=9, total_steps=20),
    ),
    "colours": (
        "\x1b[36m(skyrl_entrypoint pid=411)\x1b[0m \x1b[32m2026-01-01 11:00:00.123\x1b[0m | \x1b[1mINFO    \x1b[0m | "
        "\x1b[36mskyrl:train:1\x1b[0m - \x1b[1mResuming from global_step: 4\x1b[0m",
        RunLog(step=4),
    ),
    "steps that begin and end": (
        "\n".join([logged("Started: 'step'"), logged("Finished: 'step', time cost: 2.50s")] * 2),
        RunLog(trains=True, step_seconds=(2.5, 2.5), in_step=False),
    ),
    "a step under way": (logged("Started: 'step'"), RunLog(trains=True, in_step=True)),
    "other timers": (logged("Started: 'eval'") + "\n" + logged("Finished: 'eval', time cost: 9.00s"), RunLog()),
    "a checkpoint": (logged(SAVED), RunLog(step=8, checkpoint=CHECKPOINT)),
    "a checkpoint below a path with a space": (
        logged("Successfully saved checkpoint for global_step_8 to: /a b/global_step_8"),
        RunLog(step=8, checkpoint=CHECKPOINT.model_copy(update={"path": "/a b/global_step_8"})),
    ),
    "what a model answers is no record": (
        logged(
            f"Example:\n  Output: Step 99: \n{{'reward/avg_raw_reward': '99.0'}}\n{SAVED}\nResuming from global_step: 5"
        ),
        RunLog(),
    ),
    "metrics end where the next record begins": (
        CONSOLE + "\n" + logged("Example:\n  Output\n 'reward/avg_raw_reward': '99.0'"),
        RunLog(trains=True, step=7, epoch=2, reward=-0.25, eval_score=0.375),
    ),
}


@pytest.mark.parametrize(("text", "expected"), LOGS.values(), ids=LOGS.keys())
def test_what_a_log_says(text: str, expected: RunLog) -> None:
    assert read_log(text.splitlines(), bar_counts_steps=True) == expected


def test_the_bar_counts_no_steps_with_dynamic_sampling() -> None:
    read = read_log([BAR], bar_counts_steps=False)
    assert (read.trains, read.step, read.total_steps) == (True, 0, 20)


def test_only_the_newest_times_of_steps_are_kept() -> None:
    read = read_log((logged(f"Finished: 'step', time cost: {n}.00s") for n in range(40)), bar_counts_steps=True)
    assert read.step_seconds == tuple(float(n) for n in range(40 - STEP_TIMES_KEPT, 40))


def test_nothing_that_was_known_is_forgotten() -> None:
    known = read_log([*CONSOLE.splitlines(), BAR, logged(SAVED), logged("Started: 'step'")], bar_counts_steps=True)
    assert joined(known, RunLog()) == known
    newer = read_log(logged("Step 9: \n{'reward/avg_raw_reward': '0.5'}").splitlines(), bar_counts_steps=True)
    assert joined(known, newer) == replace(known, step=9, reward=0.5)


DRIVERS: dict[str, tuple[RunLog, dict[str, Any]]] = {
    "before training": (RunLog(), {"phase": DriverPhase.STARTING, "step": 0, "total_steps": None, "eta_seconds": None}),
    "training": (
        RunLog(trains=True, step=7, total_steps=20, step_seconds=(30.0, 31.0, 60.0), in_step=True),
        {
            "phase": DriverPhase.TRAINING,
            "step": 7,
            "weight_version": 7,
            "eta_seconds": 403.0,
            "step_seconds": 31.0,
            "step_age_seconds": 40.0,
        },
    ),
    "too few steps for a pace": (
        RunLog(trains=True, step=2, total_steps=20, step_seconds=(30.0, 31.0)),
        {"eta_seconds": None, "step_seconds": None, "step_age_seconds": None},
    ),
    "the last checkpoint bears the number of a step that there is not": (
        RunLog(trains=True, step=21, total_steps=20, checkpoint=CHECKPOINT.model_copy(update={"step": 21})),
        {"step": 20, "weight_version": 20},
    ),
}


@pytest.mark.parametrize(("log", "expected"), DRIVERS.values(), ids=DRIVERS.keys())
def test_a_log_in_the_words_of_a_driver(log: RunLog, expected: dict[str, Any]) -> None:
    driver = as_driver(log, 3, NOW, NOW - timedelta(seconds=40))
    assert driver.attempt == 3
    assert {name: getattr(driver, name) for name in expected} == expected


def test_the_step_that_is_shown_is_never_above_the_last() -> None:
    driver = as_driver(DRIVERS["the last checkpoint bears the number of a step that there is not"][0], 1, NOW, NOW)
    checkpoint = mirror_checkpoint(driver, None)
    assert checkpoint is not None
    assert (checkpoint.latest_step, checkpoint.bytes) == (21, None)
    progress = mirror_progress(driver, checkpoint)
    assert (progress.step, progress.percent) == (20, 100)


@dataclass
class RayLog:
    """A Ray with one log, which can be away; it remembers how many lines it was asked for."""

    text: str = ""
    away: bool = False
    asked: list[int] = field(default_factory=list)

    async def log(self, host: str, token: str, submission_id: str, node: str, lines: int) -> str:
        self.asked.append(lines)
        if self.away:
            raise RayUnavailableError("timeout")
        return self.text


RUN = Run("10.0.0.1", "token", "words-aaaabbbb-1", 1, bar_counts_steps=True)
RUNNING = RayJob(RayJobState.RUNNING, node="n")


def ask(watch: UpstreamWatch, seconds: float, ray: RayJob = RUNNING, run: Run = RUN) -> DriverStatus | None:
    return asyncio.run(watch.ask("uid", run, ray, NOW + timedelta(seconds=seconds)))


def watching(ray: RayLog) -> UpstreamWatch:
    return UpstreamWatch(ray)  # type: ignore[arg-type]  # it reads logs and asks for nothing else


def test_a_log_is_read_whole_at_first_then_its_end_and_not_at_every_pass() -> None:
    ray = RayLog(logged("Resuming from global_step: 4"))
    watch = watching(ray)
    for second in (0, 3, 6, 9, 12):
        ask(watch, second)
    assert ray.asked == [FIRST_LINES, LINES]
    assert timedelta(seconds=10) == LOG_INTERVAL


def test_a_log_that_cannot_be_read_leaves_the_numbers_as_they_were() -> None:
    ray = RayLog(logged("Resuming from global_step: 4"))
    watch = watching(ray)
    ask(watch, 0)
    ray.away = True
    answer = ask(watch, 20)
    assert answer is not None
    assert answer.step == 4


def test_the_last_numbers_are_read_when_the_run_has_ended_and_no_others_are() -> None:
    ray = RayLog(logged("Step 19: \n"))
    watch = watching(ray)
    ask(watch, 0)
    ray.text = logged("Step 20: \n")
    answer = ask(watch, 1, RayJob(RayJobState.SUCCEEDED, node="n"))
    assert answer is not None
    assert answer.step == 20
    for state in (RayJobState.PENDING, RayJobState.FAILED, RayJobState.STOPPED):
        assert ask(watch, 60, RayJob(state)) is None


def test_an_attempt_is_not_taken_for_the_one_before_it() -> None:
    ray = RayLog(logged("Step 19: \n"))
    watch = watching(ray)
    ask(watch, 0)
    ray.text = ""
    answer = ask(watch, 1, run=replace(RUN, submission_id="words-aaaabbbb-2", attempt=2))
    assert answer is not None
    assert (answer.attempt, answer.step) == (2, 0)


def test_the_age_of_a_step_counts_from_when_it_was_first_seen() -> None:
    """The log's own clock may be another's: a step must not look hours old because of it."""
    ray = RayLog(logged("Started: 'step'", time="2020-01-01 00:00:00.000"))
    watch = watching(ray)
    ages = [answer.step_age_seconds if (answer := ask(watch, second)) else None for second in (0, 10, 25)]
    assert ages == [0, 10, 25]
    ray.text += "\n" + logged("Finished: 'step', time cost: 20.00s") + "\n" + logged("Step 1: \n")
    answer = ask(watch, 40)
    assert answer is not None
    assert answer.step_age_seconds is None


T = ConditionType
JOB = skyrl_job()
RECORD = ResolvedConfigReference(config_map="words-config-1", hash=document_hash(resolved_document(JOB)))
ID_1 = names.submission_id("words", "aaaabbbb-cccc", 1)
CLUSTER = ClusterView(
    uid="cluster-uid",
    created=NOW - timedelta(seconds=100),
    trainer="skyrl",
    spec_hash=cluster_hash(JOB),
    head_ready=True,
    ready_workers=2,
    wanted_workers=2,
    head_host="10.0.0.1",
)


def stated(kind: T, truth: str, reason: str) -> Condition:
    since = NOW - timedelta(seconds=50)
    return Condition.model_validate({"type": kind, "status": truth, "reason": reason, "lastTransitionTime": since})


def status(training: str, **fields: Any) -> Status:
    truth = "True" if training == reasons.TRAINING else "False"
    return Status(
        **{
            "attempt": 1,
            "submission_id": ID_1,
            "start_time": NOW - timedelta(seconds=200),
            "attempt_start_time": NOW - timedelta(seconds=60),
            "ray_cluster": RayClusterReference(name="words"),
            "resolved_config": RECORD,
            "conditions": [stated(T.TRAINING, truth, training), stated(T.CLUSTER_READY, "True", "ClusterReady")],
            **fields,
        }
    )


def decided(old: Status, *, suspend: bool = False, **seen: Any) -> Decision:
    job = skyrl_job(suspend=suspend)
    metadata = job.metadata.model_copy(update={"uid": "aaaabbbb-cccc", "generation": 1})
    return decide(Subject(metadata, old, job), Observed(cluster=CLUSTER, **seen), NOW)


def said(decision: Decision, kind: T) -> tuple[str, str]:
    condition = decision.status.condition(kind)
    assert condition is not None
    return condition.status, condition.reason


TRAINS = as_driver(RunLog(trains=True, step=7, total_steps=20, checkpoint=CHECKPOINT), 1, NOW, NOW)

# Name -> (the status before, what is seen, actions, phase, Training afterwards).
ROWS: dict[str, tuple[Status, dict[str, Any], list[Any], str, tuple[str, str]]] = {
    "planned, unknown to Ray": (
        status(reasons.ATTEMPT_PLANNED),
        {"ray": None},
        [Submit(1, ID_1, "words-config-1")],
        "Starting",
        ("False", "DriverStarting"),
    ),
    "pending": (
        status(reasons.DRIVER_STARTING),
        {"ray": RayJob(RayJobState.PENDING)},
        [],
        "Starting",
        ("False", "DriverStarting"),
    ),
    "running, nothing in the log": (
        status(reasons.DRIVER_STARTING),
        {"ray": RUNNING, "driver": as_driver(RunLog(), 1, NOW, NOW)},
        [],
        "Starting",
        ("False", "DriverPreparing"),
    ),
    "running, training": (
        status(reasons.DRIVER_PREPARING),
        {"ray": RUNNING, "driver": TRAINS},
        [],
        "Running",
        ("True", "Training"),
    ),
    "Ray does not answer for a while": (
        status(reasons.TRAINING, phase="Running"),
        {"ray": Unreachable("timeout"), "driver_silent_since": NOW - timedelta(seconds=59)},
        [],
        "Running",
        ("True", "Training"),
    ),
    "Ray does not answer for too long": (
        status(reasons.TRAINING),
        {"ray": Unreachable("timeout"), "driver_silent_since": NOW - timedelta(seconds=60)},
        [StopRayJob(ID_1)],
        "Restarting",
        ("False", "DriverUnresponsive"),
    ),
    "the head was replaced": (status(reasons.TRAINING), {"ray": None}, [], "Restarting", ("False", "DriverLost")),
    "failed": (
        status(reasons.TRAINING),
        {"ray": RayJob(RayJobState.FAILED, exit_code=1, log_tail="CUDA out of memory")},
        [],
        "Restarting",
        ("False", "DriverFailed"),
    ),
    "stopped by somebody": (
        status(reasons.TRAINING),
        {"ray": RayJob(RayJobState.STOPPED)},
        [],
        "Restarting",
        ("False", "DriverStopped"),
    ),
    "succeeded": (
        status(reasons.TRAINING),
        {"ray": RayJob(RayJobState.SUCCEEDED), "driver": TRAINS.model_copy(update={"step": 20})},
        [],
        "Succeeded",
        ("False", "Completed"),
    ),
}


@pytest.mark.parametrize(("old", "seen", "actions", "phase", "training"), ROWS.values(), ids=ROWS.keys())
def test_row(old: Status, seen: dict[str, Any], actions: list[Any], phase: str, training: tuple[str, str]) -> None:
    decision = decided(old, **seen)
    assert (list(decision.actions), decision.status.phase, said(decision, T.TRAINING)) == (actions, phase, training)


def test_what_the_log_says_is_the_job_s_progress() -> None:
    found = decided(status(reasons.TRAINING), ray=RUNNING, driver=TRAINS).status
    assert found.progress is not None
    assert (found.progress.step, found.progress.percent) == (8, 40)
    assert found.checkpoint == Checkpoint(latest_step=8, path=CHECKPOINT.path, time=SAVED_AT)


def test_engines_that_nobody_can_count_are_not_counted() -> None:
    decision = decided(status(reasons.TRAINING), ray=RUNNING, driver=TRAINS)
    assert decision.status.engines is None


def test_the_numbers_of_the_last_step_are_shown_at_the_end() -> None:
    old, seen, *_ = ROWS["succeeded"]
    found = decided(old, **seen).status
    assert found.progress is not None
    assert (found.progress.step, found.progress.percent) == (20, 100)


def test_a_suspended_run_is_stopped_by_ray_because_nobody_can_ask_it_for_a_checkpoint() -> None:
    first = decided(status(reasons.TRAINING), suspend=True, ray=RUNNING, driver=TRAINS)
    second = decided(first.status, suspend=True, ray=RUNNING, driver=TRAINS)
    assert StopRayJob(ID_1) in second.actions
    words = " ".join(condition.message for condition in second.status.conditions)
    assert "cannot be asked for a checkpoint" in words


class Nobody:
    """No driver of ours: whoever asks it anything has mistaken the job."""

    async def status(self, host: str, token: str) -> DriverStatus:
        raise AssertionError("upstream's trainer has no status route")


@dataclass
class RayOfOneRun(RayLog):
    """A Ray that runs the one submission."""

    async def status(self, host: str, token: str, submission_id: str) -> RayJob:
        assert (host, submission_id) == ("10.0.0.1", ID_1)
        return RUNNING


async def test_a_poll_asks_ray_alone_and_tells_what_a_driver_would() -> None:
    metadata = {
        "name": "words",
        "namespace": "research",
        "uid": "cluster-uid",
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T11:00:00Z",
        "labels": {names.JOB_LABEL: "words", names.TRAINER_LABEL: "skyrl"},
        "ownerReferences": [{"kind": names.KIND, "name": "words", "uid": "aaaabbbb-cccc"}],
    }
    labels = {names.JOB_LABEL: "words", names.ROLE_LABEL: names.ROLE_HEAD, "ray.io/cluster": "words"}
    head = {**metadata, "name": "head", "uid": "pod-uid", "labels": labels}
    cache = Cache()
    cache.upsert(RAY_CLUSTERS, {"metadata": metadata, "spec": {}, "status": {}})
    cache.upsert(PODS, {"metadata": head, "status": {"phase": "Running", "podIP": "10.0.0.1"}})
    ray = RayOfOneRun("\n".join([BAR, logged(SAVED)]))
    poller = Poller(ray, Nobody(), TokenIssuer(b"k" * 32))  # type: ignore[arg-type]  # all that it may ask
    own = JOB.metadata.model_copy(update={"uid": "aaaabbbb-cccc"})
    old = status(reasons.TRAINING)
    seen = await poller.observe(cache, ("research", "words"), Subject(own, old, JOB), NOW)
    assert seen.cluster is not None
    assert seen.cluster.trainer == "skyrl"
    assert seen.driver is not None
    assert (seen.driver.attempt, seen.driver.step, seen.driver.checkpoint) == (1, 8, CHECKPOINT)
    assert (seen.history, seen.driver_silent_since) == (None, None)
