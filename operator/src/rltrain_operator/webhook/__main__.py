"""The webhook's process: flags, a certificate, then the server until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web

from rltrain_operator import health, logs
from rltrain_operator.kube import ApiError, KubeClient, TokenBucket, load
from rltrain_operator.webhook.rotation import Terms
from rltrain_operator.webhook.server import ServedIdentity, make_app
from rltrain_operator.webhook.sources import FileSource, Identity, SecretSource, Source

logger = logging.getLogger("rltrain_operator.webhook")

# How often files are read again, and how soon to look again after a failure.
FILES_SECONDS = 10.0
RETRY_SECONDS = 2.0
# For so long after SIGTERM the API server may still send requests here.
DRAIN_SECONDS = 5.0
NINETY_DAYS = 90 * 24 * 3600


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags of the process."""
    parser = argparse.ArgumentParser(prog="rltrain-webhook", description="Judges RLTrainingJobs as they are written.")
    parser.add_argument("--port", type=int, default=8443, help="port of the HTTPS server")
    parser.add_argument("--health-port", type=int, default=8081, help="port of /healthz and /readyz")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--certificate-directory", type=Path, help="directory of tls.crt and tls.key, read again")
    source.add_argument(
        "--certificate-secret", metavar="NAMESPACE/NAME", help="Secret in which to keep certificates made here"
    )
    parser.add_argument("--configuration", help="ValidatingWebhookConfiguration to tell of the Secret's authority")
    parser.add_argument("--name", action="append", default=[], help="name or address the server has; repeatable")
    parser.add_argument(
        "--certificate-seconds", type=int, default=NINETY_DAYS, help="for how long a certificate made here is valid"
    )
    parser.add_argument("--kubeconfig", help="kubeconfig file (default: $KUBECONFIG, else the pod's service account)")
    parser.add_argument("--context", help="context of that file (default: its current one)")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    flags = parser.parse_args(arguments)
    if flags.certificate_secret is not None:
        if not all(flags.certificate_secret.partition("/")):
            parser.error("--certificate-secret must be NAMESPACE/NAME")
        if flags.configuration is None or not flags.name:
            parser.error("--certificate-secret needs --configuration and --name")
        if flags.certificate_seconds < 1:
            parser.error("--certificate-seconds must be at least 1")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM (0)."""
    flags = parse_arguments(arguments)
    logs.configure(flags.log_level)
    try:
        return asyncio.run(run(flags))
    except (ValueError, OSError) as error:
        logger.error("cannot start: %s", error)
        return 2


async def run(flags: argparse.Namespace) -> int:
    """Keep a certificate, serve, and drain."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    identity = ServedIdentity()
    async with AsyncExitStack() as stack:
        source, interval = await _source(flags, stack)
        serving = asyncio.Event()

        def ready() -> health.Readiness:
            return readiness(identity.shown, datetime.now(UTC), serving=serving.is_set(), stopping=stopping.is_set())

        probes = await health.serve(health.make_health_app(lambda: None, ready), flags.health_port)
        stack.push_async_callback(probes.cleanup)
        shown = asyncio.Event()
        keeping = asyncio.create_task(keep(source, identity, interval, shown), name="certificates")
        stack.callback(keeping.cancel)
        await _first_of(shown, stopping, keeping)
        if shown.is_set():
            server = web.AppRunner(make_app(), access_log=None)
            await server.setup()
            stack.push_async_callback(server.cleanup)
            await web.TCPSite(server, port=flags.port, ssl_context=identity.context).start()
            serving.set()
            logger.info("serving", extra={"port": flags.port})
            await _first_of(stopping, stopping, keeping)
            # Other processes hear a moment later than this one that it stops.
            await asyncio.sleep(DRAIN_SECONDS)
    logger.info("stopped")
    return 0


async def _source(flags: argparse.Namespace, stack: AsyncExitStack) -> tuple[Source, float]:
    """Where certificates come from, and after how many seconds to ask again."""
    if flags.certificate_directory is not None:
        return FileSource(flags.certificate_directory), FILES_SECONDS
    connection = load(flags.kubeconfig, flags.context)
    kube = await stack.enter_async_context(KubeClient(connection, bucket=TokenBucket(5.0, 10)))
    namespace, _, secret = flags.certificate_secret.partition("/")
    terms = Terms(tuple(flags.name), timedelta(seconds=flags.certificate_seconds))
    source = SecretSource(kube, namespace=namespace, secret=secret, configuration=flags.configuration, terms=terms)
    return source, terms.interval.total_seconds()


async def keep(source: Source, identity: ServedIdentity, interval: float, shown: asyncio.Event) -> None:
    """Show the newest certificate for ever; `shown` is set once there is one. What fails is tried again."""
    while True:
        delay = interval
        try:
            identity.show(await source.newest())
            shown.set()
        except (ApiError, ValueError) as error:
            logger.warning("certificates not looked after", extra={"error": str(error)})
            delay = min(interval, RETRY_SECONDS)
        await asyncio.sleep(delay)


def readiness(shown: Identity | None, now: datetime, *, serving: bool, stopping: bool) -> health.Readiness:
    """What /readyz says: requests may come while there is a server with a certificate that has not run out."""
    if stopping:
        return health.Readiness(False, "stopping")
    if shown is None or not serving:
        return health.Readiness(False, "there is no certificate yet; the log says why")
    if shown.expires() <= now:
        return health.Readiness(False, f"the certificate ran out at {shown.expires().isoformat()}; the log says why")
    return health.Readiness(True, "serving")


async def _first_of(one: asyncio.Event, other: asyncio.Event, keeping: asyncio.Task[None]) -> None:
    """Until either is set. A task that ended has failed unforeseen: its exception ends the process."""
    waits = [asyncio.create_task(event.wait()) for event in (one, other)]
    await asyncio.wait([*waits, keeping], return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if keeping.done():
        keeping.result()


if __name__ == "__main__":
    sys.exit(main())
