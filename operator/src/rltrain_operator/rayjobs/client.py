"""The client of Ray 2.60's Jobs API on a job's head pod.

With `RAY_AUTH_MODE=token` every route wants `Authorization: Bearer <ray token>`. A submission id is accepted once; the
dashboard reports a second submission as HTTP 500 with "already exists" in the text, which for us means "done".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import aiohttp
import orjson

from rltrain_api import names

TIMEOUT = aiohttp.ClientTimeout(total=10, sock_connect=3)
LOG_TAIL_BYTES = 2000
LOG_TAIL_LINES = 100
LIMIT_BYTES = 8 * 1024 * 1024


class RayUnavailableError(Exception):
    """Ray's dashboard did not answer, or not usefully. The request may or may not have been carried out."""


class RayJobState(StrEnum):
    """The states of a Ray job, as Ray spells them."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more."""
        return self not in (RayJobState.PENDING, RayJobState.RUNNING)


@dataclass(frozen=True)
class RayJob:
    """One submission as Ray sees it. `log_tail` is filled only for one that ended badly.

    `node` is Ray's id of the node where the driver runs, "" before it has one.
    """

    state: RayJobState
    message: str = ""
    exit_code: int | None = None
    log_tail: str = ""
    node: str = ""


class RayJobsApi(Protocol):
    """What the operator needs of Ray; `host` is the head pod's address, `token` Ray's cluster token."""

    async def submit(
        self, host: str, token: str, submission_id: str, entrypoint: str, env_vars: dict[str, str]
    ) -> None: ...

    async def status(self, host: str, token: str, submission_id: str) -> RayJob | None: ...

    async def stop(self, host: str, token: str, submission_id: str) -> None: ...

    async def log(self, host: str, token: str, submission_id: str, node: str, lines: int) -> str: ...


class RayJobsClient:
    """See the module's docstring. All methods raise RayUnavailableError."""

    def __init__(self, session: aiohttp.ClientSession, *, port: int = names.DASHBOARD_PORT) -> None:
        self._session = session
        self._port = port

    async def submit(
        self, host: str, token: str, submission_id: str, entrypoint: str, env_vars: dict[str, str]
    ) -> None:
        """Start the driver under this id; nothing happens when Ray knows the id already. A shell reads `entrypoint`."""
        request = {
            "entrypoint": entrypoint,
            "submission_id": submission_id,
            "runtime_env": {"env_vars": env_vars},
            "entrypoint_num_cpus": 0,
        }
        code, text = await self._send("POST", host, token, "/api/jobs/", request)
        if code >= 300 and "already exists" not in text:
            raise RayUnavailableError(
                f"Ray refused the driver's submission {submission_id} (HTTP {code}): {_last_line(text)}"
            )

    async def status(self, host: str, token: str, submission_id: str) -> RayJob | None:
        """The submission, or None when Ray does not know it (never submitted, or the head lost its memory)."""
        code, text = await self._send("GET", host, token, f"/api/jobs/{submission_id}")
        if code == 404:
            return None
        details = _object(code, text, "GET /api/jobs")
        try:
            state = RayJobState(str(details.get("status")))
        except ValueError as error:
            raise RayUnavailableError(f"Ray reports an unknown job status {details.get('status')!r}") from error
        tail, node = "", str(details.get("driver_node_id") or "")
        if state in (RayJobState.FAILED, RayJobState.STOPPED):
            tail = await self._log_tail(host, token, submission_id, node)
        return RayJob(
            state=state,
            message=str(details.get("message") or ""),
            exit_code=details.get("driver_exit_code"),
            log_tail=tail,
            node=node,
        )

    async def stop(self, host: str, token: str, submission_id: str) -> None:
        """Ask Ray to end the driver; an unknown or ended submission is fine."""
        code, text = await self._send("POST", host, token, f"/api/jobs/{submission_id}/stop")
        if code >= 300 and code != 404:
            raise RayUnavailableError(f"Ray did not stop {submission_id} (HTTP {code}): {_last_line(text)}")

    async def log(self, host: str, token: str, submission_id: str, node: str, lines: int) -> str:
        """The last lines of the driver's log, without colours; `node` is the RayJob's.

        By the state API and not by the Jobs API, which has no bound: it gives the whole log or nothing.
        """
        # Ray finds the node by the submission, too, but only after it has demanded to be told. An older Ray marks every
        # chunk unless plain text is asked for; a newer one knows nothing else.
        query = f"?submission_id={submission_id}&node_id={node}&lines={lines}&filter_ansi_code=true&format=text"
        code, text = await self._send("GET", host, token, f"/api/v0/logs/file{query}")
        if code != 200:
            raise RayUnavailableError(f"GET the log of {submission_id}: HTTP {code}: {_last_line(text)}")
        return text

    async def _log_tail(self, host: str, token: str, submission_id: str, node: str) -> str:
        """The end of the driver's log; empty when it cannot be had, for the failure itself must still be told."""
        try:
            text = await self.log(host, token, submission_id, node, LOG_TAIL_LINES)
        except RayUnavailableError:
            return ""
        return text.strip()[-LOG_TAIL_BYTES:]

    async def _send(self, method: str, host: str, token: str, path: str, body: Any = None) -> tuple[int, str]:
        url = f"http://{_bracketed(host)}:{self._port}{path}"
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with self._session.request(method, url, json=body, headers=headers, timeout=TIMEOUT) as response:
                return response.status, (await _bounded(response.content)).decode(errors="replace")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise RayUnavailableError(f"{method} {url}: {type(error).__name__}: {error}") from error


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    """The answer's body; what goes beyond the limit is dropped from its beginning, for the end of a log tells more."""
    body = bytearray()
    async for chunk in content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > 2 * LIMIT_BYTES:
            del body[:-LIMIT_BYTES]
    return bytes(body[-LIMIT_BYTES:])


def _object(code: int, text: str, what: str) -> dict[str, Any]:
    if code != 200:
        raise RayUnavailableError(f"{what}: HTTP {code}: {_last_line(text)}")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RayUnavailableError(f"{what}: the answer is not JSON") from error
    if not isinstance(value, dict):
        raise RayUnavailableError(f"{what}: the answer is not a JSON object")
    return value


def _last_line(text: str) -> str:
    """Ray answers errors with a Python traceback; its last line says what happened."""
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "no text"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
