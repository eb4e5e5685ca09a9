from __future__ import annotations

from dataclasses import dataclass

import pytest

from rltrain_api.wire import BestSteps, Retention
from rltrain_trainer.checkpoint.retention import Saved, keeps_newest, superfluous


@dataclass(frozen=True)
class Case:
    retention: Retention | None
    goes: list[int]
    resumed_from: int | None = None


# Of these steps, with these scores.
SCORES = {10: 0.1, 20: 0.9, 30: None, 40: 0.9, 50: 0.2, 60: None}
BEST = BestSteps(metric="eval/all/avg_score", keep=1)

CASES = {
    "nothing is asked": Case(None, []),
    "the newest": Case(Retention(last=1), [50, 40, 30, 20, 10]),
    "the newest three": Case(Retention(last=3), [30, 20, 10]),
    "more than there are": Case(Retention(last=9), []),
    "every 20th": Case(Retention(last=1, every=20), [50, 30, 10]),
    "every one": Case(Retention(last=1, every=1), []),
    "the best, of equal ones the newer": Case(Retention(last=1, best=BEST), [50, 30, 20, 10]),
    "the best two": Case(Retention(last=1, best=BestSteps(metric="m", keep=2)), [50, 30, 10]),
    "more of the best than were measured": Case(Retention(last=1, best=BestSteps(metric="m", keep=9)), [30]),
    "all three": Case(Retention(last=2, every=30, best=BEST), [20, 10]),
    "the one resumed from": Case(Retention(last=1), [50, 40, 30, 20], resumed_from=10),
    "resumed from elsewhere": Case(Retention(last=1), [50, 40, 30, 20, 10], resumed_from=7),
    "SkyRL's -1": Case(keeps_newest(-1), []),
    "SkyRL's 2": Case(keeps_newest(2), [40, 30, 20, 10]),
    "0 is 1": Case(keeps_newest(0), [50, 40, 30, 20, 10]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_goes(name: str) -> None:
    case = CASES[name]
    steps = [Saved(step, score) for step, score in SCORES.items()]
    assert superfluous(steps, case.retention, resumed_from=case.resumed_from) == case.goes


def test_of_no_steps_none_goes() -> None:
    assert superfluous([], Retention(last=1)) == []
