"""A small asynchronous client of the Kubernetes API for this package's own agents: requests, and a list-and-watch.

This module must not know what the agents do.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import yaml

LOG = logging.getLogger(__name__)
Object = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
WATCH_SECONDS = 300


class ApiError(Exception):
    """The API server said no: `status` is HTTP's, the message is the server's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True)
class Event:
    """One step of a watch: ADDED, MODIFIED or DELETED, and the object after it."""

    kind: str
    object: Object


def load_credentials(kubeconfig: Path) -> tuple[str, ssl.SSLContext]:
    """The server and the certificates of a kubeconfig that `certificates.kubeconfig` wrote."""
    document = yaml.safe_load(kubeconfig.read_text())
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    with tempfile.NamedTemporaryFile() as file:  # the ssl module takes a client's certificate from a file only
        file.write(base64.b64decode(user["client-certificate-data"]))
        file.write(base64.b64decode(user["client-key-data"]))
        file.flush()
        context.load_cert_chain(file.name)
    return str(cluster["server"]), context


class KubernetesApi:
    """One session with one API server."""

    def __init__(self, kubeconfig: Path) -> None:
        server, context = load_credentials(kubeconfig)
        connector = aiohttp.TCPConnector(ssl=context, limit=100)
        self._session = aiohttp.ClientSession(server, connector=connector)

    async def __aenter__(self) -> KubernetesApi:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """One request; ApiError for every answer of 400 and above."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        timeout = aiohttp.ClientTimeout(total=30)
        async with self._session.request(
            method, path, data=data, headers=headers, params=query, timeout=timeout
        ) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise ApiError(answer.status, text[:1000])
            result: Object = json.loads(text)
            return result

    async def watch(self, path: str, *, query: Mapping[str, str] | None = None) -> AsyncIterator[Event]:
        """List, then follow, for ever: every object comes as ADDED first, again after each lost connection."""
        while True:
            try:
                listed = await self.request("GET", path, query=query)
                for item in listed["items"]:
                    yield Event("ADDED", item)
                async for event in self._follow(path, listed["metadata"]["resourceVersion"], query):
                    yield event
            except (aiohttp.ClientError, TimeoutError, ApiError) as error:
                LOG.warning("watching %s: %s; trying again in a second", path, error)
                await asyncio.sleep(1)

    async def _follow(self, path: str, version: str, query: Mapping[str, str] | None) -> AsyncIterator[Event]:
        parameters = {
            **(query or {}),
            "watch": "1",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_read=WATCH_SECONDS + 30)
        async with self._session.get(path, params=parameters, timeout=timeout) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, (await answer.text())[:1000])
            buffer = b""
            async for chunk in answer.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    step = json.loads(line)
                    if step["type"] == "ERROR":
                        raise ApiError(int(step["object"].get("code", 500)), str(step["object"].get("message")))
                    yield Event(step["type"], step["object"])
