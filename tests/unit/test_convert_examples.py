"""Launch scripts as people have them, each with the whole job that comes out and everything that is said about it."""

from __future__ import annotations

from typing import Any

import pytest

from rltrain_api.convert import Options, convert

CHECKPOINTS = (
    "check: storage.checkpoints is a new volume of 200Gi at /checkpoints; choose the size, or set claimName to one "
    "that you have"
)
POOLS = "note: spec.pools is not set: pods ask for 1 CPU and 4Gi each; `kubectl rltrain plan` says what the models need"
UPSTREAM = "check: runtime.trainer is skyrl, because the builtin trainer does not do what is asked for in"
ARGUMENTS = 'the script\'s own arguments ("$@") are empty here; put any into spec.overrides'


def storage(*mounts: tuple[str, str], checkpoints: str = "/checkpoints") -> dict[str, Any]:
    found: dict[str, Any] = {"checkpoints": {"mountPath": checkpoints, "claimTemplate": {"storage": "200Gi"}}}
    if mounts:
        found["data"] = [
            {"name": name, "mountPath": mount, "claimTemplate": {"storage": "50Gi"}} for name, mount in mounts
        ]
    return found


def volume(name: str, mount: str, *files: str) -> str:
    return (
        f"check: storage.data {name!r} is a new, empty volume of 50Gi at {mount}: let an initializer write "
        f"{', '.join(files)}, or set claimName to a volume that holds what is needed"
    )


def secrets(name: str, *variables: str) -> str:
    literals = " ".join(f'--from-literal={variable}="${variable}"' for variable in variables)
    return f"secrets come from the Secret {name}: kubectl create secret generic {name} {literals}"


GSM8K = r"""set -x

# GRPO on GSM8K, four GPUs that train and generate.
# NUM_GPUS=8 bash run_gsm8k.sh trainer.epochs=1

: "${DATA_DIR:="$HOME/data/gsm8k"}"
: "${NUM_GPUS:=4}"
: "${LOGGER:=wandb}" # or "console"

uv run --isolated --extra fsdp -m skyrl.train.entrypoints.main_base \
  data.train_data="['$DATA_DIR/train.parquet']" \
  data.val_data="['$DATA_DIR/validation.parquet']" \
  trainer.algorithm.advantage_estimator="grpo" \
  trainer.policy.model.path="Qwen/Qwen2.5-1.5B-Instruct" \
  trainer.placement.colocate_all=true \
  trainer.strategy=fsdp2 \
  trainer.placement.policy_num_gpus_per_node=$NUM_GPUS \
  trainer.placement.ref_num_gpus_per_node=$NUM_GPUS \
  generator.inference_engine.num_engines=$NUM_GPUS \
  trainer.epochs=20 \
  trainer.micro_forward_batch_size_per_gpu=64 \
  trainer.micro_train_batch_size_per_gpu=64 \
  trainer.policy.optimizer_config.lr=1.0e-6 \
  trainer.logger="$LOGGER" \
  trainer.run_name="gsm8k_test" \
  trainer.resume_mode=null \
  trainer.ckpt_path="$HOME/ckpts/gsm8k" \
  $@
"""

DAPO = r"""set -x
MODEL_NAME="Qwen/Qwen3-1.7B-Base"
DATA_DIR="$HOME/data/dapo"
TRAIN_FILE="$DATA_DIR/train.parquet"
TEST_FILE="$DATA_DIR/aime.parquet"
NUM_GPUS=8
LOSS_REDUCTION="token_mean"
OVERLONG_BUFFER_LEN=$((1024 * 4))
MAX_RESPONSE_LENGTH=$((1024 * 8))
CLIP_RATIO_HIGH=0.28   # clip higher
USE_KL_LOSS=false

uv run --isolated --extra vllm -m examples.train.algorithms.dapo.main_dapo \
  data.train_data="['$TRAIN_FILE']" \
  data.val_data="['$TEST_FILE']" \
  trainer.algorithm.policy_loss_type="dual_clip" \
  trainer.algorithm.overlong_buffer_len=$OVERLONG_BUFFER_LEN \
  trainer.algorithm.loss_reduction=$LOSS_REDUCTION \
  trainer.algorithm.eps_clip_high=$CLIP_RATIO_HIGH \
  trainer.algorithm.dynamic_sampling.type=filter \
  trainer.algorithm.use_kl_loss=$USE_KL_LOSS \
  generator.apply_overlong_filtering=true \
  generator.sampling_params.max_generate_length=$MAX_RESPONSE_LENGTH \
  generator.eval_sampling_params.max_generate_length=$MAX_RESPONSE_LENGTH \
  trainer.policy.model.path="$MODEL_NAME" \
  trainer.placement.policy_num_gpus_per_node=$NUM_GPUS \
  trainer.placement.ref_num_gpus_per_node=$NUM_GPUS \
  generator.inference_engine.num_engines=$NUM_GPUS \
  environment.env_class=aime \
  trainer.run_name="dapo_${LOSS_REDUCTION}_$(date +%m%d)" \
  trainer.ckpt_path="$HOME/ckpts/dapo_${NUM_GPUS}"
"""

LORA = r"""#!/usr/bin/env bash
set -euo pipefail
NUM_GPUS="${NUM_GPUS:-2}"
: "${WANDB_API_KEY:?export it}"
ARGS=(
  trainer.policy.model.path=Qwen/Qwen2.5-0.5B-Instruct   # small
  trainer.policy.model.lora.rank=32
  trainer.policy.model.lora.alpha=32
)
if [[ "${DEBUG:-0}" == "1" ]]; then
  ARGS+=(trainer.epochs=1)
fi
export NCCL_DEBUG=INFO CUDA_VISIBLE_DEVICES=0,1
python3 -m skyrl.train.entrypoints.main_base "${ARGS[@]}" \
  trainer.placement.policy_num_gpus_per_node="$NUM_GPUS" \
  trainer.placement.ref_num_gpus_per_node="$NUM_GPUS" \
  generator.inference_engine.num_engines="$NUM_GPUS" \
  data.train_data='["/mnt/nfs/gsm8k/train.parquet"]' data.val_data='["/mnt/nfs/gsm8k/validation.parquet"]' \
  trainer.ckpt_path=/mnt/nfs/ckpts/lora trainer.run_name=lora "$@"
"""

FULLY_ASYNC = r"""export VLLM_USE_V1=1
MINI_BATCH_SIZE=64
python -m examples.train.fully_async.main_fully_async \
  trainer.fully_async.max_staleness_steps=4 \
  trainer.fully_async.num_parallel_generation_workers=$(( MINI_BATCH_SIZE * (4 + 1) )) \
  trainer.placement.colocate_all=false \
  trainer.train_batch_size=${MINI_BATCH_SIZE} \
  trainer.policy_mini_batch_size=${MINI_BATCH_SIZE} \
  trainer.algorithm.use_kl_loss=false \
  trainer.logger=console \
  trainer.run_name=async
"""

SLURM = r"""#!/bin/bash
#SBATCH --job-name=skyrl-train
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00

# Set environment
export CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7
export NCCL_DEBUG=WARN
export HF_TOKEN=${HF_TOKEN}
export WANDB_API_KEY=${WANDB_API_KEY}

unset RAY_RUNTIME_ENV_HOOK
source /path/to/skyrl/.venv/bin/activate

python -m skyrl_train.entrypoints.main_base \
  --config-path=/path/to/config \
  --config-name=train
"""

QUICKSTART = r"""unset RAY_RUNTIME_ENV_HOOK

# Run GRPO training with SGLang backend
python -m skyrl_train.entrypoints.main_base \
  +experiment=grpo_qwen2.5-0.5b_math500 \
  generator.backend=sglang \
  +generator.engine_init_kwargs.attention_backend=flashinfer
"""

OLDER = (
    "check 4: skyrl_train.entrypoints.main_base is older than SkyRL 0.1, whose defaults are used here; where your "
    "checkout's YAML files have others, set them"
)
DEFAULT_DATA = {"train_data": ["/data/gsm8k/train.parquet"], "val_data": ["/data/gsm8k/validation.parquet"]}
DEFAULT_PATHS = [
    "note: trainer.ckpt_path is /checkpoints, SkyRL's default being in a home directory",
    "note: data.train_data is /data/gsm8k/train.parquet, SkyRL's default being in a home directory",
    "note: data.val_data is /data/gsm8k/validation.parquet, SkyRL's default being in a home directory",
    CHECKPOINTS,
    volume("data", "/data", *DEFAULT_DATA["train_data"], *DEFAULT_DATA["val_data"]),
]

# script -> (spec, notes, what is wrong with the job)
CASES: dict[str, tuple[str, dict[str, Any], list[str], list[str]]] = {
    "gsm8k-test": (
        GSM8K,
        {
            "config": {
                "data": DEFAULT_DATA,
                "trainer": {
                    "placement": {"colocate_all": True, "policy_num_gpus_per_node": 4, "ref_num_gpus_per_node": 4},
                    "strategy": "fsdp2",
                    "policy": {
                        "model": {"path": "Qwen/Qwen2.5-1.5B-Instruct"},
                        "optimizer_config": {"lr": 1e-6},
                    },
                    "algorithm": {"advantage_estimator": "grpo"},
                    "resume_mode": None,
                    "ckpt_path": "/checkpoints/gsm8k",
                    "epochs": 20,
                    "micro_train_batch_size_per_gpu": 64,
                    "micro_forward_batch_size_per_gpu": 64,
                    "run_name": "gsm8k_test",
                    "logger": "wandb",
                },
                "generator": {"inference_engine": {"num_engines": 4}},
            },
            "runtime": {
                "trainer": "skyrl",
                "image": "x/y:1",
                "envFrom": [{"secretRef": {"name": "gsm8k-test-secrets"}}],
            },
            "storage": storage(("data", "/data")),
        },
        [
            "note 1: left out, having no effect on the run: `set`",
            "check 10: the image must hold the extra 'fsdp'",
            f"note 10: {ARGUMENTS}",
            "note 11: data.train_data is /data/gsm8k/train.parquet instead of ~/data/gsm8k/train.parquet",
            "note 12: data.val_data is /data/gsm8k/validation.parquet instead of ~/data/gsm8k/validation.parquet",
            f"check 24: {secrets('gsm8k-test-secrets', 'WANDB_API_KEY')}",
            "note 25: metadata.name is gsm8k-test, made of 'gsm8k_test'",
            "note 27: trainer.ckpt_path is /checkpoints/gsm8k instead of ~/ckpts/gsm8k",
            CHECKPOINTS,
            volume("data", "/data", "/data/gsm8k/train.parquet", "/data/gsm8k/validation.parquet"),
            UPSTREAM,
            POOLS,
        ],
        [],
    ),
    "dapo": (
        DAPO,
        {
            "config": {
                "data": {"train_data": ["/data/dapo/train.parquet"], "val_data": ["/data/dapo/aime.parquet"]},
                "trainer": {
                    "placement": {"policy_num_gpus_per_node": 8, "ref_num_gpus_per_node": 8},
                    "policy": {"model": {"path": "Qwen/Qwen3-1.7B-Base"}},
                    "algorithm": {
                        "use_kl_loss": False,
                        "policy_loss_type": "dual_clip",
                        "loss_reduction": "token_mean",
                        "eps_clip_high": 0.28,
                        "dynamic_sampling": {"type": "filter"},
                    },
                    "ckpt_path": "/checkpoints/dapo_8",
                },
                "generator": {
                    "inference_engine": {"num_engines": 8},
                    "sampling_params": {"max_generate_length": 8192},
                    "eval_sampling_params": {"max_generate_length": 8192},
                    "apply_overlong_filtering": True,
                },
                "environment": {"env_class": "aime"},
            },
            "runtime": {
                "trainer": "skyrl",
                "image": "x/y:1",
                "envFrom": [{"secretRef": {"name": "dapo-secrets"}}],
            },
            "storage": storage(("data", "/data")),
        },
        [
            "note 1: left out, having no effect on the run: `set`",
            "check 13: the image must hold the extra 'vllm'",
            "missing 13: examples.train.algorithms.dapo.main_dapo: DAPO's own trainer is not carried over: the soft "
            "punishment of overlong responses (overlong_buffer_len, overlong_buffer_penalty_factor) is not applied; "
            "everything else of DAPO is configuration",
            "note 14: data.train_data is /data/dapo/train.parquet instead of ~/data/dapo/train.parquet",
            "note 15: data.val_data is /data/dapo/aime.parquet instead of ~/data/dapo/aime.parquet",
            "missing 17: trainer.algorithm.overlong_buffer_len is left out: the soft punishment of overlong responses "
            "is code of a SkyRL example",
            "missing 30: trainer.run_name is left out: $(date +%m%d) is known to the shell only",
            "note 31: trainer.ckpt_path is /checkpoints/dapo_8 instead of ~/ckpts/dapo_8",
            CHECKPOINTS,
            volume("data", "/data", "/data/dapo/train.parquet", "/data/dapo/aime.parquet"),
            UPSTREAM,
            POOLS,
            f"check: {secrets('dapo-secrets', 'WANDB_API_KEY')}",
        ],
        [],
    ),
    "lora": (
        LORA,
        {
            "config": {
                "data": {
                    "train_data": ["/mnt/nfs/gsm8k/train.parquet"],
                    "val_data": ["/mnt/nfs/gsm8k/validation.parquet"],
                },
                "trainer": {
                    "placement": {"policy_num_gpus_per_node": 2, "ref_num_gpus_per_node": 2},
                    "policy": {"model": {"path": "Qwen/Qwen2.5-0.5B-Instruct", "lora": {"rank": 32, "alpha": 32}}},
                    "ckpt_path": "/mnt/nfs/ckpts/lora",
                    "run_name": "lora",
                },
                "generator": {"inference_engine": {"num_engines": 2}},
            },
            "runtime": {
                "trainer": "skyrl",
                "image": "x/y:1",
                "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
                "envFrom": [{"secretRef": {"name": "lora-secrets"}}],
            },
            "storage": storage(checkpoints="/mnt/nfs"),
        },
        [
            "note 2: left out, having no effect on the run: `set`",
            f"check 4: {secrets('lora-secrets', 'WANDB_API_KEY')}",
            "missing 10: the `if` of lines 10 to 12 is not evaluated, and nothing of what it does is carried over: "
            "adds to ARGS",
            "note 13: CUDA_VISIBLE_DEVICES is left out: it is set by the device plugin and Ray for each process, and "
            "another value would hide its GPUs or claim others",
            f"note 14: {ARGUMENTS}",
            "check: storage.checkpoints is a new volume of 200Gi at /mnt/nfs; choose the size, or set claimName to one "
            "that you have",
            "check: the volume of storage.checkpoints must also hold /mnt/nfs/gsm8k/train.parquet, "
            "/mnt/nfs/gsm8k/validation.parquet",
        ],
        [],
    ),
    "async": (
        FULLY_ASYNC,
        {
            "config": {
                "data": DEFAULT_DATA,
                "trainer": {
                    "placement": {"colocate_all": False},
                    "algorithm": {"use_kl_loss": False},
                    "fully_async": {"max_staleness_steps": 4, "num_parallel_generation_workers": 320},
                    "ckpt_path": "/checkpoints",
                    "train_batch_size": 64,
                    "policy_mini_batch_size": 64,
                    "run_name": "async",
                    "logger": "console",
                },
            },
            "runtime": {
                "trainer": "skyrl",
                "image": "x/y:1",
                "env": [{"name": "VLLM_USE_V1", "value": "1"}],
            },
            "storage": storage(("data", "/data")),
        },
        [
            "missing 3: examples.train.fully_async.main_fully_async: the fully asynchronous trainer is not carried "
            "over: the job generates and trains in turn, and nothing reads trainer.fully_async then",
            *DEFAULT_PATHS,
            UPSTREAM,
            POOLS,
        ],
        [],
    ),
    "skyrl-train": (
        SLURM,
        {
            "config": {"data": DEFAULT_DATA, "trainer": {"ckpt_path": "/checkpoints"}},
            "runtime": {
                "trainer": "skyrl",
                "image": "x/y:1",
                "env": [{"name": "NCCL_DEBUG", "value": "WARN"}],
                "envFrom": [{"secretRef": {"name": "skyrl-train-secrets"}}],
            },
            "storage": storage(("data", "/data")),
        },
        [
            "note 3: #SBATCH --nodes 1 is trainer.placement.policy_num_nodes 1",
            "check 4: #SBATCH --gpus-per-node 8 is left out: pods and GPUs follow from the configuration, where "
            "trainer.placement.policy_num_gpus_per_node is 1",
            "missing 5: #SBATCH --time 24:00:00 is not carried over: the job has no limit of time",
            "note 8: CUDA_VISIBLE_DEVICES is left out: it is set by the device plugin and Ray for each process, and "
            "another value would hide its GPUs or claim others",
            f"check 10: {secrets('skyrl-train-secrets', 'HF_TOKEN', 'WANDB_API_KEY')}",
            "note 13: unset RAY_RUNTIME_ENV_HOOK: pods get only the variables that the job gives them",
            "note 14: `source /path/to/skyrl/.venv/bin/activate` is left out: pods have the environment of their image",
            OLDER.replace("check 4", "check 16"),
            "missing 17: --config-path names a YAML file (/path/to/config) whose values are not in this input: convert "
            "that file, and put the overrides from here into its spec.overrides",
            "missing 18: --config-name names a YAML file (train) whose values are not in this input: convert that "
            "file, and put the overrides from here into its spec.overrides",
            *DEFAULT_PATHS,
            UPSTREAM,
            POOLS,
        ],
        [],
    ),
    "quickstart": (
        QUICKSTART,
        {
            "config": {
                "data": DEFAULT_DATA,
                "trainer": {"ckpt_path": "/checkpoints"},
                "generator": {
                    "inference_engine": {
                        "backend": "sglang",
                        "engine_init_kwargs": {"attention_backend": "flashinfer"},
                    }
                },
            },
            "runtime": {
                "trainer": "skyrl",
                "image": "x/y:1",
                "envFrom": [{"secretRef": {"name": "quickstart-secrets"}}],
            },
            "storage": storage(("data", "/data")),
        },
        [
            "note 1: unset RAY_RUNTIME_ENV_HOOK: pods get only the variables that the job gives them",
            OLDER,
            "missing 5: +experiment=grpo_qwen2.5-0.5b_math500: lets Hydra add a file of your checkout, "
            "config/experiment/grpo_qwen2.5-0.5b_math500.yaml, whose values are not in this input: convert that file, "
            "and put the overrides from here into its spec.overrides",
            "note 6: generator.backend is generator.inference_engine.backend since SkyRL 0.1",
            "note 7: +generator.engine_init_kwargs.attention_backend: '+' is Hydra's prefix for a new key; not needed "
            "here",
            "note 7: generator.engine_init_kwargs.attention_backend is generator.inference_engine.engine_init_kwargs."
            "attention_backend since SkyRL 0.1",
        ],
        ["spec.config.generator.inference_engine.backend"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_script_becomes_this_job_with_these_notes(name: str) -> None:
    script, spec, notes, errors = CASES[name]
    conversion = convert(script, options=Options(source=f"run_{name}.sh", image="x/y:1"))
    notes_found = [
        f"{note.level}{'' if note.line is None else f' {note.line}'}: {note.text}" for note in conversion.notes
    ]
    # Which fields need upstream's trainer is for its own tests.
    found = [UPSTREAM if text.startswith(UPSTREAM) else text for text in notes_found]
    assert conversion.document == {
        "apiVersion": "rltrain.io/v1alpha1",
        "kind": "RLTrainingJob",
        "metadata": {"name": name},
        "spec": spec,
    }
    assert found[: len(notes)] == notes
    assert [error.path for error in conversion.errors] == errors
