"""A volume without room, told from other failures to write: the libraries that write tensors each say it their own way.

torch.distributed.checkpoint wraps what a rank met into an exception that is none of `Exception`'s, torch's file writer
counts positions that do not fit, safetensors quotes the operating system. All become the OSError that it was.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_QUOTED_BY_SAFETENSORS = tuple(f"os error {number}" for number in FULL)
# Less than this is left behind a writer that met the end of the volume: what it has written is still there.
_NOTHING_LEFT = 16 * 1024 * 1024


@contextmanager
def writing_tensors(directory: Path) -> Iterator[None]:
    """What fails for lack of room while tensors are written below `directory` becomes an OSError."""
    try:
        yield
    except CheckpointException as error:
        if is_full(error, directory):
            raise no_room(directory) from error
        raise RuntimeError(f"a checkpoint could not be written below {directory}: {error}") from error
    except SafetensorError as error:
        if is_full(error, directory):
            raise no_room(directory) from error
        raise


def is_full(error: BaseException, directory: Path) -> bool:
    """Whether a failure to write below `directory` means that its volume, or a quota on it, has no room."""
    if isinstance(error, OSError):
        return error.errno in FULL
    if isinstance(error, SafetensorError):
        return any(quoted in str(error) for quoted in _QUOTED_BY_SAFETENSORS)
    if isinstance(error, CheckpointException):
        met = [failure[0] for failure in error.failures.values()]
        return any(is_full(one, directory) for one in met) or shutil.disk_usage(directory).free < _NOTHING_LEFT
    return False


def no_room(directory: Path) -> OSError:
    """What the operating system says of a full volume."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
