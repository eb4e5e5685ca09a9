"""The reference tables of docs/environment.md, made from the catalogue and the presets.

    python -m rltrain_api.env.document         writes them between the marks in docs/environment.md
    python -m rltrain_api.env.document PATH    writes them there

The text around the marks is written by hand. The file is committed, and a test fails where it differs from what this
module makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rltrain_api.env.catalogue import CATALOGUE, SECTIONS
from rltrain_api.env.derive import RLLM_DEFAULTS
from rltrain_api.env.forward import FORWARD_PREFIXES
from rltrain_api.env.presets import PRESETS, Preset
from rltrain_api.env.refused import GPU_VISIBILITY, OWN_PREFIX, RAY_IDENTITY
from rltrain_api.env.variable import Variable

DOCUMENT = Path(__file__).parents[4] / "docs" / "environment.md"
BEGIN = "<!-- From here on made by `python -m rltrain_api.env.document`. -->"
END = "<!-- To here. -->"

_WITHOUT_VARIABLES = {
    11: "No variables of its own: a job for Slurm uses those of sections 1, 2, 3, 6 and 7.",
    12: "No variables of its own: against timeouts see section 2, Ray's package metadata section 3, running out of "
    "memory section 8, FlashInfer section 4.",
}


def with_reference(document: str) -> str:
    """The document with the tables between its marks made anew.

    Raises:
        ValueError: it does not hold both marks, in order.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document must hold the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def reference() -> str:
    """All tables as Markdown."""
    return "\n".join([*_presets(), *_lists(), *_catalogue()])


def _presets() -> Iterator[str]:
    yield "## The presets\n"
    for preset in PRESETS.values():
        yield f"### {preset.name}\n"
        yield f"{preset.purpose}\n"
        yield from _table(("variable", "value", "read by"), _preset_rows(preset))
        for name, departure in preset.departures.items():
            yield f"- `{name}` {departure}."
        if preset.departures:
            yield ""


def _preset_rows(preset: Preset) -> Iterator[tuple[str, ...]]:
    for name, value in preset.values.items():
        yield f"`{name}`", f"`{value}`", CATALOGUE[name].read_by
    for name in sorted(preset.removed):
        yield f"`{name}`", "removed", CATALOGUE[name].read_by


def _lists() -> Iterator[str]:
    yield "## rLLM's defaults and prefixes\n"
    yield from _table(("default", "value"), ((f"`{name}`", f"`{value}`") for name, value in RLLM_DEFAULTS.items()))
    yield f"Forwarded are variables that begin with {_names(FORWARD_PREFIXES)}.\n"
    yield "## Refused in pods\n"
    yield f"- GPUs, set by the device plugin and Ray: {_names(sorted(GPU_VISIBILITY))}."
    yield f"- Ray's identity, set by KubeRay and Ray: {_names(sorted(RAY_IDENTITY))}."
    yield f"- All that begin with `{OWN_PREFIX}`, set by the operator.\n"


def _catalogue() -> Iterator[str]:
    yield "## The catalogue\n"
    for number, title in SECTIONS.items():
        yield f"### {number}. {title}\n"
        variables = [variable for variable in CATALOGUE.values() if variable.section == number]
        if number in _WITHOUT_VARIABLES:
            yield f"{_WITHOUT_VARIABLES[number]}\n"
        if variables:
            columns = ("variable", "what for", "values", "unset", "read by", "to know")
            yield from _table(columns, (_row(variable) for variable in variables))


def _row(variable: Variable) -> tuple[str, ...]:
    remarks = ["No effect."] if variable.overruled else []
    if variable.truth:
        remarks.append(variable.truth)
    if variable.instead:
        remarks.append(f"Use `{variable.instead}`.")
    if variable.secret:
        remarks.append("Secret.")
    return (
        f"`{variable.name}`",
        variable.meaning,
        variable.values.words,
        variable.default,
        variable.read_by if variable.readers else f"**{variable.read_by}**",
        " ".join(remarks),
    )


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main(arguments: list[str]) -> None:
    """Make the tables anew in the file given, or in docs/environment.md."""
    path = Path(arguments[0]) if arguments else DOCUMENT
    path.write_text(with_reference(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
