"""The chart as helm renders it: least privilege, a restricted pod, the CRD word for word, values that are checked."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest
import yaml

from chart import CHART, Manifest, named, of_kind, only, render, render_anew, rights, run_helm
from rltrain_api import names
from rltrain_operator.__main__ import LEASE_NAME, parse_arguments

SOURCES = CHART.parents[1] / "crds" / "manifests"
COPIES = CHART / "files" / "crds"

# helm is built on a machine's first run (`make check` has usually done it): that, not a test, takes minutes
pytestmark = pytest.mark.timeout(1800)


def pod_of(manifests: list[Manifest]) -> Manifest:
    return only(manifests, "Deployment")["spec"]["template"]["spec"]


def test_lint() -> None:
    done = run_helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


# --- the definition -------------------------------------------------------------------------------------------------


def test_definitions_are_current_copies() -> None:
    """`make manifests` copies them; the names too must be the same."""
    sources = {path.name: path.read_text() for path in SOURCES.glob("*.yaml")}
    assert sources, "crds/manifests holds no definition"
    assert {path.name: path.read_text() for path in COPIES.glob("*.yaml")} == sources


def test_definition_is_rendered_word_for_word_and_kept() -> None:
    rendered = only(render(), "CustomResourceDefinition")
    assert rendered["metadata"]["annotations"].pop("helm.sh/resource-policy") == "keep"
    (source,) = [yaml.safe_load(path.read_text()) for path in SOURCES.glob("*.yaml")]
    source["metadata"].setdefault("annotations", {})
    assert rendered == source
    assert rendered["spec"]["names"]["kind"] == names.KIND


def test_definition_can_be_left_out() -> None:
    assert of_kind(render("crds.enabled=false"), "CustomResourceDefinition") == []


def test_braces_in_a_description_stay_text(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    definition = {"kind": "CustomResourceDefinition", "metadata": {"name": "x"}, "description": "{{ .Values.secret }}"}
    shutil.rmtree(chart / "files" / "crds")
    (chart / "files" / "crds").mkdir()
    (chart / "files" / "crds" / "x.yaml").write_text(yaml.safe_dump(definition))
    assert only(render(chart=chart), "CustomResourceDefinition")["description"] == "{{ .Values.secret }}"


# --- rights ---------------------------------------------------------------------------------------------------------

READ = {"get", "list", "watch"}
OPERATOR_RIGHTS = {
    ("rltrain.io", "rltrainingjobs"): {"list", "watch"},
    ("rltrain.io", "rltrainingjobs/status"): {"patch"},
    ("rltrain.io", "rltrainingjobs/finalizers"): {"update"},
    ("ray.io", "rayclusters"): READ | {"create", "patch", "delete"},
    ("kueue.x-k8s.io", "workloads"): {"list", "watch"},
    ("batch", "jobs"): READ | {"create"},
    ("", "persistentvolumeclaims"): READ | {"create"},
    ("", "configmaps"): {"get", "create", "patch"},
    ("", "secrets"): {"create"},
    ("", "pods"): {"list", "watch"},
    ("", "pods/log"): {"get"},
    ("", "nodes"): {"list"},
    ("policy", "poddisruptionbudgets"): {"get", "create", "patch"},
    ("networking.k8s.io", "networkpolicies"): {"get", "create", "patch"},
    ("", "events"): {"create"},
}


def test_operator_has_exactly_these_rights() -> None:
    assert rights(named(render(), "ClusterRole", "demo-rltrain-operator")) == OPERATOR_RIGHTS


def test_leader_may_write_only_its_own_lease() -> None:
    (create, others) = named(render(), "Role", "demo-rltrain-operator-leader")["rules"]
    assert create == {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]}
    assert others["resourceNames"] == [LEASE_NAME]
    assert set(others["verbs"]) == {"get", "update"}


def test_rights_go_to_the_pods_account() -> None:
    manifests = render()
    account = {"kind": "ServiceAccount", "name": pod_of(manifests)["serviceAccountName"], "namespace": "rltrain-system"}
    assert only(manifests, "ServiceAccount")["metadata"]["name"] == account["name"]
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        assert only(manifests, kind)["subjects"] == [account]


AGGREGATED = {
    "view": ({"rltrainingjobs", "rltrainingjobs/status"}, READ, {"view"}),
    "edit": (
        {"rltrainingjobs", "rltrainingjobs/scale"},
        READ | {"create", "update", "patch", "delete", "deletecollection"},
        {"edit", "admin"},
    ),
}


@pytest.mark.parametrize(("suffix", "case"), AGGREGATED.items(), ids=AGGREGATED.keys())
def test_people_get_rights_by_aggregation(suffix: str, case: tuple[set, set, set]) -> None:
    resources, verbs, into = case
    role = named(render(), "ClusterRole", f"demo-rltrain-operator-{suffix}")
    granted = rights(role)
    assert {resource for _, resource in granted} == resources
    assert set.union(*granted.values()) == verbs
    assert {
        label.rpartition("-to-")[2]
        for label in role["metadata"]["labels"]
        if label.startswith("rbac.authorization.k8s.io/aggregate-to-")
    } == into


def test_roles_can_be_left_out() -> None:
    manifests = render("rbac.create=false")
    assert not {manifest["kind"] for manifest in manifests} & {"ClusterRole", "Role", "ClusterRoleBinding"}


# --- the operator's pod ---------------------------------------------------------------------------------------------


def test_pod_is_restricted() -> None:
    """What the Pod Security Standard "restricted" asks for, and a root file system that nobody writes."""
    pod = pod_of(render())
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_deployment_finds_its_pods() -> None:
    spec = only(render(), "Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


IMAGES = {
    "by default": ((), "rltrain/operator:0.1.0"),
    "from a registry": (('image.registry="registry.example:5000"',), "registry.example:5000/rltrain/operator:0.1.0"),
    "on the local cluster": (
        ('image.registry="rltrain.local"', 'image.repository="operator"', 'image.tag="dev"'),
        "rltrain.local/operator:dev",
    ),
}


@pytest.mark.parametrize(("settings", "image"), IMAGES.values(), ids=IMAGES.keys())
def test_image(settings: tuple[str, ...], image: str) -> None:
    assert pod_of(render(*settings))["containers"][0]["image"] == image


def test_operator_accepts_the_pods_arguments() -> None:
    (container,) = pod_of(render())["containers"]
    flags = parse_arguments(container["args"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {"health": flags.health_port, "metrics": flags.metrics_port} == ports
    assert flags.lease_namespace == "rltrain-system"
    (mount,) = container["volumeMounts"]
    assert str(flags.token_key_file.parent) == mount["mountPath"]


def test_probes_and_ports_agree() -> None:
    (container,) = pod_of(render())["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"health": 8081, "metrics": 8080}
    paths = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {
        "startupProbe": {"path": "/healthz", "port": "health"},
        "livenessProbe": {"path": "/healthz", "port": "health"},
        "readinessProbe": {"path": "/readyz", "port": "health"},
    }


# --- the token key --------------------------------------------------------------------------------------------------


def mounted_secret(manifests: list[Manifest]) -> str:
    (volume,) = pod_of(manifests)["volumes"]
    assert volume["secret"]["items"] == [{"key": "token-key", "path": "token-key"}]
    return volume["secret"]["secretName"]


def test_token_key_is_made_and_mounted() -> None:
    manifests = render()
    secret = only(manifests, "Secret")
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert secret["metadata"]["name"] == mounted_secret(manifests)
    assert len(base64.b64decode(secret["data"]["token-key"])) >= 32
    (container,) = pod_of(manifests)["containers"]
    assert container["volumeMounts"] == [{"name": "token-key", "mountPath": "/var/run/rltrain", "readOnly": True}]
    assert "--token-key-file=/var/run/rltrain/token-key" in container["args"]


def test_token_key_is_another_one_for_every_installation() -> None:
    first, second = (only(render_anew(), "Secret")["data"]["token-key"] for _ in range(2))
    assert first != second


def test_token_key_can_be_somebody_elses() -> None:
    manifests = render('tokenKey.existingSecret="ours"')
    assert of_kind(manifests, "Secret") == []
    assert mounted_secret(manifests) == "ours"


# --- values ---------------------------------------------------------------------------------------------------------


def test_metrics_service_selects_the_operator() -> None:
    assert of_kind(render(), "Service") == []
    manifests = render("metrics.service.enabled=true", "metrics.service.port=9000")
    service = only(manifests, "Service")["spec"]
    assert service["ports"] == [{"name": "metrics", "port": 9000, "targetPort": "metrics"}]
    labels = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()


REJECTED = {
    "an unknown key": ("imagee={}", "imagee"),
    "an unknown policy": ('image.pullPolicy="Sometimes"', "pullPolicy"),
    "a port out of range": ("metrics.service.port=70000", "port"),
    "a name that Kubernetes refuses": ('fullnameOverride="Not_A_Name"', "fullnameOverride"),
    "no account at all": ("serviceAccount.create=false", "serviceAccount.name: required"),
}


@pytest.mark.parametrize(("setting", "named_in_message"), REJECTED.values(), ids=REJECTED.keys())
def test_wrong_values_are_rejected(setting: str, named_in_message: str) -> None:
    done = run_helm("template", "demo", str(CHART), "--set-json", setting)
    assert done.returncode != 0
    assert named_in_message in done.stderr


RELEASES = {
    "rltrain": "rltrain-operator",
    "rltrain-operator": "rltrain-operator",
    "rltrain-operator-canary": "rltrain-operator-canary",
    "team-a": "team-a-rltrain-operator",
}


@pytest.mark.parametrize(("release", "name"), RELEASES.items())
def test_names_follow_the_release(release: str, name: str) -> None:
    done = run_helm("template", release, str(CHART))
    assert (
        only([document for document in yaml.safe_load_all(done.stdout) if document], "Deployment")["metadata"]["name"]
        == name
    )


def test_long_release_names_leave_room_for_suffixes() -> None:
    done = run_helm("template", "r" * 53, str(CHART))
    assert done.returncode == 0, done.stderr
    assert max(len(document["metadata"]["name"]) for document in yaml.safe_load_all(done.stdout) if document) <= 63
