"""Every example passes a strict dry run on a real API server, as `kubectl apply --dry-run=server` does it."""

from __future__ import annotations

import json

import pytest

from api_server import DRY_RUN, EXAMPLES, example, run
from rltrain_api.job import RLTrainingJob
from rltrain_api.validate import parse_job

pytestmark = pytest.mark.controlplane

FILES = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.yaml"))


@pytest.mark.parametrize("file", FILES)
def test_it_is_accepted_as_it_is_written(file: str, namespace: str) -> None:
    options = ("--namespace", namespace, *DRY_RUN, "--output=json", f"--filename={EXAMPLES / file}")
    applied = json.loads(run("apply", *options))
    stored, ours = parse_job(applied), parse_job(example(file))
    assert isinstance(stored, RLTrainingJob), stored
    assert isinstance(ours, RLTrainingJob), ours
    assert stored.spec == ours.spec
    # Inside config the API server fills nothing in: what is unset stays unset, because SkyRL derives from it.
    assert applied["spec"]["config"] == example(file)["spec"]["config"]
