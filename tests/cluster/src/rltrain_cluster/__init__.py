"""The local Kubernetes: a real cluster for tests and demonstrations, made by one command on one machine.

    python -m rltrain_cluster up --nodes 2 --gpus-per-node 4
    python -m rltrain_cluster kubectl get pods -A
    python -m rltrain_cluster down

Four back ends stand behind one interface (`backend.Backend`): `embedded` (processes of this machine, the default),
`kind` (containers of Docker), `existing` (the current context), `controlplane` (no root: an API server with fake
nodes). They give anybody a cluster with KubeRay in it and must not know RLTrain; only `images` (our Dockerfiles) and
`demo` do, which stand on top of them.
"""

from rltrain_cluster.clusters import find, load_image
from rltrain_cluster.errors import ClusterError

__all__ = ["ClusterError", "find", "load_image"]
