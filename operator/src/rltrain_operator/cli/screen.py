"""Where the text goes: permanent lines, and on a terminal one live line below them that is rewritten in place.

Knows the stream's width, whether it is a terminal and whether it can show more than ASCII. Must not know what is said.
"""

from __future__ import annotations

import os
import shutil
from typing import TextIO

FALLBACK_WIDTH = 100  # of a stream that is no terminal
CLEAR_LINE = "\r\x1b[K"
# What our own texts use beyond ASCII, and what stands for it where the stream cannot show it.
ASCII_SUBSTITUTES = str.maketrans({"→": "->", "█": "#", "░": ".", "…": "~", "●": "o", "─": "-", "│": "|", "└": "+"})


class Screen:
    """A text stream with at most one live line.

    Args:
        stream: Where to write. It counts as live when it is a terminal that understands the clear-line sequence.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._has_live_line = False
        self.is_live = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        self.is_unicode = can_show(stream.encoding or "ascii", "█░→●⣿")

    @property
    def width(self) -> int:
        """Columns to use now (a terminal may be resized at any time)."""
        return shutil.get_terminal_size((FALLBACK_WIDTH, 24)).columns if self._stream.isatty() else FALLBACK_WIDTH

    def line(self, text: str = "") -> None:
        """Write a line that stays; the live line, if any, makes room for it until it is drawn again."""
        self.close()
        self._stream.write(self._showable(text) + "\n")
        self._stream.flush()

    def live(self, text: str) -> None:
        """Replace the live line. Nothing happens where there is none (pipes, files)."""
        if not self.is_live:
            return
        self._stream.write(CLEAR_LINE + self._showable(text))
        self._stream.flush()
        self._has_live_line = True

    def close(self) -> None:
        """Take the live line away."""
        if self._has_live_line:
            self._stream.write(CLEAR_LINE)
            self._stream.flush()
            self._has_live_line = False

    def _showable(self, text: str) -> str:
        # Messages come from pods: they must not steer the reader's terminal.
        text = "".join(c if c.isprintable() else " " for c in text)
        if not self.is_unicode:
            text = text.translate(ASCII_SUBSTITUTES)
        encoding = self._stream.encoding or "ascii"
        return text.encode(encoding, errors="replace").decode(encoding)


def can_show(encoding: str, text: str) -> bool:
    """Whether `text` exists in the encoding of that name."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
