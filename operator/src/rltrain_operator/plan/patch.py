"""Strategic merge patches of a pod's template, as `kubectl patch` makes them, as far as a template needs it.

Maps are merged key by key, and null removes a key. Lists whose entries Kubernetes tells apart by a key are merged entry
by entry: an entry of the patch changes the one with the same key, `$patch: delete` removes it, and one that is new is
added at the end. Every other list is replaced. The keys are those of Kubernetes' own types (`patchMergeKey` in
k8s.io/api/core/v1); note that tolerations have none there, so a patch replaces them all.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from rltrain_api.spec.merging import DELETE, DIRECTIVE, MERGE_KEYS


def merged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A new document: the target with the patch applied. Neither argument is changed."""
    result = copy.deepcopy(dict(target))
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            inner = result.get(key)
            result[key] = merged(inner if isinstance(inner, Mapping) else {}, value)
        elif isinstance(value, list) and key in MERGE_KEYS:
            result[key] = _merged_list(result.get(key) or [], value, MERGE_KEYS[key])
        else:
            result[key] = copy.deepcopy(value)
    return result


def _merged_list(entries: Sequence[Mapping[str, Any]], patch: Sequence[Mapping[str, Any]], by: str) -> list[Any]:
    result = [dict(entry) for entry in entries]
    for change in patch:
        place = next((index for index, entry in enumerate(result) if entry.get(by) == change[by]), None)
        if change.get(DIRECTIVE) == DELETE:
            if place is not None:
                del result[place]
        elif place is None:
            result.append(merged({}, change))
        else:
            result[place] = merged(result[place], change)
    return result
