"""The run state: curve, ETA, durations, and the status that the operator reads."""

from rltrain_api.wire import HISTORY_MAX_POINTS, DriverPhase, History, HistoryPoint
from rltrain_trainer.tracking.run_state import RunState, thinned


def done(state: RunState, step: int, *, reward: float = 0.5, seconds: float = 2.0, tokens: int = 100) -> None:
    state.step_done(step, {"reward/avg_raw_reward": reward}, seconds=seconds, trained_tokens=tokens)


async def test_a_new_state_knows_nothing_but_its_attempt() -> None:
    status = RunState(attempt=2).status()
    assert (status.attempt, status.phase, status.step, status.reward) == (2, DriverPhase.STARTING, 0, None)
    assert status.eta_seconds is None


async def test_status_carries_the_newest_numbers() -> None:
    state = RunState(attempt=1)
    state.total_steps = 10
    done(state, 1, reward=0.25, seconds=2.0, tokens=100)
    state.evaluated(1, {"eval/all/avg_score": 0.4})
    done(state, 2, reward=0.5, seconds=2.0, tokens=300)
    status = state.status()
    assert (status.step, status.reward, status.eval_score, status.tokens_per_second) == (2, 0.5, 0.4, 150.0)
    assert status.eta_seconds == 16.0


async def test_eta_follows_a_change_of_speed() -> None:
    state = RunState(attempt=1)
    state.total_steps = 100
    for step in range(1, 31):
        done(state, step, seconds=1.0 if step <= 10 else 3.0)
    eta = state.status().eta_seconds
    assert eta is not None
    assert 2.9 * 70 < eta <= 3.0 * 70


async def test_durations_add_up_over_steps() -> None:
    clock = iter([0.0, 1.0, 5.0, 7.5])
    state = RunState(attempt=1, monotonic=lambda: next(clock))
    for _ in range(2):
        with state.timed("generate"):
            pass
    assert state.status().durations == {"generate": 3.5}


async def test_restore_drops_what_came_after_the_checkpoint() -> None:
    before = History(points=[HistoryPoint(step=step, reward=0.1) for step in range(1, 6)], durations={"update": 9.0})
    state = RunState(attempt=2)
    state.restore(before, step=3)
    assert [point.step for point in state.history().points] == [1, 2, 3]
    assert (state.step, state.status().durations) == (3, {"update": 9.0})


async def test_a_step_is_judged_by_the_median_of_the_newest() -> None:
    clock = iter([10.0, 10.0 + 7.0])
    state = RunState(attempt=1, monotonic=lambda: next(clock))
    for step, seconds in enumerate((2.0, 90.0), start=1):
        done(state, step, seconds=seconds)
    assert (state.status().step_seconds, state.status().step_age_seconds) == (None, None)
    done(state, 3, seconds=3.0)
    state.begin_step()
    status = state.status()
    assert (status.step_seconds, status.step_age_seconds) == (3.0, 7.0)


async def test_a_checkpoint_is_asked_for_once_however_often_it_is_said() -> None:
    state = RunState(attempt=1)
    state.request_checkpoint("monday")
    state.request_checkpoint("monday")
    state.saved_request = state.take_checkpoint_request()
    assert state.status().saved_request == "monday"
    state.request_checkpoint("monday")
    assert not state.checkpoint_requested.is_set()
    state.request_checkpoint("tuesday")
    assert state.checkpoint_requested.is_set()
    assert state.take_checkpoint_request() == "tuesday"


def curve(steps: int, every: int) -> list[HistoryPoint]:
    points: list[HistoryPoint] = []
    for step in range(1, steps + 1):
        points.append(HistoryPoint(step=step, reward=0.5))
        if step % every == 0:
            points.append(HistoryPoint(step=step, eval_score=0.5))
    return points


CURVES = {"short": (10, 5), "exactly at the limit": (480, 15), "long": (5_000, 50), "mostly evaluations": (600, 1)}


def test_thinning_keeps_evaluations_and_the_newest_step() -> None:
    for name, (steps, every) in CURVES.items():
        points = curve(steps, every)
        evaluations = [point for point in points if point.eval_score is not None]
        kept = thinned(points, HISTORY_MAX_POINTS)
        assert [point for point in kept if point.eval_score is not None] == evaluations, name
        assert max(point.step for point in kept if point.reward is not None) == steps, name
        assert len(kept) <= max(HISTORY_MAX_POINTS, len(evaluations) + 1), name
        assert [point.step for point in kept] == sorted(point.step for point in kept), name


def test_a_short_curve_is_kept_whole() -> None:
    points = curve(100, 10)
    assert thinned(points, HISTORY_MAX_POINTS) == points
