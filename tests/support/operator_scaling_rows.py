"""The rows of `decide`'s table about the number of engines, as cases, and the jobs whose number is fixed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from operator_moments import (
    BORN,
    FOLLOWED,
    GENERATION_2,
    NOT_READY,
    READY,
    Row,
    T,
    document,
    driver,
    engine_group,
    failed,
    stated,
    status,
)
from rltrain_api.wire import DriverStatus, EngineState, EngineStatus
from rltrain_operator.rayjobs import RayJob, RayJobState
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.state import (
    ClusterView,
    CreateRecords,
    EngineGroup,
    Observed,
    ResizeEngines,
    WantEngines,
)


def engines(count: int, **config: Any) -> dict[str, Any]:
    """A spec that asks for so many engines."""
    spec: dict[str, Any] = document()["spec"]
    spec["config"]["generator"]["inference_engine"]["num_engines"] = count
    return {"config": spec["config"], **config}


def keeping(wanted: int | None, *states: EngineState) -> DriverStatus:
    """A driver that has been told a number, and its engines, each in the pod of its number."""
    its = [EngineStatus(name=f"engine-{n}", state=state, pod=f"e-{n}") for n, state in enumerate(states)]
    return driver(step=5, engines=its, engines_wanted=wanted)


def clustered(group: EngineGroup) -> ClusterView:
    """The cluster with that group; ready when all its pods are."""
    ready = sum(pod.ready for pod in group.pods)
    return replace(READY, ready_workers=1 + ready, wanted_workers=1 + group.replicas, engine_group=group)


def followed(group: EngineGroup, answer: DriverStatus) -> Observed:
    return replace(FOLLOWED, cluster=clustered(group), driver=answer)


SERVING, DRAINING, JOINING = EngineState.SERVING, EngineState.DRAINING, EngineState.JOINING
TWO, THREE, GROWING = engine_group(2, True, True), engine_group(3, True, True, True), engine_group(3, True, True, False)
UNREADY = stated(T.ENGINES_READY, "False", reasons.ENGINES_NOT_READY)
TRAINING = stated(T.TRAINING, "True", reasons.TRAINING)

SCALING_ROWS: dict[str, Row] = {
    "39 more engines are wanted": Row(
        status(1, reasons.TRAINING),
        followed(TWO, keeping(2, SERVING, SERVING)),
        actions=[ResizeEngines("cluster-uid", TWO, 3)],
        phase="Running",
        holds={T.RECONCILING: ("True", "ScalingEngines"), T.ENGINES_READY: ("False", "EnginesNotReady")},
        again=3,
        spec=engines(3),
        metadata=GENERATION_2,
    ),
    "39 more engines are wanted, also where edits are rejected": Row(
        status(1, reasons.TRAINING),
        followed(TWO, keeping(2, SERVING, SERVING)),
        actions=[ResizeEngines("cluster-uid", TWO, 3)],
        phase="Running",
        again=3,
        spec=engines(3, updatePolicy="Reject"),
        metadata=GENERATION_2,
    ),
    "15 the new pods are not ready": Row(
        status(1, reasons.TRAINING),
        followed(GROWING, keeping(2, SERVING, SERVING)),
        phase="Running",
        holds={T.RECONCILING: ("True", "ScalingEngines"), T.READY: ("False", "ClusterNotReady")},
        again=3,
        spec=engines(3),
        metadata=GENERATION_2,
    ),
    "40 a new pod is ready": Row(
        status(1, reasons.TRAINING),
        followed(THREE, keeping(2, SERVING, SERVING)),
        actions=[WantEngines(3)],
        phase="Running",
        again=3,
        spec=engines(3),
        metadata=GENERATION_2,
    ),
    "15 the new engine joins": Row(
        status(1, reasons.TRAINING),
        followed(THREE, keeping(3, SERVING, SERVING, JOINING)),
        phase="Running",
        holds={
            T.RECONCILING: ("False", "Settled"),
            T.ENGINES_READY: ("False", "EnginesNotReady"),
            T.READY: ("True", "Training"),
        },
        again=3,
        spec=engines(3),
        metadata=GENERATION_2,
    ),
    "40 fewer engines are wanted": Row(
        status(1, reasons.TRAINING),
        followed(THREE, keeping(3, SERVING, SERVING, SERVING)),
        actions=[WantEngines(1)],
        phase="Running",
        holds={T.RECONCILING: ("True", "ScalingEngines"), T.ENGINES_READY: ("True", "EnginesReady")},
        again=3,
        spec=engines(1),
        metadata=GENERATION_2,
    ),
    "40 a pod is away": Row(
        status(1, reasons.TRAINING),
        followed(GROWING, keeping(3, SERVING, SERVING, SERVING)),
        phase="Running",
        again=3,
        spec=engines(3),
        metadata=GENERATION_2,
    ),
    "15 the engines drain": Row(
        status(1, reasons.TRAINING),
        followed(THREE, keeping(1, SERVING, DRAINING, DRAINING)),
        phase="Running",
        holds={T.RECONCILING: ("True", "ScalingEngines"), T.ENGINES_READY: ("True", "EnginesReady")},
        again=3,
        spec=engines(1),
        metadata=GENERATION_2,
    ),
    "41 the engines are drained": Row(
        status(1, reasons.TRAINING),
        followed(THREE, keeping(1, SERVING)),
        actions=[ResizeEngines("cluster-uid", THREE, 1, leaving=("e-1", "e-2"))],
        phase="Running",
        again=3,
        spec=engines(1),
        metadata=GENERATION_2,
    ),
    "41 a wish for more that had no room is taken back": Row(
        status(1, reasons.TRAINING),
        followed(replace(GROWING, replicas=8), keeping(2, SERVING, SERVING)),
        actions=[ResizeEngines("cluster-uid", replace(GROWING, replicas=8), 2, leaving=("e-2",))],
        phase="Running",
        again=3,
        spec=engines(2),
        metadata=GENERATION_2,
    ),
    "15 a driver that cannot change their number": Row(
        status(1, reasons.TRAINING),
        followed(TWO, keeping(None, SERVING, SERVING)),
        phase="Running",
        again=3,
        spec=engines(3),
        metadata=GENERATION_2,
    ),
    "42 the new pods did not come in time": Row(
        status(1, conditions=[TRAINING, UNREADY]),
        followed(GROWING, keeping(2, SERVING, SERVING)),
        phase="Running",
        holds={
            T.TRAINING: ("True", "Training"),
            T.ENGINES_READY: ("False", "EnginesNotAvailable"),
            T.RECONCILING: ("True", "EnginesNotAvailable"),
        },
        again=3,
        spec=engines(3, startupDeadlineSeconds=100),
        metadata=GENERATION_2,
    ),
    "43 more engines are wanted before the first attempt": Row(
        status(),
        Observed(cluster=NOT_READY),
        actions=[ResizeEngines("cluster-uid", TWO, 3)],
        phase="Provisioning",
        again=3,
        spec=engines(3),
        metadata=GENERATION_2,
    ),
    "43 fewer engines are wanted after a failure": Row(
        status(1, last_failure=failed(1, 6)),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED)),
        actions=[ResizeEngines("cluster-uid", TWO, 1)],
        phase="Restarting",
        again=3,
        spec=engines(1),
        metadata=GENERATION_2,
    ),
    "44 the cluster has the number that is wanted": Row(
        status(1, last_failure=failed(1, 6)),
        Observed(cluster=clustered(THREE), ray=RayJob(RayJobState.FAILED)),
        actions=[CreateRecords()],
        phase="Starting",
        attempt=2,
        again=0,
        spec=engines(3),
        metadata=GENERATION_2,
    ),
}

assert UNREADY.last_transition_time == BORN, "a hundred seconds before the decision"
