"""The catalogue of environment variables: every one that SkyRL's reference names, and those that are really read.

Must not know jobs, layers or presets.
"""

from __future__ import annotations

import difflib
from types import MappingProxyType

from rltrain_api.env.variable import Variable
from rltrain_api.env.variables_applications import APPLICATIONS
from rltrain_api.env.variables_further import FURTHER
from rltrain_api.env.variables_platform import PLATFORM

# Sections 1 to 18 are those of SkyRL's reference of environment variables; 10 to 12 use those of other sections.
SECTIONS = MappingProxyType(
    {
        1: "GPU and CUDA",
        2: "NCCL",
        3: "Ray",
        4: "SGLang",
        5: "SkyRL",
        6: "Hugging Face",
        7: "Weights & Biases",
        8: "PyTorch",
        9: "Threads",
        10: "Common configurations",
        11: "Slurm",
        12: "Troubleshooting",
        13: "SkyRL, internal",
        14: "NCCL, advanced",
        15: "vLLM",
        16: "Other loggers",
        17: "Modal",
        18: "Fully asynchronous training",
        19: "Read by SkyRL, and not in its reference",
        20: "Also of use",
    }
)

CATALOGUE = MappingProxyType({variable.name: variable for variable in (*PLATFORM, *APPLICATIONS, *FURTHER)})

# One wrong, missing or swapped letter in eight; two different variables of the catalogue are further apart.
_NEAR = 0.87
_BY_UPPER_CASE = MappingProxyType({name.upper(): variable for name, variable in CATALOGUE.items()})


def find(name: str) -> Variable | None:
    """The entry of this very name."""
    return CATALOGUE.get(name)


def near_miss(name: str) -> Variable | None:
    """The entry that a name which is not in the catalogue was probably meant to be."""
    if name in CATALOGUE:
        return None
    if name.upper() in _BY_UPPER_CASE:
        return _BY_UPPER_CASE[name.upper()]
    near = difflib.get_close_matches(name.upper(), _BY_UPPER_CASE, n=1, cutoff=_NEAR)
    return _BY_UPPER_CASE[near[0]] if near else None
