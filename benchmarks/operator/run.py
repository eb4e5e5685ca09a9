"""How fast our operator makes RayClusters of jobs, beside KubeRay's own RayJobs, on one API server with fake nodes.

    python benchmarks/operator/run.py [--jobs 1 100 1000] [--rounds 1] [--scenarios create events restart]
                                      [--event-rate 100] [--json FILE] [--markdown FILE] [--profile FILE]

Takes a control-plane cluster "bench" up and down again, and lets three operators take turns: ours, KubeRay's as it
comes, and KubeRay's with --reconcile-concurrency=10. Each has a process, a ServiceAccount and a namespace of its
own for every turn, and is confined to that, so that nothing of a turn needs to be removed before the next. No pods are
made of RayClusters on either side: what is timed is the way from the job to its RayCluster. Goals are printed beside
what was measured; nothing is asserted. All of it takes some twelve minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from accounting import flow_schemas
from aiohttp import ClientError
from scenarios import (
    IDLE_SECONDS,
    Bench,
    Creation,
    Mirroring,
    Restart,
    creation,
    mirroring,
    one_by_one,
    population,
    restart,
)
from sides import KubeRay, Ours, Side

from rltrain_api import crdgen, names
from rltrain_cluster import kuberay
from rltrain_cluster.backend import Backend
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.kubernetes_api import ApiError, KubernetesApi
from rltrain_cluster.processes import ProcessTable
from rltrain_cluster.settings import StateDirectory
from rltrain_cluster.testing import kubectl_of, temporary_cluster

NAME = "bench"
NAMESPACE = "benchmark"
SCENARIOS = ("create", "events", "restart")
SINGLE_RUNS = 20
STEP_SECONDS = 420.0  # for one turn of one operator, whatever it hangs on
EVENT_JOBS = 200

# What our operator is meant to reach on two quiet cores, by row.
GOALS = {
    "1: apply → RayCluster, p50 / p99": "p50 < 150 ms",
    "1000: until all RayClusters exist": "< 60 s",
    "1000: operator's memory, highest": "≤ 150 MB",
    "1000: restart → all jobs looked at": "< 30 s",
    "1000: writes at the restart": "0",
    f"1000: idle for {IDLE_SECONDS:.0f} s: writes": "0",
    f"100 events/s on {EVENT_JOBS} jobs: event → status, p50 / p99": "p99 < 1,000 ms",
}

Table = dict[str, dict[str, str]]  # row -> side -> what was measured


def parse_arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 100, 1000], help="how many jobs at once")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each operator, for up to 100 jobs")
    parser.add_argument("--minutes", type=float, default=20.0, help="begin nothing after so long")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--sides", nargs="+", type=int, choices=(0, 1, 2), default=[0, 1, 2], help="of the three")
    parser.add_argument("--event-rate", type=int, default=100, help="events per second")
    parser.add_argument("--profile", type=Path, help="have cProfile count in our operator (slower), and write there")
    parser.add_argument("--json", type=Path, help="write every number there")
    parser.add_argument("--markdown", type=Path, help="write the tables there")
    return parser.parse_args()


def account_objects(account: str, administrator: bool) -> list[dict[str, Any]]:
    """A ServiceAccount whose requests are counted; an administrator where no narrower rights are applied elsewhere."""
    objects: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": NAMESPACE}},
        *flow_schemas(account, NAMESPACE),
    ]
    if administrator:
        group = "rbac.authorization.k8s.io"
        objects.append(
            {
                "apiVersion": f"{group}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": f"bench-{account}"},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
            }
        )
    return objects


def write_kubeconfig(kubectl: Kubectl, administrator: Path, account: str, path: Path) -> None:
    """The administrator's kubeconfig with the account's token in place of the certificate."""
    duration = "--duration=12h"
    token = kubectl("create", "token", account, f"--namespace={NAMESPACE}", duration, what="a token").strip()
    document = yaml.safe_load(administrator.read_text())
    document["users"][0]["user"] = {"token": token}
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)


def prepare(cluster: Backend, kubectl: Kubectl, scratch: Path) -> dict[str, Path]:
    """Definitions, accounts and their kubeconfigs."""
    kubeconfigs = {}
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crdgen.MANIFEST), what="our definition")
    kuberay.apply_definitions(kubectl, f"system:serviceaccount:{NAMESPACE}:kuberay", print)
    definition = f"customresourcedefinition/{names.PLURAL}.{names.GROUP}"
    kubectl("wait", "--for=condition=Established", definition, what="waiting for our definition")
    kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}], "a namespace")
    for account in ("rltrain", "kuberay"):
        kubectl.apply(account_objects(account, administrator=account == "rltrain"), f"the account {account}")
        kubeconfigs[account] = scratch / f"{account}.kubeconfig"
        write_kubeconfig(kubectl, cluster.kubeconfig, account, kubeconfigs[account])
    return kubeconfigs


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def milliseconds(values: Sequence[float]) -> str:
    """p50 and p99; of up to a hundred values, p99 is the greatest."""
    return f"{percentile(values, 0.5) * 1000:,.0f} / {percentile(values, 0.99) * 1000:,.0f} ms"


def creation_rows(count: int, rounds: Sequence[Creation]) -> dict[str, str]:
    """What is said of creating `count` jobs, over all rounds."""
    jobs = sum(len(each.latencies) for each in rounds)
    latencies = [latency for each in rounds for latency in each.latencies]
    applying = [latency for each in rounds for latency in each.applying]
    costs = [each.cost for each in rounds]
    calls = {kind: sum(cost.requests.get(kind, 0.0) for cost in costs) / jobs for kind in costs[0].requests}
    rows = {
        f"{count}: apply → RayCluster, p50 / p99": milliseconds(latencies),
        f"{count}: of that, the API server's answer to apply": milliseconds(applying),
        f"{count}: requests per job": f"{sum(n for kind, n in calls.items() if kind not in ('lease', 'list')):.1f}",
        f"{count}: of them": ", ".join(
            f"{kind} {calls[kind]:.1f}" for kind in ("get", "create", "update", "status", "event") if calls.get(kind)
        ),
        f"{count}: operator's CPU per 1,000 jobs": f"{sum(cost.cpu for cost in costs) / jobs * 1000:.1f} s",
        f"{count}: API server's CPU per 1,000 jobs": f"{sum(c.api_server_cpu for c in costs) / jobs * 1000:.1f} s",
        f"{count}: all processes' CPU per 1,000 jobs": f"{sum(cost.total_cpu for cost in costs) / jobs * 1000:.1f} s",
        f"{count}: operator's memory, highest": f"{max(cost.peak_memory for cost in costs):.0f} MB",
        f"{count}: cores taken by others meanwhile": f"{median(cost.other_cores for cost in costs):.1f}",
    }
    if count > 1:
        took = [each.seconds for each in rounds]
        rows[f"{count}: until all RayClusters exist"] = f"{median(took):.1f} s"
        rows[f"{count}: jobs per second"] = f"{count / median(took):.0f}"
    return rows


def mirroring_rows(rate: int, rounds: Sequence[Mirroring]) -> dict[str, str]:
    """What is said of events, over all rounds."""
    latencies = [latency for each in rounds for latency in each.latencies]
    label = f"{rate} events/s on {EVENT_JOBS} jobs"
    return {
        f"{label}: event → status, p50 / p99": milliseconds(latencies) if latencies else "none seen",
        f"{label}: sent, refused, overtaken": ", ".join(
            str(sum(values))
            for values in zip(*((each.sent, each.refused, each.unseen) for each in rounds), strict=True)
        ),
        f"{label}: operator's CPU": f"{sum(r.cost.cpu for r in rounds) / sum(r.cost.seconds for r in rounds):.0%}",
        f"{label}: cores taken by others meanwhile": f"{median(each.cost.other_cores for each in rounds):.1f}",
    }


def restart_rows(count: int, result: Restart) -> dict[str, str]:
    """What is said of a restart with `count` jobs, and of the quiet after it."""
    idle, start = result.idle, result.at_start
    return {
        f"{count}: restart → all jobs looked at": f"{result.seconds:.1f} s",
        f"{count}: writes at the restart": f"{start.writes:.0f}",
        f"{count}: idle for {IDLE_SECONDS:.0f} s: writes": f"{idle.writes:.0f}",
        f"{count}: idle for {IDLE_SECONDS:.0f} s: gets, lists": (
            f"{idle.requests.get('get', 0):.0f}, {idle.requests.get('list', 0):.0f}"
        ),
        f"{count}: idle for {IDLE_SECONDS:.0f} s: operator's CPU": f"{idle.cpu / idle.seconds:.1%}",
        f"{count}: memory after the restart": f"{idle.memory:.0f} MB",
        f"{count}: cores taken by others when idle": f"{idle.other_cores:.1f}",
    }


@dataclass
class Step:
    """One thing to measure of one side: what it is called, and what does it and returns rows for the table."""

    side: Side
    what: str
    run: Callable[[], Awaitable[dict[str, str]]]


@dataclass
class Results:
    """What has been measured so far: the table, every number, and the turns that rows are made of."""

    table: Table = field(default_factory=dict)
    numbers: list[dict[str, Any]] = field(default_factory=list)
    creations: dict[tuple[str, int], list[Creation]] = field(default_factory=dict)
    mirrorings: dict[str, list[Mirroring]] = field(default_factory=dict)

    def keep(self, side: Side, what: str, count: int, result: Creation | Mirroring | Restart) -> None:
        """Every number of one turn."""
        self.numbers.append({"side": side.title, "scenario": what, "jobs": count, **asdict(result)})

    def note(self, side: Side, rows: dict[str, str]) -> None:
        """Rows of the table, in place of what earlier turns said in them."""
        for row, value in rows.items():
            self.table.setdefault(row, {})[side.title] = value
            print(f"{side.title:>24}  {row}: {value}", flush=True)

    def write(self, options: argparse.Namespace) -> None:
        """The files that were asked for, as far as they can be written by now."""
        if options.markdown:
            options.markdown.write_text(markdown(self.table))
        if options.json:
            options.json.write_text(json.dumps(self.numbers, indent=1))


def creation_step(bench: Bench, side: Side, where: str, count: int, results: Results, *, restarts: bool) -> Step:
    """Create jobs in a namespace of their own; with `restarts` stop and start the operator over them."""

    async def run() -> dict[str, str]:
        async with population(bench, side, where):
            alone = one_by_one(bench, side, where, SINGLE_RUNS) if count == 1 else None
            result = await (alone or creation(bench, side, where, count))
            results.keep(side, "create", count, result)
            turns = results.creations.setdefault((side.title, count), [])
            turns.append(result)
            results.note(side, creation_rows(count, turns))
            if not restarts:
                return {}
            restarted = await restart(bench, side, where, count + 1)
            results.keep(side, "restart", count, restarted)
            return restart_rows(count, restarted)

    return Step(side, f"{count} job(s){', then a restart' if restarts else ''}", run)


def events_step(bench: Bench, side: Side, where: str, rate: int, results: Results) -> Step:
    """Let the RayClusters of some jobs change so often a second."""

    async def run() -> dict[str, str]:
        async with population(bench, side, where):
            await creation(bench, side, where, EVENT_JOBS)
            result = await mirroring(bench, side, where, rate)
            results.keep(side, "events", EVENT_JOBS, result)
            turns = results.mirrorings.setdefault(side.title, [])
            turns.append(result)
            return mirroring_rows(rate, turns)

    return Step(side, f"{rate} events/s", run)


def steps(bench: Bench, options: argparse.Namespace, results: Results) -> Iterator[Step]:
    """Everything that was asked for, the operators taking turns."""
    every: list[Side] = [Ours(options.profile), KubeRay(None), KubeRay(10)]
    sides = [(index, every[index]) for index in options.sides]
    for count in options.jobs:
        restarts = "restart" in options.scenarios and count == max(options.jobs)
        turns = options.rounds if count <= 100 else 1
        for turn in range(turns if restarts or "create" in options.scenarios else 0):
            for index, side in sides:
                where = f"bench-{index}-{count}-{turn}"
                yield creation_step(bench, side, where, count, results, restarts=restarts and turn == turns - 1)
    for turn in range(options.rounds if "events" in options.scenarios else 0):
        for index, side in sides:
            yield events_step(bench, side, f"bench-{index}-events-{turn}", options.event_rate, results)


async def measure(bench: Bench, options: argparse.Namespace) -> Results:
    """All steps. One that fails or does not end is said in its place, and the rest go on; so it is past the limit."""
    results, began = Results(), time.monotonic()
    for step in steps(bench, options, results):
        passed = time.monotonic() - began
        left = options.minutes * 60 - passed
        print(f"[{passed // 60:3.0f}:{passed % 60:02.0f}] {step.side.title}: {step.what}; load {_load()}", flush=True)
        try:
            if left <= 0:
                raise TimeoutError(f"left out: --minutes {options.minutes:g} are over")
            async with asyncio.timeout(min(STEP_SECONDS, left)):
                results.note(step.side, await step.run())
        except (TimeoutError, RuntimeError, OSError, ApiError, ClientError, ClusterError) as error:
            why = str(error) or f"no end in {min(STEP_SECONDS, left):.0f} s"
            print(f"NOT MEASURED: {step.side.title}: {step.what}: {why}", file=sys.stderr, flush=True)
            results.table.setdefault(f"{step.what}: not measured", {})[step.side.title] = why.splitlines()[0][:200]
        results.write(options)
    return results


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def markdown(table: Table) -> str:
    """One table, a column for each operator."""
    columns = list(dict.fromkeys(title for row in table.values() for title in row))
    lines = ["| | goal | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for row, cells in table.items():
        lines.append(" | ".join([f"| {row}", GOALS.get(row, ""), *(cells.get(title, "") for title in columns)]) + " |")
    return "\n".join(lines) + "\n"


async def benchmark(cluster: Backend, options: argparse.Namespace, scratch: Path) -> None:
    """Measure on a cluster that is up, and print the table."""
    kubectl = kubectl_of(cluster)
    state = StateDirectory.of(NAME)
    kubeconfigs = prepare(cluster, kubectl, scratch)
    async with KubernetesApi(cluster.kubeconfig) as api:
        bench = Bench(api, kubectl, ProcessTable(state.run, state.logs), kubeconfigs, scratch)
        results = await measure(bench, options)
    print(markdown(results.table))


def main() -> None:
    """A cluster of the benchmark's own, the measurement, and the cluster's end."""
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the operator and the cluster, too
    with (
        temporary_cluster(NAME, "controlplane", nodes=1, gpus_per_node=8) as cluster,
        tempfile.TemporaryDirectory() as scratch,
    ):
        asyncio.run(benchmark(cluster, options, Path(scratch)))


if __name__ == "__main__":
    main()
