"""What a strategic merge patch of a pod's template may say; who applies it is in the operator."""

from __future__ import annotations

from collections.abc import Mapping

# Lists of a pod's template that are merged entry by entry, and what tells their entries apart. A list that is not
# here is replaced as a whole. Source: `patchMergeKey` of k8s.io/api/core/v1.
MERGE_KEYS: Mapping[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
# `$patch: delete` in an entry of such a list removes it; no other directive is taken.
DIRECTIVE = "$patch"
DELETE = "delete"
