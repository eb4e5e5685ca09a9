"""What a rank met while it wrote or read tensors, out of what torch.distributed.checkpoint makes of it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed.checkpoint.api import CheckpointException

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def as_met() -> Iterator[None]:
    """Raise what the first rank met, of several the lack of room, and not that library's own exception.

    Its exception is none of `Exception`'s, and so would pass by all who handle errors.
    """
    try:
        yield
    except CheckpointException as error:
        met = [failure[0] for _, failure in sorted(error.failures.items())]
        full = [one for one in met if isinstance(one, OSError) and one.errno in FULL]
        known = [*full, *(one for one in met if isinstance(one, (OSError, ValueError)))]
        if known:
            raise known[0] from error
        raise RuntimeError(f"a checkpoint could not be written or read: {error}") from error
