"""What goes wrong while fetching, said once for all sources."""

from __future__ import annotations

import errno
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)


class FetchError(Exception):
    """Something could not be fetched; the message says what, where and what to do.

    `final` says that trying again cannot help: somebody has to change something first.
    """

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


def volume_full(directory: Path, detail: str) -> FetchError:
    """No room on the volume that `directory` is on."""
    return FetchError(
        f"VolumeFull: {detail}; the volume of {directory} has no room: enlarge its claim or remove what nobody needs",
        final=True,
    )


def unreachable(host: str, detail: object) -> FetchError:
    """Nothing answers at that host."""
    return FetchError(
        f"cannot reach {host}: {detail}; see whether pods of this namespace may reach it (NetworkPolicy, proxy, DNS), "
        "or put the files onto a volume and use its path",
        final=False,
    )
