"""What the API server asks of the webhook, and the answer: AdmissionReview, admission.k8s.io/v1.

Pure and without side effects, so a dry run gets the same answer. Only creations and changes of a spec are judged:
deletions, status, finalizers, labels and annotations are never in the way, nor is a job that is being deleted. What
was wrong before a change does not forbid it: a job from before an upgrade of the rules can still be suspended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rltrain_api import names
from rltrain_api.env import job_environment
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_api.judge import judge
from rltrain_operator.plan import beyond_this_release

Document = dict[str, Any]

REVIEW_VERSION = "admission.k8s.io/v1"
REVIEW_KIND = "AdmissionReview"
UNPROCESSABLE = 422

# What the API server takes: longer warnings are cut there, without a mark.
MAX_WARNING_LENGTH = 250
MAX_WARNINGS = 12
MAX_CAUSES = 100

# Our codes as the causes that Kubernetes' own validation knows; clients tell them apart by these.
_CAUSES = {
    ErrorCode.REQUIRED: "FieldValueRequired",
    ErrorCode.UNKNOWN_FIELD: "FieldValueForbidden",
    ErrorCode.NOT_YET_SUPPORTED: "FieldValueNotSupported",
    ErrorCode.WRONG_TYPE: "FieldValueTypeInvalid",
    ErrorCode.DUPLICATE: "FieldValueDuplicate",
}


def answer(review: Any) -> Document:
    """The AdmissionReview with the response in it.

    Raises:
        ValueError: what came is no AdmissionReview of this version; nobody but the API server is to call.
    """
    if not isinstance(review, dict) or review.get("apiVersion") != REVIEW_VERSION or review.get("kind") != REVIEW_KIND:
        raise ValueError(f"must be an {REVIEW_KIND} of {REVIEW_VERSION}")
    request = review.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str):
        raise ValueError("request.uid is required and missing")
    response = {"uid": request["uid"], **verdict(request)}
    return {"apiVersion": REVIEW_VERSION, "kind": REVIEW_KIND, "response": response}


def verdict(request: Document) -> Document:
    """The response to one request, without its uid."""
    wanted = request.get("object")
    if not isinstance(wanted, dict) or not _is_judged(request, wanted):
        return {"allowed": True}
    job, errors = _judged(wanted)
    known = _judged(request["oldObject"])[1] if isinstance(request.get("oldObject"), dict) else frozenset()
    refused = sorted(errors - known)
    if refused:
        return {"allowed": False, "status": _refusal(str(wanted.get("metadata", {}).get("name") or ""), refused)}
    warnings = [f"was wrong before and still is: {error}" for error in sorted(errors)]
    warnings += job_environment(job).warnings if job is not None else ()
    return {"allowed": True, **({"warnings": _cut(warnings)} if warnings else {})}


def _is_judged(request: Document, wanted: Document) -> bool:
    """Whether this is a new spec that the operator would carry out."""
    metadata, spec, old = wanted.get("metadata"), wanted.get("spec"), request.get("oldObject")
    if request.get("operation") not in ("CREATE", "UPDATE") or request.get("subResource"):
        return False
    if isinstance(metadata, dict) and metadata.get("deletionTimestamp"):
        return False
    if isinstance(old, dict) and old.get("spec") == spec:
        return False
    return not isinstance(spec, dict) or spec.get("managedBy", names.MANAGER) == names.MANAGER


def _judged(document: Document) -> tuple[RLTrainingJob | None, frozenset[FieldError]]:
    """What the operator's pass says of the job (`view_subject`)."""
    judgement = judge({key: value for key, value in document.items() if key != "status"})
    beyond = beyond_this_release(judgement.job) if judgement.job is not None else ()
    return judgement.job, frozenset((*judgement.errors, *beyond))


def _refusal(name: str, errors: list[FieldError]) -> Document:
    """A Status as of Kubernetes' own validation: all in words, and each error as a cause."""
    counted = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    return {
        "status": "Failure",
        "code": UNPROCESSABLE,
        "reason": "Invalid",
        "message": f"{names.KIND} {name!r} cannot run: {counted}\n" + "\n".join(f"- {error}" for error in errors),
        "details": {
            "name": name,
            "group": names.GROUP,
            "kind": names.KIND,
            "causes": [
                {
                    "reason": _CAUSES.get(error.code, "FieldValueInvalid"),
                    "field": error.path,
                    "message": error.message,
                }
                for error in errors[:MAX_CAUSES]
            ],
        },
    }


def _cut(warnings: Iterable[str]) -> list[str]:
    """As many warnings, and as much of each, as reach a person."""
    lines = [line if len(line) <= MAX_WARNING_LENGTH else f"{line[: MAX_WARNING_LENGTH - 1]}…" for line in warnings]
    return lines[:MAX_WARNINGS]
