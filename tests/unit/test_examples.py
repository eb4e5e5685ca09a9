"""The examples: valid, complete, no two alike, and described truly by their README."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest

import upstream_skyrl
from rltrain_api.config import AlgorithmConfig, GeneratorConfig, InferenceEngineConfig, SkyRLTrainConfig
from rltrain_api.config.algorithm import AdvantageEstimator, PolicyLossType
from rltrain_api.errors import ErrorCode
from rltrain_api.job import RLTrainingJob
from rltrain_api.overrides import flatten, write_override
from rltrain_api.parse import parse_job
from rltrain_api.reading import SourceDocument, read_documents
from rltrain_api.resolve import resolve
from rltrain_api.rules.facts import Facts
from rltrain_api.validate import validate
from rltrain_operator.plan import beyond_this_release, plan_ray_cluster

ROOT = Path(__file__).parents[2] / "examples"
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.yaml"))
QUICKSTART = "quickstart.yaml"
SGLANG = "backends/sglang.yaml"
ENGINE = "spec.config.generator.inference_engine"

# What validation says of an example on purpose; of all others, nothing.
EXPECTED_ERRORS = {
    SGLANG: {
        (f"{ENGINE}.backend", ErrorCode.NOT_YET_SUPPORTED),
        (f"{ENGINE}.engine_init_kwargs", ErrorCode.NOT_YET_SUPPORTED),
    }
}
# Values of the API that no example has, and why.
WITHOUT_EXAMPLE = {
    "prompt_mean": "the builtin trainer alone has it",
    "cross_entropy": "supervised fine-tuning: it looks at neither rewards nor advantages",
}


def document(file: str) -> SourceDocument:
    (only,) = read_documents(str(ROOT / file))
    return only


def job(file: str) -> RLTrainingJob:
    parsed = parse_job(document(file).data)
    assert isinstance(parsed, RLTrainingJob), parsed
    return parsed


JOBS = {file: job(file) for file in FILES}
UPSTREAM = [file for file in FILES if JOBS[file].spec.runtime.trainer == "skyrl"]
BUILTIN = [file for file in FILES if JOBS[file].spec.runtime.trainer == "builtin"]


@pytest.mark.parametrize("file", FILES)
def test_it_is_valid(file: str) -> None:
    errors = validate(JOBS[file])
    assert {(error.path, error.code) for error in errors} == EXPECTED_ERRORS.get(file, set()), list(map(str, errors))


@pytest.mark.parametrize("file", UPSTREAM)
def test_upstream_accepts_it_too(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # With Megatron upstream asks the package for its version, and warns above 2.8.1; it is not installed here.
    flash_attn = types.ModuleType("flash_attn")
    vars(flash_attn)["__version__"] = "2.8.1"
    monkeypatch.setitem(sys.modules, "flash_attn", flash_attn)
    spec = document(file).data["spec"]
    overrides = [write_override(each.path, each.value) for each in flatten(spec["config"])] + spec.get("overrides", [])
    assert upstream_skyrl.refusal(overrides, {"WANDB_API_KEY": "a key"}) is None


def test_the_operator_starts_all_but_the_one_whose_entry_point_is_in_no_package() -> None:
    assert [file for file in FILES if beyond_this_release(JOBS[file])] == ["backends/fully-async.yaml"]


@pytest.mark.parametrize("file", FILES)
def test_it_is_named_after_its_file(file: str) -> None:
    assert JOBS[file].metadata.name == Path(file).stem


def test_no_two_share_a_name_or_a_directory() -> None:
    names = [each.metadata.name for each in JOBS.values()]
    paths = [each.spec.config.trainer.ckpt_path for each in JOBS.values()]
    assert len(set(names)) == len(set(paths)) == len(FILES)


@pytest.mark.parametrize("file", [file for file in FILES if file != QUICKSTART])
def test_it_opens_with_what_it_is(file: str) -> None:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    header = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    assert 3 <= len(header) <= 6
    for words in ("Change first", "Source: "):
        assert words in "\n".join(header)


def values_of(model: type[AlgorithmConfig | InferenceEngineConfig], field: str) -> set[str]:
    return set(get_args(model.model_fields[field].annotation))


COVERED: dict[str, tuple[set[str], set[str]]] = {
    "advantage estimators": (
        set(get_args(AdvantageEstimator)),
        {each.spec.config.trainer.algorithm.advantage_estimator for each in JOBS.values()},
    ),
    "policy losses": (
        set(get_args(PolicyLossType)),
        {each.spec.config.trainer.algorithm.policy_loss_type for each in JOBS.values()},
    ),
    "loss reductions": (
        values_of(AlgorithmConfig, "loss_reduction"),
        {each.spec.config.trainer.algorithm.loss_reduction for each in JOBS.values()},
    ),
    "backends": (
        values_of(InferenceEngineConfig, "backend"),
        {each.spec.config.generator.inference_engine.backend for each in JOBS.values()},
    ),
}


@pytest.mark.parametrize("kind", COVERED)
def test_every_value_has_an_example(kind: str) -> None:
    known, shown = COVERED[kind]
    assert known, "the API has no such values any more"
    assert known - shown == known & WITHOUT_EXAMPLE.keys()


# --- what is in them


def what_matters(file: str) -> dict[str, Any]:
    """What an example is about: the resolved configuration without data, models, names, sizes and lengths."""
    config = resolve(JOBS[file].spec.config).model_dump(mode="json")
    trainer, generator = config["trainer"], config["generator"]
    trainer["algorithm"].pop("max_seq_len")  # derived from lengths; the reduction says whether it counts
    return {
        "trainer": JOBS[file].spec.runtime.trainer,
        **{name: trainer[name] for name in ("strategy", "placement", "algorithm", "fully_async", "bf16")},
        "lora": trainer["policy"]["model"]["lora"],
        "critic": trainer["critic"]["model"]["path"] is not None,
        "megatron": trainer["policy"]["megatron_config"],
        "engine": generator["inference_engine"],
        "steps": trainer["train_batch_size"] // trainer["policy_mini_batch_size"],
        "initializers": len(JOBS[file].spec.storage.initializers),
        "modules": JOBS[file].spec.runtime.modules,
        **{name: generator[name] for name in ("batched", "max_turns", "apply_overlong_filtering")},
    }


def test_no_two_differ_in_nothing_that_matters() -> None:
    alike = [(one, other) for one, other in combinations(FILES, 2) if what_matters(one) == what_matters(other)]
    assert alike == []


# What an example is about may be written out although SkyRL's default is the same.
SAID_ON_PURPOSE = (
    "trainer.algorithm.",
    "trainer.fully_async.",
    "trainer.policy.model.path",
    "generator.inference_engine.backend",
    "generator.sampling_params.max_generate_length",
)


@pytest.mark.parametrize("file", [file for file in FILES if file != QUICKSTART])
def test_it_sets_only_what_differs_from_the_defaults(file: str) -> None:
    defaults = {each.key: each.value for each in flatten(SkyRLTrainConfig().model_dump(mode="json"))}
    repeated = [
        each.key
        for each in flatten(document(file).data["spec"]["config"])
        if defaults.get(each.key, ...) == each.value and not each.key.startswith(SAID_ON_PURPOSE)
    ]
    assert repeated == []


@pytest.mark.parametrize("file", FILES)
def test_secrets_come_by_reference(file: str) -> None:
    runtime = JOBS[file].spec.runtime
    assert not [variable.name for variable in runtime.env if re.search("KEY|TOKEN|SECRET|PASSWORD", variable.name)]
    tracked = not {*JOBS[file].spec.config.trainer.loggers} <= {"console", "tensorboard"}
    assert any(source.secret_ref for source in runtime.env_from) == tracked


@pytest.mark.parametrize("file", FILES)
def test_checkpoints_have_a_volume_of_their_own(file: str) -> None:
    checkpoints = JOBS[file].spec.storage.checkpoints
    assert checkpoints.claim_template is not None
    assert JOBS[file].spec.config.trainer.ckpt_path.startswith(f"{checkpoints.mount_path}/")


# --- their README

README = (ROOT / "README.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| \[(?P<name>[^]]+)\]\((?P<link>[^)]+)\) \| (?P<about>[^|]+) \| (?P<trainer>\w+) \| (?P<gpus>[^|]+) \|"
)
BACKENDS = {"builtin": "builtin", "vllm": "vLLM", "sglang": "SGLang"}


def rows() -> Iterator[re.Match[str]]:
    for line in README.splitlines():
        if line.startswith("| ["):
            row = ROW.match(line)
            assert row is not None, line
            yield row


ROWS = {row["link"]: row for row in rows()}


def test_the_table_has_every_file_and_nothing_else() -> None:
    assert sorted(ROWS) == FILES
    assert len(list(rows())) == len(FILES)
    assert all(row["name"] == row["link"] for row in ROWS.values())


@pytest.mark.parametrize("file", FILES)
def test_the_table_says_trainer_and_backend(file: str) -> None:
    spec = JOBS[file].spec
    assert ROWS[file]["trainer"] == spec.runtime.trainer
    assert ROWS[file]["about"].endswith(f", {BACKENDS[spec.config.generator.inference_engine.backend]}")


@pytest.mark.parametrize("file", FILES)
def test_the_table_says_how_many_gpus(file: str) -> None:
    facts = Facts(JOBS[file])
    numbers = [facts.policy.gpus]
    if not facts.placement.colocate_all:
        numbers += [facts.engine.num_engines * facts.gpus_per_engine] if facts.engine.run_engines_locally else []
        # Models on GPUs of their own would be summands too; no example has any.
        assert facts.critic is None
        assert facts.reference is None or facts.placement.colocate_policy_ref
    stated = ROWS[file]["gpus"]
    assert stated.removesuffix(", counted only") == " + ".join(map(str, numbers))
    assert stated.endswith("counted only") == (facts.engine.weight_sync_backend == "gloo")


@pytest.mark.parametrize("file", BUILTIN)
def test_the_pods_of_the_builtin_ones_ask_for_those_gpus(file: str) -> None:
    groups = plan_ray_cluster(JOBS[file])["spec"]["workerGroupSpecs"]
    asked = [group["replicas"] * gpus_of(group, JOBS[file]) for group in groups]
    assert ROWS[file]["gpus"].removesuffix(", counted only") == " + ".join(map(str, asked))


def gpus_of(group: dict[str, Any], owner: RLTrainingJob) -> int:
    """GPUs of one pod of a worker group, by what its container requests."""
    pool = {"trainer": owner.spec.pools.trainer, "inference": owner.spec.pools.inference}[group["groupName"]]
    (container,) = group["template"]["spec"]["containers"]
    return int(container["resources"]["requests"][pool.gpu_resource])


def test_the_readme_says_what_has_no_example() -> None:
    for value in WITHOUT_EXAMPLE:
        assert f"`{value}` has no example" in README


def test_the_readme_names_what_the_jobs_expect() -> None:
    claims = {volume.claim_name for each in JOBS.values() for volume in each.spec.storage.data} - {None}
    secrets = {
        source.secret_ref.name for each in JOBS.values() for source in each.spec.runtime.env_from if source.secret_ref
    }
    registries = {each.spec.runtime.image.partition("/")[0] for file, each in JOBS.items() if file != QUICKSTART}
    for name in (*claims, *secrets, *registries):
        assert f"`{name}`" in README


def test_generated_lengths_fit_evaluation() -> None:
    """Where evaluation samples differently, it may answer as long as training does."""
    for file in FILES:
        generator: GeneratorConfig = JOBS[file].spec.config.generator
        if generator.eval_sampling_params is not None:
            given, wanted = generator.eval_sampling_params, generator.sampling_params
            assert given.max_generate_length == wanted.max_generate_length, file
