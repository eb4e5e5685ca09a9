"""What a script asked of Slurm, compared with what the job will ask of Kubernetes.

Must not know how a script is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rltrain_api.convert.report import Report

_SHORT = {"J": "job-name", "N": "nodes", "t": "time", "p": "partition", "G": "gpus", "o": "output", "e": "error"}
_DEFAULTS = {"policy_num_nodes": 1, "policy_num_gpus_per_node": 1}
_PLACED = {"nodes": "policy_num_nodes", "gpus-per-node": "policy_num_gpus_per_node"}
# What Kubernetes has in its place.
_INSTEAD = {
    "time": "the job has no limit of time",
    "partition": "set nodeSelector and tolerations in spec.pools",
    "constraint": "set nodeSelector in spec.pools",
    "nodelist": "set nodeSelector in spec.pools",
    "exclude": "set nodeSelector in spec.pools",
    "mem": "set resources.memory in spec.pools",
    "mem-per-cpu": "set resources.memory in spec.pools",
    "cpus-per-task": "set resources.cpu in spec.pools",
    "account": "set queueName",
    "qos": "set priorityClassName",
}
_RESOURCES = {"cpus-per-task": "cpu", "mem": "memory"}
_LOGS = "`kubectl logs` has the output of the pods"
_PODS = "the operator starts the pods"
_WITHOUT_LOSS = {
    "output": _LOGS,
    "error": _LOGS,
    "open-mode": _LOGS,
    "ntasks": _PODS,
    "ntasks-per-node": _PODS,
    "exclusive": _PODS,
    "export": _PODS,
    "chdir": _PODS,
    "signal": _PODS,
    "requeue": "failurePolicy says how often a failed attempt is tried again",
}


@dataclass(slots=True)
class SlurmRequest:
    """What of a Slurm job has a place in an RLTrainingJob; empty where the script does not say it."""

    job_name: str = ""
    resources: dict[str, str] = field(default_factory=dict)  # cpu and memory of one node's pod


def read_directives(directives: Mapping[str, tuple[str, int]], tree: Mapping[str, Any], report: Report) -> SlurmRequest:
    """What `#SBATCH` lines ask for, and what becomes of it.

    Args:
        directives: Option without dashes -> (value, line).
        tree: The configuration, whose placement says how many nodes and GPUs the job gets.
        report: Gets a note for every directive.
    """
    request = SlurmRequest()
    placement = tree.get("trainer", {}).get("placement", {})
    for short, (value, line) in directives.items():
        name = _SHORT.get(short, short)
        if name == "job-name":
            request.job_name = value
        elif name in _PLACED or name in ("gres", "gpus"):
            _compare(name, value, placement, line, report)
        elif name in _RESOURCES and (quantity := _quantity(name, value)):
            request.resources[_RESOURCES[name]] = quantity
            report.check(
                line, f"#SBATCH --{name} {value} is resources.{_RESOURCES[name]} {quantity} of the GPU pools' pods"
            )
        elif name in _WITHOUT_LOSS:
            report.note(line, f"#SBATCH --{name} is left out: {_WITHOUT_LOSS[name]}")
        else:
            instead = _INSTEAD.get(name, "it has no counterpart")
            report.missing(line, f"#SBATCH --{name} {value} is not carried over: {instead}")
    return request


def _quantity(name: str, value: str) -> str:
    """A number of CPUs or an amount of memory as Kubernetes writes it; empty where it is neither.

    Slurm counts memory in MiB where there is no letter; 0 means all that a node has.
    """
    match = re.fullmatch(r"([1-9]\d*)([KMGT]?)B?", value, re.I)
    if match is None or (name == "cpus-per-task" and match[2]):
        return ""
    return match[1] if name == "cpus-per-task" else f"{match[1]}{(match[2] or 'M').upper()}i"


def _compare(name: str, value: str, placement: Mapping[str, Any], line: int, report: Report) -> None:
    place = _PLACED.get(name, "policy_num_gpus_per_node")
    count = re.search(r"(\d+)$", value)
    placed = placement.get(place, _DEFAULTS[place])
    if count is not None and int(count[1]) == placed:
        report.note(line, f"#SBATCH --{name} {value} is trainer.placement.{place} {placed}")
    else:
        report.check(
            line,
            f"#SBATCH --{name} {value} is left out: pods and GPUs follow from the configuration, where "
            f"trainer.placement.{place} is {placed}",
        )
