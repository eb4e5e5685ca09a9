"""HTTP client of one job's driver. Short deadlines: a poll that hangs must not hold a worker of the queue."""

from __future__ import annotations

from typing import Protocol, TypeVar

import aiohttp
from pydantic import ValidationError

from rltrain_api import names
from rltrain_api.wire import CheckpointRequest, DriverStatus, EnginesRequest, History, StopRequest, WireModel

TIMEOUT = aiohttp.ClientTimeout(total=5, sock_connect=2)

Model = TypeVar("Model", bound=WireModel)


class DriverUnavailableError(Exception):
    """The driver did not answer, or not with what the contract says."""


class DriverApi(Protocol):
    """What the operator needs of a driver; `host` is the head pod's address, `token` the job's driver token."""

    async def status(self, host: str, token: str) -> DriverStatus: ...

    async def history(self, host: str, token: str) -> History: ...

    async def checkpoint(self, host: str, token: str, request: CheckpointRequest) -> None: ...

    async def stop(self, host: str, token: str, request: StopRequest) -> None: ...

    async def engines(self, host: str, token: str, request: EnginesRequest) -> None: ...


class DriverClient:
    """See the module's docstring. All methods raise DriverUnavailableError."""

    def __init__(self, session: aiohttp.ClientSession, *, port: int = names.DRIVER_PORT) -> None:
        self._session = session
        self._port = port

    async def status(self, host: str, token: str) -> DriverStatus:
        """GET /status."""
        return _parse(DriverStatus, await self._send("GET", host, token, "/status"))

    async def history(self, host: str, token: str) -> History:
        """GET /history."""
        return _parse(History, await self._send("GET", host, token, "/history"))

    async def checkpoint(self, host: str, token: str, request: CheckpointRequest) -> None:
        """POST /checkpoint: the driver saves one at its next step boundary."""
        await self._send("POST", host, token, "/checkpoint", request.model_dump_json(by_alias=True))

    async def stop(self, host: str, token: str, request: StopRequest) -> None:
        """POST /stop: the driver ends its process after it has answered."""
        await self._send("POST", host, token, "/stop", request.model_dump_json(by_alias=True))

    async def engines(self, host: str, token: str, request: EnginesRequest) -> None:
        """PUT /engines: from then on the driver keeps so many."""
        await self._send("PUT", host, token, "/engines", request.model_dump_json(by_alias=True))

    async def _send(self, method: str, host: str, token: str, path: str, body: str | None = None) -> bytes:
        address = f"[{host}]" if ":" in host else host
        url = f"http://{address}:{self._port}{path}"
        headers = {"Authorization": f"Bearer {token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(method, url, data=body, headers=headers, timeout=TIMEOUT) as response:
                payload = await response.read()
                if response.status >= 300:
                    raise DriverUnavailableError(f"{method} {url}: HTTP {response.status}")
                return payload
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise DriverUnavailableError(f"{method} {url}: {type(error).__name__}: {error}") from error


def _parse(model: type[Model], payload: bytes) -> Model:
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        raise DriverUnavailableError(
            f"the driver's answer is not a {model.__name__}: {error.errors()[0]['msg']}"
        ) from error
