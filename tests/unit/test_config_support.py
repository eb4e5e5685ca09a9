"""Every field of SkyRL's tree is refused by name or has a test that proves its effect, and the table says so."""

from __future__ import annotations

from pathlib import Path

import pytest

import config_support
from config_support import document_text, leaves, proofs, still_to_prove

PROVED = proofs()


def test_every_field_is_refused_or_has_a_proof() -> None:
    assert still_to_prove(PROVED) == [], (
        "mark the test of the field's effect with @pytest.mark.proves(<path>), or refuse it in support_table.py"
    )


def test_every_marker_names_a_field() -> None:
    assert sorted(set(PROVED) - set(leaves())) == []


def test_the_committed_table_is_what_the_sources_say() -> None:
    assert config_support.DOCUMENT.read_text(encoding="utf-8") == document_text(PROVED), (
        "stale: run `python tests/support/config_support.py` and commit docs/config-support.md"
    )


def test_markers_are_read_from_functions_classes_and_modules(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(
        "pytestmark = [pytest.mark.cluster, pytest.mark.proves('a.b')]\n"
        "@pytest.mark.proves('c', 'd.e')\n@pytest.mark.cluster\nasync def test_first(): ...\n"
        "@pytest.mark.proves('c')\nclass TestAll: ...\n"
    )
    (tmp_path / "helper.py").write_text("@pytest.mark.proves('never')\ndef test_no(): ...\n")
    assert proofs(tmp_path) == {
        "a.b": ["test_one.py::*"],
        "c": ["test_one.py::TestAll", "test_one.py::test_first"],
        "d.e": ["test_one.py::test_first"],
    }
    (tmp_path / "test_two.py").write_text("@pytest.mark.proves(PATH)\ndef test_no(): ...\n")
    with pytest.raises(ValueError, match=r"test_two.py:1: mark.proves takes plain texts only"):
        proofs(tmp_path)
