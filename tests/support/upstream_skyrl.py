"""Upstream's SkyRL 0.1.0 as a reference: its parser and its checks, called as its own entry point calls them.

The package runs here beside newer libraries than it was made for, without those that only training with it needs. Two
things stand in for what it misses, and neither changes what it reads or refuses:

* Hydra, which it imports to read a base configuration for keys of its oldest form. The package does not ship that
  file, so upstream's attempt fails with Hydra too, and it falls back to the error of its first attempt.
* A class that Ray has moved out of the module that SkyRL takes it from.

torch and ray are imported on the first `refusal`, not before. `as_upstream` states every known difference between a
tree of ours and one of upstream's. This module must not know our own models.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

VERSION = "0.1.0"
# The one field that our tree has and this version has not (the configuration reference was made a day later), and the
# one entry of a default that came with it.
NEWER_FIELD = "generator.inference_engine.distributed_executor_backend"
NEWER_ENTRY = "gradient_accumulation_fusion"
MAPS_WITH_NEWER_ENTRY = tuple(
    f"trainer.{model}.megatron_config.transformer_config_kwargs" for model in ("policy", "ref")
)
# Defaults that upstream writes with "~" and expands where the configuration is made; what a user sets stays as it is.
HOME_DEFAULTS = ("data.train_data", "data.val_data", "trainer.ckpt_path", "trainer.export_path")


def resolved(overrides: Sequence[str]) -> dict[str, Any]:
    """The whole tree that upstream makes of its command line's overrides, derived values filled in.

    Raises:
        ValueError: upstream knows no such field, or refuses the form.
    """
    return asdict(_config(overrides))


def refusal(overrides: Sequence[str], environment: Mapping[str, str] | None = None) -> str | None:
    """What upstream says against a run with these overrides before it starts anything; None where it would start.

    A division by zero counts: upstream does not ask whether a model has as many GPUs as share one sequence.

    Args:
        overrides: As on its command line.
        environment: The variables that it sees, all of them.
    """
    variables = environment or {}
    module = checks()
    # A switch that upstream reads once, where it is imported.
    switch = patch.object(module, "_SKYRL_USE_NEW_INFERENCE", variables.get("_SKYRL_USE_NEW_INFERENCE") == "1")
    with patch.dict("os.environ", variables, clear=True), switch:
        try:
            module.validate_cfg(_config(overrides))
        except (AssertionError, ValueError, NotImplementedError, ZeroDivisionError) as error:
            return f"{type(error).__name__}: {error}"
    return None


def as_upstream(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved tree of ours (changed in place) as upstream has it: the known differences, and no others.

    Args:
        tree: Our tree for the same overrides.
        overrides: What was set; the differences are in defaults.
    """
    written = [override.partition("=")[0] for override in overrides]
    section, name = _holder(tree, NEWER_FIELD)
    del section[name]
    for path in MAPS_WITH_NEWER_ENTRY:
        if not any(key == path or key.startswith(f"{path}.") or path.startswith(f"{key}.") for key in written):
            section, name = _holder(tree, path)
            del section[name][NEWER_ENTRY]
    for path in HOME_DEFAULTS:
        if path not in written:
            section, name = _holder(tree, path)
            section[name] = _expanded(section[name])
    return tree


def comparable(value: object) -> object:
    """The value with booleans told from numbers, which Python's `==` does not do, and 1 like 1.0, which JSON does."""
    if isinstance(value, dict):
        return {key: comparable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(part) for part in value]
    return f"bool {value}" if isinstance(value, bool) else value


def _holder(tree: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *sections, name = path.split(".")
    for section in sections:
        tree = tree[section]
    return tree, name


def _expanded(value: Any) -> Any:
    """As upstream does it, to the letter: a trailing slash stays."""
    return [_expanded(path) for path in value] if isinstance(value, list) else os.path.expanduser(value)  # noqa: PTH111


def _config(overrides: Sequence[str]) -> Any:
    if "hydra" not in sys.modules:
        sys.modules["hydra"] = _hydra()
    return importlib.import_module("skyrl.train.config.config").SkyRLTrainConfig.from_cli_overrides(list(overrides))


def checks() -> types.ModuleType:
    """Upstream's module of checks, timers and logging, importable here."""
    placement = importlib.import_module("ray.util.placement_group")
    scheduling = importlib.import_module("ray.util.scheduling_strategies")
    vars(placement).setdefault("PlacementGroupSchedulingStrategy", scheduling.PlacementGroupSchedulingStrategy)
    return importlib.import_module("skyrl.train.utils.utils")


def _hydra() -> types.ModuleType:
    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError("the package skyrl 0.1.0 has no ppo_base_config.yaml")

    module = types.ModuleType("hydra")
    vars(module).update(compose=fail, initialize_config_dir=fail)
    return module
