"""What a chart would install, made ready for processes of this machine on a control plane without real nodes.

Deployments cannot run there, so tests start the same programs with the same flags under the same accounts.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rltrain_api.parse import parse_job
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.waiting import wait_until

Object = dict[str, Any]

RIGHTS = frozenset({"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"})
DEADLINE_SECONDS = 60


def attempt(kubectl: Kubectl, *arguments: str, documents: Sequence[Object] = ()) -> subprocess.CompletedProcess[str]:
    """One call of kubectl, which may fail; it reads the documents from `--filename=-`."""
    return subprocess.run(
        kubectl.command(arguments),
        input="\n---\n".join(map(json.dumps, documents)),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
        env=None if kubectl.environment is None else dict(kubectl.environment),
    )


def kubeconfig_of(kubectl: Kubectl, namespace: str, account: str, directory: Path) -> Path:
    """A kubeconfig with a token of a service account: what a pod of that account may do, and nothing else."""
    assert kubectl.kubeconfig is not None
    # kubectl writes its configurations as JSON, too, and the names in it are those of the administrator's.
    config = json.loads(
        kubectl("config", "view", "--raw", "--minify", "--output=json", what="reading the administrator's kubeconfig")
    )
    what = f"a token of {namespace}/{account}"
    token = kubectl("create", "token", account, f"--namespace={namespace}", what=what).strip()
    config["users"] = [{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]
    path = directory / f"{account}.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path


def bare_job(name: str, namespace: str, **spec: Any) -> Object:
    """A valid job of two GPUs that needs no initializer: its RayCluster is made by the first pass over it."""
    config = {
        "data": {"train_data": ["/checkpoints/train.parquet"], "val_data": ["/checkpoints/val.parquet"]},
        "trainer": {
            "placement": {"colocate_all": False, "policy_num_gpus_per_node": 1},
            "policy": {"model": {"path": "/checkpoints/model"}},
            "algorithm": {"use_kl_loss": False},
            "train_batch_size": 8,
            "policy_mini_batch_size": 4,
            "ckpt_path": "/checkpoints/job",
            "logger": "console",
        },
        "generator": {"inference_engine": {"backend": "builtin", "num_engines": 1}, "n_samples_per_prompt": 4},
    }
    storage = {"checkpoints": {"claimTemplate": {"storage": "1Gi"}}}
    document = {
        "apiVersion": "rltrain.io/v1alpha1",
        "kind": "RLTrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"config": config, "runtime": {"image": "trainer:1"}, "storage": storage, **spec},
    }
    assert not isinstance(parse_job(document), list), parse_job(document)
    return document


def found(kubectl: Kubectl, kind: str, namespace: str) -> dict[str, Object]:
    """All objects of a kind in a namespace, by name."""
    items = kubectl.get(kind, f"--namespace={namespace}", what=f"listing {kind} in {namespace}")["items"]
    return {item["metadata"]["name"]: item for item in items}


def wait_for_object(kubectl: Kubectl, kind: str, namespace: str, name: str) -> Object:
    """One object, once it is there."""
    last: dict[str, Object] = {}

    def is_there() -> bool:
        last.update(found(kubectl, kind, namespace))
        return name in last

    wait_until(f"{kind} {namespace}/{name}", is_there, DEADLINE_SECONDS, explain=lambda: f"there are: {sorted(last)}")
    return last[name]
