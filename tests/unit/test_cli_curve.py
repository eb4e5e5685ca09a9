"""The chart in the terminal and the picture of a run's curve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rltrain_api.wire import History, HistoryPoint
from rltrain_operator.cli.curve import curve_lines, has_curve
from rltrain_operator.cli.picture import figure, write

RISING = History(
    points=[
        HistoryPoint(step=0, eval_score=0.2),
        *(HistoryPoint(step=step, reward=0.2 + 0.01 * step) for step in range(1, 40)),
        HistoryPoint(step=40, reward=0.6, eval_score=0.7),
    ]
)
HISTORIES: dict[str, History] = {
    "both series": RISING,
    "one evaluation": History(points=[HistoryPoint(step=0, eval_score=0.25)]),
    "one step": History(points=[HistoryPoint(step=1, reward=0.0)]),
    "rewards alone, negative": History(points=[HistoryPoint(step=s, reward=-1000.0 * s) for s in range(5)]),
    "flat": History(points=[HistoryPoint(step=s, reward=0.5, eval_score=0.5) for s in range(5)]),
}
WIDTHS = (1, 30, 77, 500)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES.keys())
def test_chart_keeps_its_width(history: History, width: int) -> None:
    lines = curve_lines(history, "quickstart", width=width, unicode=True)
    assert max(len(line) for line in lines) <= max(30, width)
    assert any("●" in line or any(0x2800 <= ord(c) < 0x2900 for c in line) for line in lines[2:-2])


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES.keys())
def test_chart_in_ascii_is_ascii(history: History) -> None:
    assert "\n".join(curve_lines(history, "quickstart", width=60, unicode=False)).isascii()


def test_chart_in_ascii_shows_the_ends_of_both_series() -> None:
    lines = curve_lines(RISING, "quickstart", width=30, unicode=False)
    assert lines[0].strip() == "quickstart"
    assert lines[1].split() == ["...", "reward", "o", "eval"]
    top, bottom = lines[2], lines[13]
    assert top == "     0.7 |" + " " * 19 + "o"
    assert bottom == "     0.2 |o."
    assert lines[-1].split() == ["0", "step", "40"]


def test_line_of_a_rising_series_has_no_gap() -> None:
    lines = curve_lines(HISTORIES["rewards alone, negative"], "q", width=80, unicode=True)[2:14]
    columns = {index for line in lines for index, character in enumerate(line[10:]) if character != " "}
    assert columns == set(range(70))


CURVES: dict[str, tuple[History, bool]] = {
    "no point": (History(), False),
    "points without a score": (History(points=[HistoryPoint(step=1, tokens_per_second=5)]), False),
    "a reward of nought": (History(points=[HistoryPoint(step=1, reward=0)]), True),
}


@pytest.mark.parametrize(("history", "expected"), CURVES.values(), ids=CURVES.keys())
def test_has_curve(history: History, expected: bool) -> None:
    assert has_curve(history) is expected


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES.keys())
def test_picture_has_a_line_per_series_labels_and_title(history: History) -> None:
    (axes,) = figure(history, "quickstart").axes
    expected = [
        [(p.step, p.reward) for p in history.points if p.reward is not None],
        [(p.step, p.eval_score) for p in history.points if p.eval_score is not None],
    ]
    assert [np.asarray(line.get_xydata()).tolist() for line in axes.get_lines()] == [
        [list(point) for point in series] for series in expected if series
    ]
    assert axes.get_title() == "quickstart: reward and evaluation"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training step", "score")


def test_picture_file_is_a_png_of_readable_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    path = tmp_path / "curve.png"
    write(RISING, "quickstart", path)
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG\r\n\x1a\n")
    assert (int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == (1200, 675)
