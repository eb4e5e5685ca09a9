"""Seeds of single responses, derived from the run's: the same response whenever, and wherever, it is sampled again.

It must not know what is sampled.
"""

from __future__ import annotations

import hashlib


def derived_seed(*parts: object) -> int:
    """A seed of 63 bits that follows from the parts' texts: SHA-256, so that neighbours have nothing in common."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
