"""How far a fetch is, as its log says it and as it is read from there."""

from __future__ import annotations

import pytest

from rltrain_api.fetching import FetchProgress, format_progress, parse_progress

LINES: dict[str, tuple[FetchProgress, str]] = {
    "of a known size": (FetchProgress(1200, 3000), "progress 1200 of 3000 bytes"),
    "of an unknown size": (FetchProgress(0), "progress 0 bytes"),
    "nothing of nothing": (FetchProgress(0, 0), "progress 0 of 0 bytes"),
    "the most there is": (FetchProgress(10**18 - 1, 10**18 - 1), f"progress {10**18 - 1} of {10**18 - 1} bytes"),
}


@pytest.mark.parametrize(("progress", "line"), LINES.values(), ids=LINES.keys())
def test_what_is_written_is_read(progress: FetchProgress, line: str) -> None:
    assert format_progress(progress) == line
    assert parse_progress(f"2026-01-01 00:00:00,000 {line}\n") == progress


LOGS: dict[str, tuple[str, FetchProgress | None]] = {
    "empty": ("", None),
    "other words": ("file 1 of 10: model.safetensors\nin progress 5 of 6\n", None),
    "the last of many": (
        "progress 1 of 9 bytes\nfile 2 of 3: a\nprogress 5 of 9 bytes\nfile 3 of 3: b",
        FetchProgress(5, 9),
    ),
    "a line that was cut": ("progress 1 of 9 bytes\nprogress 12 of", FetchProgress(1, 9)),
    "more than an integer holds": (f"progress {10**18} bytes\n", None),
    "not a number": ("progress -1 of 2 bytes\nprogress ٣ bytes\n", None),
    "words behind it": ("progress 5 bytes, and more\n", None),
}


@pytest.mark.parametrize(("log", "progress"), LOGS.values(), ids=LOGS.keys())
def test_what_a_log_says(log: str, progress: FetchProgress | None) -> None:
    assert parse_progress(log) == progress
