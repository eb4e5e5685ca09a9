"""Properties of the API that hold for every document, not only for those somebody thought of."""

from __future__ import annotations

import copy
import string
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.errors import ErrorCode
from rltrain_api.job import RLTrainingJob
from rltrain_api.judge import judge
from rltrain_api.parse import parse_job
from rltrain_api.quantity import parse_quantity
from rltrain_api.resolve import document_hash, resolve
from rltrain_api.validate import validate
from rltrain_api.yaml_text import yaml_text

QUICKSTART = yaml.safe_load((Path(__file__).parents[2] / "examples" / "quickstart.yaml").read_text(encoding="utf-8"))

# Time is no property of ours: a busy machine must not fail these tests.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

scalars = st.none() | st.booleans() | st.integers(-10, 2**33) | st.floats() | st.text(max_size=12) | st.dates()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
sizes = st.integers(1, 64)
paths = st.sampled_from(
    ["/data/a", "/checkpoints/x/global_step_3", "~/x", "s3://bucket/x", "/", "relative", "/data/../x", "//data"]
)


def places(document: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value inside a document."""
    entries = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    found = [path] if path else []
    for key, value in entries:
        found += places(value, (*path, key))
    return found


def replaced(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    result = copy.deepcopy(document)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return result


@st.composite
def mutated_documents(draw: st.DrawFn) -> Any:
    """The quickstart with up to three of its values replaced by anything."""
    document = QUICKSTART
    for _ in range(draw(st.integers(1, 3))):
        document = replaced(document, draw(st.sampled_from(places(document))), draw(values))
    return document


configs = st.fixed_dictionaries(
    {},
    optional={
        "data": st.fixed_dictionaries({}, optional={"train_data": st.lists(paths, min_size=1, max_size=2)}),
        "trainer": st.fixed_dictionaries(
            {},
            optional={
                "train_batch_size": sizes,
                "policy_mini_batch_size": sizes,
                "micro_train_batch_size_per_gpu": sizes,
                "max_prompt_length": sizes,
                "strategy": st.sampled_from(["fsdp", "fsdp2", "megatron"]),
                "resume_mode": st.sampled_from([None, "none", "latest", "from_path"]),
                "resume_path": paths | st.none(),
                "ckpt_path": paths,
                "placement": st.fixed_dictionaries(
                    {},
                    optional={
                        "policy_num_nodes": sizes,
                        "policy_num_gpus_per_node": sizes,
                        "ref_num_nodes": sizes,
                        "colocate_all": st.booleans(),
                    },
                ),
                "policy": st.fixed_dictionaries({}, optional={"sequence_parallel_size": sizes, "model": st.just({})}),
                "algorithm": st.fixed_dictionaries(
                    {}, optional={"temperature": st.none() | st.floats(0, 9), "max_seq_len": st.none() | sizes}
                ),
            },
        ),
        "generator": st.fixed_dictionaries(
            {},
            optional={
                "n_samples_per_prompt": sizes,
                "max_turns": sizes,
                "max_input_length": st.none() | sizes,
                "eval_sampling_params": st.none() | st.just({}),
                "sampling_params": st.fixed_dictionaries(
                    {},
                    optional={
                        "temperature": st.floats(0, 9),
                        "max_generate_length": sizes,
                        "additional_kwargs": st.none() | st.dictionaries(st.text(max_size=4), scalars, max_size=2),
                    },
                ),
            },
        ),
    },
)


@untimed
@given(configs)
def test_resolving_twice_is_resolving_once(document: dict[str, Any]) -> None:
    once = resolve(SkyRLTrainConfig.model_validate(document))
    assert resolve(once) == once


@untimed
@given(configs)
def test_resolving_keeps_what_was_set(document: dict[str, Any]) -> None:
    config = SkyRLTrainConfig.model_validate(document)
    kept = config.model_dump(exclude_unset=True, exclude_none=True)

    def check(given_part: Any, resolved_part: Any) -> None:
        if isinstance(given_part, dict) and isinstance(resolved_part, dict):
            for key, value in given_part.items():
                check(value, resolved_part[key])
        else:
            assert repr(resolved_part) == repr(given_part)  # repr, so that a nan inside equals itself

    check(kept, resolve(config).model_dump())


@untimed
@given(configs)
def test_validating_any_parseable_job_answers_with_errors_inside_the_document(config: dict[str, Any]) -> None:
    job = parse_job(replaced(QUICKSTART, ("spec", "config"), config))
    assert isinstance(job, RLTrainingJob), job
    errors = validate(job)
    assert errors == sorted(set(errors))
    assert all(error.path.startswith(("spec.", "metadata.")) and error.message for error in errors)


@untimed
@given(mutated_documents())
def test_a_document_is_either_read_and_judged_or_refused_with_paths(document: Any) -> None:
    judgement = judge(document)
    assert judgement.job is not None or judgement.errors
    assert list(judgement.errors) == sorted(set(judgement.errors))
    if judgement.job is None:
        of_form = parse_job(document)
        assert isinstance(of_form, list)
        assert set(of_form) <= set(judgement.errors)
    for error in judgement.errors:
        assert error.path
        assert error.message
        assert isinstance(error.code, ErrorCode)


@untimed
@given(values)
def test_anything_at_all_is_refused_with_a_path(document: Any) -> None:
    errors = parse_job(document)
    assert isinstance(errors, list)
    assert all(error.path for error in errors)
    assert errors


@untimed
@given(configs, st.randoms())
def test_the_hash_does_not_depend_on_the_order_of_keys(document: dict[str, Any], random: Any) -> None:
    def shuffled(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        keys = list(part)
        random.shuffle(keys)
        return {key: shuffled(part[key]) for key in keys}

    plain = {key: value for key, value in document.items() if key == "trainer"}
    assert document_hash(plain) == document_hash(shuffled(plain))


@untimed
@given(st.integers(0, 10**6), st.sampled_from(["", "m", "k", "Ki", "M", "Mi", "G", "Gi", "T", "Ti"]))
def test_quantities_grow_with_their_number(number: int, suffix: str) -> None:
    assert parse_quantity(f"{number}{suffix}") < parse_quantity(f"{number + 1}{suffix}")


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(string.printable + "äß中", max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.printable, max_size=8), inner, max_size=3)
    ),
    max_leaves=10,
)


@untimed
@given(st.dictionaries(st.text(string.ascii_letters, min_size=1, max_size=8), plain_values, min_size=1, max_size=4))
def test_yaml_text_reads_as_what_was_written(document: dict[str, Any]) -> None:
    assert yaml.safe_load(yaml_text(document)) == document
