"""Where the served certificate comes from: a Secret that this process looks after itself, or files of somebody else's.

Both are asked again and again, so that a renewed certificate is served without a restart.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cryptography import x509

from rltrain_operator.kube import Body, Resource
from rltrain_operator.kube.resources import SECRETS, VALIDATING_WEBHOOKS
from rltrain_operator.webhook.rotation import Terms, next_data, served, trusted

logger = logging.getLogger(__name__)

FIELD_MANAGER = "rltrain-webhook"


@dataclass(frozen=True)
class Identity:
    """What a server shows and proves in TLS: a certificate (with what leads to its authority) and its key, in PEM."""

    certificate: bytes
    key: bytes

    def expires(self) -> datetime:
        """When clients stop to accept it (UTC)."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc


class Source(Protocol):
    """Something that has the certificate to serve."""

    async def newest(self) -> Identity:
        """The one to serve from now on. ValueError and ApiError where there is none now."""
        ...


class FileSource:
    """`tls.crt` and `tls.key` in a directory, as cert-manager's Secret looks when it is mounted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def newest(self) -> Identity:
        """What the files hold now."""
        try:
            found = Identity(*((self._directory / name).read_bytes() for name in ("tls.crt", "tls.key")))
            found.expires()
        except OSError as error:
            raise ValueError(f"{error.filename}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{self._directory / 'tls.crt'} is no certificate in PEM: {error}") from error
        return found


class WebhookApi(Protocol):
    """What is needed of the API server."""

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Body: ...

    async def replace(self, manifest: Body) -> Body: ...

    async def apply(self, manifest: Body, *, field_manager: str, subresource: str | None = None) -> Body: ...


class SecretSource:
    """A Secret whose certificates this process makes and renews, telling the API server whom to trust.

    Several replicas may do so at once: of two that write the Secret, one gets a ConflictError and finds the other's
    work the next time it looks.
    """

    def __init__(
        self,
        kube: WebhookApi,
        *,
        namespace: str,
        secret: str,
        configuration: str,
        terms: Terms,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        stopwatch: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._secret = secret
        self._configuration = configuration
        self._terms = terms
        self._clock = clock
        self._stopwatch = stopwatch
        self._told: tuple[bytes, float] | None = None

    async def newest(self) -> Identity:
        """One look: renew what is due, write the authorities into the webhook's configuration, return the pair."""
        secret = await self._kube.get(SECRETS, self._namespace, self._secret)
        configuration = await self._kube.get(VALIDATING_WEBHOOKS, None, self._configuration)
        held = {name: base64.b64decode(text) for name, text in (secret.get("data") or {}).items()}
        wanted = next_data(held, self._terms, self._clock(), told=self._has_been_told(configuration, trusted(held)))
        if wanted != held:
            await self._kube.replace({**secret, "data": _encoded(wanted)})
            logger.info("certificates written", extra={"secret": f"{self._namespace}/{self._secret}"})
        if _authorities(configuration) != {trusted(wanted)}:
            await self._kube.apply(_with_authority(configuration, trusted(wanted)), field_manager=FIELD_MANAGER)
            logger.info("authorities written", extra={"configuration": self._configuration})
        pair = served(wanted)
        assert pair is not None, "what is wanted always has a pair to serve"
        return Identity(pair.certificate, pair.key)

    def _has_been_told(self, configuration: Body, authorities: bytes) -> bool:
        """Whether the configuration has had these authorities since a look before this one, one interval ago."""
        now = self._stopwatch()
        if _authorities(configuration) != {authorities}:
            self._told = None
        elif self._told is None or self._told[0] != authorities:
            self._told = (authorities, now)
        return self._told is not None and now - self._told[1] >= self._terms.interval.total_seconds()


def _authorities(configuration: Body) -> set[bytes]:
    """What the webhooks of a configuration trust; one entry where they agree."""
    webhooks = configuration.get("webhooks") or []
    return {base64.b64decode(webhook["clientConfig"].get("caBundle") or "") for webhook in webhooks}


def _with_authority(configuration: Body, authorities: bytes) -> Body:
    """A server-side apply of that field alone, to this very configuration and no other of its name."""
    text = base64.b64encode(authorities).decode()
    return {
        "apiVersion": VALIDATING_WEBHOOKS.api_version,
        "kind": VALIDATING_WEBHOOKS.kind,
        "metadata": {"name": configuration["metadata"]["name"], "uid": configuration["metadata"]["uid"]},
        "webhooks": [
            {"name": webhook["name"], "clientConfig": {"caBundle": text}}
            for webhook in configuration.get("webhooks") or []
        ],
    }


def _encoded(data: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(text).decode() for name, text in data.items()}
