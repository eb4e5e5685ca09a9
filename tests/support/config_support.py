"""docs/config-support.md: every leaf of SkyRL's tree, what the builtin trainer does with it, and what proves it.

    python tests/support/config_support.py          writes docs/config-support.md, prints what is still to be proved

A test declares what it proves: `@pytest.mark.proves("trainer.algorithm.eps_clip_low", …)` on a function, a class, or
as a module's `pytestmark`. Markers are read from the source, so nothing is imported or run. A leaf that can have two
values has an effect, and needs a proof; every other value of a leaf is refused by name, which
tests/unit/test_rules_support.py proves for all of them. This module must not know a single field by name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.model_tree import section_in
from rltrain_api.rules.support_table import HONOURED, ROWS, SECTIONS, Row
from rltrain_api.rules.wording import choice

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "config-support.md"
MARKER = "proves"

# Several ways to write that nothing is set.
_NOTHING: tuple[object, ...] = (None, {}, [], "")

_HEAD = """# What the builtin trainer does with SkyRL's configuration

Made by `python tests/support/config_support.py`; change `rltrain_api.rules.support_table` and the markers of the tests
instead. Every field of SkyRL's tree has a line. *done*: any valid value has the effect that SkyRL describes. A list of
values: these are done, others are refused by name when the job is validated ([validation.md](validation.md)).
*refused*: only SkyRL's default is accepted, because the feature is not there. The tests in the last column fail when
the field loses its effect; that all else is refused is proved for all fields by `tests/unit/test_rules_support.py`.
"""


def leaves() -> list[str]:
    """Dotted paths of all fields that are no section, in the order of the tree."""
    return [path for path, _ in _leaves(SkyRLTrainConfig, "")]


def _leaves(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    """(dotted path, annotation) of every field that is no section."""
    for name, info in model.model_fields.items():
        section = section_in(info.annotation)
        if section is None:
            yield f"{prefix}{name}", info.annotation
        else:
            yield from _leaves(section, f"{prefix}{name}.")


def _only_one_value() -> set[str]:
    """The fields for which the models allow a single value."""
    found = _leaves(SkyRLTrainConfig, "")
    return {path for path, annotation in found if get_origin(annotation) is Literal and len(get_args(annotation)) == 1}


def proofs(tests: Path = REPOSITORY / "tests") -> dict[str, list[str]]:
    """The tests, as `test_file.py::test_name`, by the leaf that they prove.

    Raises ValueError for a marker whose arguments are not plain texts.
    """
    found: dict[str, list[str]] = {}
    for source in sorted(tests.rglob("test_*.py")):
        text = source.read_text(encoding="utf-8")
        if f"mark.{MARKER}(" not in text:
            continue
        for test, path in _marked(ast.parse(text), source):
            found.setdefault(path, []).append(f"{source.name}::{test}")
    return {path: sorted(set(tests)) for path, tests in found.items()}


def _marked(module: ast.Module, source: Path) -> Iterator[tuple[str, str]]:
    """(test, path) of every marker; a module's own markers count for the module as a whole."""
    for node in module.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "pytestmark" for target in node.targets):
            values = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
            yield from (("*", path) for path in _paths(values, source))
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from ((node.name, path) for path in _paths(node.decorator_list, source))


def _paths(expressions: Sequence[ast.expr], source: Path) -> Iterator[str]:
    for call in expressions:
        if not isinstance(call, ast.Call) or not ast.unparse(call.func).endswith(f"mark.{MARKER}"):
            continue
        for argument in call.args:
            if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                raise ValueError(f"{source}:{argument.lineno}: mark.{MARKER} takes plain texts only")
            yield argument.value


def support(path: str) -> Row | str:
    """What the support table says of a leaf: `done`, its row, or why its section is refused."""
    if path in HONOURED:
        return "done"
    for row in ROWS:
        if _is_within(path, row.path):
            return row
    return next(section.why for section in SECTIONS if _is_within(path, section.path))


def needs_proof(path: str) -> bool:
    """Whether the field can have two values that differ, and so an effect."""
    found = support(path)
    if path in _only_one_value():
        return False
    if isinstance(found, str):
        return found == "done"
    kinds = {"nothing" if value in _NOTHING else repr(value) for value in found.honoured}
    return len(kinds) > 1


def still_to_prove(proved: Mapping[str, Sequence[str]]) -> list[str]:
    """Leaves that need a proof and have none."""
    return [path for path in leaves() if needs_proof(path) and path not in proved]


def document_text(proved: Mapping[str, Sequence[str]]) -> str:
    """The text of docs/config-support.md."""
    parts = [_HEAD]
    for section in SkyRLTrainConfig.model_fields:
        parts.append(f"## {section}\n\n| field | builtin trainer | proved by |\n|---|---|---|")
        parts += [_line(path, proved.get(path, ())) for path in leaves() if _is_within(path, section)]
        parts.append("")
    return "\n".join(parts).rstrip("\n") + "\n"


def _line(path: str, tests: Sequence[str]) -> str:
    found = support(path)
    if isinstance(found, Row):
        what = f"{choice(found.honoured)}; else refused: {found.why}" if found.honoured else f"refused: {found.why}"
    else:
        what = found if found == "done" else f"refused: {found}"
    cells = (f"`{path}`", what, "<br>".join(f"`{test}`" for test in tests))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _is_within(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}.")


def main() -> None:
    """Write the document and say what is left."""
    proved = proofs()
    DOCUMENT.write_text(document_text(proved), encoding="utf-8")
    unproved = still_to_prove(proved)
    print(f"{DOCUMENT.relative_to(REPOSITORY)}: {len(leaves())} fields, {len(unproved)} still to prove")
    print("\n".join(unproved))


if __name__ == "__main__":
    main()
