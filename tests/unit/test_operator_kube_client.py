"""The Kubernetes client against a small HTTP server in the same process.

The server is a stand-in because it must answer with faults that a real API server cannot be told to produce.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from rltrain_operator.kube import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    Connection,
    ForbiddenError,
    GoneError,
    InvalidError,
    KubeClient,
    NotFoundError,
    TokenBucket,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
    in_cluster,
    named_context,
)
from rltrain_operator.kube.resources import CONFIG_MAPS, PODS, RAY_CLUSTERS
from rltrain_operator.leader import LeaderElector

Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass
class Server:
    """Answers every request with `handler` and keeps what was asked."""

    handler: Handler
    asked: list[tuple[str, str, dict[str, str], str, Any]] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        self.asked.append(
            (request.method, request.path, dict(request.query), request.headers.get("Authorization", ""), body)
        )
        return await self.handler(request)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Server]:
    server = Server(handler)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = runner.addresses[0] and f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def client(server: Server, **connection: Any) -> KubeClient:
    return KubeClient(Connection(server=server.url, **connection), bucket=TokenBucket(1000, 1000))


def answering(code: int, body: Any = None, headers: dict[str, str] | None = None) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(body if body is not None else {}, status=code, headers=headers)

    return handler


CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "team"}, "data": {}}

ERRORS: dict[str, tuple[int, dict[str, Any], type[ApiError]]] = {
    "bad request": (400, {"message": "unknown field"}, InvalidError),
    "no token": (401, {}, UnauthorizedError),
    "no right": (403, {"message": "quota exceeded"}, ForbiddenError),
    "not there": (404, {}, NotFoundError),
    "changed": (409, {"reason": "Conflict"}, ConflictError),
    "there already": (409, {"reason": "AlreadyExists"}, AlreadyExistsError),
    "too old": (410, {}, GoneError),
    "invalid": (422, {"reason": "Invalid", "message": "spec.x: Required"}, InvalidError),
    "busy": (429, {}, TooManyRequestsError),
    "broken": (500, {}, UnavailableError),
    "gateway": (504, {}, UnavailableError),
}


@pytest.mark.parametrize(("code", "body", "kind"), ERRORS.values(), ids=ERRORS.keys())
async def test_errors_are_told_apart_by_class(code: int, body: dict[str, Any], kind: type[ApiError]) -> None:
    async with serving(answering(code, body)) as server, client(server) as kube:
        with pytest.raises(ApiError) as caught:
            await kube.create(CONFIG_MAP)
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert body.get("message", "") in caught.value.message


async def test_only_already_exists_is_not_any_conflict() -> None:
    async with serving(answering(409, {"reason": "Conflict"})) as server, client(server) as kube:
        with pytest.raises(ConflictError) as caught:
            await kube.create(CONFIG_MAP)
    assert not isinstance(caught.value, AlreadyExistsError)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    connection = Connection(server="http://127.0.0.1:1")
    async with KubeClient(connection, bucket=TokenBucket(1000, 1000)) as kube:
        with pytest.raises(UnavailableError) as caught:
            await kube.get(PODS, "team", "a")
    assert caught.value.code == 0
    assert "/api/v1/namespaces/team/pods/a" in caught.value.message


async def test_a_connection_that_breaks_is_unavailable() -> None:
    async def cut(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with serving(cut) as server, client(server) as kube:
        with pytest.raises(UnavailableError):
            await kube.get(PODS, "team", "a")


async def test_apply_is_strict_forced_and_ours() -> None:
    async with serving(answering(200, CONFIG_MAP)) as server, client(server, token="t") as kube:
        await kube.apply(CONFIG_MAP, field_manager="rltrain-operator", subresource="status")
    method, path, query, authorization, body = server.asked[0]
    assert (method, path) == ("PATCH", "/api/v1/namespaces/team/configmaps/a/status")
    assert query == {"fieldManager": "rltrain-operator", "force": "true", "fieldValidation": "Strict"}
    assert authorization == "Bearer t"
    assert body == CONFIG_MAP


async def test_delete_names_the_very_object() -> None:
    async with serving(answering(200)) as server, client(server) as kube:
        await kube.delete(RAY_CLUSTERS, "team", "a", uid="u-1")
    method, path, _, _, body = server.asked[0]
    assert (method, path) == ("DELETE", "/apis/ray.io/v1/namespaces/team/rayclusters/a")
    assert body["preconditions"] == {"uid": "u-1"}


async def test_the_end_of_a_log_is_text_whatever_is_in_it() -> None:
    seen: list[tuple[str, str, int]] = []

    async def log(_: web.Request) -> web.Response:
        return web.Response(body=b'{"a": 1}\n\xff progress 1 bytes\n', content_type="text/plain")

    async with (
        serving(log) as server,
        KubeClient(
            Connection(server=server.url),
            bucket=TokenBucket(1000, 1000),
            observer=lambda verb, plural, code, _: seen.append((verb, plural, code)),
        ) as kube,
    ):
        assert await kube.log_tail("team", "a", 20) == '{"a": 1}\n\ufffd progress 1 bytes\n'
    method, path, query, _, _ = server.asked[0]
    assert (method, path) == ("GET", "/api/v1/namespaces/team/pods/a/log")
    assert query == {"tailLines": "20", "limitBytes": "262144"}
    assert seen == [("get", "pods/log", 200)]


@pytest.mark.parametrize(("code", "body", "kind"), ERRORS.values(), ids=ERRORS.keys())
async def test_a_log_that_is_refused_is_a_typed_error(code: int, body: dict[str, Any], kind: type[ApiError]) -> None:
    async with serving(answering(code, body)) as server, client(server) as kube:
        with pytest.raises(ApiError) as caught:
            await kube.log_tail("team", "a", 20)
    assert type(caught.value) is kind


async def test_a_json_patch_says_that_it_is_one() -> None:
    operations = [{"op": "test", "path": "/spec/replicas", "value": 2}]
    kinds: list[str] = []

    async def patched(request: web.Request) -> web.Response:
        kinds.append(request.content_type)
        return web.json_response({})

    async with serving(patched) as server, client(server) as kube:
        await kube.patch(RAY_CLUSTERS, "team", "a", operations)
    method, path, query, _, body = server.asked[0]
    assert (method, path) == ("PATCH", "/apis/ray.io/v1/namespaces/team/rayclusters/a")
    assert kinds == ["application/json-patch+json"]
    assert query["fieldValidation"] == "Strict"
    assert body == operations


async def test_lists_are_read_page_by_page_and_items_say_what_they_are() -> None:
    async def pages(request: web.Request) -> web.Response:
        if request.query.get("continue") == "more":
            return web.json_response({"metadata": {}, "items": [{"metadata": {"name": "b"}}]})
        return web.json_response({"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]})

    async with serving(pages) as server, client(server) as kube:
        found = [item async for item in kube.list_objects(CONFIG_MAPS, None, label_selector="x", page_size=1)]
    assert [item["metadata"]["name"] for item in found] == ["a", "b"]
    assert found[0]["kind"] == "ConfigMap"
    assert [query.get("continue") for _, _, query, _, _ in server.asked] == [None, "more"]
    assert server.asked[0][1] == "/api/v1/configmaps"
    assert server.asked[0][2]["labelSelector"] == "x"


async def test_a_busy_server_pauses_every_caller() -> None:
    sleeps: list[float] = []

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)

    bucket = TokenBucket(1000, 1000, clock=lambda: 0.0, sleep=sleep)
    async with (
        serving(answering(429, headers={"Retry-After": "4"})) as server,
        KubeClient(Connection(server=server.url), bucket=bucket) as kube,
    ):
        for expected in ([], [4.0]):
            with pytest.raises(TooManyRequestsError) as caught:
                await kube.get(PODS, "team", "a")
            assert caught.value.retry_after == 4.0
            assert sleeps == expected


async def test_a_rotated_token_is_read_again(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("old\n")

    async def only_new(request: web.Request) -> web.Response:
        return web.json_response({}, status=200 if request.headers["Authorization"] == "Bearer new" else 401)

    async with serving(only_new) as server, client(server, token_file=token_file) as kube:
        with pytest.raises(UnauthorizedError):
            await kube.get(PODS, "team", "a")
        token_file.write_text("new\n")
        await kube.get(PODS, "team", "a")
    assert [authorization for _, _, _, authorization, _ in server.asked][-2:] == ["Bearer old", "Bearer new"]


async def test_requests_are_counted_with_their_outcome() -> None:
    seen: list[tuple[str, str, int]] = []
    async with serving(answering(404)) as server:
        kube = KubeClient(
            Connection(server=server.url),
            bucket=TokenBucket(1000, 1000),
            observer=lambda verb, resource, code, _: seen.append((verb, resource, code)),
        )
        async with kube:
            with pytest.raises(NotFoundError):
                await kube.get(PODS, "team", "a")
    assert seen == [("get", "pods", 404)]


class LeaseServer:
    """One Lease with the API server's optimistic lock."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.broken = False

    async def __call__(self, request: web.Request) -> web.Response:
        if self.broken:
            return web.json_response({}, status=500)
        if request.method == "GET":
            return web.json_response(self.lease or {}, status=200 if self.lease else 404)
        body = await request.json()
        if request.method == "POST" and self.lease is not None:
            return web.json_response({"reason": "AlreadyExists"}, status=409)
        if request.method == "PUT":
            assert self.lease is not None
            if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                return web.json_response({"reason": "Conflict"}, status=409)
        version = int(body["metadata"].get("resourceVersion", "0")) + 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(version)}}
        return web.json_response(self.lease)

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def elector(kube: KubeClient, identity: str, clock: Time, **times: float) -> LeaderElector:
    given = {"duration": 15.0, "renew_deadline": 10.0, "retry": 0.01} | times
    return LeaderElector(kube, namespace="team", name="lease", identity=identity, clock=clock, **given)


async def test_one_leads_and_the_other_takes_over_when_the_record_stands_still() -> None:
    leases, clock = LeaseServer(), Time()
    async with serving(leases) as server, client(server) as kube:
        await elector(kube, "one", clock).acquire()
        standby = asyncio.create_task(elector(kube, "two", clock).acquire())
        await asyncio.sleep(0.1)
        assert leases.holder == "one"
        clock.now = 14.9
        await asyncio.sleep(0.1)
        assert leases.holder == "one"
        clock.now = 15.1
        await asyncio.wait_for(standby, 5)
    assert leases.holder == "two"
    assert leases.lease is not None
    assert leases.lease["spec"]["leaseTransitions"] == 2


async def test_a_released_lease_is_taken_at_once() -> None:
    leases, clock = LeaseServer(), Time()
    async with serving(leases) as server, client(server) as kube:
        first = elector(kube, "one", clock)
        await first.acquire()
        await first.release()
        await asyncio.wait_for(elector(kube, "two", clock).acquire(), 5)
    assert leases.holder == "two"


async def test_a_holder_that_cannot_renew_gives_up_before_its_lease_runs_out() -> None:
    leases, clock = LeaseServer(), Time()
    async with serving(leases) as server, client(server) as kube:
        holder = elector(kube, "one", clock)
        await holder.acquire()
        leases.broken = True
        holding = asyncio.create_task(holder.hold())
        await asyncio.sleep(0.05)
        clock.now = 9.9
        await asyncio.sleep(0.1)
        assert not holding.done()
        clock.now = 10.1
        await asyncio.wait_for(holding, 5)


async def test_a_holder_whose_lease_was_taken_gives_up_at_once() -> None:
    leases, clock = LeaseServer(), Time()
    async with serving(leases) as server, client(server) as kube:
        holder = elector(kube, "one", clock)
        await holder.acquire()
        assert leases.lease is not None
        leases.lease["spec"]["holderIdentity"] = "two"
        await asyncio.wait_for(holder.hold(), 5)
        assert not holder.holds()
    assert leases.holder == "two"


async def test_a_try_that_hangs_does_not_outlast_the_lease() -> None:
    """The last renewal counts from when it was asked for, and a request without an answer ends in time."""
    leases, clock = LeaseServer(), Time()
    hanging, over = asyncio.Event(), asyncio.Event()

    async def sometimes(request: web.Request) -> web.StreamResponse:
        if hanging.is_set():
            clock.now = 9.9
            await over.wait()
        return await leases(request)

    async with serving(sometimes) as server, client(server) as kube:
        holder = elector(kube, "one", clock, renew_deadline=0.2, duration=0.3)
        await holder.acquire()
        assert holder.holds()
        hanging.set()
        await asyncio.wait_for(holder.hold(), 5)
        assert not holder.holds()
        over.set()


async def test_a_standby_knows_that_it_stands_by_as_long_as_it_is_answered() -> None:
    leases, clock = LeaseServer(), Time()
    async with serving(leases) as server, client(server) as kube:
        holder, standby = elector(kube, "one", clock), elector(kube, "two", clock, standby_interval=0.01)
        assert not standby.stands_by(), "it has not looked yet"
        await holder.acquire()
        assert holder.holds()
        assert not holder.stands_by()
        waiting = asyncio.create_task(standby.acquire())
        await _until(standby.stands_by)
        assert not standby.holds()
        leases.broken = True
        await asyncio.sleep(0.05)
        clock.now = 10.1
        assert not standby.stands_by()
        waiting.cancel()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition is a question to another object, not an event
            await asyncio.sleep(0.01)


def kubeconfig(directory: Path, user: dict[str, Any]) -> Path:
    path = directory / "config"
    ca = base64.b64encode(b"CA").decode()
    document = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api:6443/", "certificate-authority-data": ca}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_kubeconfig_with_inline_and_with_file_credentials(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(b"KEY")
    user = {"client-certificate-data": base64.b64encode(b"CERT").decode(), "client-key": "key.pem"}
    connection = named_context(kubeconfig(tmp_path, user))
    assert connection.server == "https://api:6443"
    assert (connection.ca_data, connection.certificate_data, connection.key_data) == (b"CA", b"CERT", b"KEY")


BROKEN: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "a credential plugin": ({"exec": {}}, None, "exec"),
    "an unknown context": ({}, "elsewhere", "elsewhere"),
}


@pytest.mark.parametrize(("user", "context", "named"), BROKEN.values(), ids=BROKEN.keys())
def test_a_kubeconfig_that_cannot_be_used_says_why(
    tmp_path: Path, user: dict[str, Any], context: str | None, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        named_context(kubeconfig(tmp_path, user), context)


def test_the_pods_own_account(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_bytes(b"CA")
    connection = in_cluster(tmp_path, {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"})
    assert connection.server == "https://[fd00::1]:443"
    assert connection.token_file == tmp_path / "token"
    with pytest.raises(ValueError, match="not running in a pod"):
        in_cluster(tmp_path, {})


def test_credentials_stay_out_of_the_representation() -> None:
    assert "secret" not in repr(Connection(server="https://api", token="secret", key_data=b"secret"))
