"""The life of the webhook's certificates in a Secret, as pure functions: what is there, and what is to be there next.

    tls.crt, tls.key, tls-ca.crt      the pair that is served, and who signed it
    next.crt, next.key, next-ca.crt   the pair after it, while the API server learns to trust its authority
    ca.crt                            every authority that the API server is to trust: at most two

A new pair is staged when a third of the served one's time is left. It is served only once the API server has been told
of its authority; the old authority stays trusted until the next rotation, because other replicas serve the old pair for
a moment longer. So every handshake at any moment is with a pair that is trusted. It must not know clocks or clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rltrain_operator.webhook.certificates import Pair, belongs_together, make_pair

Data = dict[str, bytes]

CERTIFICATE, KEY, AUTHORITY = "tls.crt", "tls.key", "tls-ca.crt"
NEXT_CERTIFICATE, NEXT_KEY, NEXT_AUTHORITY = "next.crt", "next.key", "next-ca.crt"
TRUSTED = "ca.crt"


@dataclass(frozen=True)
class Terms:
    """For whom certificates are made, and for how long."""

    names: tuple[str, ...]
    validity: timedelta

    @property
    def interval(self) -> timedelta:
        """How often to look: a sixtieth of the validity, at most a minute."""
        return min(timedelta(minutes=1), self.validity / 60)


def served(data: Mapping[str, bytes]) -> Pair | None:
    """The pair to serve; None where there is none, or a torn one."""
    return _pair(data, KEY, CERTIFICATE, AUTHORITY)


def trusted(data: Mapping[str, bytes]) -> bytes:
    """What the API server is to trust: certificates in PEM, one after the other."""
    return data.get(TRUSTED, b"")


def next_data(data: Mapping[str, bytes], terms: Terms, now: datetime, *, told: bool) -> Data:
    """What the Secret is to hold; the same as before where nothing is due.

    Args:
        data: What it holds; anything that cannot be used is replaced.
        terms: Of the certificates.
        now: The time (UTC).
        told: Whether the API server has had `trusted(data)` for long enough to have heard of it.
    """
    current, following = served(data), _pair(data, NEXT_KEY, NEXT_CERTIFICATE, NEXT_AUTHORITY)
    if current is None or not _usable(current, terms, now):
        return _stored(make_pair(terms.names, now, terms.validity))
    if trusted(data) != _bundle(current, following) and not _is_afterglow(data, current, following):
        return _stored(current, following)
    if current.expires() - now >= terms.validity / 3:
        return dict(data)
    if following is None or not _usable(following, terms, now):
        return _stored(current, make_pair(terms.names, now, terms.validity))
    if told:
        return {**_stored(following), TRUSTED: _bundle(following, current)}
    return dict(data)


def _usable(pair: Pair, terms: Terms, now: datetime) -> bool:
    return pair.expires() > now and set(terms.names) <= pair.names()


def _is_afterglow(data: Mapping[str, bytes], current: Pair, following: Pair | None) -> bool:
    """Whether what is trusted is the served pair's authority and the one before it, as a rotation leaves it."""
    return following is None and trusted(data).startswith(current.authority)


def _bundle(*pairs: Pair | None) -> bytes:
    return b"".join(pair.authority for pair in pairs if pair is not None)


def _stored(current: Pair, following: Pair | None = None) -> Data:
    data = {CERTIFICATE: current.certificate, KEY: current.key, AUTHORITY: current.authority}
    if following is not None:
        data |= {
            NEXT_CERTIFICATE: following.certificate,
            NEXT_KEY: following.key,
            NEXT_AUTHORITY: following.authority,
        }
    return {**data, TRUSTED: _bundle(current, following)}


def _pair(data: Mapping[str, bytes], key: str, certificate: str, authority: str) -> Pair | None:
    texts: Sequence[bytes | None] = [data.get(name) for name in (key, certificate, authority)]
    if any(text is None for text in texts):
        return None
    pair = Pair(*(text for text in texts if text is not None))
    return pair if belongs_together(pair) else None
