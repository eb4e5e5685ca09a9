"""What an edit of the spec changes of the run that is recorded. Read anew on every pass and remembered nowhere."""

from __future__ import annotations

from enum import StrEnum

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.resolve import document_hash, resolved_document
from rltrain_operator.plan import cluster_hash, engines_of, fixed_engines, spec_hash, with_engines
from rltrain_operator.reconcile.draft import Draft


class Edit(StrEnum):
    """What an edit of the spec changes of the run that is recorded."""

    NOTHING = "nothing"
    ENGINES = "engines"  # their number alone, and it may change while the run goes on
    CONFIGURATION = "configuration"  # the same pods run it
    PODS = "pods"


def edit(draft: Draft) -> Edit:
    """What the spec asks for beside what is recorded; policies, which apply at once, do not count."""
    job, record, cluster = draft.subject.job, draft.value("resolved_config"), draft.observed.cluster
    if job is None or record is None or draft.subject.errors:
        return Edit.NOTHING
    if record.config_map == names.config_map_name(job.metadata.name, job.metadata.generation):
        return Edit.NOTHING
    scaled = can_scale(job) and record.engines is not None and record.engines != engines_of(job)
    # The spec as it would be without the change of that number.
    rest = with_engines(job, record.engines) if scaled else job
    but_engines = Edit.ENGINES if scaled else Edit.NOTHING
    if record.spec_hash == spec_hash(rest):
        return but_engines  # whatever a newer operator would make of the same words
    if cluster is not None and cluster_hash(rest) != cluster.spec_hash:
        return Edit.PODS
    changed = document_hash(resolved_document(rest)) != record.hash
    return Edit.CONFIGURATION if changed else but_engines


def can_scale(job: RLTrainingJob) -> bool:
    """Whether the number of engines may change while the job runs."""
    return fixed_engines(job) is None
