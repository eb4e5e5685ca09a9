"""The webhook's certificates: real handshakes with them, and their whole life with several replicas at once."""

from __future__ import annotations

import random
import ssl
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from rltrain_operator.webhook.certificates import Pair, belongs_together, make_pair
from rltrain_operator.webhook.rotation import Data, Terms, next_data, served, trusted
from rltrain_operator.webhook.server import ServedIdentity
from rltrain_operator.webhook.sources import Identity

NAME = "rltrain-webhook.rltrain-system.svc"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
TERMS = Terms((NAME, "127.0.0.1"), timedelta(days=90))


def handshake(server: ssl.SSLContext, authorities: bytes, name: str) -> None:
    """One handshake in memory, as the API server does it. ssl.SSLError where the client does not trust the server."""
    client = ssl.create_default_context(cadata=authorities.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not ends, "the handshake came to no end"


def showing(*pairs: Pair) -> ssl.SSLContext:
    """The context of a server that has been given these pairs one after the other."""
    identity = ServedIdentity()
    for pair in pairs:
        identity.show(Identity(pair.certificate, pair.key))
    return identity.context


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair(TERMS.names, datetime.now(UTC), TERMS.validity)


@pytest.mark.parametrize("name", TERMS.names)
def test_a_client_that_trusts_the_authority_accepts_the_server(pair: Pair, name: str) -> None:
    handshake(showing(pair), pair.authority, name)


def test_other_names_and_other_authorities_are_not_accepted(pair: Pair) -> None:
    other = make_pair(TERMS.names, datetime.now(UTC), TERMS.validity)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)hostname"):
        handshake(showing(pair), pair.authority, "elsewhere.svc")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(showing(pair), other.authority, NAME)


def test_a_certificate_that_ran_out_is_not_accepted() -> None:
    old = make_pair(TERMS.names, datetime.now(UTC) - timedelta(days=2), timedelta(days=1))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(showing(old), old.authority, NAME)


def test_another_certificate_is_shown_without_another_context(pair: Pair) -> None:
    after = make_pair(TERMS.names, datetime.now(UTC), TERMS.validity)
    handshake(showing(pair, after), after.authority, NAME)


def test_a_torn_pair_leaves_the_old_one_in_place(pair: Pair) -> None:
    other = make_pair(TERMS.names, datetime.now(UTC), TERMS.validity)
    identity = ServedIdentity()
    identity.show(Identity(pair.certificate, pair.key))
    for torn in (Identity(pair.certificate, other.key), Identity(b"", b""), Identity(pair.certificate, b"no key")):
        with pytest.raises(ValueError, match="cannot be served"):
            identity.show(torn)
    handshake(identity.context, pair.authority, NAME)


def test_what_belongs_together(pair: Pair) -> None:
    other = make_pair(TERMS.names, NOW, TERMS.validity)
    assert belongs_together(pair)
    assert not belongs_together(replace(pair, key=other.key))
    assert not belongs_together(replace(pair, authority=other.authority))
    assert not belongs_together(replace(pair, certificate=b"torn"))


FRESH = next_data({}, TERMS, NOW, told=False)
AFTER_TWO_THIRDS = NOW + timedelta(days=61)
STAGED = next_data(FRESH, TERMS, AFTER_TWO_THIRDS, told=True)
ROTATED = next_data(STAGED, TERMS, AFTER_TWO_THIRDS, told=True)

UNCHANGED: dict[str, tuple[Data, datetime, bool]] = {
    "a fresh pair": (FRESH, NOW, True),
    "a pair with a third of its time left": (FRESH, NOW + timedelta(days=59), True),
    "a staged pair that the API server has not heard of": (STAGED, AFTER_TWO_THIRDS, False),
    "a rotated pair": (ROTATED, AFTER_TWO_THIRDS, True),
}


@pytest.mark.parametrize(("data", "now", "told"), UNCHANGED.values(), ids=UNCHANGED.keys())
def test_nothing_is_written_where_nothing_is_due(data: Data, now: datetime, told: bool) -> None:
    assert next_data(data, TERMS, now, told=told) == data


def test_a_rotation_shows_the_new_pair_last() -> None:
    old, new = served(FRESH), served(ROTATED)
    assert old is not None
    assert new is not None
    assert served(STAGED) == old
    assert trusted(STAGED).startswith(old.authority)
    assert trusted(STAGED).endswith(new.authority)
    assert old != new
    assert trusted(ROTATED) == new.authority + old.authority


REPLACED: dict[str, tuple[Data, datetime, Terms]] = {
    "an empty Secret": ({}, NOW, TERMS),
    "a torn Secret": ({**FRESH, "tls.key": b"torn"}, NOW, TERMS),
    "somebody's certificate": ({"tls.crt": FRESH["tls.crt"], "tls.key": FRESH["tls.key"]}, NOW, TERMS),
    "a pair that ran out": (FRESH, NOW + timedelta(days=91), TERMS),
    "a pair for another name": (FRESH, NOW, Terms(("other.svc",), TERMS.validity)),
}


@pytest.mark.parametrize(("data", "now", "terms"), REPLACED.values(), ids=REPLACED.keys())
def test_what_cannot_be_used_is_replaced_at_once(data: Data, now: datetime, terms: Terms) -> None:
    found = served(next_data(data, terms, now, told=True))
    assert found is not None
    assert found.certificate != data.get("tls.crt")
    assert found.expires() == now + terms.validity
    assert set(terms.names) <= found.names()


def test_a_wrong_list_of_authorities_is_put_right() -> None:
    assert next_data({**FRESH, "ca.crt": b""}, TERMS, NOW, told=True) == FRESH


@dataclass
class Replica:
    """A process that looks at the Secret now and then: what it serves, and since when it saw the API server told."""

    served: Pair | None = None
    told: bytes = b""
    told_at: datetime = NOW


@dataclass
class Installation:
    """A Secret, a configuration, an API server that hears of it late, and replicas that look in no order."""

    now: datetime = NOW
    secret: Data = field(default_factory=dict)
    told: list[tuple[datetime, bytes]] = field(default_factory=list)

    def look(self, replica: Replica) -> None:
        """What `SecretSource.newest` does, without a network."""
        published = self.told[-1][1] if self.told else b""
        if published != replica.told:
            replica.told, replica.told_at = published, self.now
        heard = published == trusted(self.secret) and self.now - replica.told_at >= TERMS.interval
        self.secret = next_data(self.secret, TERMS, self.now, told=heard)
        if published != trusted(self.secret):
            self.told.append((self.now, trusted(self.secret)))
        replica.served = served(self.secret)

    def believed(self, delay: timedelta) -> bytes:
        """What the API server trusts: the newest that it has had time to hear of."""
        return next((text for time, text in reversed(self.told) if time + delay <= self.now), self.told[0][1])


@pytest.mark.parametrize("seed", range(3))
def test_every_handshake_of_a_year_is_trusted(seed: int) -> None:
    """Three replicas, each looking once a minute while something is due, and an API server half a minute behind."""
    draw = random.Random(seed)
    world, replicas = Installation(), [Replica() for _ in range(3)]
    for replica in replicas:
        world.look(replica)
    shown: set[bytes] = set()
    for day in range(1, 365, 5):
        for _ in range(8):
            world.now = NOW + timedelta(days=day) + timedelta(seconds=(world.now - NOW).seconds % 43200)
            for replica in draw.sample(replicas, len(replicas)):
                world.now += timedelta(seconds=draw.uniform(1, 20))
                world.look(replica)
                for other in replicas:
                    assert other.served is not None
                    assert other.served.authority in world.believed(timedelta(seconds=30))
                    assert other.served.expires() > world.now
                    shown.add(other.served.certificate)
            world.now += timedelta(seconds=30)
    assert 5 <= len(shown) <= 7, "a pair for each two months"
