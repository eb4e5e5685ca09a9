"""Properties of composed environments that hold for all layers, exclusions and shells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rltrain_api.env.catalogue import CATALOGUE
from rltrain_api.env.compose import PRECEDENCE, Layer, LayerValues, compose
from rltrain_api.env.exclusion import fits
from rltrain_api.env.forward import FORWARD_PREFIXES, forward
from rltrain_api.env.pods import job_environment, pod_environment
from rltrain_api.env.presets import PRESETS
from rltrain_api.env.refused import GPU_VISIBILITY, RAY_IDENTITY, refused_in_pods
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_operator.cli.env import shell_lines, table_lines, yaml_lines

QUICKSTART = yaml.safe_load((Path(__file__).parents[2] / "examples" / "quickstart.yaml").read_text(encoding="utf-8"))

# Time is no property of ours: a busy machine must not fail these tests.
untimed = settings(deadline=None)

refused = st.sampled_from(sorted(GPU_VISIBILITY | RAY_IDENTITY | {"RLTRAIN_RUN"}))
# Few names, so that layers meet.
names = (
    st.sampled_from(["A", "B", "VLLM_X", "VLLM_Y", "NVIDIA_Z", "NV_Z", "HF_HOME", "NCCL_DEBUG", "HF_TOKEN"])
    | st.sampled_from(sorted(CATALOGUE))
    | refused
    | st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
entries = (
    names
    | st.builds("{}*".format, st.sampled_from(["", "VLLM", "VLLM_", "NV", "N", "HF_"]))
    | names.map(str.lower)
    | names.map(" {}".format)
    | st.text(max_size=6)
)
layers = st.builds(
    LayerValues,
    layer=st.sampled_from(PRECEDENCE),
    values=st.dictionaries(names, texts, max_size=8),
    removed=st.frozensets(names, max_size=2),
)
# One of each layer at most: of two of the same layer the later one wins, which is a rule of its own.
stacks = st.lists(layers, max_size=7, unique_by=lambda layer: layer.layer)


@given(stacks, st.lists(entries, max_size=4))
@untimed
def test_the_highest_layer_that_may_set_a_name_decides(stack: list[LayerValues], excluded: list[str]) -> None:
    environment = compose(stack, excluded)
    kept_out = {entry.name for entry in environment.absent if "is excluded" in entry.reason}
    by_height = sorted(stack, key=lambda layer: PRECEDENCE.index(layer.layer), reverse=True)
    for name in {name for layer in stack for name in (*layer.values, *layer.removed)}:
        wanted: str | None = None
        for layer in by_height:
            below = layer.layer not in (Layer.JOB, Layer.SUBMISSION)
            if name in layer.values and refused_in_pods(name) is None and not (below and name in kept_out):
                wanted = layer.values[name]
                break
            if name in layer.removed:
                break
        assert environment.values.get(name) == wanted


@given(stacks, st.lists(entries, max_size=4), st.randoms(use_true_random=False))
@untimed
def test_composing_is_the_same_in_any_order_and_changes_nothing_twice(
    stack: list[LayerValues], excluded: list[str], random: Any
) -> None:
    environment = compose(stack, excluded)
    shuffled = list(stack)
    random.shuffle(shuffled)
    assert compose(shuffled, excluded) == environment
    again = compose([LayerValues(Layer.JOB, environment.values)], excluded)
    assert list(again.values.items()) == list(environment.values.items())


@given(stacks, st.lists(entries, max_size=4))
@untimed
def test_no_name_is_lost_or_in_two_places(stack: list[LayerValues], excluded: list[str]) -> None:
    environment = compose(stack, excluded)
    present, absent = set(environment.values), [entry.name for entry in environment.absent]
    assert present | set(absent) == {name for layer in stack for name in (*layer.values, *layer.removed)}
    assert present.isdisjoint(absent)
    assert len(absent) == len(set(absent))
    assert not any(refused_in_pods(name) for name in present)


@given(stacks, st.lists(entries, max_size=4))
@untimed
def test_exclusion_never_touches_what_the_job_sets(stack: list[LayerValues], excluded: list[str]) -> None:
    own = [layer for layer in stack if layer.layer in (Layer.JOB, Layer.SUBMISSION)]
    environment = compose(stack, excluded)
    for name, value in compose(own).values.items():
        assert environment.values[name] == value


@given(st.dictionaries(names, texts, max_size=8), st.lists(entries, max_size=4).map(",".join))
@untimed
def test_forwarding_takes_what_has_a_prefix_and_nothing_else(shell: dict[str, str], excluded: str) -> None:
    forwarded = forward(shell, excluded)
    fitting = {name for name in shell if name.startswith(FORWARD_PREFIXES)}
    assert forwarded.values.keys() | forwarded.left_out.keys() == fitting
    assert forwarded.values.keys().isdisjoint(forwarded.left_out)
    for name, value in forwarded.values.items():
        assert value == shell[name]
        assert refused_in_pods(name) is None
        assert not any(fits(entry, name) for entry in excluded.split(","))


secret_names = st.sampled_from(sorted(name for name, variable in CATALOGUE.items() if variable.secret)) | st.builds(
    "{}_{}".format, st.from_regex(r"[A-Z][A-Z0-9_]{0,6}", fullmatch=True), st.sampled_from(["TOKEN", "KEY", "PASSWORD"])
)
# Nothing that could stand in the output by chance.
secret_values = st.from_regex(r"s3cr3t-[0-9a-z]{12}", fullmatch=True)
variables = st.dictionaries(names.filter(lambda name: refused_in_pods(name) is None), texts, max_size=4)


def make_job(**runtime: Any) -> RLTrainingJob:
    document = json.loads(json.dumps(QUICKSTART))
    document["spec"]["runtime"] |= runtime
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob), job
    return job


def as_list(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


@given(
    secrets=st.dictionaries(secret_names, secret_values, min_size=1, max_size=4),
    others=variables,
    preset=st.none() | st.sampled_from(sorted(PRESETS)),
    excluded=st.lists(entries.filter(lambda entry: 0 < len(entry) <= 256), max_size=3),
)
@untimed
def test_no_secret_is_in_anything_that_is_shown(
    secrets: dict[str, str], others: dict[str, str], preset: str | None, excluded: list[str]
) -> None:
    job = make_job(env=as_list(others | secrets), excludeEnv=excluded, **({"envPreset": preset} if preset else {}))
    forwarded = forward({f"HF_{name}": value for name, value in secrets.items()})
    environment = job_environment(
        job, cluster_wide=secrets, forwarded=forwarded.values, submission={name: f"{v}x" for name, v in secrets.items()}
    )
    shown = "\n".join(
        [
            *table_lines(job, environment),
            *yaml_lines(job, environment),
            *shell_lines(environment),
            *forwarded.left_out.values(),
            *forwarded.warnings,
        ]
    )
    for value in secrets.values():
        assert value not in shown
    assert environment.values.keys() >= secrets.keys()


@given(others=variables, preset=st.none() | st.sampled_from(sorted(PRESETS)))
@untimed
def test_pods_get_what_people_are_shown(others: dict[str, str], preset: str | None) -> None:
    job = make_job(env=as_list(others), **({"envPreset": preset} if preset else {}))
    pairs = pod_environment(job)
    assert pairs == list(job_environment(job).values.items())
    assert len({name for name, _ in pairs}) == len(pairs)
    assert {name: value for name, value in pairs if name in others} == others
