"""The HTTPS server: one route for the API server, and a TLS context whose certificate can be exchanged while it serves.

It must not know where certificates come from, nor what is right or wrong with a job.
"""

from __future__ import annotations

import json
import logging
import ssl
import tempfile
from pathlib import Path

from aiohttp import web

from rltrain_operator import logs
from rltrain_operator.webhook.review import answer
from rltrain_operator.webhook.sources import Identity

logger = logging.getLogger(__name__)

PATH = "/validate"
# A change brings the object twice, each of at most 1.5 MiB as etcd takes it.
MAX_REQUEST_BYTES = 8 * 1024 * 1024


class ServedIdentity:
    """A TLS context, and what it shows to those who connect from now on."""

    def __init__(self) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.shown: Identity | None = None

    def show(self, identity: Identity) -> None:
        """Take another certificate. ValueError when key and certificate are not a pair; then the old one stays."""
        if identity == self.shown:
            return
        # Python's ssl reads a certificate from files only; both are there for a moment, for this process alone.
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "pair.pem")
            file.touch(mode=0o600)
            file.write_bytes(identity.certificate + b"\n" + identity.key)
            try:
                # A context of its own first: one that fails half-way must not be the one that serves.
                # And an empty password, or a key that has one would be asked about on the terminal.
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(file, password="")
                self.context.load_cert_chain(file, password="")
            except ssl.SSLError as error:
                raise ValueError(f"the certificate and its key cannot be served: {error}") from error
        self.shown = identity
        logger.info("certificate served", extra={"expires": identity.expires().isoformat()})


async def validate(request: web.Request) -> web.Response:
    """The answer to one AdmissionReview."""
    try:
        review = json.loads(await request.read())
        response = answer(review)
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{PATH}: {error}") from error
    _tell(review["request"], response["response"])
    return web.json_response(response)


def _tell(request: dict[str, object], response: dict[str, object]) -> None:
    """A line of the log for what was refused; the errors themselves went to whoever asked."""
    if response["allowed"]:
        return
    with logs.about(f"{request.get('namespace')}/{request.get('name') or '(new)'}"):
        logger.info("refused", extra={"operation": request.get("operation"), "dry_run": bool(request.get("dryRun"))})


def make_app() -> web.Application:
    """The one route; anything else is 404."""
    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    app.add_routes([web.post(PATH, validate)])
    return app
