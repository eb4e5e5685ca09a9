"""The demonstration's decisions: which job it applies, when it has passed, and what it shows of a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_cluster.demo import QUICKSTART, chart_values, checkpoint_path, judge, main, quickstart
from rltrain_cluster.demo_diagnosis import condition_lines, pod_lines, warning_lines
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.images import ImageArchive

VERDICTS: dict[str, tuple[float | None, bool, str]] = {
    "learned": (34.4, True, "passed: the job is Complete and has learned: its evaluation gained +34.4 points"),
    "just enough": (25.0, True, "passed"),
    "not enough": (24.9, False, "FAILED: the job is Complete, but did not learn enough: its evaluation gained +24.9"),
    "forgot": (-3.0, False, "FAILED: the job is Complete, but did not learn enough: its evaluation gained -3.0 points"),
    "one evaluation": (None, False, "FAILED: the job is Complete, but has fewer than two evaluations"),
}


@pytest.mark.parametrize(("points", "passed", "words"), VERDICTS.values(), ids=VERDICTS.keys())
def test_judge(points: float | None, passed: bool, words: str) -> None:
    verdict = judge(points)
    assert verdict[0] is passed
    assert verdict[1].startswith(words)


def test_quickstart_without_a_seed_is_the_example_itself() -> None:
    document = yaml.safe_load(QUICKSTART.read_text())
    assert quickstart(document, None) == document


def test_quickstart_with_a_seed_is_another_job_of_that_seed() -> None:
    document = yaml.safe_load(QUICKSTART.read_text())
    job = quickstart(document, 7)
    assert job["metadata"]["name"] == "quickstart-seed-7"
    assert job["spec"]["config"]["trainer"]["seed"] == 7
    assert [initializer["args"][-2:] for initializer in job["spec"]["storage"]["initializers"]] == [["--seed", "7"]]
    assert document == yaml.safe_load(QUICKSTART.read_text())


def test_chart_values_split_the_image_and_change_with_its_content() -> None:
    assert chart_values(ImageArchive(Path("a.tar"), "rltrain.local/operator:dev", "abc")) == [
        "--set-string=image.registry=rltrain.local",
        "--set-string=image.repository=operator",
        "--set-string=image.tag=dev",
        r"--set-string=podAnnotations.rltrain\.io/image-content=abc",
    ]


class Volumes:
    """A cluster of which only the volumes are asked for."""

    def __init__(self, answer: Path | ClusterError) -> None:
        self.answer = answer

    def volume_path(self, namespace: str, claim: str) -> Path:
        assert (namespace, claim) == ("default", "quickstart-checkpoints")
        if isinstance(self.answer, ClusterError):
            raise self.answer
        return self.answer


def finished_job(checkpoint: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "metadata": {"name": "quickstart"},
        "spec": {"storage": {"checkpoints": {"mountPath": "/ckpt"}}},
        "status": {"checkpoint": checkpoint} if checkpoint else {},
    }


SAVED = finished_job({"latestStep": 4, "path": "/ckpt/quickstart/global_step_4"})
PATHS: dict[str, tuple[Path | ClusterError, dict[str, Any], str]] = {
    "on this machine": (
        Path("/volumes/pv1"),
        SAVED,
        "/ckpt/quickstart/global_step_4 in the pods, /volumes/pv1/quickstart/global_step_4 on this machine",
    ),
    "elsewhere": (
        ClusterError("no directory of this machine"),
        SAVED,
        "/ckpt/quickstart/global_step_4 in the pods (no directory of this machine)",
    ),
    "none": (Path("/volumes/pv1"), finished_job(None), "none was committed"),
}


@pytest.mark.parametrize(("volume", "job", "expected"), PATHS.values(), ids=PATHS.keys())
def test_checkpoint_path(volume: Path | ClusterError, job: dict[str, Any], expected: str) -> None:
    assert checkpoint_path(Volumes(volume), job) == expected  # type: ignore[arg-type]  # the part that is asked for


def container(name: str, state: dict[str, Any], restarts: int = 0) -> dict[str, Any]:
    return {"name": name, "state": state, "restartCount": restarts}


PODS: dict[str, tuple[dict[str, Any], str]] = {
    "well": ({"phase": "Running", "containerStatuses": [container("ray", {"running": {}})]}, "pod: Running"),
    "no room": (
        {
            "phase": "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no nvidia.com/gpu"}
            ],
        },
        "pod: Pending, PodScheduled: Unschedulable no nvidia.com/gpu",
    ),
    "no image": (
        {
            "phase": "Pending",
            "containerStatuses": [container("ray", {"waiting": {"reason": "ErrImagePull", "message": "no host"}})],
        },
        "pod: Pending, ray waits: ErrImagePull no host",
    ),
    "killed and restarted": (
        {
            "phase": "Running",
            "containerStatuses": [container("ray", {"terminated": {"reason": "OOMKilled", "exitCode": 137}}, 2)],
        },
        "pod: Running, ray ended: OOMKilled, exit code 137, ray restarted 2 times",
    ),
    "initializer done": (
        {"phase": "Succeeded", "containerStatuses": [container("init", {"terminated": {"exitCode": 0}})]},
        "pod: Succeeded",
    ),
    "no status": ({}, "pod: Unknown"),
}


@pytest.mark.parametrize(("status", "expected"), PODS.values(), ids=PODS.keys())
def test_pod_lines(status: dict[str, Any], expected: str) -> None:
    assert pod_lines([{"metadata": {"name": "pod"}, "status": status}]) == [expected]


def event(kind: str, second: int, reason: str) -> dict[str, Any]:
    return {
        "type": kind,
        "reason": reason,
        "message": "why",
        "metadata": {"creationTimestamp": f"2026-05-01T12:00:{second:02d}Z"},
        "involvedObject": {"kind": "Pod", "name": "a"},
    }


def test_warning_lines_are_the_newest_warnings_in_order() -> None:
    events = [event("Warning", 30, "Late"), event("Normal", 20, "Pulled"), event("Warning", 10, "Early")]
    assert warning_lines(events) == ["Pod/a: Early: why", "Pod/a: Late: why"]
    many = [event("Warning", second, f"R{second}") for second in range(40)]
    assert warning_lines(many)[0] == "Pod/a: R25: why"


def test_condition_lines_end_with_the_remedy() -> None:
    status = {
        "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimit", "message": "4 of 4"}],
        "lastFailure": {"reason": "HeadLost", "message": "gone", "remedy": "look at the node"},
    }
    assert condition_lines(status) == [
        "Failed=True  BackoffLimit: 4 of 4",
        "last failure: HeadLost: gone",
        "  what to do: look at the node",
    ]


def test_an_unknown_cluster_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("RLTRAIN_CACHE", str(tmp_path))
    monkeypatch.setenv("CLUSTER", "no-such-back-end")
    assert main([]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(
        "demo: FAILED: CLUSTER=no-such-back-end: the demonstration brings images into nodes, which takes embedded or"
    )
    assert shown.err.count("\n") == 1
