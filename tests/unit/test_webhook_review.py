"""What the webhook answers: every error at once with its path, and never in the way of what cannot make a job worse."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from api_server import DELETED, changed, example
from rltrain_operator.reconcile.observe import view_subject
from rltrain_operator.webhook.review import MAX_WARNING_LENGTH, answer, verdict

Document = dict[str, Any]

VALID: Document = changed(
    example("quickstart.yaml"), {"metadata.uid": "u", "metadata.generation": 1, "metadata.namespace": "team"}
)
WRONG = changed(
    VALID,
    {
        "spec.config.trainer.train_batch_size": 7,
        "spec.config.trainer.no_such_field": 1,
        "spec.config.trainer.epochs": "many",
    },
)
OTHERWISE_WRONG = changed(WRONG, {"spec.config.trainer.eval_batch_size": -1})
# Valid by all rules, and refused by this release's operator.
BEYOND = changed(example("backends/fully-async.yaml"), {"metadata.uid": "u", "metadata.namespace": "team"})
LEAVING = {"metadata.deletionTimestamp": "2026-01-31T12:00:00Z"}


def request(operation: str, wanted: Document | None, old: Document | None = None, **more: Any) -> Document:
    return {"uid": "r", "operation": operation, "object": wanted, "oldObject": old, **more}


ALLOWED = {
    "a valid job": request("CREATE", VALID),
    "a valid job as a dry run": request("CREATE", VALID, dryRun=True),
    "a deletion": request("DELETE", None, WRONG),
    "a status": request("UPDATE", WRONG, VALID, subResource="status"),
    "a finalizer that goes": request("UPDATE", WRONG, changed(WRONG, {"metadata.finalizers": ["x/y"]})),
    "an annotation": request("UPDATE", changed(WRONG, {"metadata.annotations": {"a": "b"}}), WRONG),
    "anything while it is deleted": request("UPDATE", changed(OTHERWISE_WRONG, LEAVING), changed(WRONG, LEAVING)),
    "a wrong job that is put right": request("UPDATE", VALID, WRONG),
    "a wrong job that is suspended": request("UPDATE", changed(WRONG, {"spec.suspend": True}), WRONG),
    "somebody else's job": request("CREATE", changed(WRONG, {"spec.managedBy": "example.com/other"})),
}


@pytest.mark.parametrize("asked", ALLOWED.values(), ids=ALLOWED.keys())
def test_is_allowed(asked: Document) -> None:
    before = copy.deepcopy(asked)
    assert verdict(asked)["allowed"] is True
    assert asked == before, "the request is not written to"


REFUSED = {
    "a wrong job": (request("CREATE", WRONG), {"train_batch_size", "no_such_field", "epochs"}),
    "a wrong job as a dry run": (
        request("CREATE", WRONG, dryRun=True),
        {"train_batch_size", "no_such_field", "epochs"},
    ),
    "an edit that makes it wrong": (request("UPDATE", WRONG, VALID), {"train_batch_size", "no_such_field", "epochs"}),
    "an edit that adds an error": (request("UPDATE", OTHERWISE_WRONG, WRONG), {"eval_batch_size"}),
    "a job without a spec": (request("CREATE", changed(VALID, {"spec": DELETED})), {"spec"}),
    "a spec that is no map": (request("CREATE", changed(VALID, {"spec": ["x"]})), {"spec"}),
}


@pytest.mark.parametrize(("asked", "fields"), REFUSED.values(), ids=REFUSED.keys())
def test_is_refused_with_every_error_at_once(asked: Document, fields: set[str]) -> None:
    response = verdict(asked)
    assert response["allowed"] is False
    status = response["status"]
    assert (status["code"], status["reason"]) == (422, "Invalid")
    assert {cause["field"].rpartition(".")[2] for cause in status["details"]["causes"]} == fields
    for cause in status["details"]["causes"]:
        assert f"- {cause['field']}: {cause['message']}" in status["message"]
    assert (status["details"]["kind"], status["details"]["group"]) == ("RLTrainingJob", "rltrain.io")


def test_the_reasons_are_those_of_the_operator_s_own_pass() -> None:
    for document in (WRONG, OTHERWISE_WRONG, BEYOND):
        causes = verdict(request("CREATE", document))["status"]["details"]["causes"]
        told = [(cause["field"], cause["message"]) for cause in causes]
        assert told, "each of them is refused"
        assert told == sorted((error.path, error.message) for error in view_subject(document).errors)
    causes = verdict(request("CREATE", WRONG))["status"]["details"]["causes"]
    kinds = {cause["field"].rpartition(".")[2]: cause["reason"] for cause in causes}
    assert kinds["no_such_field"] == "FieldValueForbidden"
    assert kinds["epochs"] == "FieldValueTypeInvalid"


def test_what_was_wrong_before_is_a_warning() -> None:
    response = verdict(request("UPDATE", changed(WRONG, {"spec.suspend": True}), WRONG))
    assert any("epochs" in line for line in response["warnings"])


def test_what_is_doubtful_is_a_warning_that_fits() -> None:
    doubtful = changed(
        VALID, {"spec.runtime.env": [{"name": f"NCCL_DEBUGG{n}", "value": "x" * 900} for n in range(30)]}
    )
    doubtful = changed(doubtful, {"spec.runtime.env.0.name": "VLLM_ATTENTION_BACKEND"})
    warnings = verdict(request("CREATE", doubtful))["warnings"]
    assert "VLLM_ATTENTION_BACKEND" in warnings[0]
    assert max(map(len, warnings)) <= MAX_WARNING_LENGTH
    assert sum(map(len, warnings)) < 4096, "the API server passes on no more than that"


def test_a_secret_in_the_open_is_warned_of_without_its_value() -> None:
    job = changed(VALID, {"spec.runtime.env": [{"name": "WANDB_API_KEY", "value": "0123456789abcdef"}]})
    (warning,) = verdict(request("CREATE", job))["warnings"]
    assert "WANDB_API_KEY looks like a secret" in warning
    assert "0123456789abcdef" not in warning


def test_the_answer_bears_the_request_s_uid() -> None:
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request("CREATE", VALID)}
    assert answer(review) == {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {"uid": "r", "allowed": True},
    }


NO_REVIEWS: dict[str, Any] = {
    "a list": [],
    "another version": {"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "r"}},
    "another kind": {"apiVersion": "admission.k8s.io/v1", "kind": "ConversionReview", "request": {"uid": "r"}},
    "no request": {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"},
    "no uid": {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {}},
}


@pytest.mark.parametrize("review", NO_REVIEWS.values(), ids=NO_REVIEWS.keys())
def test_what_is_no_review_is_said_to_be_none(review: Any) -> None:
    with pytest.raises(ValueError, match=r"AdmissionReview|uid"):
        answer(review)
