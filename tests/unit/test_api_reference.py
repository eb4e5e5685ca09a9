"""docs/api.md: up to date, complete, and saying of a field what the models say."""

from __future__ import annotations

import pytest

from rltrain_api import reference
from rltrain_api.config import SkyRLTrainConfig

TEXT = reference.document_text()


def rows_of(section: str) -> dict[str, list[str]]:
    """Field -> the other cells of its row in the table of one section."""
    _, _, after = TEXT.partition(f"### {section}\n")
    table = after.partition("\n### ")[0]
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {name.strip("`"): rest for name, *rest in cells}


def test_the_committed_document_is_up_to_date() -> None:
    assert reference.DOCUMENT.read_text(encoding="utf-8") == TEXT, (
        "stale: run `python -m rltrain_api.reference` and commit docs/api.md"
    )


# Section -> field -> cells that the row must have.
ROWS: dict[str, tuple[str, str, str, str]] = {
    "bounded integer": ("TrainerConfig", "epochs", "integer ≥ 1", "`1`"),
    "number between bounds": ("SamplingParams", "top_p", "number > 0 and ≤ 1", "`1.0`"),
    "choice": ("AlgorithmConfig", "kl_estimator_type", "`k1` or `k2` or `k3` or `abs`", '`"k3"`'),
    "nullable choice": ("DynamicSamplingConfig", "type", "`filter` or `replace`", "unset"),
    "boolean or count": ("FSDPConfig", "reshard_after_forward", "true or false or integer ≥ 1", "`true`"),
    "section": ("TrainerConfig", "critic", "[CriticConfig](#criticconfig)", ""),
    "list of sections": ("Storage", "data", "list of [DataVolume](#datavolume)", "`[]`"),
    "required quantity": ("ClaimTemplate", "storage", "quantity", "required"),
    "time": ("Condition", "lastTransitionTime", "time", "required"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_says_what_the_model_says(case: str) -> None:
    section, field, kind, default = ROWS[case]
    assert rows_of(section)[field][:2] == [kind, default]


def test_every_section_of_the_tree_is_there_once() -> None:
    for name in ("SkyRLTrainConfig", "MegatronConfig", "ModelConfig", "SearchEnvConfig", "Status"):
        assert TEXT.count(f"### {name}\n") == 1, name
    assert rows_of("SkyRLTrainConfig").keys() == SkyRLTrainConfig.model_fields.keys()


def test_rules_between_fields_are_told() -> None:
    assert "- use_kl_in_reward and use_kl_loss (default true) exclude each other" in TEXT
    assert "- storage.checkpoints cannot be changed" in TEXT
