"""What a person on call reads when the driver fails."""

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from rltrain_trainer.driver.failures import DriverFailureError, describe
from rltrain_trainer.engines.fleet import NoEngineServesError
from rltrain_trainer.engines.sync import WeightSyncError


def in_rank(cause: Exception) -> Exception:
    """The error as Ray raises it on the driver when a rank's method raised `cause`."""
    raised: Exception = RayTaskError("update", "a traceback", cause).as_instanceof_cause()
    return raised


CASES = {
    "a known failure": (DriverFailureError("NotEnoughGPUs", "2 < 4", remedy="wait", role="trainer"), "NotEnoughGPUs"),
    "bad data": (ValueError("data.train_data: train.parquet row 3 has no prompt"), "BadInput"),
    "a missing file": (FileNotFoundError("/data/train.parquet"), "IOError"),
    "a full disk": (OSError(28, "No space left on device"), "VolumeFull"),
    "a quota that is used up": (OSError(122, "Disk quota exceeded"), "VolumeFull"),
    "a wait that ended": (TimeoutError("no GPU within 180 s"), "Timeout"),
    "a rank that died": (ActorDiedError(), "RankCrashed"),
    "no engine took the weights": (WeightSyncError("lost: engine-0, engine-1"), "EnginesLost"),
    "no engine answers": (NoEngineServesError("no engine within 60 s"), "EnginesLost"),
    "a defect": (KeyError("nowhere"), "DriverError"),
}


@pytest.mark.parametrize("case", CASES)
def test_reason(case: str) -> None:
    error, reason = CASES[case]
    described = describe(error)
    assert described.reason == reason
    assert described.remedy
    assert described.message


RAISED_IN_A_RANK = {
    "bad input": (ValueError("trainer.policy.model.path: /models/x: no such directory"), "BadInput"),
    "a full disk": (OSError(28, "No space left on device"), "VolumeFull"),
    "a defect": (IndexError("7"), "TrainerError"),
}


@pytest.mark.parametrize("case", RAISED_IN_A_RANK)
def test_what_a_rank_raised_is_judged_by_what_it_was_there(case: str) -> None:
    cause, reason = RAISED_IN_A_RANK[case]
    described = describe(in_rank(cause))
    assert (described.reason, described.role) == (reason, "trainer")
    assert str(cause) in described.message
    assert "traceback" not in described.message


def test_a_long_message_keeps_its_end() -> None:
    described = describe(ValueError("x" * 5000 + " the point"))
    assert len(described.message) <= 1000
    assert described.message.endswith("the point")
