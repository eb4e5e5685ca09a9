"""Our operator on a real API server as the chart installs it: its account's rights, its namespaces, what it adds to
jobs; and two of them, of which one leads and the other takes over.

Pods are fake ones, so a job goes as far as a RayCluster and an attempt that nobody answers.
"""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chart import named, render
from chart_cluster import RIGHTS, Object, attempt, bare_job, found, kubeconfig_of, wait_for_object
from operator_process import Running, environment, operator_command, running_operator
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.waiting import wait_until
from rltrain_operator.__main__ import LEASE_NAME

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]

SECONDS = 90
END_SECONDS = 30


@pytest.fixture
def unique() -> str:
    return uuid.uuid4().hex[:6]


@pytest.fixture
def namespaces(control_plane: Kubectl, unique: str) -> Iterator[list[str]]:
    """Of the operator, of two teams that it serves, and of one that it does not; removed with all that is in them."""
    names = [f"{role}-{unique}" for role in ("system", "one", "two", "other")]
    documents = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names]
    control_plane.apply(documents, "namespaces")
    yield names
    control_plane("delete", "namespace", *names, "--wait=false", what="removing namespaces")


@dataclass(frozen=True)
class Release:
    """The chart's manifests for one release, its account as a kubeconfig, and its operator's flags."""

    kubectl: Kubectl
    system: str
    settings: tuple[str, ...]
    kubeconfig: Path

    def flags(self, *settings: str) -> list[str]:
        """What the Deployment says with further values, but for the ports and the key of this machine."""
        manifests = render(*self.settings, *settings, release=self.system, namespace=self.system)
        name = f"{self.system}-rltrain-operator"
        (container,) = named(manifests, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        other = ("--health-port=", "--metrics-port=", "--token-key-file=")
        return [flag for flag in container["args"] if not flag.startswith(other)]


@pytest.fixture
def release(control_plane: Kubectl, namespaces: list[str], tmp_path: Path) -> Release:
    """Confined to the two teams' namespaces; its Roles and its account are there, nothing else of it."""
    system, one, two, _ = namespaces
    settings = (f'watchNamespaces=["{one}","{two}"]',)
    manifests = render(*settings, release=system, namespace=system)
    own = [item for item in manifests if item["kind"] in RIGHTS - {"ClusterRole", "ClusterRoleBinding"}]
    control_plane.apply(own, "the operator's account and its Roles")
    account = f"{system}-rltrain-operator"
    return Release(control_plane, system, settings, kubeconfig_of(control_plane, system, account, tmp_path))


def variables(ray_cluster: Object) -> list[dict[str, str]]:
    """The variables of each group's pods."""
    groups = [ray_cluster["spec"]["headGroupSpec"], *ray_cluster["spec"]["workerGroupSpecs"]]
    containers = [group["template"]["spec"]["containers"][0] for group in groups]
    return [{entry["name"]: entry.get("value", "") for entry in container["env"]} for container in containers]


def test_confined_to_namespaces_the_chart_s_roles_are_enough(
    release: Release, namespaces: list[str], tmp_path: Path
) -> None:
    kubectl, (_, one, two, other) = release.kubectl, namespaces
    kubectl.apply([bare_job("before", namespace) for namespace in (one, two, other)], "jobs in three namespaces")
    with running_operator(release.kubeconfig, tmp_path, *release.flags()) as operator:
        for namespace in (one, two):
            wait_for_object(kubectl, "rayclusters", namespace, "before")
            kubectl.apply([bare_job("during", namespace)], "a job that a watch has to tell of")
            wait_for_object(kubectl, "rayclusters", namespace, "during")
            policy = found(kubectl, "networkpolicies", namespace)["during"]
            job = found(kubectl, "rltrainingjobs", namespace)["during"]
            assert [owner["uid"] for owner in policy["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]
            assert {"before", "during"} == set(found(kubectl, "poddisruptionbudgets", namespace))
        assert found(kubectl, "rayclusters", other) == {}
        assert "status" not in found(kubectl, "rltrainingjobs", other)["before"]
        assert "forbidden" not in operator.log.read_text()
        assert operator.end() == 0


def refused_to_start(release: Release, directory: Path, *options: str) -> str:
    """The last line of an operator that cannot start with these options."""
    command = [*operator_command(release.kubeconfig, directory), "--metrics-port=0", "--health-port=0"]
    call = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=SECONDS, check=False, env=environment()
    )
    assert call.returncode == 2, call.stderr
    return call.stderr.splitlines()[-1]


def test_a_namespace_without_rights_is_refused_at_the_start(
    release: Release, namespaces: list[str], tmp_path: Path
) -> None:
    *_, other = namespaces
    line = refused_to_start(release, tmp_path, *release.flags(), f"--namespace={other}")
    assert other in line
    assert "watchNamespaces" in line
    everywhere = refused_to_start(release, tmp_path, f"--lease-namespace={release.system}")
    assert "at the cluster scope" in everywhere
    assert "watchNamespaces" in everywhere


def test_variables_of_all_jobs_reach_new_pods_and_restart_none(
    release: Release, namespaces: list[str], tmp_path: Path
) -> None:
    kubectl, (_, one, *_) = release.kubectl, namespaces
    with running_operator(release.kubeconfig, tmp_path, *release.flags('jobEnvironment={"NCCL_IB_HCA":"mlx5"}')):
        kubectl.apply([bare_job("first", one)], "a job")
        first = wait_for_object(kubectl, "rayclusters", one, "first")
        assert [pod.get("NCCL_IB_HCA") for pod in variables(first)] == ["mlx5"] * 3
    with running_operator(release.kubeconfig, tmp_path, *release.flags('jobEnvironment={"NCCL_IB_HCA":"mlx6"}')):
        kubectl.apply([bare_job("second", one)], "another job")
        second = wait_for_object(kubectl, "rayclusters", one, "second")
        assert [pod.get("NCCL_IB_HCA") for pod in variables(second)] == ["mlx6"] * 3
        wait_until("a pass over the first", lambda: attempted(kubectl, one, "first"), SECONDS)
        still = found(kubectl, "rayclusters", one)["first"]
        assert still["metadata"]["uid"] == first["metadata"]["uid"]
        assert "deletionTimestamp" not in still["metadata"]
        assert still["spec"] == first["spec"]


def attempted(kubectl: Kubectl, namespace: str, name: str) -> bool:
    """Whether a job's cluster is ready and an attempt has its number: the operator has looked at what runs."""
    status = found(kubectl, "rltrainingjobs", namespace)[name].get("status", {})
    ready = [one["status"] for one in status.get("conditions", []) if one["type"] == "ClusterReady"]
    return bool(ready == ["True"] and status.get("attempt", 0) >= 1)


# --- two of them ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Operators that share a Lease."""

    kubectl: Kubectl
    system: str
    running: Sequence[Running]

    def lease(self) -> Object:
        found: Object = self.kubectl.get("lease", LEASE_NAME, f"--namespace={self.system}", what="the lease")["spec"]
        return found

    def leader(self) -> Running:
        """Whose identity the Lease bears, by what the processes say of themselves."""
        holder = self.lease()["holderIdentity"]
        (leader,) = [one for one in self.running if f'"identity": "{holder}"' in one.log.read_text()]
        return leader

    def acquired(self) -> datetime:
        return datetime.fromisoformat(self.lease()["acquireTime"])


def others(pair: Pair, leader: Running) -> Running:
    (other,) = [one for one in pair.running if one is not leader]
    return other


@pytest.fixture
def pair(release: Release, tmp_path: Path) -> Iterator[Pair]:
    """Two operators, both ready: one leads, one stands by."""
    with ExitStack() as stack:
        running = []
        for name in ("a", "b"):
            directory = tmp_path / name
            directory.mkdir()
            (directory / "key").write_bytes(b"k" * 32)
            running.append(stack.enter_context(running_operator(release.kubeconfig, directory, *release.flags())))
        yield Pair(release.kubectl, release.system, running)


def children(kubectl: Kubectl, namespace: str) -> dict[tuple[str, str], str]:
    """The uid of everything that the operator has made in a namespace."""
    kinds = ("rayclusters", "configmaps", "persistentvolumeclaims", "secrets", "poddisruptionbudgets")
    return {
        (kind, name): item["metadata"]["uid"]
        for kind in kinds
        for name, item in found(kubectl, kind, namespace).items()
        if "rltrain.io/job" in item["metadata"].get("labels", {})
    }


ENDS: dict[str, tuple[bool, float]] = {"killed": (False, 16.0), "ended gracefully": (True, 1.0)}


@pytest.mark.parametrize(("graceful", "aim"), ENDS.values(), ids=ENDS.keys())
def test_the_second_takes_over_and_makes_nothing_twice(
    pair: Pair, namespaces: list[str], graceful: bool, aim: float
) -> None:
    """Order and facts are asserted. The seconds are printed beside the aim, for whoever measures."""
    kubectl, (_, one, *_) = pair.kubectl, namespaces
    leader, transitions = pair.leader(), pair.lease()["leaseTransitions"]
    standby = others(pair, leader)
    assert '"message": "leading"' not in standby.log.read_text()
    kubectl.apply([bare_job("before", one)], "a job")
    wait_for_object(kubectl, "rayclusters", one, "before")
    made = children(kubectl, one)
    ended_at, started = datetime.now(UTC), time.monotonic()
    if graceful:
        assert leader.end() == 0
    else:
        leader.process.kill()
        leader.process.wait(END_SECONDS)
    gone = time.monotonic() - started
    kubectl.apply([bare_job("between", one)], "a job while nobody leads, or the second one already")
    wait_for_object(kubectl, "rayclusters", one, "between")
    picked_up = time.monotonic() - started
    assert pair.leader() is standby
    assert pair.lease()["leaseTransitions"] == transitions + 1
    after = children(kubectl, one)
    assert {key: after.get(key) for key in made} == made, "what was there is what is there"
    assert {name for kind, name in after if kind == "rayclusters"} == {"before", "between"}
    for log in (leader.log, standby.log):
        assert '"message": "defect"' not in log.read_text()
    taken = (pair.acquired() - ended_at).total_seconds()
    print(
        f"hand-over, {'SIGTERM' if graceful else 'SIGKILL'}: the process was gone after {gone:.2f} s, the lease taken "
        f"after {taken:.2f} s (aim: {aim:g} s), a job of that time had its RayCluster after {picked_up:.2f} s"
    )


def test_a_standby_that_ends_leaves_the_leader_alone(pair: Pair) -> None:
    leader = pair.leader()
    holder, standby = pair.lease()["holderIdentity"], others(pair, leader)
    assert standby.end() == 0
    assert leader.process.poll() is None
    assert pair.lease()["holderIdentity"] == holder


def test_policies_and_pods_of_the_chart_are_taken_by_the_api_server(control_plane: Kubectl, unique: str) -> None:
    """Whether the network enforces a policy is its plug-in's affair, and none is here to ask: this is about form."""
    on = ("webhook.enabled=true", "webhook.replicas=2", "replicas=2", 'jobEnvironment={"A":"b"}')
    namespace = "default"
    manifests: list[Any] = render(*on, release=f"form-{unique}", namespace=namespace)
    ours = [item for item in manifests if item["kind"] != "CustomResourceDefinition"]
    call = attempt(control_plane, "create", "--dry-run=server", "--validate=strict", "--filename=-", documents=ours)
    assert call.returncode == 0, call.stderr
    assert len(call.stdout.splitlines()) == len(ours)
