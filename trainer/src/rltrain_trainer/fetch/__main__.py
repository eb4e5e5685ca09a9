"""`python -m rltrain_trainer.fetch dataset|model --from SOURCE --to DIRECTORY`: what an initializer's pod runs.

Exit codes: 0 when the files are there, 64 when trying again cannot help, 1 when it may. The last message goes to the
file from which Kubernetes takes a pod's last words, and so into the job's status.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rltrain_api.fetching import EXIT_FINAL, format_progress
from rltrain_trainer.fetch.arrivals import Arrivals
from rltrain_trainer.fetch.errors import FetchError
from rltrain_trainer.fetch.records import Request
from rltrain_trainer.fetch.run import fetch
from rltrain_trainer.fetch.sizes import shown

log = logging.getLogger("rltrain.fetch")

TERMINATION_LOG = Path("/dev/termination-log")
PROGRESS_SECONDS = 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    # The first process of a container ignores signals that it does not ask for.
    signal.signal(signal.SIGTERM, _stop)
    chosen = _parse(arguments)
    request = Request(chosen.kind, chosen.source, chosen.to, chosen.sha256, tuple(chosen.include))
    began = time.monotonic()
    log.info("fetching the %s %s into %s", request.kind, request.source, request.target)
    done = threading.Event()
    arrivals = Arrivals(request.target)
    threading.Thread(target=_watch, args=(arrivals, chosen, done), daemon=True, name="watch").start()
    try:
        outcome = fetch(request, arrivals=arrivals)
    except FetchError as error:
        _say(str(error), chosen.message_file)
        return EXIT_FINAL if error.final else 1
    finally:
        done.set()
    _say(f"{outcome} in {time.monotonic() - began:.0f} s", chosen.message_file)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rltrain_trainer.fetch", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("kind", choices=["dataset", "model"])
    parser.add_argument("--from", dest="source", required=True, metavar="SOURCE")
    parser.add_argument("--to", type=Path, required=True, metavar="DIRECTORY")
    parser.add_argument("--sha256", help="what the one file must have")
    parser.add_argument("--include", action="append", default=[], help="of a repository, only files that match")
    parser.add_argument("--deadline", type=float, default=1800.0, metavar="SECONDS", help="end after so long (1800)")
    parser.add_argument("--message-file", type=Path, default=TERMINATION_LOG, metavar="FILE")
    return parser.parse_args(arguments)


def _watch(arrivals: Arrivals, chosen: argparse.Namespace, done: threading.Event) -> None:
    """Say how far the fetch is, as the operator reads it; end the process at the deadline, whatever is waited for."""
    deadline = time.monotonic() + chosen.deadline
    while (left := deadline - time.monotonic()) > 0:
        if done.wait(min(PROGRESS_SECONDS, left)):
            return
        log.info("%s", format_progress(arrivals.progress()))
    arrived = shown(arrivals.progress().bytes)
    _say(
        f"{chosen.source} was not there after {chosen.deadline:.0f} s, {arrived} have arrived and are kept: raise "
        "deadlineSeconds",
        chosen.message_file,
    )
    # Other threads may wait for the network, and nothing here needs tidying: what has arrived is on the volume.
    os._exit(EXIT_FINAL)


def _say(message: str, message_file: Path) -> None:
    log.info("%s", message)
    # Kubernetes makes the file; elsewhere there is none, and the log is enough.
    if message_file.exists():
        message_file.write_text(message)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
