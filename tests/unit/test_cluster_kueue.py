"""Kueue's own documents, turned to a controller that runs outside of the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rltrain_cluster import kueue
from rltrain_cluster.cli import parser

Object = dict[str, Any]
PORT = 7443


def service() -> Object:
    return {"service": {"name": kueue.WEBHOOK_SERVICE, "namespace": kueue.NAMESPACE, "path": "/p"}}


def chart() -> list[Object]:
    """One document of each kind that Kueue's chart has."""
    conversion = {"strategy": "Webhook", "webhook": {"clientConfig": service()}}
    hooks = [{"name": name, "clientConfig": service()} for name in ("mraycluster.kb.io", "mpod.kb.io")]
    return [
        {"kind": "CustomResourceDefinition", "metadata": {"name": "workloads"}, "spec": {"conversion": conversion}},
        {"kind": "CustomResourceDefinition", "metadata": {"name": "topologies"}, "spec": {}},
        {"kind": "MutatingWebhookConfiguration", "metadata": {"name": "kueue-mutating"}, "webhooks": hooks},
        {"kind": "Secret", "metadata": {"name": kueue.WEBHOOK_SECRET, "namespace": kueue.NAMESPACE}},
        {"kind": "ClusterRole", "metadata": {"name": "kueue-manager-role", "labels": {"a": "b"}}, "rules": []},
        {"kind": "ClusterRole", "metadata": {"name": "kueue-batch-user-role"}, "rules": []},
        {"kind": "Role", "metadata": {"name": "kueue-manager-secrets-role", "namespace": kueue.NAMESPACE}, "rules": []},
        {"kind": "Deployment", "metadata": {"name": "kueue-controller-manager"}},
        {"kind": "Service", "metadata": {"name": kueue.WEBHOOK_SERVICE}},
    ]


def turned() -> dict[tuple[str, str], Object]:
    documents = kueue.outside_documents(chart(), "system:kueue", PORT)
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def test_what_runs_in_pods_is_left_out() -> None:
    kinds = {kind for kind, _ in turned()}
    assert "Deployment" not in kinds
    assert ("ClusterRole", "kueue-batch-user-role") not in turned()


def test_webhooks_are_called_on_this_machine_and_only_for_ray_and_kueue() -> None:
    alias = turned()[("Service", kueue.WEBHOOK_SERVICE)]["spec"]
    assert alias == {"type": "ExternalName", "externalName": "localhost"}
    (hook,) = turned()[("MutatingWebhookConfiguration", "kueue-mutating")]["webhooks"]
    assert (hook["name"], hook["clientConfig"]["service"]["port"]) == ("mraycluster.kb.io", PORT)
    conversion = turned()[("CustomResourceDefinition", "workloads")]["spec"]["conversion"]
    assert conversion["webhook"]["clientConfig"]["service"]["port"] == PORT
    assert turned()[("CustomResourceDefinition", "topologies")]["spec"] == {}


def test_its_rights_are_the_user_s() -> None:
    cluster_wide = turned()[("ClusterRoleBinding", "kueue-manager-role")]
    assert cluster_wide["roleRef"]["name"] == "kueue-manager-role"
    assert [subject["name"] for subject in cluster_wide["subjects"]] == ["system:kueue"]
    assert turned()[("RoleBinding", "kueue-manager-secrets-role")]["metadata"]["namespace"] == kueue.NAMESPACE


def test_it_queues_ray_s_kinds_and_listens_where_it_is_told() -> None:
    found = kueue.configuration("127.0.0.1", PORT, 7081, Path("/certificates"))
    assert found["integrations"]["frameworks"] == ["ray.io/raycluster", "ray.io/rayjob", "ray.io/rayservice"]
    assert found["webhook"] == {"host": "127.0.0.1", "port": PORT, "certDir": "/certificates"}
    assert found["health"]["healthProbeBindAddress"] == "127.0.0.1:7081"


def test_there_is_a_command_for_it() -> None:
    assert parser().parse_args(["kueue", "--name", "one"]).command == "kueue"
