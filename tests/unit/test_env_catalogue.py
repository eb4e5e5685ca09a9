"""The catalogue of environment variables: complete against the reference and against what SkyRL's sources read."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from reference_pages import reference_page
from rltrain_api.env.catalogue import CATALOGUE, SECTIONS, find, near_miss
from rltrain_api.env.check import check_variable
from rltrain_api.env.refused import GPU_VISIBILITY, refused_in_pods
from rltrain_api.env.variable import Kind, Reader

# Every variable that SkyRL's reference of environment variables names, by its section.
REFERENCE = {
    1: "CUDA_VISIBLE_DEVICES CUDA_LAUNCH_BLOCKING TORCH_CUDA_ALLOC_CONF",
    2: "NCCL_DEBUG NCCL_DEBUG_SUBSYS NCCL_TIMEOUT NCCL_IB_DISABLE NCCL_SOCKET_IFNAME NCCL_P2P_DISABLE "
    "NCCL_ASYNC_ERROR_HANDLING",
    3: "RAY_DEDUP_LOGS RAY_RUNTIME_ENV_HOOK RAY_ADDRESS RAY_memory_monitor_refresh_ms",
    4: "SGLANG_LOG_LEVEL SGLANG_DISABLE_FLASHINFER SGLANG_ENABLE_TORCH_COMPILE SGLANG_TORCH_COMPILE_MAX_BS",
    5: "SKYRL_LOG_LEVEL SKYRL_CACHE_DIR SKYRL_DISABLE_WANDB",
    6: "HF_TOKEN HF_HOME HF_HUB_ENABLE_HF_TRANSFER TRANSFORMERS_CACHE",
    7: "WANDB_API_KEY WANDB_PROJECT WANDB_ENTITY WANDB_MODE",
    8: "PYTORCH_CUDA_ALLOC_CONF PYTORCH_NO_CUDA_MEMORY_CACHING TORCH_DISTRIBUTED_DEBUG TORCH_SHOW_CPP_STACKTRACES",
    9: "OMP_NUM_THREADS MKL_NUM_THREADS TOKENIZERS_PARALLELISM",
    10: "CUDA_LAUNCH_BLOCKING NCCL_DEBUG NCCL_DEBUG_SUBSYS RAY_DEDUP_LOGS SGLANG_LOG_LEVEL SKYRL_LOG_LEVEL "
    "TORCH_DISTRIBUTED_DEBUG TORCH_SHOW_CPP_STACKTRACES RAY_RUNTIME_ENV_HOOK CUDA_VISIBLE_DEVICES NCCL_TIMEOUT "
    "HF_HUB_ENABLE_HF_TRANSFER TOKENIZERS_PARALLELISM OMP_NUM_THREADS PYTORCH_CUDA_ALLOC_CONF NCCL_IB_DISABLE "
    "NCCL_SOCKET_IFNAME GLOO_SOCKET_IFNAME RAY_ADDRESS",
    11: "CUDA_VISIBLE_DEVICES NCCL_DEBUG NCCL_TIMEOUT HF_TOKEN WANDB_API_KEY RAY_RUNTIME_ENV_HOOK",
    12: "NCCL_TIMEOUT NCCL_DEBUG RAY_RUNTIME_ENV_HOOK PYTORCH_CUDA_ALLOC_CONF CUDA_VISIBLE_DEVICES "
    "SGLANG_DISABLE_FLASHINFER",
    13: "SKYRL_RAY_PG_TIMEOUT_IN_S SKYRL_WEIGHT_SYNC_TIMEOUT SKYRL_ENGINE_STARTUP_TIMEOUT",
    14: "NCCL_CUMEM_ENABLE NCCL_NET_GDR_LEVEL",
    15: "VLLM_ATTENTION_BACKEND VLLM_USE_FLASHINFER_SAMPLER VLLM_WORKER_MULTIPROC_METHOD",
    16: "MLFLOW_TRACKING_URI MLFLOW_EXPERIMENT_NAME SWANLAB_API_KEY TENSORBOARD_LOGDIR",
    17: "MODAL_TOKEN_ID MODAL_TOKEN_SECRET MODAL_ENVIRONMENT",
    18: "SKYRL_ASYNC_MAX_STALENESS SKYRL_ASYNC_GENERATION_WORKERS",
}
# What SkyRL 0.1.0 reads besides for other purposes than training with it: its own API server.
NOT_OF_TRAINING = {"SKYRL_DATABASE_URL"}
# Set by SkyRL itself for each of its processes.
SET_FOR_EACH_PROCESS = {
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "WORLD_SIZE",
    "VLLM_RAY_PER_WORKER_GPUS",
    "VLLM_RAY_BUNDLE_INDICES",
    "VLLM_NIXL_SIDE_CHANNEL_HOST",
    "VLLM_NIXL_SIDE_CHANNEL_PORT",
    "PYTHONPATH",
}


def names_of_page(text: str) -> dict[int, set[str]]:
    """Section -> the variables that its headings, exports and unsets name."""
    found: dict[int, set[str]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        number = re.match(r"(\d+)\. ", section)
        if number is not None:
            set_by = re.findall(r"^\s*(?:export|unset) ([A-Za-z_]\w*)", section, flags=re.MULTILINE)
            headings = re.findall(r"^### ([A-Z]\w*_\w+)$", section, flags=re.MULTILINE)
            found[int(number[1])] = {*set_by, *headings}
    return found


@pytest.mark.parametrize(("section", "names"), REFERENCE.items())
def test_every_variable_of_the_reference_is_in_the_catalogue(section: int, names: str) -> None:
    assert section in SECTIONS
    for name in names.split():
        assert name in CATALOGUE
        # Sections 10 to 12 repeat those of others, all but one.
        if section not in (10, 11, 12):
            assert CATALOGUE[name].section == section
    assert CATALOGUE["GLOO_SOCKET_IFNAME"].section == 10


def test_the_committed_list_is_that_of_the_reference_page() -> None:
    page = names_of_page(reference_page("skyrl-environment-variables.txt"))
    assert page == {section: set(names.split()) for section, names in REFERENCE.items()}


def skyrl_sources() -> Iterator[ast.Module]:
    specification = importlib.util.find_spec("skyrl")
    assert specification is not None
    assert specification.submodule_search_locations
    for path in sorted(Path(specification.submodule_search_locations[0]).rglob("*.py")):
        yield ast.parse(path.read_text(encoding="utf-8"))


def names_read(tree: ast.Module) -> Iterator[str]:
    """The constants in os.environ["X"], os.environ.get("X"), os.getenv("X") and alike."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
            key: ast.expr = node.slice
        elif isinstance(node, ast.Call) and re.search(r"environ\.\w+$|getenv$", ast.unparse(node.func)) and node.args:
            key = node.args[0]
        else:
            continue
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value


@pytest.fixture(scope="module")
def read_by_skyrl() -> set[str]:
    return {name for tree in skyrl_sources() for name in names_read(tree)}


def test_what_skyrl_reads_is_in_the_catalogue_and_said_to_be_read(read_by_skyrl: set[str]) -> None:
    assert "SKYRL_RAY_PG_TIMEOUT_IN_S" in read_by_skyrl
    for name in read_by_skyrl - NOT_OF_TRAINING - SET_FOR_EACH_PROCESS - GPU_VISIBILITY:
        assert CATALOGUE[name].readers, name


def test_what_is_said_to_be_read_by_nobody_is_not_read_by_skyrl(read_by_skyrl: set[str]) -> None:
    dead = {name for name, variable in CATALOGUE.items() if not variable.readers}
    assert {"TENSORBOARD_LOGDIR", "NCCL_TIMEOUT"} <= dead
    assert dead & read_by_skyrl == set()


def source_of(module: str) -> str:
    specification = importlib.util.find_spec(module)
    assert specification is not None, f"{module} is not installed, and the locked environment has it"
    assert specification.origin is not None
    return Path(specification.origin).read_text(encoding="utf-8")


# Statements of the catalogue that the installed libraries can be asked about.
IN_SOURCES = {
    "transformers 5 knows no TRANSFORMERS_CACHE": ("transformers.utils.hub", "TRANSFORMERS_CACHE", False),
    "HF_HOME is the Hub's": ("huggingface_hub.constants", "HF_HOME", True),
    "hf_transfer is gone": ("huggingface_hub.constants", "'hf_transfer' is not used anymore", True),
    "its successor": ("huggingface_hub.constants", "HF_XET_HIGH_PERFORMANCE", True),
    "the hook is Ray's": ("ray._private.ray_constants", "RAY_RUNTIME_ENV_HOOK", True),
    "merged lines are Ray's": ("ray._private.ray_constants", "RAY_DEDUP_LOGS", True),
    "the trainer's levels": ("rltrain_trainer.driver.variables", '("SKYRL_LOG_LEVEL", "LOG_LEVEL")', True),
    "the trainer's patience for places": ("rltrain_trainer.driver.variables", '"SKYRL_RAY_PG_TIMEOUT_IN_S"', True),
    "for engines": ("rltrain_trainer.driver.variables", '"SKYRL_ENGINE_STARTUP_TIMEOUT"', True),
    "for weights": ("rltrain_trainer.driver.variables", '"SKYRL_WEIGHT_SYNC_TIMEOUT"', True),
    "for collectives": ("rltrain_trainer.driver.variables", '"SKYRL_WORKER_NCCL_TIMEOUT_IN_S"', True),
    "where datasets are kept": ("rltrain_trainer.data.sources", '"SKYRL_CACHE_DIR"', True),
    "the engine's threads": ("rltrain_trainer.engines.builtin.__main__", '"OMP_NUM_THREADS"', True),
}


@pytest.mark.parametrize(("module", "text", "there"), IN_SOURCES.values(), ids=IN_SOURCES.keys())
def test_installed_libraries_agree(module: str, text: str, there: bool) -> None:
    assert (text in source_of(module)) is there


def test_every_entry_is_fit_to_be_shown() -> None:
    for name, variable in CATALOGUE.items():
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
        assert variable.section in SECTIONS
        assert variable.meaning.endswith(".")
        assert variable.default
        # Who reads nothing is told why, and most often what to use instead.
        assert (variable.readers and not variable.overruled) or variable.truth.endswith("."), name
        assert not variable.secret or variable.values.kind is Kind.TEXT
        if variable.instead in CATALOGUE:
            assert CATALOGUE[variable.instead].readers, f"{name} points to a variable that nobody reads either"


EXAMPLES_OF_VALUES = {
    "CUDA_VISIBLE_DEVICES": (["0,1", "0", "4,5,6,7", "GPU-8932f937-d72c"], ["0, 1", "all GPUs"]),
    "NCCL_DEBUG": (["WARN", "info", "TRACE"], ["DEBUG", "", "2"]),
    "NCCL_DEBUG_SUBSYS": (["ALL", "INIT,NET", "^COLL"], ["INIT, NET"]),
    "NCCL_SOCKET_IFNAME": (["eth0", "eth,ib", "^docker", "=eth0", "^=docker0"], ["", "eth0 eth1"]),
    "NCCL_NET_GDR_LEVEL": (["3", "PHB", "SYS"], ["phb", "9", "full"]),
    "NCCL_CUMEM_ENABLE": (["0", "1", "-2"], ["false"]),
    "PYTORCH_CUDA_ALLOC_CONF": (
        [
            "expandable_segments:True",
            "expandable_segments:True,max_split_size_mb:256",
            "roundup_power2_divisions:[256:1,512:2]",
        ],
        ["expandable_segments=True", "max_split_size_mb: 256", ""],
    ),
    "PYTORCH_NO_CUDA_MEMORY_CACHING": (["1"], ["0"]),
    "TORCH_SHOW_CPP_STACKTRACES": (["0", "1"], ["true"]),
    "TORCH_DISTRIBUTED_DEBUG": (["OFF", "DETAIL"], ["ALL"]),
    "TOKENIZERS_PARALLELISM": (["true", "False", "0"], ["maybe"]),
    "OMP_NUM_THREADS": (["8"], ["0", "-1", "8 "]),
    "RAY_memory_monitor_refresh_ms": (["0", "1000"], ["-1", "1s"]),
    "RAY_RUNTIME_ENV_HOOK": (["package.module.hook"], ["", "hook"]),
    "SKYRL_RAY_PG_TIMEOUT_IN_S": (["300"], ["0", "5m", "300.5"]),
    "SKYRL_PYTHONPATH_EXPORT": (["1", "true", "YES"], ["on"]),
    "WANDB_MODE": (["offline", "disabled"], ["off", "Online"]),
    "VLLM_WORKER_MULTIPROC_METHOD": (["spawn", "fork"], ["forkserver"]),
    "HF_HOME": (["/scratch/huggingface", "~/hf", "$(CACHE)/hf"], ["huggingface", ""]),
    "LOG_LEVEL": (["DEBUG"], ["debug", "TRACE"]),
    "CUDA_DEVICE_MAX_CONNECTIONS": (["1", "8", "32"], ["0", "33"]),
}


@pytest.mark.parametrize("name", EXAMPLES_OF_VALUES)
def test_values(name: str) -> None:
    good, bad = EXAMPLES_OF_VALUES[name]
    values = CATALOGUE[name].values
    assert [value for value in good if not values.allows(value)] == []
    assert [value for value in bad if values.allows(value)] == []


FINDINGS = {
    "a value that the reader does not know": (
        ("NCCL_DEBUG", "LOUD"),
        "NCCL_DEBUG must be one of VERSION, WARN, INFO, TRACE; got LOUD",
    ),
    "nobody reads it, and something else does": (
        ("TORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),
        "TORCH_CUDA_ALLOC_CONF is read by nobody. PyTorch has never read this spelling. Use PYTORCH_CUDA_ALLOC_CONF.",
    ),
    "it is read, and overruled": (
        ("WANDB_PROJECT", "mine"),
        "WANDB_PROJECT has no effect. trainer.project_name is always passed to wandb and wins. "
        "Use trainer.project_name.",
    ),
    "another case": (
        ("RAY_MEMORY_MONITOR_REFRESH_MS", "0"),
        "RAY_MEMORY_MONITOR_REFRESH_MS is not RAY_memory_monitor_refresh_ms: names of variables are case-sensitive; "
        "rename it",
    ),
    "a slip": (("NCLL_DEBUG", "INFO"), "NCLL_DEBUG is not known; did you mean NCCL_DEBUG?"),
    "no variable of SkyRL's": (
        ("SKYRL_FAST_MODE", "1"),
        "SKYRL_FAST_MODE is read by no release of SkyRL; `kubectl rltrain env --explain` lists them",
    ),
    "a secret of the wrong form": (("HF_TOKEN", "two words"), "HF_TOKEN must be a token of the Hub; got <secret>"),
    "an empty value": (("OMP_NUM_THREADS", ""), "OMP_NUM_THREADS must be a whole number, at least 1; got nothing"),
}


@pytest.mark.parametrize(("variable", "message"), FINDINGS.values(), ids=FINDINGS.keys())
def test_warnings(variable: tuple[str, str], message: str) -> None:
    (finding,) = check_variable(*variable)
    assert str(finding) == message
    assert finding.level == "warning"


NOTHING_TO_SAY = {
    "a good value": ("NCCL_DEBUG", "INFO"),
    "somebody's own variable": ("REWARD_SERVICE_URL", "http://rewards"),
    "a variable of NCCL's that is close to another": ("NCCL_SHM_DISABLE", "1"),
    "vLLM has many more": ("VLLM_RPC_TIMEOUT", "10000"),
}


@pytest.mark.parametrize(("name", "value"), NOTHING_TO_SAY.values(), ids=NOTHING_TO_SAY.keys())
def test_no_findings(name: str, value: str) -> None:
    assert check_variable(name, value) == []


REFUSED = ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_JOB_ID", "RLTRAIN_X"]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_names_are_errors_with_a_remedy(name: str) -> None:
    (finding,) = check_variable(name, "x")
    assert finding.level == "error"
    assert "; remove it" in finding.message or "changed; remove it" in finding.message


@pytest.mark.parametrize(
    "name", ["RAY_DEDUP_LOGS", "RAY_memory_monitor_refresh_ms", "CUDA_LAUNCH_BLOCKING", "HF_TOKEN"]
)
def test_settings_of_ray_and_cuda_are_not_refused(name: str) -> None:
    assert refused_in_pods(name) is None


def test_entries_are_not_near_misses_of_each_other() -> None:
    assert [name for name in CATALOGUE if near_miss(name) is not None] == []


def test_lookup() -> None:
    assert find("NCCL_DEBUG") is CATALOGUE["NCCL_DEBUG"]
    assert find("nccl_debug") is None
    assert near_miss("HF_TOKNE") is CATALOGUE["HF_TOKEN"]
    assert near_miss("ENTIRELY_DIFFERENT") is None
    assert Reader.NCCL in CATALOGUE["NCCL_DEBUG"].readers
