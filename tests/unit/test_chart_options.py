"""What the chart's values switch: namespaces, replicas, variables, network policies, and the webhook."""

from __future__ import annotations

from typing import Any

import pytest

from chart import CHART, NAME, NAMESPACE, Manifest, named, of_kind, only, render, rights, rights_of, run_helm
from rltrain_operator import installation
from rltrain_operator.__main__ import parse_arguments
from rltrain_operator.plan import Peer
from rltrain_operator.webhook import __main__ as webhook
from rltrain_operator.webhook.server import PATH

pytestmark = pytest.mark.timeout(1800)

CONFINED = 'watchNamespaces=["team-a","team-b"]'
WEBHOOK = "webhook.enabled=true"
CERT_MANAGER = 'webhook.certificates.source="cert-manager"'
HOOK = f"{NAME}-webhook"
SECRET = f"{HOOK}-certificates"


def arguments(manifests: list[Manifest], name: str = NAME) -> list[str]:
    found: list[str] = container(manifests, name)["args"]
    return found


def pod(manifests: list[Manifest], name: str = NAME) -> Manifest:
    found: Manifest = named(manifests, "Deployment", name)["spec"]["template"]["spec"]
    return found


def container(manifests: list[Manifest], name: str = NAME) -> Manifest:
    (found,) = pod(manifests, name)["containers"]
    return dict(found)


# --- namespaces -----------------------------------------------------------------------------------------------------


def test_a_list_of_namespaces_replaces_the_rights_in_all_of_them() -> None:
    manifests = render(CONFINED)
    everywhere = rights(named(render(), "ClusterRole", NAME))
    roles = [role for role in of_kind(manifests, "Role") if role["metadata"]["name"] == NAME]
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    for role in roles:
        assert rights(role) == {key: verbs for key, verbs in everywhere.items() if key != ("", "nodes")}
    assert of_kind(manifests, "ClusterRoleBinding") == []
    assert [role["metadata"]["name"] for role in of_kind(manifests, "ClusterRole")] == [f"{NAME}-view", f"{NAME}-edit"]
    granted = rights_of(manifests, NAME)
    assert {namespace for namespace, *_ in granted} == {"team-a", "team-b", NAMESPACE}
    assert {resource for namespace, _, resource, *_ in granted if namespace == NAMESPACE} == {"leases"}


def test_the_operator_watches_what_it_has_rights_in() -> None:
    assert parse_arguments(arguments(render())).namespace == []
    assert parse_arguments(arguments(render(CONFINED))).namespace == ["team-a", "team-b"]


# --- replicas -------------------------------------------------------------------------------------------------------


def test_one_replica_may_be_drained() -> None:
    manifests = render()
    assert of_kind(manifests, "PodDisruptionBudget") == []
    assert "affinity" not in pod(manifests)


@pytest.mark.parametrize("name", [NAME, HOOK])
def test_two_replicas_are_kept_apart_and_never_drained_together(name: str) -> None:
    manifests = render("replicas=2", WEBHOOK, "webhook.replicas=2")
    deployment = named(manifests, "Deployment", name)["spec"]
    labels = deployment["selector"]["matchLabels"]
    assert deployment["replicas"] == 2
    assert "strategy" not in deployment, "a standby is ready, so one is replaced after the other"
    budget = named(manifests, "PodDisruptionBudget", name)["spec"]
    assert (budget["minAvailable"], budget["selector"]["matchLabels"]) == (1, labels)
    (term,) = pod(manifests, name)["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"] == {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": labels},
    }


def test_an_affinity_of_one_s_own_is_not_mixed_with_ours() -> None:
    own = {"nodeAffinity": {"x": "y"}}
    assert pod(render("replicas=2", 'affinity={"nodeAffinity":{"x":"y"}}'))["affinity"] == own


# --- variables of all jobs ------------------------------------------------------------------------------------------


def test_variables_of_all_jobs_reach_the_operator_word_for_word() -> None:
    flags = arguments(render(r'jobEnvironment={"NCCL_IB_HCA":"mlx5","EMPTY":"","ODD":"a=\"$(HOME)\", {{ b }}\n"}'))
    given = [flag.removeprefix("--job-environment=") for flag in flags if flag.startswith("--job-environment=")]
    # Kubernetes makes $( of $$( in the arguments of a container.
    pairs = [pair.replace("$$(", "$(") for pair in given]
    assert installation.job_environment(pairs) == {"EMPTY": "", "NCCL_IB_HCA": "mlx5", "ODD": 'a="$(HOME)", {{ b }}\n'}


# --- network policies -----------------------------------------------------------------------------------------------


def test_the_operator_lets_its_own_pods_into_jobs() -> None:
    manifests = render()
    found = installation.peer(parse_arguments(arguments(manifests)).job_network_policy_from)
    assert found == Peer(NAMESPACE, named(manifests, "Deployment", NAME)["spec"]["selector"]["matchLabels"])


def test_without_policies_there_is_neither_flag_nor_right() -> None:
    manifests = render("networkPolicies.jobs=false")
    assert parse_arguments(arguments(manifests)).job_network_policy_from is None
    assert ("networking.k8s.io", "networkpolicies") not in rights(named(manifests, "ClusterRole", NAME))


@pytest.mark.parametrize(("name", "ports"), [(NAME, {"health", "metrics"}), (HOOK, {"health", "webhook"})])
def test_the_release_s_own_pods_admit_calls_to_their_ports_only(name: str, ports: set[str]) -> None:
    manifests = render(WEBHOOK)
    spec = named(manifests, "NetworkPolicy", name)["spec"]
    assert spec["podSelector"] == named(manifests, "Deployment", name)["spec"]["selector"]
    assert spec["policyTypes"] == ["Ingress"]
    (rule,) = spec["ingress"]
    assert {port["port"] for port in rule["ports"]} == ports
    assert {port["name"] for port in container(manifests, name)["ports"]} == ports
    assert of_kind(render("networkPolicies.release=false", WEBHOOK), "NetworkPolicy") == []


# --- the webhook ----------------------------------------------------------------------------------------------------


def test_by_default_there_is_no_webhook() -> None:
    manifests = render()
    assert of_kind(manifests, "ValidatingWebhookConfiguration") == []
    assert [deployment["metadata"]["name"] for deployment in of_kind(manifests, "Deployment")] == [NAME]


def test_the_webhook_may_do_exactly_this() -> None:
    hooks = ("admissionregistration.k8s.io", "validatingwebhookconfigurations", (HOOK,))
    assert rights_of(render(WEBHOOK), HOOK) == {
        (NAMESPACE, "", "secrets", (SECRET,), "get"),
        (NAMESPACE, "", "secrets", (SECRET,), "update"),
        ("", *hooks, "get"),
        ("", *hooks, "patch"),
    }


def test_nobody_else_of_the_release_may_read_its_secret() -> None:
    assert not [right for right in rights_of(render(WEBHOOK), NAME) if right[2] == "secrets" and right[4] != "create"]


def test_with_cert_manager_the_webhook_may_do_nothing() -> None:
    manifests = render(WEBHOOK, CERT_MANAGER)
    assert rights_of(manifests, HOOK) == set()
    assert pod(manifests, HOOK)["automountServiceAccountToken"] is False


def test_the_webhook_accepts_its_pod_s_arguments() -> None:
    manifests = render(WEBHOOK, "webhook.certificates.validityDays=30")
    flags = webhook.parse_arguments(arguments(manifests, HOOK))
    ports = {port["name"]: port["containerPort"] for port in container(manifests, HOOK)["ports"]}
    assert ports == {"webhook": flags.port, "health": flags.health_port}
    assert flags.certificate_secret == f"{NAMESPACE}/{SECRET}"
    assert flags.configuration == only(manifests, "ValidatingWebhookConfiguration")["metadata"]["name"]
    assert flags.name == [f"{HOOK}.{NAMESPACE}.svc"]
    assert flags.certificate_seconds == 30 * 24 * 3600
    assert "data" not in named(manifests, "Secret", SECRET), "the webhook's own to fill"


def test_cert_manager_s_certificate_is_the_one_that_is_served_and_trusted() -> None:
    manifests = render(WEBHOOK, CERT_MANAGER)
    flags = webhook.parse_arguments(arguments(manifests, HOOK))
    (mount,) = [one for one in container(manifests, HOOK)["volumeMounts"] if one["name"] == "certificates"]
    (volume,) = [one for one in pod(manifests, HOOK)["volumes"] if one["name"] == "certificates"]
    certificate = named(manifests, "Certificate", HOOK)["spec"]
    assert mount["mountPath"] == str(flags.certificate_directory)
    assert volume["secret"]["secretName"] == certificate["secretName"] == SECRET
    assert certificate["dnsNames"] == [f"{HOOK}.{NAMESPACE}.svc"]
    annotations = only(manifests, "ValidatingWebhookConfiguration")["metadata"]["annotations"]
    assert annotations == {"cert-manager.io/inject-ca-from": f"{NAMESPACE}/{HOOK}"}
    authority = named(manifests, "Issuer", certificate["issuerRef"]["name"])["spec"]["ca"]["secretName"]
    assert named(manifests, "Certificate", authority)["spec"]["isCA"] is True
    assert [secret["metadata"]["name"] for secret in of_kind(manifests, "Secret")] == [f"{NAME}-token-key"]


def test_the_api_server_calls_the_webhook_s_pods() -> None:
    manifests = render(WEBHOOK)
    (hook,) = only(manifests, "ValidatingWebhookConfiguration")["webhooks"]
    service = named(manifests, "Service", hook["clientConfig"]["service"]["name"])["spec"]
    assert hook["clientConfig"]["service"] == {"name": HOOK, "namespace": NAMESPACE, "path": PATH, "port": 443}
    assert service["ports"] == [{"name": "webhook", "port": 443, "targetPort": "webhook"}]
    labels = named(manifests, "Deployment", HOOK)["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    others = named(manifests, "Deployment", NAME)["spec"]["template"]["metadata"]["labels"]
    assert not service["selector"].items() <= others.items()


def test_only_new_specs_are_asked_about() -> None:
    (hook,) = only(render(WEBHOOK), "ValidatingWebhookConfiguration")["webhooks"]
    (rule,) = hook["rules"]
    assert (rule["resources"], rule["operations"]) == (["rltrainingjobs"], ["CREATE", "UPDATE"])
    assert hook["sideEffects"] == "None"
    assert [condition["name"] for condition in hook["matchConditions"]] == ["not-being-deleted", "spec-changed"]


HOOKS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "by default": ((), {"failurePolicy": "Ignore", "timeoutSeconds": 5}),
    "strict": (
        ('webhook.failurePolicy="Fail"', "webhook.timeoutSeconds=2"),
        {"failurePolicy": "Fail", "timeoutSeconds": 2},
    ),
    "for some namespaces": (
        ('webhook.namespaceSelector={"matchLabels":{"team":"a"}}',),
        {"namespaceSelector": {"matchLabels": {"team": "a"}}},
    ),
    "for those that are watched": (
        (CONFINED,),
        {
            "namespaceSelector": {
                "matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["team-a", "team-b"]}
                ]
            }
        },
    ),
}


@pytest.mark.parametrize(("settings", "expected"), HOOKS.values(), ids=HOOKS.keys())
def test_the_configuration_follows_the_values(settings: tuple[str, ...], expected: dict[str, Any]) -> None:
    (hook,) = only(render(WEBHOOK, *settings), "ValidatingWebhookConfiguration")["webhooks"]
    assert expected.items() <= hook.items()


def test_the_webhook_s_pod_is_restricted_like_the_operator_s() -> None:
    manifests = render(WEBHOOK)
    assert pod(manifests, HOOK)["securityContext"] == pod(manifests)["securityContext"]
    assert container(manifests, HOOK)["securityContext"] == container(manifests)["securityContext"]
    assert {
        probe: container(manifests, HOOK)[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")
    } == {
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }


REJECTED = {
    "no namespace": ('watchNamespaces=["Team_A"]', "watchNamespaces"),
    "a pattern of namespaces": ('watchNamespaces=["team-*"]', "watchNamespaces"),
    "a namespace twice": ('watchNamespaces=["a","a"]', "watchNamespaces"),
    "no replica": ("replicas=0", "replicas"),
    "a variable that is no text": ('jobEnvironment={"OMP_NUM_THREADS":1}', "jobEnvironment"),
    "a name of no variable": ('jobEnvironment={"1 A":"x"}', "jobEnvironment"),
    "an unknown failure policy": ('webhook.failurePolicy="Maybe"', "failurePolicy"),
    "a time-out that Kubernetes refuses": ("webhook.timeoutSeconds=31", "timeoutSeconds"),
    "an unknown source of certificates": ('webhook.certificates.source="vault"', "source"),
}


@pytest.mark.parametrize(("setting", "named_in_message"), REJECTED.values(), ids=REJECTED.keys())
def test_wrong_values_are_rejected_by_name(setting: str, named_in_message: str) -> None:
    done = run_helm("template", "demo", str(CHART), "--set-json", setting)
    assert done.returncode != 0
    assert named_in_message in done.stderr
