"""What can never fit: the pods that a RayCluster asks for, held against the nodes that there are.

Only what no waiting can mend counts: labels, taints, and what nodes offer when they are empty. Pods that run now do not
matter, for they end. An autoscaler may still add nodes, so a shortfall is a warning and no verdict. Must not know where
nodes come from; what is not understood (an affinity's rarer operators) is taken to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rltrain_api import names
from rltrain_api.quantity import parse_quantity
from rltrain_api.rules.wording import counted

_SHOWN_TAINTS = 3
_PODS = "pods"


@dataclass(frozen=True)
class Node:
    """What a node offers to pods when it is empty, and whom it keeps away. Quantities in cores, bytes or pieces."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Mapping[str, str], ...]
    offers: Mapping[str, Decimal]


@dataclass(frozen=True)
class Wanted:
    """`count` equal pods of one pool, and what each asks for."""

    pool: str
    count: int
    asks: Mapping[str, Decimal]
    spec: Mapping[str, Any]  # of the pod: nodeSelector, affinity, tolerations


def read_node(body: Mapping[str, Any]) -> Node:
    """A node as the API server gives it. A cordoned node counts: that passes."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    taints = [taint for taint in spec.get("taints") or [] if not _passes(taint)]
    return Node(
        name=body["metadata"]["name"],
        labels=dict(body["metadata"].get("labels") or {}),
        taints=tuple(taint for taint in taints if taint.get("effect") in ("NoSchedule", "NoExecute")),
        offers={name: parse_quantity(str(size)) for name, size in (status.get("allocatable") or {}).items()},
    )


def wanted_pods(ray_cluster: Mapping[str, Any]) -> list[Wanted]:
    """The pods that a planned RayCluster asks for, by pool."""
    spec = ray_cluster["spec"]
    found = [_wanted(names.ROLE_HEAD, 1, spec["headGroupSpec"]["template"])]
    for group in spec["workerGroupSpecs"]:
        found.append(_wanted(group["groupName"], group["replicas"] * group["numOfHosts"], group["template"]))
    return found


def shortfalls(wanted: Sequence[Wanted], nodes: Sequence[Node]) -> list[str]:
    """For each pool that cannot fit, one sentence with the pool, what it asks for and what there is.

    Pools that fit alone and not together are named together, by the resource that runs short.
    """
    alone = {pods.pool: _shortfall(pods, nodes) for pods in wanted}
    found = [message for message in alone.values() if message is not None]
    together = [pods for pods in wanted if alone[pods.pool] is None]
    return [*found, *_shortfalls_together(together, nodes)]


def _wanted(pool: str, count: int, template: Mapping[str, Any]) -> Wanted:
    asks: dict[str, Decimal] = {_PODS: Decimal(1)}
    for container in template["spec"].get("containers") or []:
        resources = container.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        sizes = {**requests, **{name: size for name, size in limits.items() if name not in requests}}
        for name, size in sizes.items():
            asks[name] = asks.get(name, Decimal(0)) + parse_quantity(str(size))
    return Wanted(pool, count, asks, template["spec"])


def _shortfall(wanted: Wanted, nodes: Sequence[Node]) -> str | None:
    """The first thing that keeps the pods away, in the order in which a person would look."""
    begin = f"pool {wanted.pool}: {_pods(wanted)}"
    if not nodes:
        return f"{begin}; the cluster has no nodes"
    selected = [node for node in nodes if _is_selected(node, wanted.spec)]
    if not selected:
        return f"{begin}; no node of {len(nodes)} {_selection(wanted.spec)}"
    # "Open" are the nodes that labels and taints let the pods on.
    opened = [node for node in selected if not _repelling(node, wanted.spec)]
    kept_away = _kept_away(selected, wanted)
    if not opened:
        return f"{begin}; no node is open to it{kept_away}"
    for resource, asked in wanted.asks.items():
        most = max(node.offers.get(resource, Decimal(0)) for node in opened)
        having = sum(1 for node in opened if node.offers.get(resource))
        if not having:
            return f"{begin}; no node of the {len(opened)} open to it offers {resource}{kept_away}"
        if most < asked:
            offers = f"the largest node offers {_size(most, resource)}"
            return f"{begin}; {offers} ({counted(having, 'node')} open to it with {resource}){kept_away}"
    room = sum(_room(node, wanted) for node in opened)
    if room < wanted.count:
        return f"{begin}; {counted(len(opened), 'node')} open to it, with room for {room} when empty{kept_away}"
    return None


def _shortfalls_together(wanted: Sequence[Wanted], nodes: Sequence[Node]) -> Iterable[str]:
    for resource in sorted({name for pods in wanted for name in pods.asks if "/" in name}):
        pools = [pods for pods in wanted if resource in pods.asks]
        if len(pools) < 2:
            continue
        asked = sum((pods.count * pods.asks[resource] for pods in pools), Decimal(0))
        usable = [node for node in nodes if any(_room(node, pods) for pods in pools)]
        offered = sum((node.offers.get(resource, Decimal(0)) for node in usable), Decimal(0))
        if offered < asked:
            named = " and ".join(pods.pool for pods in pools)
            total = f"{counted(len(usable), 'node')} open to them, with {offered.normalize():f} in all"
            yield f"pools {named} together: {asked.normalize():f} {resource}; {total}"


def _room(node: Node, wanted: Wanted) -> int:
    """How many of the pods an empty node holds."""
    if not _is_selected(node, wanted.spec) or _repelling(node, wanted.spec):
        return 0
    return int(min(node.offers.get(name, Decimal(0)) // asked for name, asked in wanted.asks.items() if asked))


def _is_selected(node: Node, spec: Mapping[str, Any]) -> bool:
    selector: Mapping[str, str] = spec.get("nodeSelector") or {}
    if any(node.labels.get(key) != value for key, value in selector.items()):
        return False
    terms = _required_terms(spec)
    return not terms or any(_term_matches(node, term) for term in terms)


def _required_terms(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms: list[Mapping[str, Any]] = required.get("nodeSelectorTerms") or []
    return terms


def _term_matches(node: Node, term: Mapping[str, Any]) -> bool:
    return all(_expression_matches(node, expression) for expression in term.get("matchExpressions") or [])


def _expression_matches(node: Node, expression: Mapping[str, Any]) -> bool:
    value, values = node.labels.get(expression.get("key", "")), expression.get("values") or []
    checks: dict[str, Callable[[], bool]] = {
        "In": lambda: value in values,
        "NotIn": lambda: value not in values,
        "Exists": lambda: value is not None,
        "DoesNotExist": lambda: value is None,
    }
    check = checks.get(expression.get("operator", ""))
    return check is None or check()


def _repelling(node: Node, spec: Mapping[str, Any]) -> list[Mapping[str, str]]:
    tolerations = spec.get("tolerations") or []
    return [taint for taint in node.taints if not any(_tolerates(each, taint) for each in tolerations)]


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, str]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    operator, key = toleration.get("operator") or "Equal", toleration.get("key") or ""
    if key != taint.get("key", "") and not (key == "" and operator == "Exists"):
        return False
    if operator == "Equal":
        return str(toleration.get("value") or "") == str(taint.get("value") or "")
    return True  # Exists; Lt and Gt are taken to fit


def _passes(taint: Mapping[str, str]) -> bool:
    """Whether Kubernetes itself puts the taint on for a time: not ready, under pressure, cordoned."""
    return str(taint.get("key", "")).startswith("node.kubernetes.io/")


def _selection(spec: Mapping[str, Any]) -> str:
    selector: Mapping[str, str] = spec.get("nodeSelector") or {}
    wanted = []
    if selector:
        wanted.append("has the labels " + ", ".join(f"{key}={value}" for key, value in selector.items()))
    if _required_terms(spec):
        wanted.append("is what the required node affinity asks for")
    return " and ".join(wanted)


def _kept_away(selected: Sequence[Node], wanted: Wanted) -> str:
    """What to add where taints keep nodes away that may be meant."""
    taints = {node.name: _repelling(node, wanted.spec) for node in selected}
    texts = sorted({_taint_text(taint) for repelling in taints.values() for taint in repelling})
    if not texts:
        return ""
    shown = ", ".join(texts[:_SHOWN_TAINTS]) + (", …" if len(texts) > _SHOWN_TAINTS else "")
    away = sum(1 for repelling in taints.values() if repelling)
    pool = names.ROLE_TRAINER if wanted.pool in (names.ROLE_REFERENCE, names.ROLE_CRITIC) else wanted.pool
    return f"; pools.{pool}.tolerations keeps it from {counted(away, 'node')} with the taints {shown}"


def _pods(wanted: Wanted) -> str:
    """`2 pods of 8 nvidia.com/gpu each`, or of CPU and memory where they have no devices."""
    devices = {name: size for name, size in wanted.asks.items() if "/" in name}
    shown = devices or {name: size for name, size in wanted.asks.items() if name != _PODS}
    what = ", ".join(_size(size, name) for name, size in shown.items())
    return f"{counted(wanted.count, 'pod')} of {what}{' each' if wanted.count > 1 else ''}"


def _size(size: Decimal, resource: str) -> str:
    if resource == "memory":
        return f"{size / 2**30:.1f} GiB of memory"
    return f"{size.normalize():f} {'CPU' if resource == 'cpu' else resource}"


def _taint_text(taint: Mapping[str, str]) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key')}{value}:{taint.get('effect')}"
