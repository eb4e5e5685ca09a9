"""docs/environment.md holds the tables that the catalogue and the presets make."""

from __future__ import annotations

from pathlib import Path

import pytest

from rltrain_api.env.catalogue import CATALOGUE
from rltrain_api.env.document import BEGIN, DOCUMENT, END, main, reference, with_reference
from rltrain_api.env.presets import PRESETS


def test_the_committed_document_is_up_to_date() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_reference(text) == text, "run `python -m rltrain_api.env.document`"


def test_every_variable_and_preset_is_in_the_tables() -> None:
    tables = reference()
    for name in CATALOGUE:
        assert f"| `{name}` |" in tables
    for preset in PRESETS.values():
        assert f"### {preset.name}\n\n{preset.purpose}" in tables
    assert "| `NCCL_TIMEOUT` | `3600` | nobody |" in tables


def test_tables_have_as_many_cells_in_every_row() -> None:
    width = 0
    for line in reference().splitlines():
        cells = line.replace(r"\|", "").count("|") if line.startswith("|") else 0
        assert width in (0, cells) or cells == 0, line
        width = cells


def test_only_what_is_between_the_marks_changes(tmp_path: Path) -> None:
    path = tmp_path / "environment.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    main([str(path)])
    text = path.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text.splitlines()
    assert with_reference(text) == text


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}\n{BEGIN}"])
def test_a_document_without_its_marks_is_not_touched(text: str) -> None:
    with pytest.raises(ValueError, match="must hold the lines"):
        with_reference(text)
