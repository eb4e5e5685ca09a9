"""What the flags say of this installation, as the rest of the operator needs it; refused where it cannot work.

Every function raises ValueError with the flag, what is wrong with it, and what to do. Nothing here asks the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rltrain_api.env.check import check_variable
from rltrain_api.env.secrecy import is_secret
from rltrain_api.spec.base import DNS_LABEL_PATTERN, ENV_NAME_PATTERN
from rltrain_operator.plan import Peer

MAX_NAMESPACE_LENGTH = 63


def watched_namespaces(values: Sequence[str]) -> list[str]:
    """The namespaces of `--namespace`, each once; none means the whole cluster."""
    for value in values:
        if len(value) > MAX_NAMESPACE_LENGTH or not re.match(DNS_LABEL_PATTERN, value):
            raise ValueError(
                f"--namespace {value!r} is not the name of a namespace: names have at most {MAX_NAMESPACE_LENGTH} "
                "characters a-z, 0-9 and '-'. Patterns and lists are not understood: repeat the flag for each "
                "namespace, or leave it out to watch all of them"
            )
    return list(dict.fromkeys(values))


def job_environment(pairs: Sequence[str]) -> dict[str, str]:
    """The variables of `--job-environment NAME=VALUE`, in their order; no message quotes a value."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        where = f"--job-environment {name}"
        if not equals or not re.match(ENV_NAME_PATTERN, name):
            raise ValueError(f"{where}: must be NAME=VALUE with the name of a variable")
        if name in found:
            raise ValueError(f"{where}: is given twice; keep one of the two")
        if is_secret(name, value):
            raise ValueError(
                f"{where}: looks like a secret, which whoever may see the operator's Deployment or a job's pods would "
                "see; put it into a Secret and let jobs name that in spec.runtime.envFrom"
            )
        for finding in check_variable(name, value):
            if finding.level == "error":
                raise ValueError(f"{where} {finding.message}")
        found[name] = value
    return found


def peer(text: str | None) -> Peer | None:
    """Who may reach the drivers, from `--job-network-policy-from NAMESPACE:LABEL=VALUE,…`; None where it is not set."""
    if text is None:
        return None
    namespace, colon, labels = text.partition(":")
    pairs = [label.partition("=") for label in labels.split(",")]
    if not colon or not re.match(DNS_LABEL_PATTERN, namespace) or not all(all(pair) for pair in pairs):
        raise ValueError(
            f"--job-network-policy-from {text!r}: must be the operator's namespace and labels of its pods, such as "
            "rltrain-system:app.kubernetes.io/name=rltrain-operator"
        )
    return Peer(namespace, {key: value for key, _, value in pairs})
