"""Exit codes of `kubectl rltrain`, and the one error that a verb ends with: what is wrong and what to do about it.

Must not know about Kubernetes or about the verbs.
"""

from __future__ import annotations

EXIT_OK = 0  # for `watch`: the job is Complete
EXIT_FAILED = 1  # the job ended without completing
EXIT_USAGE = 2  # bad arguments, no such job, no cluster
EXIT_TIMEOUT = 3
EXIT_INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT, as every shell has it


class CommandError(Exception):
    """Ends the command with one line for a person: the cause and the remedy.

    Args:
        cause: What is wrong, without a full stop.
        remedy: What the person can do, as a sentence of its own; may be empty.
        code: The exit code.
    """

    def __init__(self, cause: str, remedy: str = "", code: int = EXIT_USAGE) -> None:
        super().__init__(f"{cause}. {remedy}" if remedy else cause)
        self.cause = cause
        self.remedy = remedy
        self.code = code
