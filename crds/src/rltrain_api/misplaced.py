"""Where a field belongs that was written in a place that has no such field.

Most unknown fields are known ones in another place: a line with too little indentation, or SkyRL's sections at the top
of the file. This module knows the tree of fields by its models, and nothing of rules.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from functools import cache

from pydantic import BaseModel

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.job import Spec
from rltrain_api.model_tree import section_in

# A name that many sections have says nothing about where it belongs.
MAX_PLACES = 2


def place_of(path: str) -> str | None:
    """The section that has the field which was written at `path`, where there is none of that name; None if unclear."""
    parent, _, name = path.rpartition(".")
    is_whole_section = parent in ("", "spec") and name in SkyRLTrainConfig.model_fields
    places = ("spec.config",) if is_whole_section else _places().get(name, ())
    if not 0 < len(places) <= MAX_PLACES:
        return None
    return max(places, key=lambda place: difflib.SequenceMatcher(None, parent, place).ratio())


@cache
def _places() -> dict[str, tuple[str, ...]]:
    """The sections that have a field of a name, by the name; lists count as one section."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    pending: list[tuple[str, type[BaseModel]]] = [("spec", Spec)]
    while pending:
        path, model = pending.pop()
        for name, field in model.model_fields.items():
            key = field.alias or name
            places[key].append(path)
            section = section_in(field.annotation)
            if section is not None:
                pending.append((f"{path}.{key}", section))
    return {name: tuple(paths) for name, paths in places.items()}
