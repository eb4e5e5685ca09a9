"""Forwarding: which variables of a person's shell go along to the pods, by rLLM's prefixes and exclusion list.

As rLLM's `get_ppo_ray_runtime_env`, but for three things. What describes the person's own machine (its GPUs, its Ray)
and what is secret stays behind. An exclusion does what it says where rLLM's silently does nothing. And whatever is
doubtful is said. Pure: the shell's environment is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rltrain_api.env.exclusion import exclude, split_entries
from rltrain_api.env.refused import refused_in_pods
from rltrain_api.env.secrecy import is_secret

# rLLM's, in its order.
FORWARD_PREFIXES = (
    "VLLM_",
    "SGL_",
    "SGLANG_",
    "HF_",
    "TOKENIZERS_",
    "DATASETS_",
    "TORCH_",
    "PYTORCH_",
    "DEEPSPEED_",
    "MEGATRON_",
    "NCCL_",
    "CUDA_",
    "CUBLAS_",
    "CUDNN_",
    "NV_",
    "NVIDIA_",
)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What goes along, what does not and why, and what is doubtful.

    Args:
        values: The variables that go along.
        left_out: Variable whose prefix would have it go along -> why it does not, to follow its name.
        warnings: What is doubtful, a line each.
    """

    values: dict[str, str]
    left_out: dict[str, str]
    warnings: tuple[str, ...]


def forward(environ: Mapping[str, str], excluded: str = "") -> Forwarded:
    """Choose from a shell's environment.

    Args:
        environ: Names and values.
        excluded: Entries separated by commas, as in RLLM_EXCLUDE: `VLLM*` or single names.
    """
    candidates = {name: environ[name] for name in sorted(environ) if name.startswith(FORWARD_PREFIXES)}
    entries = split_entries(excluded)
    exclusion = exclude(entries, candidates)
    values: dict[str, str] = {}
    left_out: dict[str, str] = {}
    warnings = [*exclusion.warnings, *_rllm_differences(entries, exclusion.entries)]
    for name, value in candidates.items():
        refusal = refused_in_pods(name)
        if name in exclusion.entries:
            left_out[name] = f"is excluded by {exclusion.entries[name]!r}"
        elif refusal is not None:
            left_out[name] = refusal
        elif is_secret(name, value):
            left_out[name] = (
                "is a secret, and secrets go to pods by reference only: put it into a Secret and name that in "
                "spec.runtime.envFrom"
            )
        else:
            values[name] = value
            if value.startswith(("/", "~")):
                warnings.append(f"{name} is a path of this machine: {value}; is it the same in the pods?")
    return Forwarded(values, left_out, tuple(warnings))


def rllm_excludes(entry: str, name: str) -> bool:
    """Whether rLLM leaves `name` out for an entry as it is written, spaces and all.

    It puts _ for *, and takes the result off its list of prefixes if it is there; other entries are whole names.
    """
    if "*" in entry:
        prefix = entry.replace("*", "_")
        return prefix in FORWARD_PREFIXES and name.startswith(prefix)
    return entry == name


def _rllm_differences(entries: list[str], excluded: Mapping[str, str]) -> list[str]:
    """A line for each entry that leaves out more here than it would in rLLM."""
    lines = []
    for entry in entries:
        here = [name for name, by in excluded.items() if by == entry.strip()]
        more = [name for name in here if not rllm_excludes(entry, name)]
        if more:
            rest = "nothing" if len(more) == len(here) else "less"
            lines.append(
                f"exclude {entry!r}: leaves out {', '.join(more)} here; rLLM would leave out {rest} and not say so"
            )
    return lines
