"""What people ask of a running job by annotations: a checkpoint, a restart.

A value that is not the one in `status.handledRequests` is one request. A checkpoint is handled when the driver says
that it is committed, a restart when the stop that begins it is in the status: so a crash loses no request and repeats
none.
"""

from __future__ import annotations

from rltrain_api import names
from rltrain_api.status import HandledRequests
from rltrain_api.wire import DriverPhase, DriverStatus
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.state import RequestCheckpoint

VALUE_LENGTH = 253

_SAVES = frozenset({DriverPhase.TRAINING, DriverPhase.EVALUATING, DriverPhase.CHECKPOINTING})


def ask_for_checkpoint(draft: Draft, driver: DriverStatus) -> None:
    """Pass an open request on until the driver has committed its checkpoint; before it trains there is none to have."""
    wanted = _annotation(draft, names.CHECKPOINT_REQUEST_ANNOTATION)
    is_open = wanted is not None and wanted != _handled(draft).checkpoint
    if wanted is not None and is_open and draft.driver_listens and driver.phase in _SAVES:
        draft.act(RequestCheckpoint(wanted))


def note_saved(draft: Draft, driver: DriverStatus) -> None:
    """The request whose checkpoint the driver has committed is handled."""
    saved = driver.saved_request
    if saved is not None and saved != _handled(draft).checkpoint:
        draft.set(handled_requests=_handled(draft).model_copy(update={"checkpoint": saved}))


def restart_is_wanted(draft: Draft) -> bool:
    """Whether a restart was asked for that has not been begun."""
    wanted = _annotation(draft, names.RESTART_REQUEST_ANNOTATION)
    return wanted is not None and wanted != _handled(draft).restart


def note_restart(draft: Draft) -> None:
    """The restart that is asked for is under way, or there is nothing to be restarted."""
    wanted = _annotation(draft, names.RESTART_REQUEST_ANNOTATION)
    draft.set(handled_requests=_handled(draft).model_copy(update={"restart": wanted}))


def _handled(draft: Draft) -> HandledRequests:
    handled: HandledRequests = draft.value("handled_requests") or HandledRequests()
    return handled


def _annotation(draft: Draft, name: str) -> str | None:
    """The value as far as the status has room for it; an empty one is no request."""
    return draft.subject.metadata.annotations.get(name, "")[:VALUE_LENGTH] or None
