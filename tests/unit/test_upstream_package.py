"""The environment of the tests: upstream's package in the pinned version, and everything that it itself asks for.

The locks are installed without pip's resolver, because they leave out what skyrl wants for training; so this looks
whether anything else is missing.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

import upstream_skyrl

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def missing(distribution: importlib.metadata.Distribution) -> list[str]:
    """What a distribution asks for without any extra, and what is not here in a version that suits it."""
    found = []
    for text in distribution.requires or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(text)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{text} (here is {version})")
    return found


def test_nothing_is_missing_but_what_skyrl_trains_with() -> None:
    wanting = {found.name for found in importlib.metadata.distributions() if missing(found)}
    assert wanting == {"skyrl"}


def test_the_reference_is_the_pinned_version() -> None:
    pins = tomllib.loads(PYPROJECT.read_text())["dependency-groups"]["dev"]
    assert f"skyrl=={upstream_skyrl.VERSION}" in pins
    assert importlib.metadata.version("skyrl") == upstream_skyrl.VERSION
