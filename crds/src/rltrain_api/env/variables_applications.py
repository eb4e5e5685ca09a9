"""Catalogue entries of what people train with: engines, SkyRL, model hubs, trackers, Modal.

Sections 4 to 7, 13 and 15 to 18 of the reference. What is said of a reader was looked up in its source: SkyRL 0.1.0
and its later releases, SGLang 0.5, vLLM 0.26, huggingface_hub 2.4, transformers 5, wandb 0.31, mlflow 3, modal 1.
Data only.
"""

from __future__ import annotations

from rltrain_api.env.variable import (
    ADDRESS,
    BOOLEAN,
    COUNT,
    FLAG,
    PATH,
    SECONDS,
    TEXT,
    Kind,
    Reader,
    Values,
    Variable,
    at_least,
    choice,
)

SGLANG = (
    Variable(
        "SGLANG_LOG_LEVEL",
        4,
        "Meant as the verbosity of SGLang's log.",
        choice("debug", "info", "warning", "error", any_case=True),
        "no effect",
        truth="SGLang takes its level from the argument --log-level.",
        instead="generator.inference_engine.engine_init_kwargs.log_level",
    ),
    Variable(
        "SGLANG_DISABLE_FLASHINFER",
        4,
        "Meant to keep SGLang off FlashInfer's kernels.",
        FLAG,
        "no effect",
        truth="SGLang chooses its kernels by the arguments --attention-backend and --sampling-backend.",
        instead="generator.inference_engine.engine_init_kwargs.attention_backend",
    ),
    Variable(
        "SGLANG_ENABLE_TORCH_COMPILE",
        4,
        "Tells SGLang's processes that torch.compile is on.",
        BOOLEAN,
        "set by SGLang from its argument --enable-torch-compile",
        (Reader.SGLANG,),
        "SGLang overwrites it at its start, so setting it enables nothing.",
        "generator.inference_engine.engine_init_kwargs.enable_torch_compile",
        overruled=True,
    ),
    Variable(
        "SGLANG_TORCH_COMPILE_MAX_BS",
        4,
        "Meant as the largest batch that SGLang compiles for.",
        COUNT,
        "no effect",
        truth="SGLang takes it from the argument --torch-compile-max-bs.",
        instead="generator.inference_engine.engine_init_kwargs.torch_compile_max_bs",
    ),
)

SKYRL = (
    Variable(
        "SKYRL_LOG_LEVEL",
        5,
        "Verbosity of the trainer's own log; goes before LOG_LEVEL.",
        choice("DEBUG", "INFO", "WARNING", "ERROR", any_case=True),
        "LOG_LEVEL",
        (Reader.RLTRAIN,),
        "No release of SkyRL reads it; with runtime.trainer skyrl, LOG_LEVEL does it.",
    ),
    Variable(
        "SKYRL_CACHE_DIR",
        5,
        "Directory in which datasets are kept that data.train_data and val_data name by their names on the Hub.",
        PATH,
        "~/.cache/skyrl",
        (Reader.RLTRAIN,),
        "No release of SkyRL reads it. Models are kept below HF_HOME.",
    ),
    Variable(
        "SKYRL_DISABLE_WANDB",
        5,
        "Makes console of a trainer.logger that nobody set, and that would be wandb.",
        FLAG,
        "0",
        (Reader.RLTRAIN,),
        "With runtime.trainer builtin, and where the job sets it in the open; SkyRL does not read it.",
    ),
    Variable(
        "SKYRL_RAY_PG_TIMEOUT_IN_S",
        13,
        "How long SkyRL waits for Ray to place its workers.",
        SECONDS,
        "180",
        (Reader.SKYRL, Reader.RLTRAIN),
        "The driver is submitted only once all pods are ready, so the default does.",
    ),
    Variable(
        "SKYRL_WEIGHT_SYNC_TIMEOUT",
        13,
        "How long it may take until the engines have the weights of a step.",
        SECONDS,
        "1800",
        (Reader.RLTRAIN,),
        "No release of SkyRL reads it; its transfers have the timeout of the process group, "
        "SKYRL_WORKER_NCCL_TIMEOUT_IN_S.",
    ),
    Variable(
        "SKYRL_ENGINE_STARTUP_TIMEOUT",
        13,
        "How long an engine may take to start.",
        SECONDS,
        "600",
        (Reader.RLTRAIN,),
        "No release of SkyRL reads it; SKYRL_WAIT_UNTIL_INFERENCE_SERVER_HEALTHY_TIMEOUT_S is read by both.",
    ),
    Variable(
        "SKYRL_ASYNC_MAX_STALENESS",
        18,
        "The value of trainer.fully_async.max_staleness_steps where nobody has set that.",
        at_least(0),
        "4",
        (Reader.RLTRAIN,),
        "With runtime.trainer builtin, and where the job sets it in the open; SkyRL does not read it.",
    ),
    Variable(
        "SKYRL_ASYNC_GENERATION_WORKERS",
        18,
        "The value of trainer.fully_async.num_parallel_generation_workers where nobody has set that.",
        COUNT,
        "768",
        (Reader.RLTRAIN,),
        "With runtime.trainer builtin, and where the job sets it in the open; SkyRL does not read it.",
    ),
)

HUGGING_FACE = (
    Variable(
        "HF_TOKEN",
        6,
        "Token for models and datasets that are not open to everybody.",
        Values(Kind.TEXT, "a token of the Hub", r"\S+"),
        "public models only",
        (Reader.HUB,),
        "SkyRL does not pass it on to its workers, so every pod needs it: name its Secret in spec.runtime.envFrom.",
        secret=True,
    ),
    Variable(
        "HF_HOME",
        6,
        "Directory of everything that comes from the Hub.",
        PATH,
        "~/.cache/huggingface, lost with the pod",
        (Reader.HUB, Reader.TRANSFORMERS),
        "Point it at a volume in spec.storage.data, or every pod downloads the model anew.",
    ),
    Variable(
        "HF_HUB_ENABLE_HF_TRANSFER",
        6,
        "Faster downloads by hf_transfer, until huggingface_hub 1.",
        FLAG,
        "0",
        (Reader.HUB,),
        "hf_transfer is gone: 1 does nothing but a warning, and not even that beside HF_XET_HIGH_PERFORMANCE.",
        "HF_XET_HIGH_PERFORMANCE",
        overruled=True,
    ),
    Variable(
        "TRANSFORMERS_CACHE",
        6,
        "Directory of the models of transformers, until transformers 4.",
        PATH,
        "no effect",
        truth="transformers 5 has removed it.",
        instead="HF_HOME",
    ),
)

WEIGHTS_AND_BIASES = (
    Variable(
        "WANDB_API_KEY",
        7,
        "Key of the account that runs are logged to.",
        Values(Kind.TEXT, "an API key", r"\S+"),
        "no login",
        (Reader.WANDB, Reader.SKYRL),
        "SkyRL refuses trainer.logger wandb without it. Name its Secret in spec.runtime.envFrom.",
        secret=True,
    ),
    Variable(
        "WANDB_PROJECT",
        7,
        "Project that runs are filed under where a program names none.",
        TEXT,
        "uncategorized",
        (Reader.WANDB,),
        "trainer.project_name is always passed to wandb and wins.",
        "trainer.project_name",
        overruled=True,
    ),
    Variable(
        "WANDB_ENTITY",
        7,
        "User or team that owns the runs.",
        TEXT,
        "the account's default",
        (Reader.WANDB,),
    ),
    Variable(
        "WANDB_MODE",
        7,
        "Whether runs are sent at once, kept as files, or not recorded.",
        choice("online", "offline", "disabled", "shared", "dryrun", "run"),
        "online",
        (Reader.WANDB,),
        "offline writes below the working directory of the head's pod: without a volume there the run is lost.",
    ),
)

VLLM = (
    Variable(
        "VLLM_ATTENTION_BACKEND",
        15,
        "Which attention kernels vLLM uses, until vLLM 0.13.",
        choice("FLASH_ATTN", "XFORMERS", "FLASHINFER", "TRITON_ATTN", "FLASHMLA", "TORCH_SDPA", "FLEX_ATTENTION"),
        "no effect",
        truth="Removed: vLLM 0.26 does not read it and does not say so. XFORMERS went with it.",
        instead="generator.inference_engine.engine_init_kwargs.attention_backend",
    ),
    Variable(
        "VLLM_USE_FLASHINFER_SAMPLER",
        15,
        "Whether vLLM samples with FlashInfer's kernel where it can.",
        FLAG,
        "1; in older releases only where asked for",
        (Reader.VLLM,),
    ),
    Variable(
        "VLLM_WORKER_MULTIPROC_METHOD",
        15,
        "How vLLM starts its worker processes.",
        choice("spawn", "fork"),
        "fork, or spawn once CUDA is initialised",
        (Reader.VLLM,),
        "forkserver is refused at start.",
    ),
)

LOGGERS = (
    Variable(
        "MLFLOW_TRACKING_URI",
        16,
        "Where mlflow keeps its runs.",
        ADDRESS,
        "./mlruns, lost with the pod",
        (Reader.MLFLOW, Reader.SKYRL),
        "For trainer.logger mlflow. localhost is the pod itself. A password inside it makes it a secret.",
    ),
    Variable(
        "MLFLOW_EXPERIMENT_NAME",
        16,
        "Experiment that runs are filed under where a program names none.",
        TEXT,
        "Default",
        (Reader.MLFLOW,),
        "SkyRL always files runs under trainer.project_name.",
        "trainer.project_name",
        overruled=True,
    ),
    Variable(
        "SWANLAB_API_KEY",
        16,
        "Key of the SwanLab account that runs are logged to.",
        Values(Kind.TEXT, "an API key", r"\S+"),
        "no login",
        (Reader.SWANLAB, Reader.SKYRL),
        "SkyRL does not pass it on to its workers, so the pods need it.",
        secret=True,
    ),
    Variable(
        "TENSORBOARD_LOGDIR",
        16,
        "Meant as the directory of TensorBoard's event files.",
        PATH,
        "no effect",
        truth="Neither SkyRL, PyTorch nor TensorBoard reads it.",
        instead="TENSORBOARD_DIR",
    ),
)

MODAL = (
    Variable(
        "MODAL_TOKEN_ID",
        17,
        "First half of Modal's credentials.",
        Values(Kind.TEXT, "a token's id", r"\S+"),
        "that of ~/.modal.toml",
        (Reader.MODAL, Reader.SKYRL),
        "Not needed in pods, unless an environment starts Modal sandboxes.",
        secret=True,
    ),
    Variable(
        "MODAL_TOKEN_SECRET",
        17,
        "Second half of Modal's credentials.",
        Values(Kind.TEXT, "a token's secret", r"\S+"),
        "that of ~/.modal.toml",
        (Reader.MODAL, Reader.SKYRL),
        "Not needed in pods, unless an environment starts Modal sandboxes.",
        secret=True,
    ),
    Variable(
        "MODAL_ENVIRONMENT",
        17,
        "Modal's environment (a namespace in the workspace) to work in.",
        Values(Kind.TEXT, "the name of an environment of the workspace", r"[A-Za-z0-9._-]+"),
        "the workspace's default",
        (Reader.MODAL,),
        "The names are the workspace's own; main, dev and staging are examples.",
    ),
)

APPLICATIONS = (*SGLANG, *SKYRL, *HUGGING_FACE, *WEIGHTS_AND_BIASES, *VLLM, *LOGGERS, *MODAL)
