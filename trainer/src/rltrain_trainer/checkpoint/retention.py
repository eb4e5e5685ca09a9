"""Which steps are kept and which may go. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rltrain_api.wire import Retention


@dataclass(frozen=True)
class Saved:
    """A step that is there. `score` is the metric by which steps are compared, None where it was not measured."""

    step: int
    score: float | None = None


def keeps_newest(count: int) -> Retention | None:
    """What SkyRL's max_ckpts_to_keep means: the newest so many steps; None, which is all, where it is negative."""
    return None if count < 0 else Retention(last=max(count, 1))


def superfluous(steps: Sequence[Saved], retention: Retention | None, *, resumed_from: int | None = None) -> list[int]:
    """The steps that nothing asks to keep, newest first.

    Kept are the newest `last` steps, every step whose number `every` divides, the `best.keep` steps with the highest
    score (of equal ones the newer), and always the newest step and the one that the run was resumed from.
    """
    if retention is None:
        return []
    newest_first = sorted(steps, key=lambda saved: saved.step, reverse=True)
    kept = {saved.step for saved in newest_first[: max(retention.last, 1)]}
    if retention.every is not None:
        kept |= {saved.step for saved in steps if saved.step % retention.every == 0}
    if retention.best is not None:
        scored = [(saved.score, saved.step) for saved in steps if saved.score is not None]
        kept |= {step for _, step in sorted(scored, reverse=True)[: retention.best.keep]}
    if resumed_from is not None:
        kept.add(resumed_from)
    return [saved.step for saved in newest_first if saved.step not in kept]
