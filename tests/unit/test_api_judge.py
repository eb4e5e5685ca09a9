"""Judging: what the rules say is told beside errors of form, unless it may come from them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_api.judge import judge
from rltrain_api.overrides import apply_overrides, parse_override

QUICKSTART = yaml.safe_load((Path(__file__).parents[2] / "examples" / "quickstart.yaml").read_text(encoding="utf-8"))


def quickstart(*overrides: str, **spec: Any) -> dict[str, Any]:
    """The quickstart with overrides written into its configuration, and with other parts of the spec."""
    document = copy.deepcopy(QUICKSTART)
    document["spec"]["config"] = apply_overrides(document["spec"]["config"], map(parse_override, overrides))
    document["spec"].update(spec)
    return document


TRAINER = "spec.config.trainer"
# Case -> (document, paths of all errors, whether everything could be told).
CASES: dict[str, tuple[dict[str, Any], list[str], bool]] = {
    "valid": (quickstart(), [], True),
    "between fields only": (quickstart("trainer.train_batch_size=33"), [f"{TRAINER}.train_batch_size"], True),
    "form, and something else between fields": (
        quickstart("trainer.epochs=two", "trainer.train_batch_size=33"),
        [f"{TRAINER}.epochs", f"{TRAINER}.train_batch_size"],
        True,
    ),
    "form of one side of a rule": (
        quickstart("trainer.policy_mini_batch_size=many", "trainer.train_batch_size=33"),
        [f"{TRAINER}.policy_mini_batch_size"],
        False,
    ),
    "a misspelt side of a rule": (
        quickstart("trainer.train_batchsize=64", "trainer.train_batch_size=null"),
        [f"{TRAINER}.train_batch_size", f"{TRAINER}.train_batchsize"],
        True,
    ),
    "two entries of a list, and something else": (
        quickstart(
            "trainer.train_batch_size=33",
            runtime={**QUICKSTART["spec"]["runtime"], "env": [{"nam": "A"}, {"name": "B"}, {"name": "1"}]},
        ),
        [
            f"{TRAINER}.train_batch_size",
            "spec.runtime.env[0].nam",
            "spec.runtime.env[0].name",
            "spec.runtime.env[2].name",
        ],
        True,
    ),
    "an override that cannot be read": (
        quickstart(overrides=["trainer.train_batch_size=[33", "trainer.epochs=1"]),
        ["spec.overrides[0]"],
        True,
    ),
    "an override of the wrong form, and something else": (
        quickstart("trainer.train_batch_size=33", overrides=["trainer.epochs=two"]),
        [f"{TRAINER}.train_batch_size", "spec.overrides[0]"],
        True,
    ),
    "a misspelt side whose default breaks a rule": (
        quickstart(
            "trainer.policy_mini_batchsize=8", "trainer.policy_mini_batch_size=null", "trainer.train_batch_size=33"
        ),
        [f"{TRAINER}.policy_mini_batch_size", f"{TRAINER}.policy_mini_batchsize"],
        False,
    ),
    "something required is missing": (
        quickstart("trainer.train_batch_size=33", runtime={}),
        ["spec.runtime.image"],
        False,
    ),
    "nothing at all": ({}, ["spec"], False),
}


@pytest.mark.parametrize("case", CASES)
def test_judgement(case: str) -> None:
    document, paths, complete = CASES[case]
    before = copy.deepcopy(document)
    judgement = judge(document)
    found = [error.path for error in judgement.errors]
    assert document == before
    assert (found, judgement.complete) == (paths, complete)
    assert (judgement.job is None) == any(path for path in paths if "train_batch_size" not in path)
