"""Exclusion lists: what each way of writing an entry leaves out, and what is said about doubtful ones."""

from __future__ import annotations

import pytest

from rltrain_api.env.exclusion import exclude, split_entries
from rltrain_api.env.forward import rllm_excludes

PRESENT = (
    "VLLM_USE_V1",
    "VLLM_LOGGING_LEVEL",
    "NVIDIA_X",
    "NV_Y",
    "NCCL_DEBUG",
    "HF_HOME",
    "RAY_memory_monitor_refresh_ms",
)
ALL_OF_VLLM = {"VLLM_USE_V1", "VLLM_LOGGING_LEVEL"}

# entry -> what it leaves out of PRESENT, and a word of each warning about it.
ENTRIES: dict[str, tuple[set[str], list[str]]] = {
    "VLLM*": (ALL_OF_VLLM, []),
    "VLLM_*": (ALL_OF_VLLM, []),
    " VLLM*": (ALL_OF_VLLM, ["spaces"]),
    "vllm*": (ALL_OF_VLLM, ["another case"]),
    "NV*": ({"NVIDIA_X", "NV_Y"}, []),
    "NV_*": ({"NV_Y"}, []),
    "*": (set(PRESENT), []),
    "*_LEVEL": ({"VLLM_LOGGING_LEVEL"}, []),
    "HF_HOME": ({"HF_HOME"}, []),
    "hf_home": ({"HF_HOME"}, ["taken for HF_HOME"]),
    "HF_HOME\t": ({"HF_HOME"}, ["spaces"]),
    "RAY_memory_monitor_refresh_ms": ({"RAY_memory_monitor_refresh_ms"}, []),
    "RAY_MEMORY_MONITOR_REFRESH_MS": ({"RAY_memory_monitor_refresh_ms"}, ["another case"]),
    "HF_TOKEN": (set(), []),  # known, and not there: nothing to say
    "SGLANG_*": (set(), []),
    "VLLM": (set(), ["VLLM* is all that begin with it"]),
    "VLLM_": (set(), ["VLLM_* is all that begin with it"]),
    "NCCL_DEBUGG": (set(), ["did you mean NCCL_DEBUG?"]),
    "XYZ*": (set(), ["fits no variable"]),
    ".*": (set(), ["fits no variable"]),  # a dot is a dot
    "": (set(), []),
    "  ": (set(), []),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_entries(entry: str) -> None:
    left_out, words = ENTRIES[entry]
    exclusion = exclude([entry], PRESENT)
    assert set(exclusion.entries) == left_out
    assert set(exclusion.entries.values()) <= {entry.strip()}
    assert len(exclusion.warnings) == len(words)
    for warning, word in zip(exclusion.warnings, words, strict=True):
        assert word in warning
        assert warning.startswith("exclude ")


def test_the_first_entry_that_fits_a_name_counts_for_it() -> None:
    assert exclude(["NV*", "*"], PRESENT).entries["NV_Y"] == "NV*"


def test_a_list_is_split_at_commas_and_keeps_its_spaces() -> None:
    assert split_entries("VLLM*, HF_HOME,,") == ["VLLM*", " HF_HOME"]
    assert split_entries("") == []


# What rLLM makes of the same entries: it puts _ for *, and takes exact members off its list of prefixes.
IN_RLLM = {
    "VLLM*": ALL_OF_VLLM,
    "VLLM_*": set(),
    " VLLM*": set(),
    "vllm*": set(),
    "NV*": {"NV_Y"},
    "*": set(),
    "VLLM": set(),
    "HF_HOME": {"HF_HOME"},
    " HF_HOME": set(),
    "hf_home": set(),
}


@pytest.mark.parametrize("entry", IN_RLLM)
def test_rllm_s_reading_of_an_entry(entry: str) -> None:
    assert {name for name in PRESENT if rllm_excludes(entry, name)} == IN_RLLM[entry]
