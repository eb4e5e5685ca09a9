"""The arguments of SkyRL's programs: overrides of today's form, and Hydra's, which are explained.

Must not know which fields exist.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rltrain_api.convert.items import Item
from rltrain_api.convert.launch import Argument
from rltrain_api.convert.report import Report
from rltrain_api.env import is_secret
from rltrain_api.overrides import OverrideError, parse_override

# Hydra's own options: those that name YAML files, and whether a value follows as an argument of its own.
_CONFIG_FILE_OPTIONS = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
_OTHER_HYDRA_OPTIONS = (
    "--multirun",
    "-m",
    "--cfg",
    "-c",
    "--run",
    "-r",
    "--info",
    "-i",
    "--resolve",
    "--package",
    "-p",
)
_ROOTS = ("data", "trainer", "generator", "environment")


@dataclass(frozen=True, slots=True)
class ArgumentsReading:
    """The values that arguments set, and whether any of them was in Hydra's form."""

    items: list[Item]
    hydra: bool


def read_arguments(arguments: Sequence[Argument], report: Report) -> ArgumentsReading:
    """Turn arguments into items; what is no override, or cannot be known, is told to `report`."""
    reader = _Reader(report)
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.text in _CONFIG_FILE_OPTIONS and rest and not rest[0].text.startswith("-"):
            value = rest.pop(0)
            argument = Argument(argument.line, f"{argument.text}={value.text}", argument.problem)
        reader.read(argument)
    return ArgumentsReading(reader.items, reader.hydra)


class _Reader:
    def __init__(self, report: Report) -> None:
        self.items: list[Item] = []
        self.hydra = False
        self._report = report

    def read(self, argument: Argument) -> None:
        line, text = argument.line, argument.text
        key = text.partition("=")[0]
        if text.startswith("-"):
            self._option(line, text)
        elif not text.strip():
            self._report.missing(line, "an empty argument is left out; SkyRL would not have started with it")
        elif key.startswith("hydra."):
            self.hydra = True
            self._report.note(line, f"{key} is left out: it sets up Hydra, not the run")
        elif key.startswith("~"):
            self.hydra = True
            self._report.check(line, f"{text}: '~' removes a key from Hydra's files; the field has its default here")
        elif self._is_group(key):
            self._group(line, text, key)
        elif not argument.known:
            self._report.missing(line, f"{key or text} is left out: {argument.problem}")
        else:
            self._override(line, text)

    def _option(self, line: int, text: str) -> None:
        name, _, value = text.partition("=")
        if name in _CONFIG_FILE_OPTIONS:
            self.hydra = True
            self._report.missing(
                line,
                f"{name} names a YAML file ({value or 'without a value'}) whose values are not in this input: convert "
                "that file, and put the overrides from here into its spec.overrides",
            )
        elif name in _OTHER_HYDRA_OPTIONS:
            self.hydra = True
            self._report.missing(line, f"{name} is an option of Hydra's and is left out; a job is one run")
        else:
            self._report.missing(line, f"{name} is an option of the program's and is not carried over")

    def _is_group(self, key: str) -> bool:
        """Whether the key chooses one of Hydra's files (`+experiment`, `megatron_config@…`), not a value."""
        bare = key.lstrip("+")
        if "/" in bare or "@" in bare:
            return True
        return "." not in bare and bare not in _ROOTS and re.fullmatch(r"[A-Za-z_][\w\-]*", bare) is not None

    def _group(self, line: int, text: str, key: str) -> None:
        self.hydra = True
        _, equals, value = text.partition("=")
        bare = key.lstrip("+")
        if not equals:
            self._report.missing(line, f"{text}: has no '='; write key.path=value")
            return
        self._report.missing(
            line,
            f"{text}: lets Hydra add a file of your checkout, config/{bare}/{value}.yaml, whose values are not in this "
            "input: convert that file, and put the overrides from here into its spec.overrides",
        )

    def _override(self, line: int, text: str) -> None:
        bare = text.lstrip("+")
        if bare != text:
            self.hydra = True
            prefix = text[: len(text) - len(bare)]
            self._report.note(
                line, f"{text.partition('=')[0]}: '{prefix}' is Hydra's prefix for a new key; not needed here"
            )
        try:
            override = parse_override(bare)
        except OverrideError as error:
            key, _, value = bare.partition("=")
            hidden = is_secret(key.rpartition(".")[2], value)
            self._report.missing(line, f"{key} cannot be read, and looks like a secret" if hidden else str(error))
            return
        self.items.append(Item(line, override.path, override.value, bare.partition("=")[2]))
