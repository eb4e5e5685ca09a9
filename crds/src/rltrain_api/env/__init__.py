"""Environment variables: what each is for and who reads it, presets, and the layers that make a pod's environment.

    variable, variables_*, catalogue   every variable of SkyRL's reference and every one that is really read
    refused, secrecy, check            what never reaches pods, what is never shown, what is doubtful
    presets, derive                    named sets; what a job's configuration needs
    exclusion, forward                 what is left out; what of a shell goes along
    compose, pods                      layers, low to high, into one environment in which each value has its history
    document                           the reference tables of docs/environment.md

Pure functions; only a command line may read the environment of its own process and hand it in.
"""

from rltrain_api.env.catalogue import CATALOGUE
from rltrain_api.env.check import Finding, check_variable
from rltrain_api.env.compose import Environment, Layer, LayerValues, compose
from rltrain_api.env.derive import job_derived
from rltrain_api.env.exclusion import exclude
from rltrain_api.env.forward import FORWARD_PREFIXES, forward
from rltrain_api.env.pods import job_environment, pod_environment
from rltrain_api.env.presets import PRESETS
from rltrain_api.env.refused import refused_in_pods
from rltrain_api.env.secrecy import is_secret, shown

__all__ = [
    "CATALOGUE",
    "FORWARD_PREFIXES",
    "PRESETS",
    "Environment",
    "Finding",
    "Layer",
    "LayerValues",
    "check_variable",
    "compose",
    "exclude",
    "forward",
    "is_secret",
    "job_derived",
    "job_environment",
    "pod_environment",
    "refused_in_pods",
    "shown",
]
