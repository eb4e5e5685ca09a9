"""Properties of the rules that hold for every job that can be read, not only for those somebody thought of."""

from __future__ import annotations

import re
from typing import Any, get_args

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from drawn_configs import chosen, leaves, nested, values
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_api.overrides import flatten, write_override
from rltrain_api.parse import parse_job
from rltrain_api.rules.facts import Facts
from rltrain_api.rules.support_table import HONOURED, ROWS, SECTIONS
from rltrain_api.validate import RULES, SKYRL_RULES, validate
from rule_cases import BUILTIN, UPSTREAM, document

# Time is no property of ours: a busy machine must not fail these tests.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

LEAVES = leaves()
# Numbers that must fit each other come up often and small, so that rules behind the first one are reached.
SIZES = {
    path: schema
    for path, schema in LEAVES.items()
    if schema.get("type") == "integer" and ("size" in path[-1] or "num_" in path[-1] or "samples" in path[-1])
}
# What turns features on and off; rules ask for these before anything else.
SWITCHES = {
    path: schema
    for path, schema in LEAVES.items()
    if any("enum" in part or part.get("type") == "boolean" for part in schema.get("anyOf", [schema]))
}
grounds = st.sampled_from([BUILTIN, UPSTREAM])
words = st.text("aA1-_./:@ é", max_size=12)
anything = st.none() | st.booleans() | st.integers(-5, 5) | words | st.lists(words, max_size=2)
quantities = st.sampled_from(["0", "1", "1m", "15Mi", "16Mi", "4Gi", "1e3", "+2", ".5", "0Gi"])
labels = st.from_regex(r"\A[a-z]([-a-z0-9]{0,8}[a-z0-9])?\Z")
mounts = st.sampled_from(["/data", "/checkpoints", "/a/../b", "/dev/shm", "//x", "/x y", "/tmp/ray"])
claims = st.fixed_dictionaries(
    {}, optional={"claimName": labels, "claimTemplate": st.fixed_dictionaries({"storage": quantities})}
)
resources = st.fixed_dictionaries({}, optional={"cpu": quantities, "memory": quantities})
tolerations = st.dictionaries(
    st.sampled_from(["key", "operator", "value", "effect", "tolerationSeconds", "efect", ""]), anything, max_size=4
)
pools = st.fixed_dictionaries(
    {},
    optional={
        "resources": resources,
        "nodeSelector": st.dictionaries(st.text("a/.- é", min_size=1, max_size=8), words, max_size=2),
        "tolerations": st.lists(tolerations, max_size=2),
        "shmSize": quantities,
    },
)
variables = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["A", "RAY_ADDRESS", "RLTRAIN_X", "WANDB_MODE", "_SKYRL_USE_NEW_INFERENCE"])},
        optional={"value": words},
    ),
    max_size=3,
)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Any fields of SkyRL's tree, many switches, and sizes small enough to divide each other now and then."""
    switches = draw(st.fixed_dictionaries({}, optional={path: values(schema) for path, schema in SWITCHES.items()}))
    small = draw(st.fixed_dictionaries({}, optional={path: st.integers(1, 8) for path in SIZES}))
    return nested({**switches, **draw(chosen(LEAVES, most=24)), **small})


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    """A document that can be read: anything in its configuration, and slips everywhere else."""
    made: dict[str, Any] = document({}, draw(grounds))
    spec = made["spec"]
    made["metadata"] = {"name": draw(words | labels)}
    spec["config"] = draw(configs())
    spec["runtime"] |= {
        "image": draw(st.text("aB/:@. é", min_size=1, max_size=12)),
        "env": draw(variables),
        "envFrom": draw(st.lists(st.sampled_from([{}, {"secretRef": {"name": "s"}}]), max_size=1)),
    }
    spec["pools"] = {role: draw(pools) for role in ("head", "trainer", "inference")}
    volumes = draw(st.lists(st.tuples(labels, mounts, claims), max_size=3))
    spec["storage"] = {
        "checkpoints": {"mountPath": draw(mounts), **draw(claims)},
        "data": [{"name": name, "mountPath": mount, **claim} for name, mount, claim in volumes],
        "initializers": [
            {"name": name, "command": ["run"], "resources": draw(resources), "env": draw(variables)}
            for name in draw(st.lists(labels, max_size=2))
        ],
    }
    return made


def is_in_the_tree(path: str) -> bool:
    """Whether a path names a field of a job, an entry of a list or map in it, or something below a free-form map."""
    model: Any = RLTrainingJob
    keys = re.findall(r"[^.\[\]]+|\[\d+\]", path)
    for key in keys:
        if key.startswith("["):
            continue
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return True  # below a map that is somebody else's
        fields = {info.alias or name: info.annotation for name, info in model.model_fields.items()}
        if key not in fields:
            return False
        model = model_in(fields[key])
    return True


def model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part)) is not None), None)


def check(errors: list[FieldError]) -> None:
    assert errors == sorted(set(errors))
    for error in errors:
        assert is_in_the_tree(error.path), error
        assert isinstance(error.code, ErrorCode)
        assert error.message == error.message.strip() != ""
        assert "\n" not in error.message


@untimed
@given(jobs())
def test_every_job_that_can_be_read_is_judged(made: dict[str, Any]) -> None:
    job = parse_job(made)
    assert isinstance(job, RLTrainingJob), job
    errors = validate(job)
    event(f"{len(errors) // 10 * 10} errors and more")
    check(errors)


@untimed
@given(jobs())
def test_no_rule_raises_where_it_is_not_asked(made: dict[str, Any]) -> None:
    """Rules of upstream's trainer judge every job, so that the table which asks them may change."""
    job = parse_job(made)
    assert isinstance(job, RLTrainingJob), job
    facts = Facts(job)
    for rule in (*RULES, *SKYRL_RULES):
        check(sorted(set(rule(facts))))


@untimed
@given(configs(), grounds)
def test_an_error_is_an_overrides_own_where_that_has_set_the_value(config: dict[str, Any], ground: str) -> None:
    """The same values by overrides: the same errors, each at the override or at the field that nobody set."""
    texts = [write_override(override.path, override.value) for override in flatten(config)]
    by_config = parse_job(document({"spec.config": config}, ground))
    by_overrides = parse_job(document({"spec.config": {}, "spec.overrides": texts}, ground))
    assert isinstance(by_config, RLTrainingJob), by_config
    assert isinstance(by_overrides, RLTrainingJob), by_overrides
    plain, blamed = validate(by_config), validate(by_overrides)
    assert len(plain) == len(blamed)
    check(blamed)
    for error in blamed:
        if error.path.startswith("spec.overrides["):
            field, _, message = error.message.partition(": ")
            original = FieldError(f"spec.config.{field}", error.code, message)
        else:
            original = error
        assert original in plain


@untimed
@given(configs())
def test_the_builtin_trainer_is_never_given_what_it_does_not_do(config: dict[str, Any]) -> None:
    """A valid job of its holds nothing but what its table says: whatever is set is honoured, or SkyRL's own default."""
    job = parse_job(document({"spec.config": config}))
    assert isinstance(job, RLTrainingJob), job
    refused = {
        error.path.removeprefix("spec.config.") for error in validate(job) if error.code is ErrorCode.NOT_YET_SUPPORTED
    }
    rows = {row.path: row for row in ROWS}
    elsewhere = [*HONOURED, *(section.path for section in SECTIONS)]
    for override in flatten(job.spec.config.model_dump(exclude_unset=True)):
        path = override.key
        if any(path == place or path.startswith(f"{place}.") for place in elsewhere):
            continue
        row = rows.get(path) or next(row for row in ROWS if path.startswith(f"{row.path}."))
        assert (row.path in refused) == (row.path != path or override.value not in row.honoured)
