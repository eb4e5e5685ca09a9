"""The per-job tokens, derived and never stored by the operator.

token = HMAC-SHA256(operator key, purpose + job uid), RFC 2104. The operator can compute a job's token at any time, so
it writes the job's Secret once and needs no right to read any Secret. A new operator key invalidates the tokens of
jobs that are running; they fail to answer and are restarted on a cluster whose Secret still has the old ones, so the
key must be kept as long as jobs run.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

MINIMUM_KEY_BYTES = 32


class TokenIssuer:
    """Derives tokens; holds the operator's key and never shows it."""

    def __init__(self, key: bytes) -> None:
        if len(key) < MINIMUM_KEY_BYTES:
            raise ValueError(f"the token key has {len(key)} bytes; at least {MINIMUM_KEY_BYTES} are needed")
        self._key = key

    @classmethod
    def from_file(cls, path: Path) -> TokenIssuer:
        """The key in a mounted file. ValueError when it is missing or too short."""
        try:
            return cls(path.read_bytes().strip())
        except OSError as error:
            raise ValueError(f"--token-key-file {path}: {error.strerror}") from error

    def driver_token(self, job_uid: str) -> str:
        """Guards the driver's HTTP routes (and nothing else)."""
        return self._derive("driver", job_uid)

    def ray_token(self, job_uid: str) -> str:
        """Ray's own cluster token (`RAY_AUTH_MODE=token`)."""
        return self._derive("ray", job_uid)

    def _derive(self, purpose: str, job_uid: str) -> str:
        return hmac.new(self._key, f"{purpose}:{job_uid}".encode(), hashlib.sha256).hexdigest()
