"""References of container images, in the grammar of the distribution project (reference.go).

    [host[:port]/]path[/path…][:tag][@algorithm:digest]

Written by hand because the usual slips each deserve their own words; whether an image exists is the node's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule
from rltrain_api.rules.wording import written

_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"({_LABEL}(\.{_LABEL})*|\[[0-9a-fA-F:]+\])(:[0-9]+)?")
_PATH_COMPONENT = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_LONGEST_NAME = 255
_EXAMPLE = "registry.example.com/team/trainer:1.2"


def _images(facts: Facts) -> list[tuple[str, str]]:
    runtime = facts.spec.runtime
    own = (("head", runtime.images.head), ("trainer", runtime.images.trainer), ("inference", runtime.images.inference))
    return [
        ("spec.runtime.image", runtime.image),
        *((f"spec.runtime.images.{role}", image) for role, image in own if image is not None),
    ]


def image_is_a_reference(facts: Facts) -> Iterator[FieldError]:
    """Every image is a well-formed reference. Ours: pods would stay in InvalidImageName."""
    for path, image in _images(facts):
        problem = _problem(image)
        if problem is not None:
            yield FieldError(path, ErrorCode.INVALID, f"{written(image)} {problem}")


def _problem(image: str) -> str | None:
    """What is wrong with a reference, and what to do; None where it is well formed."""
    if any(character.isspace() for character in image):
        return f"has a space in it; write one reference without any, such as {_EXAMPLE}"
    if "://" in image:
        return f"begins with a protocol; leave it out and write {image.partition('://')[2] or _EXAMPLE}"
    named, at, digest = image.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        return (
            f"has the digest {written(digest)}, and a digest is sha256: and 64 digits from 0-9a-f; copy it whole, or "
            "remove it with its @"
        )
    slash = named.rfind("/")
    colon = named.find(":", slash + 1)
    name, tag = (named[:colon], named[colon + 1 :]) if colon >= 0 else (named, None)
    if tag is not None and not _TAG.fullmatch(tag):
        return (
            f"has the tag {written(tag)}, and a tag has up to 128 letters, digits, '_', '.' and '-', and begins with "
            "none of the last two; correct it"
        )
    first, slash_after, rest = name.partition("/")
    # As docker tells them apart: a first part with a dot, a port or a capital letter is a host.
    has_host = bool(slash_after) and (
        any(mark in first for mark in ".:[") or first == "localhost" or not first.islower()
    )
    if has_host and not _HOST.fullmatch(first):
        return f"has the host {written(first)}, which is none; write it as in {_EXAMPLE}"
    for component in (rest if has_host else name).split("/"):
        if not _PATH_COMPONENT.fullmatch(component):
            if component and component.lower() != component and _PATH_COMPONENT.fullmatch(component.lower()):
                right = image.replace(name, name.lower(), 1)
                return f"has capital letters in its name, which none may have; write {written(right)}"
            return (
                f"has {written(component)} in its name, where only a-z and 0-9 may be, with '.', '_' or '-' between "
                "them; correct it"
            )
    if len(name) > _LONGEST_NAME:
        return f"has a name of {len(name)} characters of at most {_LONGEST_NAME}; choose a shorter one"
    return None


RULES: tuple[Rule, ...] = (image_is_a_reference,)
SKYRL_RULES: tuple[Rule, ...] = ()
