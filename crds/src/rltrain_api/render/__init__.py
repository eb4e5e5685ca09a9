"""A job in the forms of other places: upstream SkyRL's command line, a Slurm script, a Modal app.

The other direction of `rltrain_api.convert`. Every renderer is a pure function from a valid job to `Rendered`: the
text, and a note for each thing that the other place does not know or does differently, so that nothing is dropped in
silence. Secrets appear by name, never by value. The renderers must not know Kubernetes' manifests: a RayJob is made by
`rltrain_operator.plan.rayjob`, which uses the same parts.
"""

from rltrain_api.render.command import render_command
from rltrain_api.render.modal import TooLargeForModal, render_modal
from rltrain_api.render.rendered import Rendered
from rltrain_api.render.slurm import render_slurm
from rltrain_api.render.upstream import job_for_skyrl, notes_for_skyrl, overrides_for_skyrl, refusals_for_skyrl

__all__ = [
    "Rendered",
    "TooLargeForModal",
    "job_for_skyrl",
    "notes_for_skyrl",
    "overrides_for_skyrl",
    "refusals_for_skyrl",
    "render_command",
    "render_modal",
    "render_slurm",
]
