"""The initializers as the status shows them. Pure; how their batch Jobs are seen is `observe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rltrain_api.spec.storage import Initializer
from rltrain_api.status import InitializerStatus
from rltrain_operator.reconcile.conditions import cut
from rltrain_operator.reconcile.state import InitializerState, InitializerView

PENDING = "Pending"
_MESSAGE_LENGTH = 500


def mirror_initializers(
    initializers: Sequence[Initializer], views: Mapping[str, InitializerView], known: Sequence[InitializerStatus]
) -> list[InitializerStatus]:
    """One entry for each initializer, in the order of the spec.

    One whose batch Job somebody has removed stays as it was last seen; so does the progress of a pod that still runs
    and of whose log nothing is known at the moment.
    """
    before = {status.name: status for status in known}
    return [
        _status(initializer.name, views.get(initializer.name), before.get(initializer.name))
        for initializer in initializers
    ]


def _status(name: str, view: InitializerView | None, before: InitializerStatus | None) -> InitializerStatus:
    if view is None:
        return before or InitializerStatus(name=name, state=PENDING)
    # The last words of a pod that is gone by now are still those of the initializer.
    said = view.message or (before.message if before is not None and before.state == view.state.value else "")
    arrived, total = (view.progress.bytes, view.progress.total) if view.progress is not None else (None, None)
    if view.progress is None and before is not None and _is_the_same_try(view, before):
        arrived, total = before.bytes, before.total_bytes
    return InitializerStatus(
        name=name,
        state=view.state.value,
        attempts=view.attempts,
        message=cut(said, _MESSAGE_LENGTH),
        bytes=arrived,
        total_bytes=total,
    )


def _is_the_same_try(view: InitializerView, before: InitializerStatus) -> bool:
    running = view.state is InitializerState.RUNNING
    return running and (before.state, before.attempts) == (view.state.value, view.attempts)
