"""The webhook's server and process: what it answers to whom, where its certificate comes from, and when it is ready."""

from __future__ import annotations

import asyncio
import base64
import copy
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from rltrain_operator.kube import Body, ConflictError, Resource, UnavailableError
from rltrain_operator.webhook.__main__ import keep, parse_arguments, readiness
from rltrain_operator.webhook.certificates import Pair, make_pair
from rltrain_operator.webhook.rotation import Terms
from rltrain_operator.webhook.server import MAX_REQUEST_BYTES, PATH, ServedIdentity, make_app
from rltrain_operator.webhook.sources import FileSource, Identity, SecretSource

HOST = "127.0.0.1"


def review(**request: Any) -> dict[str, Any]:
    asked = {"uid": "r", "operation": "DELETE", "object": None, **request}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}


async def test_the_api_server_gets_an_answer_and_others_a_reason() -> None:
    async with TestClient(TestServer(make_app())) as http:
        answer = await http.post(PATH, json=review())
        assert (answer.status, (await answer.json())["response"]) == (200, {"uid": "r", "allowed": True})
        for data in (b"", b"{", b"[]", b"\xff", b'{"kind": "Pod"}'):
            assert (await http.post(PATH, data=data)).status == 400
        assert (await http.get(PATH)).status == 405
        assert (await http.post("/mutate", json=review())).status == 404


async def test_a_request_may_be_as_large_as_two_objects_and_no_larger() -> None:
    async with TestClient(TestServer(make_app())) as http:
        large = review(object={"metadata": {"annotations": {"a": "x" * 3_200_000}}})
        assert (await http.post(PATH, json=large)).status == 200
        assert (await http.post(PATH, data=b"x" * (MAX_REQUEST_BYTES + 1))).status == 413


def pair(validity: timedelta = timedelta(days=1), since: timedelta = timedelta(0)) -> Pair:
    return make_pair((HOST,), datetime.now(UTC) - since, validity)


def write(directory: Path, made: Pair) -> None:
    """As the kubelet would, but for its symbolic links."""
    (directory / "tls.key").write_bytes(made.key)
    (directory / "tls.crt").write_bytes(made.certificate)


async def shown_by(port: int, authority: bytes) -> bool:
    """Whether a new connection is shown something that this authority has signed."""
    context = ssl.create_default_context(cadata=authority.decode())
    try:
        _, writer = await asyncio.open_connection(HOST, port, ssl=context)
    except ssl.SSLCertVerificationError:
        return False
    writer.close()
    return True


async def test_renewed_files_are_served_without_a_restart(tmp_path: Path) -> None:
    before, after = pair(), pair()
    write(tmp_path, before)
    identity, shown = ServedIdentity(), asyncio.Event()
    keeping = asyncio.create_task(keep(FileSource(tmp_path), identity, 0.01, shown))
    await asyncio.wait_for(shown.wait(), 10)
    runner = web.AppRunner(make_app())
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0, ssl_context=identity.context)
    await site.start()
    port = runner.addresses[0][1]
    try:
        assert await shown_by(port, before.authority)
        (tmp_path / "tls.key").write_bytes(after.key)
        await asyncio.sleep(0.05)
        assert await shown_by(port, before.authority), "a key that does not fit yet changes nothing"
        write(tmp_path, after)
        async with asyncio.timeout(10):
            while not await shown_by(port, after.authority):  # noqa: ASYNC110 - asks the server, as a client does
                await asyncio.sleep(0.01)
        assert not await shown_by(port, before.authority)
    finally:
        keeping.cancel()
        await runner.cleanup()


@pytest.mark.parametrize("name", ["tls.crt", "tls.key"])
async def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, pair())
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=name):
        await FileSource(tmp_path).newest()


async def test_what_is_no_certificate_is_named(tmp_path: Path) -> None:
    write(tmp_path, pair())
    (tmp_path / "tls.crt").write_text("no certificate")
    with pytest.raises(ValueError, match=r"tls\.crt is no certificate"):
        await FileSource(tmp_path).newest()


class Api:
    """A Secret and a configuration with the API server's optimistic lock, and calls that can be made to fail."""

    def __init__(self) -> None:
        self.secret: Body = {"kind": "Secret", "metadata": {"name": "s", "namespace": "n", "resourceVersion": "1"}}
        self.configuration: Body = {
            "metadata": {"name": "c", "uid": "u"},
            "webhooks": [{"name": "jobs.rltrain.io", "clientConfig": {"url": "https://x"}}],
        }
        self.writes: list[str] = []
        self.rival: Body | None = None

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Body:
        assert (resource.plural, namespace, name) in {
            ("secrets", "n", "s"),
            ("validatingwebhookconfigurations", None, "c"),
        }
        return copy.deepcopy(self.secret if namespace else self.configuration)

    async def replace(self, manifest: Body) -> Body:
        if self.rival is not None:
            self.secret, self.rival = self.rival, None
        if manifest["metadata"]["resourceVersion"] != self.secret["metadata"]["resourceVersion"]:
            raise ConflictError(409, "changed")
        version = str(int(manifest["metadata"]["resourceVersion"]) + 1)
        self.secret = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": version}}
        self.writes.append("secret")
        return self.secret

    async def apply(self, manifest: Body, *, field_manager: str, subresource: str | None = None) -> Body:
        assert manifest["metadata"] == {"name": "c", "uid": "u"}, "this very one, and never a new one"
        (webhook,) = manifest["webhooks"]
        assert webhook.keys() == {"name", "clientConfig"}
        assert webhook["clientConfig"].keys() == {"caBundle"}, "the one field that is the webhook's to write"
        self.configuration["webhooks"][0]["clientConfig"] |= webhook["clientConfig"]
        self.writes.append("configuration")
        return self.configuration

    def trusted(self) -> bytes:
        return base64.b64decode(self.configuration["webhooks"][0]["clientConfig"]["caBundle"])


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 31, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()


def source(api: Api, clock: Clock) -> SecretSource:
    terms = Terms((HOST,), timedelta(days=90))
    return SecretSource(
        api,
        namespace="n",
        secret="s",
        configuration="c",
        terms=terms,
        clock=clock,
        stopwatch=clock.seconds,
    )


async def test_a_quiet_look_writes_nothing_and_a_rotation_four_times() -> None:
    api, clock = Api(), Clock()
    one = source(api, clock)
    first = await one.newest()
    assert api.writes == ["secret", "configuration"]
    clock.now += timedelta(days=59)
    assert await one.newest() == first
    assert api.writes == ["secret", "configuration"]
    clock.now += timedelta(days=2)
    assert await one.newest() == first, "staged, and not served before the API server knows of it"
    assert len(api.writes) == 4
    clock.now += timedelta(seconds=61)
    assert await one.newest() == first, "told, but not for long enough"
    clock.now += timedelta(seconds=61)
    second = await one.newest()
    assert second != first
    assert len(api.writes) == 6
    clock.now += timedelta(seconds=61)
    assert await one.newest() == second
    assert len(api.writes) == 6


async def test_of_two_that_begin_at_once_both_serve_the_same() -> None:
    api, clock = Api(), Clock()
    other = Api()
    await source(other, clock).newest()
    api.rival = {**other.secret, "metadata": {**api.secret["metadata"], "resourceVersion": "2"}}
    late = source(api, clock)
    with pytest.raises(ConflictError):
        await late.newest()
    assert await late.newest() == await source(other, clock).newest()
    assert api.trusted() == other.trusted()


async def test_somebody_s_change_of_the_authority_is_put_right() -> None:
    api, clock = Api(), Clock()
    one = source(api, clock)
    await one.newest()
    told = api.trusted()
    api.configuration["webhooks"][0]["clientConfig"]["caBundle"] = ""
    await one.newest()
    assert api.trusted() == told


async def test_an_api_server_that_is_away_is_asked_again() -> None:
    made, asked = pair(), []

    class Failing:
        async def newest(self) -> Identity:
            asked.append(1)
            if len(asked) < 3:
                raise UnavailableError(0, "refused")
            return Identity(made.certificate, made.key)

    shown = asyncio.Event()
    keeping = asyncio.create_task(keep(Failing(), ServedIdentity(), 0.01, shown))
    await asyncio.wait_for(shown.wait(), 10)
    keeping.cancel()
    assert len(asked) == 3


def identity_of(made: Pair) -> Identity:
    return Identity(made.certificate, made.key)


READINESS: dict[str, tuple[Identity | None, bool, bool, bool, str]] = {
    "at the start": (None, False, False, False, "no certificate yet"),
    "before the server listens": (identity_of(pair()), False, False, False, "no certificate yet"),
    "while it serves": (identity_of(pair()), True, False, True, "serving"),
    "with a certificate that ran out": (
        identity_of(pair(timedelta(hours=1), since=timedelta(hours=2))),
        *(True, False, False, "ran out"),
    ),
    "while it stops": (identity_of(pair()), True, True, False, "stopping"),
}


@pytest.mark.parametrize(("shown", "serving", "stopping", "ready", "words"), READINESS.values(), ids=READINESS.keys())
def test_ready_means_that_calls_will_be_answered(
    shown: Identity | None, serving: bool, stopping: bool, ready: bool, words: str
) -> None:
    found = readiness(shown, datetime.now(UTC), serving=serving, stopping=stopping)
    assert found.ready is ready
    assert words in found.words


FLAGS_REFUSED = {
    "no source": [],
    "two sources": ["--certificate-directory=/x", "--certificate-secret=n/s"],
    "a Secret without its namespace": ["--certificate-secret=s", "--configuration=c", "--name=n"],
    "a Secret of no configuration": ["--certificate-secret=n/s", "--name=n"],
    "a Secret of no name": ["--certificate-secret=n/s", "--configuration=c"],
    "no time at all": ["--certificate-secret=n/s", "--configuration=c", "--name=n", "--certificate-seconds=0"],
}


@pytest.mark.parametrize("flags", FLAGS_REFUSED.values(), ids=FLAGS_REFUSED.keys())
def test_flags_that_cannot_work_are_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(flags)
    assert caught.value.code == 2
