"""The initializers as the status shows them. Pure; how their batch Jobs are seen is `observe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rltrain_api.spec.storage import Initializer
from rltrain_api.status import InitializerStatus
from rltrain_operator.reconcile.conditions import cut
from rltrain_operator.reconcile.state import InitializerView

PENDING = "Pending"
_MESSAGE_LENGTH = 500


def mirror_initializers(
    initializers: Sequence[Initializer], views: Mapping[str, InitializerView], known: Sequence[InitializerStatus]
) -> list[InitializerStatus]:
    """One entry for each initializer, in the order of the spec.

    One whose batch Job somebody has removed stays as it was last seen.
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
    return InitializerStatus(
        name=name, state=view.state.value, attempts=view.attempts, message=cut(said, _MESSAGE_LENGTH)
    )
