"""Variables of SkyRL's environment that driver and ranks read, and modules that they import."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from rltrain_trainer.driver.modules import import_modules
from rltrain_trainer.driver.variables import Variables, read_variables

SAID: dict[str, tuple[dict[str, str], Variables]] = {
    "nothing": ({}, Variables()),
    "empty": ({"SKYRL_WEIGHT_SYNC_TIMEOUT": "", "LOG_LEVEL": ""}, Variables()),
    "placement": ({"SKYRL_RAY_PG_TIMEOUT_IN_S": "30"}, Variables(placement_seconds=30)),
    "engines": ({"SKYRL_ENGINE_STARTUP_TIMEOUT": "40"}, Variables(engine_start_seconds=40)),
    "engines, by upstream's name": (
        {"SKYRL_WAIT_UNTIL_INFERENCE_SERVER_HEALTHY_TIMEOUT_S": "50"},
        Variables(engine_start_seconds=50),
    ),
    "engines, by both": (
        {"SKYRL_ENGINE_STARTUP_TIMEOUT": "40", "SKYRL_WAIT_UNTIL_INFERENCE_SERVER_HEALTHY_TIMEOUT_S": "50"},
        Variables(engine_start_seconds=40),
    ),
    "weights": ({"SKYRL_WEIGHT_SYNC_TIMEOUT": "60.5"}, Variables(weight_sync_seconds=60.5)),
    "collectives": ({"SKYRL_WORKER_NCCL_TIMEOUT_IN_S": "3600"}, Variables(collective_seconds=3600)),
    "level": ({"LOG_LEVEL": "WARNING"}, Variables(log_level=logging.WARNING)),
    "level, by SkyRL's name": (
        {"SKYRL_LOG_LEVEL": "debug", "LOG_LEVEL": "ERROR"},
        Variables(log_level=logging.DEBUG),
    ),
}


@pytest.mark.parametrize(("environment", "expected"), SAID.values(), ids=SAID)
def test_what_variables_say(environment: dict[str, str], expected: Variables) -> None:
    assert read_variables(environment) == expected


WRONG = {
    "SKYRL_ENGINE_STARTUP_TIMEOUT": ("10m", "SKYRL_ENGINE_STARTUP_TIMEOUT is '10m', and must be a number of seconds"),
    "SKYRL_RAY_PG_TIMEOUT_IN_S": ("0", "must be a number of seconds above 0, such as 180"),
    "SKYRL_WEIGHT_SYNC_TIMEOUT": ("inf", "must be a number of seconds"),
    "SKYRL_LOG_LEVEL": ("LOUD", "SKYRL_LOG_LEVEL is 'LOUD', and must be DEBUG, INFO, WARNING or ERROR"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_cannot_be_used_is_named(name: str) -> None:
    value, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        read_variables({name: value})


def test_modules_are_imported_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first_of_a_test.py").write_text("loaded = ['first']\n")
    (tmp_path / "second_of_a_test.py").write_text("import first_of_a_test as f\nf.loaded.append('second')\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_modules(["first_of_a_test", "second_of_a_test"])
    assert sys.modules["first_of_a_test"].loaded == ["first", "second"]


BROKEN = {
    "not there": (None, r"spec.runtime.modules: broken_of_a_test cannot be imported \(ModuleNotFoundError"),
    "raises": ("1 / 0\n", r"broken_of_a_test cannot be imported \(ZeroDivisionError: division by zero\)"),
}


@pytest.mark.parametrize(("source", "message"), BROKEN.values(), ids=BROKEN)
def test_a_module_that_cannot_be_imported_is_named(
    source: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source is not None:
        (tmp_path / "broken_of_a_test.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=message):
        import_modules(["broken_of_a_test"])
