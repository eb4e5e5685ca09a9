"""Composition: layers of variables, low to high, become the environment of a job's pods, and every value keeps its
history.

    defaults   rLLM's, as far as their readers take part in the job
    preset     spec.runtime.envPreset
    derived    what the job's configuration needs
    cluster    values of the chart, for all jobs of a cluster
    forwarded  variables of the shell; the command line only
    job        spec.runtime.env
    submission runtime_env of a `ray job submit`

The highest layer that sets a name decides. A layer can also remove a name, which a higher one may set again.
`spec.runtime.excludeEnv` leaves names out of all layers below `job`: what the job sets itself, it means. What pods must
never have (`refused`) comes from no layer. Keys of `envFrom` are unknown until the pod starts, and Kubernetes takes
one only where no layer sets its name; so they are listed by their Secret or ConfigMap.

Pure: nothing here reads the process's own environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from rltrain_api.env.check import check_variable
from rltrain_api.env.exclusion import exclude
from rltrain_api.env.refused import refused_in_pods
from rltrain_api.env.secrecy import is_secret


class Layer(StrEnum):
    """Where a value comes from, low to high."""

    DEFAULTS = "defaults"
    PRESET = "preset"
    DERIVED = "derived"
    CLUSTER = "cluster"
    FORWARDED = "forwarded"
    JOB = "job"
    SUBMISSION = "submission"


PRECEDENCE = tuple(Layer)
# Of these, `excludeEnv` leaves nothing out.
_NEVER_EXCLUDED = frozenset({Layer.JOB, Layer.SUBMISSION})
# Written by a person for this very job, who should hear what is doubtful about them.
_WRITTEN_BY_HAND = frozenset({Layer.FORWARDED, Layer.JOB, Layer.SUBMISSION})


@dataclass(frozen=True, slots=True)
class LayerValues:
    """What one layer sets and removes.

    Args:
        layer: Which one; it decides the precedence.
        values: Names and values, in the order in which pods get them.
        removed: Names that it takes away from the layers below.
        origin: What people call it, such as "preset debug"; the layer's name if empty.
    """

    layer: Layer
    values: Mapping[str, str]
    removed: frozenset[str] = frozenset()
    origin: str = ""

    @property
    def name(self) -> str:
        """The layer as people call it."""
        return self.origin or self.layer.value


@dataclass(frozen=True, slots=True)
class Earlier:
    """A value that a higher layer has overridden."""

    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable that pods get: its value, where it comes from, and what it overrides, highest first."""

    name: str
    value: str
    layer: Layer
    origin: str
    overrides: tuple[Earlier, ...] = ()


@dataclass(frozen=True, slots=True)
class Absent:
    """One variable that pods do not get, although a layer has it: why, and what it would have been, highest first."""

    name: str
    reason: str
    would_be: tuple[Earlier, ...] = ()


@dataclass(frozen=True, slots=True)
class Environment:
    """The result.

    Args:
        settings: What pods get: lower layers first, and in each layer its own order, because Kubernetes expands $(NAME)
            in a value only for names before it.
        absent: What pods do not get, by name.
        warnings: What is doubtful, a line each.
    """

    settings: tuple[Setting, ...] = ()
    absent: tuple[Absent, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, str]:
        """Names and values, in order."""
        return {setting.name: setting.value for setting in self.settings}


@dataclass(slots=True)
class _History:
    """One name on its way up: the value that counts so far, those below it, and who removed it."""

    current: Setting | None = None
    below: list[Earlier] = field(default_factory=list)
    removed_by: str = ""

    def set(self, setting: Setting) -> None:
        self._bury()
        self.current, self.removed_by = setting, ""

    def remove(self, by: str) -> None:
        self._bury()
        self.current, self.removed_by = None, by

    def _bury(self) -> None:
        if self.current is not None:
            self.below.insert(0, Earlier(self.current.value, self.current.origin))


def compose(layers: Iterable[LayerValues], excluded: Sequence[str] = ()) -> Environment:
    """The environment that these layers make, whatever order they come in.

    Args:
        layers: Any of the layers; of two of the same layer the later one is higher.
        excluded: Entries of `excludeEnv`: names, or prefixes with a star.
    """
    ordered = sorted(layers, key=lambda layer: PRECEDENCE.index(layer.layer))
    excludable = (name for layer in ordered if layer.layer not in _NEVER_EXCLUDED for name in layer.values)
    exclusion = exclude(excluded, excludable, "spec.runtime.excludeEnv")
    histories: dict[str, _History] = {}
    kept_out: list[Absent] = []
    for layer in ordered:
        for name in sorted(layer.removed):
            histories.setdefault(name, _History()).remove(layer.name)
        for name, value in layer.values.items():
            setting = Setting(name, value, layer.layer, layer.name)
            reason = _kept_out(setting, exclusion.entries)
            if reason is not None:
                kept_out.append(Absent(name, reason, (Earlier(value, layer.name),)))
                continue
            # Taken out and put in at the end, the names are in the order in which they were last set.
            histories[name] = histories.pop(name, _History())
            histories[name].set(setting)
    return Environment(_settings(histories), tuple(_absent(kept_out, histories)), exclusion.warnings)


def doubts(environment: Environment) -> list[str]:
    """What is doubtful about the values that a person wrote for this very job, a line each; no secret's value in it."""
    lines = []
    for setting in environment.settings:
        if setting.layer in _WRITTEN_BY_HAND:
            lines += [f"{setting.origin}: {finding}" for finding in check_variable(setting.name, setting.value)]
            if is_secret(setting.name, setting.value):
                reader = "whoever sees Ray's dashboard" if setting.layer is Layer.SUBMISSION else "whoever sees the job"
                lines.append(
                    f"{setting.origin}: {setting.name} looks like a secret, in the open for {reader}; put it into a "
                    "Secret and name that in spec.runtime.envFrom"
                )
    return lines


def _kept_out(setting: Setting, excluded: Mapping[str, str]) -> str | None:
    refusal = refused_in_pods(setting.name)
    if refusal is not None:
        return refusal
    if setting.layer not in _NEVER_EXCLUDED and setting.name in excluded:
        return f"is excluded by {excluded[setting.name]!r}"
    return None


def _settings(histories: Mapping[str, _History]) -> tuple[Setting, ...]:
    return tuple(
        replace(history.current, overrides=tuple(history.below))
        for history in histories.values()
        if history.current is not None
    )


def _absent(kept_out: Iterable[Absent], histories: Mapping[str, _History]) -> Iterator[Absent]:
    """What pods do not get in the end, one entry for each name, by name."""
    entries = {
        name: Absent(name, f"is removed by {history.removed_by}", tuple(history.below))
        for name, history in histories.items()
    }
    for entry in kept_out:
        lower = entries[entry.name].would_be if entry.name in entries else ()
        entries[entry.name] = replace(entry, would_be=(*entry.would_be, *lower))
    for name in sorted(entries):
        if name not in histories or histories[name].current is None:
            yield entries[name]
