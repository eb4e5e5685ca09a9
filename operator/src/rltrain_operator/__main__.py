"""The operator's process: flags, leadership, then the caches, the workers and the watches until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import uuid
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from rltrain_operator import app, health, installation, logs
from rltrain_operator.cache import Cache, Key
from rltrain_operator.driver_client import DriverClient
from rltrain_operator.events import EventRecorder
from rltrain_operator.kube import ApiError, Connection, ForbiddenError, KubeClient, TokenBucket, load
from rltrain_operator.leader import LeaderElector
from rltrain_operator.metrics import Metrics
from rltrain_operator.plan import Surroundings
from rltrain_operator.queue import WorkQueue
from rltrain_operator.rayjobs import RayJobsClient
from rltrain_operator.reconcile.apply import Applier
from rltrain_operator.reconcile.controller import Controller
from rltrain_operator.reconcile.fetch_watch import FetchWatch
from rltrain_operator.reconcile.fitting import NodeWatch
from rltrain_operator.reconcile.observe import Poller
from rltrain_operator.tokens import TokenIssuer
from rltrain_operator.workers import Workers

logger = logging.getLogger("rltrain_operator")

LEASE_NAME = "rltrain-operator"
MISSING_RIGHTS = (
    "Give the operator's account that right, or let it watch only the namespaces in which it has it: --namespace, "
    "watchNamespaces in the chart's values"
)
REQUESTS_PER_SECOND = 200.0
REQUEST_BURST = 400


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags of the process."""
    parser = argparse.ArgumentParser(prog="rltrain-operator", description="Runs RLTrainingJobs on Ray clusters.")
    parser.add_argument(
        "--namespace", action="append", default=[], help="watch this namespace only; repeatable (default: all)"
    )
    parser.add_argument(
        "--job-environment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable for the pods of all jobs, below what a job sets itself; repeatable; never a secret",
    )
    parser.add_argument(
        "--job-network-policy-from",
        metavar="NAMESPACE:LABEL=VALUE,…",
        help="make a NetworkPolicy for each job that lets in its own pods and these, which are to be the operator's",
    )
    parser.add_argument("--lease-namespace", default="default", help="where the leader's Lease is kept")
    parser.add_argument(
        "--token-key-file",
        type=Path,
        required=True,
        help="file with at least 32 secret bytes, from which tokens derive",
    )
    parser.add_argument("--metrics-port", type=int, default=8080, help="port of /metrics")
    parser.add_argument("--health-port", type=int, default=8081, help="port of /healthz and /readyz")
    parser.add_argument("--kubeconfig", help="kubeconfig file (default: $KUBECONFIG, else the pod's service account)")
    parser.add_argument("--context", help="context of that file (default: its current one)")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM (0), or until leadership or a watch is lost (1), after which the container is restarted."""
    flags = parse_arguments(arguments)
    logs.configure(flags.log_level)
    try:
        flags.namespace = installation.watched_namespaces(flags.namespace)
        surroundings = Surroundings(
            environment=installation.job_environment(flags.job_environment),
            peer=installation.peer(flags.job_network_policy_from),
        )
        connection = load(flags.kubeconfig, flags.context)
        tokens = TokenIssuer.from_file(flags.token_key_file)
    except (ValueError, OSError) as error:
        logger.error("cannot start: %s", error)
        return 2
    return asyncio.run(run(flags, connection, tokens, surroundings))


async def run(
    flags: argparse.Namespace, connection: Connection, tokens: TokenIssuer, surroundings: Surroundings
) -> int:
    """Stand by for the lease, lead, and hand it over."""
    stopping = asyncio.Event()
    _listen_for_signals(stopping)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        bucket = TokenBucket(REQUESTS_PER_SECOND, REQUEST_BURST)
        kube = await stack.enter_async_context(KubeClient(connection, bucket=bucket, observer=metrics.observe_request))
        # The lease has a client of its own: work that is throttled must not cost the leadership.
        lease_kube = await stack.enter_async_context(KubeClient(connection, bucket=TokenBucket(10.0, 10)))
        elector = LeaderElector(
            lease_kube,
            namespace=flags.lease_namespace,
            name=LEASE_NAME,
            identity=f"{os.environ.get('HOSTNAME', 'host')}-{uuid.uuid4().hex[:8]}",
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        cache, queue = Cache(), WorkQueue[Key]()
        ray, driver = RayJobsClient(session), DriverClient(session)
        applier = Applier(kube, cache, ray, driver, tokens, surroundings)
        poller = Poller(ray, driver, tokens, FetchWatch(kube))
        controller = Controller(
            kube=kube,
            cache=cache,
            poller=poller,
            applier=applier,
            recorder=EventRecorder(kube),
            metrics=metrics,
            nodes=NodeWatch(kube),
        )
        workers = Workers(queue, controller, cache, kube, flags.namespace or [None], metrics)
        leading = asyncio.Event()

        def ready() -> health.Readiness:
            return health.readiness(
                stopping=stopping.is_set(),
                working=leading.is_set(),
                holds=elector.holds(),
                stands_by=elector.stands_by(),
            )

        for runner in (
            await health.serve(health.make_health_app(workers.trouble, ready), flags.health_port),
            await health.serve(health.make_metrics_app(metrics.registry, workers.refresh_metrics), flags.metrics_port),
        ):
            stack.push_async_callback(runner.cleanup)
        if not await _first(elector.acquire(), stopping.wait()):
            return 0
        try:
            return await _lead(flags, connection, elector, workers, cache, queue, leading, stopping, metrics)
        finally:
            await elector.release()


async def _lead(
    flags: argparse.Namespace,
    connection: Connection,
    elector: LeaderElector,
    workers: Workers,
    cache: Cache,
    queue: WorkQueue[Key],
    leading: asyncio.Event,
    stopping: asyncio.Event,
    metrics: Metrics,
) -> int:
    holding = asyncio.create_task(_hold(elector), name="lease")
    try:
        kinds = await workers.fill_caches()
    except (ValueError, ApiError) as error:
        remedy = f". {MISSING_RIGHTS}" if isinstance(error, ForbiddenError) else ""
        logger.error("cannot start: %s%s", error, remedy)
        await _cancelled(holding)
        return 2
    workers.start()
    leading.set()
    metrics.leader.set(1)
    await app.watch(
        cache,
        queue,
        connection=connection,
        namespaces=flags.namespace,
        kinds=kinds,
        stop_flag=stopping,
        listen_for_signals=lambda: _listen_for_signals(stopping),
        stop=workers.stop,
    )
    leading.clear()
    await _cancelled(holding)
    asked = stopping.is_set()
    logger.info("stopped" if asked else "a watch ended; the process restarts")
    return 0 if asked else 1


def _listen_for_signals(stopping: asyncio.Event) -> None:
    """Set the event on SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel it and wait for its end: a renewal under way would get in the way of the release."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _hold(elector: LeaderElector) -> None:
    """A process that lost its lease must not do one thing more: another may be leading already."""
    await elector.hold()
    logger.error("the lease is lost")
    os._exit(1)


async def _first(wanted: Coroutine[Any, Any, None], other: Coroutine[Any, Any, Any]) -> bool:
    """Whether `wanted` ended before `other`; the one that did not is cancelled."""
    tasks = [asyncio.create_task(wanted), asyncio.create_task(other)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
    return tasks[0] in done


if __name__ == "__main__":
    sys.exit(main())
