"""Processes and their waits, the command line, and the lines that the kind back end runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rltrain_cluster import clusters, kind_backend
from rltrain_cluster.cli import execute, parser, split_passed_on
from rltrain_cluster.control_plane_only import free_ports, kuberay_flags
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.existing import ExistingCluster
from rltrain_cluster.local_state import (
    Description,
    clear_state,
    lasting_problem,
    locked,
    read_description,
    require_same_settings,
    write_description,
)
from rltrain_cluster.processes import ProcessRecord, ProcessTable, end_processes, is_alive, run, start_time
from rltrain_cluster.settings import ClusterSettings, StateDirectory
from rltrain_cluster.volume_provisioner import directory_name, is_released, volume_for, wants_volume
from rltrain_cluster.waiting import wait_until


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDirectory:
    monkeypatch.setenv("RLTRAIN_CACHE", str(tmp_path))
    return StateDirectory.of("unit")


def test_wait_that_fails_says_for_what_and_why() -> None:
    with pytest.raises(ClusterError, match=r"the tide: still waiting after 0\.05 s\nlow water"):
        wait_until("the tide", lambda: False, 0.05, interval=0.01, explain=lambda: "low water")


def test_wait_ends_with_the_condition() -> None:
    answers = iter([False, False, True])
    wait_until("the third time", lambda: next(answers), 5, interval=0.001)
    assert next(answers, None) is None


def test_process_is_found_and_stopped(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path / "run", tmp_path / "logs")
    record = table.start("sleeper", ["sleep", "60"])
    assert ProcessTable(tmp_path / "run", tmp_path / "logs").find("sleeper") == record
    assert os.getsid(record.pid) == record.pid
    table.stop("sleeper", limit=5)
    assert not is_alive(record)
    assert table.records() == {}


def test_process_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path / "run", tmp_path / "logs")
    record = table.start("stubborn", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])
    wait_until("the trap", lambda: "ready" in table.log_tail("stubborn"), 10)
    table.stop("stubborn", limit=0.2)
    assert not is_alive(record)


def test_another_process_with_our_id_is_not_ours() -> None:
    started = start_time(os.getpid())
    assert started is not None
    assert is_alive(ProcessRecord("this", os.getpid(), started))
    assert not is_alive(ProcessRecord("before", os.getpid(), started - 1))


def test_dead_process_shows_the_end_of_its_log(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path / "run", tmp_path / "logs")
    record = table.start("brief", ["sh", "-c", "sleep 0.2; echo out of cheese"])
    wait_until("its end", lambda: not is_alive(record), 10)
    with pytest.raises(ClusterError, match=r"(?s)brief: ended unexpectedly.*out of cheese"):
        table.require_alive("brief")


def test_run_reports_what_the_command_said() -> None:
    with pytest.raises(ClusterError, match=r"(?s)counting: sh -c .* ended with 3: no sheep"):
        run(["sh", "-c", "echo no sheep >&2; exit 3"], what="counting")
    with pytest.raises(ClusterError, match="counting: no-such-program is not installed"):
        run(["no-such-program"], what="counting")
    with pytest.raises(ClusterError, match=r"counting: no end after 0\.1 s"):
        run(["sleep", "60"], what="counting", limit=0.1)


def test_processes_do_not_get_the_callers_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    table = ProcessTable(tmp_path / "run", tmp_path / "logs")
    table.start("environment", ["sh", "-c", "env; sleep 60"])
    wait_until("its environment", lambda: "LANG=" in table.read_log("environment"), 10)
    assert "proxy.invalid" not in table.read_log("environment")
    table.stop("environment", limit=1)


def test_only_one_command_changes_a_cluster(state: StateDirectory) -> None:
    with (
        locked(state, "unit"),
        pytest.raises(ClusterError, match="cluster unit is being taken up or down by another command"),
        locked(state, "unit"),
    ):
        pass
    with locked(state, "unit"):
        pass


def test_description_survives_and_images_outlive_it(state: StateDirectory) -> None:
    description = Description("embedded", ClusterSettings("unit", 2, 4), {"pods": "10.244.0.0/21"})
    write_description(state, description)
    assert read_description(state) == description
    for path in (state.node_images("node-1") / "blob", state.logs / "etcd.log", state.kubeconfig):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    clear_state(state)
    assert read_description(state) is None
    assert [path.relative_to(state.root).as_posix() for path in state.root.rglob("*") if path.is_file()] == [
        "images/node-1/blob"
    ]


PROBLEMS: dict[str, tuple[list[list[str]], list[list[str]], str | None]] = {
    "well": ([[]], [[]], None),
    "dead": ([["etcd does not run"]], [], "etcd does not run"),
    "busy, then well": ([[], [], []], [["node-1 is not Ready"], ["no answer"], []], None),
    "busy, then dead": ([[], ["etcd does not run"]], [["no answer"]], "etcd does not run"),
    "busy for too long": ([[], [], []], [["no answer"], ["no answer"], ["no answer"]], "no answer"),
}


@pytest.mark.parametrize("case", PROBLEMS, ids=list(PROBLEMS))
def test_only_a_lasting_problem_costs_a_cluster(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, unwell, expected = PROBLEMS[case]
    clock = iter([0.0, 30.0, 59.0, 61.0])  # when it is asked; the limit is 60 s
    monkeypatch.setattr("rltrain_cluster.local_state.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("rltrain_cluster.local_state.time.sleep", lambda _: None)
    deaths, illnesses = iter(dead), iter(unwell)
    assert lasting_problem(lambda: next(deaths), lambda: next(illnesses)) == expected


def test_up_with_other_settings_says_what_to_do() -> None:
    present = Description("embedded", ClusterSettings("unit", 1, 4))
    require_same_settings(present, ClusterSettings("unit", 1, 4))
    with pytest.raises(ClusterError, match=r"is up with 1 node\(s\) of 4 GPUs; for 2 of 4 take it down first"):
        require_same_settings(present, ClusterSettings("unit", 2, 4))


def test_what_is_not_said_is_as_it_is(state: StateDirectory) -> None:
    write_description(state, Description("controlplane", ClusterSettings("unit", 7, 3)))
    found = clusters.wanted("unit", None, None, 5)
    assert vars(found)["_settings"] == ClusterSettings("unit", 7, 5)
    assert type(clusters.find("unit")) is clusters.BACKENDS["controlplane"]
    with pytest.raises(ClusterError, match="is there with back end controlplane, not kind"):
        clusters.wanted("unit", "kind", None, None)


def test_embedded_says_in_one_line_what_is_missing(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(state.root))
    with pytest.raises(
        ClusterError, match=r"nodes need root .*--backend controlplane.* apt-get install .*containerd"
    ) as e:
        clusters.wanted("unit", "embedded", None, None).up(lambda _: None)
    assert "\n" not in str(e.value)


def test_existing_cluster_is_never_ended_nor_filled(tmp_path: Path) -> None:
    cluster = ExistingCluster(ClusterSettings("unit"))
    with pytest.raises(ClusterError, match="not ended here"):
        cluster.down(lambda _: None)
    with pytest.raises(ClusterError, match="registry"):
        cluster.load_image(tmp_path / "a.tar", "a:1")


def test_status_of_no_cluster(state: StateDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(parser().parse_args(["status", "--name", "unit"])) == 1
    assert capsys.readouterr().out == "unit (embedded): not running\n  not there\n"


SPLITS = {
    "ours alone": (["up", "--nodes", "2"], ["up", "--nodes", "2"], []),
    "nothing": ([], [], []),
    "options first": (["kubectl", "-n", "a", "get", "pods"], ["kubectl"], ["-n", "a", "get", "pods"]),
    "another cluster": (
        ["helm", "--name", "two", "list", "--name"],
        ["helm", "--name", "two"],
        ["list", "--name"],
    ),
    "help is theirs": (["kubectl", "--help"], ["kubectl"], ["--help"]),
}


@pytest.mark.parametrize("case", SPLITS, ids=list(SPLITS))
def test_arguments_after_kubectl_are_its_own(case: str) -> None:
    arguments, ours, theirs = SPLITS[case]
    assert split_passed_on(arguments) == (ours, theirs)


def test_stray_children_are_found_and_nobody_elses(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path / "run", tmp_path / "logs")
    other = ProcessTable(tmp_path / "run2", tmp_path / "logs2")
    other.start("other", ["sleep", "60"])
    table.start("parent", ["sh", "-c", "sleep 60 & echo $!; wait"])
    wait_until("the child", lambda: table.read_log("parent").strip() != "", 10)
    child = int(table.read_log("parent"))
    assert [stray.pid for stray in table.strays()] == [child]
    table.stop("parent", limit=0)
    end_processes(table.strays(), limit=1)
    assert table.strays() == []
    assert other.find("other") is not None
    other.stop("other", limit=1)


def test_kind_commands() -> None:
    config, kubeconfig = Path("/s/kind.yaml"), Path("/s/admin.kubeconfig")
    assert kind_backend.create_command("a", config, kubeconfig) == [
        *("kind", "create", "cluster", "--name=rltrain-a", "--config=/s/kind.yaml"),
        *("--kubeconfig=/s/admin.kubeconfig", "--wait=300s"),
    ]
    assert kind_backend.delete_command("a", kubeconfig) == [
        *("kind", "delete", "cluster", "--name=rltrain-a", "--kubeconfig=/s/admin.kubeconfig")
    ]
    assert kind_backend.load_command("a", Path("/i.tar")) == [
        *("kind", "load", "image-archive", "/i.tar", "--name=rltrain-a")
    ]
    assert kind_backend.inspect_command("rltrain-a-worker", "i:1")[:3] == ["docker", "exec", "rltrain-a-worker"]


def test_kind_nodes_see_the_volumes_where_this_machine_has_them() -> None:
    document = kind_backend.configuration({"kind": "Cluster"}, 2, Path("/s/volumes"))
    mount = {"hostPath": "/s/volumes", "containerPath": "/s/volumes"}
    worker = {"role": "worker", "extraMounts": [mount]}
    assert document == {"kind": "Cluster", "nodes": [{"role": "control-plane"}, worker, worker]}


def test_kuberay_process_listens_on_loopback_only() -> None:
    flags = kuberay_flags("/s/kuberay.kubeconfig", *free_ports(2))
    addresses = [flag.partition("=")[2] for flag in flags if flag.startswith(("--metrics-addr", "--health-probe"))]
    assert len(addresses) == 2
    assert all(address.startswith("127.0.0.1:") for address in addresses)


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


def make_claim(**changes: Any) -> dict[str, Any]:
    claim: dict[str, Any] = {
        "metadata": {
            "namespace": "team",
            "name": "data",
            "uid": "12345678-9abc",
            "annotations": {"volume.kubernetes.io/storage-provisioner": "rltrain.io/local-volumes"},
        },
        "spec": {
            "storageClassName": "local",
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    for path, value in changes.items():
        part, _, name = path.partition("__")
        claim[part][name] = value
    return claim


CLAIMS = {
    "handed to us": (make_claim(), True),
    "bound": (make_claim(spec__volumeName="v"), False),
    "being deleted": (make_claim(metadata__deletionTimestamp="now"), False),
    "somebody else's": (
        make_claim(metadata__annotations={"volume.kubernetes.io/storage-provisioner": "other"}),
        False,
    ),
    "nobody's yet": (make_claim(metadata__annotations=None), False),
}


@pytest.mark.parametrize("case", CLAIMS, ids=list(CLAIMS))
def test_wants_volume(case: str) -> None:
    claim, expected = CLAIMS[case]
    assert wants_volume(claim) is expected


def test_volume_belongs_to_its_claim() -> None:
    claim = make_claim()
    volume = json.loads(json.dumps(volume_for(claim, Path("/v") / directory_name(claim))))
    assert volume["spec"]["hostPath"] == {"path": "/v/team-data-12345678", "type": "Directory"}
    assert volume["spec"]["claimRef"]["uid"] == "12345678-9abc"
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]
    assert not is_released({**volume, "status": {"phase": "Bound"}})
    assert is_released({**volume, "status": {"phase": "Released"}})
    volume["metadata"]["annotations"] = {}
    assert not is_released({**volume, "status": {"phase": "Released"}})
