"""The client itself: eight verbs over aiohttp, bodies are plain dicts; and the end of a pod's log.

Every request has a deadline, waits for a turn in the token bucket and ends in a typed error or in a body. Nothing is
retried here but a 401 (the token file may have been rotated): whoever asks knows whether asking again is right.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import aiohttp
import orjson

from rltrain_operator.kube.config import Connection
from rltrain_operator.kube.errors import ApiError, TooManyRequestsError, UnavailableError, error_from_response
from rltrain_operator.kube.rate import TokenBucket
from rltrain_operator.kube.resources import PODS, Resource, resource_of

Body = dict[str, Any]

REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
TOKEN_MAX_AGE_SECONDS = 60.0
PAGE_SIZE = 500
# A log comes by way of its node, which may hang while the API server is well.
LOG_TIMEOUT = aiohttp.ClientTimeout(total=5)
LOG_BYTES = 256 * 1024


class KubeApi(Protocol):
    """What the operator needs of the API server; the client below has it, and so has a test's model of a cluster."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Body: ...

    async def create(self, manifest: Body) -> Body: ...

    async def apply(self, manifest: Body, *, field_manager: str, subresource: str | None = None) -> Body: ...

    async def patch(self, resource: Resource, namespace: str, name: str, operations: list[dict[str, Any]]) -> Body: ...

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None: ...


class KubeClient:
    """See the module's docstring. `observer(verb, resource, code, seconds)` is called after each request."""

    def __init__(
        self,
        connection: Connection,
        *,
        bucket: TokenBucket,
        observer: Callable[[str, str, int, float], None] = lambda *_: None,
    ) -> None:
        self._connection = connection
        self._bucket = bucket
        self._observer = observer
        self._session: aiohttp.ClientSession | None = None
        self._token = connection.token
        self._token_read_at: float | None = None

    async def __aenter__(self) -> KubeClient:
        context = self._connection.ssl_context()
        connector = aiohttp.TCPConnector(limit=64, ssl=context if context is not None else True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=REQUEST_TIMEOUT)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Body:
        """One object, without a namespace one of the whole cluster; NotFoundError when it is not there."""
        return await self._request("get", resource, resource.path(namespace, name))

    async def list_objects(
        self, resource: Resource, namespace: str | None, *, label_selector: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Body]:
        """Every object of the kind, page by page. GoneError: it took so long that the server forgot its place."""
        token = ""
        while True:
            query = {"limit": str(page_size)}
            if label_selector:
                query["labelSelector"] = label_selector
            if token:
                query["continue"] = token
            page = await self._request("list", resource, resource.path(namespace), query=query)
            for item in page.get("items") or []:
                # Items of a typed list carry neither; every other door shows them.
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
                yield item
            token = str((page.get("metadata") or {}).get("continue") or "")
            if not token:
                return

    async def create(self, manifest: Body) -> Body:
        """POST one object; AlreadyExistsError when its name is taken."""
        resource = resource_of(manifest)
        path = resource.path(manifest["metadata"]["namespace"])
        return await self._request("create", resource, path, method="POST", query=_strict(), body=manifest)

    async def apply(self, manifest: Body, *, field_manager: str, subresource: str | None = None) -> Body:
        """Server-side apply of exactly the fields in `manifest`, taking them over from other managers.

        With `metadata.uid` the object is never created anew; with `metadata.resourceVersion` it must be unchanged
        (ConflictError otherwise). The caller sends only fields that are its own to set, so `force` takes nothing else.
        """
        resource = resource_of(manifest)
        path = resource.path(manifest["metadata"].get("namespace"), manifest["metadata"]["name"], subresource)
        query = {**_strict(), "fieldManager": field_manager, "force": "true"}
        return await self._request(
            "apply",
            resource,
            path,
            method="PATCH",
            query=query,
            body=manifest,
            content_type="application/apply-patch+yaml",
        )

    async def patch(self, resource: Resource, namespace: str, name: str, operations: list[dict[str, Any]]) -> Body:
        """A JSON patch (RFC 6902), done as a whole or not at all; InvalidError when one of its tests does not hold."""
        return await self._request(
            "patch",
            resource,
            resource.path(namespace, name),
            method="PATCH",
            query=_strict(),
            body=operations,
            content_type="application/json-patch+json",
        )

    async def replace(self, manifest: Body) -> Body:
        """PUT one whole object; ConflictError when its resourceVersion is no longer the newest."""
        resource = resource_of(manifest)
        path = resource.path(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        return await self._request("update", resource, path, method="PUT", query=_strict(), body=manifest)

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        """Delete this very object, its dependents in the background. ConflictError: another bears its name now."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        await self._request("delete", resource, resource.path(namespace, name), method="DELETE", body=body)

    async def log_tail(self, namespace: str, pod: str, lines: int) -> str:
        """The last lines of the log of a pod with one container, of those at most the first 256 KiB.

        UnavailableError also when the pod's node does not answer within 5 s.
        """
        path = PODS.path(namespace, pod, "log")
        query = {"tailLines": str(lines), "limitBytes": str(LOG_BYTES)}
        _, payload = await self._exchange("get", "pods/log", "GET", path, query=query, within=LOG_TIMEOUT)
        return payload.decode(errors="replace")

    async def _request(
        self,
        verb: str,
        resource: Resource,
        path: str,
        *,
        method: str = "GET",
        query: dict[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Body:
        code, payload = await self._exchange(
            verb, resource.plural, method, path, query=query, body=body, content_type=content_type
        )
        answer = _decode(payload)
        if not isinstance(answer, dict):
            raise ApiError(code, f"{method} {path}: the answer is not a JSON object")
        return answer

    async def _exchange(
        self,
        verb: str,
        plural: str,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        within: aiohttp.ClientTimeout = REQUEST_TIMEOUT,
    ) -> tuple[int, bytes]:
        """One request and its answer, code and bytes, in its turn, seen by the observer; a refusal is a typed error."""
        await self._bucket.take()
        started = time.monotonic()
        code = 0
        try:
            code, payload, retry_after = await self._send(method, path, query, body, content_type, within)
            if code == 401 and self._connection.token_file is not None:
                self._token_read_at = None
                code, payload, retry_after = await self._send(method, path, query, body, content_type, within)
        finally:
            self._observer(verb, plural, code, time.monotonic() - started)
        if code >= 300:
            error = error_from_response(code, _decode(payload), retry_after)
            if isinstance(error, TooManyRequestsError):
                self._bucket.pause(error.retry_after or 1.0)
            raise error
        return code, payload

    async def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: Any,
        content_type: str,
        within: aiohttp.ClientTimeout,
    ) -> tuple[int, bytes, float | None]:
        assert self._session is not None, "use the client as an async context manager"
        headers = {"Accept": "application/json"}
        token = self._current_token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = orjson.dumps(body)
        url = self._connection.server + path
        try:
            request = self._session.request(method, url, params=query, data=data, headers=headers, timeout=within)
            async with request as response:
                payload = await response.read()
                return response.status, payload, _seconds(response.headers.get("Retry-After"))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UnavailableError(0, f"{method} {path}: {type(error).__name__}: {error}") from error

    def _current_token(self) -> str | None:
        """The bearer token; the kubelet rotates the mounted one, so it is read again once a minute."""
        path = self._connection.token_file
        if path is None:
            return self._token
        now = time.monotonic()
        if self._token_read_at is None or now - self._token_read_at > TOKEN_MAX_AGE_SECONDS:
            self._token = path.read_text().strip()
            self._token_read_at = now
        return self._token


def _strict() -> dict[str, str]:
    # KubeRay's CRD prunes unknown fields silently otherwise: a typing error would become a missing setting.
    return {"fieldValidation": "Strict"}


def _decode(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload.decode(errors="replace")[:500]


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; its date form is not used by the API server."""
    return float(header) if header and header.isdigit() else None
