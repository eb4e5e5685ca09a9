"""Typed errors of the API server, so that callers decide by class and never by status code or text."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """The API server refused or did not answer. `message` is its own text; `code` is 0 when there was no answer."""

    def __init__(self, code: int, message: str, *, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.retry_after = retry_after


class UnauthorizedError(ApiError):
    """401: the token is not accepted, even after it was read again from its file."""


class ForbiddenError(ApiError):
    """403: RBAC, a quota or a policy forbids it; asking again at once does not help."""


class NotFoundError(ApiError):
    """404: the object, or its kind, does not exist."""


class ConflictError(ApiError):
    """409: the object changed since it was read, or the precondition on its uid does not hold."""


class AlreadyExistsError(ConflictError):
    """409 on creation: an object of that name is there."""


class GoneError(ApiError):
    """410: the continue token or the resource version is too old; list again from the start."""


class InvalidError(ApiError):
    """400 or 422: the body is wrong. Sending it again cannot help."""


class TooManyRequestsError(ApiError):
    """429: the server is busy; `retry_after` says for how many seconds."""


class UnavailableError(ApiError):
    """5xx, a timeout or a broken connection: the request may or may not have been carried out."""


_BY_CODE: dict[int, type[ApiError]] = {
    400: InvalidError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
    429: TooManyRequestsError,
}


def error_from_response(code: int, body: Any, retry_after: float | None) -> ApiError:
    """The error for one answer; `body` is the decoded `Status` object, or text when a proxy answered."""
    status = body if isinstance(body, dict) else {}
    reason = str(status.get("reason") or "")
    message = str(status.get("message") or body or f"HTTP {code}")
    kind = _BY_CODE.get(code, UnavailableError if code >= 500 else ApiError)
    if reason == "AlreadyExists":
        kind = AlreadyExistsError
    return kind(code, message, reason=reason, retry_after=retry_after)
