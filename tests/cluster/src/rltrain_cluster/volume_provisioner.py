"""Give every claim of the StorageClass `local` a directory, and take it away with the claim.

A process of the cluster: it watches PersistentVolumeClaims and PersistentVolumes. Kubernetes' own hostPath provisioner
makes directories that only root can write; pods of ours run as others, so these have mode 0777. All nodes of a local
cluster are one machine: a volume may be used from several of them at once (ReadWriteMany).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
from pathlib import Path

from rltrain_cluster.kubernetes_api import ApiError, KubernetesApi, Object

LOG = logging.getLogger(__name__)
PROVISIONER = "rltrain.io/local-volumes"
STORAGE_CLASS = "local"


def volume_name(claim: Object) -> str:
    """The volume of a claim: a name that cannot be made twice."""
    return f"local-{claim['metadata']['uid']}"


def directory_name(claim: Object) -> str:
    """A name that a person recognises, and that two claims of one name, one after the other, do not share."""
    metadata = claim["metadata"]
    return f"{metadata['namespace']}-{metadata['name']}-{metadata['uid'][:8]}"


def wants_volume(claim: Object) -> bool:
    """Whether the controller manager has handed this claim to us and it has no volume yet."""
    annotations = claim["metadata"].get("annotations") or {}
    return (
        annotations.get("volume.kubernetes.io/storage-provisioner") == PROVISIONER
        and not claim["spec"].get("volumeName")
        and "deletionTimestamp" not in claim["metadata"]
    )


def volume_for(claim: Object, directory: Path) -> Object:
    """The PersistentVolume that the controller manager will bind to `claim`."""
    metadata = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(claim),
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "volumeMode": "Filesystem",
            "storageClassName": claim["spec"]["storageClassName"],
            "persistentVolumeReclaimPolicy": "Delete",
            "hostPath": {"path": str(directory), "type": "Directory"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }


def is_released(volume: Object) -> bool:
    """Whether this is a volume of ours whose claim is gone."""
    annotations = volume["metadata"].get("annotations") or {}
    ours = annotations.get("pv.kubernetes.io/provisioned-by") == PROVISIONER
    return ours and volume.get("status", {}).get("phase") in ("Released", "Failed")


async def provision(api: KubernetesApi, root: Path) -> None:
    """Make directories and volumes for claims, for ever."""
    async for event in api.watch("/api/v1/persistentvolumeclaims"):
        claim = event.object
        if event.kind == "DELETED" or not wants_volume(claim):
            continue
        directory = root / directory_name(claim)
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o777)
        try:
            await api.request("POST", "/api/v1/persistentvolumes", volume_for(claim, directory))
            LOG.info("made %s for %s/%s", directory, claim["metadata"]["namespace"], claim["metadata"]["name"])
        except ApiError as error:
            if error.status != 409:  # a watch may tell of a claim twice
                LOG.warning("cannot make a volume: %s", error)


async def reclaim(api: KubernetesApi, root: Path) -> None:
    """Delete the directories and volumes of deleted claims, for ever."""
    async for event in api.watch("/api/v1/persistentvolumes"):
        volume = event.object
        if event.kind == "DELETED" or not is_released(volume):
            continue
        directory = Path(volume["spec"]["hostPath"]["path"])
        if directory.parent == root:  # whatever the API says, nothing outside is deleted
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        try:
            await api.request("DELETE", f"/api/v1/persistentvolumes/{volume['metadata']['name']}")
            LOG.info("deleted %s", directory)
        except ApiError as error:
            if error.status != 404:
                LOG.warning("cannot delete a volume: %s", error)


async def serve(kubeconfig: Path, root: Path) -> None:
    async with KubernetesApi(kubeconfig) as api:
        await asyncio.gather(provision(api, root), reclaim(api, root))


def main() -> None:
    parser = argparse.ArgumentParser(description="Provision local volumes for a local cluster.")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="where the volumes' directories lie")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(serve(options.kubeconfig, options.root))


if __name__ == "__main__":
    main()
