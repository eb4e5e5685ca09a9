"""Configurations in YAML: of Hydra's days, resolved ones, and what Weights & Biases keeps of a run.

Must not know which fields exist, but for the names of the sections at the top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rltrain_api.convert.fields import Path
from rltrain_api.convert.interpolation import InterpolationError, resolve_value
from rltrain_api.convert.items import Item, within_bounds
from rltrain_api.convert.report import Report
from rltrain_api.convert.translate import spread
from rltrain_api.names import KIND
from rltrain_api.reading import SourceDocument, parse_documents

SECTIONS = ("data", "trainer", "generator", "environment")
# Keys at the top that set up Hydra, or are Weights & Biases' own.
_LEFT_OUT = {
    "hydra": "it sets up Hydra, not the run",
    "_wandb": "it is Weights & Biases' own",
    "wandb_version": "it is Weights & Biases' own",
}


class NotAConfigError(ValueError):
    """The document is no configuration of SkyRL's; the message says what it is and what to do."""


@dataclass(frozen=True, slots=True)
class DocumentReading:
    """The values that a document sets, and whether it is meant to be merged by Hydra."""

    items: list[Item]
    hydra: bool


def read_document(text: str, source: str, given: Mapping[str, str], report: Report) -> DocumentReading:
    """Turn the one document of a text into items; what cannot be known is told to `report`.

    Args:
        text: YAML or JSON.
        source: What to call it in messages.
        given: Variables of the environment, for `${oc.env:NAME}`.
        report: Gets a note for everything that is left out.

    Raises:
        NotAConfigError: it is something else, or more than one.
        rltrain_api.reading.UnusableInput: it cannot be read.
    """
    documents = parse_documents(text, source)
    if len(documents) > 1:
        raise NotAConfigError(f"holds {len(documents)} documents; convert one at a time")
    document = _Configuration(documents[0])
    sections: dict[str, object] = {}
    for key, value in document.data.items():
        line = document.line_of((key,))
        if key == "defaults":
            report.missing(
                line, "defaults: the YAML files that it names are not read; what they set has SkyRL's default here"
            )
        elif key in _LEFT_OUT:
            report.note(line, f"{key} is left out: {_LEFT_OUT[key]}")
        else:
            sections[key] = value
    values = list(spread((), sections))
    within_bounds(values)
    items = [item for path, value in values if (item := _item(document, path, value, given, report)) is not None]
    return DocumentReading(items, "defaults" in document.data)


def _item(document: _Configuration, path: Path, value: object, given: Mapping[str, str], report: Report) -> Item | None:
    line, name = document.line_of(path), ".".join(path)
    try:
        resolved = resolve_value(value, path, document.data, given)
    except InterpolationError as error:
        report.missing(line, f"{name} is left out: {error}")
        return None
    if resolved == "???":
        report.missing(line, f"{name} is left out: '???' marks a value that is still missing; set it")
        return None
    return Item(line, path, resolved)


class _Configuration:
    """A document whose sections are at the top, also where Weights & Biases has put each below `value`.

    Raises:
        NotAConfigError: it is something else.
    """

    def __init__(self, document: SourceDocument) -> None:
        self._document = document
        if document.data.get("kind") == KIND:
            raise NotAConfigError(f"is an {KIND} already; `kubectl rltrain validate` checks it")
        if "apiVersion" in document.data and "kind" in document.data:
            raise NotAConfigError(
                f"is a Kubernetes object of kind {document.data['kind']!r}, no configuration of SkyRL's"
            )
        self.data = {key: value["value"] if _is_wrapped(value) else value for key, value in document.data.items()}
        if not any(section in self.data for section in SECTIONS):
            raise NotAConfigError(
                f"has none of the sections {', '.join(SECTIONS)}, so it is no configuration of SkyRL's; put its keys "
                "below the section that they belong to"
            )

    def line_of(self, path: Path) -> int:
        """The line of a path below the sections."""
        wrapped = _is_wrapped(self._document.data.get(path[0]))
        return self._document.line_of(".".join((path[0], "value", *path[1:]) if wrapped else path))


def _is_wrapped(value: object) -> bool:
    return isinstance(value, dict) and "value" in value and set(value) <= {"value", "desc"}
