"""FieldError: one thing that is wrong with a job, said so that a person can put it right.

Everything that judges a job answers with these: the reader, the rules, and through them the command line, the
admission webhook and the operator. This module must not know any rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ErrorCode(StrEnum):
    """What kind of error it is, for programs; the message is for people."""

    REQUIRED = "Required"  # must be set and is not
    UNKNOWN_FIELD = "UnknownField"  # no such field
    NOT_YET_SUPPORTED = "NotYetSupported"  # SkyRL has it, this release has not
    WRONG_TYPE = "WrongType"
    OUT_OF_RANGE = "OutOfRange"
    INVALID = "Invalid"  # the right type, but not in the form that is needed
    CONFLICT = "Conflict"  # fine by itself, but not with another field
    DUPLICATE = "Duplicate"
    NOT_DIVISIBLE = "NotDivisible"
    NOT_MOUNTED = "NotMounted"  # a path on no volume of the job


@dataclass(frozen=True, slots=True, order=True)
class FieldError:
    """One error: the dotted path of the field in the document, a code for programs, and words for people.

    The message says what is wrong, with the numbers, and what to do.
    """

    path: str
    code: ErrorCode
    message: str

    def __str__(self) -> str:
        """Path and message on one line, as a person sees them."""
        return f"{self.path}: {self.message}"
