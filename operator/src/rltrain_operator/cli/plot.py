"""A chart of two series in plain text: braille dots and discs where the screen can show them, ASCII where it cannot.

Drawn here and not by a plotting library because it must hold for any width and any encoding, and it is little. Pure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

MIN_WIDTH = 30
ROWS = 12  # text rows of the drawing area
GUTTER = 8  # columns for the labels of the vertical axis

# Unicode's braille cell is 2 dots wide and 4 high; the bit of each dot by [row][column].
BRAILLE_BASE = 0x2800
BRAILLE_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A linear map from [low, high] to 0..1; a single value gets room on both sides."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Axis:
        """The axis that just holds the values (at least one)."""
        known = list(values)
        low, high = min(known), max(known)
        room = 0.0 if high > low else max(abs(low) * 0.1, 0.5)
        return cls(low - room, high + room)

    def share(self, value: float) -> float:
        """Where `value` lies, 0 at `low` and 1 at `high`."""
        return (value - self.low) / (self.high - self.low)


@dataclass
class Canvas:
    """Character cells with dots (drawn as braille, or as a character each in ASCII) and marks above them."""

    columns: int
    unicode: bool
    dots: dict[tuple[int, int], int] = field(default_factory=dict)
    marks: dict[tuple[int, int], str] = field(default_factory=dict)

    def dot(self, x: float, y: float) -> None:
        """Set the dot at shares `x` and `y` of the area (0..1, y upwards)."""
        column = round(x * (2 * self.columns - 1))
        row = round((1 - y) * (4 * ROWS - 1))
        cell = (row // 4, column // 2)
        self.dots[cell] = self.dots.get(cell, 0) | BRAILLE_BITS[row % 4][column % 2]

    def mark(self, x: float, y: float, glyph: str) -> None:
        """Put a character at shares `x` and `y` of the area."""
        self.marks[round((1 - y) * (ROWS - 1)), round(x * (self.columns - 1))] = glyph

    def rows(self) -> list[str]:
        """The drawing, top row first."""
        return ["".join(self._cell((row, column)) for column in range(self.columns)) for row in range(ROWS)]

    def _cell(self, cell: tuple[int, int]) -> str:
        if cell in self.marks:
            return self.marks[cell]
        if cell in self.dots:
            return chr(BRAILLE_BASE + self.dots[cell]) if self.unicode else "."
        return " "


def chart(
    title: str,
    line: Sequence[Point],
    marks: Sequence[Point],
    *,
    labels: tuple[str, str, str],
    width: int,
    unicode: bool,
) -> list[str]:
    """A chart with `line` joined up and `marks` as separate discs over one pair of axes.

    Args:
        title: The heading.
        line: (x, y) of the joined series, x ascending; may be empty when `marks` is not.
        marks: (x, y) of the marked series.
        labels: Names of the line, of the marks and of the horizontal axis.
        width: Columns of the longest line, raised to MIN_WIDTH when less.
        unicode: Whether braille and discs may be used; else ASCII alone.
    """
    known = [(x, y) for x, y in [*line, *marks] if math.isfinite(x) and math.isfinite(y)]
    horizontal, vertical = Axis.over(x for x, _ in known), Axis.over(y for _, y in known)
    canvas = Canvas(max(MIN_WIDTH, width) - GUTTER - 2, unicode)
    disc, upright, floor, corner = ("●", "│", "─", "└") if unicode else ("o", "|", "-", "+")
    shares = [(horizontal.share(x), vertical.share(y)) for x, y in line if math.isfinite(y)]
    for x, y in _joined(shares, 2 * canvas.columns):
        canvas.dot(x, y)
    for x, y in marks:
        if math.isfinite(y):
            canvas.mark(horizontal.share(x), vertical.share(y), disc)
    drawn = canvas.rows()
    heights = {
        round(share * (ROWS - 1)): vertical.high - share * (vertical.high - vertical.low) for share in (0, 0.5, 1)
    }
    body = [
        f"{_tick(heights[row]) if row in heights else '':>{GUTTER}} {upright}{text}".rstrip()
        for row, text in enumerate(drawn)
    ]
    first, last = _tick(horizontal.low), _tick(horizontal.high)
    name = labels[2].center(max(0, canvas.columns - len(first) - len(last)))
    line_glyph = "⣀⠤⠒" if unicode else "..."
    legend = "   ".join([f"{line_glyph} {labels[0]}"] * bool(line) + [f"{disc} {labels[1]}"] * bool(marks))
    margin = " " * (GUTTER + 2)
    return [
        margin + title,
        margin + legend,
        *body,
        f"{'':>{GUTTER}} {corner}{floor * canvas.columns}",
        f"{margin}{first}{name}{last}",
    ]


def _joined(points: Sequence[Point], samples: int) -> Iterable[Point]:
    """The points with enough in between that neighbouring dots touch."""
    yield from points[:1]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        count = max(1, math.ceil(max(abs(x1 - x0) * samples, abs(y1 - y0) * 4 * ROWS)))
        for i in range(1, count + 1):
            yield x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count


def _tick(value: float) -> str:
    return f"{value:.3g}"
