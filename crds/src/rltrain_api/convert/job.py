"""The RLTrainingJob around a converted configuration: its name, environment, volumes, and whose trainer runs.

Must not know what the input looked like.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rltrain_api import names
from rltrain_api.convert.environment import PodEnvironment
from rltrain_api.convert.fields import Path, in_tree_order
from rltrain_api.convert.options import Options
from rltrain_api.convert.paths import CHECKPOINTS_SIZE, DATA_SIZE, Placement, move_output, place_paths
from rltrain_api.convert.report import Report
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.overrides import apply_overrides, flatten
from rltrain_api.parse import parse_job
from rltrain_api.validate import validate

IMAGE_PLACEHOLDER = "registry.example.com/team/skyrl:choose-one"
_CONFIG = "spec.config."
_DEFAULT_LOGGER = "wandb"
_LOGGER_SECRETS = {"wandb": "WANDB_API_KEY", "swanlab": "SWANLAB_API_KEY"}
_SHOWN_ERRORS = 3

Trainer = Literal["builtin", "skyrl"]


@dataclass(slots=True)
class Parts:
    """What a job is made of."""

    tree: dict[str, Any]
    environment: PodEnvironment = field(default_factory=PodEnvironment)
    lines: dict[Path, int] = field(default_factory=dict)  # where each field was set
    run_name: str = ""  # what else could name the job
    resources: dict[str, str] = field(default_factory=dict)  # cpu and memory of a pod that trains


def assemble(parts: Parts, options: Options, report: Report) -> tuple[dict[str, Any], list[FieldError]]:
    """The job's document, and what is wrong with it."""
    name = _job_name(parts, options, report)
    placement = place_paths(parts.tree, parts.lines, report)
    trainer, errors = _choose_trainer(name, parts, placement, options, report)
    moved = [error for error in errors if error.code is ErrorCode.NOT_MOUNTED and _move(error, placement, report)]
    document = _document(name, trainer, parts, placement, options)
    if moved:
        errors = _errors_of(document)
    _tell(name, trainer, parts, placement, options, report)
    return document, errors


def _move(error: FieldError, placement: Placement, report: Report) -> bool:
    return move_output(placement, tuple(error.path.removeprefix(_CONFIG).split(".")), report)


def _choose_trainer(
    name: str, parts: Parts, placement: Placement, options: Options, report: Report
) -> tuple[Trainer, list[FieldError]]:
    """The trainer that was asked for, or the one that can do it; with what is wrong then."""
    document = _document(name, "builtin", parts, placement, options)
    form = _form_errors(document)
    if options.trainer != "auto":
        document["spec"]["runtime"]["trainer"] = options.trainer
        return options.trainer, form or _errors_of(document)
    if form:  # rules are asked about the rest, so that a slip in one field decides nothing
        placement = replace(placement, tree=_without(placement.tree, form))
    builtin = _errors_of(_document(name, "builtin", parts, placement, options))
    upstream = _errors_of(_document(name, "skyrl", parts, placement, options))
    only_builtin = [error for error in builtin if error not in upstream]
    if not builtin:
        report.note(None, "runtime.trainer is builtin: RLTrain's own trainer does everything that is asked for")
    if len(upstream) >= len(builtin) or not only_builtin:
        return "builtin", form or builtin
    reasons = [error.path.removeprefix(_CONFIG) for error in only_builtin]
    more = f" and {len(reasons) - _SHOWN_ERRORS} more" if len(reasons) > _SHOWN_ERRORS else ""
    report.check(
        None,
        "runtime.trainer is skyrl, because the builtin trainer does not do what is asked for in "
        f"{', '.join(reasons[:_SHOWN_ERRORS])}{more}; --trainer builtin says what would have to change",
    )
    return "skyrl", form or upstream


def _form_errors(document: Mapping[str, Any]) -> list[FieldError]:
    parsed = parse_job(document)
    return parsed if isinstance(parsed, list) else []


def _errors_of(document: Mapping[str, Any]) -> list[FieldError]:
    parsed = parse_job(document)
    return parsed if isinstance(parsed, list) else validate(parsed)


def _without(tree: Mapping[str, Any], errors: list[FieldError]) -> dict[str, Any]:
    """The configuration without the fields whose form is wrong."""
    wrong = {tuple(error.path.removeprefix(_CONFIG).partition("[")[0].split(".")) for error in errors}
    kept = [
        override
        for override in flatten(tree)
        if not any(override.path[: len(path)] == path or path[: len(override.path)] == override.path for path in wrong)
    ]
    return apply_overrides({}, kept)


def _document(name: str, trainer: Trainer, parts: Parts, placement: Placement, options: Options) -> dict[str, Any]:
    runtime: dict[str, Any] = {"trainer": trainer, "image": options.image or IMAGE_PLACEHOLDER}
    if parts.environment.values:
        runtime["env"] = [{"name": key, "value": value} for key, value in parts.environment.values.items()]
    if _secrets(trainer, parts, placement):
        runtime["envFrom"] = [{"secretRef": {"name": _secret_name(name)}}]
    storage: dict[str, Any] = {
        "checkpoints": {"mountPath": placement.checkpoints, "claimTemplate": {"storage": CHECKPOINTS_SIZE}}
    }
    if placement.volumes:
        storage["data"] = [
            {"name": volume, "mountPath": mount, "claimTemplate": {"storage": DATA_SIZE}}
            for mount, volume in placement.volumes.items()
        ]
    spec: dict[str, Any] = {"config": in_tree_order(placement.tree), "runtime": runtime}
    if parts.resources:
        spec["pools"] = {"trainer": {"resources": dict(parts.resources)}}
    spec["storage"] = storage
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": name}, "spec": spec}


def _secrets(trainer: Trainer, parts: Parts, placement: Placement) -> dict[str, int | None]:
    """The variables that must come from a Secret, with the line that asks for each."""
    secrets = dict(parts.environment.secrets)
    logger = placement.tree.get("trainer", {}).get("logger", _DEFAULT_LOGGER)
    needed = _LOGGER_SECRETS.get(logger) if isinstance(logger, str) else None
    if trainer == "skyrl" and needed is not None and needed not in parts.environment.values:
        secrets.setdefault(needed, parts.lines.get(("trainer", "logger")))
    return secrets


def _secret_name(name: str) -> str:
    return f"{_as_name(name) or 'skyrl-run'}-secrets"


def _tell(name: str, trainer: Trainer, parts: Parts, placement: Placement, options: Options, report: Report) -> None:
    if not options.image:
        report.missing(
            None,
            "spec.runtime.image is a placeholder: give --image, or write the image that holds "
            + ("SkyRL, with your code" if trainer == "skyrl" else "RLTrain's trainer"),
        )
    if not parts.resources:
        report.note(
            None,
            "spec.pools is not set: pods ask for 1 CPU and 4Gi each; `kubectl rltrain plan` says what the models need",
        )
    secrets = _secrets(trainer, parts, placement)
    if secrets:
        literals = " ".join(f'--from-literal={secret}="${secret}"' for secret in secrets)
        line = next((line for line in secrets.values() if line is not None), None)
        report.check(
            line,
            f"secrets come from the Secret {_secret_name(name)}: kubectl create secret generic {_secret_name(name)} "
            f"{literals}",
        )


def _job_name(parts: Parts, options: Options, report: Report) -> str:
    """A name that Kubernetes takes, made of the run's; one that was asked for stays as it is."""
    if options.name:
        return options.name
    trainer = parts.tree.get("trainer", {})
    run_name = trainer.get("run_name")
    stem = "" if options.source.startswith("<") else posixpath.basename(options.source).partition(".")[0]
    for candidate in (run_name, parts.run_name, stem.removeprefix("run_"), trainer.get("project_name")):
        name = _as_name(candidate) if isinstance(candidate, str) else ""
        if name:
            if name != candidate:
                report.note(
                    parts.lines.get(("trainer", "run_name")) if candidate is run_name else None,
                    f"metadata.name is {name}, made of {candidate!r}",
                )
            return name
    report.note(None, "metadata.name is skyrl-run; choose another one with --name")
    return "skyrl-run"


def _as_name(text: str) -> str:
    """The text in the characters and the length that a job's name may have; empty where nothing is left."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return (f"run-{plain}" if plain[:1].isdigit() else plain)[: names.MAX_JOB_NAME_LENGTH].rstrip("-")
