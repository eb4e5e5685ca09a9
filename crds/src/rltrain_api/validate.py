"""Validation: everything that is wrong with a job, at once.

The one function that the command line, the admission webhook and the reconcile loop call, so that a cluster without the
webhook is still safe. It is pure: it changes nothing and reads neither the environment nor a file. What a single field
may hold is in the models; what the parts must be to each other is in `rltrain_api.rules`.
"""

from __future__ import annotations

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import override_document, parse_job
from rltrain_api.rules import (
    algorithm,
    batch_sizes,
    checkpoints,
    engines,
    environment,
    fully_async,
    generation,
    images,
    initializers,
    kubernetes,
    off_policy,
    paths,
    placement,
    pools,
    queueing,
    strategies,
    support,
    templates,
    volumes,
)
from rltrain_api.rules.facts import Facts, Rule

__all__ = ["RULES", "SKYRL_RULES", "ErrorCode", "FieldError", "parse_job", "validate"]

_SUBJECTS = (
    kubernetes,
    images,
    environment,
    pools,
    templates,
    queueing,
    volumes,
    initializers,
    paths,
    support,
    placement,
    strategies,
    batch_sizes,
    algorithm,
    off_policy,
    generation,
    engines,
    checkpoints,
    fully_async,
)
# The rules that hold for every job, and those that hold where upstream's trainer runs.
RULES: tuple[Rule, ...] = tuple(rule for subject in _SUBJECTS for rule in subject.RULES)
SKYRL_RULES: tuple[Rule, ...] = tuple(rule for subject in _SUBJECTS for rule in subject.SKYRL_RULES)


def validate(job: RLTrainingJob) -> list[FieldError]:
    """Every error of a job that could be parsed, sorted by path; empty where the job can run. Never raises.

    An error in a value that `spec.overrides` has set names the override.
    """
    facts = Facts(job)
    rules = (*RULES, *SKYRL_RULES) if facts.runs_upstream else RULES
    found = {error for rule in rules for error in rule(facts)}
    if found and job.spec.overrides:
        overridden = override_document({"spec": {"config": {}, "overrides": job.spec.overrides}})
        found = {overridden.blame(error) for error in found}
    return sorted(found)
