"""From set values in whatever age of SkyRL's names to a tree of SkyRL 0.1's: the heart of the conversion.

Old names are translated, newer ones mapped or refused, and everything that does not end up in the tree is told. Must
not know about scripts, YAML or Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rltrain_api.convert import legacy
from rltrain_api.convert.entrypoints import example_field
from rltrain_api.convert.fields import Path, Place, fit_value, place_of, similar_to
from rltrain_api.convert.items import Item
from rltrain_api.convert.report import Report
from rltrain_api.convert.versions import (
    NEWER_VALUES,
    Concern,
    Newer,
    Release,
    changed_defaults,
    changed_meanings,
    is_newer_section,
    newer_name,
)
from rltrain_api.env import is_secret
from rltrain_api.overrides import Override, OverrideError, apply_overrides

_SHOWN_LENGTH = 60


@dataclass(slots=True)
class Translation:
    """The tree so far, and where each value came from."""

    tree: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    legacy: bool = False  # a name was seen that only SkyRL before 0.1 has
    release: Release | None = None  # the newest release that a name was seen of


def spread(path: Path, value: object) -> Iterator[tuple[Path, object]]:
    """A map that is a section of the configuration, as its single values; anything else as it is."""
    if isinstance(value, dict) and value and (not path or place_of(path) is Place.SECTION or is_newer_section(path)):
        for name, below in value.items():
            yield from spread((*path, str(name)), below)
    else:
        yield path, value


def translate(items: Iterable[Item], report: Report, hydra: bool = False) -> Translation:
    """The tree that the items set, with SkyRL 0.1's names.

    Args:
        items: In the order in which they apply.
        report: Gets a note for everything that is translated or left out.
        hydra: The input was meant for Hydra: overrides on top of a full YAML file.
    """
    translation = Translation(legacy=hydra)
    translator = _Translator(translation, report)
    for item in items:
        for path, value in spread(item.path, item.value):
            translator.add(Item(item.line, path, value, item.written))
    translator.finish()
    return translation


class _Translator:
    def __init__(self, translation: Translation, report: Report) -> None:
        self._translation = translation
        self._report = report
        self._renamed_values: set[str] = set()  # keys whose value had a newer name for an old meaning
        self._newer: list[tuple[Item, Path, Newer]] = []  # to be judged when everything else is known

    def add(self, item: Item) -> None:
        why = legacy.gone(item.path)
        if why is not None:
            self._translation.legacy = True
            reason, harmless = why
            tell = self._report.note if harmless else self._report.missing
            tell(item.line, f"{item.key} is left out: {reason}")
            return
        path = legacy.renamed(item.path)
        if path != item.path:
            self._translation.legacy = True
            self._report.note(item.line, f"{item.key} is {'.'.join(path)} since SkyRL 0.1")
        if place_of(path) in (Place.FIELD, Place.FREE) or (place_of(path) is Place.SECTION and item.value is None):
            self._set(Item(item.line, path, item.value, item.written))
            return
        newer = newer_name(path)
        if newer is not None:
            self._add_newer(item, *newer)
        else:
            self._refuse(item, path)

    def _add_newer(self, item: Item, path: Path, newer: Newer) -> None:
        self._saw(newer.since)
        if newer.becomes is None:
            self._newer.append((item, path, newer))
            return
        self._report.note(item.line, f"{item.key} ({newer.since}) is {'.'.join(newer.becomes)} here: {newer.why}")
        self._set(Item(item.line, newer.becomes, item.value, item.written))

    def _saw(self, release: Release) -> None:
        self._translation.release = max(release, self._translation.release or release)

    def _refuse(self, item: Item, path: Path) -> None:
        if place_of(path) is Place.SECTION:
            self._report.missing(item.line, f"{item.key} is a section and has no value of its own; set its fields")
            return
        purpose = example_field(path)
        if purpose is not None:
            self._report.missing(item.line, f"{item.key} is left out: {purpose} is code of a SkyRL example")
            return
        near = similar_to(path)
        hint = f"; did you mean {near}?" if near else ""
        self._report.missing(item.line, f"{item.key} is no field of SkyRL's configuration and is left out{hint}")

    def _set(self, item: Item) -> None:
        if isinstance(item.value, str) and is_secret(item.path[-1], item.value):
            self._report.missing(item.line, f"{item.key} is left out: it looks like a secret, and jobs can be read")
            return
        value = self._newer_value(item)
        if value is _REFUSED:
            return
        fitted = fit_value(item.path, value, item.written)
        if fitted.remark:
            self._report.note(item.line, f"{item.key}: {fitted.remark}")
        lines = self._translation.lines
        try:
            self._translation.tree = apply_overrides(self._translation.tree, [Override(item.path, fitted.value)])
        except OverrideError as error:
            self._report.missing(item.line, str(error))
            return
        if item.path in lines and place_of(item.path) is Place.FIELD:
            self._report.note(item.line, f"{item.key} was set in line {lines[item.path]}; the last value counts")
        lines[item.path] = item.line

    def _newer_value(self, item: Item) -> object:
        if not isinstance(item.value, str):
            return item.value
        newer = NEWER_VALUES.get((item.key, item.value))
        if newer is None:
            return item.value
        self._saw(newer.since)
        if newer.becomes == item.value:
            self._report.note(item.line, f"{item.key}: {item.value} came with {newer.since}: {newer.why}")
            return item.value
        if newer.becomes is not None:
            self._renamed_values.add(item.key)
            self._report.note(item.line, f"{item.key}: {item.value} is {newer.becomes} here: {newer.why}")
            return newer.becomes
        self._report.missing(
            item.line, f"{item.key}: {item.value} came with {newer.since} and is left out: {newer.why}"
        )
        return _REFUSED

    def finish(self) -> None:
        translation, report = self._translation, self._report
        for item, path, newer in self._newer:
            self._judge(item, path, newer)
        if translation.legacy:
            legacy.complete(translation.tree, report)
        self._settle_strategy()
        if translation.release is None:
            return
        for path, value, what in changed_defaults(translation.release, translation.tree):
            if path not in translation.lines:
                translation.tree = apply_overrides(translation.tree, [Override(path, value)])
                report.note(
                    None, f"{'.'.join(path)} is written out as {_shown(value)}, the default of newer releases: {what}"
                )
        for key, meaning in changed_meanings(translation.release, translation.tree).items():
            if key not in self._renamed_values:
                report.check(None, f"{key} {meaning}")

    def _judge(self, item: Item, path: Path, newer: Newer) -> None:
        known = f"{item.key} came with {newer.since} and is left out"
        if item.value in newer.neutral:
            self._report.note(item.line, f"{known}: {_shown(item.value)} is what happens here anyway")
        elif self._is_switched_off(path, newer):
            self._report.note(item.line, f"{known}: it has no effect as long as {self._switch(path, newer)} is not set")
        elif "megatron_config" in path and not self._uses_megatron():
            self._report.note(item.line, f"{known}: it has no effect, since trainer.strategy is not megatron")
        elif newer.concern is Concern.LOGGING:
            self._report.note(item.line, f"{known}: it only concerns what is logged ({newer.why})")
        elif newer.concern is Concern.SPEED:
            self._report.check(item.line, f"{known}: it only concerns time and memory ({newer.why})")
        else:
            self._report.missing(item.line, f"{known}: {newer.why}")

    def _switch(self, path: Path, newer: Newer) -> str:
        return ".".join((*path[:-1], newer.switch or ""))

    def _is_switched_off(self, path: Path, newer: Newer) -> bool:
        if newer.switch is None:
            return False
        switch = (*path[:-1], newer.switch)
        return not any(item.value for item, other, _ in self._newer if other == switch)

    def _uses_megatron(self) -> bool:
        return bool(self._translation.tree.get("trainer", {}).get("strategy") == "megatron")

    def _settle_strategy(self) -> None:
        """`fsdp` was PyTorch's first FSDP until 0.3 gave the name to FSDP2."""
        trainer = self._translation.tree.get("trainer", {})
        if trainer.get("strategy") != "fsdp":
            return
        line = self._translation.lines.get(("trainer", "strategy"))
        release = self._translation.release
        if release is not None and release >= Release.V0_3:
            trainer["strategy"] = "fsdp2"
            self._report.note(line, "trainer.strategy: fsdp is fsdp2 here; SkyRL 0.3 renamed it")
        else:
            self._report.check(
                line,
                "trainer.strategy: fsdp is PyTorch's first FSDP; if the input is for SkyRL 0.3 or later, set fsdp2",
            )


class _Refused:
    """Stands for a value that is left out."""


_REFUSED = _Refused()


def _shown(value: object) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"
