"""What initializers do: one thing each, from a source that can be read, to a directory that outlives their pod."""

from __future__ import annotations

from collections.abc import Iterator

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.fetching import (
    HUB_SCHEME,
    SCHEMES,
    Kind,
    fetch_of,
    fetches,
    interpreter_of,
    parse_hub,
    scheme_of,
)
from rltrain_api.rules.facts import Facts, Rule
from rltrain_api.rules.volumes import is_below, mount_paths
from rltrain_api.spec.storage import Fetch, Initializer

_DEEDS = ("command", "dataset", "model", "script")


def _initializers(facts: Facts) -> Iterator[tuple[str, Initializer]]:
    for index, initializer in enumerate(facts.spec.storage.initializers):
        yield f"spec.storage.initializers[{index}]", initializer


def _fetched(facts: Facts) -> Iterator[tuple[str, Kind, Fetch]]:
    for path, initializer in _initializers(facts):
        if fetches(initializer):
            kind, fetch = fetch_of(initializer)
            yield f"{path}.{kind}", kind, fetch


def initializer_does_one_thing(facts: Facts) -> Iterator[FieldError]:
    """An initializer has exactly one of command, dataset, model and script. Ours."""
    for path, initializer in _initializers(facts):
        deeds = [name for name in _DEEDS if getattr(initializer, name) is not None]
        if len(deeds) != 1:
            problem = f"sets {' and '.join(deeds)}" if deeds else "does nothing"
            yield FieldError(
                path,
                ErrorCode.CONFLICT if deeds else ErrorCode.REQUIRED,
                f"{problem}; set exactly one of command, dataset, model and script",
            )


def arguments_have_a_program(facts: Facts) -> Iterator[FieldError]:
    """args come with command or script. Ours: they would be dropped."""
    for path, initializer in _initializers(facts):
        if initializer.args and fetches(initializer):
            yield FieldError(
                f"{path}.args",
                ErrorCode.CONFLICT,
                "have no program to go to, because the initializer fetches; remove them",
            )


def source_can_be_read(facts: Facts) -> Iterator[FieldError]:
    """A source is a repository of a hub, a URL, an object in a store, or a path on a volume. Ours."""
    mounts = mount_paths(facts.spec.storage)
    for path, kind, fetch in _fetched(facts):
        scheme = scheme_of(fetch.source)
        problem = None
        if scheme == HUB_SCHEME:
            try:
                parse_hub(fetch.source, kind)
            except ValueError as error:
                problem = str(error)
        elif scheme:
            if scheme not in SCHEMES:
                known = ", ".join(f"{name}://" for name in SCHEMES)
                problem = f"{fetch.source!r} has a scheme that nothing here reads; use one of {known} or a path"
        elif not any(is_below(fetch.source, mount) for mount in mounts):
            where = " or ".join(mounts)
            problem = f"{fetch.source!r} is neither a URL nor a path on a volume of the job, below {where}"
        if problem is not None:
            yield FieldError(f"{path}.from", ErrorCode.INVALID, problem)


def open_sources_have_a_digest(facts: Facts) -> Iterator[FieldError]:
    """A source with http:// comes with sha256. Ours: anybody on the way could change the file."""
    for path, _, fetch in _fetched(facts):
        if scheme_of(fetch.source) == "http" and fetch.sha256 is None:
            yield FieldError(
                f"{path}.sha256",
                ErrorCode.REQUIRED,
                "is unset, and over http:// anybody on the way could change the file; use https://, or set it",
            )


def digest_is_of_one_file(facts: Facts) -> Iterator[FieldError]:
    """sha256 comes with a source that is one file. Ours: of a whole repository there is no digest to compare with."""
    for path, kind, fetch in _fetched(facts):
        if fetch.sha256 is None or scheme_of(fetch.source) != HUB_SCHEME:
            continue
        try:
            whole = not parse_hub(fetch.source, kind).path
        except ValueError:
            continue
        if whole:
            yield FieldError(
                f"{path}.sha256",
                ErrorCode.CONFLICT,
                "is of one file, and the source is a whole repository; name the file behind the repository, or pin the "
                "repository with @<commit> and remove sha256",
            )


def patterns_are_for_repositories(facts: Facts) -> Iterator[FieldError]:
    """include comes with a repository of a hub. Ours: other sources have no list of files to choose from."""
    for path, _, fetch in _fetched(facts):
        if fetch.include and scheme_of(fetch.source) != HUB_SCHEME:
            yield FieldError(
                f"{path}.include",
                ErrorCode.CONFLICT,
                "chooses files of a hub's repository, and the source is none; remove it, or name the one file",
            )


def target_is_on_a_volume(facts: Facts) -> Iterator[FieldError]:
    """What is fetched is put on a volume, and not into the directory that it is copied from. Ours."""
    mounts = mount_paths(facts.spec.storage)
    for path, _, fetch in _fetched(facts):
        if not any(is_below(fetch.to, mount) for mount in mounts):
            yield FieldError(
                f"{path}.to",
                ErrorCode.NOT_MOUNTED,
                f"{fetch.to!r} is on no volume, so the files would be lost with the initializer's pod; use a path "
                f"under {' or '.join(mounts)}",
            )
        elif not scheme_of(fetch.source) and is_below(fetch.to, fetch.source):
            yield FieldError(
                f"{path}.to",
                ErrorCode.CONFLICT,
                f"{fetch.to!r} lies in the directory that is copied; choose one outside {fetch.source!r}",
            )


def script_has_an_interpreter(facts: Facts) -> Iterator[FieldError]:
    """A script's key ends in .py or .sh. Ours: what runs it is told by that."""
    for path, initializer in _initializers(facts):
        if initializer.script is not None and interpreter_of(initializer.script.key) is None:
            yield FieldError(
                f"{path}.script.key",
                ErrorCode.INVALID,
                f"{initializer.script.key!r} does not say what runs it; let it end in .py or .sh, or use command",
            )


def fetcher_is_in_the_image(facts: Facts) -> Iterator[FieldError]:
    """With upstream's trainer, an initializer that fetches names an image. Ours: SkyRL's cannot fetch."""
    for path, initializer in _initializers(facts):
        if fetches(initializer) and initializer.image is None:
            yield FieldError(
                f"{path}.image",
                ErrorCode.REQUIRED,
                "is unset, and an image for SkyRL has no program that fetches; set it to RLTrain's trainer image, or "
                "use command",
            )


RULES: tuple[Rule, ...] = (
    initializer_does_one_thing,
    arguments_have_a_program,
    source_can_be_read,
    open_sources_have_a_digest,
    digest_is_of_one_file,
    patterns_are_for_repositories,
    target_is_on_a_volume,
    script_has_an_interpreter,
)
SKYRL_RULES: tuple[Rule, ...] = (fetcher_is_in_the_image,)
