"""The API server as this tool reads it: which one and which namespace (as kubectl decides), jobs, histories, watches.

The only module here that knows the `kubernetes` library. Its exceptions leave as `CommandError` (nothing will help but
a person) or as `Unavailable` (worth another try). It only reads.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rltrain_api import names
from rltrain_operator.cli.errors import CommandError

if TYPE_CHECKING:
    from kubernetes import client, watch

DEFAULT_KUBECONFIG = "~/.kube/config"
SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
REQUEST_SECONDS = 10.0
# One watch request lives this long; a connection that died unseen is found out a little later by the read time-out.
WATCH_SECONDS = 50
WATCH_READ_SECONDS = 60.0
TLS_REMEDY = "Is the kubeconfig from another cluster, or from before this one was made anew?"
TEMPORARY_CODES = frozenset({408, 429, 500, 502, 503, 504})


class Unavailable(Exception):  # noqa: N818 - a state of the server, named as such
    """The API server did not answer properly; the same request may succeed later."""


class Expired(Exception):  # noqa: N818 - a state of the watch, named as such
    """The server no longer has the changes since the version asked for: read the object again."""


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say which cluster and namespace, named as kubectl names them."""
    parser.add_argument("-n", "--namespace", help="the job's namespace (default: that of the context)")
    parser.add_argument("--context", help="the kubeconfig context to use (default: the current one)")


class Cluster:
    """One API server and one namespace in it."""

    def __init__(self, api_client: client.ApiClient, namespace: str) -> None:
        self._api_client = api_client
        self._watch: watch.Watch | None = None
        self.namespace = namespace

    def read_job(self, name: str) -> dict[str, Any] | None:
        """The RLTrainingJob of that name as JSON; None when there is none.

        Raises:
            CommandError: the kind is not installed, or access is refused.
            Unavailable: the server does not answer.
        """
        from kubernetes import client

        api = client.CustomObjectsApi(self._api_client)
        with _translated():
            try:
                job = api.get_namespaced_custom_object(
                    names.GROUP, names.VERSION, self.namespace, names.PLURAL, name, _request_timeout=REQUEST_SECONDS
                )
            except client.ApiException as error:
                if error.status != 404:
                    raise
                # For an unknown kind the server answers in plain text, for an unknown object with a Status document.
                if "NotFound" not in str(error.body):
                    raise CommandError(
                        f"{names.KIND} is not known to the cluster",
                        "Install the operator's chart first: helm install rltrain helm/rltrain-operator.",
                    ) from error
                return None
        return cast(dict[str, Any], job)

    def watch_job(self, name: str, resource_version: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(ADDED | MODIFIED | DELETED, job as JSON) for each change after `resource_version`, WATCH_SECONDS at most.

        Raises:
            Expired: the version is too old to watch from.
            CommandError, Unavailable: as `read_job`.
        """
        from kubernetes import client, watch

        api = client.CustomObjectsApi(self._api_client)
        self._watch = watch.Watch()  # type: ignore[no-untyped-call]  # the library's watch is untyped
        with _translated():
            yield from (
                (event["type"], event["object"])
                for event in self._watch.stream(  # type: ignore[no-untyped-call]  # the library's watch is untyped
                    api.list_namespaced_custom_object,
                    names.GROUP,
                    names.VERSION,
                    self.namespace,
                    names.PLURAL,
                    field_selector=f"metadata.name={name}",
                    resource_version=resource_version,
                    timeout_seconds=WATCH_SECONDS,
                    _request_timeout=(REQUEST_SECONDS, WATCH_READ_SECONDS),
                )
            )

    def stop_watching(self) -> None:
        """End the `watch_job` that runs in another thread: its read returns at once."""
        if self._watch is not None:
            self._watch.stop()  # type: ignore[no-untyped-call]  # untyped

    def read_config_map(self, name: str) -> dict[str, str] | None:
        """The data of the ConfigMap of that name; None when there is none.

        Raises:
            CommandError, Unavailable: as `read_job`.
        """
        from kubernetes import client

        with _translated():
            try:
                config_map = client.CoreV1Api(self._api_client).read_namespaced_config_map(
                    name, self.namespace, _request_timeout=REQUEST_SECONDS
                )
            except client.ApiException as error:
                if error.status != 404:
                    raise
                return None
        return dict(config_map.data or {})


def connect(context: str | None, namespace: str | None) -> Cluster:
    """The cluster that kubectl would use: KUBECONFIG, else ~/.kube/config, else the pod's own service account.

    Raises:
        CommandError: none of them is there, or what is there cannot be used.
    """
    import yaml
    from kubernetes import client, config

    location = os.environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
    configuration = client.Configuration()
    # Retrying is done where a person is told about it.
    configuration.retries = False
    try:
        if not os.environ.get("KUBECONFIG") and not Path(location).expanduser().exists() and not context:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # untyped
            namespace = namespace or SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="ascii").strip()
        else:
            contexts, current = config.list_kube_config_contexts(location)  # type: ignore[no-untyped-call]  # untyped
            chosen = next((c for c in contexts if c["name"] == context), None) if context else current
            if chosen is None:
                known = ", ".join(sorted(c["name"] for c in contexts))
                raise CommandError(f"no context {context!r} in {location}", f"It has: {known}.")
            config.load_kube_config(  # type: ignore[no-untyped-call]  # untyped
                location, context=chosen["name"], client_configuration=configuration, persist_config=False
            )
            namespace = namespace or chosen["context"].get("namespace") or "default"
    except (config.ConfigException, yaml.YAMLError, OSError) as error:
        cause = " ".join(str(error).split())
        raise CommandError(
            f"no cluster to talk to: {cause} (looked in {location})",
            "Set KUBECONFIG to your cluster's kubeconfig, or make a local cluster with `make cluster`.",
        ) from error
    return Cluster(client.ApiClient(configuration), namespace)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the library's exceptions into ours."""
    import urllib3
    from kubernetes import client

    try:
        yield
    except client.ApiException as error:
        if not error.status:  # no answer at all: the library reports a failed TLS handshake like this
            cause = " ".join(str(error.reason).split())
            raise CommandError(f"no secure connection to the API server: {cause}", TLS_REMEDY) from error
        reason = f"{error.status} {error.reason}"
        if error.status == 410:
            raise Expired(reason) from error
        if error.status in TEMPORARY_CODES:
            raise Unavailable(f"the API server answered {reason}") from error
        raise CommandError(f"the API server refused the request: {reason}", _remedy(error.status)) from error
    except urllib3.exceptions.HTTPError as error:
        raise Unavailable(f"the API server does not answer: {_root_cause(error)}") from error


def _remedy(code: int | None) -> str:
    if code == 401:
        return "Log in to the cluster again: the credentials of this context are not accepted."
    if code == 403:
        return f"Ask for the verbs get, list and watch on {names.PLURAL}.{names.GROUP} and get on configmaps."
    return ""


def _root_cause(error: Exception) -> str:
    """What the operating system said, e.g. "Connection refused", or else that the connection ended."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return "the connection ended"
