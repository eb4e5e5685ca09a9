"""The webhook called by a real API server over TLS, under the account and the rights that the chart gives it.

The API server reaches it by a URL on loopback instead of a Service: there is no network of pods behind this one. All
else of the webhook's configuration is the chart's. The tests of this module run in their order.
"""

from __future__ import annotations

import copy
import json
import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chart import CHART, named, only, render, run_helm
from chart_cluster import RIGHTS, Object, attempt, bare_job, found, kubeconfig_of
from operator_process import Running, running_webhook
from rltrain_cluster.control_plane_only import LOOPBACK, free_ports
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.waiting import wait_until
from rltrain_operator.webhook.server import PATH

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]

# So short that a test sees a rotation: it is staged after 30 s, and served about a second later.
CERTIFICATE_SECONDS = 45
SECONDS = 60
NO_ANSWER = 'failed calling webhook "jobs.rltrain.io"'


@dataclass(frozen=True)
class Hook:
    """The webhook of this module: where it is, and the namespace whose jobs it judges."""

    kubectl: Kubectl
    name: str
    namespace: str
    system: str
    port: int
    kubeconfig: Path
    scratch: Path

    def options(self) -> list[str]:
        """The flags of the chart's Deployment, with what is another on this machine."""
        manifests = render("webhook.enabled=true", release=self.system, namespace=self.system)
        (container,) = named(manifests, "Deployment", self.name)["spec"]["template"]["spec"]["containers"]
        other = ("--port=", "--health-port=", "--name=", "--certificate-seconds=")
        kept = [flag for flag in container["args"] if not flag.startswith(other)]
        return [*kept, f"--name={LOOPBACK}", f"--certificate-seconds={CERTIFICATE_SECONDS}"]

    def create(self, *jobs: Object, options: tuple[str, ...] = ()) -> Any:
        return attempt(self.kubectl, "create", *options, "--filename=-", documents=jobs)

    def patch(self, name: str, patch: Object) -> Any:
        where = (f"--namespace={self.namespace}", "--type=merge", f"--patch={json.dumps(patch)}")
        return attempt(self.kubectl, "patch", "rltrainingjob", name, *where)

    def delete(self, name: str) -> Any:
        return attempt(self.kubectl, "delete", "rltrainingjob", name, f"--namespace={self.namespace}", "--timeout=30s")

    def set_policy(self, policy: str) -> None:
        """Set failurePolicy. The API server hears of it a moment later: what a test expects is awaited."""
        patch = json.dumps([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": policy}])
        where = ("patch", "validatingwebhookconfiguration", self.name, "--type=json", f"--patch={patch}")
        self.kubectl(*where, what=f"failurePolicy {policy}")

    def authorities(self) -> str:
        """What the API server is told to trust."""
        what = "the configuration"
        configuration = self.kubectl.get("validatingwebhookconfiguration", self.name, what=what)
        return str(configuration["webhooks"][0]["clientConfig"].get("caBundle", ""))

    def served(self) -> str:
        """The certificate that the server shows."""
        return ssl.get_server_certificate((LOOPBACK, self.port), timeout=5)


def wrong(job: Object) -> Object:
    """The job with two errors that the definition's own rules (CEL) do not see: paths on no volume."""
    changed = copy.deepcopy(job)
    config = changed["spec"]["config"]
    config["trainer"]["ckpt_path"] = "/nowhere"
    config["data"]["train_data"] = ["/nowhere/train.parquet"]
    return changed


@pytest.fixture(scope="module")
def hook(control_plane: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hook]:
    """The chart's webhook but for its Deployment; a job that is wrong was there before it."""
    unique = uuid.uuid4().hex[:6]
    system, namespace, scratch = f"hook-{unique}", f"hooked-{unique}", tmp_path_factory.mktemp("hook")
    (port,) = free_ports(1)
    manifests = render("webhook.enabled=true", release=system, namespace=system)
    configuration = only(manifests, "ValidatingWebhookConfiguration")
    name = configuration["metadata"]["name"]
    (webhook,) = configuration["webhooks"]
    webhook["clientConfig"] = {"url": f"https://{LOOPBACK}:{port}{PATH}"}
    webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    own = [
        manifest
        for manifest in manifests
        if manifest["kind"] in {*RIGHTS, "Secret"} and manifest["metadata"]["name"].startswith(name)
    ]
    namespaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one}} for one in (system, namespace)]
    control_plane.apply(namespaces, "namespaces")
    control_plane.apply([wrong(bare_job("from-before", namespace))], "a job that is wrong")
    control_plane.apply([*own, configuration], "the webhook's account, its rights and its configuration")
    kubeconfig = kubeconfig_of(control_plane, system, name, scratch)
    yield Hook(control_plane, name, namespace, system, port, kubeconfig, scratch)
    for kind in ("validatingwebhookconfiguration", "clusterrole", "clusterrolebinding"):
        control_plane("delete", kind, name, what=f"removing {kind} {name}")
    control_plane("delete", "namespace", system, namespace, "--wait=false", what="removing namespaces")


@pytest.fixture(scope="module")
def server(hook: Hook) -> Iterator[Running]:
    """Its process, under its own account."""
    with running_webhook(hook.kubeconfig, hook.scratch, hook.port, *hook.options()) as process:
        yield process


@pytest.fixture(scope="module")
def serving(hook: Hook, server: Running) -> Hook:
    """With its server, once the API server has heard of the policy Fail and trusts it."""
    hook.set_policy("Fail")
    await_verdict(hook)
    return hook


def await_verdict(hook: Hook) -> None:
    """Until a wrong job is refused by the webhook itself."""
    job, last = wrong(bare_job("any", hook.namespace)), [""]

    def judges() -> bool:
        last[0] = hook.create(job, options=("--dry-run=server",)).stderr
        return "is invalid" in last[0]

    wait_until("a verdict", judges, SECONDS, explain=lambda: last[0])


def test_a_wrong_job_is_refused_with_all_its_errors_at_once(serving: Hook) -> None:
    for options in ((), ("--dry-run=server",)):
        call = serving.create(wrong(bare_job("wrong", serving.namespace)), options=options)
        assert call.returncode != 0
        # kubectl writes these lines from the causes in the details of the API server's answer.
        assert 'The RLTrainingJob "wrong" is invalid' in call.stderr
        for path in ("trainer.ckpt_path", "data.train_data[0]"):
            assert f"* spec.config.{path}: " in call.stderr
    assert "wrong" not in found(serving.kubectl, "rltrainingjobs", serving.namespace)


def test_a_job_that_can_run_passes_with_warnings_for_people(serving: Hook) -> None:
    env = [{"name": "WANDB_API_KEY", "value": "0123456789"}]
    job = bare_job("fine", serving.namespace, runtime={"image": "trainer:1", "env": env})
    call = serving.create(job)
    assert call.returncode == 0, call.stderr
    assert "Warning: " in call.stderr
    assert "WANDB_API_KEY looks like a secret" in call.stderr
    generated = bare_job("x", serving.namespace)
    generated["metadata"] = {"generateName": "generated-", "namespace": serving.namespace}
    call = serving.create(generated)
    assert call.returncode == 0, call.stderr


def test_an_edit_that_breaks_a_job_is_refused_and_others_pass(serving: Hook) -> None:
    call = serving.patch("fine", {"spec": {"config": {"trainer": {"ckpt_path": "/nowhere"}}}})
    assert call.returncode != 0
    assert "spec.config.trainer.ckpt_path" in call.stderr
    for patch in ({"spec": {"suspend": True}}, {"metadata": {"labels": {"a": "b"}}}):
        call = serving.patch("fine", patch)
        assert call.returncode == 0, call.stderr


def test_a_job_from_before_can_be_held_but_not_made_worse(serving: Hook) -> None:
    call = serving.patch("from-before", {"spec": {"suspend": True}})
    assert call.returncode == 0, call.stderr
    assert "Warning: was wrong before and still is: spec.config.trainer.ckpt_path" in call.stderr
    call = serving.patch("from-before", {"spec": {"config": {"data": {"val_data": ["/nowhere/too.parquet"]}}}})
    assert call.returncode != 0
    assert "spec.config.data.val_data" in call.stderr
    assert "ckpt_path" not in call.stderr, "only what the edit adds is in its way"


def test_the_status_is_nobody_s_to_judge(serving: Hook) -> None:
    patch = json.dumps({"status": {"phase": "Pending"}})
    where = (f"--namespace={serving.namespace}", "--subresource=status", "--type=merge", f"--patch={patch}")
    call = attempt(serving.kubectl, "patch", "rltrainingjob", "from-before", *where)
    assert call.returncode == 0, call.stderr


def test_the_certificate_is_renewed_while_every_call_is_answered(serving: Hook) -> None:
    """Each try is a call over TLS, because with the policy Fail nothing else ends in a verdict."""
    certificate, authorities = serving.served(), serving.authorities()
    job, calls = wrong(bare_job("during-rotation", serving.namespace)), 0
    after = 0

    def judged() -> None:
        nonlocal calls
        calls += 1
        call = serving.create(job, options=("--dry-run=server",))
        assert "is invalid" in call.stderr, f"call {calls}: {call.stderr}"

    deadline = time.monotonic() + 4 * CERTIFICATE_SECONDS
    while after < 10:
        assert time.monotonic() < deadline, f"the same certificate after {4 * CERTIFICATE_SECONDS} s"
        judged()
        after += serving.served() != certificate
    assert serving.authorities() != authorities
    print(f"{calls} calls, {after} of them after the certificate had changed, all with a verdict")


def away(hook: Hook, policy: str, job: Object, expected: Callable[[Any], bool]) -> None:
    """With nobody serving, the API server comes to treat the creation of a job as the policy says."""
    hook.set_policy(policy)
    last: list[Any] = []

    def as_expected() -> bool:
        last[:] = [hook.create(job, options=("--dry-run=server",))]
        return expected(last[0])

    wait_until(f"policy {policy}", as_expected, SECONDS, explain=lambda: str(last[0].stderr))


def test_while_it_is_away_the_policy_decides_and_nothing_else_is_held_up(hook: Hook, server: Running) -> None:
    assert server.end() == 0
    assert '"message": "stopped"' in server.log.read_text().splitlines()[-1]
    fine, bad = bare_job("late", hook.namespace), wrong(bare_job("late", hook.namespace))
    away(hook, "Ignore", bad, lambda call: call.returncode == 0)
    away(hook, "Fail", fine, lambda call: call.returncode != 0 and NO_ANSWER in call.stderr)
    refused = hook.patch("from-before", {"spec": {"suspend": False}})
    assert refused.returncode != 0
    assert NO_ANSWER in refused.stderr
    finalizer = {"metadata": {"finalizers": ["example.com/held"]}}
    for patch in (finalizer, {"metadata": {"annotations": {"a": "b"}}}):
        call = hook.patch("from-before", patch)
        assert call.returncode == 0, f"metadata alone is no new spec: {call.stderr}"
    where = (f"--namespace={hook.namespace}", "--wait=false")
    assert attempt(hook.kubectl, "delete", "rltrainingjob", "from-before", *where).returncode == 0
    call = hook.patch("from-before", {"metadata": {"finalizers": None}})
    assert call.returncode == 0, call.stderr
    wait_until(
        "the end of the deleted job",
        lambda: "from-before" not in found(hook.kubectl, "rltrainingjobs", hook.namespace),
        SECONDS,
    )


def test_after_a_restart_it_serves_what_the_secret_holds(hook: Hook) -> None:
    """A process that comes back finds its certificates, or makes new ones where they ran out in the meantime."""
    with running_webhook(hook.kubeconfig, hook.scratch, hook.port, *hook.options()):
        await_verdict(hook)


def test_an_upgrade_of_the_release_keeps_what_the_webhook_wrote(control_plane: Kubectl, tmp_path: Path) -> None:
    """With helm itself, which merges what it renders into what is there."""
    release = f"kept-{uuid.uuid4().hex[:6]}"
    name, values = f"{release}-rltrain-operator-webhook", tmp_path / "values.yaml"
    selector = {"matchLabels": {"kubernetes.io/metadata.name": release}}
    values.write_text(
        json.dumps({"crds": {"enabled": False}, "webhook": {"enabled": True, "namespaceSelector": selector}})
    )

    def helm(*arguments: str) -> None:
        homes = {f"HELM_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        where = (f"--kubeconfig={control_plane.kubeconfig}", f"--namespace={release}")
        done = run_helm(*arguments, *where, environment={**(control_plane.environment or {}), **homes})
        assert done.returncode == 0, done.stderr

    def written() -> tuple[Any, Any, Any]:
        where = f"--namespace={release}"
        secrets = found(control_plane, "secrets", release)
        configuration = control_plane.get("validatingwebhookconfiguration", name, where, what="the configuration")
        (hook,) = configuration["webhooks"]
        kept = {key: secret.get("data") for key, secret in secrets.items() if key.startswith(f"{release}-")}
        return kept, hook["clientConfig"].get("caBundle"), hook["timeoutSeconds"]

    install = ("upgrade", "--install", release, str(CHART), f"--values={values}")
    helm(*install, "--create-namespace")
    try:
        kubeconfig = kubeconfig_of(control_plane, release, name, tmp_path)
        flags = [f"--certificate-secret={release}/{name}-certificates", f"--configuration={name}", f"--name={LOOPBACK}"]
        with running_webhook(kubeconfig, tmp_path, free_ports(1)[0], *flags):
            secrets, authority, seconds = written()
        assert authority
        assert seconds == 5
        assert len(secrets) == 2
        assert all(secrets.values())
        helm(*install, "--set=webhook.timeoutSeconds=7")
        assert written() == (secrets, authority, 7)
    finally:
        helm("uninstall", release)
        control_plane("delete", "namespace", release, "--wait=false", what="removing the namespace")
